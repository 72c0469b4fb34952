"""A memory part with PIM commands for the in-order engine: its table in ticks, its switches, its state, and one run of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kernels.pimissue import (
    CLOSES,
    DONE,
    HISTORY,
    KEEPS,
    LEVELS,
    NEVER,
    NEXT_RANK,
    NEXT_REFRESH,
    NOW,
    OPENS,
    RECORDED,
    REFRESHES,
    TRAFFIC,
    issue_kernel,
)
from .expression import evaluate
from .part import Part, ResolvedPart, load, resolve

Int64s = NDArray[np.int64]
Buffers = Literal["dual", "single"]
NEEDED = ("P_HEADER", "GWRITE", "G_ACT", "COMP", "READRES", "COMPS_READRES", "PIM_PRECHARGE")
TIMINGS = ("nRCDRD", "nRP", "nRTP", "nFAW", "nGWR", "nSTEP", "nFILL", "nREFI", "nSTEPS", "nSTRICT", "nSINGLE")
_OPENS = ("ACT", "G_ACT")
_CLOSES = ("PREpb", "PIM_PRECHARGE")
_ON_PIM_BUFFER = ("G_ACT", "PIM_PRECHARGE")


class PimPart(NamedTuple):
    """One channel with PIM for the engine. Banks are numbered over the channel, rank by rank and group by group."""

    name: str
    commands: tuple[str, ...]
    timings: dict[str, int]
    buffers: Buffers
    compat: bool
    ranks: int
    groups: int
    """Bank groups of a rank."""
    group_banks: int
    row_bytes: int
    node: Int64s
    """[level, bank] number of the node of each level that a bank lies in."""
    heard: Int64s
    """[command, (number of levels at which some rule binds it, those levels)]"""
    span: Int64s
    """[level] banks of one node."""
    rule_ptr: Int64s
    rules: Int64s
    """[rule, (next, ticks, ticks for each step, window, some rule of the same command has a window)]"""
    scope: Int64s
    action: Int64s
    side: Int64s
    """[command] row buffer that it uses: 0 the ordinary one, 1 that of the PIM."""
    setup: Int64s

    @property
    def banks(self) -> int:
        return self.ranks * self.groups * self.group_banks

    def id(self, command: str) -> int:
        return self.commands.index(command)


class Stream(NamedTuple):
    """Commands of one channel in order, cut into blocks between which refresh may come."""

    lines: Int64s
    """[command, (id, bank, row, steps, condition, how many may be issued in any order from here on)]"""
    blocks: Int64s
    """First line of every block, and the number of lines."""
    needs: Int64s
    """[block, column of kernels/pimissue.py] first tick, and the cycles that it must have before a refresh."""


class State(NamedTuple):
    """What a channel remembers between commands."""

    ready: Int64s
    history: Int64s
    rows: Int64s
    """[buffer, bank] open row, -1 for none."""
    counts: Int64s
    clock: Int64s


class Issued(NamedTuple):
    """What a stream became."""

    commands: Int64s
    """[command, (tick, id, bank, row, steps, line of the stream or -1 for refresh)]; empty if not recorded."""
    times: Int64s
    """[block, (tick of its first command, tick of its last, tick that the next refresh had to leave free)]"""
    counts: dict[str, int]
    end: int
    refreshes: int


def pim_part(
    part: str | Path | Part = "hbm2-neupims", *, buffers: Buffers = "dual", compat: bool = False, refresh: bool = True
) -> PimPart:
    """The part with its switches set: two row buffers a bank or one, physically legal or `neupims-compat`, refreshed or not.

    ValueError if the part has no PIM commands or if its table holds what the in-order engine does not do.
    """
    if buffers not in ("dual", "single"):
        raise ValueError(f"buffers = {buffers!r}: want dual or single")
    loaded = load(part)
    missing = [name for name in NEEDED if name not in loaded.commands]
    if missing:
        raise ValueError(f"{loaded.file}: memory part {loaded.name} has no {', '.join(missing)}; want a part with PIM commands")
    missing = [name for name in TIMINGS if name not in loaded.spec.timings]
    if missing:
        raise ValueError(f"{loaded.file}: timings has no {', '.join(missing)}, which PIM commands need")
    switches = {"nSTRICT": int(not compat), "nSINGLE": int(buffers == "single")}
    table, stepped = (_with(loaded, {**switches, "nSTEPS": steps}) for steps in (0, 1))
    timings = {**loaded.spec.timings, **switches}
    counts = [int(n) for n in table.counts]
    setup = np.array([
        table.refresh_interval // counts[1] if refresh else 0, counts[2] * counts[3], counts[0] * counts[1], table.refab, table.pre,
        loaded.commands.index("PIM_PRECHARGE") if buffers == "dual" else -1, int(buffers == "dual"), 0,
    ])  # fmt: skip
    return PimPart(
        name=loaded.name, commands=loaded.commands, timings=timings, buffers=buffers, compat=compat,
        ranks=counts[0] * counts[1], groups=counts[2], group_banks=counts[3],
        row_bytes=loaded.columns * loaded.request_bytes,
        node=_nodes(counts), heard=_heard(table), span=np.array([int(np.prod(counts[level:])) for level in range(LEVELS)]),
        rule_ptr=table.rule_ptr, rules=_rules(loaded, table, stepped), scope=table.scope,
        action=np.array([OPENS if name in _OPENS else CLOSES if name in _CLOSES else KEEPS for name in loaded.commands]),
        side=np.array([int(buffers == "dual" and name in _ON_PIM_BUFFER) for name in loaded.commands]),
        setup=setup,
    )  # fmt: skip


def beside_traffic(part: PimPart) -> PimPart:
    """The part where ordinary traffic, not issued here, has a row open in every bank when a refresh comes, and pays for closing it."""
    setup = part.setup.copy()
    setup[TRAFFIC] = 1
    return part._replace(setup=setup)


def _with(part: Part, timings: dict[str, int]) -> ResolvedPart:
    """The part resolved with other values of some timings."""
    spec = part.spec.model_copy(update={"timings": {**part.spec.timings, **timings}})
    return resolve(replace(part, spec=spec))


def _nodes(counts: list[int]) -> Int64s:
    banks = int(np.prod(counts))
    first = 0
    rows = []
    for level in range(LEVELS):
        below = int(np.prod(counts[level:]))
        rows.append(first + np.arange(banks) // below)
        first += banks // below
    return np.array(rows, np.int64)


def _rules(part: Part, table: ResolvedPart, stepped: ResolvedPart) -> Int64s:
    """Rules with the ticks that each step of the command before adds; ValueError for what the in-order engine cannot do."""
    pim = {part.commands.index(name) for name in (*NEEDED, "ACT", "PREpb", part.spec.refresh.command)}
    rules = np.zeros((table.rule_next.size, 5), np.int64)
    for key in range(table.rule_ptr.size - 1):
        level, prev = divmod(key, len(part.commands))
        start, stop = table.rule_ptr[key], table.rule_ptr[key + 1]
        for i in range(start, stop):
            after = int(table.rule_next[i])
            slope = int(stepped.rule_ticks[i] - table.rule_ticks[i])
            rules[i] = after, table.rule_ticks[i], slope, table.rule_window[i], int((table.rule_window[start:stop] > 1).any())
            if not {prev, after} <= pim:
                continue
            what = f"{part.commands[prev]} -> {part.commands[after]}"
            if table.rule_sibling[i]:
                raise ValueError(f"{part.file}: {what} holds for siblings, which the in-order PIM engine does not do")
            if level > min(table.scope[prev], table.scope[after]):
                raise ValueError(f"{part.file}: {what} stands at a level below what one of them addresses; put it at that level")
    return rules


def _heard(table: ResolvedPart) -> Int64s:
    commands = table.scope.size
    heard = np.zeros((commands, 1 + LEVELS), np.int64)
    level = np.repeat(np.arange(table.rule_ptr.size - 1) // commands, np.diff(table.rule_ptr))
    for command in range(commands):
        levels = np.unique(level[table.rule_next == command])
        heard[command, 0], heard[command, 1 : 1 + levels.size] = levels.size, levels
    return heard


def new_state(part: PimPart, *, start: int = 0) -> State:
    """A channel with all rows closed and no history, whose first command may come at `start`."""
    cells = (int(part.node.max()) + 1) * len(part.commands)
    interval = int(part.setup[0])
    clock = np.zeros(6, np.int64)
    due = max(1, -(-start // interval)) if interval else 1
    clock[NOW], clock[NEXT_REFRESH], clock[NEXT_RANK] = start - 1, due * interval if interval else NEVER, (due - 1) % part.ranks
    return State(np.zeros(cells, np.int64), np.full(cells * HISTORY, -NEVER // 2), np.full((2, part.banks), -1, np.int64),
                 np.zeros(len(part.commands), np.int64), clock)  # fmt: skip


def run(part: PimPart, stream: Stream, state: State, *, record: bool = True) -> Issued:
    """Issue a stream from a state, which afterwards is the state at its end. Ticks count from tick 0 of the state."""
    for column, limit, what in ((0, len(part.commands), "command"), (1, part.banks, "bank")):
        wrong = (stream.lines[:, column] < 0) | (stream.lines[:, column] >= limit)
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"command {line} of the stream: {what} {stream.lines[line, column]} is not in 0..{limit - 1}")
    refreshed, counted = int(state.clock[REFRESHES]), state.counts.copy()
    times = np.zeros((stream.blocks.size - 1, 3), np.int64)
    parts: list[Int64s] = []
    refreshes = 64 * (2 * int(part.setup[1]) + 1)
    room = len(stream.lines) + refreshes if record else 0
    state.clock[DONE] = 0
    while state.clock[DONE] < stream.blocks.size - 1:
        out = np.empty((room, 6), np.int64)
        state.clock[RECORDED] = 0
        issue_kernel(part.node, part.heard, part.span, part.rule_ptr, part.rules, part.scope, part.action, part.side, part.setup,
                     stream.lines, stream.blocks, stream.needs, state.ready, state.history, state.rows, state.counts, state.clock,
                     out, times)  # fmt: skip
        parts.append(out[: state.clock[RECORDED]].copy())
    counts = dict(zip(part.commands, (int(n) for n in state.counts - counted), strict=True))
    commands = np.concatenate(parts) if parts else np.empty((0, 6), np.int64)
    return Issued(commands, times, counts, int(state.clock[NOW]), int(state.clock[REFRESHES]) - refreshed)


def clocks(part: PimPart, expression: str) -> int:
    """What an expression in the part's timings comes to."""
    return evaluate(expression, part.timings)
