"""NeuPIMs: PIM-busy cycles of the attention stages, in `neupims-compat` timing (reference/pim.md, section 8)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from gemvane.sim.dram.pimpart import Buffers, PimPart, beside_traffic, new_state, pim_part
from gemvane.sim.dram.pimstream import Attention, attend

CHANNELS = 32
HEAD_DIM = 128
STAGES = "ABCDEF"
ARRIVAL_CYCLES = 3
"""From the start of a stage to its first PIM command: clocks 2279 and 2282 of the golden trace."""
SOFTMAX_CYCLES, SOFTMAX_TOKENS, SOFTMAX_CYCLES_PER_TOKEN = 162, 128, 0.172
"""The pause between scores and values: 162 cycles in the golden trace (128 tokens); the slope is fitted to one row of the development
half (b64_s512: stage less PIM-busy cycles). It moves the phase of refresh, nothing else."""
BESIDE = "beside NPU traffic"
NPU_ROW = 2**40
"""A row that ordinary traffic left open: no row of the operators."""


class Stage(NamedTuple):
    """Attention of one stage, evenly spread: `requests` on each of the channels that have any."""

    tag: str
    stage: str
    group: str
    buffers: Buffers
    start: int
    requests: int
    share: float
    """Of the channels, that have requests."""
    heads: int
    tokens: int
    pim_cycles: float


def compare(table: pd.DataFrame) -> dict[str, Any]:
    """Errors of our PIM-busy cycles over a table like neupims_oracle_dev.csv, as fractions."""
    skipped: list[dict[str, str]] = []
    errors: dict[str, list[float]] = defaultdict(list)
    exact = 0
    parts: dict[Buffers, PimPart] = {"dual": pim_part(buffers="dual", compat=True), "single": pim_part(buffers="single", compat=True)}
    for row in table.to_dict("records"):
        stages = list(_stages(row, skipped))
        for stage in stages:
            cycles = pim_cycles(stage, parts[stage.buffers])
            errors[stage.group].append(cycles / stage.pim_cycles - 1)
            exact += abs(cycles - stage.pim_cycles) < 1
    every = [abs(e) for group in errors.values() for e in group]
    return {
        "oracle": "neupims", "rows": len(table), "compared": len(every), "exact": exact,
        "mape": sum(every) / len(every) if every else None, "max_error": max(every, default=None),
        "by": {name: {"compared": len(e), "mape": sum(map(abs, e)) / len(e), "max_error": max(map(abs, e))} for name, e in errors.items()},
        "skipped": skipped,
    }  # fmt: skip


def pim_cycles(stage: Stage, part: PimPart) -> float:
    """PIM-busy cycles of a stage, mean over all channels. Of the NPU's traffic beside it only the rows that it leaves open are modelled."""
    part = beside_traffic(part) if stage.group.endswith(BESIDE) else part
    state = new_state(part, start=stage.start)
    refreshed = int(state.clock[2] + part.ranks - 1) % part.ranks
    state.rows[0] = NPU_ROW  # the linear layers before it leave every bank open, but for the rank refreshed last
    state.rows[0, refreshed * part.banks // part.ranks :][: part.banks // part.ranks] = -1
    op = Attention(stage.tokens, stage.heads, HEAD_DIM)
    pause = SOFTMAX_CYCLES + round(SOFTMAX_CYCLES_PER_TOKEN * (stage.requests * stage.tokens - SOFTMAX_TOKENS))
    return stage.share * attend(part, [op] * stage.requests, start=stage.start, softmax_cycles=max(0, pause), state=state).busy_cycles


def _stages(row: dict[Any, Any], skipped: list[dict[str, str]]) -> Iterator[Stage]:
    """Stages of a row that have PIM work; says in `skipped` why a row has none that is compared."""
    reason = _why_not(row)
    if reason:
        skipped.append({"row": str(row["tag"]), "reason": reason})
        return
    tokens = int(re.match(r"\d+", str(row["seqlens"]))[0])  # type: ignore[index]
    interleaved = row["sys_config"] == "sub-batch-on"
    dual = row["branch"] == "main"
    each = row["batch"] / CHANNELS / (2 if interleaved else 1)
    group = f"{'dual' if dual else 'single'} row buffers, {BESIDE if interleaved else 'alone'}"
    at = 0
    for name in STAGES:
        cycles, busy = row[f"stage_{name}_cycles"], row[f"stage_{name}_pim_cycles"]
        if pd.isna(cycles):
            continue
        if busy > 0:
            yield Stage(row["tag"], name, group, "dual" if dual else "single", at + ARRIVAL_CYCLES, max(1, round(each)), min(1.0, each),
                        int(row["model"].removeprefix("t")) // HEAD_DIM, tokens, float(busy))  # fmt: skip
        at += int(cycles)


def _why_not(row: dict[Any, Any]) -> str:
    if row["branch"] == "npu-only":
        return "no PIM"
    if row["branch"] == "npu_pim" and "unlimited PIM issue" not in str(row["mode"]):
        return "issues one PIM instruction a cycle for all channels; the F rows have even issue width"
    if not re.fullmatch(r"t\d+", str(row["model"])) or not re.fullmatch(r"\d+(rep)?", str(row["seqlens"])):
        return "requests of different lengths: no length column to read them from"
    if row["channel_assignment"] != "i % 32" or (row["batch"] % CHANNELS and row["batch"] > CHANNELS):
        return "requests are not spread evenly over the channels"
    return ""
