"""NeuPIMs: PIM-busy cycles of the attention stages, in `neupims-compat` timing (reference/pim.md, section 8)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from gemvane.sim.dram.pimpart import Buffers, PimPart, beside_traffic, new_state, pim_part
from gemvane.sim.dram.pimstream import Attention, attend
from gemvane.sim.kernels.pimissue import NEXT_RANK

from .report import Compared, SkipError, Watch, answer, need, whole

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
    """Attention of one stage. Requests are dealt out in turn, so that a channel has their mean number rounded down or up."""

    name: str
    group: str
    buffers: Buffers
    start: int
    mean_requests: float
    """On a channel."""
    heads: int
    tokens: int
    pim_cycles: float


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """PIM-busy cycles over a table like neupims_oracle_dev.csv: one comparison for each stage with PIM work, exact within a cycle."""
    need(table, ("tag", "branch", "mode", "sys_config", "model", "batch", "seqlens", "channel_assignment",
                 *(f"stage_{name}_{what}" for name in STAGES for what in ("cycles", "pim_cycles"))))  # fmt: skip
    compared: list[Compared] = []
    skipped: list[dict[str, Any]] = []
    parts: dict[Buffers, PimPart] = {"dual": pim_part(buffers="dual", compat=True), "single": pim_part(buffers="single", compat=True)}
    rows = table.to_dict("records")
    for i, row in enumerate(rows if watch is None else watch(rows)):
        try:
            for stage in _stages(row):
                cycles = pim_cycles(stage, parts[stage.buffers])
                same = abs(cycles - stage.pim_cycles) < 1
                named = {"tag": row["tag"], "stage": stage.name}
                compared.append(Compared(i, stage.group, stage.pim_cycles, cycles, {f"stage_{stage.name}_pim_cycles": same}, same, named))
        except SkipError as reason:
            skipped.append({"row": i, "reason": f"{row['tag']}: {reason}"})
    return answer("neupims", len(table), compared, skipped)


def pim_cycles(stage: Stage, part: PimPart) -> float:
    """PIM-busy cycles of a stage, mean over all channels. Of the NPU's traffic beside it only the rows that it leaves open are modelled."""
    part = beside_traffic(part) if stage.group.endswith(BESIDE) else part
    fewer = math.floor(stage.mean_requests)
    share = stage.mean_requests - fewer
    return sum(weight * _channel_cycles(stage, part, n) for n, weight in ((fewer, 1 - share), (fewer + 1, share)) if weight and n)


def _channel_cycles(stage: Stage, part: PimPart, requests: int) -> int:
    state = new_state(part, start=stage.start)
    refreshed = int(state.clock[NEXT_RANK] + part.ranks - 1) % part.ranks
    state.rows[0] = NPU_ROW  # the linear layers before it leave every bank open, but for the rank refreshed last
    state.rows[0, refreshed * part.banks // part.ranks :][: part.banks // part.ranks] = -1
    op = Attention(stage.tokens, stage.heads, HEAD_DIM)
    pause = SOFTMAX_CYCLES + round(SOFTMAX_CYCLES_PER_TOKEN * (requests * stage.tokens - SOFTMAX_TOKENS))
    return attend(part, [op] * requests, start=stage.start, softmax_cycles=max(0, pause), state=state).busy_cycles


def _stages(row: dict[Any, Any]) -> Iterator[Stage]:
    """Stages of a row that have PIM work; SkipError if the row is none that can be reproduced."""
    _check(row)
    batch, tokens = whole(row, "batch"), int(str(row["seqlens"]).removesuffix("rep"))
    interleaved, dual = row["sys_config"] == "sub-batch-on", row["branch"] == "main"
    each, heads = batch / CHANNELS / (2 if interleaved else 1), int(row["model"].removeprefix("t")) // HEAD_DIM
    group = f"{'dual' if dual else 'single'} row buffers, {BESIDE if interleaved else 'alone'}"
    at = 0
    for name in STAGES:
        cycles, busy = row[f"stage_{name}_cycles"], row[f"stage_{name}_pim_cycles"]
        if pd.isna(cycles):
            continue
        if busy > 0:
            yield Stage(name, group, "dual" if dual else "single", at + ARRIVAL_CYCLES, each, heads, tokens, float(busy))
        at += int(cycles)


def _check(row: dict[Any, Any]) -> None:
    if row["branch"] == "npu-only":
        raise SkipError("no PIM")
    if row["branch"] == "npu_pim" and "unlimited PIM issue" not in str(row["mode"]):
        raise SkipError("issues one PIM instruction a cycle for all channels; the F rows have even issue width")
    if not re.fullmatch(r"t\d+", str(row["model"])):
        raise SkipError(f"model {row['model']} is no scaled model like t512")
    if not re.fullmatch(r"[1-9]\d*(rep)?", str(row["seqlens"])):
        raise SkipError(f"seqlens {row['seqlens']} is no single length")
    if row["channel_assignment"] != "i % 32":
        raise SkipError(f"channel_assignment is {row['channel_assignment']}, not i % 32")
