"""Thread blocks in time: closed expectations on regular grids, bounds on any, and the closed form of attention beside it."""

import inspect
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim.calibration import DecodeCondition, PrefillCondition
from gemvane.sim.devices import gpu_attention, gpu_blocks, resolve
from gemvane.sim.devices.gpu_attention import KEY_TILE, NAMED
from gemvane.sim.devices.gpu_blocks import Blocks, Ragged, Sms
from gemvane.sim.devices.gpu_machine import ResolvedGpu
from gemvane.sim.kernels.blocks import blocks_kernel
from gemvane.sim.schema import Gpu
from gemvane.workloads.kernels import KERNEL_NAMES
from gemvane.workloads.ops import DTYPES

BF16 = DTYPES.index("bf16")
H100: ResolvedGpu = resolve(gv.hardware("h100-sxm").spec)["gpu"]


def grid(count: int, compute_us: float = 0.0, dram_bytes: float = 0.0, l2_bytes: float = 0.0) -> Blocks:
    return Blocks(*(np.full(count, amount) for amount in (compute_us, dram_bytes, l2_bytes)))


@pytest.mark.parametrize(("slots", "abreast"), [(1, 1.0), (2, 1.0), (2, 2.0), (3, 2.0)])
def test_equal_blocks_come_in_waves(slots: int, abreast: float) -> None:
    """500 blocks of 2 us on 100 SMs: five a SM, so many at once, at the speed of `abreast` of them together."""
    waves = {(1, 1.0): 5 * 2.0, (2, 1.0): 2 * 4.0 + 2.0, (2, 2.0): 3 * 2.0, (3, 2.0): 3.0 + 2.0}[slots, abreast]
    assert gpu_blocks.run(grid(500, compute_us=2.0), Sms(100, slots, abreast)).total_us == pytest.approx(waves)


def test_all_blocks_share_the_memory() -> None:
    # 1000 x 3 kB at 6 kB/us; a block alone gets no more than 20 B/us, so the last 100 take as long as the first 900 would not.
    shared = gpu_blocks.run(grid(1000, dram_bytes=3e3), Sms(100, 5, dram_bytes_per_us=6e3))
    assert shared.total_us == pytest.approx(1000 * 3e3 / 6e3)
    capped = gpu_blocks.run(grid(100, dram_bytes=3e3), Sms(100, 5, dram_bytes_per_us=6e3, block_dram_bytes_per_us=20.0))
    assert capped.total_us == pytest.approx(3e3 / 20)
    cached = gpu_blocks.run(grid(1000, l2_bytes=3e3), Sms(100, 5, l2_bytes_per_us=1.2e4))
    assert cached.total_us == pytest.approx(1000 * 3e3 / 1.2e4)


def test_the_longest_of_its_works_is_a_blocks_time() -> None:
    on = Sms(10, 1, dram_bytes_per_us=100.0, l2_bytes_per_us=200.0)
    assert gpu_blocks.run(grid(10, 5.0, 30.0, 90.0), on).total_us == pytest.approx(5.0)  # 3.0 of memory, 4.5 of L2
    assert gpu_blocks.run(grid(10, 5.0, 60.0, 90.0), on).total_us == pytest.approx(6.0)


def test_blocks_of_an_sm_begin_one_after_another() -> None:
    times = gpu_blocks.run(grid(8, compute_us=1.0), Sms(2, 4, abreast=4.0, latency_us=0.5, issue_us=0.3))
    assert np.sort(times.end_us) == pytest.approx(np.repeat([1.5, 1.8, 2.1, 2.4], 2))
    assert times.enter_us.max() == 0


def test_a_block_enters_where_a_slot_is_free() -> None:
    times = gpu_blocks.run(Blocks(np.array([9.0, 1.0, 1.0, 1.0]), np.zeros(4), np.zeros(4)), Sms(2, 1))
    assert times.sm.tolist() == [0, 1, 1, 1]
    assert times.enter_us.tolist() == [0, 0, 1, 2]
    assert times.end_us.tolist() == [9, 1, 2, 3]


def test_a_block_speeds_up_when_others_have_read() -> None:
    # Both read 10 B at 1 B/us; then the second alone reads its other 20 at 2 B/us.
    times = gpu_blocks.run(Blocks(np.zeros(2), np.array([10.0, 30.0]), np.zeros(2)), Sms(2, 1, dram_bytes_per_us=2.0))
    assert times.end_us == pytest.approx([10.0, 20.0])


works = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1e4), st.floats(0, 1e4)), min_size=1, max_size=40)


@given(works, st.integers(1, 5), st.integers(1, 4), st.floats(0.5, 4), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_no_grid_beats_its_bounds_and_both_kernels_agree(work: list[tuple[float, float, float]], sms: int, slots: int, abreast: float,
                                                         latency: float) -> None:
    table = np.array(work)
    on = Sms(sms, slots, abreast, latency, 0.1, 4e3, 8e3, 1e3, 3e3)
    times = gpu_blocks.run(Blocks(*table.T), on)
    one_us = latency + np.max(np.maximum(table[:, 0], np.maximum(table[:, 1] / 1e3, table[:, 2] / 3e3)))
    least = max(one_us, table[:, 0].sum() / (sms * max(abreast, 1)), table[:, 1].sum() / 4e3, table[:, 2].sum() / 8e3)
    assert times.total_us >= least * (1 - 1e-9)
    assert times.total_us <= (table / np.array([min(1.0, abreast / slots), 1e3 / slots / sms, 3e3 / slots / sms])).sum() + len(work) * (
        latency + 0.1) + 1e-6
    span, sm = np.empty((len(work), 2)), np.empty(len(work), np.int64)
    rates = np.array([abreast, latency, 0.1, 4e3, 8e3, 1e3, 3e3])
    blocks_kernel.py_func(table, rates, sms, slots, span, sm)
    assert span[:, 0].tolist() == times.enter_us.tolist()
    assert span[:, 1].tolist() == times.end_us.tolist()
    assert sm.tolist() == times.sm.tolist()
    for each in range(sms):  # never more blocks than slots
        mine = np.flatnonzero(sm == each)
        assert all((np.count_nonzero((span[mine, 0] <= t) & (t < span[mine, 1])) <= slots) for t in span[mine, 0])


@pytest.mark.parametrize(("blocks", "on", "wish"), [
    (grid(0), Sms(1, 1), "the grid has no blocks"),
    (Blocks(np.array([1.0, -1.0]), np.zeros(2), np.zeros(2)), Sms(1, 1), "block 1: compute_us is -1"),
    (Blocks(np.ones(2), np.array([1.0, np.nan]), np.zeros(2)), Sms(1, 1), "block 1: dram_bytes is nan"),
    (grid(1), Sms(0, 1), "num_sms is 0. Expected at least 1"),
    (grid(1), Sms(1, 0), "slots is 0. Expected at least 1"),
    (grid(1), Sms(1, 1, abreast=0.0), "abreast is 0. Expected a number above 0"),
    (grid(1), Sms(1, 1, latency_us=-1.0), "latency_us is -1. Expected a number of at least 0"),
    (grid(1), Sms(1, 1, dram_bytes_per_us=float("nan")), "dram_bytes_per_us is nan"),
])
def test_a_grid_that_cannot_run_is_refused(blocks: Blocks, on: Sms, wish: str) -> None:
    with pytest.raises(ValueError, match=wish):
        gpu_blocks.run(blocks, on)


def decode_us(ragged: Ragged, name: str, gpu: ResolvedGpu = H100) -> tuple[float, float]:
    """Of the closed form and of the events."""
    condition = DecodeCondition(overlap=20.0)
    parts = gpu_attention.decode(gpu_blocks.heads_of(ragged), BF16, gpu, NAMED[name], condition)
    return float((parts.fixed + parts.busy)[0]), gpu_blocks.decode_us(ragged, BF16, gpu, NAMED[name], condition)


def equal(batch: int, keys: int, heads_q: int = 32, heads_kv: int = 8) -> Ragged:
    return Ragged(np.ones(batch, np.int64), np.full(batch, keys), heads_q, heads_kv, 128)


@pytest.mark.parametrize("name", [name for name in NAMED if name != "unfused"])
def test_on_equal_sequences_the_closed_form_and_the_events_agree(name: str) -> None:
    for batch, keys in ((64, 4096), (128, 8192)):
        closed, events = decode_us(equal(batch, keys), name)
        assert events == pytest.approx(closed, rel=0.15)
    prompt = Ragged(np.full(8, 4096), np.full(8, 4096), 32, 8, 128)
    if not NAMED[name].stream:
        parts = gpu_attention.prefill(gpu_blocks.heads_of(prompt), BF16, H100, NAMED[name], PrefillCondition())
        assert gpu_blocks.prefill_us(prompt, BF16, H100, NAMED[name], PrefillCondition()) == pytest.approx(
            float((parts.fixed + parts.busy)[0]), rel=0.05)


def test_one_long_sequence_among_short_ones() -> None:
    """A block that walks over 65,536 keys alone ends last; in equal shares of all work none does."""
    ragged = Ragged(np.ones(64, np.int64), np.array([65536] + [1024] * 63), 8, 8, 128)
    whole, shares = (decode_us(ragged, name)[1] for name in ("flash2", "lean"))
    bytes_us = 2 * 2 * 8 * 128 * (65536 + 63 * 1024) / H100.read_bytes_per_us
    assert shares < 1.15 * bytes_us + 10
    rate = H100.macs_per_us(BF16, gpu_attention.SYNCHRONOUS_SHARE) / H100.num_sms
    assert whole > 65536 * 128 * 256 / rate  # its tiles of 128 rows, one after another
    assert whole > 3 * shares


def test_a_tail_of_whole_blocks_is_gone_where_work_streams() -> None:
    """Three blocks more than SMs have another beside them, which on matrix units is twice the time."""
    gpu = H100._replace(memory_bytes_per_us=1e9)
    fits, spills = (decode_us(equal(batch, 65536, 1, 1), "flash2", gpu)[1] for batch in (132, 135))
    assert spills == pytest.approx(2 * fits, rel=0.05)
    fits, spills = (decode_us(equal(batch, 65536, 1, 1), "lean", gpu)[1] for batch in (132, 135))
    assert spills == pytest.approx(135 / 132 * fits, rel=0.01)


def test_stream_k_takes_all_keys() -> None:
    ragged = Ragged(np.ones(3, np.int64), np.array([100, 5000, 77]), 8, 8, 128)
    keys = gpu_blocks._streamed(ragged, 24, H100)
    assert keys.sum() == pytest.approx(8 * 5177)
    split = gpu_blocks._split(ragged, 24, 5)
    assert split.sum() == 8 * 5177
    assert split.max() == 8 * KEY_TILE
    assert split.size == 8 * (1 + 5 + 1)


@pytest.mark.parametrize(("ragged", "wish"), [
    (Ragged(np.array([2]), np.array([1]), 8, 8, 128), "1 <= q_len <= kv_len"),
    (Ragged(np.ones(2), np.ones(3), 8, 8, 128), "as many of both"),
    (Ragged(np.ones(1), np.ones(1), 9, 8, 128), "heads_q is 9, heads_kv 8"),
])
def test_lengths_that_make_no_attention_are_refused(ragged: Ragged, wish: str) -> None:
    with pytest.raises(ValueError, match=wish):
        gpu_blocks.decode_us(ragged, BF16, H100, NAMED["flash3"], DecodeCondition())


def test_a_kernel_has_the_same_names_in_a_table_and_on_a_gpu() -> None:
    assert get_args(inspect.get_annotations(Gpu, eval_str=True)["attention"]) == ("auto", *KERNEL_NAMES[1:])
    assert sorted(NAMED) == sorted(KERNEL_NAMES[1:])
