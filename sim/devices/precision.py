"""Which operand type a unit really computes in, when it lacks the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import DTYPES

from ..costs import Floats, Int64s

FALLBACK = {
    "fp32": ("tf32", "bf16"),
    "tf32": ("fp32", "bf16", "fp16"),
    "bf16": ("fp16", "tf32", "fp32", "int16"),
    "fp16": ("bf16", "tf32", "fp32", "int16"),
    "fp8": ("bf16", "fp16", "fp32", "int16"),
    "int16": ("bf16", "fp16", "fp32"),
    "int8": ("int16", "bf16", "fp16", "fp8", "fp32"),
    "int4": ("int8", "int16", "bf16", "fp16", "fp32"),
    "fp4": ("fp8", "int8", "bf16", "fp16", "int16", "fp32"),
}
"""Types that can hold each type's values closely enough to run a network in it, nearest first."""


class Rates(NamedTuple):
    """Multiply-adds a clock by asked-for type, and the type that is used for it; both indexed by DTYPES."""

    macs_per_cycle: Floats
    used: Int64s


def rates(unit: str, macs_per_cycle: Mapping[str, float]) -> Rates:
    """Rates with the gaps filled by FALLBACK. ValueError where a unit has no type at all for an asked-for one."""
    rate, used = np.zeros(len(DTYPES)), np.zeros(len(DTYPES), np.int64)
    for i, dtype in enumerate(DTYPES):
        chosen = next((d for d in (dtype, *FALLBACK[dtype]) if d in macs_per_cycle), None)
        if chosen is None:
            raise ValueError(f"units.{unit} cannot compute in {dtype}, nor in {', '.join(FALLBACK[dtype])}.")
        rate[i], used[i] = macs_per_cycle[chosen], DTYPES.index(chosen)
    return Rates(rate, used)
