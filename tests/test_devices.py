"""GPU, vector unit, CPU and links: ceilings, floors and counts of single operators."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim.costs import ACTION, CHOICES
from gemvane.sim.devices import cost, link, resolve
from gemvane.sim.devices.gpu import TILES
from gemvane.sim.devices.link import ResolvedLink
from gemvane.sim.estimate import estimate_rows
from gemvane.workloads.kernels import rows_from_table
from gemvane.workloads.ops import Rows
from gemvane.workloads.trace import Requests

NOBODY = Requests(np.empty(0, np.int64), np.empty(0, np.int64))
H100 = gv.hardware("h100-sxm")
FITTED = resolve(H100.spec)["gpu"].physics
FLOOR_US = FITTED.floor_us


def gemm(m: int, n: int, k: int, dtype: str = "bf16") -> Rows:
    return rows_from_table({"op": ["gemm"], "dtype": [dtype], "M": [m], "N": [n], "K": [k]})


def microseconds(rows: Rows, hardware: gv.Hardware = H100) -> float:
    return float(estimate_rows(rows, hardware).latency_ps[0]) / 1e6


def test_an_empty_kernel_takes_the_floor() -> None:
    assert microseconds(gemm(1, 16, 16)) == pytest.approx(FLOOR_US, rel=0.1)


def test_a_large_matmul_runs_at_the_sustained_peak() -> None:
    m = n = k = 16896  # 66 x 132 tiles of 256 x 128: whole waves on 132 SMs
    rate = 2 * m * n * k / microseconds(gemm(m, n, k)) * 1e6
    clock = (1 + FITTED.cap_drop) ** -0.5  # that the power limit leaves where the tensor cores never wait
    assert 0.9 < rate / (989.4e12 * 0.803 * FITTED.tensor_factor * clock) <= 1


def test_a_gemv_runs_at_the_sustained_memory_bandwidth() -> None:
    n = k = 16384
    bytes_moved = 2 * (n * k + n + k)
    assert microseconds(gemm(1, n, k)) - FLOOR_US == pytest.approx(bytes_moved / (3.35e12 * 0.88 * FITTED.read_factor) * 1e6, rel=0.05)


def test_one_tile_too_many_costs_most_of_a_wave_where_kernels_are_not_persistent() -> None:
    a100 = gv.hardware("a100-80g")
    one_wave, spill = gemm(12 * 256, 9 * 128, 8192), gemm(12 * 256 + 1, 9 * 128, 8192)  # 12 x 9 tiles on 108 SMs, and 13 x 9
    assert microseconds(spill, a100) > 1.1 * microseconds(one_wave, a100)  # smaller tiles soften the second wave, but cannot hide it


def test_fp8_doubles_the_rate_of_a_compute_bound_matmul() -> None:
    slow, fast = (microseconds(gemm(16896, 16896, 16896, d)) for d in ("bf16", "fp8"))
    assert slow / fast == pytest.approx(2, rel=0.15)  # each library reaches its own share of the peak


def test_a_gpu_without_a_type_multiplies_in_the_next_one_and_counts_it_so() -> None:
    v100 = gv.hardware("v100")
    costs = cost("gpu", gemm(64, 64, 64), resolve(v100.spec)["gpu"], NOBODY)
    assert costs.actions[0, ACTION["mac_fp16"]] == 64**3
    assert costs.actions[0, ACTION["mac_bf16"]] == 0


shape = st.integers(1, 40_000)


@given(shape, shape, shape, st.sampled_from(["h100-sxm", "t4", "mi300x", "tpu-v5e", "tpu-v1", "npu-hbm2", "cpu-server"]))
@settings(max_examples=200)
def test_no_matmul_beats_its_roofline(m: int, n: int, k: int, name: str) -> None:
    hardware = gv.hardware(name)
    rows = gemm(m, n, k)
    seconds = estimate_rows(rows, hardware).latency_ps[0] / 1e12
    unit = hardware.spec.units[hardware.spec.mapping["matmul"]]
    peak = max(getattr(unit, "tensor_peak", getattr(unit, "peak", None)).values())
    assert seconds >= 2 * m * n * k / peak / 1.02  # data sheets round their peaks: the loader allows 2 %
    assert seconds >= rows.weight_bytes[0] / hardware.spec.memory.bandwidth


@given(shape, shape, shape, st.sampled_from([1.5, 2.0, 10.0]))
@settings(max_examples=100)
def test_more_bandwidth_is_never_slower(m: int, n: int, k: int, factor: float) -> None:
    faster = H100.replace({"memory.bandwidth": f"{3.35 * factor} TB/s", "memory.pins": int(5120 * factor)})
    assert microseconds(gemm(m, n, k), faster) <= microseconds(gemm(m, n, k))


def test_one_gemm_costs_the_same_alone_and_in_a_table() -> None:
    shapes = [(1, 4096, 4096), (64, 4096, 11008), (8192, 128, 64), (17, 33, 65)]
    table = pd.DataFrame([{"op": "gemm", "dtype": "bf16", "M": m, "N": n, "K": k} for m, n, k in shapes])
    together = gv.estimate_kernels(table, "h100-sxm").latency_us
    np.testing.assert_array_equal(together, [microseconds(gemm(*s)) for s in shapes])


def test_the_tile_menu_is_what_tensor_cores_can_issue() -> None:
    assert (TILES % 16 == 0).all()


def collective(kind: str, size_bytes: int, peers: int) -> Rows:
    return rows_from_table({"op": [kind], "dtype": ["bf16"], "bytes": [size_bytes], "tp": [peers]})


RING = ResolvedLink(10**9, bytes_per_cycle=100.0, latency_cycles=1000.0, algorithms=("ring",), axes=0, wraps_from=0, max_devices=8)


def test_a_ring_allreduce_sends_all_but_one_share_twice() -> None:
    costs = link.cost(collective("allreduce", 8_000_000, 8), RING)
    assert costs.total_cycles[0] == 2 * 7 * 1000 + 2 * 7 / 8 * 8_000_000 / 100
    assert costs.actions[0, ACTION["link_bytes"]] == 2 * 7 * 1_000_000


def test_an_allgather_is_half_an_allreduce() -> None:
    whole, half = (link.cost(collective(kind, 8_000_000, 8), RING).total_cycles[0] for kind in ("allreduce", "allgather"))
    assert half * 2 == whole


@pytest.mark.parametrize(("peers", "axes", "wraps_from", "hops", "links"), [
    (2, 2, 16, 1, 1),      # two neighbours
    (8, 2, 16, 3 + 1, 2),  # 4 x 2, two lines
    (16, 2, 4, 2 + 2, 4),  # 4 x 4, two rings, gone round both ways
    (16, 2, 16, 3 + 3, 2),
    (64, 3, 4, 6, 6),      # a full cube of TPU v4
    (7, 2, 16, 6, 1),      # a line of seven
])
def test_a_torus_gathers_along_all_its_axes_at_once(peers: int, axes: int, wraps_from: int, hops: int, links: int) -> None:
    torus = RING._replace(algorithms=("torus",), axes=axes, wraps_from=wraps_from)
    costs = link.cost(collective("allgather", 8_000_000, peers), torus)
    assert costs.total_cycles[0] == pytest.approx(hops * 1000 + (peers - 1) / peers * 8_000_000 / (100 * links / (2 * axes)), abs=1)
    assert CHOICES[costs.choice[0]] == "torus"
    scattered = link.cost(collective("reducescatter", 8_000_000, peers), torus)
    assert scattered.total_cycles[0] == costs.total_cycles[0]


def test_a_torus_says_its_axes() -> None:
    with pytest.raises(ValueError, match="axes is missing but topology is torus"):
        gv.hardware("h100-sxm").replace({"units.link.topology": "torus"})


def test_a_small_message_prefers_the_tree_and_a_large_one_the_ring() -> None:
    tree, auto = RING._replace(algorithms=("tree",)), RING._replace(algorithms=("ring", "tree"))
    for size, best in ((1_000, tree), (80_000_000, RING)):
        rows = collective("allreduce", size, 8)
        assert link.cost(rows, auto).total_cycles[0] == link.cost(rows, best).total_cycles[0]


def test_a_vector_operator_stays_on_chip_while_it_fits() -> None:
    npu = gv.hardware("npu-hbm2")
    machine = resolve(npu.spec)["vector"]
    rows = [rows_from_table({"op": ["add"], "dtype": ["bf16"], "M": [m], "N": [4096]}) for m in (64, 100_000)]
    inside, outside = (cost("vector", r, machine, NOBODY).actions[0, ACTION["dram_io_bytes"]] for r in rows)
    assert inside == 0
    assert outside == 3 * 100_000 * 4096 * 2  # two operands in, one out


def test_a_kernel_on_a_pim_machine_needs_no_requests() -> None:
    table = pd.DataFrame([{"op": "attention_decode", "dtype": "bf16", "batch": b, "heads_q": 32, "heads_kv": 8, "head_dim": 128, "q_len": 1,
                           "kv_len": kv} for b, kv in ((1, 512), (64, 512), (64, 1024))])
    one, many, longer = gv.estimate_kernels(table, "neupims").latency_us
    assert one * 2 == pytest.approx(many, rel=0.01)  # 64 requests on 32 channels
    assert many < longer


def test_costs_never_lose_a_cycle_to_rounding() -> None:
    machine = resolve(H100.spec)["gpu"]
    costs = cost("gpu", gemm(777, 3333, 999), machine, NOBODY)
    assert (costs.cycles >= 0).all()
    assert dataclasses.is_dataclass(H100)
