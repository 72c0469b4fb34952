"""NeuPIMs: cycles of every stage of its runs, and PIM-busy cycles of those with attention, in `neupims-compat` timing.

Each stage begins where the table's stages before it end, so that an error in one does not move the refresh of the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from gemvane.sim.dram.pimpart import Buffers, PimPart, pim_part

from .neupims_npu import ELEMENT_BYTES, program
from .neupims_stages import HEAD_DIM, Cycles, Stage, cycles, stored_bytes
from .report import Compared, SkipError, Watch, answer, need, whole

STAGES = "ABCDEF"
ATTENTION = {True: "BCDE", False: "B"}
"""Stages with attention in PIM, with interleaved sub-batches and without; all others, and with interleaving these too, have NPU work."""


class Row(NamedTuple):
    """What a row of the table ran."""

    buffers: Buffers
    interleaved: bool
    batch: int
    heads: int
    tokens: int
    issue_width: int | None
    """PIM commands that the core sends a cycle, to all channels together; None for no limit."""

    @property
    def mode(self) -> str:
        """As groups of the report are called."""
        width = "" if self.issue_width is None else f", issue width {self.issue_width}"
        return f"{self.buffers} row buffers{width}, {'beside NPU traffic' if self.interleaved else 'alone'}"


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """Cycles over a table like neupims_oracle_dev.csv, grouped by what is compared, mode and stage; exact within a cycle.

    `pim_busy`: cycles with a PIM command waiting or running. `attention_stage`: all cycles of a stage with attention in PIM, until
    the NPU, too, is through with what it does beside. `npu_stage`: those of a stage without.
    """
    need(table, ("tag", "branch", "mode", "sys_config", "model", "batch", "seqlens", "channel_assignment",
                 *(f"stage_{name}_{what}" for name in STAGES for what in ("cycles", "pim_cycles"))))  # fmt: skip
    compared: list[Compared] = []
    skipped: list[dict[str, Any]] = []
    parts: dict[Buffers, PimPart] = {"dual": pim_part(buffers="dual", compat=True), "single": pim_part(buffers="single", compat=True)}
    rows = table.to_dict("records")
    for i, row in enumerate(rows if watch is None else watch(rows)):
        try:
            ran = _ran(row)
            for name, stage, found in _stages(row, ran, parts[ran.buffers]):
                compared += _compared(i, row, name, ran.mode, stage, found)
        except SkipError as reason:
            skipped.append({"row": i, "reason": f"{row['tag']}: {reason}"})
    return answer("neupims", len(table), compared, skipped)


def _compared(i: int, row: dict[Any, Any], name: str, mode: str, stage: Stage, found: Cycles) -> Iterator[Compared]:
    compared = [("attention_stage" if stage.requests else "npu_stage", "cycles", float(found.stage))]
    if stage.requests:
        compared.insert(0, ("pim_busy", "pim_cycles", found.pim_busy))
    for what, column, ours in compared:
        theirs = float(row[f"stage_{name}_{column}"])
        same = abs(ours - theirs) < 1
        named = {"tag": row["tag"], "what": what, "mode": mode, "stage": name, "npu_cycles": found.npu, "attention_cycles": found.attention}
        yield Compared(i, f"{what}, {mode}, stage {name}", theirs, ours, {f"stage_{name}_{column}": same}, same, named)


def _stages(row: dict[Any, Any], ran: Row, part: PimPart) -> Iterator[tuple[str, Stage, Cycles]]:
    """Stages of a row, each from where the table's before it end, from where the address counter stands, and with the writes left."""
    sub_batch = ran.batch // 2 if ran.interleaved else ran.batch
    start = position = 0
    left: tuple[int, ...] = ()
    for name in STAGES:
        taken = row[f"stage_{name}_cycles"]
        if pd.isna(taken):
            continue
        requests = sub_batch if name in ATTENTION[ran.interleaved] else 0
        operators = tuple(program(name, sub_batch, ran.heads * HEAD_DIM)) if ran.interleaved or not requests else ()
        stage = Stage(start, position, ran.heads, ran.tokens, requests, operators, ran.issue_width, left)
        found = cycles(stage, part)
        yield name, stage, found
        left = found.left
        start += int(taken)
        position += ELEMENT_BYTES * sum(operator.elements for operator in operators)
        position += stored_bytes(requests, ran.heads, ran.tokens, part)


def _ran(row: dict[Any, Any]) -> Row:
    """SkipError if the row is none that can be reproduced."""
    if row["branch"] == "npu-only":
        raise SkipError("no PIM")
    if not re.fullmatch(r"t\d+", str(row["model"])):
        raise SkipError(f"model {row['model']} is no scaled model like t512")
    if not re.fullmatch(r"[1-9]\d*(rep)?", str(row["seqlens"])):
        raise SkipError(f"seqlens {row['seqlens']} is no single length")
    if row["channel_assignment"] != "i % 32":
        raise SkipError(f"channel_assignment is {row['channel_assignment']}, not i % 32")
    heads = int(row["model"].removeprefix("t")) // HEAD_DIM
    dual = row["branch"] == "main"
    one_a_cycle = not dual and "unlimited PIM issue" not in str(row["mode"])
    return Row("dual" if dual else "single", dual and row["sys_config"] == "sub-batch-on", whole(row, "batch"), heads,
               int(str(row["seqlens"]).removesuffix("rep")), 1 if one_a_cycle else None)  # fmt: skip
