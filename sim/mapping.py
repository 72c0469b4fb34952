"""Which unit runs which operator, and what an operator becomes there."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from gemvane.workloads.ops import CODE, SHAPE, WORK, Int64s, derive
from gemvane.workloads.trace import Trace

from .devices.pim_channel import key_of, softmax_outside
from .hardware import Hardware
from .schema import Pim

PIM_PARTS = (("attention_score", "score"), ("softmax", "softmax"), ("attention_value", "value"))
"""Attention over the cache as PIM runs it: q . K in memory, softmax on the vector unit, p . V in memory."""


Placement = Mapping[str, str]
"""Class of work -> unit."""


def choices(hardware: Hardware) -> dict[str, list[str]]:
    """Class of work -> the units that may run it."""
    return {str(work): [units] if isinstance(units, str) else list(dict.fromkeys(units)) for work, units in hardware.spec.mapping.items()}


def placements(hardware: Hardware, trace: Trace) -> list[Placement]:
    """Every way of picking one unit for each class of work of the trace, the hardware's first choices first."""
    of_trace = {WORK[code] for code in np.unique(trace.rows.work).tolist()}
    open_to = {work: units if work in of_trace else units[:1] for work, units in choices(hardware).items()}
    return [dict(zip(open_to, picked, strict=True)) for picked in product(*open_to.values())]


def lower_to(trace: Trace, hardware: Hardware, placement: Placement) -> Trace:
    """The trace in the operators that this hardware runs."""
    pim = _cache_in(hardware, placement)
    return split_attention(trace) if pim is not None and softmax_outside(key_of(pim)) else trace


def _cache_in(hardware: Hardware, placement: Placement) -> Pim | None:
    """The PIM unit in whose memory the cache lies; None where attention runs elsewhere."""
    unit = hardware.spec.units.get(placement.get("attention_decode", ""))
    return unit if isinstance(unit, Pim) else None


def split_attention(trace: Trace) -> Trace:
    """Each attention over the cache as three operators, one after another; what waited for it waits for the last."""
    rows = trace.rows
    split = rows.kind == CODE["attention_decode"]
    if not split.any():
        return trace
    copies = np.where(split, len(PIM_PARTS), 1)
    source = np.repeat(np.arange(rows.size), copies)
    first = np.cumsum(copies) - copies
    last = first + copies - 1
    part = np.arange(source.size) - first[source]

    names = trace.names + tuple(f"attention_{suffix}" for _, suffix in PIM_PARTS)
    shape = {c: getattr(rows, c)[source].copy() for c in SHAPE}
    for i, (kind, _) in enumerate(PIM_PARTS):
        here = split[source] & (part == i)
        shape["kind"][here] = CODE[kind]
        shape["name"][here] = len(trace.names) + i
        if kind == "softmax":
            shape["m"][here] = shape["heads_q"][here]
            shape["batch"][here] = 1
    preds_count = np.diff(trace.preds_ptr)
    counts = np.where(part == 0, preds_count[source], 1)
    ptr = np.concatenate([[0], np.cumsum(counts)])
    idx = np.empty(ptr[-1], np.int64)
    own = np.repeat(part == 0, counts)
    idx[own] = last[trace.preds_idx]
    idx[~own] = np.flatnonzero(part > 0) - 1
    return Trace(derive(shape), names, ptr, idx, trace.requests, trace.devices)


def units_for(work: str, hardware: Hardware) -> list[str]:
    """The units that may run a class of work. ValueError where the hardware names none."""
    known = choices(hardware)
    if work not in known:
        raise ValueError(f"{hardware.name}: mapping has no unit for {work} operators. Name one of {', '.join(hardware.spec.units)}.")
    return known[work]


def assign(trace: Trace, hardware: Hardware, placement: Placement) -> Int64s:
    """Index of the unit (in the hardware's order) of each row; appends to a cache in PIM memory are the PIM's.

    ValueError where no unit takes a class of work.
    """
    order = {name: i for i, name in enumerate(hardware.spec.units)}
    work = trace.rows.work
    unit_of = np.full(len(WORK), -1, np.int64)
    for code in np.unique(work).tolist():
        units_for(WORK[code], hardware)
        unit_of[code] = order[placement[WORK[code]]]
    if _cache_in(hardware, placement) is None:
        return unit_of[work]
    return np.where(trace.rows.kind == CODE["kv_append"], order[placement["attention_decode"]], unit_of[work])
