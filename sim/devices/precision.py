"""Which operand type a unit really computes in, when it lacks the one that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

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
    """Multiply-adds a clock by asked-for type, and the type that is used for it (-1: none); both indexed by DTYPES."""

    macs_per_cycle: Floats
    used: Int64s


def rates(macs_per_cycle: Mapping[Any, float]) -> Rates:
    """Rates of a unit with the gaps filled by FALLBACK."""
    rate, used = np.full(len(DTYPES), np.nan), np.full(len(DTYPES), -1, np.int64)
    for i, dtype in enumerate(DTYPES):
        chosen = next((d for d in (dtype, *FALLBACK[dtype]) if d in macs_per_cycle), None)
        if chosen is not None:
            rate[i], used[i] = macs_per_cycle[chosen], DTYPES.index(chosen)
    return Rates(rate, used)


def used_for(dtype: str, rates: Rates, unit: str) -> str:
    """The type that a unit multiplies in when asked for `dtype`. ValueError where it has none that could stand in."""
    code = int(rates.used[DTYPES.index(dtype)])
    if code < 0:
        has = [d for i, d in enumerate(DTYPES) if rates.used[i] == i]
        raise ValueError(f"{unit} cannot multiply in {dtype}. Expected one of {', '.join(has)}.")
    return DTYPES[code]
