"""The arrays that the DRAM kernel runs on, made from a memory part and a table of requests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..kernels import dram as k
from .part import Int64s, ResolvedPart

QUEUE = 32
"""Reads, and writes, that the controller holds."""
REFRESH_QUEUE = 64
NEVER = 2**61


class Outcome(NamedTuple):
    """What the kernel leaves: its numbers, the first commands [row, (tick, command, bank, request)] and its tally."""

    state: Int64s
    log: Int64s
    tally: Int64s


def table(part: ResolvedPart, *, refresh: bool, keep_hits: bool, every_tick: bool = False) -> Int64s:
    """A part as the kernel's `p`. `keep_hits`: never close a row that an older request still hits (FR-FCFS-RowHit).

    `every_tick` visits every tick instead of jumping to the next that matters: the same result, slowly.
    """
    counts = [int(c) for c in part.counts]
    widths = np.cumprod([1, 1, *counts])
    first = np.cumsum([0, *widths[1:]])
    banks, commands = int(np.prod(counts)), part.scope.size
    pointers = zip(part.rule_ptr[:-1].tolist(), part.rule_ptr[1:].tolist(), strict=True)
    span = np.array([(a, b, (part.rule_window[a:b] > 1).any(), part.rule_sibling[a:b].any()) for a, b in pointers], np.int64)
    rules = np.stack([part.rule_next, part.rule_ticks, part.rule_window, part.rule_sibling], axis=1)
    path = first[:5] + np.arange(banks)[:, None] // (banks // widths[1:])
    head = np.zeros(k.PART_CELLS, np.int64)
    head[k.COUNTS : k.COUNTS + 4], head[k.FIRST : k.FIRST + 6] = counts, first[:6]
    head[k.KINDS : k.KINDS + 4] = (part.rd, part.wr, part.act, part.pre)
    numbers = {
        k.PREAB: part.preab, k.REFAB: part.refab, k.ACT2: part.act2, k.CAS_RD: part.cas_rd, k.CAS_WR: part.cas_wr,
        k.READ_LATENCY: part.read_latency, k.REFRESH_INTERVAL: part.refresh_interval if refresh else NEVER, k.PROTOCOL: part.protocol,
        k.AAD: part.aad, k.WCK_READ: part.wck_read, k.WCK_WRITE: part.wck_write, k.COMMANDS: commands, k.BANKS: banks,
        k.KEEP_HITS: int(keep_hits), k.CAPACITY: QUEUE, k.RULES: len(rules), k.EVERY_TICK: int(every_tick),
        k.QUEUE_WIDTH: max(QUEUE, banks, REFRESH_QUEUE),
    }
    for cell, value in numbers.items():
        head[cell] = value
    tables = [span.ravel(), rules.ravel(), part.scope.astype(np.int64), path.ravel()]
    starts = np.cumsum([k.PART_CELLS, *(t.size for t in tables)])
    head[[k.SPAN_AT, k.RULE_AT, k.SCOPE_AT, k.PATH_AT]] = starts[:4]
    nodes, ranks = int(first[5]), counts[0] * counts[1]
    sizes = [nodes * commands, nodes * commands * k.BOOK, ranks * 4, banks * k.BANK]
    head[[k.READY_AT, k.BOOK_AT, k.GATE_AT, k.BANK_AT, k.QUEUE_AT]] = np.cumsum([k.STATE_CELLS, *sizes])
    return np.concatenate([head, *tables])


def idle_channel(p: Int64s) -> Int64s:
    """The kernel's `m` for a channel on which nothing has happened: rows closed, the first refresh one interval away."""
    m = np.zeros(int(p[k.QUEUE_AT] + k.QUEUES * p[k.QUEUE_WIDTH]), np.int64)
    m[k.NEXT_REFRESH], m[k.PAIR] = p[k.REFRESH_INTERVAL], -1
    bank, path = m[p[k.BANK_AT] : p[k.QUEUE_AT]].reshape(-1, k.BANK), _path(p)
    bank[:, k.ROW] = k.CLOSED
    bank[:, k.GATE] = p[k.GATE_AT] + (path[:, 2] - p[k.FIRST + 2]) * 4
    bank[:, k.GROUP_READY], bank[:, k.OWN_READY] = p[k.READY_AT] + path[:, 3] * p[k.COMMANDS], p[k.READY_AT] + path[:, 4] * p[k.COMMANDS]
    bank[:, k.NUMBER] = np.arange(p[k.BANKS])
    m[p[k.BOOK_AT] + k.CAUSE : p[k.GATE_AT] : k.BOOK] = -1
    return m


def _path(p: Int64s) -> Int64s:
    """[bank, level] node of each level that a bank lies in."""
    return p[p[k.PATH_AT] : p[k.PATH_AT] + k.LEVELS * p[k.BANKS]].reshape(-1, k.LEVELS)


def request_columns(write: Int64s, bank: Int64s, row: Int64s) -> Int64s:
    """Requests as the kernel wants them; `bank` is the bank's number in the channel."""
    out = np.zeros((write.size, k.REQUEST_COLUMNS), np.int64)
    out[:, k.WRITE], out[:, k.TARGET_BANK], out[:, k.WANTED_ROW] = write, bank, row
    return out


def run(p: Int64s, requests: Int64s, log_rows: int) -> Outcome:
    """Serve all requests on an idle channel; `requests` gets arrivals and latencies."""
    m = idle_channel(p)
    log = np.zeros((log_rows, 4), np.int64)
    tally = np.zeros(int(p[k.COMMANDS] + 3 + p[k.RULES] + 1), np.int64)
    k.replay_kernel(p, m, requests, log, tally)
    return Outcome(m[: k.STATE_CELLS], log[: m[k.LOGGED]], tally)
