"""In-order issue of a PIM command stream to one DRAM channel under a constraint table (njit leaf).

A command comes at the largest ready time that earlier commands have left at the nodes of its path, one command a tick.
Commands stand in blocks (a tile, a vector load); refresh comes between blocks, and a block that would not be over before
the next refresh waits for it.
"""

from typing import NamedTuple

import numpy as np
from numba import int64, njit, types
from numba.extending import register_jitable

_IN = types.Array(int64, 1, "C", readonly=True)
_IN_2D = types.Array(int64, 2, "C", readonly=True)
_OUT = int64[::1]
_OUT_2D = int64[:, ::1]
_IN_3D = types.Array(int64, 3, "C", readonly=True)
_OUT_3D = int64[:, :, ::1]
HISTORY = 8
LEVELS = 5
BINDS = 1 + LEVELS
NEVER = 2**62
# Cells of `clock`: last tick taken, tick and rank of the next refresh, refreshes, blocks done, commands recorded.
NOW, NEXT_REFRESH, NEXT_RANK, REFRESHES, DONE, RECORDED = 0, 1, 2, 3, 4, 5
# When a conditional command is issued: always, or if the row buffer of its bank is open, open on another row, open on its row.
ALWAYS, IF_OPEN, IF_OTHER, IF_SAME, IF_CLOSED = 0, 1, 2, 3, 4
# Columns of `about`: banks that a command addresses, what it does to a row buffer, and to which.
COVERS, ACTION, SIDE = 0, 1, 2
KEEPS, OPENS, CLOSES = 0, 1, 2
# Columns of `needs`: first tick of a block; cycles that it must have before a refresh: plainly, more for each bank open in the PIM buffer,
# more if its vector's bank is closed, more if that is open on another row; that bank and row.
RELEASE, BASE, PER_OPEN, IF_BANK_CLOSED, IF_BANK_OTHER, VECTOR_BANK, VECTOR_ROW = 0, 1, 2, 3, 4, 5, 6
# Cells of `setup`: refresh interval (0: none), banks of a rank, ranks, refresh command, what closes the ordinary and the PIM buffer, and
# which row of `rows` is the PIM buffer (0 where there is one for both).
INTERVAL, RANK_BANKS, RANKS, REFRESH, CLOSE_0, CLOSE_1, PIM_SIDE = 0, 1, 2, 3, 4, 5, 6


class Table(NamedTuple):
    """A part, as the arguments of issue_kernel say."""

    node: np.ndarray
    heard: np.ndarray
    rule_ptr: np.ndarray
    rules: np.ndarray
    about: np.ndarray
    setup: np.ndarray


class Channel(NamedTuple):
    """What changes: first tick of each command at each node, last ticks for window rules, open rows, counts, clock, record."""

    ready: np.ndarray
    history: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    clock: np.ndarray
    out: np.ndarray


@register_jitable
def _wanted(about, rows, when, command, bank, row):
    """Whether a conditional command finds its condition."""
    if when == ALWAYS:
        return True
    held = rows[about[command, SIDE], bank]
    if when == IF_CLOSED:
        return held < 0
    return held >= 0 and (when == IF_OPEN or (held != row) == (when == IF_OTHER))


@register_jitable
def _earliest(node, heard, ready, clock, command, bank):
    """The first free tick at which no rule of a level that the command is bound at forbids it."""
    tick = clock[NOW] + 1
    commands = heard.shape[0]
    for i in range(1, heard[command, 0] + 1):
        until = ready[node[heard[command, i], bank] * commands + command]
        if until > tick:  # noqa: PLR1730
            tick = until
    return tick


@register_jitable
def _hold(node, heard, rule_ptr, rules, ready, history, command, bank, steps, tick):
    """What a command forbids."""
    commands = heard.shape[0]
    for i in range(BINDS + 1, BINDS + 1 + heard[command, BINDS]):
        level = heard[command, i]
        start, stop = rule_ptr[level * commands + command], rule_ptr[level * commands + command + 1]
        here = node[level, bank] * commands
        past = (here + command) * HISTORY
        for rule in range(start, stop):
            window = rules[rule, 3]
            since = tick + rules[rule, 2] * steps if window == 1 else history[past + window - 2]
            cell = here + rules[rule, 0]
            until = since + rules[rule, 1]
            if until > ready[cell]:  # noqa: PLR1730
                ready[cell] = until
        if rules[start, 4]:  # some rule of this command has a window
            for older in range(past + HISTORY - 1, past, -1):
                history[older] = history[older - 1]
            history[past] = tick


@register_jitable
def _change(about, rows, counts, clock, out, command, bank, row, steps, tick, source):
    """What a command opens or closes, and its line in the record."""
    if about[command, ACTION] != KEEPS:
        for i in range(bank, bank + about[command, COVERS]):
            rows[about[command, SIDE], i] = row if about[command, ACTION] == OPENS else -1
    counts[command] += 1
    clock[NOW] = tick
    if out.shape[0]:
        line = out[clock[RECORDED]]
        line[0], line[1], line[2], line[3], line[4], line[5] = tick, command, bank, row, steps, source
        clock[RECORDED] += 1


@register_jitable
def _close_or_refresh(part, state, command, bank):
    """A command that the stream does not hold, as soon as it may come."""
    tick = _earliest(part.node, part.heard, state.ready, state.clock, command, bank)
    _hold(part.node, part.heard, part.rule_ptr, part.rules, state.ready, state.history, command, bank, 0, tick)
    _change(part.about, state.rows, state.counts, state.clock, state.out, command, bank, -1, 0, tick, -1)


@register_jitable
def _refresh(part, state):
    """Close the rank whose turn it is, bank by bank and buffer by buffer, from the due tick on, and refresh it."""
    clock, setup = state.clock, part.setup
    clock[NOW] = max(clock[NOW], clock[NEXT_REFRESH] - 1)
    first = clock[NEXT_RANK] * setup[RANK_BANKS]
    for bank in range(first, first + setup[RANK_BANKS]):
        for buffer in range(2):
            close = setup[CLOSE_0 + buffer]
            if close >= 0 and state.rows[buffer, bank] >= 0:
                _close_or_refresh(part, state, close, bank)
    _close_or_refresh(part, state, setup[REFRESH], first)
    clock[NEXT_REFRESH] += setup[INTERVAL]
    clock[NEXT_RANK] = (clock[NEXT_RANK] + 1) % setup[RANKS]
    clock[REFRESHES] += 1


@register_jitable
def _need(part, state, needs):
    """Cycles that a block must have from its first command to the next refresh."""
    cycles = needs[BASE]
    if needs[PER_OPEN]:
        for bank in range(state.rows.shape[1]):
            if state.rows[part.setup[PIM_SIDE], bank] >= 0:
                cycles += needs[PER_OPEN]
    if needs[VECTOR_BANK] >= 0:
        held = state.rows[0, needs[VECTOR_BANK]]
        if held < 0:
            cycles += needs[IF_BANK_CLOSED]
        elif held != needs[VECTOR_ROW]:
            cycles += needs[IF_BANK_OTHER]
    return cycles


@register_jitable
def _first_tick(part, state, stream, start, stop, release):
    """Earliest tick of the first command of a block that finds its condition."""
    tick = max(state.clock[NOW] + 1, release)
    for i in range(start, stop):
        if _wanted(part.about, state.rows, stream[i, 4], stream[i, 0], stream[i, 1], stream[i, 2]):
            return max(tick, _earliest(part.node, part.heard, state.ready, state.clock, stream[i, 0], stream[i, 1]))
    return tick


@njit(
    int64(_IN_2D, _IN_2D, _IN, _IN_2D, _IN_2D, _IN, _IN_2D, _IN, _IN_2D, _OUT, _OUT, _OUT_2D, _OUT, _OUT, _OUT_2D, _OUT_2D),
    cache=True,
)
def issue_kernel(node, heard, rule_ptr, rules, about, setup, stream, blocks, needs, ready, history, rows, counts, clock, out, times):
    """Issue the blocks from clock[DONE] on; returns how many are done, fewer than all if `out` may become full.

    stream [command, bank, row, steps, when, run]: a run of n commands from here on may be issued in any order, the earliest first.
    Block b is stream[blocks[b] : blocks[b + 1]]; times[b] gets the ticks of its first and last command, and the tick that the next
    refresh had to leave free. rules [next, ticks, ticks a step, window, the command has a window]. node[level, bank] is the node that
    a bank lies in; about[command] the banks that it addresses, and what it does to which row buffer. heard[command]: at how many levels
    some rule binds it, and which; from column BINDS on, the same for rules by which it binds others.
    """
    part = Table(node, heard, rule_ptr, rules, about, setup)
    state = Channel(ready, history, rows, counts, clock, out)
    taken = np.zeros(stream.shape[0], np.bool_)
    refresh_lines = 2 * setup[RANK_BANKS] + 1
    for block in range(clock[DONE], blocks.size - 1):
        first, stop, release = blocks[block], blocks[block + 1], needs[block, RELEASE]
        waited = False
        while True:
            if out.shape[0] and out.shape[0] - clock[RECORDED] < stop - first + refresh_lines:
                return block
            if setup[INTERVAL] == 0:
                break
            if clock[NEXT_REFRESH] > max(clock[NOW] + 1, release):
                times[block, 2] = _first_tick(part, state, stream, first, stop, release) + _need(part, state, needs[block])
                if waited or clock[NEXT_REFRESH] - 1 > times[block, 2]:
                    break
                waited = True
            _refresh(part, state)
        clock[NOW] = max(clock[NOW], release - 1)
        times[block, 0] = NEVER
        while first < stop:
            last = first + stream[first, 5]
            while first < last:
                which, tick = -1, NEVER
                for i in range(first, last):
                    if taken[i]:
                        continue
                    if not _wanted(about, rows, stream[i, 4], stream[i, 0], stream[i, 1], stream[i, 2]):
                        taken[i] = True
                        continue
                    earliest = _earliest(node, heard, ready, clock, stream[i, 0], stream[i, 1])
                    if earliest < tick:
                        which, tick = i, earliest
                        if tick == clock[NOW] + 1:
                            break
                if which >= 0:
                    command, bank, row, steps = stream[which, 0], stream[which, 1], stream[which, 2], stream[which, 3]
                    _hold(node, heard, rule_ptr, rules, ready, history, command, bank, steps, tick)
                    _change(about, rows, counts, clock, out, command, bank, row, steps, tick, which)
                    times[block, 0] = min(times[block, 0], tick)
                    taken[which] = True
                while first < last and taken[first]:
                    first += 1
        times[block, 1] = clock[NOW]
        clock[DONE] = block + 1
    return clock[DONE]


# Cells of `walk`: ticks gone, next refresh, its rank, state, position in the sequence, the block has waited for a refresh, refreshes.
W_NOW, W_NEXT, W_RANK, W_STATE, W_POSITION, W_WAITED, W_REFRESHES = 0, 1, 2, 3, 4, 5, 6
FINISHED, NO_BLOCK, NO_REFRESH, TOO_LONG = 0, 1, 2, 3


@njit(int64(_IN, int64, int64, _IN_2D, _IN_2D, _IN_2D, _OUT_2D, _IN_3D, _IN_3D, _OUT_3D, _OUT), cache=True)
def walk_kernel(sequence, interval, ranks, after, cycles, need, visits, after_refresh, refresh_cycles, refresh_visits, walk):
    """Go through a sequence of blocks by remembered transitions, refresh included; stops at the first one that is not known (below 0).

    after[state, block], cycles and need (cycles from now that must be free of refresh) for a block; the tables of a refresh are
    [state, rank, cycles until it is due]. Visits are counted, so that command counts follow from those of the transitions.
    """
    while walk[W_POSITION] < sequence.size:
        block = sequence[walk[W_POSITION]]
        while interval > 0:
            wait = walk[W_NEXT] - walk[W_NOW]
            if wait > 1:
                if after[walk[W_STATE], block] < 0:
                    return NO_BLOCK
                if walk[W_WAITED] or wait - 1 > need[walk[W_STATE], block]:
                    break
            held, wait = wait > 1, max(wait, 1)
            if wait >= after_refresh.shape[2]:
                return TOO_LONG
            state = after_refresh[walk[W_STATE], walk[W_RANK], wait]
            if state < 0:
                return NO_REFRESH
            refresh_visits[walk[W_STATE], walk[W_RANK], wait] += 1
            walk[W_NOW] += refresh_cycles[walk[W_STATE], walk[W_RANK], wait]
            walk[W_STATE] = state
            walk[W_NEXT] += interval
            walk[W_RANK] = (walk[W_RANK] + 1) % ranks
            walk[W_REFRESHES] += 1
            if held:
                walk[W_WAITED] = 1
        state = after[walk[W_STATE], block]
        if state < 0:
            return NO_BLOCK
        visits[walk[W_STATE], block] += 1
        walk[W_NOW] += cycles[walk[W_STATE], block]
        walk[W_STATE] = state
        walk[W_WAITED] = 0
        walk[W_POSITION] += 1
    return FINISHED
