"""A memory part with PIM commands for the in-order engine: its table in ticks, its switches, its state, and one run of it."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..hardware import nearest
from ..kernels.pimissue import (
    BINDS,
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
    issue_kernel,
)
from .expression import evaluate
from .part import Part, ResolvedPart, load, resolve
from .partschema import Command, Pim

Int64s = NDArray[np.int64]
Buffers = Literal["dual", "single"]
_ORDINARY = ("RD", "WR", "RDA", "WRA")
"""Accesses from outside: they may hold PIM commands up, and rules among them alone are the controller's business."""


class PimPart(NamedTuple):
    """One channel with PIM for the engine. Banks are numbered over the channel, rank by rank and group by group."""

    name: str
    pim: Pim
    commands: tuple[str, ...]
    timings: dict[str, int]
    tick_ps: Fraction
    buffers: Buffers
    compat: bool
    ranks: int
    groups: int
    """Bank groups of a rank."""
    group_banks: int
    row_bytes: int
    rows: int
    request_bytes: int
    read_latency: int
    """From an ordinary read to the end of its data."""
    node: Int64s
    """[level, bank] number of the node of each level that a bank lies in."""
    heard: Int64s
    """[command, (number of levels at which some rule binds it, those levels, the same of rules by which it binds others)]"""
    span: Int64s
    """[level] banks of one node."""
    rule_ptr: Int64s
    rules: Int64s
    """[rule, (next, ticks, ticks for each step, window, some rule of the same command has a window, holds for siblings)]"""
    scope: Int64s
    action: Int64s
    side: Int64s
    """[command] row buffer that it uses: 0 the ordinary one, 1 that of the PIM."""
    setup: Int64s

    @property
    def banks(self) -> int:
        return self.ranks * self.groups * self.group_banks

    def id(self, command: str) -> int:
        """ValueError where the part has no such command."""
        if command not in self.commands:
            raise ValueError(f"memory part {self.name} has no command {command!r}{nearest(command, self.commands)}")
        return self.commands.index(command)

    def of_style(self, style: str) -> None:
        """ValueError unless the part's PIM commands are those of a style."""
        if self.pim.style != style:
            raise ValueError(f"memory part {self.name} has PIM commands of style {self.pim.style}; want {style}")


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
    part: str | Path | Part = "hbm2-neupims", *, buffers: Buffers | None = None, compat: bool = False, refresh: bool = True
) -> PimPart:
    """The part with its switches set: row buffers a bank (by default the first that it offers), legal or `compat`, refreshed or not.

    ValueError if the part has no PIM commands or not these switches, or if its table holds what the in-order engine does not do.
    """
    loaded = load(part)
    pim = _offers(loaded, buffers, compat)
    buffers = buffers or pim.row_buffers[0]
    switches = {"nSTRICT": int(not compat), "nSINGLE": int(buffers == "single"), "nSTEPS": 0}
    switches = {name: value for name, value in switches.items() if name in loaded.spec.timings}
    table = _with(loaded, switches)
    stepped = _with(loaded, {**switches, "nSTEPS": 1}) if "nSTEPS" in switches else table
    timings = {**loaded.spec.timings, **switches}
    counts = [int(n) for n in table.counts]
    effects = [_effect(name, command) for name, command in loaded.spec.commands.items()]
    dual = buffers == "dual"
    closes_pim = [i for i, effect in enumerate(effects) if effect == (CLOSES, 1) and table.scope[i] == LEVELS - 1]
    together = int(np.prod(counts[table.refresh_level:]))  # banks that a refresh closes; the others have their turns
    turns = int(np.prod(counts)) // together
    setup = np.array([
        table.refresh_interval // turns if refresh else 0, together, turns, table.refab, table.pre,
        closes_pim[0] if dual else -1, int(dual),
    ])  # fmt: skip
    return PimPart(
        name=loaded.name, pim=pim, commands=loaded.commands, timings=timings, tick_ps=loaded.tick_ps, buffers=buffers, compat=compat,
        ranks=counts[0] * counts[1], groups=counts[2], group_banks=counts[3],
        row_bytes=loaded.columns * loaded.request_bytes, rows=loaded.rows, request_bytes=loaded.request_bytes,
        read_latency=table.read_latency,
        node=_nodes(counts), heard=_heard(table), span=np.array([int(np.prod(counts[level:])) for level in range(LEVELS)]),
        rule_ptr=table.rule_ptr, rules=_rules(loaded, table, stepped), scope=table.scope,
        action=np.array([action for action, _ in effects]), side=np.array([side * dual for _, side in effects]),
        setup=setup,
    )  # fmt: skip


def _offers(part: Part, buffers: Buffers | None, compat: bool) -> Pim:
    """The PIM section of a part that offers what is asked of it."""
    if part.spec.pim is None:
        raise ValueError(f"{part.file}: memory part {part.name} has no section pim; want a part with PIM commands")
    if buffers is not None and buffers not in part.spec.pim.row_buffers:
        raise ValueError(f"buffers = {buffers!r}: want {' or '.join(part.spec.pim.row_buffers)}, which {part.name} has")
    if compat and "nSTRICT" not in part.spec.timings:
        raise ValueError(f"compat = True: {part.name} has one timing; want a part with the timing nSTRICT")
    return part.spec.pim


def _effect(name: str, command: Command) -> tuple[int, int]:
    """What a command does to a row buffer, and whether that is the PIM's. The standard's own commands do not say so."""
    opens = command.opens or ("ordinary" if name == "ACT" else None)
    closes = command.closes or ("ordinary" if name in ("PREpb", "PREab", "RDA", "WRA") else None)
    return OPENS if opens else CLOSES if closes else KEEPS, int("pim" in (opens, closes))


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
    ordinary = {part.commands.index(name) for name in _ORDINARY if name in part.commands}
    rules = np.zeros((table.rule_next.size, 6), np.int64)
    rules[:, 5] = table.rule_sibling
    for key in range(table.rule_ptr.size - 1):
        level, prev = divmod(key, len(part.commands))
        start, stop = table.rule_ptr[key], table.rule_ptr[key + 1]
        for i in range(start, stop):
            after = int(table.rule_next[i])
            slope = int(stepped.rule_ticks[i] - table.rule_ticks[i])
            rules[i, :5] = after, table.rule_ticks[i], slope, table.rule_window[i], int((table.rule_window[start:stop] > 1).any())
            if {prev, after} & ordinary:
                continue
            what = f"{part.commands[prev]} -> {part.commands[after]}"
            if table.rule_sibling[i]:
                raise ValueError(f"{part.file}: {what} holds for siblings, which the in-order PIM engine does not do")
            if level > min(table.scope[prev], table.scope[after]):
                raise ValueError(f"{part.file}: {what} stands at a level below what one of them addresses; put it at that level")
    return rules


def _heard(table: ResolvedPart) -> Int64s:
    commands = table.scope.size
    heard = np.zeros((commands, 2 * BINDS), np.int64)
    level = np.repeat(np.arange(table.rule_ptr.size - 1) // commands, np.diff(table.rule_ptr))
    for command in range(commands):
        binding = np.flatnonzero(np.diff(table.rule_ptr)[command::commands])
        for start, levels in ((0, np.unique(level[table.rule_next == command])), (BINDS, binding[binding <= table.scope[command]])):
            heard[command, start], heard[command, start + 1 : start + 1 + levels.size] = levels.size, levels
    return heard


def new_state(part: PimPart, *, start: int = 0) -> State:
    """A channel with all rows closed and no history, whose first command may come at `start`."""
    cells = (int(part.node.max()) + 1) * len(part.commands)
    interval = int(part.setup[0])
    clock = np.zeros(6, np.int64)
    due = max(1, -(-start // interval)) if interval else 1
    clock[NOW], clock[NEXT_REFRESH], clock[NEXT_RANK] = start - 1, due * interval if interval else NEVER, (due - 1) % int(part.setup[2])
    return State(np.zeros(cells, np.int64), np.full(cells * HISTORY, -NEVER // 2), np.full((2, part.banks), -1, np.int64),
                 np.zeros(len(part.commands), np.int64), clock)  # fmt: skip


def checked_stream(part: PimPart, stream: Stream) -> None:
    """ValueError naming the line of a stream whose command or bank the part has not."""
    for column, limit, what in ((0, len(part.commands), "command"), (1, part.banks, "bank")):
        wrong = (stream.lines[:, column] < 0) | (stream.lines[:, column] >= limit)
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"command {line} of the stream: {what} {stream.lines[line, column]} is not in 0..{limit - 1}")


def run(part: PimPart, stream: Stream, state: State, *, record: bool = True) -> Issued:
    """Issue a stream from a state, which afterwards is the state at its end. Ticks count from tick 0 of the state."""
    checked_stream(part, stream)
    refreshed, counted = int(state.clock[REFRESHES]), state.counts.copy()
    times = np.zeros((stream.blocks.size - 1, 3), np.int64)
    parts: list[Int64s] = []
    refreshes = 64 * (2 * int(part.setup[1]) + 1)
    room = len(stream.lines) + refreshes if record else 0
    about = np.stack([part.span[part.scope], part.action, part.side], axis=1)
    state.clock[DONE] = 0
    while state.clock[DONE] < stream.blocks.size - 1:
        out = np.empty((room, 6), np.int64)
        state.clock[RECORDED] = 0
        issue_kernel(part.node, part.heard, part.rule_ptr, part.rules, about, part.setup, stream.lines, stream.blocks, stream.needs,
                     state.ready, state.history, state.rows, state.counts, state.clock, out, times)
        parts.append(out[: state.clock[RECORDED]])
    counts = dict(zip(part.commands, (int(n) for n in state.counts - counted), strict=True))
    commands = parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, 6), np.int64), *parts])
    return Issued(commands, times, counts, int(state.clock[NOW]), int(state.clock[REFRESHES]) - refreshed)


def clocks(part: PimPart, expression: str) -> int:
    """What an expression in the part's timings comes to."""
    return evaluate(expression, part.timings)
