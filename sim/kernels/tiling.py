"""Exact search for the tiles of a matmul in a double-buffered scratchpad over one DRAM port (njit leaf).

O[m, n] = A[m, k] x W[k, n] is cut into blocks of tm x tn x tk, taken in one of six loop orders. An operand's tile stays while the
loop that does not index it goes round innermost; else it is fetched again. The operand that is stationary in the array may instead
be streamed one array tile at a time, since a block uses each of its tiles once; it is then fetched again for every block.

    dataflow   on the array's rows, columns   streamed
    0 ws       k, n                           m
    1 os       m, n                           k
    2 is       k, m                           n
"""

from __future__ import annotations

import numpy as np
from numba import float64, int64, njit, types
from numba.extending import register_jitable

MOST_TRIPS = 256
"""Numbers of tiles along a dimension that are all tried, each with the least size that covers; above, they grow by a twentieth. Along the
dimension that streams, up to this extent, every size is tried: a short last piece may end a cycle or two earlier."""
SIZES = 1024
PARTIAL_BITS = 32
WS, OS, IS = 0, 1, 2
ORDERS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]], np.int64)
"""[order, loop m, n, k] -> its place, 0 the outermost."""
# Columns of a problem: sizes, bits of an element, whether A and O are in DRAM, bytes for its tiles, products alike.
M, N, K, A_BITS, W_BITS, O_BITS, A_IN_DRAM, O_IN_DRAM, SPACE, PRODUCTS = range(10)
# Cells of a machine: array, number of arrays, double-buffered, bytes of accumulators (0: partial sums lie in the scratchpad), most bytes
# for A, W and O, dataflows allowed (bits), what is least: 0 time, then bytes; 1 bytes, then time.
ROWS, COLS, ARRAYS, DOUBLE, ACCUMULATORS, MOST_A, MOST_W, MOST_O, FLOWS, OBJECTIVE = range(10)
# Columns of a plan: dataflow, tile, order, streamed by array tiles, DRAM bytes of each operand and bytes of scratchpad of one product;
# cycles of all products: cold fill, issue, drain, and the part of the issue in which vectors stream; the stream's chunks; and what has
# to come from DRAM before the first multiply-add.
FLOW, TM, TN, TK, ORDER, GRANULE, A_BYTES, W_BYTES, O_BYTES, USED, FILL, ISSUE, DRAIN, STREAMING, CHUNKS, FIRST_BYTES = range(16)
PLAN_COLUMNS = 16
NOTHING_FITS = -1
TOO_MANY = 2**63 - 1

_IN = types.Array(int64, 2, "C", readonly=True)
_IN_1D = types.Array(int64, 1, "C", readonly=True)
_RATES = types.Array(float64, 1, "C", readonly=True)

leaf = register_jitable(error_model="numpy")


@leaf
def up(a, b):
    return -(-a // b)


@leaf
def sizes_of(extent, grain, out):
    """Fill `out` with tile sizes, largest first: for each number of tiles the least multiple of `grain` that covers; returns how many."""
    if grain == 1 and extent <= MOST_TRIPS:
        for i in range(extent):
            out[i] = extent - i
        return extent
    folds, trips, count = up(extent, grain), 1, 0
    while count < SIZES:
        size = up(folds, trips)
        out[count] = min(size * grain, extent)
        count += 1
        if size == 1:
            break
        trips = max(up(folds, size - 1), int(trips * 1.05) if trips > MOST_TRIPS else 0)
    out[count - 1] = min(grain, extent)
    return count


@leaf
def cycles_of(problem, machine, rate, flow, tile, out):
    """Cold fill, issue, drain and streaming cycles of all products, with the streamed dimension cut at every `tile`, into `out`.

    One tile after another, column folds outside, row folds inside, each at least as long as the preload of the next.
    """
    rows, cols, arrays = machine[ROWS], machine[COLS], machine[ARRAYS]
    m, n, k, products = problem[M], problem[N], problem[K], problem[PRODUCTS]
    on_rows = m if flow == OS else k
    on_cols = m if flow == IS else n
    length = m if flow == WS else (n if flow == IS else k)
    row_folds, col_folds = up(on_rows, rows), up(on_cols, cols)
    edge_rows, edge_cols = on_rows - (row_folds - 1) * rows, on_cols - (col_folds - 1) * cols
    tiles = products * row_folds * col_folds
    copies = max(1, arrays // tiles)
    total = max(1, int(np.ceil(up(length, copies) / rate)))
    piece = min(total, max(1, int(np.ceil(up(tile, copies) / rate))))
    pieces = up(total, piece)
    issue, before_last, last_column, steps, ahead = 0, 0, 0, 0, 0
    for kind in range(2):  # full chunks, then the last
        t = piece if kind == 0 else total - (pieces - 1) * piece
        times = pieces - 1 if kind == 0 else 1
        if flow == OS:
            full = max(t, rows) if machine[DOUBLE] else t + rows
            edge, first = full, full
        else:
            full = max(t, rows) if machine[DOUBLE] else t + rows
            edge = max(t, edge_rows) if machine[DOUBLE] else t + edge_rows
            first = full if row_folds > 1 else edge
        last_column = (row_folds - 1) * full + edge
        whole = col_folds * last_column
        if kind == 0:
            before_last += times * whole
        else:
            before_last += whole - first
            issue = before_last + t
            tail = 2 * rows - 2 if flow == OS else rows - 2
            end = issue + tail + edge_cols
            if col_folds > 1:
                end = max(end, issue - last_column + tail + cols)
            out[2] = end - issue
            steps = before_last + first
            ahead = first - t
    share = min(arrays, tiles)
    out[0] = 0 if flow == OS else (rows if row_folds > 1 else edge_rows)
    out[1] = max(up(products * steps, share) - ahead, total)
    out[3] = min(out[1], up(products * row_folds * col_folds * total, share))


@leaf
def bytes_of(elements, bits):
    return (elements * bits + 7) // 8


@leaf
def repeats(order, loop, first, first_trips, second, second_trips, trips):
    """How often an operand is fetched: once, or for each turn of the loop that does not index it and that others turn within."""
    place = ORDERS[order, loop]
    if (ORDERS[order, first] > place and first_trips > 1) or (ORDERS[order, second] > place and second_trips > 1):
        return trips
    return 1


@leaf
def tile_space(problem, machine, flow, tm, tn, tk, trips_m, trips_n, trips_k, granule):
    """Bytes of scratchpad for tiles of these sizes: two of each that changes; more than any where a limit of its own is passed."""
    rows, cols = machine[ROWS], machine[COLS]
    a_elements = rows * cols if granule and flow == IS else tm * tk * (2 if trips_m * trips_k > 1 else 1)
    w_elements = rows * cols if granule and flow == WS else tk * tn * (2 if trips_k * trips_n > 1 else 1)
    o_elements = rows * cols if granule and flow == OS else tm * tn * (2 if trips_m * trips_n > 1 else 1)
    if granule:
        if flow == IS:
            a_elements *= 2
        elif flow == WS:
            w_elements *= 2
        else:
            o_elements *= 2
    a = bytes_of(a_elements, problem[A_BITS]) if problem[A_IN_DRAM] else 0
    w = bytes_of(w_elements, problem[W_BITS])
    if machine[ACCUMULATORS]:
        held = tm * tn
        if trips_k == 1:
            wide = cols * machine[ARRAYS]
            held = 0 if flow == OS else (tm * min(tn, wide) if flow == WS else tn * min(tm, wide))
        if bytes_of(held, PARTIAL_BITS) > machine[ACCUMULATORS]:
            return TOO_MANY
        o = bytes_of(o_elements, problem[O_BITS]) if problem[O_IN_DRAM] else 0
    else:
        o = bytes_of(o_elements, PARTIAL_BITS)
    if a > machine[MOST_A] or w > machine[MOST_W] or o > machine[MOST_O]:
        return TOO_MANY
    return a + w + o


@leaf
def traffic(problem, order, trips_m, trips_n, trips_k, flow, granule, out):
    """DRAM bytes of A, W and O of one product into `out`; sums that leave before they are complete come back."""
    m, n, k = problem[M], problem[N], problem[K]
    a_times = repeats(order, 1, 0, trips_m, 2, trips_k, trips_n)
    w_times = repeats(order, 0, 1, trips_n, 2, trips_k, trips_m)
    o_times = repeats(order, 2, 0, trips_m, 1, trips_n, trips_k)
    if granule:
        if flow == WS:
            w_times = trips_m
        elif flow == IS:
            a_times = trips_n
        else:
            o_times = trips_k
    out[0] = a_times * bytes_of(m * k, problem[A_BITS]) if problem[A_IN_DRAM] else 0
    out[1] = w_times * bytes_of(k * n, problem[W_BITS])
    out[2] = bytes_of(m * n, problem[O_BITS]) if problem[O_IN_DRAM] else 0
    out[2] += (o_times - 1) * 2 * bytes_of(m * n, PARTIAL_BITS)


@leaf
def first_bytes(problem, machine, flow):
    """One array tile of W, or one vector of it where it streams."""
    tile = machine[COLS] * (machine[ROWS] if flow == WS else 1)
    return bytes_of(min(tile, problem[K] * problem[N]), problem[W_BITS])


@leaf
def time_of(problem, first, cycles, size, bytes_per_cycle):
    """Cycles until all products are done: the first operands, then the longer of the array and the DRAM port."""
    rest = (problem[PRODUCTS] * size - first) / bytes_per_cycle
    return first / bytes_per_cycle + max(float(cycles[0] + cycles[1] + cycles[2]), rest)


@leaf
def better(time, size, best_time, best_size, objective):
    if objective == 0:
        return time < best_time or (time == best_time and size < best_size)
    return size < best_size or (size == best_size and time < best_time)


@leaf
def search_flow(problem, machine, rate, bytes_per_cycle, flow, scratch, best, plan):
    """Improve `plan`, whose time and bytes are `best`, by the best blocks of one dataflow."""
    grain_m = machine[COLS] if flow == IS else (machine[ROWS] if flow == OS else 1)
    grain_n = machine[COLS] if flow != IS else 1
    grain_k = machine[ROWS] if flow != OS else 1
    first, every_k = first_bytes(problem, machine, flow), flow == OS and problem[K] <= MOST_TRIPS
    of_m, of_n, of_k, cycles, moved = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    count_m = sizes_of(problem[M], grain_m, of_m)
    count_n = sizes_of(problem[N], grain_n, of_n)
    count_k = sizes_of(problem[K], grain_k, of_k)
    for i in range(count_m):
        trips_m = up(problem[M], of_m[i])
        for j in range(count_n):
            trips_n, done = up(problem[N], of_n[j]), 0
            for h in range(count_k):
                trips_k = up(problem[K], of_k[h])
                streamed = of_m[i] if flow == WS else (of_n[j] if flow == IS else of_k[h])
                chunks = trips_m if flow == WS else (trips_n if flow == IS else trips_k)
                priced = False
                for granule in range(1, -1, -1):
                    if done >> (6 * granule) & 63 == 63:
                        continue
                    used = tile_space(problem, machine, flow, of_m[i], of_n[j], of_k[h], trips_m, trips_n, trips_k, granule)
                    if used > problem[SPACE]:
                        continue
                    if not priced:
                        cycles_of(problem, machine, rate, flow, streamed, cycles)
                        priced = True
                    if h > 0 and not every_k:  # time and bytes only grow with the number of tiles along k
                        done |= 63 << (6 * granule)
                    for order in range(6):
                        traffic(problem, order, trips_m, trips_n, trips_k, flow, granule, moved)
                        size = moved[0] + moved[1] + moved[2]
                        time = time_of(problem, first, cycles, size, bytes_per_cycle)
                        if better(time, float(size), best[0], best[1], machine[OBJECTIVE]):
                            best[0], best[1] = time, size
                            plan[FLOW], plan[TM], plan[TN], plan[TK] = flow, of_m[i], of_n[j], of_k[h]
                            plan[ORDER], plan[GRANULE], plan[USED], plan[CHUNKS] = order, granule, used, chunks
                            plan[A_BYTES], plan[W_BYTES], plan[O_BYTES], plan[FIRST_BYTES] = moved[0], moved[1], moved[2], first
                            plan[FILL], plan[ISSUE], plan[DRAIN], plan[STREAMING] = cycles[0], cycles[1], cycles[2], cycles[3]
                if done == 4095:
                    break
            if best[0] <= best[2] and best[1] <= best[3]:
                return


@njit((_IN, _IN_1D, _RATES, float64, int64[:, ::1]), cache=True, error_model="numpy")
def search_kernel(problems, machine, rates, bytes_per_cycle, plans):
    """The best plan of each problem [p, problem column] into plans [p, plan column]; FLOW is NOTHING_FITS where no tile does.

    `rates` [p]: multiply-adds of a cell in a cycle. Of equal plans the first dataflow, largest tiles and first order stay.
    """
    scratch = np.zeros((5, SIZES), np.int64)
    best = np.zeros(4)
    for p in range(problems.shape[0]):
        problem, plan = problems[p], plans[p]
        plan[FLOW] = NOTHING_FITS
        best[0], best[1] = np.inf, np.inf
        traffic(problem, 0, 1, 1, 1, WS, 0, scratch[4])
        least_bytes = scratch[4, 0] + scratch[4, 1] + scratch[4, 2]
        for flow in range(3):
            if not machine[FLOWS] >> flow & 1:
                continue
            length = problem[M] if flow == WS else (problem[N] if flow == IS else problem[K])
            cycles_of(problem, machine, rates[p], flow, length, scratch[3])
            best[2] = time_of(problem, first_bytes(problem, machine, flow), scratch[3], least_bytes, bytes_per_cycle)
            best[3] = least_bytes
            if better(best[2], best[3], best[0], best[1], machine[OBJECTIVE]):
                search_flow(problem, machine, rates[p], bytes_per_cycle, flow, scratch, best, plan)
