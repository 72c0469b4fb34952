"""A PIM command stream and ordinary reads and writes in one channel: who comes when, under a policy, and who waits for whom."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..hardware import nearest
from ..kernels import contend as k
from ..kernels.pimissue import DONE, NEXT_RANK, NEXT_REFRESH, NOW, REFRESHES
from .check import whole_numbers
from .pimpart import PimPart, State, Stream, checked_stream, new_state

if TYPE_CHECKING:
    import pandas as pd

Int64s = NDArray[np.int64]
TABLE = "request table"
COLUMNS = ("rw", "bg", "ba", "ro", "arrival")
OPTIONAL = ("ra", "co")
"""0 where the table has none."""
POLICIES = {
    "pim-first": "A PIM command is issued as soon as it may be; requests' commands use the ticks between, and while a block runs only "
                 "as far as its spare cycles before the next refresh allow (NeuPIMs, ASPLOS'24: its command queue's rule).",
    "requests-first": "A request's command that may be issued no later than PIM's goes first, within the same spare cycles (ours).",
    "oldest-first": "Where both may be issued, the one goes first whose request came into its queue, or whose block's turn came, earlier "
                    "(ours).",
    "blocked": "When a block's turn comes, the requests in the queues are served first, no more are taken in, and until its last command "
               "none is served (AiM and CENT: PIM and normal requests block each other in the controller).",
}  # fmt: skip
"""Where a bank has a single row buffer a block excludes requests under every policy; the policy says whether it may start: at once, with no
request waiting, with none older, with none taken in. Rows that requests have used are all closed before it."""
QUEUE = 32
"""Reads, and writes, that the controller holds."""
BANK_QUEUE, FEW_WRITES = 128, 8
"""Of service `in-turn`: requests in each bank's queue; writes that wait in their buffer although nothing else does (NeuPIMs)."""
SERVICES = {
    "first-ready": "Two queues, of reads and of writes: row hits first, then the oldest; writes are drained from 80 % of theirs to 20 %.",
    "in-turn": "A queue for each bank, which take turns; reads go on until there are none left, then writes, and so on. Writes come into "
               "them all at once, when their buffer is full or nothing else is there (NeuPIMs, ASPLOS'24: its command queues' rule).",
}  # fmt: skip
"""In what order a controller serves requests."""
SPARE_CYCLES = 10
"""A block with fewer to spare before the next refresh is not delayed by requests (NeuPIMs)."""
CAUSES = ("turn", "rows", "power", "data")
"""Why a command waited for the other stream's: command bus, policy or a block that excludes it; a row to be closed or just closed;
an activation's power window; the data bus and its turnaround."""


class Contended(NamedTuple):
    """What became of both. Ticks are the part's."""

    commands: Int64s
    """[command, (tick, id, bank, row, steps, line of the stream, -1 or -2 less the request)]; empty if not recorded. -1 is the controller's
    own: refresh, and what closes the only row buffers before a block where requests have used them."""
    times: Int64s
    """[block, (tick of its first command, tick of its last, tick that the next refresh had to leave free)]"""
    pim_end: int
    """Tick of the last PIM command (of the start, if there is none)."""
    requests_end: int
    """Tick of the last read or write."""
    latency_ticks: Int64s
    """[request] from its arrival to the end of its data (writes: to their command)."""
    counts: dict[str, int]
    refreshes: int
    pim_waits: dict[str, int]
    """Ticks, by cause, that PIM commands and refreshes came later than PIM's and refresh's commands before them would have let them."""
    request_waits: dict[str, int]
    """The same for the requests' commands."""
    bandwidth_bytes_per_s: float
    """Of the requests, from the first arrival to the last read or write."""


def contend(part: PimPart, stream: Stream, requests: pd.DataFrame | Mapping[str, Any], *, policy: str,
            service: str = "first-ready", state: State | None = None, record: bool = False) -> Contended:
    """Issue a stream of PIM blocks and serve a request table, from a state that afterwards is the state at the end.

    Requests have columns rw (1: write), ra, bg, ba, ro, arrival (tick, not falling), and may have co. ValueError naming row and column
    for one outside the part, and for an unknown policy or service or a part with rules that this controller does not follow.
    """
    for what, name, known in (("policy", policy, POLICIES), ("service", service, SERVICES)):
        if name not in known:
            raise ValueError(f"{what} {name!r} is unknown{nearest(name, tuple(known))}. Expected one of {', '.join(known)}.")
    checked_stream(part, stream)
    rows = _checked(requests, part)
    state = new_state(part) if state is None else state
    p = _table(part, policy, service)
    m = _channel(p, state, len(stream.lines))
    start, tables = int(m[k.LAST]), _tables(p)
    times = np.zeros((stream.blocks.size - 1, 3), np.int64)
    room = len(stream.lines) + 3 * len(rows) + 1024 if record else 0
    pieces: list[Int64s] = []
    while not pieces or m[k.RECORDED] == room > 0:
        out = np.empty((room, 6), np.int64)
        m[k.RECORDED] = 0
        k.contend_kernel(p, m, stream.lines, stream.blocks, stream.needs, rows, times, out)
        pieces.append(out[: m[k.RECORDED]])
    counts = m[tables["counts"]]
    waits = [dict(zip(CAUSES, row, strict=True)) for row in m[tables["waits"]].reshape(2, -1).tolist()]
    refreshes = int(m[k.REFRESHES] - state.clock[REFRESHES])
    state.rows.flat[:], state.ready[:], state.history[:] = m[tables["rows"]], m[tables["ready"]], m[tables["history"]]
    state.counts[:] += counts
    state.clock[[NOW, NEXT_REFRESH, NEXT_RANK]] = max(m[k.LAST], m[k.LAST_PIM]), m[k.NEXT_REFRESH], m[k.NEXT_RANK]
    state.clock[[REFRESHES, DONE]] = m[k.REFRESHES], m[k.DONE]
    served = rows[:, k.SERVED] + np.where(rows[:, k.WRITE] == 1, 0, part.read_latency)
    return Contended(
        np.concatenate(pieces), times, int(m[k.PIM_END]), int(m[k.REQUEST_END]), served - rows[:, k.ARRIVAL],
        dict(zip(part.commands, counts.tolist(), strict=True)), refreshes, waits[0], waits[1], _bandwidth(part, rows, start),
    )


def _table(part: PimPart, policy: str, service: str) -> Int64s:
    """The part, the policy and the service as the kernel's `p`.

    ValueError if a rule stands below what one of its commands addresses: the kernel looks along one path.
    """
    used = np.array([name not in ("PREab", "RDA", "WRA", "REFpb") for name in part.commands])
    keys = np.repeat(np.arange(part.rule_ptr.size - 1), np.diff(part.rule_ptr))
    level, prev, after = keys // part.scope.size, keys % part.scope.size, part.rules[:, 0]
    wrong = np.flatnonzero((level > np.minimum(part.scope[prev], part.scope[after])) & used[prev] & used[after])
    if wrong.size:
        i = int(wrong[0])
        raise ValueError(f"{part.name}: {part.commands[prev[i]]} -> {part.commands[after[i]]} stands at a level below what one of them "
                         "addresses; put it at that level")
    commands, banks, cells = len(part.commands), part.banks, (int(part.node.max()) + 1) * len(part.commands)
    in_turn = service == "in-turn"
    queue = QUEUE + in_turn * BANK_QUEUE * banks
    head = np.zeros(k.PART_CELLS, np.int64)
    head[k.INTERVAL : k.PIM_SIDE + 1] = part.setup[: k.PIM_SIDE + 1]
    numbers = {
        k.POLICY: list(POLICIES).index(policy), k.EXCLUSIVE: int(part.buffers == "single" or policy == "blocked"), k.SPARE: SPARE_CYCLES,
        k.CLOSING: part.timings["nRP"], k.OPENING: part.timings["nRCDWR"], k.CAPACITY: queue, k.RD: part.id("RD"), k.WR: part.id("WR"),
        k.ACT: part.id("ACT"), k.COMMANDS: commands, k.BANKS: banks, k.CELLS: cells,
        k.IN_TURN: int(in_turn), k.BUFFER: QUEUE, k.FEW: FEW_WRITES,
    }  # fmt: skip
    for cell, value in numbers.items():
        head[cell] = value
    tables = [part.node, part.heard, part.span, part.rule_ptr, part.rules, part.scope, part.action, part.side]
    head[k.NODE_AT : k.SIDE_AT + 1] = np.cumsum([k.PART_CELLS, *(table.size for table in tables[:-1])])
    sizes = [2 * banks, k.KEPT * banks, 2 * queue, commands, 2 * k.WHY]
    head[k.ROWS_AT : k.VIEW_AT + 1] = np.cumsum([k.STATE_CELLS, *sizes])
    head[k.TAKEN_AT] = head[k.VIEW_AT] + 3 * cells * (2 + k.HISTORY)
    return np.concatenate([head, *(table.ravel() for table in tables)])


def _tables(p: Int64s) -> dict[str, slice]:
    """Where the tables stand in the kernel's `m`: ready ticks and history are those of the view of all commands."""
    view, cells = int(p[k.VIEW_AT]), int(p[k.CELLS])
    ends = {"rows": k.KEPT_AT, "kept": k.QUEUE_AT, "counts": k.WAITS_AT, "waits": k.VIEW_AT}
    starts = {"rows": k.ROWS_AT, "kept": k.KEPT_AT, "counts": k.COUNTS_AT, "waits": k.WAITS_AT}
    return {name: slice(int(p[starts[name]]), int(p[ends[name]])) for name in starts} | {
        "ready": slice(view, view + cells), "history": slice(view + 2 * cells, view + cells * (2 + k.HISTORY)),
        "views": slice(view, int(p[k.TAKEN_AT])),
    }  # fmt: skip


def _channel(p: Int64s, state: State, lines: int) -> Int64s:
    """The state as the kernel's `m`; each stream alone, too, has to wait for all that came before."""
    m = np.zeros(int(p[k.TAKEN_AT]) + lines, np.int64)
    tables = _tables(p)
    m[tables["rows"]] = state.rows.ravel()
    m[tables["kept"]].reshape(-1, k.KEPT)[:, k.PIM_ROW] = -1
    m[tables["views"]] = np.tile(np.concatenate([state.ready, np.full_like(state.ready, -1), state.history]), 3)
    now = state.clock[NOW]
    m[[k.LAST, k.LAST_PIM, k.LAST_REQUEST, k.PIM_END, k.REQUEST_END]] = now
    m[k.TICK], m[k.TURN], m[k.EXPECTED], m[k.LAST_BANK] = now + 1, -1, -1, -1
    m[[k.NEXT_REFRESH, k.NEXT_RANK, k.REFRESHES]] = state.clock[[NEXT_REFRESH, NEXT_RANK, REFRESHES]]
    return m


def _bandwidth(part: PimPart, rows: Int64s, start: int) -> float:
    if not len(rows):
        return 0.0
    ticks = int(rows[:, k.SERVED].max()) + 1 - max(int(rows[0, k.ARRIVAL]), start + 1)
    return float(Fraction(len(rows) * part.request_bytes * 10**12, ticks) / part.tick_ps)


def _checked(requests: pd.DataFrame | Mapping[str, Any], part: PimPart) -> Int64s:
    """The table as the kernel wants it. ValueError naming row and column where one does not fit the part."""
    names = [str(name) for name in (requests.columns if hasattr(requests, "columns") else requests)]
    limits = {"rw": 2, "ra": part.ranks, "bg": part.groups, "ba": part.group_banks, "ro": part.rows,
              "co": part.row_bytes // part.request_bytes, "arrival": 2**61}  # fmt: skip
    for name in names:
        if name not in limits:
            raise ValueError(f"{TABLE}: column {name!r} is unknown{nearest(name, tuple(limits))}. Expected {', '.join(limits)}.")
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise ValueError(f"{TABLE}: column {missing[0]!r} is missing. It has {', '.join(names) or 'no columns'}.")
    size = len(requests["rw"])
    found = {name: whole_numbers(requests[name], TABLE, name) if name in names else np.zeros(size, np.int64) for name in limits}
    for name, values in found.items():
        if values.shape != (size,):
            raise ValueError(f"{TABLE}: column {name!r} has {values.size} entries but 'rw' has {size}.")
        bad = np.flatnonzero((values < 0) | (values >= limits[name]))
        if bad.size:
            row = int(bad[0])
            raise ValueError(f"{TABLE}: row {row}: {name} is {values[row]}, but {part.name} has {name} 0 to {limits[name] - 1}.")
    back = np.flatnonzero(np.diff(found["arrival"]) < 0)
    if back.size:
        row = int(back[0]) + 1
        raise ValueError(f"{TABLE}: row {row}: arrival is {found['arrival'][row]}, before {found['arrival'][row - 1]} of the row before.")
    out = np.zeros((size, k.REQUEST_COLUMNS), np.int64)
    out[:, k.WRITE], out[:, k.WANTED_ROW], out[:, k.ARRIVAL] = found["rw"], found["ro"], found["arrival"]
    out[:, k.TARGET] = (found["ra"] * part.groups + found["bg"]) * part.group_banks + found["ba"]
    return out
