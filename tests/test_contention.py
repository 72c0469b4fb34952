"""PIM and the other units on the same channels: speeds from the channel model, and what they do to whole runs."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim import contention
from gemvane.sim.contention import LEVELS, WRITES, Tiles, Traffic, speeds
from gemvane.sim.devices.pim_channel import Shape, engine_part, key_of
from gemvane.sim.dram.contend import POLICIES
from gemvane.sim.pimschema import Pim
from gemvane.sim.simulate import Phase

SCORE = Tiles(Shape("attention_score", 4, 1, 128), 256)
VALUE = Tiles(Shape("attention_value", 1, 1, 128), 256)
GROUPED = Tiles(Shape("attention_score", 1, 8, 128), 512)
TILES = pytest.mark.parametrize("tiles", [SCORE, VALUE, GROUPED], ids=["score", "value", "grouped score"])
READS = [Traffic(level, 0) for level in (2, 8, 12, LEVELS)]


def pim_unit(name: str = "neupims") -> Pim:
    unit = gv.hardware(name).spec.units["pim"]
    assert isinstance(unit, Pim)
    return unit


DUAL = key_of(pim_unit())
SINGLE = DUAL._replace(buffers="single")


def decode(hardware: str | gv.Hardware, model: str = "gpt3-7b", **scenario: Any) -> Phase:
    phase = gv.run(model, hardware, **{"batch": 32, "prompt": 200, "output": 2, "phase": "decode", **scenario}).run.decode
    assert phase is not None
    return phase


@TILES
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("key", [DUAL, SINGLE], ids=["dual", "single"])
def test_a_speed_is_a_share_and_one_of_the_two_goes_on(key: Any, policy: str, tiles: Tiles) -> None:
    for traffic in (READS[-1], Traffic(8, WRITES), Traffic(12, 3)):
        pim, requests = speeds(key, tiles, traffic, policy)
        assert 0 <= pim <= 1
        assert 0 <= requests <= 1
        assert pim + requests > 0.9, "a channel is never left idle while both wait"


@pytest.mark.parametrize("tiles", [SCORE, VALUE], ids=["score", "value"])
def test_who_goes_first_keeps_its_speed(tiles: Tiles) -> None:
    busy = Traffic(LEVELS, 0)
    first, last, fair = (speeds(DUAL, tiles, busy, policy) for policy in ("pim-first", "requests-first", "oldest-first"))
    assert first.pim > 0.95
    assert last.requests > 0.85
    assert last.pim < fair.pim <= first.pim
    assert first.requests < last.requests


def test_tiles_that_nearly_fill_a_refresh_interval_leave_requests_little_whoever_goes_first() -> None:
    """A block with no cycles to spare before the next refresh is not delayed: eight vectors, loaded one after another, make it long."""
    for policy in ("pim-first", "requests-first"):
        pim, requests = speeds(DUAL, GROUPED, Traffic(LEVELS, 0), policy)
        assert pim > 0.95
        assert requests < 0.7


@TILES
def test_reads_that_leave_room_go_at_their_full_speed_beside_two_row_buffers_but_not_beside_one(tiles: Tiles) -> None:
    little = Traffic(2, 0)
    assert min(speeds(DUAL, tiles, little, "pim-first")) > 0.97
    two, one = (speeds(key, tiles, Traffic(LEVELS, 0), "pim-first").requests for key in (DUAL, SINGLE))
    assert two > 2 * one


@TILES
def test_who_asks_for_more_gets_a_smaller_share_of_it(tiles: Tiles) -> None:
    got = [speeds(DUAL, tiles, traffic, "pim-first").requests for traffic in READS]
    assert all(more <= less + 0.01 for less, more in pairwise(got))


@pytest.mark.parametrize(("tiles", "policy"), [(SCORE, "pim-first"), (VALUE, "oldest-first"), (GROUPED, "blocked")])
def test_a_longer_simulation_says_the_same(tiles: Tiles, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    solvers = (contention._pim_alone, contention._requests_alone, speeds)
    pairs = [Traffic(LEVELS, 0), Traffic(10, 2)]
    short = [speeds(DUAL, tiles, traffic, policy) for traffic in pairs]
    monkeypatch.setattr(contention, "REFRESHES", 4 * contention.REFRESHES)
    for solver in solvers:
        solver.cache_clear()
    long = [speeds(DUAL, tiles, traffic, policy) for traffic in pairs]
    for solver in solvers:
        solver.cache_clear()
    np.testing.assert_allclose(short, long, atol=0.05)


@pytest.mark.parametrize("name", ["gddr6-aim", "hbm-pim"])
def test_other_styles_of_pim_take_turns_with_requests(name: str) -> None:
    key = key_of(pim_unit(name))
    assert engine_part(key).pim.style in contention.STREAMS
    tiles, half = Tiles(Shape("attention_score", 1, 1, 128), 256), Traffic(8, 0)
    first, last, fair = (speeds(key, tiles, half, policy) for policy in ("pim-first", "requests-first", "oldest-first"))
    assert first.pim > 0.9
    assert first.requests < 0.2
    assert last.requests > 0.9
    assert last.pim < 0.01, "there is always some request: PIM starves"
    assert 0.4 < fair.pim < 0.6


def test_each_pair_is_solved_once() -> None:
    decode("neupims")
    solved = speeds.cache_info().misses
    decode("neupims")
    assert speeds.cache_info().misses == solved


SUB_BATCHES = pytest.mark.parametrize("sub_batches", [1, 2, 4])


@SUB_BATCHES
@pytest.mark.parametrize(("name", "model", "policy"), [
    ("neupims", "gpt3-7b", "pim-first"), ("neupims", "gpt3-7b", "blocked"), ("neupims", "llama3-8b", "requests-first"),
    ("npu-pim-single-interleaved", "gpt3-7b", "oldest-first"), ("neupims", "deepseek-v2-lite", "pim-first"),
])
def test_contention_never_makes_a_run_faster(name: str, model: str, policy: str, sub_batches: int) -> None:
    hardware = gv.hardware(name).replace({"schedule.sub_batches": sub_batches})
    lengths = tuple(np.random.default_rng(sub_batches).integers(20, 900, 16).tolist())
    phases = [decode(hardware.replace({"schedule.contention": kind}), model, batch=16, prompt=lengths, tp=2) for kind in ("none", policy)]
    off, on = (phase.latency_ps for phase in phases)
    assert on >= off
    for column in ("duration_ps", "actions", "cycles"):
        np.testing.assert_array_equal(*(getattr(phase, column) for phase in phases), err_msg="the work is the same")


def test_contention_slows_arrays_beside_pim_under_pim_first() -> None:
    result = gv.run("gpt3-7b", gv.hardware("neupims").replace({"schedule.sub_batches": 2}), batch=64, prompt=400, output=2, phase="decode")
    shared = result.overlap["decode"].to_dict(list(result.run.hardware.spec.units))
    assert shared["fraction"] > 0.1
    assert 0.01 * shared["work_s"]["npu"] < shared["contention_s"]["npu"] < shared["work_s"]["npu"]
    assert shared["contention_s"]["pim"] < 0.1 * shared["work_s"]["pim"]
    assert shared["contention_s"]["link"] == 0


def test_where_one_unit_works_at_a_time_nothing_changes() -> None:
    for hardware in (gv.hardware("npu-pim-blocked"), gv.hardware("neupims").replace({"schedule.sub_batches": 1})):
        off, on = (decode(hardware.replace({"schedule.contention": kind})).timeline.end_ps for kind in ("none", "pim-first"))
        np.testing.assert_array_equal(off, on)


def test_pim_with_memory_of_its_own_leaves_the_channels_alone() -> None:
    hardware = gv.hardware("attacc").replace({"schedule.sub_batches": 2})
    off, on = (decode(hardware.replace({"schedule.contention": kind})) for kind in ("none", "pim-first"))
    np.testing.assert_array_equal(off.timeline.end_ps, on.timeline.end_ps)


def test_two_operators_that_ask_for_too_much_share_the_memory() -> None:
    """Expert weights on the arrays beside a vector operator, each at full bandwidth: 92 % sustained over two."""
    trace = decode("npu-hbm2").trace
    rows = trace.rows.take(np.array([np.flatnonzero(trace.rows.work == 0)[0], np.flatnonzero(trace.rows.kv_write_bytes > 0)[0]]))
    hardware = gv.hardware("npu-hbm2")
    duration, full = np.full(2, 1e6), np.full(2, hardware.spec.memory.bandwidth / 1e6)
    def of(unit: list[int], moved: Any, writes: Any) -> Any:
        pairs = contention.Pairs(rows, np.array(unit), duration, moved, writes, 1, hardware)
        return pairs.slow(pairs.every)

    found = of([0, 1], full, np.array([0.0, 1.0]))
    rate = np.asarray(found.rate)
    assert rate[1, 2] == rate[2, 1] == int(2**20 * 0.92 / 2)
    assert of([0, 1], full / 4, np.zeros(2)) is contention.NONE
    assert of([0, 0], full, np.zeros(2)) is contention.NONE, "one unit"


def test_what_cannot_be_simulated_is_said() -> None:
    hardware = gv.hardware("attacc").replace({"units.pim.capacity": None, "memory.capacity": "200 GB"})
    said = gv.run("llama3-8b", hardware, batch=2, prompt=64, output=2).warnings
    assert any("requests beside the PIM commands of hbm3-attacc cannot be simulated" in text for text in said)
    assert gv.run("llama3-8b", "neupims", batch=2, prompt=64, output=2).warnings == ()


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match=r"schedule.contention.*'pim'"):
        gv.hardware("neupims").replace({"schedule.contention": "pim"})
