"""Operators that only move and change elements, on a GPU: bytes out of L2 or memory, vector operations, the end of a kernel."""

from __future__ import annotations

import numpy as np

from ..calibration import VectorCondition
from ..costs import Floats
from .gpu_machine import Parts, ResolvedGpu

FMA_OPS = 2
"""A data sheet's vector peak counts a fused multiply-add as two operations; what such operators do is seldom fused."""


def vector(bytes_: Floats, vector_ops: Floats, gpu: ResolvedGpu, condition: VectorCondition, cold: Floats) -> Parts:
    """time = fixed + (operations and bytes overlapped). `cold`: 1 where no operand can be in L2."""
    stays = np.where(cold > 0, 0.0, gpu.resident(bytes_))
    slow = gpu.read_bytes_per_us / max(condition.traffic_factor, 1e-9)
    memory = bytes_ * ((1 - stays) / min(slow, gpu.memory_bytes_per_us) + stays / max(gpu.l2_bytes_per_us, slow))
    compute = vector_ops / (gpu.vector_ops_per_us / FMA_OPS)
    fixed = np.full(bytes_.size, gpu.floor_us + condition.extra_us)
    return Parts(fixed, compute, memory, gpu.overlapped(compute, memory, gpu.physics.overlap), bytes_ * (1 - stays), np.zeros(bytes_.size))
