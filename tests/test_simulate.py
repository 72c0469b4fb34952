"""Whole runs: what holds between phases, devices and settings."""

import gzip
import json
import re
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console

import gemvane as gv
from gemvane.render import GLUE, run_screen
from gemvane.sim import devices, memory
from gemvane.sim.costs import ACTION, CAUSES
from gemvane.sim.result import causes_s
from gemvane.workloads import catalog, lower
from gemvane.workloads.scenario import Scenario

SMALL = {"batch": 4, "prompt": 64, "output": 4}


def test_tpot_is_the_time_after_the_first_token_over_the_tokens_after_it() -> None:
    result = gv.run("llama3.2-1b", "h100-sxm", batch=2, prompt=100, output=11)
    assert result.ttft_s is not None
    assert result.tpot_s is not None
    assert result.tpot_s == pytest.approx((result.latency_s - result.ttft_s) / 10)
    assert result.throughput_tok_s == pytest.approx(2 * 11 / result.latency_s)


def test_one_output_token_is_a_prefill_alone() -> None:
    result = gv.run("llama3.2-1b", "h100-sxm", batch=2, prompt=100, output=1)
    assert result.tpot_s is None
    assert result.latency_s == result.ttft_s


def test_a_serial_device_takes_the_sum_of_its_operators() -> None:
    result = gv.run("llama3.2-1b", "h100-sxm", **SMALL)
    assert result.latency_s == pytest.approx(sum(row["time_s"] for row in result.ops_table()))


def test_the_causes_of_a_phase_add_up_to_its_work() -> None:
    result = gv.run("llama3.2-1b", "neupims", **SMALL)
    for phase in ("prefill", "decode"):
        worked = sum(row["time_s"] for row in result.ops_table() if row["phase"] == phase)
        assert sum(causes_s(result, phase).values()) == pytest.approx(worked, rel=1e-4)


def test_later_tokens_take_longer_since_the_cache_grows() -> None:
    timeline = gv.run("gpt3-7b", "h100-sxm", batch=8, prompt=512, output=12).timeline
    steps = timeline[timeline.phase == "decode"].groupby("step")
    lengths = (steps.end_ps.max() - steps.start_ps.min()).to_numpy()
    assert (np.diff(lengths) > 0).all()


def test_two_runs_are_byte_identical() -> None:
    first, second = (gv.run("mixtral-8x7b", "neupims", tp=4, **SMALL).to_json() for _ in range(2))
    assert first == second


def test_the_json_has_every_promised_key() -> None:
    result = gv.run("llama3.2-1b", "neupims", **SMALL).to_dict()
    promised = ("schema model hardware scenario ttft_s tpot_s latency_s throughput_tok_s energy_j energy_per_token_j "
                "energy_by_component_j average_power_w memory utilisation ops confidence warnings")
    assert set(promised.split(" ")) <= set(result)
    assert result["schema"] == "gemvane.result/1"
    assert set(result["memory"]) >= {"weights_bytes", "kv_cache_bytes", "capacity_bytes"}
    assert set(result["ops"][0]) >= {"name", "kind", "phase", "unit", "count", "time_s", "energy_j", "bound"}
    assert result["confidence"]["label"] == "spec-only"
    low, high = result["confidence"]["band"]
    assert low < 1 < high


def test_interleaving_lets_npu_and_pim_work_at_once() -> None:
    two = gv.hardware("neupims").replace({"schedule.sub_batches": 2})
    timeline = gv.run("gpt3-7b", two, batch=32, prompt=256, output=3).timeline
    decode = timeline[timeline.phase == "decode"]
    npu, pim = (decode[decode.unit == u] for u in ("npu", "pim"))
    together = [((npu.start_ps < p.end_ps) & (npu.end_ps > p.start_ps)).any() for p in pim.itertuples()]
    assert any(together)


def test_sub_batches_read_the_weights_once_each() -> None:
    base = gv.hardware("neupims")
    one, two = (gv.run("gpt3-7b", base.replace({"schedule.sub_batches": n}), batch=32, prompt=256, output=2) for n in (1, 2))
    assert two.run.decode is not None
    assert two.run.decode.sub_batches == 2
    weights_bytes = 2 * sum(12 * one.run.spec.hidden**2 for _ in one.run.spec.layers)  # q, k, v, o and two FFN matrices of 4 x
    extra_j = two.energy_by_component_j["dram_io"] - one.energy_by_component_j["dram_io"]
    head_bytes = 2 * one.run.spec.vocab * one.run.spec.hidden
    assert extra_j == pytest.approx((weights_bytes + head_bytes) * 8 * 0.3e-12, rel=0.01)


@pytest.mark.parametrize(("batch", "counts"), [(48, (1, 2, 4)), (2, (1, 2)), (1, (1,))])
def test_auto_takes_the_fastest_of_one_two_and_four_sub_batches_and_says_so(batch: int, counts: tuple[int, ...]) -> None:
    base = gv.hardware("neupims")
    setting = {"batch": batch, "prompt": 300, "output": 3}
    each = {n: gv.run("gpt3-7b", base.replace({"schedule.sub_batches": n}), **setting).tpot_s for n in counts}
    auto = gv.run("gpt3-7b", base.replace({"schedule.sub_batches": "auto"}), **setting)
    assert auto.run.decode is not None
    assert auto.tpot_s == each[auto.run.decode.sub_batches] == min(each.values())
    said = auto.tried
    assert [t["tpot_s"] for t in said] == ([each[n] for n in counts] if len(counts) > 1 else [])


def test_more_sub_batches_than_requests_is_an_error() -> None:
    eight = gv.hardware("neupims").replace({"schedule.sub_batches": 8})
    with pytest.raises(ValueError, match=r"neupims: schedule.sub_batches is 8 but the batch has 5 requests. Expected at most one"):
        gv.run("gpt3-7b", eight, batch=5, prompt=20, output=3)


@pytest.mark.parametrize(("key", "value"), [("partition", "half"), ("barriers", "stages"), ("sub_batches", "two")])
def test_an_unknown_policy_of_the_schedule_is_named(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"schedule\.{key}.*'{value}'"):
        gv.hardware("neupims").replace({f"schedule.{key}": value})


@pytest.mark.parametrize("partition", ["dealt", "halves", "greedy", "balanced"])
def test_however_requests_are_parted_the_work_in_the_banks_is_the_same(partition: str) -> None:
    base = gv.hardware("neupims").replace({"schedule.partition": partition})
    lengths = tuple(np.random.default_rng(3).integers(20, 900, 24).tolist())
    counts = []
    for sub_batches in (1, 2, 3):
        phase = gv.run("gpt3-7b", base.replace({"schedule.sub_batches": sub_batches}), batch=24, prompt=lengths, output=2).run.decode
        assert phase is not None
        inside = phase.actions[phase.alike[phase.unit == list(base.spec.units).index("pim")]].sum(axis=0)
        counts.append([int(inside[ACTION[name]]) for name in ("pim_mac", "dram_activate_bytes", "dram_array_bytes", "pim_buffer_bytes")])
        assert set(phase.trace.rows.sub_batch.tolist()) == set(range(sub_batches))
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.parametrize("name", ["neupims", "npu-pim-blocked", "npu-hbm2", "h100-sxm", "attacc"])
def test_the_time_of_each_unit_is_work_contention_waiting_and_nothing_to_do(name: str) -> None:
    result = gv.run("llama3.2-1b", name, batch=8, prompt=100, output=4)
    for phase, shared in result.overlap.items():
        run = result.run.phases[phase]
        parts = [shared.work_ps, shared.contention_ps, shared.blocked_ps, shared.idle_ps]
        np.testing.assert_allclose(sum(parts), run.latency_ps)
        assert min(part.min() for part in parts) >= 0
        np.testing.assert_array_equal(shared.work_ps + shared.contention_ps, run.timeline.busy_ps(shared.work_ps.size))
        assert 0 <= shared.fraction <= 1


def test_units_of_an_exclusive_group_wait_for_each_other() -> None:
    """The same sub-batches, with PIM and arrays allowed at once (and no contention) and not: only then one is blocked by the other."""
    base = gv.hardware("npu-pim-blocked").replace({"schedule.sub_batches": 2, "schedule.contention": "none"})
    free, apart = (gv.run("gpt3-7b", base.replace({"schedule.exclusive": e}), batch=32, prompt=300, output=3).overlap["decode"]
                   for e in ([], [["npu", "pim"]]))
    assert free.blocked_ps.max() == 0
    assert apart.blocked_ps[[0, 3]].min() > 0
    assert apart.blocked_ps[[1, 2]].max() == 0


def test_no_unit_and_no_memory_does_more_than_its_peak() -> None:
    for name in ("neupims", "npu-pim-blocked", "tpu-v5e"):
        result = gv.run("gpt2-xl", name, batch=64, prompt=300, output=3)
        for shares in result.shares_of_peak.values():
            assert all(0 <= share <= 1 for share in shares.values())
        memory = result.shares_of_peak["decode"]["memory"]
        weights_s = 2 * result.run.spec.parameters / result.run.hardware.spec.memory.bandwidth
        assert result.tpot_s is not None
        assert memory >= 0.95 * weights_s / result.tpot_s


def test_tensor_parallel_devices_share_the_work_and_pay_for_talking() -> None:
    one, four = (gv.run("llama3-8b", "h100-sxm", tp=tp, batch=8, prompt=512, output=4) for tp in (1, 4))
    assert one.ttft_s is not None
    assert four.ttft_s is not None
    assert one.ttft_s / 4 < four.ttft_s < one.ttft_s
    assert four.utilisation["link"] > 0
    assert four.run.memory.weights_bytes * 4 == pytest.approx(one.run.memory.weights_bytes, abs=4)


def test_a_pipeline_keeps_its_stages_busy_with_micro_batches() -> None:
    result = gv.run("llama3-8b", "h100-sxm", pp=2, batch=8, prompt=512, output=8)
    assert result.run.decode is not None
    assert result.run.decode.sub_batches == 2
    alone = gv.run("llama3-8b", "h100-sxm", pp=2, batch=4, prompt=512, output=8)
    assert result.throughput_tok_s > 1.1 * alone.throughput_tok_s


def test_requests_in_another_order_change_nothing() -> None:
    lengths = (700, 30, 64, 300, 300, 12)
    first, second = (gv.run("gpt3-7b", "neupims", batch=6, prompt=p, output=4).to_dict() for p in (lengths, tuple(sorted(lengths))))
    for result in (first, second):
        result["scenario"].pop("prompt")
    assert first == second


@given(st.sampled_from(["h100-sxm", "tpu-v5e", "neupims", "npu-pim-blocked", "attacc", "cpu-server"]),
       st.sampled_from(["llama3.2-1b", "gemma3-1b", "gpt2", "qwen1.5-moe-a2.7b", "deepseek-v2-lite"]),
       st.integers(1, 40), st.integers(1, 700), st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_no_phase_beats_its_roofline(name: str, model: str, batch: int, prompt: int, output: int) -> None:
    hardware = gv.hardware(name)
    spec = catalog.load(model)
    scenario = Scenario(batch=batch, prompt=prompt, output=output)
    assume(memory.use(spec, scenario, hardware).fits)
    result = gv.run(spec, hardware, batch=batch, prompt=prompt, output=output)
    unit = hardware.spec.units[hardware.spec.mapping["matmul"]]
    peak = max(getattr(unit, "tensor_peak", getattr(unit, "peak", None)).values()) * 1.02
    pim = hardware.spec.units.get("pim")
    bandwidth = hardware.spec.memory.bandwidth
    rows = lower.prefill(spec, scenario).rows
    assert result.ttft_s is not None
    assert result.tpot_s is not None
    assert result.ttft_s >= 2 * int(rows.macs.sum()) / peak
    step = lower.decode_step(spec, scenario).rows
    weights, cache = int(step.weight_bytes.sum()), int(step.kv_read_bytes.sum())
    assert result.tpot_s >= (weights + (0 if pim else cache)) / bandwidth
    if pim:
        machine = devices.resolve(hardware.spec)["pim"]
        inside = 2 * machine.peak_macs_per_cycle * machine.freq_hz
        assert result.tpot_s >= cache / inside


@given(st.integers(1, 30), st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_a_longer_prompt_is_never_faster(batch: int, prompt: int) -> None:
    short, long = (gv.run("gpt2", "neupims", batch=batch, prompt=p, output=3) for p in (prompt, prompt + 33))
    assert short.latency_s <= long.latency_s


@pytest.mark.parametrize(
    ("model", "hardware", "scenario", "message"),
    [
        ("llama3-70b", "h100-sxm", {"batch": 8}, r"llama3-70b needs 141 GB of weights \+ .* of KV cache, h100-sxm has 80.0 GB: use --tp 2"),
        ("falcon-7b", "h100-sxm", {"tp": 2}, r"--tp 2: falcon-7b has 71 attention heads, which 2 devices cannot share evenly"),
        ("bert-base", "h100-sxm", {"phase": "decode"}, "bert-base is an encoder and has no decode phase. Use --phase prefill."),
        ("llama3-8b", "tpu-v1", {"dtype": "fp32"}, "tpu-v1"),
        ("llama3-8b", "h100-sxm", {"batch": 0}, "batch is 0. Expected a whole number of at least 1."),
        ("llama3-8b", "h100-sxm", {"pp": 33}, "--pp 33: llama3-8b has 32 layers"),
        ("lama3-8b", "h100-sxm", {}, "unknown model 'lama3-8b'"),
        ("llama3-8b", "h100-sxn", {}, "unknown hardware 'h100-sxn'"),
    ],
)
def test_what_cannot_run_says_why(model: str, hardware: str, scenario: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gv.run(model, hardware, **scenario)


def test_a_prompt_beyond_the_models_positions_is_a_warning() -> None:
    result = gv.run("gpt2", "h100-sxm", batch=1, prompt=1020, output=10)
    assert result.warnings == ("gpt2 was made for 1024 positions; this run reaches 1029.",)


def test_the_screen_says_what_overlaps_and_what_auto_chose() -> None:
    hardware = gv.hardware("neupims").replace({"schedule.sub_batches": 2})
    setting = {"batch": 64, "prompt": 400, "output": 2, "phase": "decode"}
    fixed, auto = (gv.run("gpt3-7b", h, **setting) for h in (hardware, "neupims"))
    screen = Console(width=400, record=True, file=StringIO())
    for part in (*run_screen(fixed, "here"), *run_screen(auto, "here")):
        screen.print(part)
    text = screen.export_text().replace(GLUE, " ")
    share = round(100 * fixed.overlap["decode"].fraction)
    assert f"overlap in decode {share} % of the time; lost to other units at the memory: npu" in re.sub(" +", " ", text)
    assert "of their peak: npu" in text
    assert re.search(r"schedule +one sub-batch, the fastest of: one sub-batch: \S+ ms; 2 sub-batches: \S+ ms; 4 sub-batches: \S+ ms", text)


def test_the_results_folder_holds_json_csv_and_a_trace(tmp_path: Path) -> None:
    result = gv.run("gpt2", "neupims", **SMALL)
    paths = result.save(tmp_path / "new" / "run")
    assert [p.name for p in paths] == ["result.json", "ops.csv", "trace.json.gz"]
    assert json.loads(paths[0].read_text()) == result.to_dict()
    columns = ["name", "kind", "phase", "unit", "count", "time_s", "energy_j", "bound", "choice", *(f"{cause}_s" for cause in CAUSES)]
    assert paths[1].read_text().splitlines()[0].split(",") == columns
    events = json.loads(gzip.decompress(paths[2].read_bytes()))["traceEvents"]
    lanes = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert lanes == {"npu", "vector", "pim", *(f"pim channel {c}" for c in range(32))}
    worked = [e for e in events if e["ph"] == "X"]
    assert len({e["cname"] for e in worked}) == len({e["args"]["sub_batch"] for e in worked})
    assert all(0 <= e["args"]["contention_us"] <= e["dur"] for e in worked)
    for tid in {e["tid"] for e in events}:
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and e["tid"] == tid)
        assert all(later[0] >= earlier[1] - 1e-6 for earlier, later in pairwise(spans))
    assert sorted(p.name for p in (tmp_path / "new" / "run").iterdir()) == ["ops.csv", "result.json", "trace.json.gz"]
