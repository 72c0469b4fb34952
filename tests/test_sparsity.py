"""N:M weights: what is stored, what is computed, how much faster an array is, and who refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.commands.trace import summary
from gemvane.sim import devices, memory
from gemvane.sim.costs import ACTION, CAUSES
from gemvane.sim.devices.cellarray import multiply
from gemvane.sim.devices.systolic import gemm_cycles
from gemvane.sim.hardware import Hardware, load
from gemvane.workloads import catalog
from gemvane.workloads.ops import CODE, DTYPES, SHAPE, SPARSITIES, Rows, derive, kept
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.sparsity import prunable, weight_bits
from gemvane.workloads.trace import from_frame

PATTERNS = SPARSITIES[1:]
Ints = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def gemm(sparsity: str, m: int = 8, n: int = 64, k: int = 64, kind: str = "gemm", batch: int = 1) -> Rows:
    code = DTYPES.index("bf16")
    values = {"kind": CODE[kind], "batch": batch, "peers": 1, "m": m, "n": n, "k": k, "sparsity": SPARSITIES.index(sparsity),
              "weight_dtype": code, "act_dtype": code, "kv_dtype": code}
    return derive({c: np.array([values.get(c, 0)], np.int64) for c in SHAPE})


def sparse_npu(*patterns: str, **changes: object) -> Hardware:
    return load("npu-hbm2").replace({"units.npu.sparsity": list(patterns), **{f"units.npu.{key}": value for key, value in changes.items()}})


@pytest.mark.parametrize(
    ("sparsity", "k", "values", "index_bits"),
    [
        ("dense", 64, 64, 0),
        ("2:4", 64, 32, 2),
        ("1:4", 64, 16, 2),
        ("1:2", 64, 32, 1),
        ("4:8", 64, 32, 3),
        ("2:16", 64, 8, 4),
        ("2:4", 67, 34, 2),  # 16 whole groups, and of the 3 left over 2
        ("2:4", 65, 33, 2),  # of the 1 left over 1
    ],
)
@pytest.mark.parametrize("kind", ["gemm", "gemv", "grouped_gemm"])
def test_kept_values_are_stored_with_their_place_in_the_group(sparsity: str, k: int, values: int, index_bits: int, kind: str) -> None:
    row, dense = gemm(sparsity, k=k, kind=kind, batch=3), gemm("dense", k=k, kind=kind, batch=3)
    assert row.kept_k[0] == values
    assert row.weight_bytes[0] == 3 * 64 * values * (16 + index_bits) // 8
    assert row.macs[0] == dense.macs[0]
    assert row.useful_macs[0] * k == dense.macs[0] * values
    assert (row.input_bytes[0], row.output_bytes[0]) == (dense.input_bytes[0], dense.output_bytes[0])


@given(st.sampled_from(PATTERNS), st.integers(1, 10_000))
def test_no_more_is_kept_than_the_pattern_allows_in_any_group(sparsity: str, k: int) -> None:
    n, m = map(int, sparsity.split(":"))
    assert kept(np.array([k]), np.array([SPARSITIES.index(sparsity)]))[0] == sum(min(n, k - start) for start in range(0, k, m))


def test_layers_are_pruned_and_embeddings_head_and_absorbed_weights_are_not() -> None:
    rows = gv.trace("llama3.2-1b", prompt=16, output=2, weight_sparsity="2:4").to_frame()
    pruned = set(rows["name"][rows["sparsity"] == "2:4"])
    assert pruned == {"qkv_proj", "o_proj", "gate_up", "down"}
    moe = gv.trace("deepseek-v2-lite", prompt=16, output=2, weight_sparsity="2:4").to_frame()
    assert set(moe["name"][(moe["sparsity"] == "dense") & (moe["work"] == "matmul")]) == {"kv_up", "q_absorb", "v_absorb", "lm_head"}


def test_the_model_counts_the_same_operations_dense_or_not() -> None:
    dense, sparse = (gv.trace("gpt2", prompt=16, output=2, weight_sparsity=pattern) for pattern in ("dense", "1:4"))
    assert sparse.flops == dense.flops
    assert sparse.rows.useful_macs.sum() < dense.rows.useful_macs.sum() == dense.rows.macs.sum()


@pytest.mark.parametrize("name", ["llama3-8b", "mixtral-8x7b"])
def test_all_that_a_layer_holds_but_its_norms_is_prunable(name: str) -> None:
    spec = catalog.load(name)
    held = sum(inputs * outputs for layer in spec.layers for inputs, outputs in prunable(layer, spec.hidden))
    assert held == spec.parameters - 2 * spec.vocab * spec.hidden - (2 * len(spec.layers) + 1) * spec.hidden


def test_memory_holds_the_compressed_weights() -> None:
    spec, dense = catalog.load("llama3-8b"), Scenario()
    pruned = 32 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336)
    assert weight_bits(spec, dense) == 16 * spec.parameters
    assert weight_bits(spec, dense.but(weight_sparsity="2:4")) == 16 * spec.parameters - 16 * pruned + 18 * pruned // 2
    assert memory.weights_bytes(spec, dense.but(weight_sparsity="2:4")) * 8 == weight_bits(spec, dense.but(weight_sparsity="2:4"))


def test_a_layer_reads_the_bytes_that_memory_holds() -> None:
    spec, scenario = catalog.load("llama3-8b"), Scenario(prompt=16, phase="prefill", weight_sparsity="2:4")
    rows = gv.trace(spec, prompt=16, phase="prefill", weight_sparsity="2:4").rows
    read = int(rows.weight_bytes[rows.sparsity > 0].sum())
    unpruned = spec.parameters - sum(i * o for layer in spec.layers for i, o in prunable(layer, spec.hidden))
    assert read == memory.weights_bytes(spec, scenario) - 2 * unpruned


@pytest.mark.parametrize(("sparsity", "folds"), [("2:4", 16), ("1:4", 8), ("1:2", 16), ("4:8", 16), ("1:16", 2)])
def test_an_array_folds_what_is_kept(sparsity: str, folds: int) -> None:
    """One array of 128 x 128, one column of tiles: K = 4096 is 32 dense row folds, and N/M of them compressed."""
    unit = sparse_npu(sparsity, num_arrays=1, peak={"fp16": "32.768 TFLOP/s", "bf16": "32.768 TFLOP/s"})
    unit = unit.replace({"memory.bandwidth": "800 TB/s"})
    machine = devices.resolve(unit.spec)["npu"]
    dense, sparse = (devices.systolic.cost(gemm(pattern, m=512, n=128, k=4096), machine) for pattern in ("dense", sparsity))
    launch = CAUSES.index("launch")
    first = CAUSES.index("fill")  # holds the first operands' way from DRAM, too
    array = [int(c.total_cycles[0] - c.cycles[0, launch] - c.cycles[0, first]) + 128 for c in (dense, sparse)]
    assert array[0] == gemm_cycles(512, 128, 4096, rows=128, cols=128)[0] == 128 + 32 * 512 + 254
    assert array[1] == gemm_cycles(512, 128, 128 * folds, rows=128, cols=128)[0] == 128 + folds * 512 + 254
    mac = ACTION["mac_bf16"]
    assert sparse.actions[0, mac] * 32 == dense.actions[0, mac] * folds


def test_a_decode_that_waits_for_weights_reads_nine_sixteenths_of_them() -> None:
    """2:4 in bf16: half of the values, 18 bits each instead of 16."""
    machine = devices.resolve(sparse_npu("2:4").spec)["npu"]
    dense, sparse = (devices.systolic.cost(gemm(pattern, m=1, n=8192, k=8192, kind="gemv"), machine) for pattern in ("dense", "2:4"))
    moved = ACTION["dram_io_bytes"]
    assert sparse.actions[0, moved] / dense.actions[0, moved] == pytest.approx(9 / 16, rel=1e-3)


@settings(max_examples=60)
@given(st.sampled_from(PATTERNS), st.integers(1, 64), st.integers(1, 300), st.integers(1, 700))
def test_sparse_weights_are_never_slower_but_for_the_first_tile(sparsity: str, m: int, n: int, k: int) -> None:
    """A full first tile of the array carries indices, and the vectors for it are M / N times as long."""
    machine = devices.resolve(sparse_npu(*PATTERNS).spec)["npu"]
    dense, sparse = (devices.systolic.cost(gemm(pattern, m=m, n=n, k=k), machine).total_cycles[0] for pattern in ("dense", sparsity))
    keep, group = map(int, sparsity.split(":"))
    wider = 128 * 128 * 4 / 8 + 128 * (group / keep - 1) * 2 * m
    assert sparse <= dense + wider / machine.memory_bytes_per_cycle + 2  # each cause of a time is rounded up alone


def test_compressed_weights_stay_in_the_array_whatever_dataflow_dense_ones_would_choose() -> None:
    machine = devices.resolve(sparse_npu("2:4", dataflow="auto").spec)["npu"]
    rows = [gemm(pattern, m=64, n=64, k=4096) for pattern in ("dense", "2:4")]
    chosen = [devices.systolic.cost(row, machine).choice[0] for row in rows]
    stationary = devices.systolic.cost(rows[1], devices.resolve(sparse_npu("2:4").spec)["npu"])
    assert chosen[0] != chosen[1] == stationary.choice[0]


def compressed(k: int, n: int, sparsity: str) -> tuple[Ints, Ints, Ints]:
    """A pruned weight [k, n], and as an array holds it: kept values and the rows that they come from, [kept, n] each."""
    keep, group = map(int, sparsity.split(":"))
    rng = np.random.default_rng(k * n)
    dense = np.zeros((k, n), np.int64)
    places = []
    for start in range(0, k, group):
        size = min(group, k - start)
        picked = np.sort(np.argsort(rng.random((n, size)), axis=1)[:, : min(keep, size)], axis=1) + start
        places.append(picked.T)
    rows = np.concatenate(places)
    values = rng.integers(-99, 100, rows.shape)
    np.put_along_axis(dense, rows, values, axis=0)
    return dense, values, rows


@pytest.mark.parametrize("sparsity", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize(("m", "n", "k"), [(5, 3, 16), (9, 6, 23), (1, 4, 40)])
def test_registers_multiply_what_was_compressed(sparsity: str, m: int, n: int, k: int) -> None:
    """Every cell gets the activation that its index names: column by column, a's gathered columns past the kept values."""
    weight, values, places = compressed(k, n, sparsity)
    a = np.random.default_rng(m).integers(-99, 100, (m, k))
    for column in range(n):
        held = values[:, column : column + 1]
        done = multiply(a[:, places[:, column]], held, rows=8, cols=1)
        np.testing.assert_array_equal(done.product[:, 0], (a @ weight)[:, column])
    # No cell's time depends on what it holds: the whole array takes what a dense matrix of the kept rows takes.
    whole = multiply(np.ones((m, len(values)), np.int64), values, rows=8, cols=4)
    counted = kept(np.array([k]), np.array([SPARSITIES.index(sparsity)]))
    assert whole.cycles == gemm_cycles(m, n, counted, rows=8, cols=4)[0]


def test_a_run_on_hardware_that_can_is_faster_and_smaller() -> None:
    asked = {"batch": 8, "prompt": 256, "output": 4}
    dense, sparse = (gv.run("llama3.2-1b", sparse_npu("2:4"), **asked, weight_sparsity=pattern) for pattern in ("dense", "2:4"))
    assert sparse.tpot_s < dense.tpot_s
    assert sparse.run.memory.weights_bytes < dense.run.memory.weights_bytes
    assert sparse.energy_j < dense.energy_j


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        ("h100-sxm", "h100-sxm: unit gpu, a gpu, cannot use 2:4 weights. Expected dense."),
        ("cpu-server", "cpu-server: unit cpu, a cpu, cannot use 2:4 weights. Expected dense."),
        ("npu-hbm2", "npu-hbm2: unit npu, a systolic, cannot use 2:4 weights. Expected dense."),
        (sparse_npu("1:4", "4:8"), "npu-hbm2: unit npu, a systolic, cannot use 2:4 weights. Expected dense or 1:4 or 4:8."),
    ],
)
def test_hardware_that_cannot_says_so(hardware: str | Hardware, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        gv.run("llama3.2-1b", hardware, prompt=16, output=2, weight_sparsity="2:4")
    assert str(caught.value) == said


@pytest.mark.parametrize("wish", ["4:2", "2/4", "50 %", None, "3:4"])
def test_a_pattern_that_there_is_not_is_named(wish: str) -> None:
    with pytest.raises(ValueError) as caught:
        Scenario(weight_sparsity=wish)
    assert str(caught.value) == f"weight_sparsity is {wish!r}. Expected one of {', '.join(SPARSITIES)}."


def test_a_bare_pattern_in_yaml_is_a_number_and_the_error_says_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: npu-hbm2\nschema_version: 1\nname: mine\nunits:\n  npu:\n    sparsity: [2:4]\n")
    with pytest.raises(ValueError, match=r"mine\.yaml:6: units\.npu\.sparsity\.0: 124 is no pattern\. .* in quotes"):
        load(file)
    file.write_text(file.read_text().replace("[2:4]", '["2:4"]'))
    assert load(file).spec.units["npu"].sparsity == ["2:4"]


@pytest.mark.parametrize("dataflow", ["os", "is"])
def test_sparse_weights_need_an_array_that_keeps_weights(dataflow: str) -> None:
    with pytest.raises(ValueError, match=f"sparsity needs stationary weights but dataflow is {dataflow}"):
        sparse_npu("2:4", dataflow=dataflow)


def test_buffers_hold_the_wider_vectors_of_sparse_weights() -> None:
    """1:16 sends 16 activations past each row: two vectors of 128 x 16 x 2 B are 8 KiB."""
    sizes = {"input": "4 KiB", "weight": "1 MiB", "output": "1 MiB"}
    assert sparse_npu("2:4", buffers=sizes).spec.units["npu"].buffers.input == 4096
    with pytest.raises(ValueError, match=r"buffers\.input is .* but two tiles of it are"):
        sparse_npu("1:16", buffers=sizes)


def test_a_trace_written_before_there_was_sparsity_loads_as_dense() -> None:
    made = gv.trace("gpt2", prompt=8, output=2)
    about = {"prompt": made.requests.prompt.tolist(), "sub_batch": made.requests.sub_batch.tolist(), "devices": 1}
    old = from_frame(made.to_frame().drop(columns="sparsity"), about, "old.csv")
    np.testing.assert_array_equal(np.stack(old.rows), np.stack(made.rows))


def test_a_pattern_survives_a_trace_file(tmp_path: Path) -> None:
    from gemvane.workloads.trace import load as load_trace

    made = gv.trace("gpt2", prompt=8, output=2, weight_sparsity="1:4")
    made.save(tmp_path / "t.csv")
    np.testing.assert_array_equal(np.stack(load_trace(tmp_path / "t.csv").rows), np.stack(made.rows))
    assert replace(made, devices=2).rows.sparsity.max() == SPARSITIES.index("1:4")


def test_the_option_reaches_trace_and_run_and_what_cannot_run_is_one_sentence() -> None:
    def asked(*words: str) -> Any:
        return CliRunner().invoke(app, [words[0], "llama3.2-1b", *words[1:], "--prompt", "16", "--output", "2", "--weight-sparsity", "2:4"])

    traced = json.loads(asked("trace", "--json").stdout)
    dense = sum(row["weight_bytes"] for row in summary(gv.trace("llama3.2-1b", prompt=16, output=2)))
    assert traced["scenario"]["weight_sparsity"] == "2:4"
    assert traced["weight_bytes"] < dense
    assert "weights 2:4" in asked("trace").stdout
    refused = asked("run", "--hw", "h100-sxm")
    assert refused.exit_code == 2
    assert "unit gpu, a gpu, cannot use 2:4 weights" in refused.stderr and refused.stderr.count("\n") == 1
