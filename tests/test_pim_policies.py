"""Policies by name: each changes what it says and nothing else, auto takes the best, and what cannot be is refused."""

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim import contention, devices, mapping
from gemvane.sim.devices import pim_channel
from gemvane.sim.dram.pimpart import new_state, run
from gemvane.sim.dram.pimstream import Attention, score_blocks, stream
from gemvane.sim.policies import POLICIES, capped, named, parsed, with_policies
from gemvane.sim.result import Result
from gemvane.sim.simulate import Phase, run_phase, simulate
from gemvane.workloads import catalog, lower

PROMPTS = (100, 900, 300, 400, 512, 64, 700, 200)
SETTING = {"batch": 8, "prompt": PROMPTS, "output": 1, "phase": "decode"}


def decode(hardware: str, wishes: dict[str, object], model: str = "llama3.2-1b", **setting: object) -> Result:
    return gv.run(model, with_policies(gv.hardware(hardware), wishes), **{**SETTING, **setting})


def phase(result: Result) -> Phase:
    assert result.run.decode is not None
    return result.run.decode


def units_of(result: Result, *names: str) -> set[str]:
    """Units on which operators of these names ran."""
    return {row["unit"] for row in result.ops_table() if row["name"] in names}


# What a name changes

@pytest.mark.parametrize(("name", "wish", "key", "value"), [
    ("sub_batches", "2", "sub_batches", 2), ("sub_batches", "auto", "sub_batches", "auto"), ("sub_batches", "off", "sub_batches", 1),
    ("partition", "balanced", "partition", "balanced"), ("barriers", "stage", "barriers", "stage"),
    ("contention", "off", "contention", "none"), ("pim_mode", "blocked", "exclusive", [["npu", "pim"]]),
    ("pim_mode", "concurrent", "exclusive", []),
])  # fmt: skip
def test_a_policy_of_the_schedule_stands_in_the_schedule(name: str, wish: str, key: str, value: object) -> None:
    assert getattr(with_policies(gv.hardware("neupims"), {name: wish}).spec.schedule, key) == value


@pytest.mark.parametrize(("name", "wish", "field", "value"), [
    ("row_buffers", "single", "buffers", "single"), ("layout", "tokens", "layout", "tokens"), ("whole", "head", "whole", "head"),
    ("channels", "split", "placement", "split"), ("refresh", "together", "refresh", "together"), ("power_cap", "25 W", "power_cap", 25.0),
    ("power_cap", "off", "power_cap", None),
])  # fmt: skip
def test_a_policy_of_pim_stands_in_its_unit(name: str, wish: str, field: str, value: object) -> None:
    changed = with_policies(gv.hardware("neupims"), {name: wish})
    assert getattr(changed.spec.units["pim"], field) == value


def test_what_is_named_of_a_hardware_gives_the_same_hardware() -> None:
    for name in ("neupims", "npu-pim-blocked", "gddr6-aim", "attacc"):
        hardware = gv.hardware(name)
        told = {key: ",".join(value) if isinstance(value, list) else value or "off" for key, value in named(hardware).items()}
        assert set(told) <= set(POLICIES)
        assert named(with_policies(hardware, told)) == named(hardware)


@pytest.mark.parametrize(("hardware", "wishes", "message"), [
    ("neupims", {"sub_batch": 2}, r"no policy 'sub_batch' \(did you mean 'sub_batches'\?\)"),
    ("neupims", {"partition": "half"}, "schedule.partition: 'half' is not known here"),
    ("neupims", {"pim_mode": "dual"}, "pim_mode is 'dual'. Expected blocked or concurrent."),
    ("npu-hbm2", {"row_buffers": "dual"}, "npu-hbm2 has no PIM unit, which policy row_buffers is of."),
    ("npu-hbm2", {"pim_mode": "blocked"}, "npu-hbm2 has no PIM unit, which policy pim_mode is of."),
    ("neupims", {"power_cap": "0 W"}, "units.pim.power_cap: '0 W' is zero. Expected a power above zero"),
    ("neupims", {"ffn": "vector"}, "mapping.ffn names unit 'vector', a vector, which runs only .*; ffn runs on npu or pim"),
    ("neupims", {"ffn": "gpu"}, "mapping.ffn names unit 'gpu'; units are npu, vector, link, pim"),
    ("neupims", {"softmax": "npu"}, "mapping.softmax names unit 'npu', a systolic, .*; softmax runs on vector"),
    ("hbm-pim", {"attention_score": "pim", "attention_value": "gpu"}, "attention_value runs on pim"),
    ("h100-sxm", {"attention_score": "gpu"}, "attention_score runs on none of its units"),
    ("h100-sxm", {"attention_score": "auto"}, "mapping.attention_score is auto but none of gpu, link can run it"),
])  # fmt: skip
def test_a_policy_that_cannot_be_is_refused(hardware: str, wishes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        with_policies(gv.hardware(hardware), wishes)


def test_a_part_of_attention_cannot_leave_a_kernel_or_a_stack_that_runs_it_whole() -> None:
    with pytest.raises(ValueError, match="names a part of attention, which the PIM of hbm3-attacc runs as a whole"):
        decode("attacc", {"attention_score": "pim"})
    with pytest.raises(ValueError, match="names unit 'gpu', whose attention is one kernel, but only a part of it is mapped elsewhere"):
        gv.hardware("hbm-pim").replace({"mapping.attention_score": "pim", "mapping.attention_decode": "gpu"})


def test_words_become_policies() -> None:
    assert parsed(["sub_batches=2", "ffn=npu,pim"]) == {"sub_batches": "2", "ffn": "npu,pim"}
    for texts, message in ((["sub_batches"], "expected NAME=VALUE"), (["ffn="], "expected NAME=VALUE"),
                           (["ffn=npu", "ffn=pim"], "ffn is npu already")):
        with pytest.raises(ValueError, match=message):
            parsed(texts)


# Operator classes

@pytest.mark.parametrize(("wish", "names"), [
    ("projection", ("qkv_proj", "o_proj")), ("ffn", ("gate_up", "down")), ("lm_head", ("lm_head",)),
])  # fmt: skip
def test_a_class_of_matmuls_goes_to_its_unit_and_the_others_stay(wish: str, names: tuple[str, ...]) -> None:
    result = decode("neupims", {wish: "pim", "sub_batches": 1})
    everything = {"qkv_proj", "o_proj", "gate_up", "down", "lm_head"}
    assert units_of(result, *names) == {"pim"}
    assert units_of(result, *(everything - set(names))) == {"npu"}


@pytest.mark.parametrize(("score", "value"), [("pim", "npu"), ("npu", "pim"), ("npu", "vector"), ("vector", "pim"), ("npu", "npu")])
def test_scores_and_values_may_run_on_different_units(score: str, value: str) -> None:
    result = decode("neupims", {"attention_score": score, "attention_value": value, "sub_batches": 1})
    assert (units_of(result, "attention_score"), units_of(result, "attention_value")) == ({score}, {value})
    assert units_of(result, "attention_softmax") == {"vector"}
    assert units_of(result, "kv_append") == ({"pim"} if "pim" in (score, value) else {"vector"}), "the cache lies where PIM reads it"


def test_latent_projections_and_experts_belong_to_their_classes() -> None:
    spec = catalog.load("deepseek-v2-lite")
    names = set(lower.decode_step(spec, gv.Scenario(batch=2), sub_batches=1, partition="dealt", channels=1).names)
    result = decode("neupims", {"projection": "pim", "ffn": "pim"}, model="deepseek-v2-lite", tp=2, batch=2, prompt=100)
    assert {"q_absorb", "experts_gate_up", "shared_down"} <= names
    assert units_of(result, "q_absorb", "v_absorb", "kv_down", "experts_gate_up", "shared_down", "down") == {"pim"}


@pytest.mark.parametrize("batch", [1, 64])
def test_auto_takes_the_best_of_what_each_unit_gives_and_says_why(batch: int) -> None:
    setting = {"batch": batch, "prompt": 200, "tp": 2}
    each = {(p, f): decode("gddr6-aim", {"projection": p, "ffn": f, "lm_head": "npu"}, **setting).latency_ps  # type: ignore[arg-type]
            for p in ("npu", "pim") for f in ("npu", "pim")}
    auto = decode("gddr6-aim", {"projection": "auto", "ffn": "auto", "lm_head": "npu"}, **setting)  # type: ignore[arg-type]
    assert auto.latency_ps == min(each.values())
    chosen = auto.placement["decode"]
    assert each[chosen["projection"], chosen["ffn"]] == auto.latency_ps
    assert set(chosen.values()) == ({"pim"} if batch == 1 else {"npu"})
    for work, times in auto.why["decode"].items():
        assert min(times, key=lambda unit: times[unit]) == chosen[work], "they take turns, so the faster unit is the better one"


def test_too_many_open_placements_are_refused() -> None:
    open_to = dict.fromkeys(("projection", "ffn", "lm_head", "attention_score", "attention_value", "attention_prefill"), "auto")
    with pytest.raises(ValueError, match=r"mapping leaves 72 ways of placing operators on units open. Expected at most 64"):
        decode("neupims", {**open_to})
    assert mapping.MOST_PLACEMENTS == 64


# Refresh and power

def test_ranks_refreshed_together_keep_a_channel_from_half_as_many_tiles() -> None:
    pims = [with_policies(gv.hardware("neupims"), {"refresh": how}).spec.units["pim"] for how in ("in-turn", "together")]
    turns, together = (pim_channel.engine_part(pim_channel.key_of(pim)) for pim in pims)  # type: ignore[arg-type]
    blocks = stream(score_blocks(turns, Attention(20_000, 8, 128, 4)))
    alternating, both = (run(part, blocks, new_state(part)) for part in (turns, together))
    interval = turns.timings["nREFI"]
    assert alternating.refreshes == pytest.approx(2 * (alternating.end + 1) / interval, abs=1)
    assert both.refreshes == pytest.approx((both.end + 1) / interval, abs=1)
    assert both.end < alternating.end
    assert {name: alternating.counts[name] for name in ("G_ACT", "COMPS_READRES", "GWRITE")} == {
        name: both.counts[name] for name in ("G_ACT", "COMPS_READRES", "GWRITE")}
    refreshed = both.commands[both.commands[:, 1] == together.id("REFab"), 0]
    starts = both.commands[both.commands[:, 1] == together.id("G_ACT"), 0]
    after = np.array([starts[starts > tick][:1] - tick for tick in refreshed[:-1]])
    assert after.min() >= turns.timings["nRFC"], "no rank opens a row while any is refreshed"


def test_parts_whose_ranks_are_refreshed_together_anyway_say_so() -> None:
    for name in ("gddr6-aim", "attacc", "hbm-pim"):
        with pytest.raises(ValueError, match=r"refresh is 'together', but memory part .* has no ranks that take turns: leave it out"):
            decode(name, {"refresh": "together"})


@pytest.mark.parametrize(("name", "cap", "clocks"), [("neupims", "15 W", 9), ("neupims", "30 W", 5), ("neupims", "100 W", 2)])
def test_a_power_cap_spaces_the_steps_of_dot_products(name: str, cap: str, clocks: int) -> None:
    """32 channels x 32 banks x 16 lanes x (16 bits x 0.44 + 0.32) pJ = 120,586 pJ a step of 1 ns clocks: 8.04, 4.02 or 1.2 of them."""
    hardware, _ = capped(with_policies(gv.hardware(name), {"power_cap": cap}))
    assert pim_channel.step_ticks(pim_channel.key_of(hardware.spec.units["pim"])) == clocks  # type: ignore[arg-type]


def test_capped_pim_works_longer_for_the_same_energy_and_says_so() -> None:
    free, tight = decode("neupims", {"sub_batches": 1}), decode("neupims", {"sub_batches": 1, "power_cap": "20 W"})
    assert "under 20.0 W a dot-product step of pim comes every 7 clocks, not every 2" in tight.warnings[-1]
    assert tight.latency_ps > free.latency_ps
    (joules,), (less,) = ([causes["pim"]["dot_products"] for causes in r.energy_by_cause_j.values()] for r in (tight, free))
    assert joules == less
    seconds = tight.time_by_cause_s["decode"]["pim"]
    assert joules / (sum(seconds.values()) - seconds["idle"]) < 20


@pytest.mark.parametrize(("name", "cap"), [("attacc", "40 W"), ("attacc-bg", "10 W"), ("attacc-buffer", "5 W"), ("gddr6-aim", "10 W"),
                                           ("hbm-pim", "6 W")])  # fmt: skip
def test_every_style_of_pim_has_a_cap(name: str, cap: str) -> None:
    slow, fast = (decode(name, wishes, tp=2) for wishes in ({"power_cap": cap}, {}))
    parts = [result.time_by_cause_s["decode"]["pim"] for result in (slow, fast)]
    assert parts[0]["ideal"] + parts[0]["edge"] > 1.5 * (parts[1]["ideal"] + parts[1]["edge"])


# Contention is simulated for what meets

def test_pairs_that_never_meet_need_no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeline with the speeds of pairs that meet is that with the speeds of all pairs."""
    hardware = with_policies(gv.hardware("neupims"), {"sub_batches": 2})
    lazy = phase(gv.run("gpt3-7b", hardware, batch=16, prompt=300, output=2, phase="decode"))
    every: list[int] = []

    def eager(kind: object, *_: object) -> set[tuple[int, int]]:
        every.append(1)
        return {(i, j) for j in range(64) for i in range(j)}

    monkeypatch.setattr(contention, "met", eager)
    whole = phase(gv.run("gpt3-7b", hardware, batch=16, prompt=300, output=2, phase="decode"))
    assert every
    np.testing.assert_array_equal(whole.timeline.start_ps, lazy.timeline.start_ps)
    np.testing.assert_array_equal(whole.timeline.end_ps, lazy.timeline.end_ps)


def test_pairs_that_meet_are_those_that_run_at_once() -> None:
    """Of two devices of two units: 1 beside 2 on the first device, 3 alone, 2 and 1 on different devices."""
    kind, placed = np.array([1, 2, 3, 2, 1, 0]), np.array([0, 1, 0, 1, 2, 3])
    start, end = np.array([0, 5, 10, 20, 0, 0]), np.array([10, 10, 20, 30, 30, 30])
    assert contention.met(kind, placed, start, end, 2) == {(1, 2)}


def test_a_placement_is_costed_on_the_unit_that_it_names() -> None:
    spec, hardware = catalog.load("gpt2"), with_policies(gv.hardware("gddr6-aim"), {})
    asked = gv.Scenario(batch=2, prompt=50, output=2, phase="decode", dtype="bf16")
    trace = lower.decode_step(spec, asked, sub_batches=1, partition="dealt", channels=8)
    units = list(hardware.spec.units)
    for placement in mapping.placements(hardware, trace):
        one = run_phase(trace, 1, hardware, devices.resolve(hardware.spec), placement)
        of_row = mapping.classes(one.trace, hardware)
        for work in ("projection", "ffn", "lm_head"):
            assert set(one.unit[of_row == mapping.CLASSES.index(work)].tolist()) == {units.index(placement[work])}
    assert simulate(spec, asked, hardware).tried["decode"]
