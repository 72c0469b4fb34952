"""TensorRT-LLM's decode: which kernel runs in how many parts, by the rules of its source, and what follows for the time."""

import numpy as np
import pandas as pd
import pytest

import gemvane as gv
from gemvane.sim.calibration import XqaCondition
from gemvane.sim.devices import gpu_trtllm, resolve
from gemvane.sim.devices.gpu_attention import Heads
from gemvane.sim.devices.gpu_machine import ResolvedGpu

H200: ResolvedGpu = resolve(gv.hardware("h200").spec)["gpu"]
SMS = 132


def heads(batch: int, heads_q: int, heads_kv: int, keys: int, width: int = 128, held: int = 0, key_bytes: float = 2.0) -> Heads:
    """One decode; `held` keys of which a window shows `keys`."""
    pairs, cache = batch * keys, batch * keys * heads_kv * 2 * width * key_bytes
    window = keys if held else 0
    columns = (batch, heads_q, heads_kv, width, width, 1, keys, window, pairs, key_bytes, cache, batch * heads_q * 4 * width, 1)
    return Heads(*(np.array([float(column)]) for column in columns))


def grid(batch: int, heads_q: int, heads_kv: int, keys: int, *, hopper: bool = False, held: int = 0, width: int = 128) -> gpu_trtllm.Grid:
    found = gpu_trtllm.grid_of(heads(batch, heads_q, heads_kv, keys, width, held), np.array([float(held or keys)]), hopper, SMS)
    return gpu_trtllm.Grid(*(column[0] for column in found))


def us(one: Heads, held: int = 0) -> float:
    return float(gpu_trtllm.decode(one, np.array([float(held or one.kv_len[0])]), H200, XqaCondition()).busy[0])


@pytest.mark.parametrize(("batch", "heads_q", "heads_kv", "keys", "hopper", "shared"), [
    (1, 4, 1, 4096, False, False),  # 32 parts x 4 < 132 SMs
    (1, 4, 1, 8192, False, True),  # 64 x 4
    (64, 4, 1, 2, False, True),  # 64 pairs x 4
    (64, 4, 4, 8192, False, False),  # no heads share keys
    (64, 33, 1, 8192, False, False), (64, 32, 1, 8192, False, True),
    (1, 4, 1, 64, True, True), (1, 4, 4, 64, True, False)])
def test_xqa_runs_where_heads_share_keys_and_blocks_suffice(batch: int, heads_q: int, heads_kv: int, keys: int, hopper: bool,
                                                            shared: bool) -> None:
    assert grid(batch, heads_q, heads_kv, keys, hopper=hopper).shared == shared


@pytest.mark.parametrize(("batch", "keys", "parts"), [
    (1, 8192, 23),  # 64 parts of 128 keys, of which round(sqrt(8 x 64)) are made
    (1, 128 * 4, 4), (64, 128, 1),
    (128, 8192, 8),  # 23 x 128 / 132 = 22.3 blocks a SM, of which 8 are wanted: floor(23 x 8 / 22.3)
    (512, 8192, 2), (2048, 8192, 1)])
def test_parts_of_xqa(batch: int, keys: int, parts: int) -> None:
    assert grid(batch, 4, 1, keys, hopper=True).parts == parts


@pytest.mark.parametrize(("pairs", "keys", "parts", "places", "loop"), [
    (8, 256, 1, 1, 512),  # 1,024 threads of which 16 take a key of 256 bytes, eight keys each
    (8, 4096, 9, 1, 512),  # 4,097 keys in loops of 512
    (8, 65536, 17, 1, 512),  # 132 SMs for 8 pairs
    (256, 4096, 1, 2, 256),  # ceil(4 x 132 / 256) = 3 blocks of 256 threads: 512
    (1024, 4096, 1, 4, 128),
    (256, 32768, 1, 1, 256)])  # 32,768 scores and logits are 192 KB
def test_blocks_of_mmha(pairs: int, keys: int, parts: int, places: int, loop: int) -> None:
    found = grid(1, pairs, pairs, keys)
    assert (found.shared, found.pairs, found.parts, found.places, found.loop) == (False, pairs, parts, places, loop)


def test_blocks_of_hoppers_xqa_share_an_sm_by_their_size() -> None:
    assert [grid(64, 8, 1, 4096, hopper=True, width=width).places for width in (64, 128, 256)] == [4, 3, 2]
    assert [grid(64, 32, 1, 4096, hopper=True, width=width).places for width in (128, 256)] == [2, 1]


def test_a_few_blocks_more_than_places_cost_a_wave() -> None:
    """8 pairs are split in 17 (136 blocks for 132 SMs), 12 in 11: the longer read is the faster one, as it was measured."""
    assert us(heads(1, 12, 12, 32768)) < us(heads(1, 8, 8, 32768))


def test_parts_are_made_of_keys_that_a_window_hides() -> None:
    """XQA before Hopper gives every part a block, whether or not the window shows it keys; Hopper's leaves those out."""
    assert grid(8, 4, 1, 128, held=131072).parts == 91 == round(np.sqrt(8 * 1024))
    assert grid(8, 4, 1, 128, held=131072, hopper=True).parts == 2
    assert us(heads(8, 4, 1, 128, held=131072), 131072) > 1.5 * us(heads(8, 4, 1, 128, held=1024), 1024)


def test_more_than_eight_heads_cost_hoppers_xqa_more_than_their_bytes() -> None:
    few, many = (us(heads(64, group, 1, 16384, key_bytes=1.0)) for group in (8, 32))
    assert many > few


def test_one_kernel_is_a_row_of_many() -> None:
    columns = {"op": "attention_decode", "dtype": "bf16", "kv_dtype": "fp8", "framework": "trtllm", "batch": 8, "heads_q": 32,
               "heads_kv": 8, "head_dim": 128, "q_len": 1, "kv_len": 4096}
    one, row = gv.estimate_kernel("h200", **columns), gv.estimate_kernels(pd.DataFrame([columns]), "h200").iloc[0]
    assert one == (row.latency_us, row.energy_uj, row.bound)
    with pytest.raises(ValueError, match="kv_len"):
        gv.estimate_kernel("h200", **columns | {"kv_len": -1})
