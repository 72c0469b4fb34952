"""PIM tiles with legal timing, in NeuPIMs' geometry: 2 ranks x 4 groups x 4 banks, rows of 1 KiB, 1 GHz; placement on channels."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim.costs import BOUNDS, CAUSES
from gemvane.sim.devices import pim_channel, resolve
from gemvane.sim.devices.pim import ResolvedPim
from gemvane.sim.devices.pim_channel import Channel, Shape
from gemvane.sim.devices.pim_place import alg1_weights, least_maximum, place, split_tokens
from gemvane.sim.dram.pimstream import Attention, score_steps, value_steps


@pytest.fixture(scope="module")
def neupims() -> ResolvedPim:
    machine = resolve(gv.hardware("neupims").spec)["pim"]
    assert isinstance(machine, ResolvedPim)
    return machine


def more_for(machine: ResolvedPim, shape: Shape, few: int, many: int) -> int:
    """Cycles that more tokens add: whole periods, if no refresh comes between."""
    one = pim_channel.channel(machine.key, shape)
    return one.load((many,)).cycles - one.load((few,)).cycles


def test_a_key_tile_of_four_heads_takes_213_cycles(neupims: ResolvedPim) -> None:
    # header, three tFAW windows and the second rank's slot, tRCD; four dot products; read to precharge and 32 precharges
    assert more_for(neupims, Shape("attention_score", 4, 1, 128), 32, 64) == 1 + 3 * 30 + 1 + 14 + 4 * 2 * (8 + 1) + 3 + 32


@pytest.mark.parametrize(("tokens", "steps", "cycles"), [(128, 8, 159), (512, 32, 207)])
def test_a_value_tile_waits_for_its_last_dot_product(neupims: ResolvedPim, tokens: int, steps: int, cycles: int) -> None:
    one, two = (pim_channel.channel(neupims.key, Shape("attention_value", 1, 1, dim)) for dim in (32, 64))
    assert two.load((tokens,)).cycles - one.load((tokens,)).cycles == 106 + 2 * (steps + 1) + 3 + 32 == cycles


def test_a_short_dot_product_still_fills_the_pipeline(neupims: ResolvedPim) -> None:
    one = pim_channel.channel(neupims.key, Shape("attention_value", 1, 1, 32))
    assert one.load((16,)).cycles == one.load((96,)).cycles < one.load((112,)).cycles


def test_query_heads_of_a_group_share_the_open_row(neupims: ResolvedPim) -> None:
    alone, shared = (pim_channel.channel(neupims.key, Shape("attention_score", 8, g, 128)).load((64,)) for g in (1, 4))
    opened, read = (pim_channel.COUNTS.index(name) for name in ("activate_bytes", "array_bytes"))
    rows = 2 * 2 * 32 * 1024  # two chunks of four heads, two tiles, 32 banks; then the rows of the vectors, which a refresh closes
    assert alone.counts[opened] - rows in (1 * 1024, 2 * 1024)
    assert 4 * 1024 <= shared.counts[opened] - rows <= 8 * 1024
    assert shared.counts[read] > 3.9 * alone.counts[read]


def test_a_key_longer_than_a_row_is_cut(neupims: ResolvedPim) -> None:
    part = pim_channel.engine_part(neupims.key)
    tiles = [step for step in score_steps(part, Attention(32, 1, 576)) if step.bank < 0]  # 576 elements, 512 a row
    assert [step.steps for step in tiles] == [18, 18]  # 288 elements in steps of 16


@given(st.integers(1, 4096), st.sampled_from([1, 2, 8, 32]), st.sampled_from([1, 4, 8]), st.sampled_from([64, 80, 128, 192, 576]),
       st.sampled_from(["heads", "tokens", None]))
@settings(deadline=None)
def test_steps_cover_every_element(tokens: int, heads_kv: int, group: int, dim: int, layout: str | None) -> None:
    part = pim_channel.engine_part(resolve(gv.hardware("neupims").spec)["pim"].key)
    op = Attention(tokens, heads_kv, dim, group)
    steps = value_steps(part, op) if layout is None else score_steps(part, op, layout=layout)  # type: ignore[arg-type]
    count = sum(s.steps * (s.dots + sum(swap.dots for swap in s.swaps)) for s in steps)
    assert count * part.banks * part.pim.lanes >= tokens * heads_kv * group * dim


def test_one_head_alone_fills_a_row_with_several_tokens(neupims: ResolvedPim) -> None:
    part = pim_channel.engine_part(neupims.key)
    heads, tokens = ([s for s in score_steps(part, Attention(512, 1, 128), layout=layout) if s.bank < 0] for layout in ("heads", "tokens"))
    assert len(heads) == 4 * len(tokens)  # 128 of 512 elements
    assert sum(s.dots for s in heads) == sum(s.dots for s in tokens)


# Placement

def fullest(policy: str, weights: list[int], channels: int) -> int:
    return int(np.bincount(place(policy, np.array(weights), channels).channel, weights, channels).max())


def test_placement_sends_each_request_to_the_least_loaded_channel() -> None:
    assert place("greedy", np.array([9, 5, 4, 1]), 2).channel.tolist() == [0, 1, 1, 0]


def test_equal_requests_are_dealt_round() -> None:
    assert place("greedy", np.array([7] * 5), 4).channel.tolist() == [0, 1, 2, 3, 0]


def test_round_robin_takes_no_notice_of_lengths() -> None:
    assert place("round-robin", np.array([9, 1, 9, 1]), 2).channel.tolist() == [0, 1, 0, 1]


def test_balance_finds_what_greedy_misses() -> None:
    weights = [8, 7, 6, 5, 4]  # greedy: 8 + 5 + 4 against 7 + 6
    assert fullest("greedy", weights, 2) == 17
    assert fullest("balance", weights, 2) == 15
    assert place("balance", np.array(weights), 2).least


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 3))
@settings(deadline=None)
def test_balance_is_the_least_of_all_placements_and_says_so(weights: list[int], channels: int) -> None:
    least = min(int(np.bincount(np.array(all_), weights, channels).max()) for all_ in product(range(channels), repeat=len(weights)))
    assert fullest("balance", weights, channels) == least
    assert place("balance", np.array(weights), channels).least
    assert least_maximum(np.array(weights), channels) <= least


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=80), st.integers(1, 8))
@settings(deadline=None)
def test_policies_order_the_fullest_channel(weights: list[int], channels: int) -> None:
    balance, greedy = (fullest(policy, weights, channels) for policy in ("balance", "greedy"))
    assert least_maximum(np.array(weights), channels) <= balance <= greedy
    assert greedy <= (4 / 3 - 1 / (3 * channels)) * balance + 1  # Graham (1969) for longest first, against no less than the best
    assert greedy <= sum(weights) / channels + max(weights)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=9), st.integers(1, 32))
def test_a_split_keeps_every_token_and_evens_out_the_pieces(tokens: list[int], channels: int) -> None:
    held = split_tokens(np.array(tokens), 32, channels)
    assert held.sum(axis=1).tolist() == tokens
    assert held.min() >= 0
    pieces = (-(-held // 32)).sum(axis=0)
    assert pieces.max() - pieces.min() <= 1


def test_neupims_estimate_is_that_of_the_paper() -> None:
    # L = ceil(E/512) (100 + 184 ceil(s/32)) + ceil(s/512) heads (100 + 184 ceil(d/32)): half of 12,776 of two requests of 512 tokens
    assert alg1_weights(np.array([512]), 4, 128, 512, 32).tolist() == [12776 // 2]


# Whole runs

def test_refresh_takes_its_share_of_pim_time() -> None:
    run = gv.run("gpt3-7b", "neupims", batch=32, prompt=512, output=2, phase="both")
    decode = run.run.decode
    assert decode is not None
    index = [i for i in decode.alike if BOUNDS[decode.bound[0, i]] == "pim"]
    cycles = decode.cycles[index].sum(axis=0)
    share = cycles[CAUSES.index("refresh")] / cycles.sum()
    assert 260 / 1950 < share < 0.30  # tRFC alone is 13 %; waiting for the tile before it adds the rest


def test_a_blocked_pim_and_its_npu_never_work_together() -> None:
    timeline = gv.run("llama3-8b", "npu-pim-blocked", batch=4, prompt=64, output=3).timeline
    decode = timeline[timeline.phase == "decode"].sort_values("start_ps")
    busy = decode[decode.unit.isin(["npu", "pim"])]
    assert (busy.start_ps.to_numpy()[1:] >= busy.end_ps.to_numpy()[:-1]).all()


def test_a_channel_is_a_channel_of_the_engine(neupims: ResolvedPim) -> None:
    assert isinstance(pim_channel.channel(neupims.key, Shape("attention_score", 4, 1, 128)), Channel)
