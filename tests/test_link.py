"""All-to-all between devices: bytes and steps behind a switch, and on a torus every link counted one by one."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from gemvane.sim.costs import ACTIONS
from gemvane.sim.devices import link
from gemvane.workloads.kernels import rows_from_table
from gemvane.workloads.ops import Rows

SWITCH = link.ResolvedLink(10**9, 100.0, 1000.0, ("ring",), 0, 0, 8)
"""100 B/ns, 1 us a message."""
MEGA = 8_000_000


def exchange(size: int, peers: int) -> Rows:
    return rows_from_table({"op": ["alltoall"], "dtype": ["bf16"], "bytes": [size], "tp": [peers]})


def torus(axes: int, wraps_from: int) -> link.ResolvedLink:
    return SWITCH._replace(algorithms=("torus",), axes=axes, wraps_from=wraps_from)


def way(here: int, there: int, side: int, ring: bool) -> list[tuple[int, int]]:
    """Links of the shortest way along one axis, each (from, direction); halfway round a ring, even places go up and odd ones down."""
    up = (there - here) % side
    if not ring:
        direction, steps = (1 if there > here else -1), abs(there - here)
    elif 2 * up == side:
        direction, steps = (1 if here % 2 == 0 else -1), up
    else:
        direction, steps = (1, up) if 2 * up < side else (-1, side - up)
    return [((here + direction * i) % side, direction) for i in range(steps)]


def loads(block: tuple[int, ...], wraps_from: int) -> Counter[tuple[tuple[int, ...], int, int]]:
    """Messages over each directed link when every device sends one to each other, axis by axis."""
    count: Counter[tuple[tuple[int, ...], int, int]] = Counter()
    for source, target in product(product(*map(range, block)), repeat=2):
        at = list(source)
        for axis, side in enumerate(block):
            for place, direction in way(at[axis], target[axis], side, side >= max(3, wraps_from)):
                at[axis] = place
                count[(tuple(at), axis, direction)] += 1
            at[axis] = target[axis]
    return count


@pytest.mark.parametrize(("block", "wraps_from"), [
    ((2,), 9), ((3,), 9), ((4,), 9), ((7,), 9), ((3,), 3), ((4,), 3), ((5,), 3), ((8,), 3),
    ((4, 2), 16), ((4, 4), 16), ((4, 4), 4), ((3, 3), 3), ((2, 2, 2), 4), ((4, 4, 4), 4),
])
def test_an_all_to_all_takes_as_long_as_its_busiest_link(block: tuple[int, ...], wraps_from: int) -> None:
    devices, axes = int(np.prod(block)), len(block)
    count = loads(block, wraps_from)
    ring = [side >= max(3, wraps_from) for side in block]
    hops = sum(side // 2 if wrap else side - 1 for side, wrap in zip(block, ring, strict=True))
    costs = link.cost(exchange(MEGA, devices), torus(axes, wraps_from))
    message, link_bandwidth = MEGA / devices, 100 / (2 * axes)
    assert costs.total_cycles[0] == pytest.approx(hops * 1000 + max(count.values()) * message / link_bandwidth, abs=1)
    sent = costs.actions[0, ACTIONS.index("link_bytes")]
    assert sent == pytest.approx(sum(count.values()) * message / devices, abs=1)


def test_an_all_to_all_on_an_even_ring_is_a_quarter_of_an_all_gather_of_all_bytes() -> None:
    ring = torus(1, 3)._replace(latency_cycles=0.0)
    gather = rows_from_table({"op": ["allgather"], "dtype": ["bf16"], "bytes": [16 * MEGA], "tp": [16]})
    all_to_all, all_gather = (link.cost(rows, ring).total_cycles[0] for rows in (exchange(MEGA, 16), gather))
    assert 4 * all_to_all * 15 / 16 == pytest.approx(all_gather, rel=1e-5)  # the gather leaves out what each device has


@pytest.mark.parametrize("machine", [SWITCH, SWITCH._replace(algorithms=("tree",)), torus(2, 4)])
def test_one_device_has_nothing_to_exchange(machine: link.ResolvedLink) -> None:
    assert link.cost(exchange(MEGA, 1), machine).total_cycles[0] == 0


@pytest.mark.parametrize("peers", [2, 3, 8])
def test_behind_a_switch_each_device_sends_all_but_its_own_share_once(peers: int) -> None:
    costs = link.cost(exchange(MEGA, peers), SWITCH)
    assert costs.total_cycles[0] == pytest.approx((peers - 1) * 1000 + (peers - 1) / peers * MEGA / 100, abs=1)
    assert costs.actions[0, ACTIONS.index("link_bytes")] == pytest.approx((peers - 1) / peers * MEGA, abs=1)


def test_a_small_exchange_prefers_fewer_messages_and_a_large_one_fewer_bytes() -> None:
    tree, auto = SWITCH._replace(algorithms=("tree",)), SWITCH._replace(algorithms=("ring", "tree"))
    small, large = exchange(8_000, 8), exchange(800 * MEGA, 8)
    assert link.cost(small, tree).total_cycles[0] == 3 * 1000 + 3 / 2 * 8_000 / 100  # Bruck: log2 p steps of half the bytes
    assert link.cost(small, auto).total_cycles[0] == link.cost(small, tree).total_cycles[0]
    assert link.cost(large, auto).total_cycles[0] == link.cost(large, SWITCH).total_cycles[0]
