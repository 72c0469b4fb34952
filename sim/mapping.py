"""Which unit runs which operator, and what an operator becomes there."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from gemvane.workloads.ops import CODE, FORMS, KIND_FORM, SHAPE, WORK, Int64s, derive
from gemvane.workloads.trace import Trace

from .devices.pim_channel import key_of, softmax_outside
from .hardware import Hardware
from .pimschema import Pim
from .schema import WORK_OF

PIM_PARTS = (("attention_score", "score"), ("softmax", "softmax"), ("attention_value", "value"))
"""Attention over the cache as PIM runs it: q . K in memory, softmax on the vector unit, p . V in memory."""

OPERATORS = {
    "projection": ("qkv_proj", "q_proj", "q_down", "q_up", "kv_down", "kv_up", "q_absorb", "v_absorb", "o_proj"),
    "ffn": ("gate_up", "up", "down", "router", "experts_gate_up", "experts_up", "experts_down", "shared_gate", "shared_gate_up",
            "shared_up", "shared_down"),
    "lm_head": ("lm_head",),
    **{kind: (f"attention_{suffix}",) for kind, suffix in PIM_PARTS},
}
"""Operator class -> names of its operators (workloads/layers.py)."""
OF_ATTENTION = tuple(kind for kind, _ in PIM_PARTS)
CLASSES = (*WORK, *OPERATORS)
MOST_PLACEMENTS = 64
"""Ways of placing classes on units that are tried."""

Placement = Mapping[str, str]
"""Class of work or of operators -> unit."""


def choices(hardware: Hardware) -> dict[str, list[str]]:
    """Class of work or of operators -> the units that may run it."""
    return {str(work): hardware.spec.units_for(work) for work in hardware.spec.mapping}


def classes(trace: Trace, hardware: Hardware) -> Int64s:
    """Index into CLASSES of each row: its operator class where the hardware's mapping names that, else its class of work."""
    out = trace.rows.work.copy()
    for name in set(OPERATORS) & set(choices(hardware)):
        codes = [code for code, known in enumerate(trace.names) if known in OPERATORS[name]]
        out[np.isin(trace.rows.name, codes) & (trace.rows.work == WORK.index(WORK_OF[name]))] = CLASSES.index(name)
    return out


def placements(hardware: Hardware, trace: Trace) -> list[Placement]:
    """Every way of picking one unit for each class of the trace, the hardware's first choices first. ValueError for too many."""
    known = choices(hardware)
    present = {CLASSES[code] for code in np.unique(classes(trace, hardware)).tolist()}
    if "attention_decode" in present:
        present |= set(OF_ATTENTION)
        if {"attention_score", "attention_value"} <= set(known):
            present.remove("attention_decode")
    open_to = {work: units if work in present else units[:1] for work, units in known.items()}
    count = int(np.prod([len(units) for units in open_to.values()]))
    if count > MOST_PLACEMENTS:
        raise ValueError(f"{hardware.name}: mapping leaves {count} ways of placing operators on units open. Expected at most "
                         f"{MOST_PLACEMENTS}: name a unit for some classes.")
    return [dict(zip(open_to, picked, strict=True)) for picked in product(*open_to.values())]


def lower_to(trace: Trace, hardware: Hardware, placement: Placement) -> Trace:
    """The trace in the operators that this hardware runs. ValueError where PIM that runs attention as a whole is to run a part of it."""
    in_parts = [name for name in ("attention_score", "attention_value") if name in placement]
    pim = pim_of_cache(hardware, placement)
    if pim is not None and not softmax_outside(key_of(pim)) and in_parts:
        raise ValueError(f"{hardware.name}: mapping.{in_parts[0]} names a part of attention, which the PIM of {pim.part} runs as a whole. "
                         "Expected attention_decode alone.")
    return split_attention(trace) if in_parts or (pim is not None and softmax_outside(key_of(pim))) else trace


def _unit_of(work: str, placement: Placement) -> str:
    """The unit of a class of operators: its own, or that of its class of work."""
    return placement.get(work, placement.get(WORK_OF.get(work, work), ""))


def pim_of_cache(hardware: Hardware, placement: Placement) -> Pim | None:
    """The PIM unit in whose memory the cache lies, because it reads keys or values; None where attention runs elsewhere."""
    units = [hardware.spec.units.get(_unit_of(work, placement)) for work in ("attention_score", "attention_value")]
    return next((unit for unit in units if isinstance(unit, Pim)), None)


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
            shape["m"][here] = shape["heads_q"][here] * shape["q_len"][here]
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
    known = hardware.spec.units_for(work)
    if not known:
        raise ValueError(f"{hardware.name}: mapping has no unit for {work} operators. Name one of {', '.join(hardware.spec.units)}.")
    return known


def assign(trace: Trace, hardware: Hardware, placement: Placement) -> Int64s:
    """Index of the unit (in the hardware's order) of each row; appends to a cache in PIM memory are the PIM's.

    ValueError where no unit takes a class of work.
    """
    names = list(hardware.spec.units)
    of_row = classes(trace, hardware)
    unit_of = np.full(len(CLASSES), -1, np.int64)
    for code in np.unique(of_row).tolist():
        units_for(CLASSES[code], hardware)
        unit_of[code] = names.index(placement[CLASSES[code]])
    units, unit = list(hardware.spec.units.values()), unit_of[of_row]
    scan = KIND_FORM[trace.rows.kind] == FORMS.index("scan")
    if scan.any():
        # PIM has no way to run a chunked scan: the vector unit does.
        unit = np.where(scan & np.array([isinstance(u, Pim) for u in units])[unit], names.index(placement["vector"]), unit)
    pim = pim_of_cache(hardware, placement)
    if pim is None:
        return unit
    return np.where(trace.rows.kind == CODE["kv_append"], units.index(pim), unit)
