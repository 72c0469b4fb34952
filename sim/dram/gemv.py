"""Matrix times vector in PIM: from an operator to the command stream of a channel, for AiM (row-major) and HBM-PIM (column-major).

Row-major, for units behind an adder tree (AiM): a bank holds whole rows of the matrix, the channel's buffer a piece of the vector; a MAC
multiplies one column of every bank by the same elements. Short rows share a row of the bank. Keys lie so: one token's key is a row of the
matrix. Values lie transposed: one output dimension, all its tokens, is a row. (CENT maps both so; it puts several heads' keys of one
token into a row of a bank, here it is several tokens' keys of one head.)
Column-major, for units of independent lanes (HBM-PIM): a column of a bank holds one input's weights of as many outputs as a unit has
lanes; a MAC multiplies them by one scalar of the vector and adds to as many accumulators.

The result reads of pieces are added by who reads them. Blocks repeat, so that sim/dram/steady.py solves a matrix in milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.pimissue import IF_CLOSED
from .pimpart import Issued, PimPart, Stream, new_state, run
from .pimstream import Block, line, timed_block, without_refresh
from .steady import Steady, Total, join

Int64s = NDArray[np.int64]
Key = tuple[object, ...]
PROGRAM_WRITES = 4
"""Writes of 32 B that fill the 32 instructions of a unit of HBM-PIM."""


class Gemv(NamedTuple):
    """A matrix of `rows` outputs x `cols` inputs times one or more vectors."""

    rows: int
    cols: int
    vectors: int = 1

    @property
    def macs(self) -> int:
        return self.rows * self.cols * self.vectors


class Work(NamedTuple):
    """Blocks of one channel, each kept once, and the order in which they come."""

    blocks: tuple[Block, ...]
    names: tuple[str, ...]
    order: Int64s
    """[position] number of a block."""
    rows: Int64s
    """[position] row of the banks that it opens."""
    keys: tuple[Key, ...]
    """What makes each block the same as one of another work on the same part."""


class Tile(NamedTuple):
    """One kind of block."""

    name: str
    times: int
    ticks: int
    """From one to the next in a row of them, without refresh; a part of a tile finds its row open."""
    counts: dict[str, int]
    """Of the first one."""


class Spread(NamedTuple):
    """An operator over channels that work at the same time."""

    channels: tuple[Total, ...]

    @property
    def ticks(self) -> int:
        """Up to the last command of the last channel."""
        return max((total.end for total in self.channels), default=0)

    @property
    def counts(self) -> dict[str, int]:
        """Commands of all channels."""
        names = self.channels[0].counts if self.channels else {}
        return {name: sum(total.counts[name] for total in self.channels) for name in names}


class _Sequence:
    """Blocks of a channel as they are added; one that was there before is only named again."""

    def __init__(self, part: PimPart, made: dict[Key, Block]) -> None:
        self.part = part
        self.bank_rows = 0
        """Rows of every bank that are taken."""
        self._made = made
        self._known: dict[Key, int] = {}
        self._blocks: list[Block] = []
        self._names: list[str] = []
        self._order: list[int] = []
        self._rows: list[int] = []

    def add(self, name: str, make: Callable[..., list[list[int]]], *shape: object, row: int = 0) -> None:
        """The block that `make` makes of the part and a shape, once."""
        key = (name, *shape)
        if key not in self._known:
            self._known[key] = len(self._blocks)
            if key not in self._made:
                self._made[key] = timed_block(self.part, make(self.part, *shape))
            self._blocks.append(self._made[key])
            self._names.append(name)
        self._order.append(self._known[key])
        self._rows.append(row)

    @property
    def size(self) -> int:
        return len(self._order)

    def repeat(self, first: int, times: int, rows: int) -> None:
        """What was added since position `first`, `times` more, each so many `rows` further on."""
        order, at = self._order[first:], self._rows[first:]
        for number in range(1, times + 1):
            self._order += order
            self._rows += [row + number * rows for row in at] if rows else at

    def take(self, op: Gemv, bank_rows: int) -> int:
        """The first of some more rows of every bank."""
        first, self.bank_rows = self.bank_rows, self.bank_rows + bank_rows
        if self.bank_rows > self.part.rows:
            raise ValueError(f"{op} takes {bank_rows} rows of every bank from row {first} on; {self.part.name} has {self.part.rows}")
        return first

    def work(self) -> Work:
        return Work(tuple(self._blocks), tuple(self._names), np.array(self._order, np.int64), np.array(self._rows, np.int64),
                    tuple(self._known))


def _each(part: PimPart, command: str, times: int) -> list[list[int]]:
    return [line(part, command)] * times


def plan(part: PimPart, *ops: Gemv, held: int | None = None, made: dict[Key, Block] | None = None) -> Work:
    """The stream of operators on one channel, one after the other, in the layout of the part's style.

    `held`: vectors at a time in the units. AiM splits its buffer among them and, while a row is open, loads one set after the other;
    by default all that fit. HBM-PIM splits the accumulators and opens the rows again for every set; by default one, because each
    vector's scalars turn the bus around twice. `made`: blocks of works on this part before, to which those of this one are added.
    ValueError for sizes below one, for more vectors than fit, and for matrices larger than the banks.
    """
    if part.pim.style not in LAYOUTS:
        raise ValueError(f"memory part {part.name} has PIM commands of style {part.pim.style}; want {' or '.join(LAYOUTS)}")
    layout = LAYOUTS[part.pim.style]
    room = layout.room(part)
    if held is not None and not 1 <= held <= room:
        raise ValueError(f"held = {held}: {part.name} holds 1 to {room} vectors at a time")
    sequence = _Sequence(part, {} if made is None else made)
    for command, times in layout.enter:
        sequence.add("enter", _each, command, times)
    for op in ops:
        if min(op) < 1:
            raise ValueError(f"{op}: want at least one row, column and vector")
        layout.make(sequence, op, min(op.vectors, held or (room if layout.together else 1)))
    for command, times in layout.leave:
        sequence.add("leave", _each, command, times)
    return sequence.work()


def _row_major(sequence: _Sequence, op: Gemv, held: int) -> None:
    """AiM: MACs of all banks against the global buffer; bias write and result read around each dot product."""
    part = sequence.part
    lanes, banks = part.pim.lanes, part.banks
    row_elements = part.row_bytes // part.pim.element
    pack = max(1, row_elements // (-(-op.cols // lanes) * lanes))
    bank_rows = -(-op.cols // row_elements)
    tiles = -(-op.rows // (banks * pack))
    base = sequence.take(op, tiles * bank_rows)
    sets = [min(held, op.vectors - start) for start in range(0, op.vectors, held)]
    for bank_row, elements in _pieces(op.cols, row_elements, part.pim.vector_buffer // part.pim.element // held // lanes * lanes):
        steps = -(-elements // lanes)
        sequence.add("load", _each, "WR_GB", steps * sets[0])
        first, whole = sequence.size, tiles - 1
        rest = op.rows - whole * banks * pack
        ahead = min(2, whole)
        repeats = whole // 2 - 1 if whole > 1 else 0
        for tile in [*range(ahead), *range(ahead + 2 * repeats, tiles)]:
            if tile == ahead + 2 * repeats:
                sequence.repeat(first, repeats, 2 * bank_rows)
            results = min(pack, -(-(rest if tile == whole else banks * pack) // banks))
            row = base + tile * bank_rows + bank_row
            for writes, dots, last in _row_major_parts(part, steps, results, sets):
                sequence.add("tile" if last else "part of a tile", _row_major_tile, writes, steps, dots, last, row=row)
            sets.reverse()  # the set that is in the buffer when a row closes is the first of the next


def _pieces(elements: int, row: int, held: int) -> Iterator[tuple[int, int]]:
    """Row of a bank and length of every piece of a long row: as much as the buffer holds of a vector, and never over the end of a row."""
    for first in range(0, elements, row):
        here = min(row, elements - first)
        yield from ((first // row, min(held, here - start)) for start in range(0, here, held))


def _row_major_parts(part: PimPart, steps: int, results: int, sets: Sequence[int]) -> Iterator[tuple[int, int, bool]]:
    """Buffer writes, dot products and whether it is the last, of the blocks of a tile: each about as many steps as a row has columns.

    Refresh comes between blocks, so a row that many vectors or many short rows use stays open over several of them.
    """
    most = max(1, part.row_bytes // part.request_bytes // steps)
    for number, vectors in enumerate(sets):
        left = vectors * results
        for first in range(0, left, most):
            last = number == len(sets) - 1 and first + most >= left
            yield (steps * vectors if number and not first else 0), min(most, left - first), last


def _row_major_tile(part: PimPart, writes: int, steps: int, dots: int, last: bool) -> list[list[int]]:
    dot = [line(part, "WR_BIAS"), *[line(part, "MACAB")] * steps, line(part, "RD_MAC")]
    lines = [line(part, "ACT16", row=0, when=IF_CLOSED, run=2), *[line(part, "WR_GB")] * writes, *dot * dots]
    if not last:
        return lines
    lines[-1] = line(part, "RD_MAC", run=2)
    return [*lines, line(part, "PREab")]


def _column_major(sequence: _Sequence, op: Gemv, held: int) -> None:
    """HBM-PIM in all-bank mode: scalars broadcast to all units, MACs over the even and then the odd banks, results written back."""
    part, pim = sequence.part, sequence.part.pim
    outputs = part.banks // pim.banks_per_unit * pim.lanes
    columns, scalars = part.row_bytes // part.request_bytes, pim.vector_buffer // pim.element
    registers = min(pim.accumulators // held, -(-op.rows // outputs))
    inputs = pim.banks_per_unit * (columns // registers)
    bank_rows = -(-op.cols // inputs)
    tiles = -(-op.rows // (outputs * registers))
    base = sequence.take(op, tiles * bank_rows + 1)
    begin, rounds = sequence.size, -(-op.vectors // held)
    for number in dict.fromkeys((0, rounds - 1)):
        if number:
            sequence.repeat(begin, rounds - 2, 0)
        vectors = min(held, op.vectors - number * held)
        for tile in range(tiles):
            here = min(registers, -(-(op.rows - tile * outputs * registers) // outputs))
            shape, row = (columns // registers, here, vectors), base + tile * bank_rows
            sequence.add("clear", _each, "WR_GRF", here * vectors)
            if whole := op.cols // inputs:
                first = sequence.size
                _column_major_inputs(sequence, inputs, scalars, shape, row)
                sequence.repeat(first, whole - 1, 1)
            _column_major_inputs(sequence, op.cols % inputs, scalars, shape, row + whole)
            sequence.add("results", _column_major_results, here * vectors, row=base + tiles * bank_rows)


def _column_major_inputs(sequence: _Sequence, inputs: int, scalars: int, shape: tuple[int, int, int], row: int) -> None:
    """Inputs of one row, as many at a time as the units hold scalars."""
    for start in range(0, inputs, scalars):
        last = start + scalars >= inputs
        name = "tile" if last else "part of a tile"
        sequence.add(name, _column_major_row, start, min(start + scalars, inputs), *shape, last, row=row)


def _column_major_row(part: PimPart, start: int, stop: int, bank_inputs: int, registers: int, vectors: int,
                      last: bool) -> list[list[int]]:
    """Inputs of an open row, as many as the units hold scalars: each vector's scalars, and every output of them."""
    lines = [line(part, "ACTab", row=0, when=IF_CLOSED, run=2)]
    for _ in range(vectors):
        lines.append(line(part, "WR_SRF"))
        for i in range(start, stop):
            lines += [line(part, "MAC", bank=i // bank_inputs)] * registers
    return [*lines, line(part, "PREab")] if last else lines


def _column_major_results(part: PimPart, registers: int) -> list[list[int]]:
    """Accumulators to a row of the first bank of every unit, and from there, in single-bank mode, out of the device."""
    first_banks = range(0, part.banks, part.pim.banks_per_unit)
    return [
        line(part, "ACTab", row=0), *[line(part, "GRF_WB")] * registers, line(part, "PREab"), line(part, "MODE_SB"),
        *[line(part, "ACT", bank, row=0, run=len(first_banks) if bank == 0 else 1) for bank in first_banks],
        *[line(part, "RD", bank) for _ in range(registers) for bank in first_banks],
        line(part, "PREab"), line(part, "MODE_AB"),
    ]  # fmt: skip


class _Layout(NamedTuple):
    room: Callable[[PimPart], int]
    """The most vectors that can be held."""
    together: bool
    """Whether it holds as many as fit, if not told."""
    make: Callable[[_Sequence, Gemv, int], None]
    enter: tuple[tuple[str, int], ...]
    """Commands and how many before the first operator."""
    leave: tuple[tuple[str, int], ...]


LAYOUTS = {
    "aim": _Layout(lambda part: part.pim.vector_buffer // (part.pim.lanes * part.pim.element), True, _row_major, (("TMOD", 1),), ()),
    "hbm-pim": _Layout(lambda part: part.pim.accumulators, False, _column_major, (("MODE_AB", 1), ("WR_CRF", PROGRAM_WRITES)),
                       (("MODE_SB", 1),)),
}
"""By style of the part."""


def commands(work: Work) -> Stream:
    """Every command of a work in order, with its rows."""
    streams = [Stream(block.lines, np.array([0, len(block.lines)]), block.need[None]) for block in work.blocks]
    whole = join(streams, work.order)
    whole.lines[:, 2] = np.repeat(work.rows, np.diff(whole.blocks))
    return whole


def issue(part: PimPart, work: Work) -> Issued:
    """All commands of a work with their ticks, one by one; `solve` gives the same end and counts."""
    return run(part, commands(work), new_state(part))


def solve(part: PimPart, work: Work) -> Total:
    """End and command counts of a work by remembered transitions between its blocks, exact."""
    return Steady(part, list(work.blocks)).run(work.order)


def tiles(part: PimPart, work: Work) -> list[Tile]:
    """The different blocks of a work: how often, how long, of which commands."""
    free = without_refresh(part)
    out = []
    for number, (block, name) in enumerate(zip(work.blocks, work.names, strict=True)):
        one = [Stream(block.lines, np.array([0, len(block.lines)]), block.need[None])]
        thrice = run(free, join(one, np.zeros(3, np.int64)), new_state(free), record=False)
        counts = {command: count for command, count in run(free, one[0], new_state(free), record=False).counts.items() if count}
        out.append(Tile(name, int((work.order == number).sum()), int(thrice.times[2, 0] - thrice.times[1, 0]), counts))
    return out


def shares(total: int, channels: int) -> list[int]:
    """A number of rows or tokens divided over channels, the first ones taking what is left over."""
    if total < 1 or channels < 1:
        raise ValueError(f"{total} over {channels} channels: want at least one of each")
    return [total // channels + (i < total % channels) for i in range(channels)]


def spread(part: PimPart, channels: Sequence[Sequence[Gemv]], *, held: int | None = None) -> Spread:
    """Operators of every channel, one after the other in each; channels with the same list are solved once. A list may be empty."""
    solved: dict[tuple[Gemv, ...], Total] = {(): Total(0, dict.fromkeys(part.commands, 0), 0, 0, dict.fromkeys(part.commands, 0))}
    for ops in map(tuple, channels):
        if ops not in solved:
            solved[ops] = solve(part, plan(part, *ops, held=held))
    return Spread(tuple(solved[tuple(ops)] for ops in channels))


def weights_over(op: Gemv, channels: int) -> list[list[Gemv]]:
    """The outputs of a matrix divided over channels, each with the whole vector."""
    return [[op._replace(rows=rows)] if rows else [] for rows in shares(op.rows, channels)]


def scores(tokens: int, head_dim: int, group: int = 1) -> Gemv:
    """Keys of one KV head times the queries of its group."""
    return Gemv(tokens, head_dim, group)


def values(tokens: int, head_dim: int, group: int = 1) -> Gemv:
    """Values of one KV head, transposed, times the scores of its group."""
    return Gemv(head_dim, tokens, group)


def heads_over(op: Gemv, heads: int, channels: int) -> list[list[Gemv]]:
    """Head per channel: KV heads, one operator each, dealt out in turn."""
    return [[op] * count for count in shares(heads, channels)]


def tokens_over(tokens: Sequence[int], head_dim: int, heads: int, group: int = 1) -> tuple[list[list[Gemv]], list[list[Gemv]]]:
    """Sequence split: tokens of a request that every channel holds (zero allowed) -> scores and values, all KV heads in each."""
    if not any(tokens) or min(tokens) < 0:
        raise ValueError(f"tokens {list(tokens)}: want zero or more in every channel, and some")
    key = [[scores(count, head_dim, group)] * heads if count else [] for count in tokens]
    value = [[values(count, head_dim, group)] * heads if count else [] for count in tokens]
    return key, value
