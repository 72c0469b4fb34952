"""A stage of the NeuPIMs simulator in cycles: attention in PIM, the NPU's operators, or both beside each other in one memory.

Attention: scores of all requests, softmax of all heads, values of all requests. A vector unit takes one head's softmax a cycle, in the
order of the requests, so that it starts when the last scores of the first channel are there; stores follow one a cycle. Results of more
than one chunk of tokens are added and stored in the same way (casys-kaist/NeuPIMs f299af3, NeuPIMSLogitSoftmax.cc, NeuPIMSAttend.cc).
"""

from __future__ import annotations

import math
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from gemvane.sim.dram.contend import contend
from gemvane.sim.dram.pimpart import PimPart, State, new_state
from gemvane.sim.dram.pimstream import Attention, score_blocks, stream, value_blocks
from gemvane.sim.kernels.pimissue import NEXT_RANK, RELEASE

from .neupims_npu import BANKS, CHANNELS, ELEMENT_BYTES, ROW_LINES, Int64s, Operator, Requests, requests, softmax_cycles, step_ends

HEAD_DIM = 128
REQUEST_CYCLES = 3
"""From the core to the first command in the channel: clocks 2279 and 2282 of the golden trace, where a stage begins."""
RETURN_CYCLES = 1
"""From the end of a read's data to the core."""
STORE_CYCLES = 4
"""From the core to the memory's acceptance of a write and back."""
STAGE_CYCLES = 3
"""From the end of the last operator to the next stage. All four are constant over the golden trace and the 17 runs: attention without
NPU traffic is met to the cycle in six stages."""
ADDITION_CYCLES = 2
"""A result of 128 elements, its length taken in bytes."""
NPU_ROW = 2**40
"""A row that the layers before left open: no row of the operators."""
FIRST_ROW = 513
"""Of keys and values, as in the golden trace: the NPU's window ends before."""


class Stage(NamedTuple):
    """What is done in a stage, and when it begins. Requests are dealt out in turn to the channels, all equally long."""

    start: int
    """Cycle, which gives the phase of refresh."""
    position_bytes: int
    """Of the NPU's address counter."""
    heads: int
    tokens: int
    requests: int
    """In attention; 0 if there is none."""
    operators: tuple[Operator, ...]
    """Of the NPU; none if it waits."""


class Cycles(NamedTuple):
    """What a stage takes."""

    pim_busy: float
    """Mean over all channels: from the first PIM command to the last, without the softmax between scores and values."""
    attention: int
    npu: int

    @property
    def stage(self) -> int:
        """Both ends have to be reached."""
        return max(self.attention, self.npu)


class Begun(NamedTuple):
    """An operator of the NPU that has begun."""

    start: int
    stored: Int64s
    """Cycle of each step's store; 0 or missing where it is not known yet."""


def stored_bytes(requests: int, heads: int, tokens: int, part: PimPart) -> int:
    """That attention moves the NPU's address counter on: scores, and results where they are added over chunks of tokens."""
    return ELEMENT_BYTES * requests * heads * (tokens + _additions(tokens, part) * HEAD_DIM)


def cycles(stage: Stage, part: PimPart) -> Cycles:
    """The stage in the channel with most requests, and PIM-busy cycles of those with one fewer beside it."""
    most = math.ceil(stage.requests / CHANNELS)
    found = _channel(stage, part, most)
    fuller = stage.requests - (most - 1) * CHANNELS if most else 0
    busy = fuller * found.pim_busy
    if most > 1 and fuller < CHANNELS:
        busy += (CHANNELS - fuller) * _channel(stage, part, most - 1).pim_busy
    return found._replace(pim_busy=busy / CHANNELS)


def _channel(stage: Stage, part: PimPart, each: int) -> Cycles:
    """A channel with `each` requests. When values and operators begin follows from what comes before them in the stage.

    Nothing depends on what comes after it. So the operators are taken in one by one, each with the ticks of those before it, and
    repeating with the ticks of the last time ends after at most as many times as there are events.
    """
    op = Attention(stage.tokens, stage.heads, HEAD_DIM)
    scores = each * score_blocks(part, op, first_row=FIRST_ROW)
    attention = stream(scores + each * value_blocks(part, op, first_row=FIRST_ROW), release=stage.start + REQUEST_CYCLES)
    pause, width = _pause(stage, part, each), stage.heads * HEAD_DIM
    begun, npu = [Begun(stage.start, np.zeros(0, np.int64))][: len(stage.operators)], 0
    asked = requests(stage.operators[: len(begun)], _positions(stage, part, begun, 0, 0), width)
    arrival = _arrivals(asked, begun)
    while True:
        done = contend(part, attention, _table(asked, arrival, part), policy="pim-first", service="in-turn", state=_state(stage, part))
        scored = int(done.times[len(scores) - 1, 1]) if each else 0
        begun, npu = _begun(stage, asked, arrival + done.latency_ticks + RETURN_CYCLES)
        follow = requests(stage.operators[: len(begun)], _positions(stage, part, begun, scored, done.pim_end), width)
        settled = np.array_equal(follow.line, asked.line) and np.array_equal(_arrivals(follow, begun), arrival)
        if settled and (not each or scored + 1 + pause == attention.needs[-1, RELEASE]):
            break
        asked, arrival, attention.needs[len(scores) :, RELEASE] = follow, _arrivals(follow, begun), scored + 1 + pause
    if not each:
        return Cycles(0, 0, npu)
    busy = done.pim_end + 1 - stage.start - REQUEST_CYCLES - pause
    return Cycles(busy, done.pim_end - stage.start + _last_results(stage, part, each), npu)


def _positions(stage: Stage, part: PimPart, begun: list[Begun], scored: int, pim_end: int) -> list[int]:
    """Of the address counter at the start of each operator: after those before it and what attention has stored by then, one a cycle."""
    before = accumulate((operator.elements for operator in stage.operators), initial=0)
    heads = stage.requests * stage.heads
    results, added = part.read_latency + RETURN_CYCLES, heads * _additions(stage.tokens, part)
    found = []
    for elements, (start, _) in zip(before, begun, strict=False):
        softmax = min(max(start - scored - results - softmax_cycles(stage.tokens), 0), heads)
        sums = min(max(start - pim_end - results - ADDITION_CYCLES, 0), added)
        found.append(stage.position_bytes + ELEMENT_BYTES * (elements + softmax * stage.tokens + sums * HEAD_DIM))
    return found


def _table(asked: Requests, arrival: Int64s, part: PimPart) -> dict[str, Int64s]:
    bank, inner = asked.line // ROW_LINES % BANKS, part.group_banks
    return {"rw": asked.write, "ra": bank // (inner * part.groups), "bg": bank // inner % part.groups, "ba": bank % inner,
            "ro": asked.line // (ROW_LINES * BANKS), "arrival": arrival}  # fmt: skip


def _pause(stage: Stage, part: PimPart, each: int) -> int:
    """From the last command of the scores to the first of the values: softmax of all heads but those that were early."""
    heads = (stage.requests - max(0, each - 1)) * stage.heads
    return part.read_latency + RETURN_CYCLES + heads - 1 + softmax_cycles(stage.tokens) + STORE_CYCLES + REQUEST_CYCLES - 1


def _last_results(stage: Stage, part: PimPart, each: int) -> int:
    """From the last PIM command to the end of the stage."""
    additions = _additions(stage.tokens, part) * (stage.requests - each + 1) * stage.heads
    added = additions - 1 + ADDITION_CYCLES + STORE_CYCLES if additions else 0
    return part.read_latency + RETURN_CYCLES + added + STAGE_CYCLES


def _additions(tokens: int, part: PimPart) -> int:
    """Of a head: one a tile, where its tokens do not fit one row."""
    return -(-HEAD_DIM // part.banks) if tokens * ELEMENT_BYTES > part.row_bytes else 0


def _begun(stage: Stage, asked: Requests, served: Int64s) -> tuple[list[Begun], int]:
    """The operators whose requests were served, and the next one; and cycles of all that were.

    `served`: when a read's data is in the core. A step's store comes when it is over, one step a cycle.
    """
    begun: list[Begun] = []
    at = stage.start
    for i, operator in enumerate(stage.operators):
        read = np.flatnonzero((asked.operator == i) & (asked.write == 0))
        if not read.size:
            return [*begun, Begun(at, np.zeros(0, np.int64))], at
        loaded = np.full(len(operator.loads), at)
        np.maximum.at(loaded, asked.of[read], served[read])
        ends = step_ends(operator, loaded.tolist(), at)
        stores = np.array([step.stored_elements > 0 for step in operator.steps])
        turns = np.arange(np.count_nonzero(stores))
        stored = np.zeros(len(ends), np.int64)
        stored[stores] = np.maximum.accumulate(np.array(ends)[stores] - turns) + turns
        begun.append(Begun(at, stored))
        at = max(*ends, int(stored.max()) + STORE_CYCLES)
    return begun, at + STAGE_CYCLES - stage.start if begun else 0


def _arrivals(asked: Requests, begun: list[Begun]) -> Int64s:
    """When the requests come: one read a cycle passes into the queues, and writes come after their operator's reads."""
    arrival = np.zeros(asked.write.size, np.int64)
    for i, (start, stored) in enumerate(begun):
        mine = np.flatnonzero(asked.operator == i)
        read, write = mine[asked.write[mine] == 0], mine[asked.write[mine] == 1]
        arrival[read] = start + REQUEST_CYCLES + np.arange(read.size)
        arrival[write] = start + REQUEST_CYCLES + read.size
        if stored.size:
            arrival[write] = np.maximum(arrival[write], stored[asked.of[write]] + REQUEST_CYCLES)
    return np.maximum.accumulate(arrival)


def _state(stage: Stage, part: PimPart) -> State:
    """The linear layers before it leave every bank open, but for the rank refreshed last."""
    state = new_state(part, start=stage.start)
    if stage.start:
        refreshed = int(state.clock[NEXT_RANK] + part.ranks - 1) % part.ranks
        state.rows[0] = NPU_ROW
        state.rows[0, refreshed * part.banks // part.ranks :][: part.banks // part.ranks] = -1
    return state


