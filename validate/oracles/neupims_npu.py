"""The NPU of the NeuPIMs simulator, stage by stage: what its operators load, compute and store, in which order, and when.

Facts from casys-kaist/NeuPIMs f299af3 (StageProgram.cc, NeuPIMSystolicWS.cc, NeuPIMSCore.cc, operations/, Common.cc, and
systolic_ws_128x128_dev.json). They are simplifications of that simulator and stand here alone; no device of ours has them.

Operators run one after the other. All loads of an operator are asked for at its start. Its steps are issued in program order, one a
cycle, each as soon as what it needs has been loaded; a result is stored when its step is over. The operator ends with its last step
and the last acceptance of a store by the memory. Addresses of tensors are ignored: a counter walks through a window of 5 * 2 * E^2
bytes, a line of 64 B of channel after channel, then a row of bank after bank, and goes on from operator to operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
CHANNELS, BANKS, ROW_LINES, LINE_BYTES = 32, 32, 16, 64
ELEMENT_BYTES = 2
NEVER = 2**50
WINDOW_SQUARES = 5
"""Embedding widths squared, in elements, after which the address counter starts again."""
SIDE = 128
"""Rows and columns of the systolic array, lanes of a vector unit, and sides of the blocks that a GEMM is cut into."""
BLOCK_CYCLES = SIDE // 8
"""From one block to the next with the same stationary operand: eight arrays are one that is fed eight times as fast."""
PRELOAD_CYCLES, FIRST_PRELOAD_CYCLES = SIDE, 2 * SIDE - 1
"""From the block before to the first with a new stationary operand; before it in an empty array."""
DRAIN_CYCLES = 2 * SIDE - 2 + BLOCK_CYCLES
"""From the start of a block until its results are there."""
NORM_CYCLES, VECTOR_CYCLES = 5, 1
"""Of a row in the layer norm, and in the activation function or a residual: their instructions carry an empty length, so that the width
of a row costs nothing (the length is read after the list that it counts has been given away)."""


class Step(NamedTuple):
    """An instruction of the array or of the vector units."""

    needs: tuple[int, ...]
    """Loads of its operator that it waits for."""
    stored_elements: int
    preloads: bool = False
    """It brings a new stationary operand into the array."""


class Operator(NamedTuple):
    """Loads and steps in program order."""

    loads: tuple[int, ...]
    """Elements of each."""
    steps: tuple[Step, ...]
    vector_cycles: int = 0
    """Of each step; 0: they run in the systolic array."""

    @property
    def elements(self) -> int:
        """That it loads and stores."""
        return sum(self.loads) + sum(step.stored_elements for step in self.steps)


def gemm(tokens: int, inputs: int, outputs: int) -> Operator:
    """A linear layer with bias. Activations are stationary, blocks of the weights stream past them.

    Results are stored by the place of a block in the transposed product, which is looked up in the product as it is: of every
    block of outputs only as many rows as there are tokens, of every block of tokens as many columns as there are outputs.
    """
    loads, steps = [min(SIDE, outputs)], []
    weights: dict[tuple[int, int], int] = {}
    depth = range(0, inputs, SIDE)
    for token in range(0, tokens, SIDE):
        for k in depth:
            stationary = -1
            for output in range(0, outputs, SIDE):
                if token == 0:
                    weights[k, output] = len(loads)
                    loads.append(min(SIDE, outputs - output) * min(SIDE, inputs - k))
                if output == 0:
                    stationary = len(loads)
                    loads.append(min(SIDE, inputs - k) * min(SIDE, tokens - token))
                stored = max(0, min(SIDE, tokens - output)) * max(0, min(SIDE, outputs - token)) if k == depth[-1] else 0
                steps.append(Step((weights[k, output], stationary), stored, output == 0))
    return Operator(tuple(loads), tuple(steps))


def by_rows(tokens: int, width: int, cycles: int, *, inputs: int = 1, parameters: int = 0) -> Operator:
    """A vector operator: a step for each token, with a row of each input, and the parameters for all of them."""
    steps = [(*range(parameters), *(parameters + row * inputs + i for i in range(inputs))) for row in range(tokens)]
    return Operator((width,) * (parameters + tokens * inputs), tuple(Step(needs, width) for needs in steps), cycles)


def program(stage: str, tokens: int, width: int) -> list[Operator]:
    """The NPU's operators of stage A to F of sub-batch interleaving, of a sub-batch of `tokens` (one layer of embedding `width`)."""
    add, norm = by_rows(tokens, width, VECTOR_CYCLES, inputs=2), by_rows(tokens, width, NORM_CYCLES, parameters=2)
    attended = [gemm(tokens, width, width), add, norm, gemm(tokens, width, 4 * width), by_rows(tokens, 4 * width, VECTOR_CYCLES),
                gemm(tokens, 4 * width, width), add]  # fmt: skip
    return (attended if stage in "CDEF" else []) + ([norm, gemm(tokens, width, 3 * width)] if stage in "ABCD" else [])


def softmax_cycles(tokens: int) -> int:
    """Of one head: an adder and a comparison tree and three operations on each element; the length is taken in bytes."""
    pieces = -(-tokens * ELEMENT_BYTES // SIDE)
    tree, level = pieces if pieces > 1 else 0, pieces
    while level > SIDE:
        level = -(-level // SIDE)
        tree += level
    return 2 * (tree + 1) + 3 * pieces


def step_ends(operator: Operator, loaded: Sequence[int], start: int) -> list[int]:
    """Cycle at which each step is over. `loaded`: at which each load is there; nothing is issued up to `start`."""
    ends = []
    issue, begun, ready = start, start, start
    for step in operator.steps:
        issue = max(issue + 1, *(loaded[load] for load in step.needs))
        if operator.vector_cycles:
            ready = issue + operator.vector_cycles
        else:
            empty = ready <= issue
            wait = (FIRST_PRELOAD_CYCLES if empty else PRELOAD_CYCLES) if step.preloads else (0 if empty else BLOCK_CYCLES)
            begun = (issue if empty else begun) + wait
            ready = begun + DRAIN_CYCLES
        ends.append(ready)
    return ends


class Begun(NamedTuple):
    """An operator that has begun."""

    start: int
    stored: Int64s
    """Cycle of each step's store, 0 where it has none; missing where it is not known yet."""


class Access(NamedTuple):
    """Elements that are loaded or stored at once, and so take up the next addresses."""

    cycle: int
    write: bool
    elements: int
    operator: int = -1
    """-1 for none of the NPU's."""
    of: int = 0
    """Load or step of the operator."""


def accesses(operators: Sequence[Operator], begun: Sequence[Begun]) -> list[Access]:
    """What the operators that have begun load and store; what is stored at an unknown cycle comes last."""
    found = []
    for i, (operator, (start, stored)) in enumerate(zip(operators, begun, strict=False)):
        found += [Access(start, False, elements, i, load) for load, elements in enumerate(operator.loads)]
        cycles = stored.tolist() if stored.size else [NEVER] * len(operator.steps)
        steps = zip(operator.steps, cycles, strict=True)
        found += [Access(cycle, True, step.stored_elements, i, of) for of, (step, cycle) in enumerate(steps) if step.stored_elements]
    return found


class Requests(NamedTuple):
    """Reads and writes of a stage in channel 0, in the order of the address counter."""

    write: Int64s
    line: Int64s
    """Of the channel, from 0 to the end of the window."""
    operator: Int64s
    of: Int64s
    """Load or step of the operator. Lines that two of them share are asked for once, by the first."""
    cycle: Int64s


def requests(found: Sequence[Access], position: int, width: int) -> Requests:
    """What is asked of channel 0. `position`: bytes, from 0 and without end, at which the address counter stands before.

    In a cycle the operators come before attention, and loads before stores.
    """
    rows: list[tuple[int, int, int, int, int]] = []
    last: dict[tuple[int, bool], int] = {}
    for one in sorted(found, key=lambda one: (one.cycle, one.operator < 0, one.write)):
        first, position = -(-(position // LINE_BYTES) // CHANNELS), position + ELEMENT_BYTES * one.elements
        beyond, same = position // LINE_BYTES // CHANNELS + 1, (one.operator, one.write)  # the counter goes up before it is used
        first = max(first, last.get(same, -1) + 1)
        if first < beyond:
            last[same] = beyond - 1
        rows += [(int(one.write), line, one.operator, one.of, one.cycle) for line in range(first, beyond)]
    write, line, operator, of, cycle = np.array(rows, np.int64).reshape(-1, 5).T
    return Requests(write, line % (WINDOW_SQUARES * width * width * ELEMENT_BYTES // (LINE_BYTES * CHANNELS)), operator, of, cycle)
