"""Thread blocks over SMs that share what they read from, event by event (njit leaf)."""

import numpy as np
from numba import float64, int64, njit, types, void
from numba.extending import register_jitable

_IN = types.Array(float64, 1, "C", readonly=True)
_IN_2D = types.Array(float64, 2, "C", readonly=True)

COMPUTE, DRAM, L2 = 0, 1, 2
"""Columns of `work`: us of an SM to itself, bytes from memory, bytes from L2."""
ABREAST, LATENCY, ISSUE, DRAM_RATE, L2_RATE, DRAM_CAP, L2_CAP = range(7)
"""Entries of `rates`: blocks that an SM computes at full speed; us before a block's work begins; us between two blocks that begin on
an SM; bytes a us of all blocks together; bytes a us of one block."""
BLOCK, LEFT, PHASE = 0, 1, 2
"""Integer columns of a slot: which block, how many of its three works go on, what it does."""
EMPTY, WAITS, RUNS = 0, 1, 2
READY = 0
"""Float columns of a slot: when its work begins, then at COMPUTE + 1 to L2 + 1 what its SM's or pipe's counter is when it is done."""
COUNT, SINCE, LAST, COMPUTING, TAKEN = 0, 1, 2, 3, 4
"""Columns of an SM: us of work that each of its blocks was given, when that was; when a block last began; how many compute;
slots taken."""
LEAVING, ENTERED, GONE = 0, 1, 2
"""Entries of `tally`: blocks that end now, that have entered so far, and that have gone."""


@register_jitable
def _push(heap, size, slot, key, column):
    """Add a slot to a binary min-heap by its key."""
    child = size
    while child > 0:
        parent = (child - 1) >> 1
        if key[heap[parent], column] <= key[slot, column]:
            break
        heap[child] = heap[parent]
        child = parent
    heap[child] = slot


@register_jitable
def _pop(heap, size, key, column):
    """Remove and return the slot with the smallest key."""
    smallest, last = heap[0], heap[size - 1]
    size -= 1
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and key[heap[child + 1], column] < key[heap[child], column]:
            child += 1
        if key[last, column] <= key[heap[child], column]:
            break
        heap[hole] = heap[child]
        hole = child
    heap[hole] = last
    return smallest


@register_jitable
def _pace(sm, abreast):
    """Speed of each of an SM's blocks that compute."""
    return min(1.0, abreast / sm[COMPUTING])


@register_jitable
def _look_ahead(s, slots, sm, slot, key, abreast, now):
    """When the next block of an SM begins or has computed; now that its counter stands."""
    soonest = np.inf
    least = np.inf
    for i in range(s * slots, (s + 1) * slots):
        if slot[i, PHASE] == WAITS:
            soonest = min(soonest, key[i, READY])
        elif slot[i, PHASE] == RUNS:
            least = min(least, key[i, COMPUTE + 1])
    if least < np.inf:
        soonest = min(soonest, now + max(least - sm[s, COUNT], 0.0) / _pace(sm[s], abreast))
    return soonest


@register_jitable
def _catch_up(s, sm, abreast, now):
    """Bring an SM's counter to now."""
    if sm[s, COMPUTING] > 0:
        sm[s, COUNT] += (now - sm[s, SINCE]) * _pace(sm[s], abreast)
    sm[s, SINCE] = now


@register_jitable
def _enter(i, s, block, sm, slot, key, rates, span, now):
    """A block takes a slot; SMs begin one block after another."""
    begins = max(now + rates[LATENCY], sm[s, LAST] + rates[ISSUE])
    sm[s, LAST] = begins
    sm[s, TAKEN] += 1
    slot[i, BLOCK], slot[i, PHASE], slot[i, LEFT] = block, WAITS, 0
    key[i, READY] = begins
    span[block, 0] = now


@register_jitable
def _begin(i, s, sm, slot, key, work, pipe, heap, size):
    """The three works of the block in slot i begin."""
    block = slot[i, BLOCK]
    slot[i, PHASE] = RUNS
    key[i, COMPUTE + 1] = np.inf
    if work[block, COMPUTE] > 0:
        key[i, COMPUTE + 1] = sm[s, COUNT] + work[block, COMPUTE]
        sm[s, COMPUTING] += 1
        slot[i, LEFT] += 1
    for p in range(2):
        if work[block, DRAM + p] > 0:
            key[i, DRAM + p + 1] = pipe[p] + work[block, DRAM + p]
            _push(heap[p], size[p], i, key, DRAM + p + 1)
            size[p] += 1
            slot[i, LEFT] += 1


@register_jitable
def _advance(s, slots, sm, slot, key, work, pipe, heap, size, abreast, now, done, tally):
    """What happens on an SM now: blocks have computed, blocks begin; those with nothing left are `done`."""
    pace = _pace(sm[s], abreast) if sm[s, COMPUTING] > 0 else 1.0
    for i in range(s * slots, (s + 1) * slots):
        if slot[i, PHASE] == RUNS and key[i, COMPUTE + 1] < np.inf:
            # The rounding of a division may leave the counter a hair short of the block that this event is for.
            if now + (key[i, COMPUTE + 1] - sm[s, COUNT]) / pace <= now:
                key[i, COMPUTE + 1] = np.inf
                sm[s, COMPUTING] -= 1
                slot[i, LEFT] -= 1
                if slot[i, LEFT] == 0:
                    done[tally[LEAVING]] = i
                    tally[LEAVING] += 1
        elif slot[i, PHASE] == WAITS and key[i, READY] <= now:
            _begin(i, s, sm, slot, key, work, pipe, heap, size)
            if slot[i, LEFT] == 0:
                done[tally[LEAVING]] = i
                tally[LEAVING] += 1


@register_jitable
def _rate(p, flows, rates):
    """Bytes a us that each of so many blocks gets from memory (p = 0) or L2 (p = 1)."""
    return min(rates[DRAM_CAP + p], rates[DRAM_RATE + p] / flows)


@register_jitable
def _drain(p, which, span_us, pipe, heap, size, slot, key, rates, done, tally):
    """Move a pipe's counter on; where the event is its own (`which`), to the block that the event is for."""
    pipe[p] += span_us * _rate(p, size[p], rates)
    if p == which:
        pipe[p] = key[heap[p, 0], DRAM + p + 1]
    while size[p] > 0 and key[heap[p, 0], DRAM + p + 1] <= pipe[p]:
        i = _pop(heap[p], size[p], key, DRAM + p + 1)
        size[p] -= 1
        slot[i, LEFT] -= 1
        if slot[i, LEFT] == 0:
            done[tally[LEAVING]] = i
            tally[LEAVING] += 1


@register_jitable
def _refill(slots, sm, slot, key, rates, span, on_sm, now, done, tally, touched):
    """Free the slots of what is done and let the next blocks in, first where most slots are free."""
    leaving = tally[LEAVING]
    for d in range(leaving):
        i = done[d]
        s = i // slots
        slot[i, PHASE] = EMPTY
        sm[s, TAKEN] -= 1
        span[slot[i, BLOCK], 1] = now
        if touched[s] == 0:
            _catch_up(s, sm, rates[ABREAST], now)
            touched[s] = 1
    for taken in range(slots):
        for d in range(leaving):
            i = done[d]
            s = i // slots
            if tally[ENTERED] < span.shape[0] and slot[i, PHASE] == EMPTY and sm[s, TAKEN] == taken:
                on_sm[tally[ENTERED]] = s
                _enter(i, s, tally[ENTERED], sm, slot, key, rates, span, now)
                tally[ENTERED] += 1
    tally[GONE] += leaving
    tally[LEAVING] = 0


@njit(void(_IN_2D, _IN, int64, int64, float64[:, ::1], int64[::1]), cache=True, error_model="numpy")
def blocks_kernel(work, rates, num_sms, slots, span, on_sm):
    """Entry and end in us of each block of a grid (`span`, two columns), and its SM.

    Blocks enter in order, first one a SM, then wherever a slot is free. A block waits (LATENCY, and ISSUE after the one before it
    on its SM), then computes and reads at once, and leaves when all is done. The blocks of an SM share its arithmetic, all blocks
    share memory and L2, equally; none gets more than its cap. A counter for each (work given to each sharer) makes an event
    O(SMs + slots of an SM + log blocks).
    """
    places = num_sms * slots
    slot, key = np.zeros((places, 3), np.int64), np.zeros((places, 4), np.float64)
    sm, ahead = np.zeros((num_sms, 5), np.float64), np.full(num_sms, np.inf)
    sm[:, LAST] = -np.inf
    pipe, heap, size = np.zeros(2), np.empty((2, places), np.int64), np.zeros(2, np.int64)
    done, tally, touched = np.empty(places, np.int64), np.zeros(3, np.int64), np.zeros(num_sms, np.int64)
    tally[ENTERED] = min(work.shape[0], places)
    for block in range(tally[ENTERED]):
        s = block % num_sms
        _enter(s * slots + block // num_sms, s, block, sm, slot, key, rates, span, 0.0)
        on_sm[block] = s
        ahead[s] = _look_ahead(s, slots, sm, slot, key, rates[ABREAST], 0.0)
    now = 0.0
    while tally[GONE] < work.shape[0]:
        of_sms = ahead.min()
        soonest, which = of_sms, -1
        for p in range(2):
            if size[p] > 0:
                at = now + max(key[heap[p, 0], DRAM + p + 1] - pipe[p], 0.0) / _rate(p, size[p], rates)
                if at < soonest:
                    soonest, which = at, p
        for p in range(2):
            if size[p] > 0:
                _drain(p, which, soonest - now, pipe, heap, size, slot, key, rates, done, tally)
        now = soonest
        if of_sms > now and tally[LEAVING] == 0:
            continue
        for s in range(num_sms):
            if ahead[s] <= now:
                _catch_up(s, sm, rates[ABREAST], now)
                _advance(s, slots, sm, slot, key, work, pipe, heap, size, rates[ABREAST], now, done, tally)
                touched[s] = 1
        _refill(slots, sm, slot, key, rates, span, on_sm, now, done, tally, touched)
        for s in range(num_sms):
            if touched[s] == 1:
                touched[s] = 0
                ahead[s] = _look_ahead(s, slots, sm, slot, key, rates[ABREAST], now)
