"""The search for tiles: equal to brute force wherever all tiles can be listed, and never worse with more of anything."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim.devices.systolic import fold, pipelined_parts
from gemvane.sim.devices.tiling import DATAFLOWS, ORDERS, UNLIMITED, Matmuls, Plans, Scratchpad, least_space, search
from gemvane.sim.kernels import tiling as kernel

BITS = {"a": 16, "w": 16, "o": 16}


def one(m: int, n: int, k: int, space: int, products: int = 1, dram: tuple[int, int] = (1, 1)) -> Matmuls:
    return Matmuls(*(np.array([v]) for v in (m, n, k, *BITS.values(), *dram, space, products)))


def plan(m: int, n: int, k: int, space: int, pad: Scratchpad, bandwidth: float = 8.0, **more: int) -> Plans:
    return search(one(m, n, k, space, **more), pad, bandwidth, np.ones(1))


def seconds(p: Plans, bandwidth: float) -> tuple[float, int]:
    moved, first = int(p.input_bytes[0] + p.weight_bytes[0] + p.output_bytes[0]), int(p.first_bytes[0])
    return first / bandwidth + max(float(p.fill[0] + p.issue[0] + p.drain[0]), (moved - first) / bandwidth), moved


def brute_force(m: int, n: int, k: int, space: int, pad: Scratchpad, bandwidth: float) -> tuple[float, int]:
    """Every tile size, loop order and dataflow, each walked block by block: operands are fetched when their block changes."""
    best = (np.inf, 0)
    for flow in pad.dataflows:
        grain = {"ws": (1, pad.cols, pad.rows), "is": (pad.cols, 1, pad.rows), "os": (pad.rows, pad.cols, 1)}[flow]
        legal = [sorted({min(s, size) for s in range(g, size + g, g)}) for size, g in zip((m, n, k), grain, strict=True)]
        for tile, order, granule in product(product(*legal), permutations(range(3)), (False, True)):
            trips = [-(-size // t) for size, t in zip((m, n, k), tile, strict=True)]
            held = {"a": (0, 2), "w": (2, 1), "o": (0, 1)}
            small = {"ws": "w", "is": "a", "os": "o"}[flow] if granule else ""
            used = 0
            for name, (x, y) in held.items():
                cells = pad.rows * pad.cols * 2 if name == small else tile[x] * tile[y] * (2 if trips[x] * trips[y] > 1 else 1)
                used += -(-cells * (32 if name == "o" else BITS[name]) // 8)
            if used > space:
                continue
            moved = walk(m, n, k, tile, order, held, small)
            streamed, chunk = {"ws": (m, tile[0]), "is": (n, tile[1]), "os": (k, tile[2])}[flow]
            first = 2 * min(pad.cols * (pad.rows if flow == "ws" else 1), k * n)
            time = first / bandwidth + max(array_time(m, n, k, pad, flow, streamed, chunk), (moved - first) / bandwidth)
            best = min(best, (time, moved))
    return best


def walk(m: int, n: int, k: int, tile: tuple[int, ...], order: tuple[int, ...], held: dict[str, tuple[int, int]], small: str) -> int:
    size, moved, last, seen = (m, n, k), 0, {}, set()
    for at in product(*(range(-(-size[d] // tile[d])) for d in order)):
        where = dict(zip(order, at, strict=True))
        extent = [min(tile[d], size[d] - where[d] * tile[d]) for d in range(3)]
        for name, (x, y) in held.items():
            block, cells = (where[x], where[y]), extent[x] * extent[y]
            if last.get(name) == block and name != small:
                continue
            if name == "o":
                moved += 8 * cells if block in seen else 2 * cells  # a sum that has left comes back and leaves again
                seen.add(block)
            else:
                moved += 2 * cells
            last[name] = block
    return moved


def array_time(m: int, n: int, k: int, pad: Scratchpad, flow: str, streamed: int, chunk: int) -> float:
    """Tile by tile: the chunks of the stream one after another, in each all column and row folds."""
    f = fold(*(np.array([v]) for v in (m, n, k)), pad.rows, pad.cols, flow)
    rows = [pad.rows] * (int(f.row_folds[0]) - 1) + [int(f.edge_rows[0])]
    cols = [pad.cols] * (int(f.col_folds[0]) - 1) + [int(f.edge_cols[0])]
    pieces = [min(chunk, streamed - at) for at in range(0, streamed, chunk)]
    tiles = [(t, r, c) for t in pieces for c in cols for r in rows]
    start, end = (0 if flow == "os" else tiles[0][1]), 0
    for i, (t, _, c) in enumerate(tiles):
        end = max(end, start + t + (2 * pad.rows if flow == "os" else pad.rows) + c - 2)
        if i + 1 < len(tiles):
            start += max(t, pad.rows if flow == "os" else tiles[i + 1][1])
    return float(end)


small = st.integers(1, 14)


@settings(max_examples=60, deadline=None)
@given(small, small, small, st.sampled_from([(2, 2), (4, 2), (2, 4), (4, 4)]), st.integers(0, 500), st.sampled_from([0.5, 2.0, 16.0]),
       st.sampled_from([("ws",), ("is",), ("os",), DATAFLOWS]))
def test_the_search_equals_brute_force(m: int, n: int, k: int, array: tuple[int, int], more: int, bandwidth: float, flows: tuple[str, ...]
                                       ) -> None:
    pad = Scratchpad(*array, dataflows=flows)
    space = least_space(pad, 16, 16) + more
    try:
        found = seconds(plan(m, n, k, space, pad, bandwidth), bandwidth)
    except ValueError:
        found = (np.inf, 0)
    assert found == brute_force(m, n, k, space, pad, bandwidth)


def test_brute_force_lists_problems_that_fit_and_that_do_not() -> None:
    pad = Scratchpad(4, 4)
    assert brute_force(9, 13, 11, 10_000, pad, 2.0) == (32 / 2 + (2 * (9 * 11 + 11 * 13 + 9 * 13) - 32) / 2, 718)
    assert brute_force(9, 13, 11, least_space(pad, 16, 16), pad, 2.0)[1] > 718
    assert brute_force(9, 13, 11, least_space(pad, 16, 16) - 1, pad, 2.0)[0] == np.inf


sizes = st.integers(1, 700)


@settings(max_examples=60, deadline=None)
@given(sizes, sizes, sizes, st.integers(0, 40_000), st.integers(0, 40_000), st.sampled_from([("ws",), ("os",), DATAFLOWS]))
def test_more_scratchpad_or_bandwidth_is_never_slower(m: int, n: int, k: int, more: int, still_more: int, flows: tuple[str, ...]) -> None:
    pad = Scratchpad(16, 8, arrays=2, dataflows=flows)
    space = least_space(pad, 16, 16) + more
    time, moved = seconds(plan(m, n, k, space, pad, 4.0), 4.0)
    assert seconds(plan(m, n, k, space + still_more, pad, 4.0), 4.0) <= (time, moved)
    assert seconds(plan(m, n, k, space, pad, 5.0), 5.0)[0] <= time
    assert moved >= 2 * (m * k + k * n + m * n)


@given(sizes, sizes, sizes, st.integers(1, 5))
def test_without_a_limit_the_array_alone_decides(m: int, n: int, k: int, products: int) -> None:
    pad = Scratchpad(16, 8)
    p = plan(m, n, k, UNLIMITED, pad, 1e9, products=products)
    fill, issue, drain = pipelined_parts(fold(*(np.array([v]) for v in (m, n, k)), 16, 8, "ws"), 16, 8, "ws", True)
    hidden = max(m, int(fill[0])) - m  # every product but the first has its first preload behind the stream of the one before
    assert (p.fill[0], p.issue[0], p.drain[0]) == (fill[0], products * issue[0] + (products - 1) * hidden, drain[0])
    assert p.chunks[0] == 1 and p.input_bytes[0] + p.weight_bytes[0] + p.output_bytes[0] == 2 * (m * k + k * n + m * n)


def test_full_accumulators_cut_the_stream() -> None:
    """TPU v1: 4 MiB of accumulators hold 4,096 sums a column of 256, so 10,000 vectors go by in three pieces of 3,334."""
    pad = Scratchpad(256, 256, accumulators=4 << 20)
    p = plan(10_000, 256, 256, UNLIMITED, pad, 1e9)
    assert (p.chunks[0], p.tm[0]) == (3, 3334)
    assert p.issue[0] == 10_000, "each piece is longer than a preload"


def test_a_choice_of_dataflow_is_the_best_of_them() -> None:
    each = [seconds(plan(300, 40, 500, 30_000, Scratchpad(16, 16, dataflows=(flow,)), 3.0), 3.0) for flow in DATAFLOWS]
    p = plan(300, 40, 500, 30_000, Scratchpad(16, 16, dataflows=DATAFLOWS), 3.0)
    assert seconds(p, 3.0) == min(each) and each[p.dataflow[0]] == min(each)


def test_least_bytes_may_take_longer() -> None:
    fast = plan(64, 512, 64, 9_000, Scratchpad(8, 8, dataflows=DATAFLOWS), 64.0)
    small = plan(64, 512, 64, 9_000, Scratchpad(8, 8, dataflows=DATAFLOWS, least="bytes"), 64.0)
    assert seconds(small, 64.0)[1] < seconds(fast, 64.0)[1] and seconds(small, 64.0)[0] >= seconds(fast, 64.0)[0]


def test_the_readable_kernel_finds_the_same_plan() -> None:
    problems = np.array([[70, 90, 50, 16, 8, 16, 1, 1, 6_000, 3], [1, 64, 64, 16, 16, 16, 0, 0, 2_000, 1]])
    machine = np.array([8, 8, 2, 1, 0, UNLIMITED, UNLIMITED, UNLIMITED, 7, 0])
    plans = [np.zeros((2, kernel.PLAN_COLUMNS), np.int64) for _ in range(2)]
    for run, out in zip((kernel.search_kernel, kernel.search_kernel.py_func), plans, strict=True):
        run(problems, machine, np.ones(2), 3.0, out)
    np.testing.assert_array_equal(*plans)
    assert len(ORDERS) == len(kernel.ORDERS)
    for name, places in zip(ORDERS, kernel.ORDERS, strict=True):
        assert [name.index(loop) for loop in "mnk"] == places.tolist()


@pytest.mark.parametrize(("change", "said"), [
    ({"m": 0}, "matmul 0: m is 0. Expected 1 or more"),
    ({"n": -3}, "matmul 0: n is -3"),
    ({"m": 2**31, "n": 2**31, "k": 2**31}, "more than 64 bits can count"),
    ({"space": 100}, "The least that works is 112 bytes"),
])
def test_what_cannot_be_searched_is_named(change: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(**{"m": 8, "n": 8, "k": 8, "space": 10_000, **change}, pad=Scratchpad(4, 4))


@pytest.mark.parametrize(("pad", "said"), [
    (Scratchpad(4, 4, dataflows=("ws", "rs")), "dataflows are ws, rs"),
    (Scratchpad(4, 4, dataflows=()), "dataflows are none"),
    (Scratchpad(4, 4, least="energy"), "least = 'energy' is unknown"),
    (Scratchpad(0, 4), "1 arrays of 0 x 4"),
])
def test_a_machine_that_cannot_be_is_named(pad: Scratchpad, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(8, 8, 8, 10_000, pad)


def test_sizes_up_to_two_to_the_31_do_not_overflow() -> None:
    for size in ((2**31, 1, 1), (1, 2**31, 1), (1, 1, 2**31), (2**31, 128, 128)):
        p = plan(*size, 64 << 20, Scratchpad(128, 128), 500.0)
        assert p.issue[0] > 0 and p.used_bytes[0] <= 64 << 20
