"""Links between devices: the alpha-beta model of collectives."""

from __future__ import annotations

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
    algorithm: str
    max_devices: int


def resolve(name: str, unit: Link, hardware: HardwareSpec) -> ResolvedLink:
    return ResolvedLink(LINK_HZ, unit.bandwidth / LINK_HZ, ps_to_s(unit.latency) * LINK_HZ, unit.algorithm, unit.max_devices)


def steps_and_share(rows: Rows, algorithm: str) -> tuple[Floats, Floats]:
    """Messages one after another, and the share of the row's bytes that each device sends in all.

    Ring all-reduce: 2 (p - 1) steps, 2 (p - 1) / p of the bytes; tree: 2 ceil(log2 p) steps and twice the bytes
    (Thakur et al. 2005, section 4). An all-gather is half of either; a send is one message.
    """
    peers = rows.peers.astype(np.float64)
    send = rows.kind == CODE["send"]
    half = np.where(rows.kind == CODE["allgather"], 0.5, 1.0)
    if algorithm == "ring":
        steps, share = 2 * (peers - 1) * half, 2 * (peers - 1) / peers * half
    else:
        steps, share = 2 * np.ceil(np.log2(peers)) * half, 2.0 * half
    return np.where(send, 1.0, steps), np.where(send, 1.0, share)


def cost(rows: Rows, link: ResolvedLink) -> Costs:
    """time = steps x latency + bytes / bandwidth; `auto` takes the faster of ring and tree for each row."""
    ledger = Ledger(rows.size)
    plans = [steps_and_share(rows, a) for a in (("ring", "tree") if link.algorithm == "auto" else (link.algorithm,))]
    times = np.stack([s * link.latency_cycles + b * rows.link_bytes / link.bytes_per_cycle for s, b in plans])
    best = np.argmin(times, axis=0)
    chosen = np.arange(rows.size)
    ledger.spend("link", times[best, chosen])
    share = np.stack([b for _, b in plans])[best, chosen]
    ledger.count("link_bytes", np.ceil(share * rows.link_bytes).astype(np.int64))
    ledger.bind({"link": times[best, chosen]})
    return ledger.costs()
