"""SCALE-Sim v2 and v3: one GEMM a row, stall-free (CALC) or with a fixed bandwidth (USER); table like scalesim_dev.csv."""

from __future__ import annotations

from typing import Any

import pandas as pd

from gemvane.sim.devices import scalesim, systolic

from .report import Compared, SkipError, Watch, need, number, walk, whole

SIZES = ("M", "N", "K", "array_rows", "array_cols")
SRAM = ("ifmap_sram_kb", "filter_sram_kb", "ofmap_sram_kb")
SRAM_COUNTS = ("sram_ifmap_reads", "sram_filter_reads", "sram_ofmap_writes")
TOLERANCE = {"overall_util": 1e-5, "mapping_efficiency": 1e-5, "compute_util": 2e-5}
"""Absolute, percent: the table has six decimals."""
COLUMNS = ("scalesim_version", *SIZES, "dataflow", *SRAM, "bw_mode", "bw_words_per_cycle", "total_cycles", "stall_cycles", *TOLERANCE,
           *SRAM_COUNTS, "dram_ifmap_reads", "dram_filter_reads", "dram_ofmap_writes")


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """Reproduce every row; exact where cycles, stalls, the three utilisations, SRAM and DRAM counts are equal."""
    need(table, COLUMNS)
    return walk("scalesim", table, _row, watch)


def _row(at: int, row: dict[str, Any]) -> Compared:
    version = str(row["scalesim_version"])[:2]
    if version not in ("v2", "v3"):
        raise SkipError(f"scalesim_version {row['scalesim_version']} is not v2 or v3")
    if row.get("status", "ok") != "ok":
        raise SkipError(f"status is {row['status']}: the run did not finish")
    if row["dataflow"] not in systolic.DATAFLOWS:
        raise SkipError(f"dataflow {row['dataflow']} is not one of {', '.join(systolic.DATAFLOWS)}")
    if row["bw_mode"] not in ("CALC", "USER"):
        raise SkipError(f"bw_mode {row['bw_mode']} is not CALC or USER")
    m, n, k, rows, cols = (whole(row, column) for column in SIZES)
    ifmap, weights, ofmap = (1024 * whole(row, column) for column in SRAM)
    words = whole(row, "bw_words_per_cycle") if row["bw_mode"] == "USER" else None
    flow = str(row["dataflow"])
    try:
        memory = scalesim.memory(m, n, k, rows=rows, cols=cols, dataflow=flow, ifmap_bytes=ifmap, filter_bytes=weights, ofmap_bytes=ofmap,
                                 words_per_cycle=words, version=int(version[1]))
    except ValueError as error:
        raise SkipError(str(error)) from None
    counts = scalesim.counts(m, n, k, rows=rows, cols=cols, dataflow=flow)
    ours = {**memory._asdict(), **{name: getattr(counts, name)[0].item() for name in (*SRAM_COUNTS, "mapping_efficiency", "compute_util")},
            "overall_util": scalesim.overall_util(m, n, k, rows=rows, cols=cols, total_cycles=memory.total_cycles)}
    equal = {name: abs(value - number(row, name)) <= TOLERANCE.get(name, 0) for name, value in ours.items()}
    detail = {"M": m, "N": n, "K": k, "array": f"{rows}x{cols}", "bandwidth": "" if words is None else words,
              **{f"our_{name}": value for name, value in ours.items()}}
    group, theirs = f"{version} {row['bw_mode']} {flow}", number(row, "total_cycles")
    return Compared(at, group, theirs, memory.total_cycles, equal, all(equal.values()), detail)
