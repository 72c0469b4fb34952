"""Operators that only move and change elements, on a GPU: bytes out of L2 or memory, vector operations, the end of a kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..costs import Floats
from .gpu_machine import Parts, ResolvedGpu

FMA_OPS = 2
"""A data sheet's vector peak counts a fused multiply-add as two operations; what such operators do is seldom fused."""


def vector(bytes_: Floats, vector_ops: Floats, gpu: ResolvedGpu, extra_us: Floats, traffic: Floats, cold: NDArray[np.bool_]) -> Parts:
    """time = fixed + (operations and bytes overlapped). `traffic`: how often the bytes move; `cold`: where no operand can be in L2."""
    stays = np.where(cold, 0.0, gpu.resident(bytes_))
    passes = np.maximum(traffic, gpu.read_bytes_per_us / gpu.memory_bytes_per_us)
    memory = bytes_ * passes * ((1 - stays) / gpu.read_bytes_per_us + stays / gpu.l2_bytes_per_us)
    compute = vector_ops / (gpu.vector_ops_per_us / FMA_OPS)
    fixed = gpu.floor_us + extra_us
    return Parts(fixed, compute, memory, gpu.overlapped(compute, memory, gpu.physics.overlap), bytes_ * (1 - stays), np.zeros(bytes_.size))
