"""Several channels of one memory part: independent, each served by a controller of its own, in threads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import engine, part
from .part import Int64s, Part
from .policy import CAP, policy
from .replay import Replay, checked, latency_facts, rates, serve

if TYPE_CHECKING:
    import pandas as pd

MOST_CHANNELS = 4096
"""Far more than any memory has: a wrong column is found before the arrays of the channels are made."""


@dataclass(frozen=True)
class Channels:
    """One Replay a channel, and what they come to together: counts are summed, the time is that of the last channel to end."""

    replays: tuple[Replay, ...]
    rows: tuple[Int64s, ...]
    """[channel][request of the channel] its row in the table."""

    @property
    def part(self) -> Part:
        return self.replays[0].part

    @property
    def requests(self) -> int:
        return sum(one.requests for one in self.replays)

    @property
    def last_command_tick(self) -> int:
        """Of the last RD or WR of all channels."""
        return max(one.last_command_tick for one in self.replays)

    @property
    def end_tick(self) -> int:
        return max(one.end_tick for one in self.replays)

    @property
    def commands(self) -> dict[str, int]:
        total = {name: sum(one.commands.get(name, 0) for one in self.replays) for name in self.part.commands}
        return {name: count for name, count in total.items() if count}

    @property
    def latency_ticks(self) -> Int64s:
        """[request of the table] from arrival at its controller to the end of the data (writes: to their command)."""
        out = np.zeros(self.requests, np.int64)
        for one, rows in zip(self.replays, self.rows, strict=True):
            out[rows] = one.latency_ticks
        return out

    @property
    def peak_bytes_per_s(self) -> int:
        """Of all channels."""
        return sum(one.peak_bytes_per_s for one in self.replays)

    def commands_frame(self) -> pd.DataFrame:
        """`Replay.commands_frame` of each channel after the other, behind a column ch; `request` is a row of the table."""
        import pandas as pd

        frames = []
        for number, (one, rows) in enumerate(zip(self.replays, self.rows, strict=True)):
            frame = one.commands_frame()
            frame["request"] = np.append(rows, -1)[frame["request"]]
            frame.insert(0, "ch", number)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `gemvane dram replay --json` for several channels: totals, then one object a channel."""
        each = [one.to_dict() for one in self.replays]
        same = {key: each[0][key] for key in ("memory", "scheduler", "row_policy", "cap", "refresh")}
        summed = {key: sum(one[key] for one in each) for key in ("requests", "row_hits", "row_misses", "row_conflicts")}
        return {
            "schema": "gemvane.dram-channels/1", **same, **summed, "last_command_tick": self.last_command_tick, "end_tick": self.end_tick,
            **rates(self.part, self.requests, self.last_command_tick), "peak_bytes_per_s": self.peak_bytes_per_s,
            "commands": self.commands, "latency_ticks": latency_facts(self.latency_ticks), "channels": each,
        }


def replay_channels(requests: pd.DataFrame | Mapping[str, Any], memory: str | Path | Part, *, channels: int | None = None,
                    scheduler: str = "frfcfs-rowhit", row_policy: str = "open", cap: int = CAP, refresh: bool | str = "all-bank",
                    log_commands: int = 0) -> Channels:
    """`replay` for requests to several channels: the column ch says which (0 where the table has none), `channels` how many there are.

    Without `channels` there are as many as the largest ch asks for. `log_commands` counts for each channel. Raises ValueError as
    `replay` does, and for a ch that is not there.
    """
    told, loaded = policy(scheduler=scheduler, row_policy=row_policy, cap=cap, refresh=refresh), part.load(memory)
    if channels is not None and (isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= MOST_CHANNELS):
        raise ValueError(f"channels {channels!r} is no number of channels. Expected a whole number, 1 to {MOST_CHANNELS}.")
    columns = checked(requests, loaded, channels or MOST_CHANNELS)
    count = channels or (int(columns["ch"].max()) + 1 if columns["ch"].size else 1)
    order = np.argsort(columns["ch"], kind="stable")
    rows = np.split(order, np.searchsorted(columns["ch"][order], np.arange(1, count)))
    made = engine.channel(loaded, told)

    def one(mine: Int64s) -> Replay:
        return serve(loaded, told, {name: values[mine] for name, values in columns.items()}, made, log_commands)

    with ThreadPoolExecutor(min(count, os.cpu_count() or 1)) as pool:
        return Channels(tuple(pool.map(one, rows)), tuple(rows))
