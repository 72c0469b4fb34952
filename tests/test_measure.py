"""Measuring: kernels, suites, meters, the machine record, resuming; and measure -> calibrate -> compare -> run on this CPU."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.validate import calibrate_cpu, compare, kernels, kerneltable, machine, measure, meters, suites, timing
from gemvane.validate.kerneltable import Shape

CPUINFO = """processor	: 0
model name	: Intel(R) Xeon(R) Test
physical id	: 0
core id		: 0
flags		: fma avx2 avx512f avx512_vnni

processor	: 1
model name	: Intel(R) Xeon(R) Test
physical id	: 0
core id		: 0
flags		: fma avx2 avx512f avx512_vnni
"""
RECORD = {"name": "Test CPU", "threads": 4, "cache_bytes": {"l1": 32 << 10, "l2": 1 << 20, "l3": 16 << 20}, "macs_per_core": {"fp32": 16},
          "clock_hz": 3_000_000_000, "copy_bytes_s": 20_000_000_000, "memory_bytes": 16 << 30, "torch": "2.0", "energy": "not readable"}
TINY = [*(Shape("gemm", dtype, M=m, N=n, K=n) for dtype in ("fp32", "bf16") for m in (1, 8, 64) for n in (128, 256, 512)),
        *(Shape(op, "fp32", M=m, N=1024) for op in ("softmax", "add", "gelu") for m in (4, 64, 256)),
        *(Shape("attention_decode", "fp32", "fp32", 0, 1, heads_q=4, heads_kv=2, head_dim=64, q_len=1, kv_len=kv) for kv in (128, 512))]


def cpu(**changes: Any) -> measure.Device:
    """A CPU with 4 MiB of cache, whatever this machine has, so that operands stay small."""
    own = machine.cpu_hardware(RECORD, "test-cpu")
    return replace(measure.Device("cpu", "test cpu", dict(RECORD), 4 << 20, 1, None, own), **changes)


def refused(*words: str) -> str:
    """The one line on stderr of a command that ends with status 2 and prints nothing."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2, done.output
    assert done.stdout == "" and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def torch() -> Any:
    """torch on one thread, where it is installed."""
    found = pytest.importorskip("torch", reason="runs real kernels: needs gemvane[torch]")
    before = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(before)


def test_measured_kernels_calibrate_this_cpu_and_a_run_uses_them(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("scipy", reason="a fit needs gemvane[calibrate]")
    monkeypatch.setattr(machine, "COPY_BYTES", 8 << 20)
    monkeypatch.setattr(machine, "last_level_bytes", lambda facts: 4 << 20)
    monkeypatch.setitem(suites.SUITES, "quick", lambda dtype: TINY)
    raw, table = tmp_path / "raw.yaml", tmp_path / "table.csv"
    done = CliRunner().invoke(app, ["validate", "measure", "--device", "cpu", "--threads", "1", "--seconds-per-row", "0.03",
                                    "--energy-window", "0", "-o", str(table), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["measured"] == len(TINY) and told["skipped"] == []
    raw.write_text(machine.cpu_file(told["machine"], "raw"), encoding="utf-8")

    rows = kerneltable.read(table)
    assert rows.attrs["machine"]["torch"] == torch.__version__
    wrong = gv.hardware(raw).replace({"memory.sustained": "5 %", "units.cpu.vector_sustained": "2 %"})
    fit = calibrate_cpu.calibrate(rows, wrong)
    fitted = calibrate_cpu.save(fit, wrong, "raw.yaml", "fitted", tmp_path / "fitted.yaml")
    before, after = (compare.compare(rows, hardware)["overall"]["mape"] for hardware in (wrong, fitted))
    assert after < before / 2
    assert fitted.provenance["memory.sustained"].confidence == "measured"

    scenario: dict[str, Any] = {"batch": 1, "prompt": 16, "output": 2}
    slow, fast = (gv.run("qwen2.5-0.5b", str(tmp_path / f"{name}.yaml"), **scenario).latency_s for name in ("fitted", "raw"))
    assert slow != fast


def test_a_table_goes_on_where_it_was_left(torch: Any, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    first = measure.measure(TINY[:2], table, cpu(), seconds=0.01)
    assert (first.measured, first.kept) == (2, 0)
    written = pd.read_csv(table)
    second = measure.measure(TINY[:3], table, cpu(), seconds=0.01)
    assert (second.measured, second.kept) == (1, 2)
    pd.testing.assert_frame_equal(pd.read_csv(table).head(2), written)
    assert measure.measure(TINY[:3], table, cpu(), seconds=0.01).measured == 0


def test_a_killed_run_leaves_a_whole_table(torch: Any, tmp_path: Path) -> None:
    def killed(jobs: list[Any]) -> Iterator[Any]:
        yield jobs[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure.measure(TINY, tmp_path / "t.csv", cpu(), seconds=0.01, watch=killed)
    assert len(kerneltable.read(tmp_path / "t.csv")) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.csv", "t.machine.json"]


def test_a_parquet_table_carries_its_machine(torch: Any, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    measure.measure(TINY[:1], tmp_path / "t.parquet", cpu(), seconds=0.01)
    (tmp_path / "t.machine.json").unlink()
    assert kerneltable.read(tmp_path / "t.parquet").attrs["machine"]["name"] == "Test CPU"


def test_a_table_of_another_machine_is_not_touched(torch: Any, tmp_path: Path) -> None:
    measure.measure(TINY[:1], tmp_path / "t.csv", cpu(), seconds=0.01)
    before = (tmp_path / "t.csv").read_bytes()
    with pytest.raises(ValueError, match=r"t.csv: holds rows of 'test cpu' and this machine has 'other'. Name another file with -o."):
        measure.measure(TINY, tmp_path / "t.csv", cpu(name="other"))
    assert (tmp_path / "t.csv").read_bytes() == before


def test_a_kernel_that_cannot_run_is_named_and_the_others_go_on(torch: Any, tmp_path: Path) -> None:
    window = Shape("attention_prefill", "fp32", "fp32", 8, 1, heads_q=2, heads_kv=2, head_dim=16, q_len=32, kv_len=32)
    report = measure.measure([window, TINY[0]], tmp_path / "t.csv", cpu(), seconds=0.01)
    assert report.skipped[0]["reason"] == "scaled_dot_product_attention has no sliding window"
    assert report.measured == 2     # the unfused attention, and the matmul
    with pytest.raises(ValueError, match=r"no kernel for any of the 1 shapes"):
        measure.measure([Shape("gemm", "fp8", M=1, N=16, K=16)], tmp_path / "none.csv", cpu())


def operands(torch: Any, shape: Shape, name: str) -> tuple[kernels.Plan, list[Any]]:
    kernel = next(k for k in kernels.kernels_for(shape, "cpu") if k.name.startswith(name))
    plan = kernel.plan(shape, "cpu")
    return plan, list(timing.Arena("cpu", 1 << 16).sets(plan)[0])


def test_unfused_attention_is_attention(torch: Any) -> None:
    shape = Shape("attention_prefill", "fp32", "fp32", 0, 1, heads_q=4, heads_kv=2, head_dim=16, q_len=8, kv_len=24)
    plan, tensors = operands(torch, shape, "unfused")
    query, key, value = tensors[0], tensors[1], tensors[2]
    out = plan.call(*tensors)
    fused, _ = operands(torch, shape, "sdpa")
    expected = fused.call(query.view(1, 4, 8, 16), key.view(1, 2, 24, 16), value.view(1, 2, 24, 16))
    torch.testing.assert_close(out.view(1, 4, 8, 16), expected)


def test_gated_activation_and_rotation_compute_what_they_say(torch: Any) -> None:
    plan, (gate, up, out) = operands(torch, Shape("silu_mul", "fp32", M=4, N=32), "aten")
    plan.call(gate, up, out)
    torch.testing.assert_close(out, gate * torch.sigmoid(gate) * up)
    plan, (x, cos, sin, out) = operands(torch, Shape("rope", "fp32", M=4, N=256), "aten")
    plan.call(x, cos, sin, out)
    torch.testing.assert_close(out[:, :, 0], x[:, :, 0] * cos - x[:, :, 1] * sin)
    torch.testing.assert_close(out[:, :, 1], x[:, :, 1] * cos + x[:, :, 0] * sin)


@pytest.mark.parametrize("shape", [shape for shape in suites.quick("fp32") if kernels.kernels_for(shape, "cpu")
                                   and shape.M in (0, 1) and shape.N <= 1024 and shape.kv_len <= 512])
def test_every_kernel_of_the_quick_suite_runs(torch: Any, shape: Shape) -> None:
    for kernel in kernels.kernels_for(shape, "cpu"):
        plan = kernel.plan(shape, "cpu")
        plan.call(*timing.Arena("cpu", 1).sets(plan)[0])


def test_operands_rotate_over_twice_the_cache(torch: Any) -> None:
    plan = next(iter(kernels.kernels_for(Shape("add", "fp32", M=64, N=1024), "cpu"))).plan(Shape("add", "fp32", M=64, N=1024), "cpu")
    sets = timing.Arena("cpu", 4 << 20).sets(plan)
    assert len(sets) == -(-2 * (4 << 20) // (3 * 64 * 1024 * 4))
    assert len({tensors[0].data_ptr() for tensors in sets}) == len(sets)
    assert float(sets[0][0].std()) == pytest.approx(1, abs=0.02)


def test_a_serving_suite_has_the_layers_of_its_models() -> None:
    shapes = set(suites.of_model("llama3-8b"))
    assert Shape("gemm", "bf16", M=8, N=6144, K=4096) in shapes         # 32 + 2 x 8 heads of 128
    assert Shape("gemm", "bf16", M=2048, N=28672, K=4096) in shapes     # gate and up of 14336
    assert Shape("attention_decode", "bf16", "bf16", 0, 32, heads_q=32, heads_kv=8, head_dim=128, q_len=1, kv_len=2049) in shapes
    assert shapes <= set(suites.suite("serving")) <= set(suites.suite("full"))
    assert Shape("gemm", "bf16", M=1, N=28672, K=4096) in set(suites.of_model("mixtral-8x7b"))      # one expert of a decode step
    assert not any(s.op.startswith("attention") for s in suites.of_model("deepseek-v2-lite"))       # latent attention


def test_a_cpu_is_read_from_what_linux_says() -> None:
    facts = machine.cpu_facts(CPUINFO, {1: 32 << 10, 2: 1 << 20}, 2)
    assert (facts.model, facts.cores) == ("Intel Xeon Test", 1)         # two threads of one core
    assert machine.macs_per_core(facts.flags) == {"fp32": 32, "int8": 128}
    assert machine.macs_per_core(frozenset()) == machine.LEAST_MACS
    assert machine.last_level_bytes(facts) == 1 << 20
    assert 0.3e9 < machine.clock_hz(0.002) < 8e9


def test_a_cpu_file_says_where_each_number_comes_from() -> None:
    hardware = machine.cpu_hardware(RECORD | {"cache_bytes": {"l2": 1 << 20}}, "test-cpu")
    assert all(number.cite for number in hardware.provenance.values())
    assert hardware.provenance["units.cpu.l1.size"].confidence == "guess"
    assert hardware.provenance["units.cpu.l2.size"].confidence == "measured"
    assert hardware.spec.units["cpu"].peak["fp32"] == 2 * 16 * 4 * 3_000_000_000     # type: ignore[union-attr]


def test_an_energy_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("999999")
    (zone / "energy_uj").write_text("900000")
    meter = meters.cpu_meter(tmp_path)
    assert meter is not None
    (zone / "energy_uj").write_text("400000")
    assert meter.joules() == pytest.approx(0.5)      # 100,000 to the end of the counter, 400,000 after it
    assert meters.cpu_meter(tmp_path / "nowhere") is None


def flagged(latency_us: float, iqr_us: float) -> list[str]:
    row = {"op": "gemm", "dtype": "fp32", "M": 128, "N": 128, "K": 128, "latency_us": latency_us, "iqr_us": iqr_us, "notes": "x"}
    return measure.flags(pd.DataFrame([row]), cpu().hardware)


def test_rows_that_cannot_be_or_vary_are_flagged_and_kept() -> None:
    roofline_us = 2 * 128**3 / (2 * 16 * 4 * 3e9) * 1e6      # 10.9 us at the peak of four cores
    assert flagged(2 * roofline_us, 0.1) == ["x"]
    assert flagged(roofline_us / 2, 0.1) == ["x; faster than the roofline of test-cpu, 10.9 us"]
    assert flagged(100.0, 20.0) == ["x; spread 20 %"]
    assert timing.middle(np.array([1.0, 2, 3, 4, 5])) == (3.0, 2.0)


def table(tmp_path: Path, **changes: Any) -> Path:
    row = {"gpu": "g", "op": "gemm", "dtype": "fp32", "M": 1, "N": 2, "K": 3, "latency_us": 5.0} | changes
    file = tmp_path / "t.csv"
    pd.DataFrame([{column: value for column, value in row.items() if value is not None}]).to_csv(file, index=False)
    return file


@pytest.mark.parametrize(("changes", "message"), [
    ({"latency_us": 0}, "row 0: latency_us is 0. Expected a time above zero, in microseconds."),
    ({"latency_us": "fast"}, "row 0: latency_us is fast. Expected a time above zero, in microseconds."),
    ({"dtype": None}, "column 'dtype' is missing. A kernel table has gpu, op, dtype,"),
])
def test_a_bad_table_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = table(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"t\.csv") as error:
        kerneltable.read(file)
    assert message in str(error.value)


def fake_torch(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    monkeypatch.setitem(sys.modules, "torch", module)


def test_bad_input_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path / "t.csv")

    def said(*words: str) -> str:
        return refused("validate", "measure", *words)

    assert said("--suite", "quik", "-o", out) == "--suite 'quik' is unknown. Expected one of quick, serving, full."
    assert said("-o", str(tmp_path / "t.txt")).endswith("t.txt: a kernel table is a .csv or .parquet file, not '.txt'.")
    assert "there is no folder" in said("-o", str(tmp_path / "no" / "t.csv"))
    (tmp_path / "d.csv").mkdir()
    assert said("-o", str(tmp_path / "d.csv")).endswith("cannot be written.")
    assert said("--suite", "quick", "--model", "gpt2", "-o", out).startswith("--suite and --model exclude each other")
    assert said("--seconds-per-row", "0", "-o", out) == "--seconds-per-row 0: Expected more than 0 and less than 3600."
    assert said("--energy-window", "1", "-o", out).startswith("--energy-window 1: Expected at least 2 seconds")
    assert said("--device", "tpu", "-o", out) == "--device 'tpu' is unknown. Expected auto, cpu or cuda."
    fake_torch(monkeypatch, SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
    assert said("--device", "cuda", "-o", out).startswith("--device cuda: torch sees no CUDA GPU on this machine.")
    fake_torch(monkeypatch, None)
    assert said("-o", out) == "measuring runs kernels in torch, which is not installed: pip install 'gemvane[torch]'."
    assert not Path(out).exists()


def test_too_few_rows_do_not_calibrate() -> None:
    rows = pd.DataFrame([{"gpu": "g", "op": "gemm", "dtype": "fp32", "M": m, "N": 64, "K": 64, "latency_us": 5.0} for m in range(1, 9)])
    own = cpu().hardware
    assert own is not None
    with pytest.raises(ValueError, match=r"^8 rows are kernels of one operator each. Expected at least 24, of which half are held out.$"):
        calibrate_cpu.calibrate(rows, own)
    with pytest.raises(ValueError, match=r"^h100-sxm has no unit of kind cpu.$"):
        calibrate_cpu.calibrate(rows, gv.hardware("h100-sxm"))


def test_the_command_writes_a_file_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "COPY_BYTES", 1 << 20)
    monkeypatch.setattr(machine, "last_level_bytes", lambda facts: 1 << 20)
    file = tmp_path / "My CPU.yaml"
    done = CliRunner().invoke(app, ["validate", "machine", "--threads", "1", "-o", str(file)])
    assert done.exit_code == 0, done.output
    assert gv.hardware(file).name == "my-cpu"
    said = refused("validate", "machine", "-o", str(file))
    assert said.endswith("is there already and is not overwritten. Remove it, or name another with -o.")


def measured_tables() -> Iterable[Path]:
    return sorted((Path(kerneltable.__file__).parent / "measured").glob("*.csv"))


@pytest.mark.parametrize("file", measured_tables(), ids=lambda file: file.stem)
def test_our_own_tables_read_back_with_their_machine(file: Path) -> None:
    rows = kerneltable.read(file)
    assert {"device", "torch", "measured", "clock_hz"} <= rows.attrs["machine"].keys()
    assert list(rows.columns) == [*kerneltable.COLUMNS, *kerneltable.MEASURED]


def test_power_that_nvidia_smi_reports_adds_up_to_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho '1980, 2619, [N/A], 250.0, 700.00, 580.1, 1980, 2619'\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = meters.gpu_meter("GPU-x")
    assert meter is not None and meter.name.startswith("nvidia-smi")
    then, before = time.perf_counter(), meter.joules()
    time.sleep(0.1)
    assert meter.joules() - before == pytest.approx(250 * (time.perf_counter() - then), rel=0.2)
    assert meter.state() == {"sm_clock_mhz": 1980, "memory_clock_mhz": 2619}
    assert meters.told("GPU-x")["power_limit_w"] == "700.00"
    fake.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n", encoding="utf-8")
    assert meters.gpu_meter("GPU-x") is None and meters.told("GPU-x") == {}


@pytest.mark.parametrize("file", measured_tables(), ids=lambda file: file.stem)
def test_the_command_calibrates_a_cpu_from_our_table(file: Path, tmp_path: Path) -> None:
    """`validate calibrate` of a CPU writes a hardware file that extends the one it was given, nearer to the table, and says its errors."""
    pytest.importorskip("scipy", reason="a fit needs gemvane[calibrate]")
    rows = kerneltable.read(file)
    raw, fitted = tmp_path / "raw.yaml", tmp_path / "fitted.yaml"
    raw.write_text(machine.cpu_file(rows.attrs["machine"], "raw"), encoding="utf-8")
    assert "is a CPU: name the hardware file to write with -o" in refused("validate", "calibrate", str(file), "--hw", str(raw))
    assert "is written as .yaml" in refused("validate", "calibrate", str(file), "--hw", str(raw), "-o", str(tmp_path / "x.json"))
    done = CliRunner().invoke(app, ["validate", "calibrate", str(file), "--hw", str(raw), "-o", str(fitted), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["hardware"] == "fitted" and told["rows"] > 24 and 0 < told["train"] < 1
    errors = [compare.compare(rows, gv.hardware(str(path)))["overall"]["mape"] for path in (raw, fitted)]
    assert errors[1] < errors[0]
