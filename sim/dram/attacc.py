"""AttAcc: command counts and cycles of decode attention on one PIM-HBM3 stack, head per channel, as attacc_simulator c600051 generates it.

The stack is modelled by one channel of it, the first, which has a head in every round. Barriers cut its work into sections: dot products at
their spacing, with rows opened between them, beside moves between buffers; a section ends when both have been issued. Refresh lengthens the
whole. Counts are those of the published trace generator, with what its shares round away and with its repeated softmax in odd last rounds.
Timings are those of a memory part with AttAcc's commands (hbm3-attacc, hbm3-attacc-npc); `head_blocks` gives the bank level as commands.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from .part import Part, load
from .pimpart import PimPart
from .pimstream import Block, line, timed_block

Level = Literal["BA", "BG", "BUFFER"]
"""Where the units are: at the banks, at the bank groups, on the buffer die."""
CHANNELS = 16
ROUND = 16
"""Results that are gathered before they move to the softmax buffer."""
QUEUE = 32
"""Requests that a channel's controller looks at."""
REOPEN_PER_BANK_CLOCKS = 40
"""Guess: what of 32 single-bank activations, three clocks each on the row bus, 64 clocks of dot products do not hide."""


class Clocks(NamedTuple):
    """What the sections take of a part's timings, in clocks."""

    spacing: int
    """From one dot product of a level to the next."""
    move: int
    write: int
    """From one write of a vector to the next."""
    open: int
    close: int
    after: int
    """From a dot product to the closing of its row."""
    held: int
    """A row from opening to closing."""
    refresh: int
    """Close, refresh, open again."""
    interval: int
    row_columns: int
    column_bytes: int


@lru_cache(maxsize=16)
def clocks(level: Level, *, limited: bool = True) -> Clocks:
    """Of the bundled part with the power limit or without."""
    return clocks_of(load("hbm3-attacc" if limited else "hbm3-attacc-npc"), level)


def clocks_of(part: Part, level: Level) -> Clocks:
    """Of a part with AttAcc's commands."""
    n = part.spec.timings
    spacing = {"BA": n["nCCDAB"], "BG": n["nCCDSB"], "BUFFER": n["nBL"]}[level]
    return Clocks(spacing, n["nBL"], n["nCCDL"], n["nRCDRD"], n["nRP"], n["nRTPL"], n["nRAS"],
                  n["nRTPL"] + n["nRP"] + 1 + n["nRFC"] + n["nRCDRD"], n["nREFI"], part.columns, part.request_bytes)  # fmt: skip


class Shape(NamedTuple):
    """Commands of one head on one channel."""

    level: Level
    keys: int
    """Dot products that each of the units that split the sequence has."""
    steps: int
    """MACs of one of them; also the number of output columns."""
    vector: int
    """Writes of the query into the GEMV buffers."""
    scores: int
    """Moves of the softmaxed scores into the GEMV buffers."""
    score_moves: int
    """Moves to the softmax buffer after each round of results."""
    value_moves: int

    @property
    def rounds(self) -> int:
        return -(-self.keys // ROUND)


class Section(NamedTuple):
    """What stands between two barriers."""

    macs: int = 0
    stream: str = ""
    """Which operand the MACs read, row after row; empty for none."""
    wrgb: int = 0
    mvsb: int = 0
    mvgb: int = 0
    sfm: int = 0

    def move_clocks(self, n: Clocks) -> int:
        return n.write * self.wrgb + n.move * (self.mvsb + self.mvgb + self.sfm)


def shape(tokens: int, head_dim: int, element_bytes: int, level: Level) -> Shape:
    """ValueError for elements that do not divide a column."""
    column_bytes = clocks(level).column_bytes
    if column_bytes % element_bytes:
        raise ValueError(f"elements of {element_bytes} bytes do not divide a column of {column_bytes} bytes")
    lanes = column_bytes // element_bytes
    split = 2 if level == "BUFFER" else 16          # pseudo-channels, and but for the buffer die also ranks and bank groups
    writers = 1 if level == "BUFFER" else 8
    steps = -(-head_dim // (4 * lanes if level == "BA" else lanes))
    return Shape(level, -(-tokens // split), steps, (4 if level == "BA" else 1) * steps, writers * -(-tokens // (split * lanes)),
                 writers, {"BA": 8, "BG": 2, "BUFFER": 1}[level])  # fmt: skip


def counts(one: Shape, heads: int) -> tuple[int, ...]:
    """MAC, SFM, MVGB, MVSB and WRGB commands of all channels. Two rounds of heads overlap; an odd last one stands alone."""
    mac = softmax = to_vector = to_softmax = write = 0
    left = [min(CHANNELS, heads - first) for first in range(0, heads, CHANNELS)]
    score_macs = one.keys * one.steps
    for first, second in zip(left[:-1:2], left[1::2], strict=True):
        write += one.vector * first + _shared(one.vector * second, one.rounds)
        mac += score_macs * (first + second) + 2 * score_macs * first       # the second head's values: it repeats the first's
        to_softmax += one.rounds * one.score_moves * (first + second) + 2 * one.steps * one.value_moves * first
        softmax += first + second
        to_vector += _shared(one.scores * first, -(-one.rounds // 2)) + _shared(one.scores * second, -(-one.steps // 2))
    mac += left[0] if len(left) > 1 else 0                                  # one to open the first row
    if len(left) % 2:
        last = left[-1]
        write += one.vector * last
        mac += 2 * score_macs * last
        to_softmax += (one.rounds * one.score_moves + one.steps * one.value_moves) * last
        softmax += last * (one.rounds + 1)
        to_vector += one.scores * last * (one.rounds + 1)
    return mac, softmax, to_vector, to_softmax, write


def _shared(commands: int, sections: int) -> int:
    """Commands dealt out over sections in equal whole shares; the rest is never issued."""
    return commands // sections * sections


def cycles(one: Shape, heads: int, *, limited: bool) -> int:
    """Clocks from the first command to the last."""
    n = clocks(one.level, limited=limited)
    of_pair, of_one = steady_clocks(one, n)
    rounds = -(-heads // CHANNELS)
    busy = rounds // 2 * of_pair + rounds % 2 * of_one
    return busy + n.refresh * (busy // (n.interval - n.refresh))


@lru_cache(maxsize=4096)
def steady_clocks(one: Shape, n: Clocks) -> tuple[int, int]:
    """Clocks of a pair of overlapped heads after others like it, and of a head alone."""
    ends = _ends(pair(one), one.level, n, 3)
    return ends[2] - ends[1], _ends(alone(one), one.level, n, 1)[0]


def row_openings(one: Shape, n: Clocks) -> int:
    """Rows that each bank opens for one head, keys and values: each operand begins a row."""
    return 2 * -(-one.keys * one.steps // n.row_columns)


def pair(one: Shape) -> list[Section]:
    """Scores of head 0; scores of 1 beside softmax of 0; values of 0 beside softmax of 1; values of 1."""
    sections = [Section(wrgb=one.vector, mvsb=one.value_moves)]
    for head in (0, 1):
        for j in range(one.rounds):
            gathered = one.score_moves if j or head else 0
            if head == 0:
                beside = Section(wrgb=one.vector // one.rounds, mvsb=gathered)
            else:
                late = one.scores // -(-one.rounds // 2) if j >= one.rounds // 2 else 0
                beside = Section(mvsb=gathered, mvgb=late, sfm=int(j == 0))
            sections.append(beside._replace(macs=_macs(one, j), stream=f"keys {head}"))
    for head in (0, 1):
        for j in range(one.steps):
            beside = Section(one.keys, f"values {head}", mvsb=one.value_moves if j or head else one.score_moves)
            if head == 0:
                late = one.scores // -(-one.steps // 2) if j >= one.steps // 2 else 0
                beside = beside._replace(mvgb=late, sfm=int(j == 0))
            sections.append(beside)
    return sections


def alone(one: Shape) -> list[Section]:
    """A head that no other overlaps: a softmax after every round of scores."""
    sections = [Section(wrgb=one.vector)]
    for j in range(one.rounds + 1):
        sections += [Section(_macs(one, j), "keys", mvsb=one.score_moves if j else 0), Section(sfm=1, mvgb=one.scores)]
    sections += [Section(one.keys, "values", mvsb=one.value_moves if j else 0) for j in range(one.steps)]
    return [*sections, Section(mvsb=one.value_moves)]


def _macs(one: Shape, j: int) -> int:
    return max(0, min(ROUND, one.keys - ROUND * j)) * one.steps


def _ends(sections: list[Section], level: Level, n: Clocks, repeats: int) -> list[int]:
    """Clock at which each repeat of the sections is over."""
    row_macs = {"BA": n.row_columns, "BG": 2**40, "BUFFER": n.row_columns * 32}[level]     # BG: the next bank opens meanwhile
    now, last, opened, row = 0, -(10**6), -(10**6), ("", -1)
    ends = []
    for repeat in range(repeats):
        gone: dict[str, int] = defaultdict(int)
        for section in sections:
            moves_from, done = now, 0
            end = now
            while done < section.macs:
                wanted = (f"{repeat} {section.stream}", gone[section.stream] // row_macs)
                run = min(section.macs - done, row_macs - gone[section.stream] % row_macs)
                first = max(now, last + n.spacing)
                if wanted != row and level == "BA":
                    opened = max(last + n.after, opened + n.held) + n.close
                    first = max(first, opened + n.open)
                elif wanted != row and wanted[0] == row[0]:
                    first = max(first, last + REOPEN_PER_BANK_CLOCKS)
                if done <= section.macs - QUEUE < done + run:       # moves come into the queue behind the dot products
                    moves_from = first + (section.macs - QUEUE - done) * n.spacing
                row, last = wanted, first + (run - 1) * n.spacing
                done, gone[section.stream], end = done + run, gone[section.stream] + run, last
            moves = section.move_clocks(n)
            now = max(end, moves_from + moves if moves else now) + 1
        ends.append(now)
    return ends


def bank_blocks(part: PimPart, work: Sequence[list[Section]]) -> list[Block]:
    """Heads or pairs of heads at the banks, one after the other, as commands; a block ends where rows are closed.

    The engine issues in order, so the two streams of a section are merged here, by the clocks that the sections alone would give them.
    """
    part.of_style("attacc")
    n = part.timings
    row_columns = part.row_bytes // part.request_bytes
    gone: dict[tuple[int, str], int] = defaultdict(int)
    now, last, opened, row = 0, -n["nCCDAB"], 0, ((-1, ""), -1)
    planned: list[tuple[int, list[int]]] = []
    for number, section in ((i, section) for i, sections in enumerate(work) for section in sections):
        operand, joins = (number, section.stream), now
        for i in range(section.macs):
            wanted = operand, gone[operand] // row_columns
            before, last = last, max(now, last + n["nCCDAB"])
            if wanted != row:
                closed = max(before + n["nRTPL"], opened + n["nRAS"], 0)
                if opened:
                    planned.append((closed, line(part, "PREab")))
                opened, row = closed + n["nRP"], wanted
                planned.append((opened, line(part, "ACTAB", row=0)))
                last = max(last, opened + n["nRCDRD"])
            if i == section.macs - QUEUE:  # moves come into the queue behind the dot products
                joins = last
            planned.append((last, line(part, "MACAB")))
            gone[operand] += 1
        moves = _moves(part, section, joins)
        planned += moves
        now = max([now, *([last] if section.macs else []), *(clock for clock, _ in moves[-1:])]) + 1
    planned.sort(key=lambda one: one[0])
    return _cut(part, [command for _, command in planned])


def _cut(part: PimPart, lines: list[list[int]]) -> list[Block]:
    """Blocks that end with rows closed; equal ones are timed once."""
    starts = [0, *(i + 1 for i, command in enumerate(lines) if command[0] == part.id("PREab"))]
    known: dict[bytes, Block] = {}
    blocks = []
    for first, stop in pairwise([*starts, len(lines)]):
        if stop > first:
            key = np.array(lines[first:stop], np.int64).tobytes()
            if key not in known:
                known[key] = timed_block(part, lines[first:stop])
            blocks.append(known[key])
    return blocks


def _moves(part: PimPart, section: Section, clock: int) -> list[tuple[int, list[int]]]:
    """Moves of a section from a clock on: softmax first, writes to one bank group, the others over the groups of a pseudo-channel."""
    groups = part.banks // 2 // part.group_banks
    planned = []
    for command, times, spacing in (("SFM", section.sfm, "nBL"), ("WRGB", section.wrgb, "nCCDL"), ("MVSB", section.mvsb, "nBL"),
                                    ("MVGB", section.mvgb, "nBL")):
        for i in range(times):
            bank = 0 if command in ("SFM", "WRGB") else i % groups * part.group_banks
            planned.append((clock, line(part, command, bank)))
            clock += part.timings[spacing]
    return planned
