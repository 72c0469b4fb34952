"""What must hold of every machine with PIM, whatever the policies; and every system, ablation and policy on four kinds of model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim import devices
from gemvane.sim.costs import ACTION, ACTIONS, CAUSES
from gemvane.sim.policies import with_policies
from gemvane.sim.result import Result
from gemvane.sim.simulate import Phase
from gemvane.workloads.ops import CODE
from gemvane.workloads.partition import PARTITIONS

FEW = settings(max_examples=4, deadline=None)
LENGTHS = st.lists(st.integers(1, 1500), min_size=4, max_size=12)
OF_PIM = ("pim_mac", "dram_array_bytes", "pim_buffer_bytes")


def decode(hardware: str, lengths: list[int], model: str = "llama3.2-1b", output: int = 1, tp: int = 1, **wishes: object) -> Result:
    return gv.run(model, with_policies(gv.hardware(hardware), wishes), batch=len(lengths), prompt=tuple(lengths), output=output,
                  phase="decode", tp=tp)


def phase(result: Result) -> Phase:
    assert result.run.decode is not None
    return result.run.decode


def counts(result: Result, unit: str | None = None) -> dict[str, int]:
    """Actions of a step, of one unit or of all."""
    one, units = phase(result), list(result.run.hardware.spec.units)
    mine = np.ones(one.unit.size, np.bool_) if unit is None else one.unit == units.index(unit)
    return dict(zip(ACTIONS, one.actions[one.alike[mine]].sum(axis=0).tolist(), strict=True))


# No unit beats its own roofline

@FEW
@given(lengths=LENGTHS, name=st.sampled_from(["neupims", "npu-pim-blocked", "attacc", "cent", "gddr6-aim", "hbm-pim"]),
       two=st.booleans())
def test_no_operator_of_a_unit_beats_what_the_unit_can_do(lengths: list[int], name: str, two: bool) -> None:
    result = decode(name, lengths, sub_batches=2 if two else 1, tp=2)
    one, spec = phase(result), result.run.hardware.spec
    rows, machines = one.trace.rows, list(devices.resolve(spec).values())
    lasted_s = one.duration_ps[0, one.alike] / 1e12
    moved = one.actions[one.alike, ACTION["dram_io_bytes"]] / result.run.decode.steps  # type: ignore[union-attr]
    for u, unit in enumerate(spec.units.values()):
        mine = one.unit == u
        if unit.kind == "pim":
            peak = machines[u].peak_macs_per_cycle * machines[u].freq_hz
            attends = mine & (rows.kind != CODE["kv_append"])
            assert (rows.macs[attends] / peak <= lasted_s[attends] + 1e-12).all()
        elif unit.kind == "systolic":
            peak = max(unit.peak.values()) / 2
            assert (rows.macs[mine] / peak <= lasted_s[mine] + 1e-12).all()
        if unit.kind in ("systolic", "vector"):
            assert (moved[mine] / spec.memory.bandwidth <= lasted_s[mine] + 1e-12).all()
    for shares in result.shares_of_peak.values():
        assert all(0 <= share <= 1 for share in shares.values())


# A mechanism that is off lowers no count that it does not touch

@pytest.mark.parametrize(("off", "on", "touched"), [
    ({"contention": "off"}, {"contention": "pim-first"}, set()),
    ({"barriers": "off"}, {"barriers": "stage"}, set()),
    ({"pim_mode": "concurrent"}, {"pim_mode": "blocked"}, set()),
    # a vector's row is opened again after a refresh, and longer work meets more of them
    ({"power_cap": "off"}, {"power_cap": "20 W"}, {"dram_activate_bytes"}),
    ({"refresh": "in-turn"}, {"refresh": "together"}, {"dram_activate_bytes"}),
    # beside a second row buffer the vectors of a group meet an open row one after the other: fewer rows, more vectors loaded
    ({"row_buffers": "single"}, {"row_buffers": "dual"}, {"dram_activate_bytes", "dram_array_bytes", "pim_buffer_bytes"}),
    ({"channels": "round-robin"}, {"channels": "greedy"}, {"dram_activate_bytes"}),
    ({"channels": "greedy"}, {"channels": "balance"}, {"dram_activate_bytes"}),
    # weights are read, and operators started, for each sub-batch
    ({"sub_batches": 1}, {"sub_batches": 2}, {a for a in ACTIONS if a.startswith(("dram_", "sram_"))}),
])  # fmt: skip
def test_a_mechanism_that_is_off_lowers_no_count_that_it_does_not_touch(off: dict[str, object], on: dict[str, object],
                                                                       touched: set[str]) -> None:
    lengths, base = [1200, 30, 500, 77], {"sub_batches": 2}
    runs = [decode("neupims", lengths, **{**base, **wishes}) for wishes in (off, on)]  # type: ignore[arg-type]
    without, with_it = map(counts, runs)
    for action in set(ACTIONS) - touched:
        assert without[action] >= with_it[action], action
    assert len({counts(run, "pim")["pim_mac"] for run in runs}) == 1


# Work is conserved

@FEW
@given(lengths=LENGTHS, parts=st.integers(1, 4), partition=st.sampled_from(sorted(PARTITIONS)))
def test_work_is_conserved_over_sub_batches(lengths: list[int], parts: int, partition: str) -> None:
    whole = counts(decode("neupims", lengths, sub_batches=1), "pim")
    cut = counts(decode("neupims", lengths, sub_batches=parts, partition=partition), "pim")
    assert {a: whole[a] for a in OF_PIM} == {a: cut[a] for a in OF_PIM}
    of_arrays = [counts(decode("neupims", lengths, sub_batches=n))["mac_bf16"] for n in (1, parts)]
    assert of_arrays[0] == of_arrays[1]


@FEW
@given(lengths=LENGTHS, policy=st.sampled_from(["round-robin", "greedy", "neupims-alg1", "balance"]),
       whole=st.sampled_from(["request", "head"]))
def test_work_is_conserved_over_channels(lengths: list[int], policy: str, whole: str) -> None:
    one = decode("neupims", lengths, sub_batches=1, channels=policy, whole=whole)
    other = decode("neupims", lengths, sub_batches=1, channels="greedy", whole=whole)
    assert {a: counts(one, "pim")[a] for a in OF_PIM} == {a: counts(other, "pim")[a] for a in OF_PIM}
    split = decode("neupims", lengths, sub_batches=1, channels="split")
    assert counts(split, "pim")["pim_mac"] == counts(one, "pim")["pim_mac"]
    for result in (one, split):
        of_rows = phase(result).cycles[:, CAUSES.index("imbalance")]
        assert of_rows.min() >= 0


# The order of requests means nothing

@FEW
@given(lengths=LENGTHS, seed=st.integers(0, 99), wishes=st.sampled_from([
    {"sub_batches": 2}, {"sub_batches": 2, "partition": "balanced"}, {"channels": "balance"}, {"channels": "split"}, {"whole": "head"}]))
def test_requests_in_another_order_change_nothing(lengths: list[int], seed: int, wishes: dict[str, object]) -> None:
    mixed = np.random.default_rng(seed).permutation(np.array([*lengths, *lengths])).tolist()
    one, other = decode("neupims", [*lengths, *lengths], **wishes), decode("neupims", mixed, **wishes)  # type: ignore[arg-type]
    assert one.latency_ps == other.latency_ps
    assert one.energy_j == other.energy_j


# Every system runs every kind of model

MODELS = {"llama3-8b": 1, "mixtral-8x7b": 4, "gpt3-30b": 4, "deepseek-v2-lite": 2}
SYSTEMS = ("a100-80g", "npu-hbm2", "npu-pim-blocked", "npu-pim-dual", "npu-pim-single-interleaved", "neupims")
WISHES: tuple[dict[str, object], ...] = (
    {"sub_batches": 2, "partition": "halves"}, {"sub_batches": 2, "partition": "balanced"}, {"sub_batches": 2, "barriers": "stage"},
    {"sub_batches": 2, "contention": "off"}, {"pim_mode": "blocked"}, {"channels": "round-robin"}, {"channels": "balance"},
    {"channels": "split"}, {"layout": "tokens"}, {"whole": "head"}, {"refresh": "together"}, {"power_cap": "30 W"},
    {"ffn": "pim"}, {"projection": "auto"}, {"attention_score": "npu"}, {"lm_head": "pim"},
)


@pytest.mark.parametrize("model", MODELS)
def test_four_systems_and_the_ablation_run(model: str) -> None:
    tp = MODELS[model]
    found = {name: decode(name, [500, 90], model, tp=tp) for name in SYSTEMS}
    blocked, dual, single = (found[name] for name in ("npu-pim-blocked", "npu-pim-dual", "npu-pim-single-interleaved"))
    assert found["neupims"].latency_ps <= dual.latency_ps, "auto may take one sub-batch"
    assert counts(blocked, "pim")["pim_mac"] == counts(dual, "pim")["pim_mac"] == counts(single, "pim")["pim_mac"]
    assert blocked.overlap["decode"].fraction <= 1
    assert all(result.energy_j > 0 for result in found.values())


@pytest.mark.parametrize("model", MODELS)
def test_every_policy_runs(model: str) -> None:
    multiplied = {str(wishes): counts(decode("neupims", [300, 90], model, tp=MODELS[model], **{"sub_batches": 1, **wishes}))  # type: ignore[arg-type]
                  for wishes in WISHES}
    macs = {sum(found[a] for a in ACTIONS if a.startswith("mac_") or a == "pim_mac") for found in multiplied.values()}
    assert len(macs) == 1, "wherever and however, the same products"


@pytest.mark.parametrize(("kv", "wider"), [("fp8", "bf16"), ("int4", "fp8")])
def test_a_narrower_cache_opens_fewer_rows(kv: str, wider: str) -> None:
    opened = [gv.run("llama3-8b", "neupims", batch=4, prompt=700, output=1, phase="decode", kv_dtype=dtype) for dtype in (kv, wider)]
    narrow, wide = (counts(result, "pim")["dram_activate_bytes"] for result in opened)
    assert narrow < wide


def test_a_request_that_no_channel_holds_is_split_over_all() -> None:
    """Half a gigabyte a channel beside the weights; 8,000 tokens of Llama 3 8B are 1 GB."""
    with pytest.raises(ValueError, match=r"each of its 32 PIM channels only 498 MB, .* use placement: split for the PIM unit"):
        gv.run("llama3-8b", "neupims", batch=1, prompt=8000, output=2)
    split = gv.run("llama3-8b", with_policies(gv.hardware("neupims"), {"channels": "split"}), batch=1, prompt=8000, output=2)
    assert split.channels["decode"]["pim"].fullest_over_mean < 1.2


@pytest.mark.parametrize(("tp", "pp"), [(2, 1), (1, 2), (2, 2)])
def test_parallel_devices_talk_over_their_link(tp: int, pp: int) -> None:
    result = gv.run("llama3-8b", "neupims", batch=4, prompt=300, output=2, tp=tp, pp=pp)
    assert all(units["link"]["link"] > 0 for units in result.time_by_cause_s.values())
    assert all(units["link"]["link"] > 0 for units in result.energy_by_cause_j.values())
