"""One DRAM channel, command by command, without a cycle loop: the njit controller.

Where nothing can be issued, time jumps to the earliest candidate or refresh. A candidate's earliest tick changes only when
a command is issued, so jumping equals ticking.

Order within a tick: requests whose row was opened for them (active), then the head of the refresh queue, then, only if
that queue is empty, the read or the write queue, first ready in order of arrival. HBM has a slot for column commands and
one for row commands in each tick. LPDDR5 splits an activation in two and wakes its data clock before an access.

Sequencing rules are those of Ramulator 2.1's controllers (CMU-SAFARI/ramulator2 c5b1c3a), whose runs are the reference data.
"""

from __future__ import annotations

from numba import njit
from numba.extending import register_jitable

from .dramstate import (
    ACT,
    ACTIVATING,
    ACTIVES,
    CAS,
    CLOSED,
    COLUMN,
    EARLIEST,
    END,
    FAR,
    HBM,
    HBM_HALF,
    LPDDR5,
    NEXT_REFRESH,
    PRE,
    RD,
    READS,
    REFRESHES,
    ROW,
    SERVED,
    TICK,
    WAITING,
    WCK,
    WHO,
    WR,
    WRITE_MODE,
    choose_mode,
    demote,
    edge,
    inject,
    issue,
    oldest_active,
    pair,
    promote,
    ready_at,
    row_command,
    scan,
    serve,
    take,
    whole_ready_at,
)


@njit(cache=True)
def replay_kernel(part, state, requests, log, keep_hits):
    """Run until the last read has returned and the last write is issued; results are in `state.now` and `log`."""
    now = state.now
    inject(state, requests)
    now[TICK] = 1
    while True:
        tick = now[TICK]
        if tick == now[NEXT_REFRESH]:
            now[NEXT_REFRESH] += part.refresh_interval
            banks = state.open_row.size
            scopes = part.first[part.scope[part.refab] + 1] - part.first[part.scope[part.refab]]
            for node in range(scopes):
                state.refreshes[now[REFRESHES]] = node * (banks // scopes)
                now[REFRESHES] += 1
        state.pick[EARLIEST], state.pick[WHO] = FAR, -1
        if part.protocol == LPDDR5:
            issued = _tick_lpddr5(part, state, requests, log, keep_hits)
        elif part.protocol == HBM or part.protocol == HBM_HALF:
            issued = _tick_hbm(part, state, requests, log, keep_hits)
        else:
            issued = _tick_single(part, state, requests, log, keep_hits)
        if issued:
            inject(state, requests)
            ahead = tick + 1
        else:
            ahead = max(tick + 1, min(state.wake[0], now[NEXT_REFRESH]))
        if now[SERVED] == requests.write.size:
            if tick >= now[END]:
                return
            ahead = min(ahead, now[END])
        if not issued:
            _blame(state, log, ahead - tick)
        now[TICK] = ahead


@register_jitable
def _blame(state, log, ticks):
    """Charge ticks without a command to the rule that held the earliest candidate; the last cell is everything else."""
    cause = state.wake[1]
    log.blocked[cause if cause >= 0 else log.blocked.size - 1] += ticks


@register_jitable
def _wake(part, state, when, command, bank):
    """Remember the earliest tick at which something could be issued, and the rule that holds it."""
    if when < state.wake[0]:
        state.wake[0] = when
        state.wake[1] = -1
        commands, node, level = part.scope.size, 0, 0
        for level in range(5):
            below = 1
            for i in range(level, 4):
                below *= part.counts[i]
            node = part.first[level] + bank // below
            if state.ready[node * commands + command] == when:
                state.wake[1] = state.cause[node * commands + command]


@register_jitable
def _wake_for_pick(part, state, requests):
    """The same for the request that a scan left as its earliest."""
    request = state.pick[WHO]
    if request >= 0 and state.pick[EARLIEST] < state.wake[0]:
        bank = requests.bank[request]
        opened = state.open_row[bank]
        kind = ACT if opened == CLOSED else ((WR if requests.write[request] else RD) if opened == requests.row[request] else PRE)
        _wake(part, state, state.pick[EARLIEST], part.kinds[kind], bank)


@register_jitable
def _refresh_head(part, state, log):
    """Issue the next command of the oldest refresh, if it may come now: close all rows of its scope, or refresh."""
    now = state.now
    first = state.refreshes[0]
    scope = part.scope[part.refab]
    span = 1
    for i in range(scope, 4):
        span *= part.counts[i]
    command, busy = part.refab, False
    for bank in range(first, first + span):
        if state.open_row[bank] != CLOSED:
            command = part.preab
        if state.active[bank] > 0:
            busy = True
        if state.open_row[bank] == ACTIVATING:
            return False
    when = edge(part, state, max(whole_ready_at(part, state, command, first), now[TICK]), first, command == part.preab, True)
    if when > now[TICK]:
        _wake(part, state, when, command, first)
        return False
    if busy and command == part.preab:
        return False
    issue(part, state, log, command, first, -1)
    if command == part.preab:
        for bank in range(first, first + span):
            state.open_row[bank] = CLOSED
    else:
        now[REFRESHES] -= 1
        for i in range(now[REFRESHES]):
            state.refreshes[i] = state.refreshes[i + 1]
    pair(part, state, first, 1, True)
    return True


@register_jitable
def _scan_queue(part, state, requests, keep_hits):
    """Choose the queue, look through it, and keep its earliest entry for the jump. Returns the queue."""
    choose_mode(state)
    queue = state.now[WRITE_MODE]
    scan(part, state, requests, queue, keep_hits)
    _wake_for_pick(part, state, requests)
    return queue


@register_jitable
def _active_candidate(part, state, requests):
    """The oldest active request that may access now; the others count for the jump."""
    state.pick[EARLIEST], state.pick[WHO] = FAR, -1
    best = oldest_active(part, state, requests)
    _wake_for_pick(part, state, requests)
    return best


@register_jitable
def _tick_hbm(part, state, requests, log, keep_hits):
    """A column command, then a row command; whether either was issued."""
    now, pick = state.now, state.pick
    state.wake[0], state.wake[1] = FAR, -1
    issued, scanned, queue = False, False, 0
    if part.protocol == HBM or now[TICK] % 2 == 1:
        best = _active_candidate(part, state, requests)
        if best >= 0:
            serve(part, state, requests, log, demote(state, requests, best))
            issued = True
        elif now[REFRESHES] == 0:
            queue = _scan_queue(part, state, requests, keep_hits)
            if pick[COLUMN] >= 0:
                serve(part, state, requests, log, take(state, queue, pick[COLUMN]))
                issued = True
            else:
                scanned = True
    elif now[ACTIVES] > 0:
        _active_candidate(part, state, requests)
    if now[REFRESHES] > 0:
        return _refresh_head(part, state, log) or issued
    if not scanned:
        queue = _scan_queue(part, state, requests, keep_hits)
    if pick[ROW] >= 0:
        row_command(part, state, requests, log, queue, pick[ROW])
        issued = True
    return issued


@register_jitable
def _tick_single(part, state, requests, log, keep_hits):
    """One command of any kind; whether one was issued."""
    pick = state.pick
    state.wake[0], state.wake[1] = FAR, -1
    best = _active_candidate(part, state, requests)
    if best >= 0:
        serve(part, state, requests, log, demote(state, requests, best))
        return True
    if state.now[REFRESHES] > 0:
        return _refresh_head(part, state, log)
    queue = _scan_queue(part, state, requests, keep_hits)
    column, row = pick[COLUMN], pick[ROW]
    if column >= 0 and (row < 0 or column < row):
        serve(part, state, requests, log, take(state, queue, column))
        return True
    if row >= 0:
        row_command(part, state, requests, log, queue, row)
        return True
    return False


@register_jitable
def _second_activation(part, state, requests, log, due):
    """The half-done activation with the nearest deadline (`due`: only one whose deadline has come) gets its ACT2."""
    now, best = state.now, -1
    for bank in range(state.owner.size):
        if state.open_row[bank] != ACTIVATING or (due and state.deadline[bank] > now[TICK]):
            continue
        when = ready_at(part, state, part.act2, bank)
        if when > now[TICK]:
            _wake(part, state, when, part.act2, bank)
        elif best < 0 or (state.deadline[bank], requests.arrival[state.owner[bank]]) < (
                state.deadline[best], requests.arrival[state.owner[best]]):
            best = bank
    if best < 0:
        return False
    request = state.owner[best]
    issue(part, state, log, part.act2, best, request)
    state.open_row[best] = requests.row[request]
    now[WAITING] -= 1
    promote(state, requests, request)
    return True


@register_jitable
def _start_access(part, state, requests, log, active, queue, entry):
    """An access may come now: issue it, or first wake the data clock; an activation that is nearly due goes before that."""
    now = state.now
    request = state.promoted[entry] if active else state.queue[queue, entry]
    if now[TICK] >= now[WCK]:
        for bank in range(state.owner.size):
            if state.open_row[bank] == ACTIVATING and state.deadline[bank] <= now[TICK] + 1:
                return _second_activation(part, state, requests, log, False)
        issue(part, state, log, part.cas_wr if requests.write[request] else part.cas_rd, requests.bank[request], request)
        now[CAS] = request + 1
        return True
    _access(part, state, requests, log, request)
    return True


@register_jitable
def _access(part, state, requests, log, request):
    """RD or WR of a request of LPDDR5, wherever it waits; it keeps the data clock awake."""
    now, write = state.now, requests.write[request]
    for entry in range(now[ACTIVES]):
        if state.promoted[entry] == request:
            demote(state, requests, entry)
            break
    for entry in range(now[READS + write]):
        if state.queue[write, entry] == request:
            take(state, write, entry)
            break
    now[WCK] = max(now[WCK], now[TICK] + (part.wck_write if write else part.wck_read))
    serve(part, state, requests, log, request)


@register_jitable
def _tick_lpddr5(part, state, requests, log, keep_hits):
    """One command, with activations in two halves and accesses behind a woken data clock; whether one was issued."""
    now, pick = state.now, state.pick
    state.wake[0], state.wake[1] = FAR, -1
    if now[CAS] > 0:
        request = now[CAS] - 1
        command, bank = part.kinds[WR if requests.write[request] else RD], requests.bank[request]
        when = ready_at(part, state, command, bank)
        if when > now[TICK]:
            _wake(part, state, when, command, bank)
            return False
        now[CAS] = 0
        _access(part, state, requests, log, request)
        return True
    if now[WAITING] > 0 and _second_activation(part, state, requests, log, True):
        return True
    best = _active_candidate(part, state, requests)
    if best >= 0:
        return _start_access(part, state, requests, log, True, 0, best)
    if now[REFRESHES] > 0:
        if _refresh_head(part, state, log):
            return True
    else:
        queue = _scan_queue(part, state, requests, keep_hits)
        column, row = pick[COLUMN], pick[ROW]
        if column >= 0 and (row < 0 or column < row):
            return _start_access(part, state, requests, log, False, queue, column)
        if row >= 0:
            row_command(part, state, requests, log, queue, row)
            return True
    return now[WAITING] > 0 and _second_activation(part, state, requests, log, False)
