"""Links between devices: the alpha-beta model of collectives, behind a switch or on a torus."""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import CODE, Rows

from ..costs import Costs, Floats, Ledger
from ..schema import HardwareSpec, Link
from ..units import ps_to_s

LINK_HZ = 10**9
"""Links have no clock of their own here: their cycles are nanoseconds."""


class ResolvedLink(NamedTuple):
    freq_hz: int
    bytes_per_cycle: float
    latency_cycles: float
    algorithms: tuple[str, ...]
    axes: int
    wraps_from: int
    max_devices: int


class Plans(NamedTuple):
    """One way of doing each row's collective."""

    steps: Floats
    """Messages one after another."""
    sent: Floats
    """Share of the row's bytes that each device sends in all, what it passes on for others included."""
    used: Floats
    """Share of a device's bandwidth that carries them."""


def resolve(name: str, unit: Link, hardware: HardwareSpec) -> ResolvedLink:
    behind_switch = ("ring", "tree") if unit.algorithm == "auto" else (unit.algorithm,)
    algorithms = behind_switch if unit.topology == "switch" else ("torus",)
    return ResolvedLink(LINK_HZ, unit.bandwidth / LINK_HZ, ps_to_s(unit.latency) * LINK_HZ, algorithms, unit.axes or 0,
                        unit.wraps_from or 0, unit.max_devices)


def plans(rows: Rows, link: ResolvedLink, algorithm: str) -> Plans:
    """Steps, bytes and links of each row's collective.

    Ring all-reduce: 2 (p - 1) steps, 2 (p - 1) / p of the bytes; tree: 2 ceil(log2 p) steps and twice the bytes (Thakur et al. 2005,
    section 4). On a torus every axis is a ring, and all of them carry their part at once (jax-ml/scaling-book, sharding.md). An
    all-gather or a reduce-scatter is half of an all-reduce; a send is one message, on a torus over one link.

    All-to-all behind a switch: p - 1 exchanges of 1 / p of the bytes; as a tree (Bruck), ceil(log2 p) steps with half of the bytes
    each (Thakur et al. 2005, section 4). On a torus each message takes the shortest way and the busiest links bind (`_torus`).
    """
    peers = rows.peers.astype(np.float64)
    send, exchange = rows.kind == CODE["send"], rows.kind == CODE["alltoall"]
    half = np.where((rows.kind == CODE["allgather"]) | (rows.kind == CODE["reducescatter"]), 0.5, 1.0)
    sent = np.full(rows.size, 2.0) * half if algorithm == "tree" else 2 * (peers - 1) / peers * half
    used = np.ones(rows.size)
    if algorithm == "torus":
        hops, links, distance, paths = np.array([_torus(int(p), link.axes, link.wraps_from) for p in rows.peers]).T
        steps, used = 2 * hops * half, links / (2 * link.axes)
        steps, sent = np.where(exchange, hops, steps), np.where(exchange, distance, sent)
        used = np.where(exchange, paths / (2 * link.axes), used)
        used = np.where(send, 1 / (2 * link.axes), used)
    elif algorithm == "ring":
        steps = np.where(exchange, peers - 1, 2 * (peers - 1) * half)
        sent = np.where(exchange, (peers - 1) / peers, sent)
    else:
        rounds = np.ceil(np.log2(peers))
        steps, sent = np.where(exchange, rounds, 2 * rounds * half), np.where(exchange, rounds / 2, sent)
    return Plans(np.where(send, 1.0, steps), np.where(send, 1.0, sent), used)


class _Torus(NamedTuple):
    """A block of neighbours."""

    hops: int
    """One after another, from one end to the other on every axis (from one side of a ring to the other)."""
    links: int
    """Links of a device that carry an all-gather."""
    distance: float
    """Mean links that a byte of an all-to-all crosses, those that stay at home included: it is sent so often."""
    paths: float
    """Links' worth of bandwidth that carry what a device sends in an all-to-all: `distance` over the load of the busiest link."""


@lru_cache(maxsize=1024)
def _torus(devices: int, axes: int, wraps_from: int) -> _Torus:
    """The most even block of so many devices: 8 on two axes are 4 x 2. An axis whose ends are linked is gone round both ways at once.

    All-to-all: each byte walks axis by axis. On s devices in a line, floor(s/2) ceil(s/2) / s of a device's bytes cross the middle
    link one way, and a byte crosses (s^2 - 1) / 3s links; on a ring every link carries half of that middle's load, and a byte
    crosses floor(s^2 / 4) / s. So an even ring takes s/8 of its device's bytes over one link: a quarter of an all-gather of all
    bytes, as in jax-ml/scaling-book, sharding.md.
    """
    sides = [side for side in range(1, devices + 1) if devices % side == 0]
    block = min((b for b in product(sides, repeat=axes) if prod(b) == devices), key=lambda b: (max(b), sum(b)))
    wraps = [side >= max(wraps_from, 3) for side in block]
    hops = sum(side // 2 if wrap else side - 1 for side, wrap in zip(block, wraps, strict=True))
    links = sum((2 if wrap else 1) for side, wrap in zip(block, wraps, strict=True) if side > 1)
    halved = [(side**2 // 4) / side for side in block]
    distance = sum(half if wrap else (side**2 - 1) / (3 * side) for side, half, wrap in zip(block, halved, wraps, strict=True))
    busiest = max(half / (2 if wrap else 1) for half, wrap in zip(halved, wraps, strict=True))
    return _Torus(hops, max(links, 1), distance, distance / busiest if devices > 1 else 1.0)


def cost(rows: Rows, link: ResolvedLink) -> Costs:
    """time = steps x latency + bytes / bandwidth; of several algorithms the faster for each row."""
    ledger = Ledger(rows.size)
    ways = [plans(rows, link, algorithm) for algorithm in link.algorithms]
    times = np.stack([way.steps * link.latency_cycles + way.sent * rows.link_bytes / (link.bytes_per_cycle * way.used) for way in ways])
    best = np.argmin(times, axis=0)
    chosen = np.arange(rows.size)
    ledger.chose(link.algorithms, best)
    ledger.spend("link", times[best, chosen])
    sent = np.stack([way.sent for way in ways])[best, chosen]
    ledger.count("link_bytes", np.ceil(sent * rows.link_bytes).astype(np.int64))
    ledger.bind({"link": times[best, chosen]})
    return ledger.costs()
