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

if TYPE_CHECKING:
    import pandas as pd

SCHEDULERS = ("frfcfs", "frfcfs-rowhit")
COLUMNS = ("rw", "pc", "bg", "ba", "ro", "co")
OPTIONAL = ("ra",)
"""`ra`: rank (stack ID), 0 where the table has none."""
LEVEL_NAMES = ("channel", "pseudochannel", "rank", "bank_group", "bank")


@dataclass(frozen=True)
class Replay:
    """One channel after its last request. Ticks are clocks, or half clocks where the part's commands need them.

    `blocked_ticks`: ticks in which nothing was issued, by the rule that held the earliest candidate; what no timing rule
    held (an empty queue, a clock edge, a refresh that waits for rows in use) is "other".
    """

    part: Part
    scheduler: str
    refresh: bool
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
        return float(self.part.tick_ps * self.last_command_tick / 10**12)

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Bytes of all requests over the time up to the last command."""
        return self.requests * self.part.request_bytes / self.seconds

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
        asked = {"ro": np.append(self.row, -1)[request], "co": np.append(self.column, -1)[request]}  # request -1: the controller's own
        return pd.DataFrame({"tick": tick, "command": names[command], **shown, **asked, "request": request})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `gemvane dram replay --json`."""
        quantiles = (np.percentile(self.latency_ticks, [50, 90, 99]) if self.requests else np.zeros(3)).tolist()
        return {
            "schema": "gemvane.dram/1", "memory": self.part.name, "scheduler": self.scheduler, "refresh": self.refresh,
            "requests": self.requests, "last_command_tick": self.last_command_tick, "end_tick": self.end_tick,
            "tick_ps": float(self.part.tick_ps), "seconds": self.seconds, "bandwidth_bytes_per_s": self.bandwidth_bytes_per_s,
            "peak_bytes_per_s": self.peak_bytes_per_s, "commands": self.commands, "row_hits": self.row_hits, "row_misses": self.row_misses,
            "row_conflicts": self.row_conflicts,
            "latency_ticks": {"mean": float(self.latency_ticks.mean()), **dict(zip(("p50", "p90", "p99"), quantiles, strict=True))},
            "blocked_ticks": self.blocked_ticks,
        }


def replay(requests: pd.DataFrame | Mapping[str, Any], memory: str | Path | Part, *, scheduler: str = "frfcfs-rowhit",
           refresh: bool = True, log_commands: int = 0) -> Replay:
    """Serve a request table (columns rw, pc, bg, ba, ro, co in arrival order, as fast as the controller accepts) on one channel.

    Open rows, queues of 32 reads and 32 writes, write drain between 80 % and 20 %, all-bank refresh. Raises ValueError
    naming row and column for a request outside the organisation, and for an unknown scheduler or part.
    """
    if scheduler not in SCHEDULERS:
        raise ValueError(f"scheduler {scheduler!r} is unknown. Expected one of {', '.join(SCHEDULERS)}.")
    loaded = memory if isinstance(memory, Part) else part.load(memory)
    resolved = loaded.resolved
    columns = checked(requests, loaded)
    counts = [int(c) for c in resolved.counts]
    bank = ((columns["pc"] * counts[1] + columns["ra"]) * counts[2] + columns["bg"]) * counts[3] + columns["ba"]
    p = engine.table(resolved, refresh=refresh, keep_hits=scheduler == "frfcfs-rowhit")
    rows = engine.request_columns(columns["rw"], bank, columns["ro"])
    done = engine.run(p, rows, log_commands)
    commands = len(loaded.commands)
    hits, misses, conflicts = done.tally[commands : commands + 3].tolist()
    return Replay(
        loaded, scheduler, refresh, bank.size, int(done.state[k.LAST_RW]), int(done.state[k.END]),
        {name: int(n) for name, n in zip(loaded.commands, done.tally, strict=False) if n}, hits, misses, conflicts,
        rows[:, k.LATENCY].copy(), _blocked(loaded, done.tally[commands + 3 :]), done.log,
        columns["ro"], columns["co"],
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


def checked(requests: pd.DataFrame | Mapping[str, Any], loaded: Part) -> dict[str, NDArray[np.int64]]:
    """The columns of a request table as int64. ValueError naming row and column where one does not fit the part."""
    counts = [int(c) for c in loaded.resolved.counts]
    limits = {"rw": 2, "pc": counts[0], "ra": counts[1], "bg": counts[2], "ba": counts[3], "ro": loaded.rows, "co": loaded.columns}
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
            raise ValueError(f"request table: row {row}: {column} is {values[row]}, but {loaded.name} has {column} 0 to {limit - 1}.")
        out[column] = values.astype(np.int64)
    return out


def time_s(loaded: Part, ticks: int) -> float:
    """Seconds of ticks, from the exact tick."""
    return float(Fraction(ticks) * loaded.tick_ps / 10**12)
