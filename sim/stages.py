"""NeuPIMs' stages: sub-batches take turns on the arrays and in PIM, and all units of a device meet at the end of every stage.

NeuPIMs (ASPLOS'24), with the stage names of its simulator, two sub-batches and layers 0, 1, ...:

    A   arrays: sub-batch 1 up to its first attention
    B   arrays: sub-batch 2 up to its first attention      PIM: attention of 1
    C   arrays: 1 from this attention to the next          PIM: attention of 2
    D   arrays: 2 from this attention to the next          PIM: attention of 1, next layer
    E   arrays: 1 from the last attention on               PIM: attention of 2
    F   arrays: 2 from the last attention on

n layers take A + B + (n - 1)(C + D) + E + F; a single batch takes A + B + E a layer, one after the other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gemvane.workloads.lower import flights
from gemvane.workloads.ops import CODE, Int64s
from gemvane.workloads.trace import Trace

ATTENTION = [CODE[kind] for kind in ("attention_decode", "attention_score", "softmax", "attention_value")]


def stages(trace: Trace) -> Int64s:
    """Number of each row's stage in its step: part j of sub-batch i is stage j x n + i of the n sub-batches that go through the pipeline
    together, its attention the next one."""
    rows = trace.rows
    out = np.zeros(rows.size, np.int64)
    for group in _flights(trace):
        for i, sub_batch in enumerate(group):
            index = np.flatnonzero(rows.sub_batch == sub_batch)
            attends = np.isin(rows.kind[index], ATTENTION)
            begun = np.cumsum(attends & ~np.append(False, attends[:-1]))
            out[index] = np.where(attends, begun - 1, begun) * max(2, len(group)) + i + attends
    return out


def _flights(trace: Trace) -> list[range]:
    return flights(int(trace.rows.sub_batch.max(initial=0)) + 1, int(trace.rows.stage.max(initial=0)) + 1)


def with_barriers(trace: Trace) -> Trace:
    """The trace in which the rows of each stage also wait for all of the stage before on their device of the pipeline, of the sub-batches
    that go through it together."""
    step = stages(trace)
    flight = np.array([number for number, group in enumerate(_flights(trace)) for _ in group])[trace.rows.sub_batch]
    number, group = np.unique(np.stack([trace.rows.stage, flight, step]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    waiting = np.repeat(np.arange(trace.size), np.diff(trace.preds_ptr))
    inside = group[waiting] == group[trace.preds_idx]
    first, last = np.ones(trace.size, np.bool_), np.ones(trace.size, np.bool_)
    first[waiting[inside]], last[trace.preds_idx[inside]] = False, False
    after, before = [waiting], [trace.preds_idx]
    for g in np.flatnonzero((number[:2, 1:] == number[:2, :-1]).all(axis=0)):
        ends, begins = np.flatnonzero((group == g) & last), np.flatnonzero((group == g + 1) & first)
        after.append(np.repeat(begins, ends.size))
        before.append(np.tile(ends, begins.size))
    edges = np.unique(np.stack([np.concatenate(after), np.concatenate(before)]), axis=1)
    ptr = np.concatenate([[0], np.cumsum(np.bincount(edges[0], minlength=trace.size))])
    return replace(trace, preds_ptr=ptr, preds_idx=edges[1])
