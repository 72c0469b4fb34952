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


class Steady:
    """Transitions of a set of blocks on one part. Every sequence that is run adds what it meets for the first time."""

    def __init__(self, part: PimPart, blocks: list[Block]) -> None:
        self._part = part
        self._streams = [stream([block]) for block in blocks]
        self._oldest = -int(part.rules[:, 1].max(initial=0))
        self._ids: dict[bytes, int] = {}
        self._states: list[State] = []
        n, commands = len(blocks), len(part.commands)
        self._after, self._cycles, self._need = (np.full((MOST_STATES, n), UNKNOWN, np.int64) for _ in range(3))
        self._counts = np.zeros((MOST_STATES, n, commands), np.int64)
        shape = (MOST_STATES, part.ranks, LONGEST_WAIT)
        self._after_refresh, self._refresh_cycles = (np.full(shape, UNKNOWN, np.int64) for _ in range(2))
        self._refresh_counts: dict[tuple[int, int, int], Int64s] = {}
        self._first = self._id(new_state(part))

    def run(self, sequence: Int64s, *, start: int = 0) -> Total:
        """The blocks of these numbers in order on a channel whose first command may come at `start`: the result of brute force."""
        part = self._part
        if sequence.size and (sequence.min() < 0 or sequence.max() >= len(self._streams)):
            raise ValueError(f"a block of the sequence is not in 0..{len(self._streams) - 1}")
        fresh = new_state(part, start=start)
        walk = np.zeros(7, np.int64)
        walk[W_NOW], walk[W_NEXT], walk[W_RANK], walk[W_STATE] = (*(fresh.clock[i] for i in (NOW, NEXT_REFRESH, NEXT_RANK)), self._first)
        visits, refresh_visits = np.zeros_like(self._after), np.zeros_like(self._after_refresh)
        while met := walk_kernel(sequence, part.setup[0], part.ranks, self._after, self._cycles, self._need, visits,
                                 self._after_refresh, self._refresh_cycles, refresh_visits, walk):  # fmt: skip
            state, room = int(walk[W_STATE]), len(self._states) < MOST_STATES
            if met == NO_BLOCK and room:
                self._learn_block(state, int(sequence[walk[W_POSITION]]))
            elif met == NO_REFRESH and room:
                self._learn_refresh(state, int(walk[W_RANK]), max(1, int(walk[W_NEXT] - walk[W_NOW])))
            else:
                assert not room or met == TOO_LONG
                return self._by_command(sequence, fresh)
        counts = np.einsum("sb,sbc->c", visits, self._counts)
        for state, rank, wait in np.argwhere(refresh_visits).tolist():
            counts += refresh_visits[state, rank, wait] * self._refresh_counts[state, rank, wait]
        return Total(int(walk[W_NOW]), dict(zip(part.commands, counts.tolist(), strict=True)), int(walk[W_REFRESHES]), len(self._states))

    def _by_command(self, sequence: Int64s, state: State) -> Total:
        issued = run(self._part, join(self._streams, sequence), state, record=False)
        return Total(issued.end, issued.counts, issued.refreshes, 0)

    def _id(self, state: State) -> int:
        """Number of the normalised state; a new one is kept as a channel whose present tick is 0."""
        now = int(state.clock[NOW])
        ready = np.maximum(state.ready - now, 1)
        history = np.maximum(state.history - now, self._oldest)
        key = ready.tobytes() + history.tobytes() + state.rows.tobytes()
        if key not in self._ids:
            self._ids[key] = len(self._states)
            clock = np.zeros_like(state.clock)
            self._states.append(State(ready, history, state.rows.copy(), np.zeros_like(state.counts), clock))
        return self._ids[key]

    def _from(self, number: int, *, rank: int, due: int) -> State:
        kept = self._states[number]
        state = State(*(column.copy() for column in kept))
        state.clock[NEXT_RANK], state.clock[NEXT_REFRESH] = rank, due
        return state

    def _learn_block(self, number: int, block: int) -> None:
        state = self._from(number, rank=0, due=NEVER)
        issued = run(self._part, self._streams[block], state, record=False)
        self._after[number, block], self._cycles[number, block] = self._id(state), issued.end
        self._need[number, block], self._counts[number, block] = issued.times[0, 2], state.counts

    def _learn_refresh(self, number: int, rank: int, wait: int) -> None:
        state = self._from(number, rank=rank, due=wait)
        needs = np.zeros((1, 7), np.int64)
        needs[0, BASE] = NEVER // 2 if wait > 1 else 0  # an empty block that no refresh is too late for, once
        needs[0, 5] = -1
        issued = run(self._part, Stream(np.empty((0, 6), np.int64), np.zeros(2, np.int64), needs), state, record=False)
        self._after_refresh[number, rank, wait], self._refresh_cycles[number, rank, wait] = self._id(state), issued.end
        self._refresh_counts[number, rank, wait] = state.counts


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
