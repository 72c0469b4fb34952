"""Which unit runs which operator, and what an operator becomes there."""

from __future__ import annotations

import numpy as np

from gemvane.workloads.ops import CODE, SHAPE, WORK, Int64s, derive
from gemvane.workloads.trace import Trace

from .hardware import Hardware

PIM_PARTS = (("attention_score", "score"), ("softmax", "softmax"), ("attention_value", "value"))
"""Attention over the cache as PIM runs it: q . K in memory, softmax on the vector unit, p . V in memory."""


def lower_to(trace: Trace, hardware: Hardware) -> Trace:
    """The trace in the operators that this hardware runs."""
    unit = hardware.spec.mapping.get("attention_decode")
    on_pim = unit is not None and hardware.spec.units[unit].kind == "pim"
    return split_attention(trace) if on_pim else trace


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


def unit_for(work: str, hardware: Hardware) -> str:
    """The unit that runs a class of work. ValueError where the hardware names none."""
    mapping: dict[str, str] = {str(work): unit for work, unit in hardware.spec.mapping.items()}
    if work not in mapping:
        raise ValueError(f"{hardware.name}: mapping has no unit for {work} operators. Name one of {', '.join(hardware.spec.units)}.")
    return mapping[work]


def assign(trace: Trace, hardware: Hardware) -> Int64s:
    """Index of the unit (in the hardware's order) of each row. ValueError where no unit takes a class of work."""
    order = {name: i for i, name in enumerate(hardware.spec.units)}
    work = trace.rows.work
    unit_of = np.full(len(WORK), -1, np.int64)
    for code in np.unique(work).tolist():
        unit_of[code] = order[unit_for(WORK[code], hardware)]
    return unit_of[work]
