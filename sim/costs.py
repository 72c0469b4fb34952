"""Costs of operators: cycles by cause, what binds each, and integer counts of everything that uses energy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemvane.workloads.ops import ARITHMETIC, DTYPES, KIND_ARITHMETIC, Rows

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]
Index = NDArray[np.bool_] | Int64s | slice

CAUSES = ("ideal", "edge", "fill", "preload", "drain", "vector", "memory", "row", "precharge", "vector_load",
          "command", "refresh", "imbalance", "link", "launch")
"""Where an operator's cycles go. ideal: useful work at peak; edge: tiles and waves that are not full, rates under peak;
fill: pipelines before their first result, first operands on their way; preload: an array waiting for its next stationary tile;
drain: last sums leaving an array; vector: waiting for the vector unit beside; memory: waiting for main memory beyond the compute;
row: opening DRAM rows for PIM; precharge: closing them; vector_load: vectors on their way into PIM's buffers; command: slots of the
command bus for headers and changes of mode; refresh: DRAM refresh and the wait for it; imbalance: channels that wait for the fullest;
link: other devices; launch: fixed cost of starting the operator. Of PIM each but imbalance is the mean over the channels."""

BOUNDS = ("compute", "memory", "vector", "pim", "link", "launch")

CHOICES = ("", "ws", "os", "is", "ring", "tree", "torus")
"""What a model picked for an operator where the hardware leaves it a choice: an array's dataflow, a collective's algorithm."""

ACTIONS = (
    *(f"mac_{dtype}" for dtype in DTYPES), "vector_op", "sram_bytes", "l2_bytes", "dram_activate_bytes", "dram_array_bytes",
    "dram_move_bytes", "dram_tsv_bytes", "dram_io_bytes", "pim_mac", "pim_buffer_bytes", "link_bytes", "mac_add", "mac_shift",
)
ACTION = {name: i for i, name in enumerate(ACTIONS)}
EXTERNAL_DRAM = tuple(ACTION[f"dram_{part}_bytes"] for part in ("activate", "array", "move", "tsv", "io"))
"""A byte that leaves the DRAM pays every part of the way; PIM data stays in the array."""


class Costs(NamedTuple):
    """One row an operator: `cycles` [n, cause] of the unit's clock, `actions` [n, action], `bound` and `choice` (indices)."""

    cycles: Int64s
    actions: Int64s
    bound: Int64s
    """Index into BOUNDS."""
    choice: Int64s
    """Index into CHOICES."""

    @property
    def total_cycles(self) -> Int64s:
        total: Int64s = self.cycles.sum(axis=1)
        return total


def by_arithmetic(costs: Costs, rows: Rows) -> Costs:
    """The costs with the multiply-adds of operators that only add, or shift and add, counted as what they are."""
    plain = KIND_ARITHMETIC[rows.kind]
    if not plain.any():
        return costs
    actions = costs.actions.copy()
    for code, name in enumerate(ARITHMETIC[1:], 1):
        where = np.flatnonzero(plain == code)
        actions[where, ACTION[f"mac_{name}"]] = actions[where, : len(DTYPES)].sum(axis=1)
        actions[where, : len(DTYPES)] = 0
    return costs._replace(actions=actions)


class Ledger:
    """Costs being written by a device model."""

    def __init__(self, size: int) -> None:
        self.cycles = np.zeros((size, len(CAUSES)), np.int64)
        self.actions = np.zeros((size, len(ACTIONS)), np.int64)
        self.bound, self.choice = np.zeros(size, np.int64), np.zeros(size, np.int64)

    def spend(self, cause: str, cycles: Floats | Int64s, where: Index = slice(None)) -> None:
        """Add cycles (rounded up) to a cause."""
        self.cycles[where, CAUSES.index(cause)] += np.ceil(np.maximum(cycles, 0)).astype(np.int64)

    def spend_all(self, parts: dict[str, Floats]) -> None:
        """Add the cycles of several causes, rounded so that their sum is the sum rounded up once."""
        whole = np.ceil(np.cumsum(np.maximum(list(parts.values()), 0), axis=0)).astype(np.int64)
        for cause, cycles in zip(parts, np.diff(whole, axis=0, prepend=0), strict=True):
            self.cycles[:, CAUSES.index(cause)] += cycles

    def count(self, action: str, amount: Int64s, where: Index = slice(None)) -> None:
        self.actions[where, ACTION[action]] += amount

    def count_dram(self, size_bytes: Int64s, where: Index = slice(None)) -> None:
        """Bytes between DRAM and the chip."""
        for action in EXTERNAL_DRAM:
            self.actions[where, action] += size_bytes

    def count_macs(self, macs: Int64s, dtype: Int64s) -> None:
        """Multiply-adds by the operand type that the hardware really uses (index into DTYPES)."""
        self.actions[np.arange(macs.size), dtype] += macs

    def chose(self, names: tuple[str, ...], which: Int64s, where: Index = slice(None)) -> None:
        """What was picked for each row: `names` by index `which`."""
        self.choice[where] = np.array([CHOICES.index(name) for name in names], np.int64)[which]

    def bind(self, candidates: dict[str, Floats | Int64s]) -> None:
        """The bound of each row is the largest of its candidates; the first named wins a tie."""
        codes = np.array([BOUNDS.index(name) for name in candidates], np.int64)
        self.bound[:] = codes[np.argmax(np.stack([np.asarray(c, np.float64) for c in candidates.values()]), axis=0)]

    def costs(self) -> Costs:
        return Costs(self.cycles, self.actions, self.bound, self.choice)
