"""PIM tiles with legal timing, in NeuPIMs' geometry: 2 ranks x 4 groups x 4 banks, rows of 1 KiB, 1 GHz."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim.costs import BOUNDS, CAUSES
from gemvane.sim.devices import pim, resolve
from gemvane.sim.devices.pim import ResolvedPim, Tiles
from gemvane.workloads.ops import Int64s


@pytest.fixture(scope="module")
def neupims() -> ResolvedPim:
    machine = resolve(gv.hardware("neupims").spec)["pim"]
    assert isinstance(machine, ResolvedPim)
    return machine


def one(x: int) -> Int64s:
    return np.array([[x]])


def tiles(model: object, tokens: int, heads_kv: int, group: int, dim: int, machine: ResolvedPim) -> Tiles:
    return model(one(tokens), one(heads_kv), one(group), one(dim), one(16), machine)  # type: ignore[operator, no-any-return]


def period(t: Tiles, machine: ResolvedPim) -> int:
    """Cycles without loading the vector."""
    return int(pim.tile_cycles(t, machine)[0, 0] - t.gwrites[0, 0] * machine.gwrite)


def test_the_first_dot_product_starts_106_cycles_after_the_header(neupims: ResolvedPim) -> None:
    assert neupims.open_cycles == 1 + 3 * 30 + 1 + 14  # header, three tFAW windows, the second rank's slot, tRCD


def test_a_key_tile_of_four_heads_takes_213_cycles(neupims: ResolvedPim) -> None:
    assert period(tiles(pim.score_tiles, 32, 4, 1, 128, neupims), neupims) == 106 + 4 * 2 * (8 + 1) + 3 + 32


@pytest.mark.parametrize(("tokens", "steps", "cycles"), [(128, 8, 159), (512, 32, 207)])
def test_a_value_tile_waits_for_its_last_dot_product(neupims: ResolvedPim, tokens: int, steps: int, cycles: int) -> None:
    assert period(tiles(pim.value_tiles, tokens, 1, 1, 32, neupims), neupims) == 106 + 2 * (steps + 1) + 3 + 32 == cycles


def test_a_short_dot_product_still_fills_the_pipeline(neupims: ResolvedPim) -> None:
    assert tiles(pim.value_tiles, 16, 1, 1, 32, neupims).steps[0, 0] == neupims.min_steps


def test_query_heads_of_a_group_share_the_open_row(neupims: ResolvedPim) -> None:
    alone, shared = (tiles(pim.score_tiles, 64, 8, g, 128, neupims) for g in (1, 4))
    assert shared.tiles == alone.tiles
    assert shared.passes_cycles == 4 * alone.passes_cycles


def test_a_key_longer_than_a_row_is_cut(neupims: ResolvedPim) -> None:
    latent = tiles(pim.score_tiles, 32, 1, 1, 576, neupims)  # 576 elements, 512 a row
    assert latent.tiles[0, 0] == 2
    assert latent.steps[0, 0] == 2 * 18  # 288 elements in steps of 16


@given(st.integers(1, 4096), st.sampled_from([1, 2, 8, 32]), st.sampled_from([1, 4, 8]), st.sampled_from([64, 80, 128, 192, 576]))
def test_steps_cover_every_element(tokens: int, heads_kv: int, group: int, dim: int) -> None:
    machine = resolve(gv.hardware("neupims").spec)["pim"]
    for model in (pim.score_tiles, pim.value_tiles):
        steps = int(tiles(model, tokens, heads_kv, group, dim, machine).steps[0, 0])
        assert steps * machine.banks * machine.lanes >= tokens * heads_kv * group * dim


def test_placement_sends_each_request_to_the_least_loaded_channel() -> None:
    assert pim.place(np.array([9, 5, 4, 1]), 2).tolist() == [0, 1, 1, 0]


def test_equal_requests_are_dealt_round() -> None:
    assert pim.place(np.array([7] * 5), 4).tolist() == [0, 1, 2, 3, 0]


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=40), st.integers(1, 8))
def test_no_channel_carries_twice_the_fair_share_plus_the_longest(lengths: list[int], channels: int) -> None:
    weights = np.array(lengths)
    load = np.bincount(pim.place(weights, channels), weights=weights, minlength=channels)
    if len(set(lengths)) > 1:
        assert load.max() <= weights.sum() / channels + weights.max()


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
