"""List scheduling of a repeated operator template on units that each run one operator at a time, at a pace that what runs beside it
may lower (njit leaf)."""

import numpy as np
from numba import int64, njit, types
from numba.extending import register_jitable

_IN = types.Array(int64, 1, "C", readonly=True)
_IN_2D = types.Array(int64, 2, "C", readonly=True)
_OUT = int64[::1]
_NEVER = np.iinfo(np.int64).max
BITS = 20
FULL = 1 << BITS
"""Full speed. Speeds are integers, so that every engine rounds alike."""
SLOWEST = 1 << 10
"""No operator is slowed beyond this, however many run beside it."""
KIND, LEFT, SINCE, SPEED = 0, 1, 2, 3


@register_jitable
def _push(heap, base, size, row):
    """Add `row` to the binary min-heap heap[base : base + size]."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        if heap[base + parent] <= row:
            break
        heap[base + child] = heap[base + parent]
        child = parent
    heap[base + child] = row


@register_jitable
def _pop(heap, base, size):
    """Remove and return the smallest row of heap[base : base + size]."""
    smallest = heap[base]
    last = heap[base + size - 1]
    size -= 1
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and heap[base + child + 1] < heap[base + child]:
            child += 1
        if last <= heap[base + child]:
            break
        heap[base + hole] = heap[base + child]
        hole = child
    heap[base + hole] = last
    return smallest


@register_jitable
def _release(ptr, idx, row, offset, remaining, heap, base, waiting, unit):
    """Tell the successors of `row` that it is done; those with nothing left to wait for become ready on their unit."""
    for edge in range(ptr[row], ptr[row + 1]):
        successor = idx[edge]
        remaining[offset + successor] -= 1
        if remaining[offset + successor] == 0:
            u = unit[successor]
            _push(heap, base[u], waiting[u], offset + successor)
            waiting[u] += 1


@register_jitable
def _keep_pace(running, pace, rate, device_units, end_ps, now):
    """The speed of everything that runs, now that what runs has changed; returns the soonest end.

    An operator whose speed changes has done floor(ticks x speed / FULL) ps of its work since the last change, and ends at the first
    tick at which that reaches what is left. Both are split at 2**BITS ticks so that no product leaves int64.
    """
    soonest = _NEVER
    for first in range(0, running.size, device_units):
        for u in range(first, first + device_units):
            if running[u] < 0:
                continue
            speed = FULL
            if pace[u, KIND] > 0:
                for other in range(first, first + device_units):
                    if other != u and running[other] >= 0:
                        speed = speed * rate[pace[u, KIND], pace[other, KIND]] >> BITS
                speed = max(speed, SLOWEST)
            before = pace[u, SPEED]
            if speed != before:
                ticks = now - pace[u, SINCE]
                left = pace[u, LEFT] - (ticks >> BITS) * before - ((ticks & (FULL - 1)) * before >> BITS)
                whole = left // speed
                pace[u, LEFT], pace[u, SINCE], pace[u, SPEED] = left, now, speed
                end_ps[running[u]] = now + (whole << BITS) - (-((left - whole * speed) << BITS) // speed)
            soonest = min(soonest, end_ps[running[u]])
    return soonest


@njit(int64(_IN, _IN_2D, _IN, _IN, _IN, _IN, _IN, _IN, _IN, _IN, _IN, _IN_2D, int64, _OUT, _OUT), cache=True)
def schedule_kernel(
    unit, duration_ps, duration_index, succ_ptr, succ_idx, next_ptr, next_idx, indegree, carried, group, kind, rate, device_units,
    start_ps, end_ps
):  # fmt: skip
    """Start and end of every operator under the tie rule of sim/schedule.py; returns how many were scheduled.

    R rows form one step, S = len(duration_ps) steps follow each other; flat row v = s * R + r lasts
    duration_ps[s, duration_index[r]]. `succ` edges stay inside a step, `next` edges lead from a row of step s to rows of
    step s + 1; `indegree` and `carried` count the incoming edges of either kind. An operator of kind a
    beside one of kind b on its device (units of one are neighbours) goes at rate[a, b] of FULL, beside several at the product; a table
    of one kind is none. Work: O(rows * (units + log rows) + edges).
    """
    rows, steps, units = unit.size, duration_ps.shape[0], group.size
    remaining = np.empty(steps * rows, np.int32)
    heap = np.empty(steps * rows, np.int32)  # one heap a unit, side by side: each has room for every row of its unit
    base = np.zeros(units + 1, np.int64)
    for r in range(rows):
        base[unit[r] + 1] += steps
    for u in range(units):
        base[u + 1] += base[u]
    waiting = np.zeros(units, np.int64)
    running = np.full(units, -1, np.int64)
    group_busy = np.zeros(units, np.int64)
    pace = np.zeros((units, 4), np.int64)  # of what runs on a unit: kind, work left at a tick, that tick, speed since
    paced = rate.shape[0] > 1
    for v in range(steps * rows):
        r = v % rows
        remaining[v] = indegree[r] + (carried[r] if v >= rows else 0)
        if remaining[v] == 0:
            _push(heap, base[unit[r]], waiting[unit[r]], v)
            waiting[unit[r]] += 1

    now = 0
    scheduled = 0
    while True:
        for u in range(units):  # completions first
            v = running[u]
            if v >= 0 and end_ps[v] == now:
                running[u] = -1
                if group[u] >= 0:
                    group_busy[group[u]] = 0
                s, r = v // rows, v % rows
                _release(succ_ptr, succ_idx, r, s * rows, remaining, heap, base, waiting, unit)
                if s + 1 < steps:
                    _release(next_ptr, next_idx, r, (s + 1) * rows, remaining, heap, base, waiting, unit)
        soonest = _NEVER
        for u in range(units):  # then units in index order
            if running[u] < 0 and waiting[u] > 0 and (group[u] < 0 or group_busy[group[u]] == 0):
                v = _pop(heap, base[u], waiting[u])
                waiting[u] -= 1
                running[u] = v
                if group[u] >= 0:
                    group_busy[group[u]] = 1
                start_ps[v] = now
                column = duration_index[v % rows]
                duration = duration_ps[v // rows, column]
                end_ps[v] = now + duration
                scheduled += 1
                if paced:
                    pace[u, KIND], pace[u, LEFT], pace[u, SINCE], pace[u, SPEED] = kind[column], duration, now, FULL
            if running[u] >= 0:
                soonest = min(soonest, end_ps[running[u]])
        if paced:
            soonest = _keep_pace(running, pace, rate, device_units, end_ps, now)
        if soonest == _NEVER:
            return scheduled
        now = soonest
