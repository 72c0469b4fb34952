"""NeuPIMs: PIM-busy cycles of the attention stages, in `neupims-compat` timing, with the NPU's reads and writes where it works beside.

The simulator ignores the addresses of NPU tensors: a counter walks through a window of 5 * 2 * E^2 bytes, bank after bank and row
after row of all channels, and goes on where the stage before left it. A GEMM's requests come as fast as the channel takes them; the
next GEMM's come a pause after its last one has been served (casys-kaist/NeuPIMs f299af3, NeuPIMSystolicWS.cc and its golden trace).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from gemvane.sim.dram.contend import contend
from gemvane.sim.dram.pimpart import Buffers, PimPart, State, new_state, pim_part
from gemvane.sim.dram.pimstream import Attention, score_blocks, stream, value_blocks
from gemvane.sim.kernels.pimissue import NEXT_RANK, RELEASE

from .report import Compared, SkipError, Watch, answer, need, whole
from .streams import Int64s

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
"""A row that the layers before left open: no row of the operators."""
FIRST_ROW = 513
"""Of keys and values, as in the golden trace: the NPU's window ends before."""
ELEMENT_BYTES, WEIGHT_WINDOW = 2, 5


class Gemm(NamedTuple):
    """A linear layer, its sides in embedding widths, and what passes after its last read until the next one's first."""

    inputs: int
    outputs: int
    pause_cycles: int


QKV = Gemm(1, 3, 603)
PROJECTION, UP, DOWN = Gemm(1, 1, 645), Gemm(1, 4, 1123), Gemm(4, 1, 1461)
"""Pauses (last tiles, layer norm, activation function, residual) from the golden trace of 32 tokens: reads end at 1676, 7519, 10485 and
13822, the next begin at 8164 and 11608, and the stages of the first and the last end at 2279 and 15283."""
REST = [PROJECTION, UP, DOWN]
NPU_STAGES = {"A": [QKV], "B": [QKV], "C": [*REST, QKV], "D": [*REST, QKV], "E": REST, "F": REST}
"""What the NPU does in each stage of sub-batch interleaving."""


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
    batch: int
    """Tokens of the NPU's GEMMs: requests of one sub-batch."""
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
    """PIM-busy cycles of a stage, mean over all channels."""
    fewer = math.floor(stage.mean_requests)
    share = stage.mean_requests - fewer
    return sum(weight * _channel_cycles(stage, part, n) for n, weight in ((fewer, 1 - share), (fewer + 1, share)) if weight and n)


def _channel_cycles(stage: Stage, part: PimPart, requests: int) -> int:
    """Scores, a pause for the softmax, values; the values' and the GEMMs' first ticks follow from what comes before them.

    Nothing depends on what comes after it, so repeating with the ticks of the last time ends after as many times as there are events.
    """
    op = Attention(stage.tokens, stage.heads, HEAD_DIM)
    scores = requests * score_blocks(part, op, first_row=FIRST_ROW)
    attention = stream(scores + requests * value_blocks(part, op, first_row=FIRST_ROW), release=stage.start)
    pause = max(0, SOFTMAX_CYCLES + round(SOFTMAX_CYCLES_PER_TOKEN * (requests * stage.tokens - SOFTMAX_TOKENS)))
    gemms = NPU_STAGES[stage.name] if stage.group.endswith(BESIDE) else []
    starts: list[int] = [stage.start] * len(gemms)
    while True:
        traffic, gemm = _traffic(stage, gemms, starts)
        done = contend(part, attention, traffic, policy="pim-first", state=_state(stage, part))
        values = int(done.times[len(scores) - 1, 1]) + 1 + pause
        served = traffic["arrival"] + done.latency_ticks
        ends = [int(served[gemm == i].max()) + one.pause_cycles for i, one in enumerate(gemms)]
        follow = list(accumulate([stage.start, *ends], max))[: len(gemms)]
        if values == attention.needs[-1, RELEASE] and follow == starts:
            return done.pim_end + 1 - stage.start - pause
        attention.needs[len(scores) :, RELEASE], starts = values, follow


def _state(stage: Stage, part: PimPart) -> State:
    """The linear layers before it leave every bank open, but for the rank refreshed last."""
    state = new_state(part, start=stage.start)
    refreshed = int(state.clock[NEXT_RANK] + part.ranks - 1) % part.ranks
    state.rows[0] = NPU_ROW
    state.rows[0, refreshed * part.banks // part.ranks :][: part.banks // part.ranks] = -1
    return state


def _requests(stage: Stage, gemm: Gemm) -> tuple[int, int]:
    """Reads (weights and input) and writes (output) of a GEMM on one channel, 64 B each."""
    width, each = stage.heads * HEAD_DIM, CHANNELS * 64 // ELEMENT_BYTES
    weights = gemm.inputs * gemm.outputs * width * width
    return round((weights + stage.batch * gemm.inputs * width) / each), round(stage.batch * gemm.outputs * width / each)


def _traffic(stage: Stage, gemms: list[Gemm], starts: list[int]) -> tuple[dict[str, Int64s], Int64s]:
    """The NPU's requests of a stage, GEMM after GEMM, from where the address counter stands; and which GEMM's they are."""
    sizes = [_requests(stage, gemm) for gemm in gemms]
    gemm = np.repeat(np.arange(len(gemms)), [reads + writes for reads, writes in sizes])
    write = np.concatenate([np.zeros(0, np.int64), *(np.arange(reads + writes) >= reads for reads, writes in sizes)]).astype(np.int64)
    before = sum(sum(_requests(stage, one)) for name in NPU_STAGES if name < stage.name for one in NPU_STAGES[name])
    window = WEIGHT_WINDOW * (stage.heads * HEAD_DIM) ** 2 * ELEMENT_BYTES // (CHANNELS * 64)
    at = (before + np.arange(gemm.size)) % window
    bank = at // 16 % 32  # a row of 16 requests of bank after bank
    table = {"rw": write, "ra": bank // 16, "bg": bank // 4 % 4, "ba": bank % 4, "ro": at // (16 * 32),
             "arrival": np.array(starts, np.int64)[gemm]}  # fmt: skip
    return table, gemm


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
            yield Stage(name, group, "dual" if dual else "single", at + ARRIVAL_CYCLES, each, heads, tokens, batch // 2, float(busy))
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
