"""The CPU model: ceilings of arithmetic, caches and memory, tiles over cores, and what a hardware file must say."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim.costs import ACTION, BOUNDS
from gemvane.sim.devices import cpu as model
from gemvane.sim.estimate import estimate_rows
from gemvane.sim.schema import Cpu
from gemvane.workloads.kernels import rows_from_table
from gemvane.workloads.ops import Rows

SERVER = gv.hardware("cpu-server")
OVERHEAD_US = 5.0


def gemm(m: int, n: int, k: int, dtype: str = "bf16", batch: int = 1) -> Rows:
    return rows_from_table({"op": ["bmm" if batch > 1 else "gemm"], "dtype": [dtype], "batch": [batch], "M": [m], "N": [n], "K": [k]})


def attention(op: str, q: int, kv: int) -> Rows:
    return rows_from_table({"op": [op], "dtype": ["bf16"], "batch": [4], "heads_q": [32], "heads_kv": [8], "head_dim": [128], "q_len": [q],
                            "kv_len": [kv]})


def us(rows: Rows, hardware: gv.Hardware = SERVER) -> float:
    return float(estimate_rows(rows, hardware).latency_ps[0]) / 1e6


def machine(hardware: gv.Hardware = SERVER) -> model.ResolvedCpu:
    unit = hardware.spec.units["cpu"]
    assert isinstance(unit, Cpu)
    return model.resolve("cpu", unit, hardware.spec)


def test_a_large_matmul_runs_at_the_sustained_peak() -> None:
    rate = 2 * 8192**3 / (us(gemm(8192, 8192, 8192)) - OVERHEAD_US) * 1e6
    assert rate == pytest.approx(131.1e12 * 0.6, rel=0.01)


def test_a_gemv_runs_at_the_memory_bandwidth() -> None:
    size = 2 * (8192 * 8192 + 2 * 8192)
    assert us(gemm(1, 8192, 8192)) - OVERHEAD_US == pytest.approx(size / (307.2e9 * 0.85) * 1e6, rel=1e-3)
    assert BOUNDS[estimate_rows(gemm(1, 8192, 8192), SERVER).bound[0]] == "memory"


def test_fewer_tiles_than_cores_leave_cores_idle() -> None:
    some, all_, more = gemm(32, 512, 4096), gemm(32, 2048, 4096), gemm(32, 2080, 4096)      # 16, 64 and 65 tiles on 64 cores
    cycles = [model._multiply(rows, machine())[0] for rows in (some, all_, more)]
    assert cycles == pytest.approx([cycles[0], cycles[0], 2 * cycles[0]])


def test_a_thin_product_is_not_padded_to_a_tile_where_vectors_are_faster() -> None:
    rows = gemm(1, 4096, 4096)
    assert model._multiply(rows, machine())[0] <= 4096 * 4096 / (64 * 32 * 0.5)      # fp32 lanes of 64 cores, half of them sustained


def test_a_block_in_a_cache_is_read_once_for_each_block_of_the_product() -> None:
    rows = gemm(8192, 8192, 8192)
    traffic = model.level_bytes(rows, machine())
    side = np.sqrt(2 * 2**20 / (3 * 2))      # three blocks of bf16 fill an L2 of 2 MiB
    assert traffic[2][0] == pytest.approx(8192**3 * 2 * 2 / side)
    assert traffic[0][0] == pytest.approx(8192**3 * 2 * (1 / 32 + 1 / 32))      # register tiles, out of L1
    assert all(outer <= inner for inner, outer in pairwise(traffic))


def test_operands_that_fit_cross_each_level_once() -> None:
    rows = rows_from_table({"op": ["add"], "dtype": ["fp32"], "M": [64], "N": [1024]})
    assert [float(level[0]) for level in model.level_bytes(rows, machine())] == [3 * 64 * 1024 * 4] * 4


def test_without_an_l3_there_is_one_level_less() -> None:
    assert len(machine().cache_bytes) == 3
    assert len(machine(SERVER.replace({"units.cpu.l3": None})).cache_bytes) == 2


def test_what_does_not_overlap_is_added() -> None:
    rows = gemm(128, 8192, 8192)
    whole, none = us(rows), us(rows, SERVER.replace({"units.cpu.overlap": "0.001 %"}))
    cpu = machine()
    compute = model._multiply(rows, cpu)[0] / cpu.freq_hz * 1e6
    rates = (*cpu.cache_bytes_per_cycle, cpu.memory_bytes_per_cycle)
    levels = zip(model.level_bytes(rows, cpu), rates, strict=True)
    memory = max(bytes_[0] / rate for bytes_, rate in levels) / cpu.freq_hz * 1e6
    assert whole == pytest.approx(OVERHEAD_US + max(compute, memory), rel=1e-3)
    assert none == pytest.approx(OVERHEAD_US + compute + memory, rel=1e-3)


def test_blocks_of_keys_on_the_diagonal_are_computed_whole() -> None:
    assert model._cut_blocks(attention("attention_prefill", 256, 256))[0] == pytest.approx(2, rel=0.01)      # one block holds every key
    assert model._cut_blocks(attention("attention_prefill", 4096, 4096))[0] == pytest.approx(1 + 256 / 2048, rel=0.01)
    assert model._cut_blocks(attention("attention_decode", 1, 4096))[0] == 1


def test_a_type_without_a_unit_runs_in_the_next_one_at_its_share() -> None:
    narrow = SERVER.replace({"units.cpu.macs_per_core": {"fp32": 32}, "units.cpu.peak": {"fp32": "8.19 TFLOP/s"},
                             "units.cpu.sustained": {"fp32": "50 %"}})
    costs = model.cost(gemm(64, 64, 64), machine(narrow))
    assert costs.actions[0, ACTION["mac_fp32"]] == 64**3 and costs.actions[0, ACTION["mac_bf16"]] == 0
    assert us(gemm(4096, 4096, 4096), narrow) == pytest.approx(us(gemm(4096, 4096, 4096, "fp32"), narrow), rel=0.01)


size = st.integers(1, 5000)


@given(size, size, size, st.sampled_from(["memory", "units.cpu.l1", "units.cpu.l2", "units.cpu.l3"]))
@settings(max_examples=60)
def test_no_faster_level_slows_a_kernel_down(m: int, n: int, k: int, level: str) -> None:
    changes: dict[str, Any] = {f"{level}.bandwidth": "100 TB/s"} | ({"memory.pins": None} if level == "memory" else {})
    assert us(gemm(m, n, k), SERVER.replace(changes)) <= us(gemm(m, n, k))


@given(size, size, size)
@settings(max_examples=60)
def test_time_is_never_less_than_the_sum_of_its_floor_and_its_ideal(m: int, n: int, k: int) -> None:
    costs = model.cost(gemm(m, n, k), machine())
    assert costs.total_cycles[0] >= m * n * k / (64 * 512) + OVERHEAD_US * 2000


@pytest.mark.parametrize(("change", "message"), [
    ({"units.cpu.macs_per_core": {"bf16": 512}, "units.cpu.peak": {"bf16": "131.1 TFLOP/s"}}, "macs_per_core has no fp32"),
    ({"units.cpu.peak": {"fp32": "8.19 TFLOP/s"}}, "macs_per_core has bf16 but peak has not"),
    ({"units.cpu.sustained": {"fp32": "120 %"}}, "'120 %' is not a share"),
    ({"units.cpu.l1.size": "48 GHz"}, "'48 GHz' has the wrong unit 'GHz'"),
])
def test_a_wrong_file_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="cpu-server") as error:
        SERVER.replace(change)
    assert message in str(error.value)
