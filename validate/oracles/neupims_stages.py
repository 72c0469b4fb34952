"""A stage of the NeuPIMs simulator in cycles: attention in PIM, the NPU's operators, or both beside each other in one memory.

Attention: scores of all requests, softmax of all heads, values of all requests. A vector unit takes one head's softmax a cycle, in the
order of the requests, so that it starts when the last scores of the first channel are there; stores follow one a cycle. Results of more
than one chunk of tokens are added and stored in the same way (casys-kaist/NeuPIMs f299af3, NeuPIMSLogitSoftmax.cc, NeuPIMSAttend.cc).

The core sends PIM commands to all channels at once, or with an issue width only so many a cycle: those of one request after the other,
channel by channel (branch npu+pim, e51a4af: NeuPIMSystolicWS.cc sends one a cycle, Scheduler.cc sorts the batch by channel).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gemvane.sim.dram.contend import contend
from gemvane.sim.dram.pimpart import PimPart, State, Stream, new_state, run
from gemvane.sim.dram.pimstream import Attention, Block, score_blocks, sent_streams, stream, value_blocks
from gemvane.sim.kernels.pimissue import NEXT_RANK, RELEASE

from .neupims_npu import (
    BANKS,
    CHANNELS,
    ELEMENT_BYTES,
    ROW_LINES,
    Access,
    Begun,
    Int64s,
    Operator,
    Requests,
    accesses,
    requests,
    softmax_cycles,
    step_ends,
)

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
    issue_width: int | None = None
    """PIM commands that the core sends a cycle, to all channels together; None for no limit."""
    left: tuple[int, ...] = ()
    """Lines of channel 0 whose writes are in the buffer when it begins."""


class Cycles(NamedTuple):
    """What a stage takes."""

    pim_busy: float
    """Mean over all channels: from the first PIM command to the last, without the softmax between scores and values."""
    attention: int
    npu: int
    left: tuple[int, ...] = ()
    """Lines of channel 0 whose writes are in the buffer when it ends; not followed where the NPU waits."""

    @property
    def stage(self) -> int:
        """Both ends have to be reached."""
        return max(self.attention, self.npu)


def stored_bytes(requests: int, heads: int, tokens: int, part: PimPart) -> int:
    """That attention moves the NPU's address counter on: scores, and results where they are added over chunks of tokens."""
    return ELEMENT_BYTES * requests * heads * (tokens + _additions(tokens, part) * HEAD_DIM)


def cycles(stage: Stage, part: PimPart) -> Cycles:
    """The stage; beside NPU operators in the channel with most requests, and PIM-busy cycles of those with one fewer beside it.

    ValueError for an issue width beside NPU operators.
    """
    if not stage.operators:
        return _alone(stage, part) if stage.requests else Cycles(0, 0, 0)
    if stage.requests and stage.issue_width is not None:
        raise ValueError(f"issue width is {stage.issue_width} in a stage with NPU operators; want None beside them")
    most = math.ceil(stage.requests / CHANNELS)
    found = _channel(stage, part, most)
    fuller = stage.requests - (most - 1) * CHANNELS if most else 0
    busy = fuller * found.pim_busy
    if most > 1 and fuller < CHANNELS:
        busy += (CHANNELS - fuller) * _channel(stage, part, most - 1).pim_busy
    return found._replace(pim_busy=busy / CHANNELS)


def _alone(stage: Stage, part: PimPart) -> Cycles:
    """Attention with nothing beside it: every channel by itself, from when the core's commands come.

    What it stores is not put into the channels: their writes would come from each other's results.
    """
    op = Attention(stage.tokens, stage.heads, HEAD_DIM)
    each = _each(stage)
    states = [_state(stage, part) for _ in each]
    keys, values = score_blocks(part, op, first_row=FIRST_ROW), value_blocks(part, op, first_row=FIRST_ROW)
    scored, busy = _phase(stage, part, keys, each, states, stage.start + REQUEST_CYCLES)
    release = int(_softmax(stage, part, scored)[-1]) + STORE_CYCLES + REQUEST_CYCLES
    ends, more_busy = _phase(stage, part, values, each, states, release)
    return Cycles((busy + more_busy) / CHANNELS, _last_results(stage, part, ends), 0)


def _each(stage: Stage) -> list[int]:
    """Requests of every channel."""
    return [max(0, -(-(stage.requests - channel) // CHANNELS)) for channel in range(CHANNELS)]


def _phase(stage: Stage, part: PimPart, blocks: list[Block], each: list[int], states: list[State], start: int) -> tuple[list[int], int]:
    """Last tick of every request, channel by channel, and the sum over the channels of ticks with a command waiting or running.

    A channel's commands come at least as fast as they are issued there, so that it waits for none between its first and its last.
    """
    streams = {count: stream(count * blocks) for count in set(each)}
    ends, busy = [], 0
    sent = sent_streams(part, [streams[count] for count in each], start=start, width=stage.issue_width)
    for one, state in zip(sent, states, strict=True):
        if len(one.lines):
            times = run(part, one, state, record=False).times
            ends += times[len(blocks) - 1 :: len(blocks), 1].tolist()
            busy += ends[-1] + 1 - int(one.needs[0, RELEASE])
    return ends, busy


def _in_order(ready: Sequence[int], count: int) -> Int64s:
    """Cycles at which operations are begun, one a cycle and in order: `count` for each request, when it is ready."""
    turns = np.arange(len(ready) * count)
    return np.maximum.accumulate(np.repeat(np.array(ready, np.int64), count) - turns) + turns


def _softmax(stage: Stage, part: PimPart, scored: Sequence[int]) -> Int64s:
    """Cycles at which the heads' softmax is stored, from the last tick of the scores of each request."""
    return _in_order(scored, stage.heads) + part.read_latency + RETURN_CYCLES + softmax_cycles(stage.tokens)


def _sums(stage: Stage, part: PimPart, ends: Sequence[int]) -> Int64s:
    """Cycles at which sums of results are stored, if there are any, from the last tick of the values of each request."""
    return _in_order(ends, stage.heads * _additions(stage.tokens, part)) + part.read_latency + RETURN_CYCLES + ADDITION_CYCLES


def _last_results(stage: Stage, part: PimPart, ends: Sequence[int]) -> int:
    """Cycles of the stage until all results are there, and stored if they are summed up."""
    sums = _sums(stage, part, ends)
    end = int(sums[-1]) + STORE_CYCLES if sums.size else max(ends) + part.read_latency + RETURN_CYCLES
    return end + STAGE_CYCLES - stage.start


def _channel(stage: Stage, part: PimPart, each: int) -> Cycles:
    """A channel with `each` requests. When values and operators begin and what is stored follows from what comes before in the stage.

    Nothing depends on what comes after it. So the operators are taken in one by one, each with the ticks of those before it, and
    repeating with the ticks of the last time ends after at most as many times as there are events.
    """
    op = Attention(stage.tokens, stage.heads, HEAD_DIM)
    keys, values = (each * blocks(part, op, first_row=FIRST_ROW) for blocks in (score_blocks, value_blocks))
    attention = stream(keys + values, release=stage.start + REQUEST_CYCLES)
    begun, stores, width = [Begun(stage.start, np.zeros(0, np.int64))], list[Access](), stage.heads * HEAD_DIM
    asked, arrival, release = requests([], 0, width), np.zeros(0, np.int64), 0
    while True:
        follow, comes = _arrivals(requests(accesses(stage.operators, begun) + stores, stage.position_bytes, width), begun, stage)
        settled = np.array_equal(follow.line, asked.line) and np.array_equal(comes, arrival)
        if settled and (not each or release == attention.needs[-1, RELEASE]):
            break
        asked, arrival, attention.needs[len(keys) :, RELEASE] = follow, comes, release
        done = contend(part, attention, _table(asked, arrival, part), policy="pim-first", service="in-turn", state=_state(stage, part))
        begun, npu = _begun(stage, asked, arrival + done.latency_ticks + RETURN_CYCLES)
        if each:
            scored, ends = (_ends(stage, times, each) for times in (done.times[: len(keys)], done.times[len(keys) :]))
            softmax = _softmax(stage, part, scored)
            release = int(softmax[-1]) + STORE_CYCLES + REQUEST_CYCLES
            stores = [Access(cycle, True, stage.tokens) for cycle in softmax.tolist()]
            stores += [Access(cycle, True, HEAD_DIM) for cycle in _sums(stage, part, ends).tolist()]
    found = Cycles(0, 0, npu)
    if each:
        pause = release - 1 - int(done.times[len(keys) - 1, 1])
        found = Cycles(done.pim_end + 1 - stage.start - REQUEST_CYCLES - pause, _last_results(stage, part, ends), npu)
    return found._replace(left=_left(stage, part, attention, asked, arrival, stage.start + found.stage))


def _ends(stage: Stage, times: Int64s, each: int) -> list[int]:
    """Last tick of every request of all channels, as they are in this one, which has `each`."""
    ends = times[len(times) // each - 1 :: len(times) // each, 1].tolist()
    return [end for count in _each(stage) for end in ends[:count]]


def _left(stage: Stage, part: PimPart, attention: Stream, asked: Requests, arrival: Int64s, end: int) -> tuple[int, ...]:
    """Lines whose writes are not yet served when the next stage begins with a read."""
    end = max(end, int(arrival[-1]))
    table = {name: np.append(column, 0) for name, column in _table(asked, arrival, part).items()} | {"arrival": np.append(arrival, end)}
    done = contend(part, attention, table, policy="pim-first", service="in-turn", state=_state(stage, part))
    late = (asked.write == 1) & (arrival + done.latency_ticks[:-1] >= end)
    return tuple(asked.line[late].tolist())


def _table(asked: Requests, arrival: Int64s, part: PimPart) -> dict[str, Int64s]:
    bank, inner = asked.line // ROW_LINES % BANKS, part.group_banks
    return {"rw": asked.write, "ra": bank // (inner * part.groups), "bg": bank // inner % part.groups, "ba": bank % inner,
            "ro": asked.line // (ROW_LINES * BANKS), "arrival": arrival}  # fmt: skip


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
    return begun, at + STAGE_CYCLES - stage.start


def _arrivals(asked: Requests, begun: list[Begun], stage: Stage) -> tuple[Requests, Int64s]:
    """The requests in the order in which they come, after those left before, and when they come.

    One read a cycle passes into the queues, and writes come after their operator's reads.
    """
    arrival = asked.cycle + REQUEST_CYCLES
    for i, (start, stored) in enumerate(begun):
        mine = np.flatnonzero(asked.operator == i)
        read, write = mine[asked.write[mine] == 0], mine[asked.write[mine] == 1]
        arrival[read] = start + REQUEST_CYCLES + np.arange(read.size)
        after = start + REQUEST_CYCLES + read.size
        arrival[write] = np.maximum(arrival[write], after) if stored.size else after
    order = np.argsort(arrival, kind="stable")
    left = np.array(stage.left, np.int64)
    old = Requests(np.ones_like(left), left, np.full_like(left, -1), np.zeros_like(left), np.full_like(left, stage.start))
    follow = Requests(*(np.concatenate([before, column[order]]) for before, column in zip(old, asked, strict=True)))
    return follow, np.concatenate([old.cycle, arrival[order]])


def _state(stage: Stage, part: PimPart) -> State:
    """The linear layers before it leave every bank open, but for the rank refreshed last."""
    state = new_state(part, start=stage.start)
    if stage.start:
        refreshed = int(state.clock[NEXT_RANK] + part.ranks - 1) % part.ranks
        state.rows[0] = NPU_ROW
        state.rows[0, refreshed * part.banks // part.ranks :][: part.banks // part.ranks] = -1
    return state
