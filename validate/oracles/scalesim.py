"""SCALE-Sim v2 and v3: one GEMM a row, stall-free (CALC) or with a fixed bandwidth (USER); table like scalesim_dev.csv."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from gemvane.sim.devices import scalesim, tiling

from .report import Compared, SkipError, Watch, need, number, walk, whole

SIZES = ("M", "N", "K", "array_rows", "array_cols")
SRAM = ("ifmap_sram_kb", "filter_sram_kb", "ofmap_sram_kb")
SRAM_COUNTS = ("sram_ifmap_reads", "sram_filter_reads", "sram_ofmap_writes")
TOLERANCE = {"overall_util": 1e-5, "mapping_efficiency": 1e-5, "compute_util": 2e-5}
"""Absolute, percent: the table has six decimals."""
OPERANDS = ("ifmap", "filter", "ofmap")
BANDWIDTH_TOLERANCE = 1e-6
"""Words a cycle, six decimals again."""
COLUMNS = ("scalesim_version", *SIZES, "dataflow", *SRAM, "bw_mode", "bw_words_per_cycle", "total_cycles", "stall_cycles", *TOLERANCE,
           *SRAM_COUNTS, "dram_ifmap_reads", "dram_filter_reads", "dram_ofmap_writes")


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """Reproduce every row; exact where cycles, stalls, the three utilisations, SRAM and DRAM counts are equal.

    First and last cycles of the DRAM ports and average bandwidths are compared as well where the table has them. The detail has the
    physical memory model's answer (`physical_*`, see sim/devices/tiling.py) beside SCALE-Sim's.
    """
    need(table, COLUMNS)
    return walk("scalesim", table, _row, watch)


def _row(at: int, row: dict[str, Any]) -> Compared:
    version = str(row["scalesim_version"])[:2]
    if version not in ("v2", "v3"):
        raise SkipError(f"scalesim_version {row['scalesim_version']} is not v2 or v3")
    if row.get("status", "ok") != "ok":
        raise SkipError(f"status is {row['status']}: the run did not finish")
    if row["dataflow"] not in tiling.DATAFLOWS:
        raise SkipError(f"dataflow {row['dataflow']} is not one of {', '.join(tiling.DATAFLOWS)}")
    if row["bw_mode"] not in ("CALC", "USER"):
        raise SkipError(f"bw_mode {row['bw_mode']} is not CALC or USER")
    m, n, k, rows, cols = (whole(row, column) for column in SIZES)
    ifmap, weights, ofmap = (1024 * whole(row, column) for column in SRAM)
    words = whole(row, "bw_words_per_cycle") if row["bw_mode"] == "USER" else None
    flow = str(row["dataflow"])
    sizes: dict[str, Any] = {"rows": rows, "cols": cols, "dataflow": flow}
    try:
        run = scalesim.run(scalesim.Gemm(m, n, k), **sizes, ifmap_bytes=ifmap, filter_bytes=weights, ofmap_bytes=ofmap,
                           words_per_cycle=None if words is None else (words, words, words), version=int(version[1]))
    except ValueError as error:
        raise SkipError(str(error)) from None
    counts, memory = scalesim.counts(m, n, k, **sizes), run.memory
    ours = {**memory._asdict(), **{name: getattr(counts, name)[0].item() for name in (*SRAM_COUNTS, "mapping_efficiency", "compute_util")},
            "overall_util": scalesim.overall_util(m, n, k, rows=rows, cols=cols, total_cycles=memory.total_cycles)}
    equal = {name: abs(value - number(row, name)) <= TOLERANCE.get(name, 0) for name, value in ours.items()}
    more = {name: value for name, value in _ports(run, ours).items() if name in row and not pd.isna(row[name])}
    equal |= {name: abs(value - number(row, name)) <= (BANDWIDTH_TOLERANCE if name.endswith("_bw") else 0) for name, value in more.items()}
    physical = _physical(m, n, k, (ifmap, weights, ofmap), words, sizes)
    detail = {"M": m, "N": n, "K": k, "array": f"{rows}x{cols}", "bandwidth": "" if words is None else words,
              **{f"our_{name}": value for name, value in (ours | more).items()}, **physical}
    group, theirs = f"{version} {row['bw_mode']} {flow}", number(row, "total_cycles")
    return Compared(at, group, theirs, memory.total_cycles, equal, all(equal.values()), detail)


def _ports(run: scalesim.Run, counts: dict[str, float]) -> dict[str, float]:
    """First and last cycle of each DRAM port, and words a cycle of both memories."""
    out: dict[str, float] = {}
    for operand in OPERANDS:
        first, last = run.spans._asdict()[f"dram_{operand}"]
        verb = "writes" if operand == "ofmap" else "reads"
        out[f"dram_{operand}_start"], out[f"dram_{operand}_stop"] = first, last
        out[f"avg_{operand}_dram_bw"] = counts[f"dram_{operand}_{verb}"] / (last - first + 1)
        cycles = run.memory.total_cycles
        out[f"avg_{operand}_sram_bw"] = counts[f"sram_{operand}_{verb}"] / cycles if cycles else 0.0
    return out


def _physical(m: int, n: int, k: int, sram: tuple[int, int, int], words: int | None, sizes: dict[str, Any]) -> dict[str, Any]:
    """The same matmul of bytes on an array that loads the next tile meanwhile, over one DRAM port and real buffers."""
    pad = tiling.Scratchpad(sizes["rows"], sizes["cols"], most_input=sram[0], most_weight=sram[1], most_output=sram[2],
                            dataflows=(sizes["dataflow"],))
    one = tiling.Matmuls(*(np.array([value]) for value in (m, n, k, 8, 8, 8, 1, 1, sum(sram), 1)))
    try:
        plan = tiling.search(one, pad, math.inf if words is None else float(words), np.ones(1))
    except ValueError:
        return {"physical_cycles": None, "physical_dram_reads": None, "physical_dram_writes": None}
    rest = float(plan.moved_bytes[0] - plan.first_bytes[0])
    waited = 0.0 if words is None else rest / words
    first = 0.0 if words is None else plan.first_bytes[0] / words
    return {"physical_cycles": math.ceil(first + max(float(plan.fill[0] + plan.issue[0] + plan.drain[0]), waited)),
            "physical_dram_reads": int(plan.input_bytes[0] + plan.weight_bytes[0]), "physical_dram_writes": int(plan.output_bytes[0])}
