"""A PIM command stream and ordinary requests in one DRAM channel, command by command, without a cycle loop (njit leaf).

A kernel of its own beside pimissue.py: the in-order issue of PIM commands alone needs no queues, no look at every other candidate
before each command and no account of who waited for whom, and pays for none of them. Blocks, conditions and refresh are the same;
without requests the same commands come at the same ticks.

At a tick the refresh that is under way goes first, then by policy the next PIM command or a request's. Where nothing may be
issued, time jumps to the next tick at which something may, arrives or falls due. Requests are served first ready first come,
row hits first; a row that an earlier request of the queue still hits is not closed. Writes are drained from 80 % of their queue on
or with no read, until 20 % with reads waiting (the rule of kernels/dram.py).

With IN_TURN every bank has a queue of its own, and they take turns; so do reads and writes, when there are none left of the others.
Writes come into these queues from a buffer: all, when it is full, or when nothing else waits and it holds more than a few.

Compiled functions pay for every array that they are given, so `p` is the part and the policy (numbers, then the tables that start
at p[*_AT]) and `m` all that changes (numbers, then the tables at p[*_AT] of it).
"""

from numba import int64, njit, types
from numba.extending import register_jitable

_IN = types.Array(int64, 1, "C", readonly=True)
_IN_2D = types.Array(int64, 2, "C", readonly=True)
_OUT = int64[::1]
_OUT_2D = int64[:, ::1]
HISTORY, NEVER = 8, 2**62
# Conditions of stream lines, what commands do to rows, columns of `needs`: as in pimissue.py.
ALWAYS, IF_OPEN, IF_OTHER, IF_SAME, IF_CLOSED = 0, 1, 2, 3, 4
KEEPS, OPENS, CLOSES = 0, 1, 2
RELEASE, BASE, PER_OPEN, IF_BANK_CLOSED, IF_BANK_OTHER, VECTOR_BANK, VECTOR_ROW = 0, 1, 2, 3, 4, 5, 6
# Columns of `requests`: what is asked, then the tick at which it came into a queue, and that of its read or write.
WRITE, TARGET, WANTED_ROW, ARRIVAL, ENTERED, SERVED = 0, 1, 2, 3, 4, 5
REQUEST_COLUMNS = 6
PIM_FIRST, REQUESTS_FIRST, OLDEST_FIRST, BLOCKED = 0, 1, 2, 3
# p: refresh interval (0: none), banks of a rank, ranks, refresh command, what closes the ordinary and the PIM buffer, which row of
# `rows` is the PIM buffer; policy, whether a block excludes requests, spare cycles that it must have for a request's command, those
# that closing and opening a row use, entries of each queue; commands and banks of the part.
(INTERVAL, RANK_BANKS, RANKS, REFRESH, CLOSE_0, CLOSE_1, PIM_SIDE, POLICY, EXCLUSIVE, SPARE, CLOSING, OPENING, CAPACITY,
 RD, WR, ACT, COMMANDS, BANKS) = range(18)  # fmt: skip
# Tables of p: node [level, bank], heard [command, 12] as in pimissue.py, span [level], first rule [level, command], rule [6] (next,
# ticks, ticks a step, window, the command has a window, holds for the other nodes inside the one above), scope, action, side [command].
NODE_AT, HEARD_AT, SPAN_AT, FIRST_AT, RULE_AT, SCOPE_AT, ACTION_AT, SIDE_AT = range(18, 26)
# Tables of m: rows [buffer, bank]; kept [bank] (1 where the running block opens a row for its vector; the row that it keeps the PIM
# buffer for; 1 where a request opened the row); queue [read or write, entry]; counts [command]; waits [of PIM or requests, why];
# three views of CELLS ready ticks [node, command], CELLS commands behind them and CELLS * HISTORY last ticks of [node, command]: after
# all commands, after those of PIM and refresh, after those of requests and refresh; taken [line].
ROWS_AT, KEPT_AT, QUEUE_AT, COUNTS_AT, WAITS_AT, VIEW_AT, CELLS, TAKEN_AT = range(26, 34)
# Whether banks take turns; writes that fill the buffer before them, and as many that may wait in it while nothing else does.
IN_TURN, BUFFER, FEW = range(34, 37)
PART_CELLS = 37
RULE, HEARD, BINDS, KEPT, WHY = 6, 12, 6, 3, 4
VECTOR, PIM_ROW, OF_REQUEST = 0, 1, 2
OF_PIM, OF_REQUESTS = 1, 2
TURN_TAKEN, ROW_CHANGE, POWER, DATA = 0, 1, 2, 3
# m: lengths of the two queues, then what is under way; RELEASED writes are the first of their queue, and may be served.
(READS, WRITES, WRITE_MODE, HEAD, TICK, LAST, NEXT_REFRESH, NEXT_RANK, REFRESHES, DONE, RECORDED, LINE, RUN_STOP, PIM_LINE, RUNNING, TURN,
 HELD, WAITED, SLACK, EXPECTED, REFRESHING, LAST_PIM, LAST_REQUEST, ENTRY, COMMAND, WAKE, PIM_END, REQUEST_END, TOUCHED, SHUTTING,
 SHUT_BANK, LAST_BANK, RELEASED) = range(33)  # fmt: skip
STATE_CELLS = 33

leaf = register_jitable(error_model="numpy")


@leaf
def _earliest(p, m, view, command, bank, tick):
    """The first tick from `tick` on at which no rule of a level that the command is bound at forbids it, as a view sees it."""
    heard = p[HEARD_AT] + command * HEARD
    ready = p[VIEW_AT] + view * p[CELLS] * (2 + HISTORY) + command
    for i in range(heard + 1, heard + 1 + p[heard]):
        until = m[ready + p[p[NODE_AT] + p[i] * p[BANKS] + bank] * p[COMMANDS]]
        if until > tick:  # noqa: PLR1730
            tick = until
    return tick


@leaf
def _hold(p, m, view, command, bank, steps, tick):
    """What a command forbids, in a view."""
    ready = p[VIEW_AT] + view * p[CELLS] * (2 + HISTORY)
    binds = p[HEARD_AT] + command * HEARD + BINDS
    for i in range(binds + 1, binds + 1 + p[binds]):
        level = p[i]
        at = p[FIRST_AT] + level * p[COMMANDS] + command
        nodes = p[NODE_AT] + level * p[BANKS]
        own = p[nodes + bank] * p[COMMANDS]
        past = ready + 2 * p[CELLS] + (own + command) * HISTORY
        for rule in range(p[RULE_AT] + p[at] * RULE, p[RULE_AT] + p[at + 1] * RULE, RULE):
            window = p[rule + 3]
            until = p[rule + 1] + (tick + p[rule + 2] * steps if window == 1 else m[past + window - 2])
            first, last, step = bank, bank + 1, 1
            if p[rule + 5]:
                first = (p[nodes - p[BANKS] + bank] - p[nodes - p[BANKS]]) * p[p[SPAN_AT] + level - 1]
                last, step = first + p[p[SPAN_AT] + level - 1], p[p[SPAN_AT] + level]
            for other in range(first, last, step):
                node = p[nodes + other] * p[COMMANDS]
                cell = ready + node + p[rule]
                if until > m[cell] and (node != own or not p[rule + 5]):
                    m[cell], m[cell + p[CELLS]] = until, command
        if p[p[RULE_AT] + p[at] * RULE + 4]:
            for older in range(past + HISTORY - 1, past, -1):
                m[older] = m[older - 1]
            m[past] = tick


@leaf
def _issue(p, m, out, who, command, bank, row, steps, since, source):
    """A command is issued now: timing in the views, who waited for whom, rows, counts, record. `who`: its stream, or 0 for refresh."""
    tick, action = m[TICK], p[p[ACTION_AT] + command]
    for stream in (OF_PIM, OF_REQUESTS):
        if who in (0, stream):
            if stream == OF_PIM or who:  # what a refresh waits for a request is PIM's wait
                _account(p, m, stream, command, bank, tick, since)
            _hold(p, m, stream, command, bank, steps, tick)
            m[LAST_PIM if stream == OF_PIM else LAST_REQUEST] = tick
    _hold(p, m, 0, command, bank, steps, tick)
    if action != KEEPS:
        rows = p[ROWS_AT] + p[p[SIDE_AT] + command] * p[BANKS]
        for i in range(bank, bank + p[p[SPAN_AT] + p[p[SCOPE_AT] + command]]):
            m[rows + i] = row if action == OPENS else -1
            if p[p[SIDE_AT] + command] == 0:
                m[p[KEPT_AT] + i * KEPT + OF_REQUEST] = who == OF_REQUESTS
    m[p[COUNTS_AT] + command] += 1
    m[LAST], m[TICK] = tick, tick + 1
    if out.shape[0]:
        at = m[RECORDED]
        out[at, 0], out[at, 1], out[at, 2], out[at, 3], out[at, 4], out[at, 5] = tick, command, bank, row, steps, source
        m[RECORDED] += 1


@leaf
def _account(p, m, who, command, bank, tick, since):
    """Ticks that a command comes later than the commands of its own stream would have let it, by what held it at last."""
    free = _earliest(p, m, who, command, bank, since)
    if tick == free:
        return
    until, cause = free, -1
    heard = p[HEARD_AT] + command * HEARD
    for i in range(heard + 1, heard + 1 + p[heard]):
        cell = p[VIEW_AT] + p[p[NODE_AT] + p[i] * p[BANKS] + bank] * p[COMMANDS] + command
        if m[cell] > until:
            until, cause = m[cell], m[cell + p[CELLS]]
    waits = p[WAITS_AT] + (who - 1) * WHY
    m[waits + TURN_TAKEN] += tick - until
    if cause >= 0:
        action = p[p[ACTION_AT] + cause]
        m[waits + (POWER if action == OPENS else ROW_CHANGE if action == CLOSES else DATA)] += until - free


@leaf
def _wanted(p, m, stream, line):
    """Whether a line finds its condition."""
    when = stream[line, 4]
    if when == ALWAYS:
        return True
    held = m[p[ROWS_AT] + p[p[SIDE_AT] + stream[line, 0]] * p[BANKS] + stream[line, 1]]
    if when == IF_CLOSED:
        return held < 0
    return held >= 0 and (when == IF_OPEN or (held != stream[line, 2]) == (when == IF_OTHER))


@leaf
def _scan(p, m, stream, stop):
    """Tick of the earliest line of the run that stands next, the first of those; NEVER at the end of the block."""
    while m[LINE] < stop:
        first = m[LINE]
        if m[p[TAKEN_AT] + first]:
            m[LINE] += 1
            continue
        if m[RUN_STOP] <= first:
            m[RUN_STOP] = first + stream[first, 5]
        which, tick = -1, NEVER
        for i in range(first, m[RUN_STOP]):
            if m[p[TAKEN_AT] + i]:
                continue
            if not _wanted(p, m, stream, i):
                m[p[TAKEN_AT] + i] = 1
                continue
            earliest = _earliest(p, m, 0, stream[i, 0], stream[i, 1], m[TICK])
            if earliest < tick:
                which, tick = i, earliest
                if tick == m[TICK]:
                    break
        if which >= 0:
            m[PIM_LINE] = which
            return tick
    return NEVER


@leaf
def _take_in(p, m, requests):
    """Requests come into their queues in order until one has no room; `blocked` takes none in while a block waits or runs."""
    if p[POLICY] == BLOCKED and (m[RUNNING] or m[TURN] >= 0):
        return
    while m[HEAD] < requests.shape[0]:
        kind = requests[m[HEAD], WRITE]
        if m[kind] == p[CAPACITY]:
            return
        if requests[m[HEAD], ARRIVAL] > m[TICK]:
            m[WAKE] = min(m[WAKE], requests[m[HEAD], ARRIVAL])
            return
        requests[m[HEAD], ENTERED] = m[TICK]
        m[p[QUEUE_AT] + kind * p[CAPACITY] + m[kind]] = m[HEAD]
        m[kind] += 1
        m[HEAD] += 1


@leaf
def _may_start(p, m, requests):
    """Whether the policy lets a block begin that excludes requests."""
    if m[READS] + m[WRITES] == 0 or p[POLICY] == PIM_FIRST:
        return True
    if p[POLICY] != OLDEST_FIRST:
        return False
    older = False
    for kind in range(2):  # each queue is in order of arrival
        older = older or (m[kind] > 0 and requests[m[p[QUEUE_AT] + kind * p[CAPACITY]], ENTERED] < m[TURN])
    return not older


@leaf
def _need(p, m, needs, block):
    """Cycles that a block must have from its first command to the next refresh."""
    cycles = needs[block, BASE]
    if needs[block, PER_OPEN]:
        rows = p[ROWS_AT] + p[PIM_SIDE] * p[BANKS]
        for i in range(rows, rows + p[BANKS]):
            if m[i] >= 0:
                cycles += needs[block, PER_OPEN]
    if needs[block, VECTOR_BANK] >= 0:
        held = m[p[ROWS_AT] + needs[block, VECTOR_BANK]]
        if held < 0:
            cycles += needs[block, IF_BANK_CLOSED]
        elif held != needs[block, VECTOR_ROW]:
            cycles += needs[block, IF_BANK_OTHER]
    return cycles


@leaf
def _fits(p, m, stream, first, stop, needs, times):
    """Whether the next block is over before the next refresh, with how many cycles to spare; one is held for it only once."""
    m[SLACK] = NEVER
    if p[INTERVAL] == 0:
        return True
    tick = m[TICK]
    for i in range(first, stop):
        if _wanted(p, m, stream, i):
            tick = _earliest(p, m, 0, stream[i, 0], stream[i, 1], tick)
            break
    times[m[DONE], 2] = tick + _need(p, m, needs, m[DONE])
    m[SLACK] = m[NEXT_REFRESH] - 1 - times[m[DONE], 2]
    return m[SLACK] > 0 or m[WAITED] == 1


@leaf
def _start(p, m, stream, first, stop):
    """A block runs: note the rows that it needs for itself."""
    m[RUNNING], m[LINE], m[RUN_STOP] = 1, first, first
    for i in range(first, stop):
        command, bank = stream[i, 0], stream[i, 1]
        if stream[i, 4] == IF_CLOSED:
            m[p[KEPT_AT] + bank * KEPT + VECTOR] = 1
        elif p[p[ACTION_AT] + command] == OPENS:
            for j in range(bank, bank + p[p[SPAN_AT] + p[p[SCOPE_AT] + command]]):
                m[p[KEPT_AT] + j * KEPT + PIM_ROW] = stream[i, 2]


@leaf
def _finish(p, m, times):
    """A block is over."""
    times[m[DONE], 1] = m[PIM_END] = m[LAST_PIM]
    m[DONE] += 1
    m[RUNNING], m[WAITED], m[TURN], m[EXPECTED] = 0, 0, -1, -1
    for at in range(p[KEPT_AT], p[KEPT_AT] + p[BANKS] * KEPT, KEPT):
        m[at + VECTOR], m[at + PIM_ROW] = 0, -1


@leaf
def _shut_next(p, m):
    """Tick of the earliest precharge of a bank that is open, which is left in m; NEVER if none is."""
    tick = NEVER
    for bank in range(p[BANKS]):
        if m[p[ROWS_AT] + bank] >= 0:
            earliest = _earliest(p, m, 0, p[CLOSE_0], bank, m[TICK])
            if earliest < tick:
                m[SHUT_BANK], tick = bank, earliest
    return tick


@leaf
def _pim_next(p, m, stream, blocks, needs, requests, times):
    """Tick of the next PIM command, whose line is left in m; finishes and starts blocks, and takes requests in on the way.

    Where requests have opened and closed rows of the only row buffers, all are closed before a block starts (line -1).
    """
    m[SHUTTING] = 0
    while True:
        if m[RUNNING]:
            tick = _scan(p, m, stream, blocks[m[DONE] + 1])
            if tick < NEVER:
                _take_in(p, m, requests)
                if m[EXPECTED] >= 0:  # a read or write put the command off
                    m[SLACK] -= tick - m[EXPECTED]
                    m[EXPECTED] = -1
                return tick
            _finish(p, m, times)
        if p[INTERVAL] > 0:
            m[REFRESHING] = m[NEXT_REFRESH] <= m[TICK]
            if not m[REFRESHING]:
                m[WAKE] = min(m[WAKE], m[NEXT_REFRESH])
        _take_in(p, m, requests)
        if m[DONE] == blocks.size - 1 or m[REFRESHING] or m[HELD]:
            return NEVER
        if needs[m[DONE], RELEASE] > m[TICK]:
            m[WAKE] = min(m[WAKE], needs[m[DONE], RELEASE])
            return NEVER
        if m[TURN] < 0:
            m[TURN] = m[TICK]
        if p[EXCLUSIVE] and not _may_start(p, m, requests):
            return NEVER
        if m[TOUCHED]:
            tick = _shut_next(p, m)
            if tick < NEVER:
                m[PIM_LINE], m[SHUTTING] = -1, 1
                return tick
            m[TOUCHED] = 0
        first, stop = blocks[m[DONE]], blocks[m[DONE] + 1]
        if not _fits(p, m, stream, first, stop, needs, times):
            m[HELD], m[TURN] = 1, -1
            _take_in(p, m, requests)
            return NEVER
        _start(p, m, stream, first, stop)
        m[LAST_PIM] = max(m[LAST_PIM], needs[m[DONE], RELEASE] - 1)
        times[m[DONE], 0] = NEVER


@leaf
def _refresh_next(p, m):
    """Tick of the next step of the refresh that is under way: close the rank bank by bank and buffer by buffer, then REFRESH. Its bank."""
    if not m[REFRESHING]:
        return NEVER, 0
    first = m[NEXT_RANK] * p[RANK_BANKS]
    for bank in range(first, first + p[RANK_BANKS]):
        for buffer in range(2):
            if p[CLOSE_0 + buffer] >= 0 and m[p[ROWS_AT] + buffer * p[BANKS] + bank] >= 0:
                m[COMMAND] = p[CLOSE_0 + buffer]
                return _earliest(p, m, 0, m[COMMAND], bank, m[TICK]), bank
    m[COMMAND] = p[REFRESH]
    return _earliest(p, m, 0, m[COMMAND], first, m[TICK]), first


@leaf
def _refresh(p, m, out, bank):
    """A step of the refresh; what closes a request's row is the requests' command, the others are PIM's or both streams'."""
    command = m[COMMAND]
    who = 0 if command == p[REFRESH] else OF_PIM
    if who and p[p[SIDE_AT] + command] == 0 and m[p[KEPT_AT] + bank * KEPT + OF_REQUEST]:
        who = OF_REQUESTS
    since = max(m[NEXT_REFRESH], (m[LAST_REQUEST] if who == OF_REQUESTS else m[LAST_PIM]) + 1)
    _issue(p, m, out, who, command, bank, -1, 0, since, -1)
    if command == p[REFRESH]:
        m[NEXT_REFRESH] += p[INTERVAL]
        m[NEXT_RANK] = m[NEXT_RANK] + 1 if m[NEXT_RANK] + 1 < p[RANKS] else 0
        m[REFRESHES] += 1
        m[WAITED], m[HELD], m[REFRESHING] = m[WAITED] | m[HELD], 0, 0


@leaf
def _command_for(p, m, requests, request):
    """What a request needs next; -1 while refresh, the running block, or its want of spare cycles keeps it from that."""
    bank, row = requests[request, TARGET], requests[request, WANTED_ROW]
    if m[REFRESHING]:
        first = m[NEXT_RANK] * p[RANK_BANKS]
        if first <= bank < first + p[RANK_BANKS]:
            return -1
    kept = p[KEPT_AT] + bank * KEPT
    if m[kept + PIM_ROW] == row:
        return -1
    held = m[p[ROWS_AT] + bank]
    if held == row:
        return p[WR] if requests[request, WRITE] else p[RD]
    if m[kept + VECTOR] or (m[RUNNING] and m[SLACK] <= p[OPENING] + (p[CLOSING] if held >= 0 else 0)):
        return -1
    if held >= 0:
        return p[CLOSE_0]
    return p[CLOSE_1] if p[CLOSE_1] >= 0 and m[p[ROWS_AT] + p[BANKS] + bank] == row else p[ACT]


@leaf
def _hit_before(p, m, requests, queue, entry):
    """Whether an earlier request of the queue hits the row that this one would close."""
    bank, hit = requests[m[queue + entry], TARGET], False
    for i in range(queue, queue + entry):
        hit = hit or (requests[m[i], TARGET] == bank and requests[m[i], WANTED_ROW] == m[p[ROWS_AT] + bank])
    return hit


@leaf
def _direction(p, m, requests):
    """Whether reads or writes are served now, and how many of the writes may be."""
    if p[IN_TURN]:
        idle = m[READS] == 0 and m[RELEASED] == 0
        if m[WRITES] - m[RELEASED] >= p[BUFFER] or (idle and (m[WRITES] > p[FEW] or m[HEAD] == requests.shape[0])):
            m[RELEASED] = m[WRITES]
        if m[READS] == 0 or m[RELEASED] == 0:
            m[WRITE_MODE] = m[RELEASED] > 0
        return
    m[RELEASED] = m[WRITES]
    if m[WRITE_MODE] == 0:
        if 10 * m[WRITES] > 8 * p[CAPACITY] or m[READS] == 0:
            m[WRITE_MODE] = 1
    elif 10 * m[WRITES] < 2 * p[CAPACITY] and m[READS] != 0:
        m[WRITE_MODE] = 0


@leaf
def _request_next(p, m, requests):
    """Tick of the next command for a request, whose place and command are left in m: of the first ready hit, else of the first ready.

    With IN_TURN: of the bank that comes next after the last one served among those with the first tick.
    """
    _direction(p, m, requests)
    if m[SHUTTING] or (m[RUNNING] and (p[EXCLUSIVE] or m[SLACK] < p[SPARE])):
        return NEVER
    tick, queue = NEVER, p[QUEUE_AT] + m[WRITE_MODE] * p[CAPACITY]
    bank = row = -1
    turns = p[BANKS]
    for entry in range(m[RELEASED] if m[WRITE_MODE] else m[READS]):
        request = m[queue + entry]
        if requests[request, TARGET] == bank and requests[request, WANTED_ROW] == row:
            continue  # as the one before it, which goes first
        bank, row = requests[request, TARGET], requests[request, WANTED_ROW]
        command = _command_for(p, m, requests, request)
        if command < 0 or (command == p[CLOSE_0] and _hit_before(p, m, requests, queue, entry)):
            continue
        hit = p[p[ACTION_AT] + command] == KEEPS
        earliest = _earliest(p, m, 0, command, bank, m[TICK])
        if p[IN_TURN]:
            turn = bank - m[LAST_BANK] - 1
            turn += p[BANKS] if turn < 0 else 0
            if earliest < tick or (earliest == tick and turn < turns):
                m[ENTRY], m[COMMAND], tick, turns = entry, command, earliest, turn
                if turn == 0 and tick == m[TICK]:
                    break
        elif earliest < tick or (hit and earliest == m[TICK]):
            m[ENTRY], m[COMMAND], tick = entry, command, earliest
            if hit and tick == m[TICK]:
                break
    return tick


@leaf
def _request_goes_first(p, m, requests):
    """Whether a request's command is issued before PIM's where both may be."""
    if p[POLICY] == OLDEST_FIRST:
        return requests[m[p[QUEUE_AT] + m[WRITE_MODE] * p[CAPACITY] + m[ENTRY]], ENTERED] < m[TURN]
    return p[POLICY] == REQUESTS_FIRST


@leaf
def _serve(p, m, requests, out, pim_tick):
    """A request's command. Its activation or precharge uses up spare cycles; its read or write takes it out of the queue."""
    queue, entry, command = p[QUEUE_AT] + m[WRITE_MODE] * p[CAPACITY], m[ENTRY], m[COMMAND]
    request = m[queue + entry]
    since = max(m[LAST_REQUEST] + 1, requests[request, ENTERED])
    m[LAST_BANK] = requests[request, TARGET]
    _issue(p, m, out, OF_REQUESTS, command, requests[request, TARGET], requests[request, WANTED_ROW], 0, since, -2 - request)
    if p[p[ACTION_AT] + command] == KEEPS:
        m[EXPECTED] = pim_tick if m[RUNNING] else -1
        requests[request, SERVED] = m[REQUEST_END] = m[LAST]
        m[m[WRITE_MODE]] -= 1
        m[RELEASED] -= m[WRITE_MODE]
        for i in range(queue + entry, queue + m[m[WRITE_MODE]]):
            m[i] = m[i + 1]
    else:
        m[EXPECTED], m[TOUCHED] = -1, p[PIM_SIDE] == 0
        m[SLACK] -= p[OPENING] if p[p[ACTION_AT] + command] == OPENS else p[CLOSING]


@njit(types.void(_IN, _OUT, _IN_2D, _IN, _IN_2D, _OUT_2D, _OUT_2D, _OUT_2D), cache=True, error_model="numpy")
def contend_kernel(p, m, stream, blocks, needs, requests, times, out):
    """Go on until all blocks and requests are done, or until `out` is full.

    stream, blocks, needs and times as in issue_kernel, of pimissue.py. out [tick, command, bank, row, steps, source]: line of the
    stream, -1 for refresh and for rows closed before a block, -2 less the request.
    """
    while out.shape[0] == 0 or m[RECORDED] < out.shape[0]:
        m[WAKE] = NEVER
        pim_tick = _pim_next(p, m, stream, blocks, needs, requests, times)
        if m[DONE] == blocks.size - 1 and m[HEAD] == requests.shape[0] and m[READS] + m[WRITES] == 0:
            return
        tick = m[TICK]
        refresh_tick, bank = _refresh_next(p, m)
        if refresh_tick == tick:
            _refresh(p, m, out, bank)
            continue
        request_tick = _request_next(p, m, requests)
        if request_tick == tick and (pim_tick > tick or _request_goes_first(p, m, requests)):
            _serve(p, m, requests, out, pim_tick)
        elif pim_tick == tick and m[SHUTTING]:
            _issue(p, m, out, OF_PIM, p[CLOSE_0], m[SHUT_BANK], -1, 0, m[LAST_PIM] + 1, -1)
        elif pim_tick == tick:
            line = m[PIM_LINE]
            _issue(p, m, out, OF_PIM, stream[line, 0], stream[line, 1], stream[line, 2], stream[line, 3], m[LAST_PIM] + 1, line)
            times[m[DONE], 0] = min(times[m[DONE], 0], tick)
            m[p[TAKEN_AT] + line] = 1
            m[EXPECTED] = -1
        else:
            m[TICK] = max(tick + 1, min(pim_tick, request_tick, refresh_tick, m[WAKE]))
