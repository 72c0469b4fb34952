"""Exact fast path for regular PIM streams: transitions of blocks between normalised channel states, each simulated once.

Timing depends on the past only through ready ticks that are still ahead, the history of window rules that can still bind, and which
rows are open: two channels that agree in these, seen from their present tick, go on alike. The phase of refresh stays outside, as a
number; a refresh is one more transition (reference/dram.md, section 8).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.pimissue import (
    BASE,
    NEVER,
    NEXT_RANK,
    NEXT_REFRESH,
    NO_BLOCK,
    NO_REFRESH,
    NOW,
    REFRESH,
    TOO_LONG,
    W_NEXT,
    W_NOW,
    W_POSITION,
    W_RANK,
    W_REFRESHES,
    W_STATE,
    walk_kernel,
)
from .pimpart import PimPart, State, Stream, new_state, run
from .pimstream import Block, stream

Int64s = NDArray[np.int64]
MOST_STATES = 512
FEW = 32
"""States and blocks for which there is room at first."""
LONGEST_WAIT = 1024
"""Cycles before a refresh in which a block may be refused; a block that needs more is simulated command by command."""
UNKNOWN = -1


class Total(NamedTuple):
    """What a sequence of blocks came to."""

    end: int
    """Tick of the last command."""
    counts: dict[str, int]
    refreshes: int
    states: int
    """Different channel states met; 0 if it was simulated command by command."""
    ticks: dict[str, int]
    """Ticks by the command after which they passed, up to the next one; they add up to end + 1 - start. Those up to a refresh from the
    last command before it are the refresh's, and those from it up to a command that has waited for its end."""


class Steady:
    """Transitions of a set of blocks on one part. Every sequence that is run adds what it meets for the first time."""

    def __init__(self, part: PimPart, blocks: list[Block]) -> None:
        self._part = part
        self._streams: list[Stream] = []
        self._oldest = -int(part.rules[:, 1].max(initial=0))
        self._ids: dict[bytes, int] = {}
        self._states: list[State] = []
        self._last: list[int] = []
        self._held: list[int] = []
        """Of each state: ticks until the last refresh is over."""
        self._refresh_ticks = _longest(part, int(part.setup[REFRESH]))
        commands = len(part.commands)
        self._after, self._cycles, self._need = (np.full((FEW, FEW), UNKNOWN, np.int64) for _ in range(3))
        self._counts, self._ticks = (np.zeros((FEW, FEW, commands), np.int64) for _ in range(2))
        shape = (FEW, part.ranks, LONGEST_WAIT)
        self._after_refresh, self._refresh_cycles = (np.full(shape, UNKNOWN, np.int64) for _ in range(2))
        self._refresh_visits = np.zeros(shape, np.int64)
        self._refreshes: list[tuple[int, int, int]] = []
        self._refresh_counts: list[Int64s] = []
        for block in blocks:
            self.add(block)
        self._first = self._id(new_state(part), UNKNOWN, 0)

    def add(self, block: Block) -> int:
        """One more block; its number."""
        self._streams.append(stream([block]))
        if len(self._streams) > self._after.shape[1]:
            self._grow(1)
        return len(self._streams) - 1

    def run(self, sequence: Int64s, *, start: int = 0) -> Total:
        """The blocks of these numbers in order on a channel whose first command may come at `start`: the result of brute force."""
        part = self._part
        if sequence.size and (sequence.min() < 0 or sequence.max() >= len(self._streams)):
            raise ValueError(f"a block of the sequence is not in 0..{len(self._streams) - 1}")
        fresh = new_state(part, start=start)
        walk = np.zeros(7, np.int64)
        walk[W_NOW], walk[W_NEXT], walk[W_RANK], walk[W_STATE] = (*(fresh.clock[i] for i in (NOW, NEXT_REFRESH, NEXT_RANK)), self._first)
        visits = np.zeros_like(self._after)
        while met := walk_kernel(sequence, part.setup[0], part.setup[2], self._after, self._cycles, self._need, visits,
                                 self._after_refresh, self._refresh_cycles, self._refresh_visits, walk):  # fmt: skip
            state, room = int(walk[W_STATE]), len(self._states) < MOST_STATES
            if met == NO_BLOCK and room:
                self._learn_block(state, int(sequence[walk[W_POSITION]]))
            elif met == NO_REFRESH and room:
                self._learn_refresh(state, int(walk[W_RANK]), max(1, int(walk[W_NEXT] - walk[W_NOW])))
            else:
                assert not room or met == TOO_LONG
                self._refresh_visits[:] = 0
                return self._by_command(sequence, fresh)
            if len(self._states) > len(self._after):
                self._grow(0)
            visits = _grown(visits, self._after.shape, 0)
        return self._total(walk, visits, start)

    def _total(self, walk: Int64s, visits: Int64s, start: int) -> Total:
        known = len(self._states)
        used = visits[:known].reshape(-1)
        counts, ticks = (used @ table[:known].reshape(used.size, -1) for table in (self._counts, self._ticks))
        if self._refreshes:
            at = tuple(np.array(self._refreshes, np.int64).T)
            counts += self._refresh_visits[at] @ np.array(self._refresh_counts)
            self._refresh_visits[at] = 0
        end, part = int(walk[W_NOW]), self._part
        ticks[part.setup[REFRESH]] += end + 1 - start - ticks.sum()
        by_command = (dict(zip(part.commands, column.tolist(), strict=True)) for column in (counts, ticks))
        counted, passed = by_command
        return Total(end, counted, int(walk[W_REFRESHES]), known, passed)

    def _by_command(self, sequence: Int64s, state: State) -> Total:
        part, before = self._part, int(state.clock[NOW])
        issued = run(part, join(self._streams, sequence), state)
        ticks = self._ticks_after(issued.commands, before, UNKNOWN, before)
        return Total(issued.end, issued.counts, issued.refreshes, 0, dict(zip(part.commands, ticks.tolist(), strict=True)))

    def _ticks_after(self, commands: Int64s, before: int, last: int, held: int) -> Int64s:
        """[command] ticks of recorded commands after `last` (below 0: none) at tick `before`, with a refresh that is over at tick `held`.

        What the controller closes for a refresh, and the wait for it, are the refresh's.
        """
        ticks, ids, source = commands[:, 0], commands[:, 1], commands[:, 5]
        refresh, kinds = int(self._part.setup[REFRESH]), len(self._part.commands)
        after = np.concatenate([[last if last >= 0 else ids[0]], ids[:-1]]) if ids.size else ids
        of_refresh = source == -1
        for over in (held, *(ticks[ids == refresh] + self._refresh_ticks).tolist()):
            if (ticks == over).any():
                of_refresh |= (ticks > over - self._refresh_ticks) & (ticks <= over)
        gaps = np.diff(np.concatenate([[before], ticks]))
        return np.bincount(np.where(of_refresh, refresh, after), gaps, kinds).astype(np.int64)

    def _grow(self, axis: int) -> None:
        """Twice the room for states (axis 0) or for blocks (axis 1)."""
        shape = tuple(size * (2 if i == axis else 1) for i, size in enumerate(self._after.shape))
        self._after, self._cycles, self._need = (_grown(old, shape, UNKNOWN) for old in (self._after, self._cycles, self._need))
        self._counts, self._ticks = (_grown(old, (*shape, old.shape[2]), 0) for old in (self._counts, self._ticks))
        waits = (shape[0], *self._after_refresh.shape[1:])
        self._after_refresh, self._refresh_cycles = (_grown(old, waits, UNKNOWN) for old in (self._after_refresh, self._refresh_cycles))
        self._refresh_visits = _grown(self._refresh_visits, waits, 0)

    def _id(self, state: State, last: int, held: int) -> int:
        """Number of the normalised state, entered by the command `last`; a new one is kept as a channel whose present tick is 0."""
        now = int(state.clock[NOW])
        ready = np.maximum(state.ready - now, 1)
        history = np.maximum(state.history - now, self._oldest)
        key = ready.tobytes() + history.tobytes() + state.rows.tobytes()
        if key not in self._ids:
            self._ids[key] = len(self._states)
            clock = np.zeros_like(state.clock)
            self._states.append(State(ready, history, state.rows.copy(), np.zeros_like(state.counts), clock))
            self._last.append(last)
            self._held.append(held)
        return self._ids[key]

    def _from(self, number: int, *, rank: int, due: int) -> State:
        kept = self._states[number]
        state = State(*(column.copy() for column in kept))
        state.clock[NEXT_RANK], state.clock[NEXT_REFRESH] = rank, due
        return state

    def _learn_block(self, number: int, block: int) -> None:
        state = self._from(number, rank=0, due=NEVER)
        issued = run(self._part, self._streams[block], state)
        last, held = self._last[number], self._held[number]
        self._ticks[number, block] = self._ticks_after(issued.commands, 0, last, held)
        self._cycles[number, block], self._need[number, block] = issued.end, issued.times[0, 2]
        self._counts[number, block] = state.counts
        last = int(issued.commands[-1, 1]) if len(issued.commands) else last
        self._after[number, block] = self._id(state, last, held - issued.end)

    def _learn_refresh(self, number: int, rank: int, wait: int) -> None:
        state = self._from(number, rank=rank, due=wait)
        needs = np.zeros((1, 7), np.int64)
        needs[0, BASE] = NEVER // 2 if wait > 1 else 0  # an empty block that no refresh is too late for, once
        needs[0, 5] = -1
        issued = run(self._part, Stream(np.empty((0, 6), np.int64), np.zeros(2, np.int64), needs), state, record=False)
        self._after_refresh[number, rank, wait] = self._id(state, int(self._part.setup[REFRESH]), self._refresh_ticks)
        self._refresh_cycles[number, rank, wait] = issued.end
        self._refreshes.append((number, rank, wait))
        self._refresh_counts.append(state.counts)


def _grown(table: Int64s, shape: tuple[int, ...], value: int) -> Int64s:
    """The table in the corner of a larger one, the rest of which is `value`."""
    if table.shape == shape:
        return table
    out = np.full(shape, value, np.int64)
    out[tuple(slice(size) for size in table.shape)] = table
    return out


def _longest(part: PimPart, command: int) -> int:
    """The longest that a command holds another up."""
    keys = np.repeat(np.arange(part.rule_ptr.size - 1), np.diff(part.rule_ptr)) % part.scope.size
    return int(part.rules[keys == command, 1].max(initial=0))


def join(streams: list[Stream], sequence: Int64s) -> Stream:
    """One stream of many blocks, each a stream of one block."""
    lengths = np.array([len(one.lines) for one in streams], np.int64)
    if not sequence.size:
        return stream([])
    return Stream(
        np.concatenate([streams[i].lines for i in sequence.tolist()]),
        np.concatenate([[0], np.cumsum(lengths[sequence])]),
        np.concatenate([streams[i].needs for i in sequence.tolist()]),
    )
