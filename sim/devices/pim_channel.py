"""Time and energy counts of one PIM channel from the command-level engine, each different load solved once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..costs import CAUSES, Int64s
from ..dram import attacc, gemv, pimstream
from ..dram.part import Part, load
from ..dram.pimpart import PimPart, pim_part
from ..dram.policy import check_pim
from ..dram.steady import Steady, Total
from ..kernels.pimissue import INTERVAL
from ..pimschema import Pim
from .pim_refresh import refreshed_together

MOST_LOADS = 100_000
"""Solved loads that one channel remembers."""
COUNTS = ("activate_bytes", "array_bytes", "buffer_bytes", "move_bytes", "tsv_bytes", "io_bytes")
CAUSE_OF = {
    "newton": {"P_HEADER": "command", "G_ACT": "row", "COMP": "edge", "COMPS_READRES": "edge", "READRES": "drain", "ACT": "vector_load",
               "GWRITE": "vector_load", "PREpb": "precharge", "PREab": "precharge", "PIM_PRECHARGE": "precharge", "REFab": "refresh"},
    "aim": {"TMOD": "command", "WR_GB": "vector_load", "WR_BIAS": "fill", "ACT16": "row", "MACAB": "edge", "RD_MAC": "drain",
            "PREab": "precharge", "PREpb": "precharge", "REFab": "refresh"},
    "hbm-pim": {"MODE_AB": "command", "MODE_SB": "command", "WR_CRF": "command", "WR_SRF": "vector_load", "WR_GRF": "fill", "ACTab": "row",
                "ACT": "drain", "MAC": "edge", "GRF_WB": "drain", "RD": "drain", "PREab": "precharge", "PREpb": "precharge",
                "REFab": "refresh"},
}  # fmt: skip
"""Style -> command -> what the ticks from it to the next command are spent on. Of dot products (edge), what their multiply-adds take
at peak is ideal."""
DOTS = {"newton": "", "aim": "MACAB", "hbm-pim": "MAC", "attacc": ""}
"""The command of one dot-product step; Newton's say how many steps they have."""
MOVES = {"newton": ("COMPS_READRES", "READRES"), "aim": ("WR_GB", "WR_BIAS", "RD_MAC"), "hbm-pim": ("WR_SRF", "RD")}
"""Commands that carry one request between the pins and the units or banks."""
LOADS = {"newton": ("GWRITE",), "aim": ("WR_GB",), "hbm-pim": ("WR_SRF",)}
LEVELS: dict[str, attacc.Level] = {"bank": "BA", "bank-group": "BG", "buffer": "BUFFER"}
MOVE_SHARE = {"bank": 0.0, "bank-group": 1.01 / 2.24, "buffer": 1.0}
"""Of the way from the array to the die's edge, what an operand goes to reach AttAcc's units: 1.01 of 1.01 + 1.23 pJ/bit to the bank
group (attacc_simulator c600051, src/config.py, after O'Connor et al., MICRO'17)."""


class Key(NamedTuple):
    """What two units have in common whose channels are alike."""

    part: str
    buffers: str
    level: str
    layout: str
    vector_buffer: int | None
    levels: tuple[tuple[str, int], ...]
    timings: tuple[tuple[str, int], ...]
    refresh: str = "in-turn"


class Shape(NamedTuple):
    """What the items of a channel have in common. An item is a request, one KV head of one, or a matrix."""

    kind: str
    """attention_score, attention_value, attention_decode (both, with the softmax between) or matmul."""
    heads: int
    """KV heads of an item."""
    group: int
    """Vectors (query heads of a KV head) that meet the same operand."""
    dim: int
    packed: float = 1
    """Elements in the place of one of 16 bits."""
    rate: float = 1
    """Multiply-adds of a lane in one step."""


class Load(NamedTuple):
    """What a channel takes for its items: cycles, the same by cause [len(CAUSES)], and counts [len(COUNTS)]."""

    cycles: int
    causes: Int64s
    counts: Int64s

    def times(self, number: int) -> Load:
        """So many of it, one after another."""
        return Load(self.cycles * number, self.causes * number, self.counts * number)


NOTHING = Load(0, np.zeros(len(CAUSES), np.int64), np.zeros(len(COUNTS), np.int64))
"""An empty channel."""


def key_of(unit: Pim) -> Key:
    return Key(unit.part, unit.buffers, unit.level, unit.layout, unit.vector_buffer, tuple(sorted(unit.levels.items())),
               tuple(sorted(unit.timings.items())), unit.refresh)  # fmt: skip


@lru_cache(maxsize=64)
def part_of(key: Key) -> Part:
    """The memory part with the unit's changes. ValueError naming field, value and wish for a change that the part does not know."""
    part = load(key.part)
    spec = part.spec
    if spec.pim is None:
        raise ValueError(f"part is {key.part!r}, a memory part without PIM commands. Expected one with a section pim.")
    for field, changes, known in (("levels", key.levels, spec.organisation.levels), ("timings", key.timings, spec.timings)):
        for name, value in changes:
            if name not in known:
                raise ValueError(f"{field}.{name} is {value}, but memory part {part.name} has only {', '.join(known)}.")
    if key.buffers not in spec.pim.row_buffers:
        raise ValueError(f"buffers is {key.buffers!r}, but memory part {part.name} has {' or '.join(spec.pim.row_buffers)} row buffers.")
    if key.level != "bank" and spec.pim.style != "attacc":
        raise ValueError(f"level is {key.level!r}, but the units of memory part {part.name} are at the banks.")
    if key.layout != "heads" and spec.pim.style != "newton":
        raise ValueError(f"layout is {key.layout!r}, but memory part {part.name} has one layout: leave it out.")
    organisation = spec.organisation.model_copy(update={"levels": {**spec.organisation.levels, **dict(key.levels)}})
    pim = spec.pim.model_copy(update={} if key.vector_buffer is None else {"vector_buffer": key.vector_buffer})
    changed = {"organisation": organisation, "pim": pim, "timings": {**spec.timings, **dict(key.timings)}}
    changed_part = replace(part, spec=spec.model_copy(update=changed))
    if key.refresh == "together":
        changed_part = refreshed_together(changed_part)
    check_pim(changed_part)
    return changed_part


@lru_cache(maxsize=64)
def engine_part(key: Key) -> PimPart:
    """The part as the engine takes it."""
    return pim_part(part_of(key), buffers=key.buffers)  # type: ignore[arg-type]


def softmax_outside(key: Key) -> bool:
    """Whether scores leave the memory for their softmax, as they do but in AttAcc."""
    return engine_part(key).pim.style != "attacc"


@lru_cache(maxsize=32)
def channel(key: Key, shape: Shape) -> Channel | Stack:
    """What solves loads of one shape; kept, because everything that it has solved stays known."""
    return Stack(key, shape) if engine_part(key).pim.style == "attacc" else Channel(key, shape)


def attacc_clocks(key: Key) -> attacc.Clocks:
    return attacc.clocks_of(part_of(key), LEVELS[key.level])


def step_ticks(key: Key) -> int:
    """Ticks from one dot-product step to the next."""
    part = engine_part(key)
    if part.pim.style == "attacc":
        return attacc_clocks(key).spacing
    return part.timings["nSTEP" if part.pim.style == "newton" else "nCCDL"]


def units(key: Key) -> int:
    """Units of one channel that work in one step."""
    part = engine_part(key)
    if part.pim.style != "attacc":
        return part.banks // part.pim.banks_per_unit
    return {"bank": part.banks, "bank-group": part.banks // part.group_banks, "buffer": 2}[key.level]


def packed_part(part: PimPart, shape: Shape) -> PimPart:
    """The part as operands see it that take another width than 16 bits: all its sizes in units of theirs."""
    packed = shape.packed
    if packed == 1 == shape.rate:
        return part
    sizes = {"lanes": max(1, int(part.pim.lanes * shape.rate)), "vector_buffer": int(part.pim.vector_buffer * packed)}
    pim = part.pim.model_copy(update=sizes)
    return part._replace(pim=pim, row_bytes=int(part.row_bytes * packed), request_bytes=int(part.request_bytes * packed))


class Segment(NamedTuple):
    """Blocks of one item."""

    order: Int64s
    steps: int
    """Dot-product steps, where a command may have several."""
    last: int
    """Steps that the last dot product takes the time of."""


class Channel:
    """A channel under Newton's, AiM's or HBM-PIM's commands; operators begin half a refresh interval before the next refresh."""

    def __init__(self, key: Key, shape: Shape) -> None:
        self._shape, self._key = shape, key
        self._plain = engine_part(key)
        self._part = packed_part(self._plain, shape)
        self.granule = self._granule()
        """Tokens (rows of a matrix) in which the work of an item grows."""
        self._steady = Steady(self._plain, [])
        self._numbers: dict[object, int] = {}
        self._made: dict[gemv.Key, pimstream.Block] = {}
        self._segments: dict[int, Segment] = {}
        self._loads: dict[tuple[int, ...], Load] = {}
        self._ends: tuple[Int64s, Int64s] = (np.zeros(0, np.int64), np.zeros(0, np.int64))

    def _granule(self) -> int:
        part, style = self._part, self._plain.pim.style
        values = self._shape.kind == "attention_value"
        if style == "hbm-pim":
            return 1 if values else part.banks // part.pim.banks_per_unit * part.pim.lanes
        return part.pim.lanes if values else part.banks

    def load(self, items: tuple[int, ...]) -> Load:
        """The channel with items of these many tokens, one after the other."""
        if items not in self._loads:
            if len(self._loads) >= MOST_LOADS:
                self._loads.clear()
            self._loads[items] = self._solve(items)
        return self._loads[items]

    def sequence(self, items: tuple[int, ...]) -> Segment:
        """Numbers of the blocks in order, and what the dot products in them come to."""
        for tokens in dict.fromkeys(items):
            if tokens not in self._segments:
                self._segments[tokens] = self._newton(tokens) if self._plain.pim.style == "newton" else self._gemv(tokens)
        parts = [self._segments[tokens] for tokens in items]
        enter, leave = self._ends
        return Segment(np.concatenate([enter, *(part.order for part in parts), leave]), sum(part.steps for part in parts), parts[-1].last)

    def _solve(self, items: tuple[int, ...]) -> Load:
        if not items:
            return NOTHING
        order, steps, last = self.sequence(items)
        start = int(self._plain.setup[INTERVAL]) // 2
        total = self._steady.run(order, start=start)
        dots = DOTS[self._plain.pim.style]
        steps = total.counts[dots] if dots else steps
        causes = np.zeros(len(CAUSES), np.int64)
        for command, cause in CAUSE_OF[self._plain.pim.style].items():
            causes[CAUSES.index(cause)] += total.ticks.get(command, 0)
        tail = self.tail(last)
        for cause, ticks in zip(("edge", "drain"), tail, strict=True):
            causes[CAUSES.index(cause)] += ticks
        assert causes.sum() == total.end + 1 - start + sum(tail)
        return Load(int(causes.sum()), causes, self._counts(total, steps))

    def tail(self, steps: int) -> tuple[int, int]:
        """Ticks from the last command, of `steps`, to the end of its dot product, and from there until its result is out."""
        n = self._plain.timings
        if self._plain.pim.style != "newton":
            return 0, 0
        return n["nSTEP"] * (steps + 1) * (self._plain.buffers == "dual"), self._plain.read_latency

    def _counts(self, total: Total, steps: int) -> Int64s:
        """Bytes of opened rows, of array accesses, into vector buffers, and between the pins and the units."""
        part, style = self._plain, self._plain.pim.style
        opened = sum(total.counts[name] * int(part.span[part.scope[i]]) for i, name in enumerate(part.commands) if part.action[i] == 1)
        loads = sum(total.counts[name] for name in LOADS[style])
        moved = sum(total.counts[name] for name in MOVES[style]) * part.request_bytes
        of_buffer = loads * (part.row_bytes if style == "newton" else part.request_bytes)
        array = steps * units(self._key) * part.pim.lanes * part.pim.element
        array += of_buffer if style == "newton" else total.counts["RD"] * part.request_bytes
        return np.array([opened * part.row_bytes, array, of_buffer, moved, moved, moved], np.int64)

    def _number(self, key: object, block: pimstream.Block) -> int:
        if key not in self._numbers:
            self._numbers[key] = self._steady.add(block)
        return self._numbers[key]

    def _newton(self, tokens: int) -> Segment:
        """Rows of tiles do not matter to their time, so tiles alike are one block."""
        s, part = self._shape, self._part
        vectors = max(1, part.pim.vector_buffer // part.row_bytes)
        row = 1 + (s.group - 1) // part.banks
        op = pimstream.Attention(tokens, s.heads, s.dim, s.group)
        steps = (pimstream.value_steps(part, op, vectors=vectors) if s.kind == "attention_value"
                 else pimstream.score_steps(part, op, vectors=vectors, layout=self._key.layout))  # type: ignore[arg-type]
        alike = [step if step.bank >= 0 else step._replace(row=row) for step in steps]
        for step in dict.fromkeys(alike):
            if step not in self._numbers:
                self._number(step, pimstream.made(self._plain, step))
        dots = sum(step.steps * (step.dots + sum(swap.dots for swap in step.swaps)) for step in alike)
        order = np.array([self._numbers[step] for step in alike], np.int64)
        return Segment(order, dots, max(alike[-1].steps, self._plain.timings["nFILL"]))

    def _gemv(self, tokens: int) -> Segment:
        s = self._shape
        op = gemv.values(tokens, s.dim, s.group) if s.kind == "attention_value" else gemv.scores(tokens, s.dim, s.group)
        work = gemv.plan(self._part, op, made=self._made)
        number = np.array([self._number(key, block) for key, block in zip(work.keys, work.blocks, strict=True)], np.int64)
        name = np.array(work.names)[work.order]
        order = number[work.order]
        self._ends = order[name == "enter"], order[name == "leave"]
        return Segment(np.tile(order[(name != "enter") & (name != "leave")], s.heads), 0, 0)


class Stack:
    """A channel of an AttAcc stack by the sections of sim/dram/attacc.py: heads in pairs that overlap, an odd last one alone.

    Each pair is taken for two halves of pairs of alike heads, exact where lengths are alike. Keys and values are taken as wide as keys.
    """

    granule = 1

    def __init__(self, key: Key, shape: Shape) -> None:
        self._part, self._shape, self._key = engine_part(key), shape, key
        self._n = attacc_clocks(key)
        self._loads: dict[tuple[int, ...], Load] = {}
        element = self._part.pim.element / shape.packed
        if element != int(element):
            raise ValueError(f"a cache of {8 * element:.0f} bits an element is finer than AttAcc's bytes. Use --kv-dtype fp8 or wider.")
        self._element = int(element)

    def load(self, items: tuple[int, ...]) -> Load:
        """The channel with items of these many tokens, longest first."""
        key = tuple(sorted(items, reverse=True))
        if key not in self._loads:
            if len(self._loads) >= MOST_LOADS:
                self._loads.clear()
            self._loads[key] = self._solve(key)
        return self._loads[key]

    def _heads(self, items: tuple[int, ...]) -> Iterator[tuple[attacc.Shape, int]]:
        """Shape and number of the heads of each length, longest first."""
        for tokens in dict.fromkeys(items):
            many = items.count(tokens) * self._shape.heads * self._shape.group
            yield attacc.shape(tokens, self._shape.dim, self._element, LEVELS[self._key.level]), many

    def _solve(self, items: tuple[int, ...]) -> Load:
        n, causes, counts = self._n, np.zeros(len(CAUSES), np.int64), np.zeros(len(COUNTS), np.int64)
        twice = macs = rows = heads = 0
        for one, many in self._heads(items):
            pair, alone = attacc.steady_clocks(one, n)
            twice, macs, heads = twice + pair * many, macs + 2 * one.keys * one.steps * many, heads + many
            rows += attacc.row_openings(one, n) * many if self._key.level == "bank" else 0
            counts += self._counts(one) * many
        twice += 2 * alone - pair if heads % 2 else 0
        busy = -(-twice // 2)
        usable = n.interval - n.refresh
        refresh = n.refresh * ((busy + usable // 2) // usable)
        dots = min(busy, macs * n.spacing)
        opening = min(busy - dots, rows * (n.after + n.close + n.open))
        for cause, clocks in (("edge", dots), ("row", opening), ("vector_load", busy - dots - opening), ("refresh", refresh)):
            causes[CAUSES.index(cause)] = clocks
        return Load(busy + refresh, causes, counts)

    def _counts(self, one: attacc.Shape) -> Int64s:
        """Bytes of one head."""
        part, level = self._part, self._key.level
        array = 2 * one.keys * one.steps * units(self._key) * part.request_bytes
        opened = (attacc.row_openings(one, self._n) * part.banks if level == "bank" else -(-array // part.row_bytes)) * part.row_bytes
        results = (one.rounds * one.score_moves + one.steps * one.value_moves) * part.request_bytes
        vectors = (one.vector + one.scores) * part.request_bytes
        tsv = vectors + results + (array if level == "buffer" else 0)
        return np.array([opened, array, vectors, vectors + results + int(MOVE_SHARE[level] * array), tsv, 0], np.int64)
