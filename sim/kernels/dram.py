"""One DRAM channel, command by command, without a cycle loop: the njit controller.

The earliest tick of a command is the largest of one ready time per level (channel, pseudochannel, rank, bank group, bank)
that earlier commands have left. Where nothing can be issued, time jumps to the earliest candidate or refresh. A candidate's
earliest tick changes only when a command is issued, so jumping equals ticking.

Order within a tick: requests whose row was opened for them (active), then the head of the refresh queue, then, only if that
queue is empty, the read or the write queue, first ready in order of arrival. HBM has a slot for column commands and one for
row commands in each tick. LPDDR5 splits an activation in two and wakes its data clock before an access. These are the rules
of Ramulator 2.1's controllers (CMU-SAFARI/ramulator2 c5b1c3a), whose runs are the reference data.

Compiled functions pay for every array that they are given, so there are few: `p` is the part (numbers, then the tables that
start at p[*_AT]), `m` is all that changes (numbers, then the tables at p[*_AT] of it).
"""

from __future__ import annotations

from numba import njit
from numba.extending import register_jitable

FAR, LEVELS, HISTORY = 2**62, 5, 8
SINGLE, HBM, HBM_HALF, LPDDR5 = 0, 1, 2, 3
CLOSED, ACTIVATING = -1, -2
RD, WR, ACT, PRE = 0, 1, 2, 3
NOTHING, ACCESS, ROW_CHANGE, REFRESH, SECOND_ACT, WAKE_CLOCK = 0, 1, 2, 3, 4, 5

# p: nodes of each level inside the one above, first node of each level, the commands RD, WR, ACT, PRE; then single numbers.
COUNTS, FIRST, KINDS = 0, 4, 10
(PREAB, REFAB, ACT2, CAS_RD, CAS_WR, READ_LATENCY, REFRESH_INTERVAL, PROTOCOL, AAD, WCK_READ, WCK_WRITE, COMMANDS, BANKS, KEEP_HITS,
 CAPACITY, RULES, EVERY_TICK) = range(14, 31)
# Tables of p: span [level * commands + command] = (first rule, last rule, whether one looks back, whether one is for siblings),
# rule = (next command, ticks, commands to look back, holds for the other nodes of the level), scope [command], path [bank, level].
SPAN_AT, RULE_AT, SCOPE_AT, PATH_AT, READY_AT, BOOK_AT, GATE_AT, BANK_AT, QUEUE_AT, QUEUE_WIDTH = range(31, 41)
PART_CELLS = 41
START, STOP, WINDOWED, SIBLINGS, SPAN = 0, 1, 2, 3, 4
NEXT, TICKS, WINDOW, SIBLING, RULE = 0, 1, 2, 3, 4
# Tables of m: ready [node * commands + command]; book [the same] = (rule behind it, commands issued, ticks of the last ones);
# gate [rank, kind]; bank = (open row, requests it is open for, request and deadline of a half-done activation, last scan by kind,
# and what never changes: where the gate of its rank and the ready cells of its group and its own stand in m, its number);
# queue [READS, WRITES, ACTIVES, REFRESHES] of request numbers (of banks whose rank is due for a refresh), and for reads and writes
# two more columns beside the number: where the bank stands in m, and the row.
CAUSE, ISSUED, PAST, BOOK = 0, 1, 2, 2 + HISTORY
ROW, ACTIVE, OWNER, DEADLINE, LOOKED, GATE, GROUP_READY, OWN_READY, NUMBER, BANK = 0, 1, 2, 3, 4, 8, 9, 10, 11, 12
READS, WRITES, ACTIVES, REFRESHES, BANK_OF, ROW_OF, QUEUES = 0, 1, 2, 3, 4, 6, 8
# m: lengths of the four queues, then the clock and what the last look found.
(TICK, WRITE_MODE, HEAD, WAITING, NEXT_REFRESH, SERVED, LAST_RW, END, LOGGED, WCK, CAS, PAIR, PAIR_PC, PAIR_BANK, COLUMN_PICK, ROW_PICK,
 WAKE, WAKE_CAUSE, REFRESH_STEP, SCANS, TARGET, REQUEST) = range(4, 26)
STATE_CELLS = 26
# requests: what is asked, then what happened.
WRITE, TARGET_BANK, WANTED_ROW, ARRIVAL, SEEN, LATENCY = range(6)
REQUEST_COLUMNS = 6

leaf = register_jitable(error_model="numpy")
"""Helpers of the kernel; no divisor here is zero, so no check is compiled for it."""


@njit(cache=True, error_model="numpy")
def replay_kernel(p, m, requests, log, tally):
    """Run until the last read has returned and the last write is issued.

    Results: `m` (last column command, end), `requests` (latencies), `log` [row, (tick, command, bank, request)],
    `tally`: commands by number, then row hits, misses and conflicts, then ticks without a command by the rule that held
    the earliest candidate (the last cell: none).
    """
    inject(p, m, requests)
    m[TICK] = 1
    slots = 2 if p[PROTOCOL] == HBM or p[PROTOCOL] == HBM_HALF else 1
    while True:
        tick = m[TICK]
        if tick == m[NEXT_REFRESH]:
            ask_for_refresh(p, m)
        m[WAKE], m[WAKE_CAUSE] = FAR, -1
        falling = p[PROTOCOL] == HBM_HALF and tick % 2 == 0
        issued, scanned = False, False
        for slot in range(slots):
            if falling and slot == 0:
                look_active(p, m, requests)
                continue
            act = choose(p, m, requests, slots == 2, slot, scanned, slot == 0 or falling)
            scanned = slots == 2 and slot == 0 and act == NOTHING and m[REFRESHES] == 0
            if act == NOTHING:
                continue
            issued = True
            command = settle(p, m, requests, tally, act)
            issue(p, m, command, m[TARGET])
            tally[command] += 1
            if m[LOGGED] < log.shape[0]:
                at = m[LOGGED]
                log[at, 0], log[at, 1], log[at, 2], log[at, 3] = tick, command, m[TARGET], m[REQUEST]
                m[LOGGED] += 1
            finish(p, m, requests, act, command)
        ahead = max(tick + 1, min(m[WAKE], m[NEXT_REFRESH]))
        if issued or p[EVERY_TICK]:
            inject(p, m, requests)
            ahead = tick + 1
        if m[SERVED] == requests.shape[0]:
            if tick >= m[END]:
                return
            ahead = min(ahead, m[END])
        if not issued:
            tally[p[COMMANDS] + 3 + (m[WAKE_CAUSE] if m[WAKE_CAUSE] >= 0 else p[RULES])] += ahead - tick
        m[TICK] = ahead


@leaf
def node_of(p, bank, level):
    return p[p[PATH_AT] + bank * LEVELS + level]


@leaf
def hold(p, m, cells, rule, tick):
    """One rule takes effect on the node whose cells start at `cells`."""
    at = p[RULE_AT] + rule * RULE
    cell, until = cells + p[at + NEXT], tick + p[at + TICKS]
    if until > m[p[READY_AT] + cell]:
        m[p[READY_AT] + cell] = until
        m[p[BOOK_AT] + cell * BOOK + CAUSE] = rule


@leaf
def note(p, m, node, span, command, tick, siblings):
    """The rules of one node after a command of its own (`siblings`: of another node of its level)."""
    cells = node * p[COMMANDS]
    book = p[BOOK_AT] + (cells + command) * BOOK
    if p[span + WINDOWED] and not siblings:
        m[book + PAST + m[book + ISSUED] % HISTORY] = tick
        m[book + ISSUED] += 1
    for rule in range(p[span + START], p[span + STOP]):
        at = p[RULE_AT] + rule * RULE
        if (p[at + SIBLING] == 1) != siblings:
            continue
        window = p[at + WINDOW]
        if window == 1:
            hold(p, m, cells, rule, tick)
        elif m[book + ISSUED] >= window:
            hold(p, m, cells, rule, m[book + PAST + (m[book + ISSUED] - window) % HISTORY])


@leaf
def issue(p, m, command, bank):
    """What a command does to the ready times: of its path, and of all nodes below a command to a whole rank or channel."""
    tick, scope = m[TICK], p[p[SCOPE_AT] + command]
    for level in range(LEVELS):
        span = p[SPAN_AT] + (level * p[COMMANDS] + command) * SPAN
        if p[span + START] == p[span + STOP]:
            continue
        if level <= scope:
            node = node_of(p, bank, level)
            note(p, m, node, span, command, tick, False)
            if p[span + SIBLINGS]:
                size = p[COUNTS + level - 1]
                family = p[FIRST + level] + (node - p[FIRST + level]) // size * size
                for other in range(family, family + size):
                    if other != node:
                        note(p, m, other, span, command, tick, True)
        else:
            first, width = below(p, bank, scope, level)
            for node in range(first, first + width):
                note(p, m, node, span, command, tick, False)
    gate, own = p[GATE_AT], p[FIRST + 2] * p[COMMANDS]
    for pc in range(p[FIRST + 1] * p[COMMANDS], p[FIRST + 2] * p[COMMANDS], p[COMMANDS]):
        for _ in range(p[COUNTS + 1]):
            for kind in range(4):
                at = p[READY_AT] + p[KINDS + kind]
                m[gate + kind] = max(m[at], m[at + pc], m[at + own])
            gate, own = gate + 4, own + p[COMMANDS]


@leaf
def below(p, bank, scope, level):
    """First node of a level under the node of `scope` that holds a bank, and how many there are."""
    width = 1
    for i in range(scope, level):
        width *= p[COUNTS + i]
    return p[FIRST + level] + (node_of(p, bank, scope) - p[FIRST + scope]) * width, width


@leaf
def ready_at(p, m, command, bank):
    """Earliest tick of a command: of its path, and of all below a command to a whole rank or channel."""
    tick, scope = 0, p[p[SCOPE_AT] + command]
    for level in range(LEVELS):
        first, width = node_of(p, bank, level), 1
        if level > scope:
            first, width = below(p, bank, scope, level)
        for node in range(first, first + width):
            tick = max(tick, m[p[READY_AT] + node * p[COMMANDS] + command])
    return tick


@leaf
def edge(p, m, tick, bank, is_precharge, whole):
    """The first tick from `tick` on at which the half-cycle clock of HBM3/4 takes a command: precharges on either edge, others rising.

    A precharge on the falling edge paired with a row command needs another pseudochannel, or at least another single bank.
    """
    if p[PROTOCOL] != HBM_HALF or tick % 2 == 1:
        return tick
    if not is_precharge:
        return tick + 1
    if tick != m[PAIR] or m[PAIR_PC] != node_of(p, bank, 1):
        return tick
    return tick if not whole and m[PAIR_BANK] >= 0 and m[PAIR_BANK] != bank else tick + 1


@leaf
def pair(p, m, bank, ticks, whole):
    """HBM3/4: remember the row command of a rising edge, and the falling edge that is paired with it."""
    if p[PROTOCOL] == HBM_HALF and m[TICK] % 2 == 1:
        m[PAIR], m[PAIR_PC], m[PAIR_BANK] = m[TICK] + ticks, node_of(p, bank, 1), -1 if whole else bank


@leaf
def wake(p, m, when, command, bank):
    """Remember the earliest tick at which something could be issued, and the rule that holds it."""
    if when < m[WAKE]:
        m[WAKE], m[WAKE_CAUSE] = when, -1
        for level in range(LEVELS):
            cell = node_of(p, bank, level) * p[COMMANDS] + command
            if m[p[READY_AT] + cell] == when:
                m[WAKE_CAUSE] = m[p[BOOK_AT] + cell * BOOK + CAUSE]


@leaf
def remove(p, m, which, entry):
    """Take an entry out of a queue, which keeps its order."""
    at, width = p[QUEUE_AT] + which * p[QUEUE_WIDTH], p[QUEUE_WIDTH]
    m[which] -= 1
    for i in range(at + entry, at + m[which]):
        m[i] = m[i + 1]
        if which <= WRITES:
            m[i + BANK_OF * width], m[i + ROW_OF * width] = m[i + 1 + BANK_OF * width], m[i + 1 + ROW_OF * width]


@leaf
def append(p, m, which, value):
    m[p[QUEUE_AT] + which * p[QUEUE_WIDTH] + m[which]] = value
    m[which] += 1


@leaf
def inject(p, m, requests):
    """Send requests in order until the controller refuses one; they arrive at the present tick."""
    while m[HEAD] < requests.shape[0]:
        which = requests[m[HEAD], WRITE]
        if m[which] >= p[CAPACITY]:
            return
        at = p[QUEUE_AT] + which * p[QUEUE_WIDTH] + m[which]
        m[at + BANK_OF * p[QUEUE_WIDTH]] = p[BANK_AT] + requests[m[HEAD], TARGET_BANK] * BANK
        m[at + ROW_OF * p[QUEUE_WIDTH]] = requests[m[HEAD], WANTED_ROW]
        append(p, m, which, m[HEAD])
        requests[m[HEAD], ARRIVAL] = m[TICK]
        m[HEAD] += 1


@leaf
def ask_for_refresh(p, m):
    """One refresh for each rank (pseudochannel, channel): its first bank joins the queue, behind older ones."""
    m[NEXT_REFRESH] += p[REFRESH_INTERVAL]
    level = p[p[SCOPE_AT] + p[REFAB]]
    nodes = p[FIRST + level + 1] - p[FIRST + level]
    for node in range(nodes):
        append(p, m, REFRESHES, node * (p[BANKS] // nodes))


@leaf
def scan(p, m, requests, two_slots, columns):
    """First ready column entry and row entry of the queue in turn (-1: none); a column entry, or a lone slot's first, ends the look.

    Alike commands to one bank are ready together, so only the oldest is looked at. The earliest that is not ready wakes the loop.
    """
    if m[WRITE_MODE] == 0:  # drain writes from 80 % of the queue on or with no read, until 20 % with reads waiting
        if 10 * m[WRITES] > 8 * p[CAPACITY] or m[READS] == 0:
            m[WRITE_MODE] = 1
    elif 10 * m[WRITES] < 2 * p[CAPACITY] and m[READS] != 0:
        m[WRITE_MODE] = 0
    tick, which, first = m[TICK], m[WRITE_MODE], p[QUEUE_AT] + m[WRITE_MODE] * p[QUEUE_WIDTH]
    m[COLUMN_PICK], m[ROW_PICK] = -1, -1
    m[SCANS] += 1
    earliest, who, what, number, half = FAR, 0, 0, m[SCANS], p[PROTOCOL] == HBM_HALF
    banks, rows = first + BANK_OF * p[QUEUE_WIDTH], first + ROW_OF * p[QUEUE_WIDTH]
    bank, opened, hit = -1, CLOSED, False
    for i in range(m[which]):
        if m[banks + i] == bank and (m[rows + i] == opened) == hit:
            continue
        bank = m[banks + i]
        opened = m[bank + ROW]
        hit = m[rows + i] == opened
        kind = ACT if opened == CLOSED else (which if hit else PRE)
        if (kind <= WR and not columns) or m[bank + LOOKED + kind] == number or opened == ACTIVATING:
            continue
        if kind == PRE and (m[bank + ACTIVE] > 0 or (p[KEEP_HITS] and hit_waits(m, requests, first, i, m[which], banks, rows))):
            continue
        if kind == ACT and m[WAITING] > 0:
            continue
        when = m[m[bank + GATE] + kind]
        if when <= tick:
            m[bank + LOOKED + kind] = number
            command = p[KINDS + kind]
            when = max(tick, m[m[bank + GROUP_READY] + command], m[m[bank + OWN_READY] + command])
        if half:
            when = edge(p, m, when, m[bank + NUMBER], kind == PRE, False)
        if when > tick:
            if when < earliest:
                earliest, who, what = when, m[bank + NUMBER], p[KINDS + kind]
        elif kind <= WR:
            m[COLUMN_PICK] = i
            return
        elif m[ROW_PICK] < 0:
            m[ROW_PICK] = i
            if not columns or not two_slots:
                return
    if earliest < FAR:
        wake(p, m, earliest, what, who)


@leaf
def hit_waits(m, requests, first, entry, count, banks, rows):
    """Whether a request that came no later than this one still hits the row that this one would close."""
    bank = m[banks + entry]
    for i in range(count):
        if m[banks + i] == bank and m[rows + i] == m[bank + ROW]:
            return requests[m[first + i], ARRIVAL] <= requests[m[first + entry], ARRIVAL]
    return False


@leaf
def look_active(p, m, requests):
    """The oldest request with an open row that may access now (-1: none); the others wake the loop."""
    best, first = -1, p[QUEUE_AT] + ACTIVES * p[QUEUE_WIDTH]
    for i in range(m[ACTIVES]):
        request = m[first + i]
        target, kind = requests[request, TARGET_BANK], requests[request, WRITE]
        bank, command = p[BANK_AT] + target * BANK, p[KINDS + kind]
        when = max(m[TICK], m[m[bank + GATE] + kind], m[m[bank + GROUP_READY] + command], m[m[bank + OWN_READY] + command])
        when = edge(p, m, when, target, False, False)
        if when > m[TICK]:
            wake(p, m, when, command, target)
        elif best < 0 or requests[request, ARRIVAL] < requests[best, ARRIVAL]:
            best = request
    return best


@leaf
def take(m, act, target, request):
    """The act that was chosen, with its bank and request (-1: the controller's own) in m."""
    m[TARGET], m[REQUEST] = target, request
    return act


@leaf
def second_act(p, m, target):
    return take(m, SECOND_ACT, target, m[p[BANK_AT] + target * BANK + OWNER])


@leaf
def choose(p, m, requests, two_slots, slot, scanned, columns):
    """What to issue now. `scanned`: the queue was looked through for the other slot, and nothing has changed."""
    if p[PROTOCOL] == LPDDR5:
        if m[CAS] > 0:
            return continue_access(p, m, requests)
        if m[WAITING] > 0:
            target = half_open(p, m, True)
            if target >= 0:
                return second_act(p, m, target)
    if slot == 0 and m[ACTIVES] > 0:
        request = look_active(p, m, requests)
        if request >= 0:
            return access(p, m, requests, request)
    row_slot = slot == 1 or not two_slots
    if m[REFRESHES] > 0:
        first = m[p[QUEUE_AT] + REFRESHES * p[QUEUE_WIDTH]]
        if row_slot and refresh_ready(p, m, first):
            return take(m, REFRESH, first, -1)
    else:
        if not scanned:
            scan(p, m, requests, two_slots, columns)
        first = p[QUEUE_AT] + m[WRITE_MODE] * p[QUEUE_WIDTH]
        if m[COLUMN_PICK] >= 0 and slot == 0 and (two_slots or m[ROW_PICK] < 0 or m[COLUMN_PICK] < m[ROW_PICK]):
            return access(p, m, requests, m[first + m[COLUMN_PICK]])
        if m[ROW_PICK] >= 0 and row_slot:
            request = m[first + m[ROW_PICK]]
            return take(m, ROW_CHANGE, requests[request, TARGET_BANK], request)
    return second_act(p, m, half_open(p, m, False)) if m[WAITING] > 0 else NOTHING


@leaf
def refresh_ready(p, m, first):
    """Whether the oldest refresh can take its next step: PREab while a row of its scope is open, and none is in use; else REFab."""
    scope = p[p[SCOPE_AT] + p[REFAB]]
    start, banks = below(p, first, scope, LEVELS - 1)
    command, busy = p[REFAB], False
    for target in range(start - p[FIRST + LEVELS - 1], start - p[FIRST + LEVELS - 1] + banks):
        bank = p[BANK_AT] + target * BANK
        if m[bank + ROW] != CLOSED:
            command = p[PREAB]
        busy = busy or m[bank + ACTIVE] > 0 or m[bank + ROW] == ACTIVATING
    m[REFRESH_STEP] = command
    when = edge(p, m, max(ready_at(p, m, command, first), m[TICK]), first, command == p[PREAB], True)
    if when > m[TICK]:
        wake(p, m, when, command, first)
        return False
    return not busy


@leaf
def access(p, m, requests, request):
    """A request may access now; in LPDDR5 only with its data clock awake, and an activation that is nearly due goes first."""
    target = requests[request, TARGET_BANK]
    if p[PROTOCOL] != LPDDR5 or m[TICK] < m[WCK]:
        return take(m, ACCESS, target, request)
    for other in range(p[BANKS]):
        bank = p[BANK_AT] + other * BANK
        if m[bank + ROW] == ACTIVATING and m[bank + DEADLINE] <= m[TICK] + 1:
            return second_act(p, m, half_open(p, m, False))
    return take(m, WAKE_CLOCK, target, request)


@leaf
def continue_access(p, m, requests):
    """The access that the data clock was woken for; nothing else is issued until it comes."""
    request = m[CAS] - 1
    target, command = requests[request, TARGET_BANK], p[KINDS + requests[request, WRITE]]
    when = ready_at(p, m, command, target)
    if when > m[TICK]:
        wake(p, m, when, command, target)
        return NOTHING
    return take(m, ACCESS, target, request)


@leaf
def half_open(p, m, due):
    """The bank whose half-done activation has the nearest deadline (`due`: has come), -1 for none. No rule holds ACT2 back."""
    best = -1
    for target in range(p[BANKS]):
        bank = p[BANK_AT] + target * BANK
        if m[bank + ROW] != ACTIVATING or (due and m[bank + DEADLINE] > m[TICK]):
            continue
        if best < 0 or m[bank + DEADLINE] < m[p[BANK_AT] + best * BANK + DEADLINE]:
            best = target
    return best


@leaf
def settle(p, m, requests, tally, act):
    """The command of an act, before it is issued; judges a request's row as hit, miss or conflict at its first one."""
    request, opened = m[REQUEST], m[p[BANK_AT] + m[TARGET] * BANK + ROW]
    if act in (ACCESS, ROW_CHANGE) and requests[request, SEEN] == 0:
        requests[request, SEEN] = 1
        tally[p[COMMANDS] + (0 if opened == requests[request, WANTED_ROW] else (1 if opened == CLOSED else 2))] += 1
    if act == ACCESS:
        return p[KINDS + requests[request, WRITE]]
    if act == ROW_CHANGE:
        return p[KINDS + (ACT if opened == CLOSED else PRE)]
    if act == WAKE_CLOCK:
        return p[CAS_WR if requests[request, WRITE] else CAS_RD]
    return p[ACT2] if act == SECOND_ACT else m[REFRESH_STEP]


@leaf
def finish(p, m, requests, act, command):
    """What an issued command does to banks and queues."""
    target, request = m[TARGET], m[REQUEST]
    bank = p[BANK_AT] + target * BANK
    if act == ACCESS:
        finish_access(p, m, requests, bank, request)
    elif act == WAKE_CLOCK:
        m[CAS] = request + 1
    elif act == SECOND_ACT:
        m[WAITING] -= 1
        open_for(p, m, requests, bank, request)
    elif act == REFRESH:
        if command == p[REFAB]:
            remove(p, m, REFRESHES, 0)
        else:
            start, banks = below(p, target, p[p[SCOPE_AT] + command], LEVELS - 1)
            for other in range(start - p[FIRST + LEVELS - 1], start - p[FIRST + LEVELS - 1] + banks):
                m[p[BANK_AT] + other * BANK + ROW] = CLOSED
        pair(p, m, target, 1, True)
    elif command == p[KINDS + PRE]:
        m[bank + ROW] = CLOSED
        pair(p, m, target, 1, False)
    else:
        remove(p, m, m[WRITE_MODE], m[ROW_PICK])
        pair(p, m, target, 3, False)
        if p[PROTOCOL] == LPDDR5:
            m[bank + ROW], m[bank + OWNER], m[bank + DEADLINE] = ACTIVATING, request, m[TICK] + p[AAD]
            m[WAITING] += 1
        else:
            open_for(p, m, requests, bank, request)


@leaf
def open_for(p, m, requests, bank, request):
    """A row is open, and stays so until this request has used it."""
    m[bank + ROW] = requests[request, WANTED_ROW]
    m[bank + ACTIVE] += 1
    append(p, m, ACTIVES, request)


@leaf
def finish_access(p, m, requests, bank, request):
    """A request leaves the queue that it waited in; its data come (or it is written) after this tick."""
    write = requests[request, WRITE]
    which, entry = ACTIVES, 0
    while m[p[QUEUE_AT] + which * p[QUEUE_WIDTH] + entry] != request or entry >= m[which]:
        entry += 1
        if entry >= m[which]:
            which, entry = write, 0
    remove(p, m, which, entry)
    if which == ACTIVES:
        m[bank + ACTIVE] -= 1
    done = m[TICK] if write else m[TICK] + p[READ_LATENCY]
    requests[request, LATENCY] = done - requests[request, ARRIVAL]
    m[LAST_RW], m[END] = m[TICK], max(m[END], done)
    m[WCK] = max(m[WCK], m[TICK] + p[WCK_WRITE if write else WCK_READ])
    m[CAS] = 0
    m[SERVED] += 1
