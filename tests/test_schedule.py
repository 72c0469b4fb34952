"""The scheduler: three engines that agree, and what every timeline must keep."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gemvane.sim import schedule as module
from gemvane.sim.kernels.timeline import FULL, SLOWEST, schedule_kernel
from gemvane.sim.schedule import Interference, Timeline, overlap_ps, schedule, schedule_simpy

Problem = dict[str, Any]


def csr(preds: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = [len(row) for row in preds]
    return np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))), np.array([i for row in preds for i in row], np.int64)


def problem(unit: list[int], duration_ps: Any, preds: list[list[int]], groups: list[int] | None = None, **more: Any) -> Problem:
    preds_ptr, preds_idx = csr(preds)
    groups = [-1] * (max(unit, default=0) + 1) if groups is None else groups
    return {"unit": unit, "duration_ps": duration_ps, "preds_ptr": preds_ptr, "preds_idx": preds_idx, "groups": groups, **more}


def random_problem(seed: int) -> Problem:
    """Up to 30 rows on up to 4 units, in 1 to 3 steps, with few distinct durations so that ties and zeros are common."""
    rng = np.random.default_rng(seed)
    rows, units, steps, kinds = rng.integers(1, 31), rng.integers(1, 5), rng.integers(1, 4), rng.integers(1, 6)
    order = rng.permutation(rows)  # predecessors need not have lower numbers
    preds: list[list[int]] = [[] for _ in range(rows)]
    for place in range(1, rows):
        count = rng.integers(0, min(place, 3) + 1)
        preds[order[place]] = rng.choice(order[:place], count, replace=False).tolist()
    carried = [rng.choice(rows, rng.integers(0, min(rows, 2) + 1), replace=False).tolist() for _ in range(rows)]
    next_ptr, next_idx = csr(carried if rng.random() < 0.8 else [[]] * rows)
    return problem(
        rng.integers(0, units, rows).tolist(),
        rng.integers(0, 4, (steps, kinds)),
        preds,
        rng.integers(-1, min(2, units), units).tolist(),
        duration_index=rng.integers(0, kinds, rows),
        next_preds_ptr=next_ptr,
        next_preds_idx=next_idx,
    )


def random_interference(seed: int, p: Problem) -> Interference:
    """Up to four kinds, of which kind 0 meets no one; durations so long that speeds change while operators run."""
    rng = np.random.default_rng(seed)
    kinds, units = rng.integers(1, 5), len(p["groups"])
    rate = rng.choice([SLOWEST, FULL // 3, FULL * 7 // 9, FULL], (kinds, kinds))
    rate[0], rate[:, 0] = FULL, FULL
    devices = rng.choice([n for n in range(1, units + 1) if units % n == 0])
    return Interference(rng.integers(0, kinds, np.shape(p["duration_ps"])[1]), rate, int(devices))


def written_out(p: Problem) -> tuple[NDArray[np.int64], NDArray[np.int64], list[list[int]]]:
    """Unit, duration and predecessors of every operator of every step."""
    durations = np.atleast_2d(p["duration_ps"])[:, p["duration_index"]]
    steps, rows = durations.shape
    preds = []
    for s in range(steps):
        for r in range(rows):
            same = p["preds_idx"][p["preds_ptr"][r] : p["preds_ptr"][r + 1]] + s * rows
            previous = p["next_preds_idx"][p["next_preds_ptr"][r] : p["next_preds_ptr"][r + 1]] + (s - 1) * rows
            preds.append([*same.tolist(), *(previous.tolist() if s else [])])
    return np.tile(p["unit"], steps), durations.ravel(), preds


def critical_path_ps(duration_ps: NDArray[np.int64], preds: list[list[int]]) -> int:
    finish: dict[int, int] = {}

    def finish_ps(v: int) -> int:
        if v not in finish:
            finish[v] = int(duration_ps[v]) + max((finish_ps(i) for i in preds[v]), default=0)
        return finish[v]

    return max(finish_ps(v) for v in range(len(preds)))


@pytest.mark.parametrize("seed", range(200))
def test_njit_python_and_simpy_agree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = random_problem(seed)
    fast = schedule(**p)
    reference = schedule_simpy(**p)
    monkeypatch.setattr(module, "schedule_kernel", schedule_kernel.py_func)
    slow = schedule(**p)
    for other in (slow, reference):
        np.testing.assert_array_equal(fast.start_ps, other.start_ps)
        np.testing.assert_array_equal(fast.end_ps, other.end_ps)


@pytest.mark.parametrize("seed", range(200))
def test_njit_python_and_simpy_agree_where_operators_slow_each_other(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    p = random_problem(seed)
    p["duration_ps"] = p["duration_ps"] * np.random.default_rng(seed).integers(1, 10**6)
    p["interference"] = random_interference(seed, p)
    fast = schedule(**p)
    reference = schedule_simpy(**p)
    monkeypatch.setattr(module, "schedule_kernel", schedule_kernel.py_func)
    slow = schedule(**p)
    for other in (slow, reference):
        np.testing.assert_array_equal(fast.start_ps, other.start_ps)
        np.testing.assert_array_equal(fast.end_ps, other.end_ps)
    assert (fast.end_ps - fast.start_ps >= written_out(p)[1]).all(), "no operator is faster than alone"


@pytest.mark.parametrize("seed", range(300, 340))
def test_rates_of_full_speed_change_nothing(seed: int) -> None:
    p = random_problem(seed)
    rate = np.full((2, 2), FULL)
    same = schedule(**p, interference=Interference(np.ones(p["duration_ps"].shape[1], np.int64), rate, 1))
    np.testing.assert_array_equal(schedule(**p).end_ps, same.end_ps)


@pytest.mark.parametrize("engine", [schedule, schedule_simpy])
def test_two_operators_slow_each_other_while_both_run(engine: Callable[..., Timeline]) -> None:
    """Row 1 goes at half speed beside row 0, which goes at a quarter: it has done 4 of its 8 ps after 8, row 0 then 2 of 3 ps."""
    rate = np.array([[FULL, FULL, FULL], [FULL, FULL, FULL // 4], [FULL, FULL // 2, FULL]])
    p = problem([0, 1], [3, 8], [[], []], [-1, -1])
    t = engine(**p, interference=Interference([1, 2], rate, 2))
    assert t.end_ps.tolist() == [12, 12 + 8 - 6]
    assert t.busy_ps(2).tolist() == [12, 14]
    apart = engine(**p, interference=Interference([1, 2], rate, 1))
    assert apart.end_ps.tolist() == [3, 8], "units of different devices do not meet"


def test_beside_two_others_speeds_multiply_down_to_the_slowest() -> None:
    rate = np.array([[FULL, FULL], [FULL, FULL // 2]])
    p = problem([0, 1, 2], [4, 16, 16], [[], [], []])
    assert schedule(**p, interference=Interference([1, 1, 1], rate, 3)).end_ps.tolist() == [16, 16 + 2 * 12, 16 + 2 * 12]
    least = np.array([[FULL, FULL], [FULL, SLOWEST]])
    assert schedule(**p, interference=Interference([1, 1, 1], least, 3)).end_ps[0] == 4 * FULL // SLOWEST


@pytest.mark.parametrize("seed", range(260, 300))
def test_what_runs_at_once_does_the_work_that_the_speeds_allow(seed: int) -> None:
    """Between any two changes each operator does its time x its speed; over its life that is its duration, to a ps a change."""
    p = random_problem(seed)
    p["duration_ps"] = p["duration_ps"] * 10**6
    p["interference"] = i = random_interference(seed, p)
    t = schedule(**p)
    unit, duration_ps, _ = written_out(p)
    kind = np.tile(np.asarray(i.kind)[p["duration_index"]], t.steps)
    instants = np.unique(np.concatenate([t.start_ps, t.end_ps]))
    done = np.zeros(unit.size)
    for begin, end in pairwise(instants.tolist()):
        runs = np.flatnonzero((t.start_ps <= begin) & (t.end_ps >= end))
        for v in runs:
            beside = [w for w in runs if w != v and unit[w] // i.device_units == unit[v] // i.device_units]
            speed = np.prod([np.asarray(i.rate)[kind[v], kind[w]] / FULL for w in beside]) if kind[v] else 1.0
            done[v] += (end - begin) * max(speed, SLOWEST / FULL)
    np.testing.assert_allclose(done, duration_ps, rtol=1e-5, atol=instants.size)


@pytest.mark.parametrize("seed", range(200, 260))
def test_every_timeline_keeps_the_rules(seed: int) -> None:
    p = random_problem(seed)
    t = schedule(**p)
    unit, duration_ps, preds = written_out(p)
    np.testing.assert_array_equal(t.end_ps - t.start_ps, duration_ps)
    for v, before in enumerate(preds):
        assert all(t.end_ps[i] <= t.start_ps[v] for i in before), "a predecessor ends before its successor starts"
    units = len(p["groups"])
    for u in range(units):
        starts, ends = t.intervals_ps(u)
        assert (ends[:-1] <= starts[1:]).all(), "a unit runs one operator at a time"
        for other in range(u):
            if p["groups"][u] == p["groups"][other] != -1:
                assert overlap_ps(t, u, other) == 0, "units of one exclusive group never run together"
    busy_ps = t.busy_ps(units)
    np.testing.assert_array_equal(busy_ps, [duration_ps[unit == u].sum() for u in range(units)])
    assert t.makespan_ps >= max(busy_ps.max(), critical_path_ps(duration_ps, preds))
    assert t.makespan_ps <= duration_ps.sum(), "something is always running"


@pytest.mark.parametrize("seed", range(260, 280))
def test_steps_are_the_same_as_one_long_graph(seed: int) -> None:
    p = random_problem(seed)
    unit, duration_ps, preds = written_out(p)
    steps, flat = schedule(**p), schedule(**problem(unit.tolist(), duration_ps, preds, p["groups"]))
    np.testing.assert_array_equal(steps.start_ps, flat.start_ps)


@pytest.mark.parametrize("seed", range(280, 300))
def test_overlap_counts_the_instants_when_both_run(seed: int) -> None:
    t = schedule(**random_problem(seed))
    units = int(t.unit.max()) + 1
    instants = np.arange(t.makespan_ps)
    flat_unit = np.tile(t.unit, t.steps)

    def busy(u: int) -> NDArray[np.bool_]:
        mine = flat_unit == u
        return ((t.start_ps[mine, None] <= instants) & (instants < t.end_ps[mine, None])).any(axis=0)

    for a in range(units):
        for b in range(units):
            assert overlap_ps(t, a, b) == (busy(a) & busy(b)).sum()


def test_a_chain_takes_the_sum_of_its_durations() -> None:
    t = schedule(**problem([0, 1, 0, 1], [3, 5, 7, 11], [[], [0], [1], [2]]))
    assert t.start_ps.tolist() == [0, 3, 8, 15]
    assert t.makespan_ps == 3 + 5 + 7 + 11
    assert overlap_ps(t, 0, 1) == 0


def test_the_lowest_numbered_ready_operator_goes_first() -> None:
    t = schedule(**problem([0, 0, 0], [2, 2, 2], [[2], [], []]))
    assert t.start_ps.tolist() == [4, 0, 2]


def test_all_completions_of_an_instant_come_before_any_start() -> None:
    """Rows 0 and 1 end together; unit 0 then has rows 2 (freed by unit 1) and 3 (freed by itself) to choose from."""
    t = schedule(**problem([0, 1, 0, 0], [4, 4, 1, 1], [[], [], [1], [0]]))
    assert t.start_ps.tolist() == [0, 0, 4, 5]


def test_what_a_zero_duration_operator_frees_starts_at_the_same_instant() -> None:
    t = schedule(**problem([1, 0, 1], [0, 5, 3], [[], [0], [1]]))
    assert t.start_ps.tolist() == [0, 0, 5]


def test_the_lower_unit_of_an_exclusive_group_goes_first() -> None:
    alone = schedule(**problem([1, 0], [4, 4], [[], []], [-1, -1]))
    exclusive = schedule(**problem([1, 0], [4, 4], [[], []], [0, 0]))
    assert (alone.start_ps.tolist(), overlap_ps(alone, 0, 1)) == ([0, 0], 4)
    assert (exclusive.start_ps.tolist(), overlap_ps(exclusive, 0, 1)) == ([4, 0], 0)


def test_a_step_waits_only_for_what_it_carries() -> None:
    """Row 0 waits for row 0 of the step before, row 1 for row 0 of its own: the steps run as a pipeline."""
    pipelined = problem([0, 1], [[3, 5], [3, 5]], [[], [0]], next_preds_ptr=[0, 1, 1], next_preds_idx=[0])
    assert schedule(**pipelined).start_ps.tolist() == [0, 3, 3, 8]
    serial = problem([0, 1], [[3, 5], [3, 5]], [[], [0]], next_preds_ptr=[0, 1, 1], next_preds_idx=[1])
    assert schedule(**serial).start_ps.tolist() == [0, 3, 8, 11]


def test_nothing_to_do_takes_no_time() -> None:
    t = schedule(**problem([], np.zeros(0, np.int64), [], [-1]))
    assert (t.makespan_ps, t.busy_ps(1).tolist(), overlap_ps(t, 0, 0)) == (0, [0], 0)


def test_frozen_columns_are_accepted() -> None:
    p = {key: np.array(value, np.int64) for key, value in problem([0, 1], [3, 5], [[], [0]]).items()}
    for column in p.values():
        column.flags.writeable = False
    assert schedule(**p).makespan_ps == 8


@pytest.mark.parametrize("engine", [schedule, schedule_simpy])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": [0, 2, 1]}, r"row 1: unit = 2, want 0 to 1"),
        ({"unit": [[0, 1, 1]]}, r"unit: want one dimension, got 2"),
        ({"duration_ps": [1, -2, 3]}, r"row 1, step 0: duration_ps = -2, want zero or more"),
        ({"duration_ps": [1.5, 2.0, 3.0]}, r"duration_ps: want integers, got float64"),
        ({"duration_ps": [1, 2]}, r"duration_ps has 2 columns for 3 rows, and there is no duration_index"),
        ({"duration_ps": [[[1, 2, 3]]]}, r"duration_ps: want one or two dimensions, got 3"),
        ({"duration_ps": [2**61, 2**61, 2**61]}, r"durations add up to more than"),
        ({"duration_index": [0, 1]}, r"duration_index has 2 entries for 3 rows"),
        ({"duration_index": [0, 1, 3]}, r"row 2: duration_index = 3, want 0 to 2"),
        ({"groups": [-2, -1]}, r"unit 0: group = -2, want -1 \(none\) or 0 to 1"),
        ({"preds_ptr": [0, 0, 1]}, r"preds_ptr has 3 entries, want 4: one more than rows"),
        ({"preds_ptr": [0, 2, 1, 2]}, r"preds_ptr: want it to rise from 0 to 2, the length of preds_idx"),
        ({"preds_idx": [0, 3]}, r"row 2: predecessor 3 in preds_idx, want 0 to 2"),
        ({"next_preds_ptr": [0, 0, 0, 1]}, r"next_preds_ptr and next_preds_idx: want both or neither"),
        ({"next_preds_ptr": [0, 0, 1, 1], "next_preds_idx": [-1]}, r"row 1: predecessor -1 in next_preds_idx"),
        ({"preds_idx": [2, 1]}, r"predecessors form a cycle"),
    ],
)
def test_a_bad_argument_is_named(engine: Callable[..., Timeline], change: Problem, message: str) -> None:
    good = problem([0, 1, 1], [1, 2, 3], [[], [0], [1]])
    assert engine(**good).makespan_ps == 6
    with pytest.raises(ValueError, match=message):
        engine(**{**good, **change})


@pytest.mark.parametrize("engine", [schedule, schedule_simpy])
@pytest.mark.parametrize(
    ("kind", "rate", "device_units", "message"),
    [
        ([0, 1], [[FULL] * 2] * 2, 2, r"kind has 2 entries for 3 columns of durations"),
        ([0, 1, 2], [[FULL] * 2] * 2, 2, r"column 2: kind = 2, want 0 to 1"),
        ([0, 1, 1], [[FULL] * 2], 2, r"rate: want as many rows as columns, got 1 x 2"),
        ([0, 1, 1], [[FULL, FULL], [FULL, 5]], 2, r"rate: want 1024 to 1048576"),
        ([0, 1, 1], [[FULL, FULL - 1], [FULL, FULL]], 2, r"rate: .* and 1048576 for and beside kind 0"),
        ([0, 1, 1], [[FULL] * 2] * 2, 3, r"device_units = 3: want a divisor of 2, the number of units"),
    ],
)
def test_a_bad_interference_is_named(engine: Callable[..., Timeline], kind: list[int], rate: Any, device_units: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(**problem([0, 1, 1], [1, 2, 3], [[], [0], [1]]), interference=Interference(kind, rate, device_units))


def test_slowed_durations_have_less_room() -> None:
    long, half = problem([0, 0], [2**60, 2**60], [[], []], [-1, -1]), np.array([[FULL, FULL], [FULL, FULL // 4]])
    assert schedule(**long, interference=Interference([1, 1], half, 1)).makespan_ps == 2**61, "alone on its device"
    with pytest.raises(ValueError, match=r"longest time that can be scheduled where operators may slow each other to 0.25 of their speed"):
        schedule(**long, interference=Interference([1, 1], half, 2))


def test_a_cycle_is_spelled_out() -> None:
    with pytest.raises(ValueError, match="predecessors form a cycle: row 2 waits for 3 waits for 2"):
        schedule(**problem([0, 0, 0, 0], [1, 1, 1, 1], [[], [2], [3], [2]]))
