"""GPU kernels: closed-form expectations on small tables, and what must hold for every shape."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim.calibration import DecodeCondition, GemmCondition, Physics, PrefillCondition
from gemvane.sim.devices import gpu_dispatch, gpu_gemm, resolve
from gemvane.sim.devices.gpu import EVENT_CALLS, GRAPH_NODE_US, HOST_BEFORE, HOST_CALL_US, STREAM_US
from gemvane.sim.devices.gpu_attention import (
    FLASH2,
    FLASH3,
    LEAN,
    NAMED,
    OF_FRAMEWORK,
    SPLIT_KV,
    AttentionKernel,
    Heads,
    decode,
    decode_grid,
    joining_us,
    prefill,
    unfused,
)
from gemvane.sim.devices.gpu_machine import CAP_US, ResolvedGpu, Shape
from gemvane.sim.estimate import estimate_kernel
from gemvane.workloads.ops import DTYPES

BF16 = DTYPES.index("bf16")
H100 = gv.hardware("h100-sxm")


def machine(**physics: float) -> ResolvedGpu:
    """An H100 whose fitted numbers are round ones."""
    plain = {"floor_us": 2.0, "tensor_factor": 1.0, "read_factor": 1.0, "write_factor": 1.0, "l2_factor": 10.0, "overlap": 1e3,
             "epilogue_clocks": 1e-9, "split_us": 1.0, "cap_drop": 0.0}
    gpu: ResolvedGpu = resolve(H100.spec)["gpu"]
    return gpu._replace(physics=Physics(**(plain | physics)), tensor_sustained=1.0, conditions=())


def matmul_us(m: int, n: int, k: int, gpu: ResolvedGpu, kernel: gpu_gemm.Kernel = gpu_gemm.CUBLAS, copies: int = 0) -> float:
    shape = Shape(*(np.array([float(x)]) for x in (1, m, n, k, copies)))
    parts = gpu_gemm.gemm(shape, gpu_gemm.Types(BF16, 2, 2, 2, 0), gpu, gpu_gemm.Setting(kernel, GemmCondition()))
    return float((parts.fixed + parts.busy)[0])


def table(op: str, **columns: object) -> pd.DataFrame:
    return pd.DataFrame([{"op": op, "dtype": "bf16", **columns}])


def test_whole_waves_of_tiles_run_at_the_peak() -> None:
    m, n, k = 12 * 256, 11 * 128, 65536  # 12 x 11 tiles of 256 x 128 on 132 SMs
    assert matmul_us(m, n, k, machine()) == pytest.approx(2.0 + 2 * m * n * k / 989.4e6, rel=0.001)


def test_a_partly_filled_wave_costs_a_whole_one_where_kernels_are_not_persistent() -> None:
    kernel = gpu_gemm.DEEPGEMM._replace(tiles=np.array([(128.0, 128.0)]))
    one, spill = (matmul_us(m, 11 * 128, 8192, machine(), kernel) for m in (12 * 128, 12 * 128 + 1))
    assert spill - 2.0 == pytest.approx(2 * (one - 2.0), rel=0.01)


def test_a_split_inner_dimension_fills_the_sms_and_costs_a_second_kernel() -> None:
    free, dear = (matmul_us(64, 64, 65536, machine(split_us=us)) for us in (1.0, 100.0))
    assert free < dear
    whole = matmul_us(64, 64, 65536, machine(), gpu_gemm.CUBLAS._replace(splits=(1,)))
    assert dear <= whole


def test_weights_in_l2_are_read_faster_than_cold_ones() -> None:
    warm, cold = (matmul_us(1, 1024, 1024, machine(), copies=copies) for copies in (1, 0))
    assert cold - 2.0 >= 2 * 1024 * 1024 / (3.35e6 * 0.88)
    assert warm < cold


def test_a_tuned_kernel_keeps_the_tile_of_the_power_of_two_below() -> None:
    # 2048 columns on 132 SMs: 4 x 32 tiles of 64 x 64 are one wave, 5 x 32 are two; 3 x 43 tiles of 128 x 48 are one.
    best = gpu_gemm.DEEPGEMM._replace(tiles=np.array([(64.0, 64.0), (128.0, 48.0)]))
    at = {m: [matmul_us(m, 2048, 7168, machine(), best._replace(tuned=tuned)) for tuned in (False, True)] for m in (256, 257)}
    assert at[256][0] == at[256][1]
    assert at[257][1] - 2.0 == pytest.approx((at[257][0] - 2.0) * 2 * 64 * 64 / (128 * 48), rel=0.01)


def fp8_shape(m: int, n: int, k: int) -> Shape:
    return Shape(*(np.array([float(x)]) for x in (1, m, n, k, 0)))


@pytest.mark.parametrize(("m", "n", "tile"), [
    (1, 1280, (16, 64, 2)), (16, 1281, (16, 64, 1)), (17, 1280, (16, 64, 4)), (32, 4096, (32, 64, 1)), (33, 4096, (64, 64, 1)),
    (128, 4096, (64, 64, 1)), (65, 4097, (64, 128, 2)), (129, 64, (128, 128, 2))])
def test_sglangs_fp8_tile_follows_its_table(m: int, n: int, tile: tuple[int, int, int]) -> None:
    launch = gpu_dispatch.fixed_fp8(fp8_shape(m, n, 4096), machine())
    assert (launch.rows[0], launch.cols[0], launch.down[0]) == tile


def test_deepgemm_fills_one_wave_before_it_shares_operands() -> None:
    one, two = (gpu_dispatch.deepgemm(fp8_shape(m, 2048, 7168), machine()) for m in (1024, 4096))
    assert (one.rows[0], one.cols[0], one.down[0] * one.across[0]) == (128, 128, 1)  # 8 x 16 blocks on 132 SMs
    assert two.down[0] * two.across[0] == 2
    assert np.ceil(4096 / two.rows[0]) * np.ceil(2048 / two.cols[0]) > 132


def blocks_us(m: int, n: int, k: int) -> float:
    gpu = machine()
    launch = gpu_dispatch.fixed_fp8(fp8_shape(m, n, k), gpu)
    macs_per_us = 1978.9e6 / 2
    return float(gpu_dispatch.blocks_us(fp8_shape(m, n, k), launch, 1.0, macs_per_us, 0.0, 1e-9, gpu).time[0])


def test_a_lone_block_of_a_dispatched_kernel_is_bound_by_the_port_of_its_sm() -> None:
    assert blocks_us(64, 64, 65536) == pytest.approx(65536 * (16 + 64 / 4) / (64 * 1830), rel=0.01)


def test_rows_outside_the_matrix_cost_l2_more_than_rows_inside() -> None:
    # 257 rows are padded to four tiles of 128, as many as 512 rows fill.
    assert blocks_us(257, 51200, 8192) > 1.1 * blocks_us(512, 51200, 8192)


def test_the_power_limit_acts_on_long_runs_of_busy_kernels() -> None:
    gpu = machine(cap_drop=0.5)
    reached, run_us = np.array([1.0, 1.0, 0.1, 1.0]), np.array([1e3, np.inf, np.inf, CAP_US])
    np.testing.assert_allclose(gpu.clock_under_cap(reached, run_us), [1, 1.5**-0.5, 1.005**-0.5, 1.25**-0.5], rtol=1e-6)


def test_one_row_streams_its_weights_where_kernels_are_not_persistent() -> None:
    gpu = machine()._replace(asynchronous=False)
    one, many = (matmul_us(1, n, 8192, gpu) for n in (4096, 8192))
    assert many - one == pytest.approx(2 * 4096 * 8192 / (3.35e6 * 0.88), rel=0.01)
    assert matmul_us(1, 128, 8192, gpu) > 2.0 + 8192 * gpu_gemm.GEMV_NS * 1e-3


def heads(batch: int = 1, heads_q: int = 32, heads_kv: int = 8, q: int = 1, kv: int = 4096, window: int = 0,
          bidirectional: bool = False) -> Heads:
    seen = np.minimum(kv - q + 1 + np.arange(q), window or kv)
    pairs = batch * (q * kv if bidirectional else int(seen.sum()))
    width, elements = 128, 2 * heads_kv * 128
    columns = (batch, heads_q, heads_kv, width, width, q, kv, window, pairs, 2, batch * min(kv, window or kv) * elements * 2,
               batch * q * heads_q * 2 * width * 2, 1)
    return Heads(*(np.array([float(c)]) for c in columns))


def prefill_us(what: Heads, kernel: AttentionKernel = FLASH2, **condition: float) -> float:
    free = {"score_rate": 1e9, "block_clocks": 0.0, "tail": 0.0, "tensor_factor": 1.0, "combine_us": 0.0}
    parts = prefill(what, BF16, machine(), kernel, PrefillCondition(**(free | condition)))
    return float((parts.fixed + parts.busy)[0])


def test_causal_tiles_are_skipped() -> None:
    causal, whole = (prefill_us(heads(batch=64, q=8192, kv=8192, bidirectional=b)) for b in (False, True))
    assert whole / causal == pytest.approx(2, rel=0.05)
    assert causal >= 2.0 + 4 * 64 * 32 * 128 * 8192 * 8193 / 2 / 989.4e6


def test_few_blocks_split_their_keys_where_the_kernel_can() -> None:
    few = heads(heads_q=1, heads_kv=1, q=128, kv=65536)
    assert prefill_us(few, FLASH3) < prefill_us(few, FLASH2)


def test_a_window_bounds_the_keys_of_a_prefill() -> None:
    assert prefill_us(heads(batch=16, q=16384, kv=16384, window=128)) < prefill_us(heads(batch=16, q=16384, kv=16384)) / 20


def test_a_block_with_few_rows_starts_sooner() -> None:
    """Half of 18,300 clocks (10 us) goes with the rows: 16 of 128 leave 1/2 + 1/16 of it."""
    few, all_ = (prefill_us(heads(heads_q=8, heads_kv=8, q=q, kv=128), block_clocks=18300.0, row_share=0.5) for q in (16, 128))
    assert all_ - few == pytest.approx(10.0 * (1 - 9 / 16), rel=0.02)


def test_wide_heads_and_converted_keys_take_longer_than_their_arithmetic() -> None:
    narrow = heads(batch=64, heads_q=8, heads_kv=8, q=1024, kv=1024)
    wide = narrow._replace(head_dim=np.array([256.0]), value_dim=np.array([256.0]))
    slow, plain = ({"wide_factor": factor, "score_rate": 1e9, "block_clocks": 0.0, "tail": 0.0} for factor in (2.0, 1.0))
    assert prefill_us(narrow, **slow) == prefill_us(narrow, **plain)
    assert prefill_us(wide, **slow) == pytest.approx(2 * prefill_us(wide, **plain), rel=0.02)
    assert prefill_us(narrow, **plain, convert_clocks=100.0) > 1.2 * prefill_us(narrow, **plain)


def test_tritons_prefill_masks_what_a_window_hides() -> None:
    seen, hidden = (heads(heads_q=8, heads_kv=8, q=8192, kv=8192, window=window) for window in (0, 1024))
    triton = OF_FRAMEWORK["triton"]
    assert prefill_us(hidden, triton._replace(hidden_share=0.0)) < 0.7 * prefill_us(hidden, triton)
    assert prefill_us(hidden, triton) < 0.6 * prefill_us(seen, triton)


def decode_us(what: Heads, kernel: AttentionKernel = SPLIT_KV, **condition: float) -> float:
    parts = decode(what, BF16, machine(), kernel, DecodeCondition(**({"overlap": 1e3} | condition)))
    return float((parts.fixed + parts.busy)[0])


def test_a_long_decode_runs_at_the_memory_bandwidth() -> None:
    what = heads(batch=128, kv=16384)
    assert decode_us(what) == pytest.approx(2.0 + float((what.cache_bytes + what.query_bytes)[0]) / (3.35e6 * 0.88), rel=0.02)


def test_keys_of_few_heads_are_split_over_the_sms() -> None:
    one = AttentionKernel(splits=False)
    assert decode_us(heads(heads_q=8, heads_kv=1, kv=65536)) < decode_us(heads(heads_q=8, heads_kv=1, kv=65536), one) / 5


def test_stream_k_decode_is_slower_than_whole_blocks_by_no_more_than_its_fixup() -> None:
    gpu = machine()
    for batch in (1, 5, 17, 20):
        what = heads(batch=batch, heads_q=8, heads_kv=8, kv=8192)
        fixup_us = joining_us(what, decode_grid(what, gpu, LEAN), gpu, LEAN, DecodeCondition())[0]
        assert 0 < fixup_us < 1
        assert decode_us(what, LEAN) <= decode_us(what, SPLIT_KV) * (1 + 1e-9) + fixup_us


@pytest.mark.parametrize(("pairs", "tiles", "parts"), [(8, 64, 22), (48, 64, 4), (173, 64, 1), (4, 3, 3), (1, 1, 1)])
def test_flashattention_2_splits_keys_by_how_well_places_fill(pairs: int, tiles: int, parts: int) -> None:
    """On 108 SMs, two blocks each: the fewest parts within 85 % of the best filling, none where 80 % of the places are taken."""
    gpu = machine()._replace(num_sms=108)
    what = heads(batch=1, heads_q=pairs, heads_kv=pairs, kv=tiles * 128)
    assert decode_grid(what, gpu, NAMED["split-kv"]).parts[0] == parts


def test_a_decode_without_grouping_multiplies_empty_rows() -> None:
    what = heads(batch=1, heads_q=8, heads_kv=8, kv=65536)
    walk_us = 65536 * 128 * 256 / (2048 * 0.63 * 1830)
    assert decode_us(what, NAMED["flash2"]) == pytest.approx(walk_us, rel=0.02)
    assert decode_us(what, NAMED["flash2"]._replace(synchronous=False)) == pytest.approx(0.63 * walk_us, rel=0.03)


def test_blocks_of_one_sm_wait_for_its_time() -> None:
    """A block a SM takes 128 tiles of 9,150 clocks; two take twice as long, and heads of 256 1.75 x 1.5 times."""
    one, two = (heads(batch=batch, heads_q=1, heads_kv=1, kv=16384) for batch in (132, 264))
    whole, wide = AttentionKernel(splits=False), one._replace(head_dim=np.array([256.0]), value_dim=np.array([256.0]))
    slow = {"sm_tile_clocks": 9150.0, "sm_wide": 1.5, "block_clocks": 1.0, "latency_clocks": 0.0, "block_width": 0.0}
    assert decode_us(one, whole, **slow) == pytest.approx(2.0 + 128 * 5.0, rel=0.001)
    assert decode_us(two, whole, **slow) == pytest.approx(2.0 + 2 * 128 * 5.0, rel=0.001)
    assert decode_us(wide, whole, **slow) == pytest.approx(2.0 + 1.75 * 1.5 * 128 * 5.0, rel=0.001)


def test_a_captured_decode_is_split_into_32_parts_at_most() -> None:
    what, gpu = heads(heads_q=1, heads_kv=1, kv=65536), machine()
    assert decode_grid(what, gpu, OF_FRAMEWORK["vllm"]).parts[0] == 32
    assert decode_grid(what, gpu, SPLIT_KV).parts[0] == 132


def test_pages_cost_their_look_up() -> None:
    what = heads(batch=8, heads_q=1, heads_kv=1, kv=8192)
    pages = [decode_us(what, AttentionKernel(splits=False, page=page)) for page in (1, 16, 0)]
    assert pages[0] - pages[2] == pytest.approx(8192 * 16 / 1830, rel=0.01)
    assert pages[1] - pages[2] == pytest.approx(8192 * 16 / 16 / 1830, rel=0.01)
    prompt = heads(batch=8, q=4096, kv=4096)
    assert prefill_us(prompt, NAMED["paged"]) > prefill_us(prompt, FLASH3)


def test_a_gpu_may_name_the_kernel_of_attentions_that_name_none() -> None:
    row = table("attention_decode", batch=1, heads_q=8, heads_kv=8, head_dim=128, q_len=1, kv_len=65536)
    named = H100.replace({"units.gpu.attention": "flash2"})
    alone, asked, own = (gv.estimate_kernels(t, hw).latency_us[0] for t, hw in (
        (row, H100), (row, named), (row.assign(kernel="flash3"), named)))
    assert asked > 3 * alone
    assert own == alone
    with pytest.raises(ValueError, match="attention"):
        H100.replace({"units.gpu.attention": "flash9"})


def test_an_unfused_attention_pays_for_its_score_matrix() -> None:
    what, gpu = heads(batch=8, q=4096, kv=4096), machine()
    matrix = 8 * 32 * 4096 * 4096 * 2
    parts = unfused(what, BF16, 2.0, gpu)
    assert parts.fixed[0] == 3 * 2.0
    assert parts.dram_bytes[0] >= 3.9 * matrix  # scores out, in and out of the softmax, into the values


def test_grouped_heads_share_their_keys() -> None:
    grouped, alone = (decode_us(heads(batch=64, heads_kv=kv_heads, kv=8192)) for kv_heads in (8, 32))
    assert alone > 3 * grouped


def test_the_launch_path_is_a_condition() -> None:
    rows = pd.concat([table("softmax", M=64, N=64, launch=launch) for launch in ("graph", "stream", "eager", "profiler")])
    graph, stream, eager, alone = gv.estimate_kernels(rows, "h100-sxm").latency_us
    assert graph - alone == pytest.approx(GRAPH_NODE_US, abs=0.01)
    assert stream - graph == pytest.approx(STREAM_US - GRAPH_NODE_US, abs=0.01)
    assert eager == pytest.approx(max(HOST_CALL_US, HOST_BEFORE * HOST_CALL_US + graph), abs=0.01)


def test_events_around_an_eager_operator_hide_a_short_kernel_and_not_the_call_before_a_long_one() -> None:
    def added(m: int) -> float:
        table = pd.DataFrame([{"op": "add", "dtype": "fp32", "M": m, "N": 1024, "framework": framework, "launch": launch}
                              for framework, launch in (("NeuSight", "eager"), ("", "profiler"))])
        eager, kernel = gv.estimate_kernels(table, "a100-40g").latency_us
        return float(eager - kernel)

    assert added(65536) == pytest.approx(HOST_BEFORE * HOST_CALL_US + GRAPH_NODE_US, abs=0.01)
    assert HOST_CALL_US < added(1) < (1 + EVENT_CALLS["neusight"]) * HOST_CALL_US


def test_one_kernel_is_a_row_of_a_table() -> None:
    row = {"op": "gemm", "dtype": "bf16", "M": 48, "N": 4096, "K": 4096, "framework": "sglang"}
    one, whole = estimate_kernel(H100, **row), gv.estimate_kernels(pd.DataFrame([row]), "h100-sxm").iloc[0]
    assert (one.latency_us, one.energy_uj, one.bound) == (whole.latency_us, whole.energy_uj, whole.bound)


def test_a_warm_cache_is_a_condition() -> None:
    rows = pd.concat([table("add", M=256, N=4096, cache=cache) for cache in ("warm", "cold")])
    warm, cold = gv.estimate_kernels(rows, "h100-sxm").latency_us
    assert cold - warm > 3 * 256 * 4096 * 2 * (1 / 3.35e6 - 1 / 7e6)


def test_a_kind_of_operator_has_conditions_of_its_own() -> None:
    rows = pd.concat([table(op, M=4096, N=8192, framework="vidur") for op in ("add", "rmsnorm")])
    add, norm = gv.estimate_kernels(rows, "a100-80g").latency_us
    assert norm > 1.2 * add  # though it moves two tensors, not three


def test_a_named_attention_kernel_is_run_as_named() -> None:
    columns = {"batch": 4, "heads_q": 32, "heads_kv": 32, "head_dim": 128, "q_len": 4096, "kv_len": 4096}
    flash, plain = (gv.estimate_kernels(table("attention_prefill", kernel=name, **columns), "a100-80g").latency_us[0]
                    for name in ("flash2", "unfused"))
    assert plain > 1.5 * flash


def test_fp8_rows_hold_the_quantisation_of_their_activations() -> None:
    shape = {"op": "gemm", "dtype": "fp8", "M": 4096, "N": 1024, "K": 8192}
    rows = pd.DataFrame([shape | {"framework": name} for name in ("", "trtllm 1.3")])
    alone, measured = gv.estimate_kernels(rows, "h100-sxm").latency_us
    assert measured > alone + 5


dimension = st.integers(1, 20_000)


@given(dimension, dimension, dimension, st.sampled_from(["a100-80g", "h100-sxm", "b200", "l40s", "mi300x"]))
@settings(max_examples=100, deadline=None)
def test_a_cold_matmul_is_never_below_its_roofline(m: int, n: int, k: int, name: str) -> None:
    hardware = gv.hardware(name)
    seconds = gv.estimate_kernels(table("gemm", M=m, N=n, K=k), hardware).latency_us[0] / 1e6
    unit = hardware.spec.units["gpu"]
    assert seconds >= 2 * m * n * k / unit.tensor_peak["bf16"] / 1.02  # type: ignore[union-attr]
    assert seconds >= 2 * n * k / hardware.spec.memory.bandwidth


@given(dimension, dimension, dimension)
@settings(max_examples=60, deadline=None)
def test_more_sms_are_never_slower(m: int, n: int, k: int) -> None:
    fewer, more = machine(), machine()._replace(num_sms=264)
    rate = fewer.tensor._replace(macs_per_cycle=fewer.tensor.macs_per_cycle * 2)
    more = more._replace(tensor=rate, l2_bytes_per_us=2 * fewer.l2_bytes_per_us)
    assert matmul_us(m, n, k, more) <= matmul_us(m, n, k, fewer) * 1.0001


@given(st.integers(1, 256), st.sampled_from([1, 8, 32]), st.integers(1, 100_000))
@settings(max_examples=60, deadline=None)
def test_a_longer_cache_is_never_faster_at_the_same_split(batch: int, heads_kv: int, kv: int) -> None:
    one = AttentionKernel(splits=False)
    shorter, longer = (decode_us(heads(batch=batch, heads_kv=heads_kv, kv=keys), one) for keys in (kv, kv + 128))
    assert shorter <= longer
