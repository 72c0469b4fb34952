"""A systolic array of R x C cells, every register clocked (njit leaf).

One tile of the stationary operand after another, column folds outer, row folds inner. `x[T, Sr]` streams past `y[Sr, Sc]`,
which stays in the cells, and sums leave at the bottom; where outputs are stationary both stream, and y is [T, Sc]. Cells are
clocked from the bottom right to the top left, so that a cell still sees what its neighbours above and on its left held
before this cycle.
"""

import numpy as np
from numba import boolean, int64, njit, types
from numba.extending import register_jitable

X, FLAGS, Y, HOPS, HELD, SUM, OUT, READY = range(8)
"""Registers of a cell: operand that moves right and what is said of it; operand that moves down (a weight: the shadow register)
and how many rows a weight still has to go; stationary weight; partial sum or accumulator; shift-out register and whether it is full."""
VALID, FIRST, LAST = 1, 2, 4
"""Flags that travel with an operand: it is one; the first of its tile; the last."""
PIPELINED, SINGLE, SERIAL = range(3)
"""A second register in each cell; one register; one tile at a time."""
TILE, VECTOR, START, LOADED, ROW, LEFT, USED = range(7)
"""Sequencer: tile that streams, its vectors issued, cycle of its first; tiles loaded, rows issued of the next; results that left, and
that count."""

_MATRIX = types.Array(int64, 2, "C", readonly=True)


@register_jitable
def _stream(state, stationary, schedule, now, rows, cols, streamed, tiles):
    """Vector that enters row 0 in this cycle, numbered through all tiles, or -1."""
    tile = state[TILE]
    if state[VECTOR] == streamed and tile + 1 < tiles:
        if stationary:
            go = state[LOADED] > tile + 1
        elif schedule == SERIAL:
            go = state[LEFT] == (tile + 1) * rows * cols
        else:
            go = tile < 0 or now >= state[START] + rows + (streamed if schedule == SINGLE else 0)
        if go:
            state[TILE], state[VECTOR], state[START] = tile + 1, 0, now
    if state[VECTOR] == streamed:
        return -1
    state[VECTOR] += 1
    return state[TILE] * streamed + state[VECTOR] - 1


@register_jitable
def _load(state, schedule, streaming, rows, cols, sr, streamed, row_folds, tiles):
    """Row of weights that enters column 0 in this cycle, numbered through all tiles, or -1: last row first."""
    tile = state[LOADED]
    if tile == tiles:
        return -1
    if state[ROW] == 0 and tile > 0:
        free = state[TILE] == tile - 1 and (schedule == PIPELINED or not streaming)
        if schedule == SERIAL:
            free = free and state[LEFT] == tile * streamed * cols
        if not free:
            return -1
    used = rows if schedule == SERIAL else min(rows, sr - tile % row_folds * rows)
    row = used - 1 - state[ROW]
    state[ROW] += 1
    if row == 0:
        state[LOADED], state[ROW] = tile + 1, 0
    return tile * rows + row


@register_jitable
def _weighted_sum(cell, r, c, x, flags, single):
    """Clock a cell whose weight is stationary, before new weights move; returns its partial sum."""
    if flags & FIRST:
        cell[HELD, r, c] = cell[Y, r, c]
    weight = cell[Y, r, c] if single else cell[HELD, r, c]
    above = cell[SUM, r - 1, c] if r > 0 else 0
    cell[SUM, r, c] = above + x * weight
    return cell[SUM, r, c]


@register_jitable
def _accumulate(cell, taken, r, c, x, y, flags, single):
    """Clock a cell whose output is stationary: its finished sum moves out, or it passes on one from above; taken[c] says which."""
    gone = taken[c] == 1 or (r == cell.shape[1] - 1 and cell[READY, r, c] == 1)
    register = OUT if single else SUM
    if flags:
        cell[register, r, c] = (0 if flags & FIRST else cell[register, r, c]) + x * y
    taken[c] = 0
    if flags & LAST:
        cell[OUT, r, c], cell[READY, r, c] = cell[register, r, c], 1
    elif r > 0 and cell[READY, r - 1, c] == 1 and (gone or cell[READY, r, c] == 0):
        cell[OUT, r, c], cell[READY, r, c] = cell[OUT, r - 1, c], 1
        taken[c] = 1
    elif gone:
        cell[READY, r, c] = 0


@register_jitable
def _collect(state, arrived, value, stationary, serial, r, c, cols, sr, row_folds, streamed, out):
    """Add what leaves column c at the bottom to the result; its n-th value has its place."""
    per_tile = streamed if stationary else r + 1
    tile, at = arrived[c] // per_tile, arrived[c] % per_tile
    arrived[c] += 1
    state[LEFT] += 1
    row = at if stationary else tile % row_folds * (r + 1) + r - at
    col = tile // row_folds * cols + c
    if col < out.shape[1] or serial:
        state[USED] += 1
    if col < out.shape[1] and row < out.shape[0]:
        out[row, col] += value


@njit(int64(_MATRIX, _MATRIX, boolean, int64, int64[:, ::1], int64[:, :, ::1], int64[:, :, :, ::1]), cache=True)
def cell_array_kernel(x, y, stationary, schedule, out, cell, record):
    """Add the product to `out` (zeros) and return the cycles until its last value left.

    `stationary`: y stays in the cells, otherwise the outputs do. `cell`: zeros, [8 registers, R, C]. The registers at the end of
    each of the first cycles go into `record`.
    """
    rows, cols, streamed, sr, sc = cell.shape[1], cell.shape[2], x.shape[0], x.shape[1], y.shape[1]
    row_folds, col_folds = -(-sr // rows), -(-sc // cols)
    tiles, single, serial = row_folds * col_folds, schedule == SINGLE, schedule == SERIAL
    expected = (streamed if stationary else rows) * row_folds * (col_folds * cols if serial else sc)
    state = np.zeros(7, np.int64)
    state[TILE], state[VECTOR] = -1, streamed
    down, across = np.full(rows, -1, np.int64), np.full(cols, -1, np.int64)
    arrived, taken = np.zeros(cols, np.int64), np.zeros(cols, np.int64)
    now = 0
    while state[USED] < expected:
        down[1:], across[1:] = down[:-1].copy(), across[:-1].copy()
        down[0] = _stream(state, stationary, schedule, now, rows, cols, streamed, tiles)
        across[0] = down[0]
        if stationary:
            across[0] = _load(state, schedule, down[0] >= 0, rows, cols, sr, streamed, row_folds, tiles)
        taken[:] = 0
        for r in range(rows - 1, -1, -1):
            for c in range(cols - 1, -1, -1):
                operand, flags, weight, hops = 0, 0, 0, -1
                if c > 0:
                    operand, flags = cell[X, r, c - 1], cell[FLAGS, r, c - 1]
                elif down[r] >= 0:
                    tile, vector = down[r] // streamed, down[r] % streamed
                    lane = tile % row_folds * rows + r
                    operand = x[vector, lane] if lane < sr else 0
                    flags = VALID | (FIRST if vector == 0 else 0) | (LAST if vector == streamed - 1 else 0)
                if r > 0:
                    weight, hops = cell[Y, r - 1, c], cell[HOPS, r - 1, c] - 1
                elif across[c] >= 0:
                    period = rows if stationary else streamed
                    tile, hops = across[c] // period, across[c] % period
                    lane, row = tile // row_folds * cols + c, hops + (tile % row_folds * rows if stationary else 0)
                    weight = y[row, lane] if lane < sc and row < y.shape[0] else 0
                if stationary:
                    value = _weighted_sum(cell, r, c, operand, flags, single)
                    if r == rows - 1 and flags:
                        _collect(state, arrived, value, stationary, serial, r, c, cols, sr, row_folds, streamed, out)
                    if hops >= 0:
                        cell[Y, r, c], cell[HOPS, r, c] = weight, hops
                else:
                    if r == rows - 1 and cell[READY, r, c] == 1:
                        _collect(state, arrived, cell[OUT, r, c], stationary, serial, r, c, cols, sr, row_folds, streamed, out)
                    _accumulate(cell, taken, r, c, operand, weight, flags, single)
                    cell[Y, r, c] = weight
                cell[X, r, c], cell[FLAGS, r, c] = operand, flags
        if now < record.shape[0]:
            record[now] = cell
        now += 1
    return now
