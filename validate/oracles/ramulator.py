"""Ramulator 2.1: one DRAM channel, 20,000 requests a row (table like ramulator2_results_dev.csv)."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import Any

import pandas as pd

from gemvane.sim.dram import part
from gemvane.sim.dram.replay import replay

from . import streams
from .report import Compared, SkipError, Watch, need, number, walk, whole

PARTS = {"R_HBM2": "hbm2-2000-4gb", "R_HBM3": "hbm3-6400-4gb", "R_HBM4": "hbm4-8000-32gb", "R_DDR4": "ddr4-3200-8gb",
         "R_DDR5": "ddr5-4800-16gb", "R_GDDR6": "gddr6-14000-8gb", "R_LPDDR5": "lpddr5-6400-8gb"}
"""Configuration of the reference runs -> bundled part."""
SCHEDULERS = {"FRFCFS": "frfcfs", "FRFCFS-RowHit": "frfcfs-rowhit"}
REFRESH = {"on": True, "off": False}
ROW_COUNTS = ("row_hits", "row_misses", "row_conflicts")
LATENCY = "avg_read_latency_ticks"
COLUMNS = ("cfg", "scheduler", "refresh", "stream", "n", "last_rw_cmd_tick", *ROW_COUNTS, LATENCY, "cmds")
LATENCY_TOLERANCE = 1e-5
"""Relative: the tool prints six digits."""


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """Replay every row; exact where the last command's tick and the count of every command are equal."""
    need(table, COLUMNS)
    return walk("ramulator", table, _row, watch)


def _row(at: int, row: dict[str, Any]) -> Compared:
    cfg, name = _known(row, "cfg", PARTS), _known(row, "stream", streams.NAMES)
    scheduler, refresh = _known(row, "scheduler", SCHEDULERS), _known(row, "refresh", REFRESH)
    for column in ("fwd_reads", "coal_writes"):
        if str(row.get(column, 0)) not in ("0", "0.0", "nan"):
            raise SkipError(f"{column} is {row[column]}: forwarded reads and merged writes are not modelled")
    n, theirs = whole(row, "n"), whole(row, "last_rw_cmd_tick")
    commands = _commands(row["cmds"])
    asked = _stream(cfg, name, n)
    done = replay(asked, PARTS[cfg], scheduler=SCHEDULERS[scheduler], refresh=REFRESH[refresh])
    ours = done.commands
    reads = done.latency_ticks[asked["rw"] == 0]
    latency = float(reads.mean()) if reads.size else 0.0
    said = number(row, LATENCY) if reads.size else 0.0
    equal = {"last_rw_cmd_tick": done.last_command_tick == theirs, "cmds": ours == commands,
             **{column: getattr(done, column) == number(row, column) for column in ROW_COUNTS},
             LATENCY: math.isclose(latency, said, rel_tol=LATENCY_TOLERANCE, abs_tol=LATENCY_TOLERANCE)}
    detail = {"cfg": cfg, "scheduler": scheduler, "refresh": refresh, "stream": name, "n": n, "our_cmds": json.dumps(ours),
              **{f"our_{column}": getattr(done, column) for column in ROW_COUNTS}, f"our_{LATENCY}": round(latency, 4)}
    exact = equal["last_rw_cmd_tick"] and equal["cmds"]
    return Compared(at, f"{cfg} {scheduler}", theirs, done.last_command_tick, equal, exact, detail)


def _known(row: dict[str, Any], column: str, known: Any) -> str:
    if row[column] not in known:
        raise SkipError(f"{column} {row[column]} is not one of {', '.join(known)}")
    return str(row[column])


def _commands(text: Any) -> dict[str, int]:
    """Command counts without those that are 0."""
    try:
        return {str(name): int(count) for name, count in json.loads(text).items() if count}
    except (TypeError, ValueError, AttributeError):
        raise SkipError("cmds is not a JSON object of command counts") from None


@lru_cache(maxsize=64)
def _stream(cfg: str, name: str, n: int) -> dict[str, streams.Int64s]:
    loaded = part.load(PARTS[cfg])
    pcs, ranks, groups, banks = (int(count) for count in part.resolve(loaded).counts)
    if ranks > 1:
        raise SkipError(f"{PARTS[cfg]} has {ranks} ranks, and the streams are defined for one")
    return streams.stream(name, streams.Sizes(pcs, groups, banks, loaded.rows, loaded.columns), n)
