"""AttAcc: command counts and cycles of decode attention on one PIM-HBM3 stack (reference/pim.md, 9.1), head per channel.

The stack is modelled by one channel of it, the first, which has a head in every round. Barriers cut its work into sections: dot products at
their spacing, with rows opened between them, beside moves between buffers; a section ends when both have been issued. Refresh lengthens the
whole. Counts are those of the published trace generator, with what its shares round away and with its repeated softmax in odd last rounds
(before its commit c600051, which the shipped table predates).
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import pandas as pd

from .report import Compared, SkipError, Watch, need, number, walk, whole

Level = Literal["BA", "BG", "BUFFER"]
CHANNELS = 16
ROUND = 16
"""Results that are gathered before they move to the softmax buffer."""
QUEUE = 32
"""Requests that a channel's controller looks at."""
ROW_COLUMNS = 32
COLUMN_BYTES = 32
# HBM3-PIM.cpp, HBM3_5.2Gbps, in clocks of 0.769 ns; nRFC is 350 ns
N_RCD, N_RP, N_RAS, N_RTP, N_REFI, N_RFC, N_CCDL, N_BL = 19, 19, 45, 8, 5070, 456, 4, 2
N_CCD_LIMITED, N_CCD_FREE = 6, 4
REFRESH_CLOCKS = N_RTP + N_RP + 1 + N_RFC + N_RCD
"""Close, refresh both pseudo-channels, open again."""
REOPEN_PER_BANK_CLOCKS = 40
"""Guess: what of 32 single-bank activations, three clocks each on the row bus, 64 clocks of dot products do not hide."""
COLUMNS = ("mac", "softmax", "mvgb", "mvsb", "wrgb")


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
    macs: int
    stream: str
    """Which operand the MACs read, row after row; empty for none."""
    move_clocks: int


def shape(tokens: int, head_dim: int, element_bytes: int, level: Level) -> Shape:
    lanes = COLUMN_BYTES // element_bytes
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
    spacing = N_BL if one.level == "BUFFER" else N_CCD_LIMITED if limited else N_CCD_FREE
    pair, alone = _steady_clocks(one, spacing)
    rounds = -(-heads // CHANNELS)
    busy = rounds // 2 * pair + rounds % 2 * alone
    return busy + REFRESH_CLOCKS * (busy // (N_REFI - REFRESH_CLOCKS))


@lru_cache(maxsize=4096)
def _steady_clocks(one: Shape, spacing: int) -> tuple[int, int]:
    """Clocks of a pair of overlapped heads after others like it, and of a head alone."""
    ends = _ends(_pair(one), one.level, spacing, 3)
    return ends[2] - ends[1], _ends(_alone(one), one.level, spacing, 1)[0]


def _pair(one: Shape) -> list[Section]:
    """Scores of head 0; scores of 1 beside softmax of 0; values of 0 beside softmax of 1; values of 1."""
    moves = N_BL * one.score_moves
    sections = [Section(0, "", N_CCDL * one.vector + N_BL * one.value_moves)]
    for head in (0, 1):
        for j in range(one.rounds):
            beside = moves if j or head else 0
            if head == 0:
                beside += N_CCDL * one.vector // one.rounds
            else:
                beside += N_BL * (j == 0) + (N_BL * one.scores // -(-one.rounds // 2) if j >= one.rounds // 2 else 0)
            sections.append(Section(_macs(one, j), f"keys {head}", beside))
    for head in (0, 1):
        for j in range(one.steps):
            beside = moves if not (j or head) else N_BL * one.value_moves
            if head == 0:
                beside += N_BL * (j == 0) + (N_BL * one.scores // -(-one.steps // 2) if j >= one.steps // 2 else 0)
            sections.append(Section(one.keys, f"values {head}", beside))
    return sections


def _alone(one: Shape) -> list[Section]:
    softmax = Section(0, "", N_BL + N_BL * one.scores)
    sections = [Section(0, "", N_CCDL * one.vector)]
    for j in range(one.rounds + 1):
        sections += [Section(_macs(one, j), "keys", N_BL * one.score_moves if j else 0), softmax]
    sections += [Section(one.keys, "values", N_BL * one.value_moves if j else 0) for j in range(one.steps)]
    return [*sections, Section(0, "", N_BL * one.value_moves)]


def _macs(one: Shape, j: int) -> int:
    return max(0, min(ROUND, one.keys - ROUND * j)) * one.steps


def _ends(sections: list[Section], level: Level, spacing: int, repeats: int) -> list[int]:
    """Clock at which each repeat of the sections is over."""
    row_macs = {"BA": ROW_COLUMNS, "BG": 2**40, "BUFFER": ROW_COLUMNS * 32}[level]     # BG: the next bank opens meanwhile
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
                first = max(now, last + spacing)
                if wanted != row and level == "BA":
                    opened = max(last + N_RTP, opened + N_RAS) + N_RP
                    first = max(first, opened + N_RCD)
                elif wanted != row and wanted[0] == row[0]:
                    first = max(first, last + REOPEN_PER_BANK_CLOCKS)
                if done <= section.macs - QUEUE < done + run:       # moves come into the queue behind the dot products
                    moves_from = first + (section.macs - QUEUE - done) * spacing
                row, last = wanted, first + (run - 1) * spacing
                done, gone[section.stream], end = done + run, gone[section.stream] + run, last
            now = max(end, moves_from + section.move_clocks if section.move_clocks else now) + 1
        ends.append(now)
    return ends


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """Counts and clocks over a table like attacc_pim_cycles.csv; the errors are of the clocks, a row is exact in its counts."""
    need(table, ("L", "nhead", "dhead", "dbyte", "pim_type", "power_constraint", "cycle", *COLUMNS))
    result = walk("attacc", table, _row, watch)
    errors = pd.Series([abs(row["error"]) for row in result["detail"]], dtype=float)
    return {**result, "median_error": float(errors.median()) if len(errors) else None}


def _row(at: int, row: dict[str, Any]) -> Compared:
    level, limited = row["pim_type"], str(row["power_constraint"])
    if level not in ("BA", "BG", "BUFFER"):
        raise SkipError(f"pim_type is {level!r}, not BA, BG or BUFFER")
    if limited not in ("True", "False"):
        raise SkipError(f"power_constraint is {limited!r}, not True or False")
    heads, element_bytes = whole(row, "nhead"), whole(row, "dbyte")
    if COLUMN_BYTES % element_bytes:
        raise SkipError(f"dbyte is {element_bytes}, which does not divide a column of {COLUMN_BYTES} bytes")
    one = shape(whole(row, "L"), whole(row, "dhead"), element_bytes, level)
    ours = dict(zip(COLUMNS, counts(one, heads), strict=True))
    equal = {name: ours[name] == number(row, name) for name in COLUMNS}
    group = f"{level}, {'power-limited' if limited == 'True' else 'no limit'}"
    clocks = cycles(one, heads, limited=limited == "True")
    return Compared(at, group, number(row, "cycle"), clocks, equal, all(equal.values()), ours)
