"""One DRAM channel, command by command, without a cycle loop: the njit controller.

The earliest tick of a command is the largest of three ready times that earlier commands have left: of its rank, its bank group
and its bank; what a rule says of a channel or pseudochannel is told to each of its ranks. Where nothing can be issued, time
jumps to the earliest candidate or refresh. Ready times only grow, so a candidate that was found to be too early need not be
looked at before the tick that was found then, and jumping equals ticking.

Order within a tick: requests whose row was opened for them (active), then refreshes that are due, then the read or the write
queue, first ready in order of arrival. While an all-bank refresh is due nothing is taken from the queues; a refresh of one bank,
or of the same bank of all groups, keeps back the requests of these banks alone. HBM has a slot for column commands and one for
row commands in each tick. LPDDR5 splits an activation in two and wakes its data clock before an access. But for refreshes of
single banks and closed rows these are the rules of Ramulator 2.1's controllers (CMU-SAFARI/ramulator2 c5b1c3a).

`p` is the part (numbers, then the tables that start at p[*_AT]), `m` is all that changes (numbers, then the tables at p[*_AT] of
it), `q` the requests. A time is kept as tick * 2**SHIFT + the number of the rule that holds until then, so the larger of two
times brings its rule along.
"""

from __future__ import annotations

from numba import njit, types
from numba.extending import intrinsic, overload, register_jitable

SHIFT = 16
LABEL, FAR = 2**SHIFT - 1, 2**62
SINGLE, HBM, HBM_HALF, LPDDR5 = 0, 1, 2, 3
CLOSED, ACTIVATING = -1, -2
NOTHING, ACCESS, ROW_CHANGE, REFRESH, SECOND_ACT, WAKE_CLOCK = 0, 1, 2, 3, 4, 5

# p: the commands RD, WR, ACT, PRE, then RD and WR that close the row; then single numbers. A refresh is for UNIT_BANKS banks, each
# UNIT_STEP after the other. ASKED of them come due at once, ASK_STEP banks apart, and begin one bank later each time, TURNS times.
KINDS, CLOSERS = 0, 4
ACT, PRE = 2, 3
(REFRESH_CLOSE, REFRESH_COMMAND, UNIT_BANKS, UNIT_STEP, ASKED, ASK_STEP, TURNS, STOPS_ALL, ACT2, CAS_RD, CAS_WR, READ_LATENCY,
 REFRESH_INTERVAL, PROTOCOL, AAD, WCK_READ, WCK_WRITE, COMMANDS, BANKS, RANKS, KEEP_HITS, CAP, CAPACITY, RULES, EVERY_TICK,
 ODD) = range(6, 32)
# Tables of p: span [rank * commands + command] = where its rules start: those that hold for ranks, for its bank group, for its bank,
# and for ranks from the n-th last such command; then where they stop. Rules are pairs (ready cell in m, time to add); the cell counts
# from the cells of the group or bank where the rule is theirs. Of the last kind: (ring in m, n, ready cell, time to add).
READY_AT, BANK_AT, LIST_AT, ACTIVE_AT, REFRESH_AT, LIST_WIDTH = range(32, 38)
PART_CELLS = 38
OF_RANKS, OF_GROUP, OF_BANK, OF_WINDOW, STOP, SPAN = 0, 1, 2, 3, 4, 5
# Tables of m: ready [ranks, groups, banks][command]; bank (below); list [mode, rank, COLUMN or ACTIVATE or CLOSE] = (length, a time
# before which nobody is ready, then pairs of bank and its oldest request); active [(request, bank)]; refreshes that are due [bank].
# bank = open row, requests it is open for, request and deadline of a half-done activation, refreshes due, columns since it was
# opened; what never changes: rank, pseudochannel, ready cells of its group and its own, number; then for reads and for writes:
# first and last request in the queue, oldest that hits the open row, oldest that does not, and its place in the three lists.
ROW, ACTIVE, OWNER, DEADLINE, BARRED, USES, RANK, PC, GROUP_READY, OWN_READY, NUMBER, HEAD, TAIL, HIT, MISS, PLACE, BANK = (
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 25)
COLUMN, ACTIVATE, CLOSE, KINDS_OF_LIST = 0, 1, 2, 3
LENGTH, BOUND, ITEMS = 0, 1, 2
# m: lengths of the queues, then the clock and what the last look found.
(READS, WRITES, ACTIVES, REFRESHES, TICK, WRITE_MODE, NEXT, WAITING, NEXT_REFRESH, TURN, SERVED, LAST_RW, END, LOGGED, WCK, CAS, PAIR,
 PAIR_PC, PAIR_BANK, WAKE, ACTIVE_BOUND, REFRESH_STEP, DUE, TARGET, REQUEST) = range(25)
STATE_CELLS = 25
# requests: what is asked, then what happened, then the neighbours in the queue of the bank. A request is known by its first cell.
WRITE, TARGET_BANK, WANTED_ROW, ARRIVAL, SEEN, LATENCY, AFTER, BEFORE = range(8)
REQUEST_COLUMNS = 8

leaf = register_jitable(error_model="numpy")
"""Helpers of the kernel; no divisor here is zero, so no check is compiled for it."""


def cells(array):
    """The cells of an array, row by row; compiled, a bare pointer, for an array has its references counted at every call."""
    return array.reshape(-1)


@intrinsic
def _pointer(context, array):
    def build(context, builder, signature, values):
        return context.make_array(signature.args[0])(context, builder, values[0]).data

    return types.CPointer(array.dtype)(array), build


@overload(cells)
def _cells(array):
    return lambda array: _pointer(array)  # type: ignore[call-arg]


@njit(cache=True, nogil=True, error_model="numpy")
def replay_kernel(part, state, requests, log, counts):
    """Run until the last read has returned and the last write is issued.

    Results: `state` (last column command, end), `requests` (latencies), `log` [row, (tick, command, bank, request)], `counts`: commands
    by number, then row hits, misses and conflicts, then ticks without a command by the rule that ended last (the last cell: none).
    """
    p, m, q, tally, stop = cells(part), cells(state), cells(requests), cells(counts), requests.size
    inject(p, m, q, stop)
    m[TICK], waited, no_rule = 1, 0, p[COMMANDS] + 3 + p[RULES]
    rule, two_slots = no_rule, p[PROTOCOL] == HBM or p[PROTOCOL] == HBM_HALF
    while True:
        tick = m[TICK]
        if tick == m[NEXT_REFRESH]:
            ask_for_refresh(p, m, q)
        m[WAKE] = FAR
        falling = p[PROTOCOL] == HBM_HALF and tick % 2 == 0
        issued = False
        for slot in range(2 if two_slots else 1):
            act = choose(p, m, q, slot == 0, slot == 1 or not two_slots, falling)
            if act == NOTHING:
                continue
            issued = True
            command, banks = settle(p, m, q, tally, act)
            issue(p, m, command, m[TARGET], banks)
            tally[command] += 1
            if m[LOGGED] < log.shape[0]:
                log[m[LOGGED]] = tick, command, m[TARGET], m[REQUEST] // REQUEST_COLUMNS
                m[LOGGED] += 1
            finish(p, m, q, act, command)
        ahead = max(tick + 1, min(m[WAKE] >> SHIFT, m[NEXT_REFRESH]))
        if issued or p[EVERY_TICK]:
            inject(p, m, q, stop)
            ahead = tick + 1
        if m[SERVED] == stop:
            if tick >= m[END]:
                tally[no_rule] += waited
                return
            ahead = min(ahead, m[END])
        if issued:
            tally[rule] += waited
            waited, rule = 0, no_rule
        else:
            waited += ahead - tick
            if m[WAKE] < FAR and m[WAKE] >> SHIFT > tick and m[WAKE] & LABEL < p[RULES]:
                rule = p[COMMANDS] + 3 + (m[WAKE] & LABEL)
        m[TICK] = ahead


@leaf
def issue(p, m, command, target, banks):
    """What a command does to the ready times of ranks, and of the groups and banks that it addresses."""
    now, first = m[TICK] << SHIFT, p[BANK_AT] + target * BANK
    span = PART_CELLS + (m[first + RANK] * p[COMMANDS] + command) * SPAN
    hold(p, m, 0, p[span + OF_RANKS], p[span + OF_GROUP], now)
    for i in range(banks):
        bank = first + i * p[UNIT_STEP] * BANK
        hold(p, m, m[bank + GROUP_READY], p[span + OF_GROUP], p[span + OF_BANK], now)
        hold(p, m, m[bank + OWN_READY], p[span + OF_BANK], p[span + OF_WINDOW], now)
    for at in range(p[span + OF_WINDOW], p[span + STOP], 4):
        ring, cell = p[at], p[at + 2]
        last = m[ring]
        m[ring + 1 + last] = now
        last = last + 1 if last + 1 < p[at + 1] else 0
        m[ring] = last
        m[cell] = max(m[cell], m[ring + 1 + last] + p[at + 3])


@leaf
def hold(p, m, cells, start, stop, now):
    for at in range(start, stop, 2):
        cell, until = cells + p[at], now + p[at + 1]
        m[cell] = max(m[cell], until)


@leaf
def own_time(m, bank, command):
    """Earliest time of a command as far as its bank group and bank go."""
    return max(m[m[bank + GROUP_READY] + command], m[m[bank + OWN_READY] + command])


@leaf
def keeps_edge(p, m, target, whole):
    """Whether the falling edge paired with the last row command is not for these: it wants another pseudochannel or single bank."""
    return m[PAIR_PC] == m[p[BANK_AT] + target * BANK + PC] and (whole or m[PAIR_BANK] < 0 or m[PAIR_BANK] == target)


@leaf
def pair(p, m, target, ticks, whole):
    """HBM3/4: remember the row command of a rising edge, and the falling edge that is paired with it."""
    if p[PROTOCOL] == HBM_HALF and m[TICK] % 2 == 1:
        m[PAIR], m[PAIR_PC] = m[TICK] + ticks, m[p[BANK_AT] + target * BANK + PC]
        m[PAIR_BANK] = -1 if whole else target


@leaf
def inject(p, m, q, stop):
    """Send requests in order until the controller refuses one; they arrive at the present tick."""
    while m[NEXT] < stop:
        request = m[NEXT]
        mode = q[request + WRITE]
        if m[mode] >= p[CAPACITY]:
            return
        bank = p[BANK_AT] + q[request + TARGET_BANK] * BANK
        last = m[bank + TAIL + mode]
        q[request + ARRIVAL], q[request + BEFORE], q[request + AFTER] = m[TICK], last, -1
        m[bank + TAIL + mode] = request
        if last < 0:
            m[bank + HEAD + mode] = request
        else:
            q[last + AFTER] = request
        oldest = bank + (HIT if q[request + WANTED_ROW] == m[bank + ROW] else MISS) + mode
        if m[oldest] < 0:
            m[oldest] = request
            place(p, m, q, bank, mode)
        m[mode] += 1
        m[NEXT] += REQUEST_COLUMNS


@leaf
def leave(p, m, q, bank, request):
    """A request leaves the queue of its bank."""
    mode, before, after = q[request + WRITE], q[request + BEFORE], q[request + AFTER]
    m[mode] -= 1
    if before < 0:
        m[bank + HEAD + mode] = after
    else:
        q[before + AFTER] = after
    if after < 0:
        m[bank + TAIL + mode] = before
    else:
        q[after + BEFORE] = before
    if m[bank + HIT + mode] == request:
        while after >= 0 and q[after + WANTED_ROW] != m[bank + ROW]:
            after = q[after + AFTER]
        m[bank + HIT + mode] = after


@leaf
def turn_row(p, m, q, bank, row):
    """The bank has another row open, or none; of its requests, others hit it now."""
    m[bank + ROW], m[bank + USES] = row, 0
    for mode in range(2):
        hit, miss, at = -1, -1, m[bank + HEAD + mode]
        if row < 0:
            miss, at = at, -1
        while at >= 0 and (hit < 0 or miss < 0):
            if q[at + WANTED_ROW] != row:
                miss = at if miss < 0 else miss
            elif hit < 0:
                hit = at
            at = q[at + AFTER]
        m[bank + HIT + mode], m[bank + MISS + mode] = hit, miss
        place(p, m, q, bank, mode)


@leaf
def place(p, m, q, bank, mode):
    """Put the bank into the lists of those that could use a column, open a row or close one, for one kind of requests.

    Alike commands to one bank are ready together, so the oldest request of each stands for all.
    """
    row, column, change = m[bank + ROW], m[bank + HIT + mode], m[bank + MISS + mode]
    if m[bank + BARRED] > 0 or row == ACTIVATING:
        column, change = -1, -1
    elif row != CLOSED and (m[bank + ACTIVE] > 0 or (
            p[KEEP_HITS] and column >= 0 and change >= 0 and q[column + ARRIVAL] <= q[change + ARRIVAL])):
        change = -1
    enter(p, m, bank, mode, COLUMN, column)
    enter(p, m, bank, mode, ACTIVATE, change if row == CLOSED else -1)
    enter(p, m, bank, mode, CLOSE, change if row != CLOSED else -1)


@leaf
def enter(p, m, bank, mode, kind, request):
    """Let the bank stand in a list with a request, or not at all (-1)."""
    mine = bank + PLACE + mode * KINDS_OF_LIST + kind
    at = m[mine]
    if at < 0 and request < 0:
        return
    row = p[LIST_AT] + ((mode * p[RANKS] + m[bank + RANK]) * KINDS_OF_LIST + kind) * p[LIST_WIDTH]
    if request < 0:
        m[row + LENGTH] -= 1
        last = row + ITEMS + 2 * m[row + LENGTH]
        m[at], m[at + 1] = m[last], m[last + 1]
        m[m[last] + PLACE + mode * KINDS_OF_LIST + kind] = at
        m[mine] = -1
        return
    if at < 0:
        at = row + ITEMS + 2 * m[row + LENGTH]
        when = own_time(m, bank, p[KINDS + (mode if kind == COLUMN else kind + 1)])
        m[row + BOUND] = when if m[row + LENGTH] == 0 else min(m[row + BOUND], when)
        m[row + LENGTH] += 1
        m[at], m[mine] = bank, at
    m[at + 1] = request


@leaf
def ask_for_refresh(p, m, q):
    """Refreshes that are due now join their queue, behind older ones."""
    if m[REFRESHES] + p[ASKED] > p[BANKS]:
        m[NEXT_REFRESH] += 1
        return
    m[NEXT_REFRESH] += p[REFRESH_INTERVAL]
    for i in range(p[ASKED]):
        target = i * p[ASK_STEP] + m[TURN]
        m[p[REFRESH_AT] + m[REFRESHES]] = target
        m[REFRESHES] += 1
        if not p[STOPS_ALL]:
            bar(p, m, q, target, 1)
    m[TURN] = m[TURN] + 1 if m[TURN] + 1 < p[TURNS] else 0


@leaf
def bar(p, m, q, target, change):
    """Keep the requests of banks back for one more refresh, or one less."""
    for i in range(p[UNIT_BANKS]):
        bank = p[BANK_AT] + (target + i * p[UNIT_STEP]) * BANK
        m[bank + BARRED] += change
        for mode in range(2):
            place(p, m, q, bank, mode)


@leaf
def oldest(p, m, mode, kind, falling):
    """The oldest request of a kind of lists that can be served now (FAR: none); the others wake the loop."""
    command, best, odd = p[KINDS + (mode if kind == COLUMN else kind + 1)], FAR, p[ODD] if kind != CLOSE else 0
    limit = 0 if falling and kind != CLOSE else (m[TICK] + 1) << SHIFT
    row, gate = p[LIST_AT] + (mode * p[RANKS] * KINDS_OF_LIST + kind) * p[LIST_WIDTH], p[READY_AT] + command
    paired = falling and m[TICK] == m[PAIR]
    for _ in range(p[RANKS]):
        if m[row + LENGTH] > 0:
            when = max(m[gate], m[row + BOUND]) | odd
            if when < limit:
                found, bound = FAR, FAR
                for at in range(row + ITEMS, row + ITEMS + 2 * m[row + LENGTH], 2):
                    when = own_time(m, m[at], command) | odd
                    if when < limit and paired and keeps_edge(p, m, m[m[at] + NUMBER], False):
                        when = limit | p[RULES]
                    if when < limit:
                        found = min(found, m[at + 1])
                    bound = min(bound, when)
                m[row + BOUND] = bound
                best = min(best, found)
                when = max(m[gate] | odd, bound)
            m[WAKE] = min(m[WAKE], when)
        row, gate = row + KINDS_OF_LIST * p[LIST_WIDTH], gate + p[COMMANDS]
    return best


@leaf
def look_active(p, m, q, falling):
    """The oldest request with an open row that may access now (FAR: none); the others wake the loop."""
    limit, best, bound = 0 if falling else (m[TICK] + 1) << SHIFT, FAR, m[ACTIVE_BOUND]
    if bound < limit:
        bound = FAR
        for at in range(p[ACTIVE_AT], p[ACTIVE_AT] + 2 * m[ACTIVES], 2):
            when = access_time(p, m, q, m[at], m[at + 1])
            bound = min(bound, when)
            if when < limit and (best == FAR or q[m[at] + ARRIVAL] < q[best + ARRIVAL]):
                best = m[at]
        m[ACTIVE_BOUND] = bound
    m[WAKE] = min(m[WAKE], bound)
    return best


@leaf
def access_time(p, m, q, request, bank):
    """Earliest time of a request's RD or WR."""
    command = p[KINDS + q[request + WRITE]]
    return max(m[p[READY_AT] + m[bank + RANK] * p[COMMANDS] + command], own_time(m, bank, command)) | p[ODD]


@leaf
def take(m, act, target, request):
    """The act that was chosen, with its bank and request (-1: the controller's own) in m."""
    m[TARGET], m[REQUEST] = target, request
    return act


@leaf
def choose(p, m, q, columns, rows, falling):
    """What to issue now, of the column commands or the row commands that the slot is for."""
    if p[PROTOCOL] == LPDDR5:
        if m[CAS] > 0:  # the access that the data clock was woken for; nothing else is issued until it comes
            request = m[CAS] - 1
            when = access_time(p, m, q, request, p[BANK_AT] + q[request + TARGET_BANK] * BANK)
            m[WAKE] = min(m[WAKE], when)
            return take(m, ACCESS, q[request + TARGET_BANK], request) if when >> SHIFT <= m[TICK] else NOTHING
        if m[WAITING] > 0:
            act = second_act(p, m, m[TICK])
            if act != NOTHING:
                return act
    request = look_active(p, m, q, falling) if columns and m[ACTIVES] > 0 else FAR
    if request == FAR and rows and m[REFRESHES] > 0 and refresh_ready(p, m):
        return REFRESH
    if request == FAR and (m[REFRESHES] == 0 or not p[STOPS_ALL]):
        request = look(p, m, columns, rows, falling)
    if request == FAR:
        return second_act(p, m, FAR) if m[WAITING] > 0 else NOTHING
    target = q[request + TARGET_BANK]
    if m[p[BANK_AT] + target * BANK + ROW] != q[request + WANTED_ROW]:
        return take(m, ROW_CHANGE, target, request)
    if p[PROTOCOL] == LPDDR5 and m[TICK] >= m[WCK]:  # the data clock sleeps; an activation that is nearly due goes before its wake-up
        act = second_act(p, m, m[TICK] + 1) if m[WAITING] > 0 else NOTHING
        return act if act != NOTHING else take(m, WAKE_CLOCK, target, request)
    return take(m, ACCESS, target, request)


@leaf
def look(p, m, columns, rows, falling):
    """The oldest request of the queue in turn that can be served now (FAR: none): writes from 80 % of their queue on until 20 %."""
    if m[WRITE_MODE] == 0:
        if 10 * m[WRITES] > 8 * p[CAPACITY] or m[READS] == 0:
            m[WRITE_MODE] = 1
    elif 10 * m[WRITES] < 2 * p[CAPACITY] and m[READS] != 0:
        m[WRITE_MODE] = 0
    best = FAR
    if columns:
        best = oldest(p, m, m[WRITE_MODE], COLUMN, falling)
    if rows:
        if m[WAITING] == 0:
            best = min(best, oldest(p, m, m[WRITE_MODE], ACTIVATE, falling))
        best = min(best, oldest(p, m, m[WRITE_MODE], CLOSE, falling))
    return best


@leaf
def refresh_ready(p, m):
    """Whether a refresh can take its next step: the oldest, or where each stops but its own banks, the oldest that can."""
    for due in range(1 if p[STOPS_ALL] else m[REFRESHES]):
        target, banks = m[p[REFRESH_AT] + due], p[UNIT_BANKS]
        command, busy, first = p[REFRESH_COMMAND], False, target
        for i in range(banks):
            bank = p[BANK_AT] + (first + i * p[UNIT_STEP]) * BANK
            busy = busy or m[bank + ACTIVE] > 0 or m[bank + ROW] == ACTIVATING
            if m[bank + ROW] != CLOSED and command == p[REFRESH_COMMAND]:
                command = p[REFRESH_CLOSE]
                target = target if p[STOPS_ALL] else m[bank + NUMBER]
        if busy:
            continue
        when = 0
        for i in range(banks if command == p[REFRESH_COMMAND] or p[STOPS_ALL] else 1):
            bank = p[BANK_AT] + (target + i * p[UNIT_STEP]) * BANK
            when = max(when, m[p[READY_AT] + m[bank + RANK] * p[COMMANDS] + command], own_time(m, bank, command))
        if p[PROTOCOL] == HBM_HALF:  # precharges start on either edge, refreshes on the rising one
            tick = max(when >> SHIFT, m[TICK])
            if tick % 2 == 0 if command == p[REFRESH_COMMAND] else tick == m[PAIR] and keeps_edge(p, m, target, p[STOPS_ALL] == 1):
                when = (tick + 1) << SHIFT | (when & LABEL if when >> SHIFT > m[TICK] else p[RULES])
        if when >> SHIFT <= m[TICK]:
            m[REFRESH_STEP], m[DUE] = command, due
            take(m, REFRESH, target, -1)
            return True
        m[WAKE] = min(m[WAKE], when)
    return False


@leaf
def second_act(p, m, until):
    """Finish the half-done activation whose deadline is nearest, if it is not after a tick. No rule holds ACT2 back."""
    best, first = until + 1, -1
    for bank in range(p[BANK_AT], p[BANK_AT] + p[BANKS] * BANK, BANK):
        if m[bank + ROW] == ACTIVATING and m[bank + DEADLINE] < best:
            best, first = m[bank + DEADLINE], bank
    return NOTHING if first < 0 else take(m, SECOND_ACT, m[first + NUMBER], m[first + OWNER])


@leaf
def settle(p, m, q, tally, act):
    """The command of an act and how many banks it is for, before it is issued. A request that accesses leaves its queue.

    A request's row is judged as hit, miss or conflict at its first command.
    """
    request, bank, banks = m[REQUEST], p[BANK_AT] + m[TARGET] * BANK, 1
    opened = m[bank + ROW]
    if act == REFRESH:
        command = m[REFRESH_STEP]
        if command == p[REFRESH_COMMAND] or p[STOPS_ALL]:
            banks = p[UNIT_BANKS]
    elif act == SECOND_ACT:
        command = p[ACT2]
    elif act == WAKE_CLOCK:
        command = p[CAS_WR if q[request + WRITE] else CAS_RD]
    else:
        if q[request + SEEN] == 0:
            q[request + SEEN] = 1
            tally[p[COMMANDS] + (0 if opened == q[request + WANTED_ROW] else (1 if opened == CLOSED else 2))] += 1
        command = settle_access(p, m, q, bank, request) if act == ACCESS else p[KINDS + (ACT if opened == CLOSED else PRE)]
    return command, banks


@leaf
def settle_access(p, m, q, bank, request):
    """RD or WR, or with closed rows the one that closes the row: the last of `cap` columns, or one that no queued request follows."""
    mode, place_of = q[request + WRITE], 0
    while place_of < m[ACTIVES] and m[p[ACTIVE_AT] + 2 * place_of] != request:
        place_of += 1
    was_active = place_of < m[ACTIVES]
    if was_active:
        m[ACTIVES] -= 1
        m[bank + ACTIVE] -= 1
        for at in range(p[ACTIVE_AT] + 2 * place_of, p[ACTIVE_AT] + 2 * m[ACTIVES]):
            m[at] = m[at + 2]
    else:
        leave(p, m, q, bank, request)
    m[bank + USES] += 1
    last = m[bank + HIT] < 0 and m[bank + HIT + 1] < 0
    if p[CAP] > 0 and m[bank + ACTIVE] == 0 and (last or m[bank + USES] >= p[CAP]):
        return p[CLOSERS + mode]
    place(p, m, q, bank, mode)
    if was_active:
        place(p, m, q, bank, 1 - mode)
    return p[KINDS + mode]


@leaf
def finish(p, m, q, act, command):
    """What an issued command does to banks and queues: a row opens or closes, data come, a refresh leaves its queue."""
    target, request = m[TARGET], m[REQUEST]
    bank = p[BANK_AT] + target * BANK
    if act == ACCESS:
        write = q[request + WRITE]
        if command != p[KINDS + write]:
            turn_row(p, m, q, bank, CLOSED)
        done = m[TICK] if write else m[TICK] + p[READ_LATENCY]
        q[request + LATENCY] = done - q[request + ARRIVAL]
        m[LAST_RW], m[END] = m[TICK], max(m[END], done)
        m[WCK] = max(m[WCK], m[TICK] + p[WCK_WRITE if write else WCK_READ])
        m[CAS] = 0
        m[SERVED] += REQUEST_COLUMNS
    elif act == WAKE_CLOCK:
        m[CAS] = request + 1
    elif act == SECOND_ACT:
        m[WAITING] -= 1
        open_for(p, m, q, bank, request)
    elif act == REFRESH:
        if command != p[REFRESH_COMMAND]:
            for other in range(target, target + (p[UNIT_BANKS] if p[STOPS_ALL] else 1)):
                turn_row(p, m, q, p[BANK_AT] + other * BANK, CLOSED)
        else:
            m[REFRESHES] -= 1
            for at in range(p[REFRESH_AT] + m[DUE], p[REFRESH_AT] + m[REFRESHES]):
                m[at] = m[at + 1]
            if not p[STOPS_ALL]:
                bar(p, m, q, target, -1)
        pair(p, m, target, 1, p[STOPS_ALL] == 1)
    elif command == p[KINDS + PRE]:
        turn_row(p, m, q, bank, CLOSED)
        pair(p, m, target, 1, False)
    else:
        leave(p, m, q, bank, request)
        pair(p, m, target, 3, False)
        if p[PROTOCOL] == LPDDR5:
            m[bank + OWNER], m[bank + DEADLINE] = request, m[TICK] + p[AAD]
            m[WAITING] += 1
            turn_row(p, m, q, bank, ACTIVATING)
        else:
            open_for(p, m, q, bank, request)


@leaf
def open_for(p, m, q, bank, request):
    """A row is open, and stays so until this request has used it."""
    m[bank + ACTIVE] += 1
    turn_row(p, m, q, bank, q[request + WANTED_ROW])
    at, when = p[ACTIVE_AT] + 2 * m[ACTIVES], access_time(p, m, q, request, bank)
    m[at], m[at + 1] = request, bank
    m[ACTIVE_BOUND] = when if m[ACTIVES] == 0 else min(m[ACTIVE_BOUND], when)
    m[ACTIVES] += 1
