"""From a GEMV to PIM commands: tiles, vector loads and NeuPIMs' key and value layouts, as blocks of a command stream of one channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.pimissue import (
    ALWAYS,
    BASE,
    IF_BANK_CLOSED,
    IF_BANK_OTHER,
    IF_CLOSED,
    IF_OPEN,
    IF_OTHER,
    IF_SAME,
    INTERVAL,
    PER_OPEN,
    RELEASE,
    VECTOR_BANK,
    VECTOR_ROW,
)
from .pimpart import Issued, PimPart, State, Stream, clocks, new_state, run

if TYPE_CHECKING:
    import pandas as pd

Int64s = NDArray[np.int64]
VECTOR_BANK_NUMBER = 0
VECTOR_ROW_NUMBER = 0
"""Where the layouts keep the vector that is loaded into the vector buffer."""


Layout = Literal["heads", "tokens"]
"""What a row of keys holds: one token's keys of several heads, or several tokens' keys of one head."""
SENT = ("GWRITE", "P_HEADER", "COMP", "READRES", "COMPS_READRES")
"""Commands that a core sends to a channel; its controller adds those that open and close rows (casys-kaist/NeuPIMs f299af3)."""
SPARE = 2
"""The rule of the published simulator, which the kernel has, leaves two cycles more than it says before a refresh."""


class Block(NamedTuple):
    """Commands between which no refresh comes, and what they must have before one."""

    lines: Int64s
    need: Int64s


def line(part: PimPart, command: str, bank: int = 0, row: int = -1, steps: int = 0, when: int = ALWAYS, run: int = 1) -> list[int]:
    """A line of a stream: see the columns of kernels/pimissue.py."""
    return [part.id(command), bank, row, steps, when, run]


def trace(part: PimPart, issued: Issued) -> pd.DataFrame:
    """The recorded commands as sim/dram/check.py reads them: tick, command, pc, ra, bg, ba (-1 where it addresses no such), ro, steps."""
    import pandas as pd

    tick, command, bank, row, steps = issued.commands.T[:5]
    columns = {"tick": tick, "command": np.array(part.commands, object)[command]}
    nodes = part.node - part.node[:, :1]
    for level, name in enumerate(("pc", "ra", "bg", "ba"), 1):
        inside = nodes[level] - nodes[level - 1] * (part.span[level - 1] // part.span[level])
        columns[name] = np.where(part.scope[command] >= level, inside[bank], -1)
    return pd.DataFrame(columns | {"ro": row, "steps": steps})


def timed_block(part: PimPart, lines: list[list[int]]) -> Block:
    """The lines with what they must have before a refresh: what they take without one, alone or after themselves."""
    free = without_refresh(part)
    block = Block(np.array(lines, np.int64), _need(0))
    times = run(free, stream([block, block]), new_state(free), record=False).times
    return block._replace(need=_need(int((times[:, 1] - times[:, 0]).max())))


def without_refresh(part: PimPart) -> PimPart:
    """The part as `pim_part(refresh=False)` makes it."""
    setup = part.setup.copy()
    setup[INTERVAL] = 0
    return part._replace(setup=setup)


def _need(base: int, per_open: int = 0, closed: int = 0, other: int = 0, bank: int = -1, row: int = -1) -> Int64s:
    need = np.zeros(7, np.int64)
    need[[BASE, PER_OPEN, IF_BANK_CLOSED, IF_BANK_OTHER, VECTOR_BANK, VECTOR_ROW]] = base, per_open, closed, other, bank, row
    return need


def _load_lines(part: PimPart, bank: int, row: int) -> list[list[int]]:
    return [
        line(part, "PREpb", bank, row, when=IF_OTHER),
        line(part, "ACT", bank, row, when=IF_CLOSED),
        line(part, "GWRITE", bank, row),
    ]


def load_vector(part: PimPart, *, row: int = VECTOR_ROW_NUMBER, bank: int = VECTOR_BANK_NUMBER) -> Block:
    """Open the row of the vector in the ordinary buffer, unless it is, and copy it into the vector buffer of the channel."""
    part.of_style("newton")
    opening = clocks(part, "nRP + nRCDRD")
    need = _need(clocks(part, "nGWR"), 0, opening, opening + clocks(part, "nRTP"), bank, row)
    return Block(np.array(_load_lines(part, bank, row), np.int64), need)


class Swap(NamedTuple):
    """Vectors that take the place of those in the vector buffer while a tile's rows are open, and the results read for them."""

    places: tuple[tuple[int, int], ...]
    """Bank and row of each."""
    dots: int


def tile(part: PimPart, *, row: int, dots: int, steps: int, announced: int | None = None, swaps: Sequence[Swap] = ()) -> Block:
    """One row of every bank against the vector buffer: `dots` results of `steps` steps each, read after each; the same for each swap.

    It first closes what the tile before left open. `announced` steps stand in its header, from which neupims-compat estimates
    its length; by default all of them.
    """
    part.of_style("newton")
    if min(dots, steps, *(swap.dots for swap in swaps)) < 1:
        raise ValueError(f"tile of {dots} dot products of {steps} steps: want at least one of each")
    if swaps and part.buffers == "single":
        raise ValueError("a tile cannot change its vector where a bank has a single row buffer, which holds the tile's row")
    shut = "PIM_PRECHARGE" if part.buffers == "dual" else "PREpb"
    lines = [line(part, shut, bank, when=IF_OPEN, run=part.banks if bank == 0 else 1) for bank in range(part.banks)]
    if part.buffers == "dual":  # no row in both buffers of a bank
        lines += [line(part, "PREpb", bank, row, when=IF_SAME, run=part.banks if bank == 0 else 1) for bank in range(part.banks)]
    lines.append(line(part, "P_HEADER", row=row))
    groups = range(part.ranks * part.groups)
    lines += [line(part, "G_ACT", group * part.group_banks, row, run=len(groups) if group == 0 else 1) for group in groups]
    lines += _dot_lines(part, row, dots, steps)
    for swap in swaps:
        lines += [one for place in swap.places for one in _load_lines(part, *place)]
        lines += _dot_lines(part, row, swap.dots, steps)
    need = _tile_need(part, dots + sum(swap.dots for swap in swaps), steps, announced)
    return Block(np.array(lines, np.int64), _with_swaps(part, need, dots, steps, swaps) if swaps else need)


def _dot_lines(part: PimPart, row: int, dots: int, steps: int) -> list[list[int]]:
    fill = part.timings["nFILL"]
    if part.buffers == "dual":
        return [line(part, "COMPS_READRES", row=row, steps=max(steps, fill))] * dots
    return ([line(part, "COMP", row=row, steps=max(0, fill - steps))] * steps + [line(part, "READRES", row=row)]) * dots


def _with_swaps(part: PimPart, need: Int64s, dots: int, steps: int, swaps: Sequence[Swap]) -> Int64s:
    """What a tile must have before a refresh with its swaps, a few cycles more than it takes where rows of vectors are closed.

    Those are opened under the dot products, the first not before the four-activate window of the tile's own activations is over.
    """
    loads = sum(len(swap.places) for swap in swaps)
    hidden = clocks(part, f"(nSTEP * {max(steps, part.timings['nFILL'])} + nSTEP) * {dots}")
    closed = max(0, part.timings["nFAW"] - hidden) + len(swaps)
    bank, row = swaps[0].places[0]
    return need + _need(clocks(part, f"nGWR * {loads}"), 0, closed, closed + clocks(part, "nRP + 1"), bank + 1, row + 1)


def _tile_need(part: PimPart, dots: int, steps: int, announced: int | None) -> Int64s:
    """Cycles before the next refresh that a tile is started with.

    Compat: the published simulator's estimate, five cycles for every open bank and no result reads but the gaps between them.
    Otherwise to the cycle: from the first command until the rows may be closed again.
    """
    at_least = max(steps, part.timings["nFILL"])
    if part.compat:
        said = max(announced if announced is not None else dots * steps, part.timings["nFILL"])
        activates = part.ranks * part.groups // 2 - 1
        return _need(clocks(part, f"nFAW * {activates} + nRCDRD + nSTEP * {said} + nSTEP * {dots - 1}"), clocks(part, "nRTP"))
    activation = clocks(part, f"1 + nFAW * {part.groups - 1} + {part.ranks - 1} + nRCDRD")
    return _need(activation + clocks(part, f"nSTEP * {at_least + 1} * {dots} - nSTEP + nRTP") - SPARE, 1)


def stream(blocks: list[Block], *, release: int = 0) -> Stream:
    """The blocks in order; none is issued before tick `release`."""
    if not blocks:
        return Stream(np.empty((0, 6), np.int64), np.zeros(1, np.int64), np.empty((0, 7), np.int64))
    needs = np.stack([block.need for block in blocks])
    needs[:, RELEASE] = release
    ends = np.cumsum([0, *(len(block.lines) for block in blocks)])
    return Stream(np.concatenate([block.lines for block in blocks]), ends.astype(np.int64), needs)


def sent_streams(part: PimPart, streams: Sequence[Stream], *, start: int, width: int | None) -> list[Stream]:
    """The streams of all channels of a core that sends them `width` commands a tick from `start` on, one channel after the other.

    A block comes no earlier than its first sent command, and no later either: in the channel each takes a tick or more. None sends
    all at once. ValueError for a width below 1.
    """
    if width is not None and width < 1:
        raise ValueError(f"issue width is {width}; want at least one command a tick, or None for no limit")
    ids = [part.commands.index(name) for name in SENT if name in part.commands]
    out, before = [], 0
    for one in streams:
        sent = before + np.concatenate([[0], np.cumsum(np.isin(one.lines[:, 0], ids))])
        needs = one.needs.copy()
        needs[:, RELEASE] = start + (sent[one.blocks[:-1]] // width if width else 0)
        out.append(one._replace(needs=needs))
        before = int(sent[-1])
    return out


class Attention(NamedTuple):
    """Attention of one decode step of one request on one channel."""

    tokens: int
    heads: int
    """KV heads."""
    head_dim: int
    group: int = 1
    """Query heads of one KV head."""


class Step(NamedTuple):
    """A block of an operator before it is made of a part's commands: a vector load (`bank` 0 or more) or a tile."""

    row: int
    bank: int = -1
    """Of the vector that is loaded."""
    dots: int = 0
    steps: int = 0
    announced: int = 0
    swaps: tuple[Swap, ...] = ()


def made(part: PimPart, step: Step) -> Block:
    """The block of a step."""
    if step.bank >= 0:
        return load_vector(part, bank=step.bank, row=step.row)
    return tile(part, row=step.row, dots=step.dots, steps=step.steps, announced=step.announced, swaps=step.swaps)


def _place(part: PimPart, vector: int) -> tuple[int, int]:
    """Bank and row of a vector of the group: one a bank, so that all may stay open in the ordinary buffers."""
    return (VECTOR_BANK_NUMBER + vector) % part.banks, VECTOR_ROW_NUMBER + vector // part.banks


def _serve(part: PimPart, op: Attention, rows: Sequence[int], each: Sequence[int], steps: int, announced: int, vectors: int) -> list[Step]:
    """Every row against the vectors of the whole group, as many of them at a time as the vector buffer holds.

    `each` is the dot products of a vector in each row. Of the two ways to serve a group, this takes the one that a buffer of one vector
    forces: a row is opened once and the vectors are loaded one after the other while it is open. They go forward in one row and backward
    in the next, so the one that is loaded when a row closes is the first of the next: rows x (group - 1) + 1 loads.
    The other way, batching in the vector buffer, is `vectors` of at least the group: group loads serve all rows.
    A single row buffer cannot hold the row and a vector, so there each set of vectors goes through all rows, opened once a set.
    """
    if op.group < 1 or vectors < 1:
        raise ValueError(f"group of {op.group} query heads, vector buffer for {vectors} vectors: want at least one of each")
    places = [_place(part, v) for v in range(op.group)]
    sets = [tuple(places[first : first + vectors]) for first in range(0, op.group, vectors)]
    out = []
    if part.buffers == "single" or len(sets) == 1:
        for held in sets:
            out += [Step(row, bank) for bank, row in held]
            count = len(held)
            out += [Step(row, -1, dots * count, steps, announced * count) for row, dots in zip(rows, each, strict=True)]
        return out
    out += [Step(row, bank) for bank, row in sets[0]]
    for row, dots in zip(rows, each, strict=True):
        swaps = tuple(Swap(held, dots * len(held)) for held in sets[1:])
        out.append(Step(row, -1, dots * len(sets[0]), steps, announced * op.group, swaps))
        sets.reverse()
    return out


def score_steps(part: PimPart, op: Attention, *, first_row: int = 1, vectors: int = 1, layout: Layout = "heads") -> list[Step]:
    """Query times keys, one token's key a bank. A key longer than a row lies in pieces, whose results are added by who reads them.

    Layout `heads` (NeuPIMs): a row holds one token's keys of as many heads as fit, and a vector one query of each of them.
    Layout `tokens` (ours, as AiM's rows): a row holds one head's keys of as many tokens as fit, which its query goes past one by one.
    The vector buffer holds `vectors` vectors.
    """
    row_elements = part.row_bytes // part.pim.element
    pieces = -(-op.head_dim // row_elements)
    keys = max(1, row_elements // op.head_dim)
    piece = -(-op.head_dim // pieces)
    steps = -(-piece // part.pim.lanes)
    row_heads, row_tokens = (keys, 1) if layout == "heads" else (1, keys)
    tiles = -(-op.tokens // (part.banks * row_tokens))
    chunks = -(-op.heads // row_heads) * pieces
    first_row += (op.group - 1) // part.banks
    last = -(-(op.tokens - (tiles - 1) * part.banks * row_tokens) // part.banks)
    out = []
    for chunk in range(chunks):
        here = min(row_heads, op.heads - chunk // pieces * row_heads)
        said = 1 << (here * row_tokens * steps).bit_length() - 1
        rows = [first_row + i * chunks + chunk for i in range(tiles)]
        out += _serve(part, op, rows, [here * row_tokens] * (tiles - 1) + [here * last], steps, said, vectors)
    return out


def value_steps(part: PimPart, op: Attention, *, first_row: int = 1, vectors: int = 1) -> list[Step]:
    """Scores times values, head by head: a row holds up to 512 tokens of one output dimension, 32 dimensions a tile.

    A vector holds the scores of one query head. The vector buffer holds `vectors` of them.
    """
    row_tokens = part.row_bytes // part.pim.element
    chunks = -(-op.tokens // row_tokens)
    tiles = -(-op.head_dim // part.banks)
    first_row += (op.group - 1) // part.banks
    out = []
    for head in range(op.heads):
        for chunk in range(chunks):
            steps = -(-min(row_tokens, op.tokens - chunk * row_tokens) // part.pim.lanes)
            said = 1 << (steps - 1).bit_length()
            rows = [first_row + (head * tiles + i) * chunks + chunk for i in range(tiles)]
            out += _serve(part, op, rows, [1] * tiles, steps, said, vectors)
    return out


def score_blocks(part: PimPart, op: Attention, *, first_row: int = 1, vectors: int = 1, layout: Layout = "heads") -> list[Block]:
    """The blocks of `score_steps`."""
    return [made(part, step) for step in score_steps(part, op, first_row=first_row, vectors=vectors, layout=layout)]


def value_blocks(part: PimPart, op: Attention, *, first_row: int = 1, vectors: int = 1) -> list[Block]:
    """The blocks of `value_steps`."""
    return [made(part, step) for step in value_steps(part, op, first_row=first_row, vectors=vectors)]


class Attended(NamedTuple):
    """Attention of the requests of one channel."""

    score: Issued
    value: Issued
    busy_cycles: int
    """From `start` to the last command, less the pause for the softmax: how long PIM commands waited or ran."""


def attend(
    part: PimPart, requests: list[Attention], *, start: int = 0, softmax_cycles: int = 0, vectors: int = 1, state: State | None = None
) -> Attended:
    """Scores of all requests, a pause for the softmax of an outside unit, then values of all requests, as NeuPIMs orders them."""
    state = new_state(part, start=start) if state is None else state
    first_row = VECTOR_ROW_NUMBER + 1
    keys = [block for op in requests for block in score_blocks(part, op, first_row=first_row, vectors=vectors)]
    score = run(part, stream(keys, release=start), state, record=False)
    values = [block for op in requests for block in value_blocks(part, op, first_row=first_row, vectors=vectors)]
    value = run(part, stream(values, release=score.end + 1 + softmax_cycles), state, record=False)
    return Attended(score, value, value.end + 1 - start - softmax_cycles if requests else 0)
