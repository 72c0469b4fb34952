"""Replay of requests on one channel of a memory part: how long it takes, which commands it takes, and what held them up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import dram as k
from . import engine, part
from .part import Int64s, Part, Rule
from .policy import CAP, Policy, policy

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("rw", "pc", "bg", "ba", "ro", "co")
OPTIONAL = ("ra", "ch")
"""`ra`: rank (stack ID), `ch`: channel; 0 where the table has none."""
LEVEL_NAMES = ("channel", "pseudochannel", "rank", "bank_group", "bank")


@dataclass(frozen=True)
class Replay:
    """One channel after its last request. Ticks are clocks, or half clocks where the part's commands need them.

    `blocked_ticks`: ticks in which nothing was issued, by the rule that ended last before the next command; what no timing rule
    held (an empty queue, a clock edge, a refresh that waits for rows in use, the last data) is "other".
    """

    part: Part
    policy: Policy
    requests: int
    last_command_tick: int
    """Of the last RD or WR."""
    end_tick: int
    """When the last read has returned and the last write was issued."""
    commands: dict[str, int]
    row_hits: int
    row_misses: int
    row_conflicts: int
    latency_ticks: Int64s
    """[request] from arrival at the controller to the end of the data (writes: to their command)."""
    blocked_ticks: dict[str, int]
    log: Int64s
    """[row, (tick, command, bank, request)] of the first `log_commands` commands."""
    row: Int64s
    """[request] what it asked for, as `column`."""
    column: Int64s

    @property
    def seconds(self) -> float:
        """Time up to the last command."""
        return time_s(self.part, self.last_command_tick)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes of all requests over the time up to the last command; 0 without requests."""
        return self.requests * self.part.request_bytes / self.seconds if self.requests else 0.0

    @property
    def peak_bytes_per_s(self) -> int:
        return self.part.spec.organisation.bandwidth

    def commands_frame(self) -> pd.DataFrame:
        """The logged commands: tick, command, pc, ra, bg, ba, ro, co, request; -1 where a command addresses no such level.

        Row and column of a command are those of the request that it was issued for.
        """
        import pandas as pd

        resolved = self.part.resolved
        names = np.array(self.part.commands, object)
        tick, command, bank, request = self.log.T
        groups, banks = int(resolved.counts[2]), int(resolved.counts[3])
        address = {"pc": bank // (banks * groups * int(resolved.counts[1])), "ra": bank // (banks * groups) % int(resolved.counts[1]),
                   "bg": bank // banks % groups, "ba": bank % banks}
        scope = resolved.scope[command]
        shown = {name: np.where(scope >= level, values, -1) for level, (name, values) in enumerate(address.items(), start=1)}
        shown["bg"] = np.where(command == resolved.refsb, -1, shown["bg"])  # this bank of every group
        asked = {"ro": np.append(self.row, -1)[request], "co": np.append(self.column, -1)[request]}  # request -1: the controller's own
        return pd.DataFrame({"tick": tick, "command": names[command], **shown, **asked, "request": request})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `gemvane dram replay --json`."""
        told = self.policy
        return {
            "schema": "gemvane.dram/1", "memory": self.part.name, "scheduler": told.scheduler, "row_policy": told.row_policy,
            "cap": told.cap if told.row_policy == "closed" else None, "refresh": told.refresh,
            "requests": self.requests, "last_command_tick": self.last_command_tick, "end_tick": self.end_tick,
            **rates(self.part, self.requests, self.last_command_tick), "peak_bytes_per_s": self.peak_bytes_per_s, "commands": self.commands,
            "row_hits": self.row_hits, "row_misses": self.row_misses, "row_conflicts": self.row_conflicts,
            "latency_ticks": latency_facts(self.latency_ticks), "blocked_ticks": self.blocked_ticks,
        }


def replay(requests: pd.DataFrame | Mapping[str, Any], memory: str | Path | Part, *, scheduler: str = "frfcfs-rowhit",
           row_policy: str = "open", cap: int = CAP, refresh: bool | str = "all-bank", log_commands: int = 0) -> Replay:
    """Serve a request table (columns rw, pc, bg, ba, ro, co in arrival order, as fast as the controller accepts) on one channel.

    Queues of 32 reads and 32 writes, write drain between 80 % and 20 %. Rows stay open, or (`row_policy` closed) the access that is
    the last of `cap`, or that no queued request follows in the row, closes it. `refresh`: all-bank (True), per-bank, same-bank or
    none (False). Raises ValueError naming row and column for a request outside the organisation, and for a name that is unknown or
    that the part has no command for.
    """
    told = policy(scheduler=scheduler, row_policy=row_policy, cap=cap, refresh=refresh)
    loaded = part.load(memory)
    columns = checked(requests, loaded)
    return serve(loaded, told, columns, engine.channel(loaded, told), log_commands)


def serve(loaded: Part, told: Policy, columns: dict[str, Int64s], channel: engine.Channel, log_commands: int) -> Replay:
    """`replay` of columns that were checked, on a channel that was made."""
    counts = loaded.resolved.counts
    bank = ((columns["pc"] * counts[1] + columns["ra"]) * counts[2] + columns["bg"]) * counts[3] + columns["ba"]
    rows = engine.request_columns(columns["rw"], bank, columns["ro"])
    done = engine.run(channel, rows, log_commands)
    hits, misses, conflicts = done.rows.tolist()
    return Replay(
        loaded, told, bank.size, int(done.state[k.LAST_RW]), int(done.state[k.END]),
        {name: int(n) for name, n in zip(loaded.commands, done.commands, strict=True) if n}, hits, misses, conflicts,
        rows[:, k.LATENCY].copy(), _blocked(loaded, done.blocked), done.log, columns["ro"], columns["co"],
    )


def _blocked(loaded: Part, ticks: Int64s) -> dict[str, int]:
    """Ticks by rule, named "level: previous -> next", the most first."""
    names = [rule_name(loaded, rule) for rule in loaded.rules] + ["other"]
    out: dict[str, int] = {}
    for name, count in zip(names, ticks.tolist(), strict=True):
        if count:
            out[name] = out.get(name, 0) + count
    return dict(sorted(out.items(), key=lambda item: -item[1]))


def rule_name(loaded: Part, rule: Rule) -> str:
    """ "bank: ACT -> RD, 15 ticks", for people."""
    text = f"{LEVEL_NAMES[rule.level]}: {loaded.commands[rule.prev]} -> {loaded.commands[rule.next]}, {rule.ticks} ticks"
    return text + (f" after {rule.window}" if rule.window > 1 else "")


def checked(requests: pd.DataFrame | Mapping[str, Any], loaded: Part, channels: int = 1) -> dict[str, NDArray[np.int64]]:
    """The columns of a request table as int64. ValueError naming row and column where one does not fit the part."""
    counts = [int(c) for c in loaded.resolved.counts]
    limits = {"ch": channels, "rw": 2, "pc": counts[0], "ra": counts[1], "bg": counts[2], "ba": counts[3], "ro": loaded.rows,
              "co": loaded.columns}
    names = list(requests.columns) if hasattr(requests, "columns") else list(requests)
    missing = [c for c in COLUMNS if c not in names]
    if missing:
        raise ValueError(f"request table: column {missing[0]!r} is missing. It has {', '.join(map(str, names)) or 'no columns'}.")
    size = len(requests[COLUMNS[0]])
    out = {}
    for column, limit in limits.items():
        values = np.asarray(requests[column]) if column in names else np.zeros(size, np.int64)
        if values.shape != (size,):
            raise ValueError(f"request table: column {column!r} has {values.size} entries but 'rw' has {size}.")
        if values.dtype.kind not in "iu":
            raise ValueError(f"request table: column {column!r} is {values.dtype}. Expected whole numbers.")
        bad = np.flatnonzero((values < 0) | (values >= limit))
        if bad.size:
            row = int(bad[0])
            owner = "this replay" if column == "ch" else loaded.name
            raise ValueError(f"request table: row {row}: {column} is {values[row]}, but {owner} has {column} 0 to {limit - 1}.")
        out[column] = values.astype(np.int64)
    return out


def rates(loaded: Part, requests: int, last_command_tick: int) -> dict[str, float]:
    """Tick, time and bandwidth up to the last command, for a JSON object."""
    seconds = time_s(loaded, last_command_tick)
    return {"tick_ps": float(loaded.tick_ps), "seconds": seconds,
            "bandwidth_bytes_per_s": requests * loaded.request_bytes / seconds if requests else 0.0}


def latency_facts(latency_ticks: Int64s) -> dict[str, float]:
    """Mean and quantiles, 0 without requests."""
    ticks = latency_ticks if latency_ticks.size else np.zeros(1, np.int64)
    return {"mean": float(ticks.mean()), **dict(zip(("p50", "p90", "p99"), np.percentile(ticks, [50, 90, 99]).tolist(), strict=True))}


def time_s(loaded: Part, ticks: int) -> float:
    """Seconds of ticks, from the exact tick."""
    return float(Fraction(ticks) * loaded.tick_ps / 10**12)
