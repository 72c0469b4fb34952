"""What a recording holds before it is folded: operators on tensors of known shape, in the order in which they ran."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Tensor(NamedTuple):
    """A tensor as an operator sees it."""

    id: int
    """Views of all its elements share it; a part of a tensor has one of its own."""
    source: int
    """Number of the node that wrote it; -1 for what the model was given."""
    shape: tuple[int, ...]
    dtype: str
    static: bool
    """A weight, or computed from nothing but weights and constants: known before the run."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """Elements over the last dimension."""
        return math.prod(self.shape[:-1])

    @property
    def width(self) -> int:
        return self.shape[-1] if self.shape else 1


@dataclass(frozen=True)
class Node:
    """One operator. `work` is its class: product, conv, embedding, attention, append, mixer, fft, vector or move; `op` is the
    framework's name of it."""

    work: str
    op: str
    path: str
    """The module in which it ran; an activation without weights counts as its parent's."""
    module: str
    """Class of that module."""
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    numbers: tuple[int, ...]
    """Its place in the recording; several where products were joined."""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def live(self) -> tuple[Tensor, ...]:
        """What it reads that is not known before the run."""
        return tuple(t for t in self.reads if not t.static)


class Graph(NamedTuple):
    """Everything recorded of one pass through a model."""

    nodes: list[Node]
    results: frozenset[int]
    """Numbers of the nodes whose tensors the model gives back."""


DTYPES = {
    "float64": "fp32", "float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8",
    "int8": "int8", "uint8": "int8", "int16": "int16", "complex64": "fp32", "complex128": "fp32",
}
"""Number types of frameworks by ours. There is no 64-bit type here: double precision counts as fp32, complex numbers as their parts."""
BOOKKEEPING = ("int64", "int32", "bool")
"""Types of indices and masks, whose arithmetic is not counted."""
