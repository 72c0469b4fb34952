"""The arrays that the DRAM kernel runs on, made from a memory part, a policy and a table of requests."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from ..kernels import dram as k
from .part import Int64s, Part, Rule
from .policy import Policy, Refreshes, refreshes

QUEUE = 32
"""Reads, and writes, that the controller holds."""
RANK = 2
"""Level. The kernel has no nodes above ranks: a rule of a channel or pseudochannel is one of each of its ranks."""
LONG_AGO = -(2**60)


class Channel(NamedTuple):
    """A channel of a part under a policy, for the kernel."""

    p: Int64s
    idle: Int64s
    """The kernel's `m` before the first request: rows closed, the first refresh one interval away."""
    labels: Int64s
    """[rule of the part] its number in the kernel: of two rules that hold until the same tick, the one with the larger is blamed."""


class Outcome(NamedTuple):
    """What the kernel leaves: its numbers, the first commands [row, (tick, command, bank, request)], and counts."""

    state: Int64s
    log: Int64s
    commands: Int64s
    rows: Int64s
    """Hits, misses, conflicts."""
    blocked: Int64s
    """[rule of the part, then none] ticks without a command."""


def channel(part: Part, policy: Policy, *, every_tick: bool = False) -> Channel:
    """A part under a policy. `every_tick` visits every tick instead of jumping to the next that matters: the same result, slowly.

    ValueError where the part lacks a command that the policy needs, or has a rule that the controller does not do.
    """
    resolved, due = part.resolved, refreshes(part, policy)
    banks, ranks = int(np.prod(resolved.counts)), int(resolved.counts[0] * resolved.counts[1])
    cap = 0
    if policy.row_policy == "closed":
        cap = policy.cap
        if min(resolved.rda, resolved.wra) < 0:
            raise ValueError(f"row policy closed needs the commands RDA and WRA, which {part.name} has not. Expected row policy open.")
    labels = np.empty(len(part.rules), np.int64)
    labels[sorted(range(len(part.rules)), key=lambda i: (part.rules[i].level, -part.rules[i].prev))] = np.arange(len(part.rules))
    numbers = {
        **{k.KINDS + i: command for i, command in enumerate((resolved.rd, resolved.wr, resolved.act, resolved.pre))},
        k.CLOSERS: resolved.rda, k.CLOSERS + 1: resolved.wra,
        k.REFRESH_CLOSE: due.close, k.REFRESH_COMMAND: due.command, k.UNIT_BANKS: due.banks, k.UNIT_STEP: due.step, k.ASKED: due.asked,
        k.ASK_STEP: due.ask_step, k.TURNS: due.turns, k.STOPS_ALL: int(due.stops_all), k.REFRESH_INTERVAL: due.interval,
        k.ACT2: resolved.act2, k.CAS_RD: resolved.cas_rd, k.CAS_WR: resolved.cas_wr, k.READ_LATENCY: resolved.read_latency,
        k.PROTOCOL: resolved.protocol, k.AAD: resolved.aad, k.WCK_READ: resolved.wck_read, k.WCK_WRITE: resolved.wck_write,
        k.COMMANDS: resolved.scope.size, k.BANKS: banks, k.RANKS: ranks, k.KEEP_HITS: int(policy.scheduler == "frfcfs-rowhit"),
        k.CAP: cap, k.CAPACITY: QUEUE, k.RULES: len(part.rules), k.EVERY_TICK: int(every_tick),
        k.ODD: (1 << k.SHIFT) if resolved.protocol == k.HBM_HALF else 0, k.LIST_WIDTH: k.ITEMS + 2 * (banks // ranks),
    }
    p = np.zeros(k.PART_CELLS, np.int64)
    for cell, value in numbers.items():
        p[cell] = value
    nodes = ranks + ranks * int(resolved.counts[2]) + banks
    lists = 2 * ranks * k.KINDS_OF_LIST * int(p[k.LIST_WIDTH])
    sizes = (nodes * resolved.scope.size, banks * k.BANK, lists, 2 * (banks + 1), banks)
    starts = np.cumsum([k.STATE_CELLS, *sizes])
    p[[k.READY_AT, k.BANK_AT, k.LIST_AT, k.ACTIVE_AT, k.REFRESH_AT]] = starts[:-1]
    rules, rings = _rules(part, due, p, labels, int(starts[-1]))
    return Channel(np.concatenate([p, rules]), _idle(p, resolved.counts, int(starts[-1]), rings), labels)


def _idle(p: Int64s, counts: Int64s, size: int, rings: dict[int, int]) -> Int64s:
    """`m` of `size` cells and the rings behind them (first cell -> commands that it remembers), before the first request."""
    m = np.zeros(size + sum(1 + length for length in rings.values()), np.int64)
    for ring, length in rings.items():
        m[ring + 1 : ring + 1 + length] = LONG_AGO
    m[k.NEXT_REFRESH], m[k.PAIR] = p[k.REFRESH_INTERVAL], -1
    bank, number = m[p[k.BANK_AT] : p[k.LIST_AT]].reshape(-1, k.BANK), np.arange(int(p[k.BANKS]))
    group, rank = number // counts[3], number // (counts[2] * counts[3])
    bank[:, k.ROW], bank[:, k.HEAD : k.BANK] = k.CLOSED, -1
    bank[:, k.RANK], bank[:, k.PC], bank[:, k.NUMBER] = rank, rank // counts[1], number
    groups = p[k.RANKS] * counts[2]
    bank[:, k.GROUP_READY] = p[k.READY_AT] + (p[k.RANKS] + group) * p[k.COMMANDS]
    bank[:, k.OWN_READY] = p[k.READY_AT] + (p[k.RANKS] + groups + number) * p[k.COMMANDS]
    return m


def _rules(part: Part, due: Refreshes, p: Int64s, labels: Int64s, ring_at: int) -> tuple[Int64s, dict[int, int]]:
    """The rules of the part as they stand behind the numbers of `p`, and the rings in `m` (first cell -> length) that they need.

    Rules for commands that are never issued under the policy are left out, and so are those that a longer one makes idle.
    """
    held = {command: command for command in (*p[k.KINDS : k.KINDS + 4].tolist(), due.close, due.command)}
    if p[k.CAP] > 0:  # an access may close its row, so it waits for both of its commands
        held |= {int(p[k.CLOSERS + mode]): int(p[k.KINDS + mode]) for mode in range(2)}
    commands, ranks, ready = int(p[k.COMMANDS]), int(p[k.RANKS]), int(p[k.READY_AT])
    spans: list[int] = []
    table: list[int] = []
    rings: dict[int, int] = {}
    known: dict[tuple[int, int, int], int] = {}
    first = k.PART_CELLS + ranks * commands * k.SPAN
    for rank, command in product(range(ranks), range(commands)):
        cells: tuple[dict[int, int], ...] = {}, {}, {}
        windows = []
        for i, rule in enumerate(part.rules):
            if rule.prev != command or rule.next not in held:
                continue
            after, time = held[rule.next], (rule.ticks << k.SHIFT) + int(labels[i])
            if rule.level <= RANK:
                node, others = _ranks(part, rule, rank)
                for other in others:
                    cell = ready + other * commands + after
                    if rule.window == 1:
                        cells[0][cell] = max(time, cells[0].get(cell, 0))
                        continue
                    key = (i, node, other)
                    if key not in known:
                        known[key] = ring_at
                        rings[ring_at] = rule.window
                        ring_at += 1 + rule.window
                    windows += [known[key], rule.window, cell, time]
            elif rule.sibling or rule.window > 1:
                raise ValueError(f"{part.file}: the rule {part.commands[rule.prev]} -> {part.commands[rule.next]} below ranks has a window "
                                 "or is for siblings, which the controller does not do. Expected it at the level of ranks or above.")
            else:
                mine = cells[rule.level - RANK]
                mine[after] = max(time, mine.get(after, 0))
        _drop_idle(cells, ready + rank * commands)
        for some in cells:
            spans.append(first + len(table))
            table += [value for pair in some.items() for value in pair]
        spans += [first + len(table), first + len(table) + len(windows)]
        table += windows
    return np.array(spans + table, np.int64), rings


def _ranks(part: Part, rule: Rule, rank: int) -> tuple[int, list[int]]:
    """The node, numbered in its level, that a rule of a channel, pseudochannel or rank counts commands of, and the ranks that it holds."""
    counts, scope = part.resolved.counts, int(part.resolved.scope[rule.prev])
    every = range(int(counts[0] * counts[1]))
    widths = (len(every), int(counts[1]), 1)
    width = widths[min(rule.level, scope)]
    if not rule.sibling:
        return rank // width, [other for other in every if other // width == rank // width]
    if scope < rule.level:
        return 0, []
    above = widths[rule.level - 1] if rule.level else width
    return rank // width, [other for other in every if other // above == rank // above and other // width != rank // width]


def _drop_idle(cells: tuple[dict[int, int], ...], rank_cells: int) -> None:
    """Take out rules of a group or bank that one of the rank (or group) around it outlasts."""
    ranks, group, bank = cells
    for after in [after for after, time in group.items() if ranks.get(rank_cells + after, 0) >> k.SHIFT >= time >> k.SHIFT]:
        del group[after]
    for after in [after for after, time in bank.items()
                  if max(ranks.get(rank_cells + after, 0), group.get(after, 0)) >> k.SHIFT >= time >> k.SHIFT]:
        del bank[after]


def request_columns(write: Int64s, bank: Int64s, row: Int64s) -> Int64s:
    """Requests as the kernel wants them; `bank` is the bank's number in the channel."""
    out = np.zeros((write.size, k.REQUEST_COLUMNS), np.int64)
    out[:, k.WRITE], out[:, k.TARGET_BANK], out[:, k.WANTED_ROW] = write, bank, row
    return out


def run(made: Channel, requests: Int64s, log_rows: int, *, kernel: Callable[..., None] = k.replay_kernel) -> Outcome:
    """Serve all requests on an idle channel; `requests` gets arrivals and latencies."""
    m, commands = made.idle.copy(), int(made.p[k.COMMANDS])
    log = np.zeros((log_rows, 4), np.int64)
    tally = np.zeros(commands + 3 + made.labels.size + 1, np.int64)
    kernel(made.p, m, requests, log, tally)
    blocked = tally[commands + 3 :]
    return Outcome(m[: k.STATE_CELLS], log[: m[k.LOGGED]], tally[:commands], tally[commands : commands + 3],
                   np.append(blocked[made.labels], blocked[-1]))
