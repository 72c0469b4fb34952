"""Stage barriers: the stage table of NeuPIMs, and the sums that follow from it."""

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim import mapping
from gemvane.sim.simulate import Phase
from gemvane.sim.stages import stages, with_barriers
from gemvane.workloads import catalog, lower
from gemvane.workloads.ops import CODE
from gemvane.workloads.scenario import Scenario

MANY = {"batch": 64, "prompt": 300, "output": 1, "phase": "decode"}


def decode(layers: int, sub_batches: int, **changes: Any) -> Phase:
    hardware = gv.hardware("neupims").replace({"schedule.barriers": "stage", "schedule.sub_batches": sub_batches, **changes})
    spec = catalog.load("gpt3-7b")
    phase = gv.run(replace(spec, layers=spec.layers[:layers]), hardware, **MANY).run.decode
    assert phase is not None
    return phase


def spans_ps(phase: Phase) -> list[int]:
    """Length of each stage: from the end of the one before to the end of its last operator."""
    stage, end = stages(phase.trace), phase.timeline.end_ps
    ends = [int(end[stage == s].max()) for s in range(int(stage.max()) + 1)]
    return np.diff([0, *ends]).tolist()


def test_two_sub_batches_go_through_the_stages_a_to_f() -> None:
    spec = catalog.load("gpt3-7b")
    trace = lower.decode_step(replace(spec, layers=spec.layers[:2]), Scenario(batch=4), sub_batches=2)
    trace = mapping.split_attention(trace)
    stage, rows = stages(trace), trace.rows
    names = np.array(trace.names)[rows.name]
    where = {(n, int(layer), int(part)): int(s) for n, layer, part, s in zip(names, rows.layer, rows.sub_batch, stage, strict=True)}
    a, b, c, d, e, f = range(6)
    for part, qkv, attention, after in ((0, a, b, c), (1, b, c, d)):
        assert where["qkv_proj", 0, part] == qkv
        assert {where[f"attention_{name}", 0, part] for name in ("score", "softmax", "value")} == {attention}
        assert {where[name, 0, part] for name in ("o_proj", "up", "down")} == {where["qkv_proj", 1, part]} == {after}
    assert (where["attention_value", 1, 0], where["attention_value", 1, 1]) == (d, e)
    assert (where["down", 1, 0], where["lm_head", 2, 0]) == (e, e)
    assert (where["down", 1, 1], where["lm_head", 2, 1]) == (f, f)


@pytest.mark.parametrize("contention", ["none", "pim-first"])
def test_n_layers_take_a_b_then_c_and_d_again_and_again_then_e_f(contention: str) -> None:
    a, b, c, d, e, f = spans_ps(decode(2, 2, **{"schedule.contention": contention}))
    layers = 7
    longer = decode(layers, 2, **{"schedule.contention": contention})
    assert longer.latency_ps == a + b + (layers - 1) * (c + d) + e + f
    assert spans_ps(longer) == [a, b, *[c, d] * (layers - 1), e, f]


def test_a_single_batch_takes_every_layer_in_turn() -> None:
    a, b, c, d, e = spans_ps(decode(2, 1))
    assert (d, decode(5, 1).latency_ps) == (b, a + b + 4 * (c + d) + e)


@pytest.mark.parametrize("sub_batches", [1, 2, 3, 4])
def test_no_unit_works_for_two_stages_at_once(sub_batches: int) -> None:
    phase = decode(3, sub_batches)
    stage, t = stages(phase.trace), phase.timeline
    for s in range(int(stage.max())):
        assert t.end_ps[stage == s].max() <= t.start_ps[stage == s + 1].min()
    attends = np.isin(phase.trace.rows.kind, [CODE["attention_score"], CODE["attention_value"]])
    both = [s for s in range(int(stage.max())) if attends[stage == s].any() and (phase.trace.rows.work[stage == s] == 0).any()]
    assert bool(both) == (sub_batches > 1)


def test_a_stage_takes_at_least_what_each_sub_batch_does_in_it() -> None:
    phase = decode(4, 2, **{"schedule.contention": "none"})
    stage, part, alone = stages(phase.trace), phase.trace.rows.sub_batch, phase.alone_ps
    for s, span in enumerate(spans_ps(phase)):
        chains = [int(alone[(stage == s) & (part == p)].sum()) for p in range(2)]
        assert span >= max(chains)
        assert span <= sum(chains)


def test_barriers_only_take_time_away() -> None:
    base = gv.hardware("neupims")
    for sub_batches in (1, 2, 4):
        free, met = (gv.run("gpt3-7b", base.replace({"schedule.sub_batches": sub_batches, "schedule.barriers": b}), **MANY)
                     for b in ("none", "stage"))
        assert met.tpot_s is not None
        assert free.tpot_s is not None
        assert met.tpot_s >= free.tpot_s * (1 if sub_batches == 1 else 1 + 1e-3)


def test_steps_meet_too_and_a_prefill_has_no_stages() -> None:
    hardware = gv.hardware("neupims").replace({"schedule.barriers": "stage", "schedule.sub_batches": 2})
    one, three = (gv.run("gpt3-7b", hardware, **{**MANY, "output": n}).run.decode for n in (1, 3))
    assert one is not None
    assert three is not None
    starts, ends = (column.reshape(3, -1) for column in (three.timeline.start_ps, three.timeline.end_ps))
    assert (starts[1:].min(axis=1) == ends[:-1].max(axis=1)).all()
    prefill = lower.prefill(catalog.load("gpt3-7b"), Scenario(batch=2), sub_batches=2)
    assert with_barriers(prefill).preds_idx.size == prefill.preds_idx.size + 1


def test_devices_of_a_pipeline_have_barriers_of_their_own_for_the_sub_batches_that_go_through_it_together() -> None:
    hardware = gv.hardware("neupims").replace({"schedule.barriers": "stage", "schedule.sub_batches": 2})
    phase = gv.run("gpt3-7b", hardware, pp=2, **MANY).run.decode
    assert phase is not None
    assert phase.sub_batches == 4
    stage, device, t = stages(phase.trace), phase.trace.rows.stage, phase.timeline
    flight = phase.trace.rows.sub_batch // 2
    for one, group in product(range(2), range(2)):
        here = (device == one) & (flight == group)
        for s, after in pairwise(np.unique(stage[here]).tolist()):
            assert t.end_ps[(stage == s) & here].max() <= t.start_ps[(stage == after) & here].min()


def test_sub_batches_go_through_a_pipeline_one_group_behind_the_other() -> None:
    phase = gv.run("gpt3-7b", "npu-hbm2", pp=4, **{**MANY, "output": 5}).run.decode
    assert phase is not None
    rows, t = phase.trace.rows, phase.timeline
    starts, ends = (column.reshape(5, -1) for column in (t.start_ps, t.end_ps))
    for device in range(4):
        turns = [(starts[step][here].min(), ends[step][here].max()) for step in range(5) for group in range(4)
                 for here in [(rows.stage == device) & (rows.sub_batch == group)]]
        assert all(left <= entered for (_, left), (entered, _) in pairwise(turns))
    busy = np.array([(ends - starts)[:, (rows.stage == device) & (phase.unit == 0)].sum() for device in range(4)])
    # The head makes the last device's turn longer, and the others wait for it; none waits for a whole turn of another's.
    assert busy[-1] > 0.8 * (ends.max() - starts.min())
