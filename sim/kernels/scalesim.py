"""SCALE-Sim's memory under a systolic array, request by request (njit leaf).

An operand is a row of integers (SKEWED, LANES, COLUMN, LIMIT, LENGTH, DELAY); the array is (R, C, Sr, Sc, T, fr, fc, OS).
In one line (a cycle) of a fold, the requests of an operand are elements first, first + step, ... of a flat numbering. Where
elements share addresses, as the overlapping windows of a convolution do, `address` has that of each, -1 for none; otherwise
it is empty.
"""

import numpy as np
from numba import boolean, int32, int64, njit, types
from numba.extending import register_jitable

SKEWED, LANES, COLUMN, LIMIT, LENGTH, DELAY = range(6)
"""Operand: 1 if lane l lags l cycles; its lanes; 1 if it follows the column folds; elements across; along; cycles before its first."""
FREE, PARTIAL, HEAD, TAIL, DRAIN_END, WRITES, DRAINS, LATEST = range(8)
"""Write buffer: free places, places used in the open line, first and last line kept, cycle at which a drain ends, words written,
cycles of the first word written and of the latest."""
START, LAST, READS, STALL, ASKED, SERVED = range(6)
"""Read buffer: first set in the window, cycle of the last read, words read, stall of the line, cycles at which the first and the last
line with requests are served."""

_IN = types.Array(int64, 1, "C", readonly=True)
_IN_2D = types.Array(int64, 2, "C", readonly=True)
_SETS = types.Array(int32, 1, "C", readonly=True)


@register_jitable
def _requests(op, array, i, j, x):
    """First element, step and number of the requests in line x of fold (i, j), lanes ascending."""
    rows, cols, sr, sc = array[0], array[1], array[2], array[3]
    if op[SKEWED]:
        base = (j if op[COLUMN] else i) * op[LANES]
        u = x - op[DELAY]
        low = max(0, u - op[LENGTH] + 1)
        high = min(u, min(op[LANES], op[LIMIT] - base) - 1)
        return (base + low) * op[LENGTH] + u - low, op[LENGTH] - 1, max(0, high - low + 1)
    row = i * rows + rows - 1 - x
    if x >= rows or row >= sr:
        return 0, 1, 0
    return row * sc + j * cols, 1, min(cols, sc - j * cols)


@register_jitable
def _outputs(array, i, j, x):
    """Number of outputs in line x of fold (i, j)."""
    rows, used = array[0], min(array[1], array[3] - j * array[1])
    if array[7]:
        low = x - (array[4] - 1) - (rows - 1)
        high = x - (array[4] - 1) - max(0, (i + 1) * rows - array[2])
    else:
        low = x - (2 * rows - 1) - (array[4] - 1)
        high = x - (2 * rows - 1)
    return max(0, min(high, used - 1) - max(0, low) + 1)


@njit(types.UniTuple(int64, 2)(_IN, _IN, int64, int64, _SETS, int32[::1]), cache=True)
def flushing_reads_kernel(op, array, lines, capacity, address, seen):
    """Misses of a buffer that is emptied at the moment when it is full, and the line at which it last was (-1: never).

    `seen`: zeros, one an address.
    """
    reads, kept, epoch, line, full = 0, 0, 1, 0, -1
    for j in range(array[6]):
        for i in range(array[5]):
            for x in range(lines):
                element, step, count = _requests(op, array, i, j, x)
                for _ in range(count):
                    at = address[element] if address.size else element
                    if at >= 0 and seen[at] != epoch:
                        seen[at] = epoch
                        reads += 1
                        kept += 1
                        if kept == capacity:
                            kept = 0
                            epoch += 1
                            full = line
                    element += step
                line += 1
    return reads, full


@njit(int64(_IN, _IN, int64, _SETS, int32[::1]), cache=True)
def fetch_sets_kernel(op, array, per_set, address, sets):
    """Write the set of each element in SCALE-Sim's order of fetching; returns the number of elements with an address."""
    rank = 0
    if op[SKEWED]:
        lanes, length = op[LANES], op[LENGTH]
        folds = -(-op[LIMIT] // lanes)
        height = folds * length
        for diagonal in range(height + lanes - 1):
            for lane in range(max(0, diagonal - height + 1), min(lanes, diagonal + 1)):
                row = diagonal - lane
                across = row // length * lanes + lane
                element = across * length + row % length
                if across < op[LIMIT] and (address.size == 0 or address[element] >= 0):
                    sets[element] = rank // per_set
                    rank += 1
    else:
        cols, sr, sc = array[1], array[2], array[3]
        for j in range(array[6]):
            for row in range(sr):
                for col in range(j * cols, min((j + 1) * cols, sc)):
                    if address.size == 0 or address[row * sc + col] >= 0:
                        sets[row * sc + col] = rank // per_set
                        rank += 1
    return rank


@register_jitable
def _drain(buffer, kept, now, most, width):
    """Write up to `most` of the oldest lines, one a cycle. An earlier line that is not full counts as full, as in SCALE-Sim."""
    if buffer[PARTIAL] > 0:
        kept[buffer[TAIL]] = buffer[PARTIAL]
        buffer[TAIL] += 1
        buffer[PARTIAL] = 0
    count = min(most, buffer[TAIL] - buffer[HEAD])
    if count > 0:
        buffer[HEAD] += count
        words = (count - 1) * width + kept[buffer[HEAD] - 1]
        buffer[WRITES] += words
        buffer[FREE] += words
        buffer[DRAIN_END] = now + count - 1
        buffer[LATEST] = max(buffer[LATEST], buffer[DRAIN_END])
        if buffer[DRAINS] < 0:
            buffer[DRAINS] = now


@register_jitable
def _write(buffer, kept, now, outputs, size, width):
    """Put the outputs of a line into the buffer; returns the cycles that they wait."""
    half = -(-size // 2)
    most = -(-(size - half) // width)
    stall = 0
    for _ in range(outputs):
        buffer[FREE] -= 1
        buffer[PARTIAL] += 1
        if buffer[PARTIAL] == width:
            kept[buffer[TAIL]] = width
            buffer[TAIL] += 1
            buffer[PARTIAL] = 0
        if now + stall < buffer[DRAIN_END]:
            if buffer[FREE] <= 0:
                stall = buffer[DRAIN_END] - now
        elif buffer[FREE] < half:
            _drain(buffer, kept, now + stall, most, width)
    return stall


@register_jitable
def _is_kept(at, first, window, starts, sets):
    """Whether one of the sets that hold an address is in the window, which wraps around (its first set is `first`)."""
    number, active = window[0], window[1]
    begin, end = (starts[at], starts[at + 1]) if starts.size else (at, at + 1)
    kept = False
    for s in range(begin, end):
        ahead = sets[s] - first
        kept = kept or (ahead if ahead >= 0 else ahead + number) < active
    return kept


@register_jitable
def _read(buffer, op, array, i, j, x, now, address, starts, sets, window, twice):
    """Move the window of sets over every request of a line; buffer[STALL] becomes the cycles that the line waits for it."""
    number, step_sets, fetched, cycles = window[0], window[2], window[3], window[4]
    element, step, count = _requests(op, array, i, j, x)
    wait, asked = 1, False
    for _ in range(count):
        at = address[element] if address.size else element
        element += step
        if at >= 0:
            asked = True
            if number == 0:
                break
            while not _is_kept(at, buffer[START], window, starts, sets):
                buffer[START] = (buffer[START] + step_sets) % number
                buffer[READS] += fetched
                buffer[LAST] += cycles
                late = buffer[LAST] - (now + wait)
                if twice:
                    wait += late
                wait += max(late, 0)
    if asked:
        buffer[SERVED] = now + wait
        if buffer[ASKED] < 0:
            buffer[ASKED] = now + wait
    buffer[STALL] = wait - 1


@njit(types.void(_IN, _IN_2D, int64, int64, int64, boolean, _IN_2D, _SETS, _SETS, _SETS, _SETS, int64[::1]), cache=True)
def memory_kernel(array, ops, lines, size, width, twice, windows, address, starts, sets0, sets1, out):
    """Write what the memory did into out[15].

    Total cycles, stalls, words read of ifmap and filter (0 unless at a fixed bandwidth) and written; then cycles: ifmap, filter
    and ofmap served first and last (-1: never), words of ifmap and filter read last, words written first and last.
    The write port takes `width` words a cycle. A row of `windows` is 0 where every read hits, otherwise: sets, sets in the window,
    sets of a step, words and cycles of a step, words of the first fill. `address` is that of the ifmap; sets0 then has the
    sets of address a from starts[a] on. `twice`: SCALE-Sim 3 counts a wait twice, and takes the latest cycles for the last.
    """
    buffer = np.zeros(8, np.int64)
    buffer[FREE], buffer[DRAIN_END], buffer[DRAINS] = size, -1, -1
    kept = np.zeros(2 * array[1] + 64, np.int64)
    reads = np.zeros((2, 6), np.int64)
    for o in range(2):
        reads[o, LAST], reads[o, READS], reads[o, ASKED], reads[o, SERVED] = -1, windows[o, 5], -1, -1
    no_address = address[:0]
    stalls, line, end, latest, first_out, last_out = 0, 0, 0, 0, -1, -1
    for j in range(array[6]):
        for i in range(array[5]):
            for x in range(lines):
                now = line + stalls
                outputs = _outputs(array, i, j, x)
                if buffer[TAIL] + 2 * outputs + 2 > kept.size:
                    left = buffer[TAIL] - buffer[HEAD]
                    grown = np.zeros(2 * left + kept.size, np.int64)
                    grown[:left] = kept[buffer[HEAD] : buffer[TAIL]]
                    kept, buffer[HEAD], buffer[TAIL] = grown, 0, left
                wait = _write(buffer, kept, now, outputs, size, width)
                end = now + wait
                latest = max(latest, end)
                if outputs > 0:
                    last_out = end
                    first_out = end if first_out < 0 else first_out
                _read(reads[0], ops[0], array, i, j, x, now, address, starts, sets0, windows[0], twice)
                _read(reads[1], ops[1], array, i, j, x, now, no_address, no_address, sets1, windows[1], twice)
                stalls += max(wait, reads[0, STALL], reads[1, STALL])
                line += 1
    out[0], out[1], out[2], out[3] = latest if twice else end, stalls, reads[0, READS], reads[1, READS]
    most = max(1, -(-(size - -(-size // 2)) // width))
    while buffer[TAIL] > buffer[HEAD] or buffer[PARTIAL] > 0:
        _drain(buffer, kept, end, most, width)
        end = buffer[DRAIN_END] + 1
    out[4], out[9], out[10], out[13] = buffer[WRITES], first_out, last_out, buffer[DRAINS]
    out[14] = buffer[LATEST] if twice else buffer[DRAIN_END]
    for o in range(2):
        out[5 + 2 * o], out[6 + 2 * o], out[11 + o] = reads[o, ASKED], reads[o, SERVED], reads[o, LAST]
