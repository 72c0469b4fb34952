"""State of one DRAM channel under a constraint table: when each command may come, and what a command changes.

The earliest tick of a command is the largest of one ready time per level (channel, pseudochannel, rank, bank group, bank)
that earlier commands have left. Helpers of the loop in dram.py; njit only through it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable

FAR = 2**62
LEVELS = 5
RD, WR, ACT, PRE = 0, 1, 2, 3
CLOSED, ACTIVATING = -1, -2
SINGLE, HBM, HBM_HALF, LPDDR5 = 0, 1, 2, 3
HISTORY = 8


class State(NamedTuple):
    """Everything that changes, as arrays. Nodes of all levels stand one after another; cell = node * commands + command."""

    ready: np.ndarray
    cause: np.ndarray
    history: np.ndarray
    issued: np.ndarray
    gate: np.ndarray
    open_row: np.ndarray
    active: np.ndarray
    queue: np.ndarray
    promoted: np.ndarray
    refreshes: np.ndarray
    owner: np.ndarray
    deadline: np.ndarray
    seen: np.ndarray
    now: np.ndarray
    pick: np.ndarray
    wake: np.ndarray


class Table(NamedTuple):
    """A memory part for the loop: constraint rules as CSR over level * commands + previous command."""

    counts: np.ndarray
    first: np.ndarray
    rule_ptr: np.ndarray
    rule_next: np.ndarray
    rule_ticks: np.ndarray
    rule_window: np.ndarray
    rule_sibling: np.ndarray
    windowed: np.ndarray
    scope: np.ndarray
    kinds: np.ndarray
    preab: int
    refab: int
    act2: int
    cas_rd: int
    cas_wr: int
    read_latency: int
    refresh_interval: int
    protocol: int
    aad: int
    wck_read: int
    wck_write: int


class Requests(NamedTuple):
    """Requests in arrival order; `bank` and `group` are numbers over the whole channel, `gate` that of the rank."""

    write: np.ndarray
    gate: np.ndarray
    group: np.ndarray
    bank: np.ndarray
    row: np.ndarray
    column: np.ndarray
    arrival: np.ndarray


class Log(NamedTuple):
    """What happened: `commands` [row, (tick, command, level, node, request)], counts, and ticks lost to each rule."""

    commands: np.ndarray
    counts: np.ndarray
    latency: np.ndarray
    rows: np.ndarray
    blocked: np.ndarray


# Cells of State.now.
(TICK, READS, WRITES, ACTIVES, WRITE_MODE, HEAD, WAITING, REFRESHES, NEXT_REFRESH, SERVED, LAST_RW, END, LOGGED, WCK, CAS, PAIR, PAIR_PC,
 PAIR_BANK) = range(18)
NOW_CELLS = 18
# Cells of State.pick: column entry, row entry, earliest of the rest and its request.
COLUMN, ROW, EARLIEST, WHO = 0, 1, 2, 3


@register_jitable
def above(part, bank, level):
    """Node of `level` that a bank lies in."""
    below = 1
    for i in range(level, LEVELS - 1):
        below *= part.counts[i]
    return part.first[level] + bank // below


@register_jitable
def hold(part, state, node, rule, tick):
    cell = node * part.scope.size + part.rule_next[rule]
    until = tick + part.rule_ticks[rule]
    if until > state.ready[cell]:
        state.ready[cell] = until
        state.cause[cell] = rule


@register_jitable
def note(part, state, node, level, command, tick):
    """The rules of one node after a command: all of them, and the window rules against the command's history."""
    commands = part.scope.size
    cell = node * commands + command
    start, stop = part.rule_ptr[level * commands + command], part.rule_ptr[level * commands + command + 1]
    if part.windowed[level * commands + command]:
        state.history[cell, state.issued[cell] % HISTORY] = tick
        state.issued[cell] += 1
    for rule in range(start, stop):
        if part.rule_sibling[rule]:
            continue
        window = part.rule_window[rule]
        if window == 1:
            hold(part, state, node, rule, tick)
        elif state.issued[cell] >= window:
            hold(part, state, node, rule, state.history[cell, (state.issued[cell] - window) % HISTORY])


@register_jitable
def note_siblings(part, state, node, level, command, tick):
    """Rules for the other nodes of a level under the same parent."""
    commands = part.scope.size
    size = part.counts[level - 1]
    family = part.first[level] + (node - part.first[level]) // size * size
    for other in range(family, family + size):
        if other != node:
            for rule in range(part.rule_ptr[level * commands + command], part.rule_ptr[level * commands + command + 1]):
                if part.rule_sibling[rule]:
                    hold(part, state, other, rule, tick)


@register_jitable
def issue(part, state, log, command, bank, request):
    """A command at the present tick: constraints of its path (and of all below a whole-rank command), gates, log."""
    tick, commands = state.now[TICK], part.scope.size
    scope = part.scope[command]
    for level in range(LEVELS):
        if part.rule_ptr[level * commands + command] == part.rule_ptr[level * commands + command + 1]:
            continue
        node = above(part, bank, level)
        if level <= scope:
            note(part, state, node, level, command, tick)
            if level > 0 and part.counts[level - 1] > 1:
                note_siblings(part, state, node, level, command, tick)
        else:
            span = 1
            for i in range(scope, level):
                span *= part.counts[i]
            first = part.first[level] + (above(part, bank, scope) - part.first[scope]) * span
            for below in range(first, first + span):
                note(part, state, below, level, command, tick)
    set_gates(part, state)
    log.counts[command] += 1
    if state.now[LOGGED] < log.commands.shape[0]:
        row = log.commands[state.now[LOGGED]]
        row[0], row[1], row[2], row[3], row[4] = tick, command, scope, above(part, bank, scope), request
        state.now[LOGGED] += 1


@register_jitable
def set_gates(part, state):
    """The ready time that all banks of a rank share, for each kind of command."""
    commands = part.scope.size
    ranks = part.counts[1]
    for gate in range(part.counts[0] * ranks):
        for kind in range(4):
            command = part.kinds[kind]
            pc, rank = part.first[1] + gate // ranks, part.first[2] + gate
            state.gate[gate, kind] = max(state.ready[command], state.ready[pc * commands + command], state.ready[rank * commands + command])


@register_jitable
def ready_at(part, state, command, bank):
    """Earliest tick of a command to one bank."""
    commands = part.scope.size
    tick = 0
    for level in range(LEVELS):
        tick = max(tick, state.ready[above(part, bank, level) * commands + command])
    return tick


@register_jitable
def whole_ready_at(part, state, command, bank):
    """Earliest tick of a command to a whole rank or channel, from the nodes above it and all below."""
    commands, scope = part.scope.size, part.scope[command]
    tick = 0
    for level in range(scope + 1):
        tick = max(tick, state.ready[above(part, bank, level) * commands + command])
    span = 1
    for level in range(scope + 1, LEVELS):
        span *= part.counts[level - 1]
        first = part.first[level] + (above(part, bank, scope) - part.first[scope]) * span
        for node in range(first, first + span):
            tick = max(tick, state.ready[node * commands + command])
    return tick


@register_jitable
def edge(part, state, tick, bank, is_precharge, whole):
    """The first tick from `tick` on at which the half-cycle clock of HBM3/4 takes a row or column command."""
    if part.protocol != HBM_HALF or tick % 2 == 1:
        return tick
    if not is_precharge:
        return tick + 1
    if tick != state.now[PAIR] or state.now[PAIR_PC] != above(part, bank, 1):
        return tick
    if not whole and state.now[PAIR_BANK] >= 0 and state.now[PAIR_BANK] != bank:
        return tick
    return tick + 1


@register_jitable
def hit_waits(state, requests, queue, count, entry):
    """Whether a request that came no later than this one still hits the row that this one would close."""
    me = state.queue[queue, entry]
    bank = requests.bank[me]
    for i in range(count):
        other = state.queue[queue, i]
        if requests.arrival[other] > requests.arrival[me]:
            return False
        if requests.bank[other] == bank and requests.row[other] == state.open_row[bank]:
            return True
    return False


@register_jitable
def scan(part, state, requests, queue, keep_hits):
    """First ready column and row entry of a queue (-1: none), and the earliest tick of the entries that are not ready."""
    tick, commands = state.now[TICK], part.scope.size
    count = state.now[READS + queue]
    pick = state.pick
    pick[COLUMN], pick[ROW], pick[EARLIEST], pick[WHO] = -1, -1, FAR, -1
    for i in range(count):
        request = state.queue[queue, i]
        bank = requests.bank[request]
        opened = state.open_row[bank]
        if opened == ACTIVATING:
            continue
        kind = ACT if opened == CLOSED else (queue if opened == requests.row[request] else PRE)
        if (kind <= WR and pick[COLUMN] >= 0) or (kind > WR and pick[ROW] >= 0):
            continue
        if kind == PRE and state.active[bank] > 0:
            continue
        if kind == ACT and part.protocol == LPDDR5 and state.now[WAITING] > 0:
            continue
        command = part.kinds[kind]
        when = max(state.gate[requests.gate[request], kind], state.ready[(part.first[3] + requests.group[request]) * commands + command],
                   state.ready[(part.first[4] + bank) * commands + command])
        when = edge(part, state, max(when, tick), bank, kind == PRE, False)
        if kind == PRE and keep_hits and hit_waits(state, requests, queue, count, i):
            continue
        if when <= tick:
            pick[COLUMN if kind <= WR else ROW] = i
        elif when < pick[EARLIEST]:
            pick[EARLIEST], pick[WHO] = when, request


@register_jitable
def choose_mode(state):
    """Write drain: start above 80 % of the queue or with no read, stop below 20 % with reads waiting."""
    now, capacity = state.now, state.queue.shape[1]
    if now[WRITE_MODE] == 0:
        if 10 * now[WRITES] > 8 * capacity or now[READS] == 0:
            now[WRITE_MODE] = 1
    elif 10 * now[WRITES] < 2 * capacity and now[READS] != 0:
        now[WRITE_MODE] = 0


@register_jitable
def take(state, queue, entry):
    """Remove an entry from a queue, which keeps its order."""
    request = state.queue[queue, entry]
    count = state.now[READS + queue] - 1
    for i in range(entry, count):
        state.queue[queue, i] = state.queue[queue, i + 1]
    state.now[READS + queue] = count
    return request


@register_jitable
def inject(state, requests):
    """Send requests in order until the controller refuses one; they arrive at the present tick."""
    now = state.now
    capacity = state.queue.shape[1]
    while now[HEAD] < requests.write.size:
        request = now[HEAD]
        queue = requests.write[request]
        if now[READS + queue] >= capacity:
            return
        state.queue[queue, now[READS + queue]] = request
        now[READS + queue] += 1
        requests.arrival[request] = now[TICK]
        now[HEAD] += 1


@register_jitable
def serve(part, state, requests, log, request):
    """Issue the column command of a request."""
    now = state.now
    kind = WR if requests.write[request] else RD
    judge(state, requests, log, request)
    issue(part, state, log, part.kinds[kind], requests.bank[request], request)
    now[LAST_RW] = now[TICK]
    done = now[TICK] if kind == WR else now[TICK] + part.read_latency
    now[END] = max(now[END], done)
    if kind == RD:
        log.latency[request] = done - requests.arrival[request]
    now[SERVED] += 1


@register_jitable
def judge(state, requests, log, request):
    """Row hit, miss or conflict, judged once, at a request's first command."""
    if state.seen[request] == 0:
        state.seen[request] = 1
        opened = state.open_row[requests.bank[request]]
        log.rows[0 if opened == requests.row[request] else (1 if opened == CLOSED else 2)] += 1


@register_jitable
def oldest_active(part, state, requests):
    """The oldest ready request among those whose row is open for them (-1: none), and the earliest of the rest."""
    now, best, pick = state.now, -1, state.pick
    for i in range(now[ACTIVES]):
        request = state.promoted[i]
        when = ready_at(part, state, part.kinds[WR if requests.write[request] else RD], requests.bank[request])
        when = edge(part, state, max(when, now[TICK]), requests.bank[request], False, False)
        if when <= now[TICK]:
            if best < 0 or requests.arrival[request] < requests.arrival[state.promoted[best]]:
                best = i
        elif when < pick[EARLIEST]:
            pick[EARLIEST], pick[WHO] = when, request
    return best


@register_jitable
def demote(state, requests, entry):
    """Remove a request from those whose row is open for them."""
    now = state.now
    request = state.promoted[entry]
    for i in range(entry, now[ACTIVES] - 1):
        state.promoted[i] = state.promoted[i + 1]
    now[ACTIVES] -= 1
    state.active[requests.bank[request]] -= 1
    return request


@register_jitable
def row_command(part, state, requests, log, queue, entry):
    """Open or close a row for a queued request; an opened one makes the request active."""
    request = state.queue[queue, entry]
    bank = requests.bank[request]
    judge(state, requests, log, request)
    if state.open_row[bank] == CLOSED:
        issue(part, state, log, part.kinds[ACT], bank, request)
        take(state, queue, entry)
        if part.protocol == LPDDR5:
            state.open_row[bank] = ACTIVATING
            state.owner[bank] = request
            state.deadline[bank] = state.now[TICK] + part.aad
            state.now[WAITING] += 1
        else:
            state.open_row[bank] = requests.row[request]
            promote(state, requests, request)
        pair(part, state, bank, 3, False)
    else:
        issue(part, state, log, part.kinds[PRE], bank, request)
        state.open_row[bank] = CLOSED
        pair(part, state, bank, 1, False)


@register_jitable
def promote(state, requests, request):
    state.promoted[state.now[ACTIVES]] = request
    state.now[ACTIVES] += 1
    state.active[requests.bank[request]] += 1


@register_jitable
def pair(part, state, bank, ticks, whole):
    """HBM3/4: remember the row command of a rising edge, which limits the precharge of the falling edge paired with it."""
    if part.protocol == HBM_HALF and state.now[TICK] % 2 == 1:
        state.now[PAIR] = state.now[TICK] + ticks
        state.now[PAIR_PC] = above(part, bank, 1)
        state.now[PAIR_BANK] = -1 if whole else bank
