"""What long streams get from a memory: a share of the peak, from the command-level replay of its part."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..schema import Memory
from .part import load
from .replay import replay

REQUESTS = 40_000
"""Several refresh intervals of every bundled part."""


@lru_cache(maxsize=64)
def stream_share(part: str) -> float:
    """Bandwidth over peak of reads that walk through pseudochannels, bank groups, columns, banks, then rows, refresh included.

    The order in which weights and caches are laid out: neighbours lie in different bank groups, and a row is used up before it closes.
    """
    loaded = load(part)
    counts = dict(zip(("pc", "ra", "bg", "ba"), (int(n) for n in loaded.resolved.counts), strict=True))
    counts |= {"co": loaded.columns, "ro": loaded.rows}
    rest, requests = np.arange(REQUESTS), {"rw": np.zeros(REQUESTS, np.int64)}
    for field in ("pc", "bg", "co", "ba", "ra", "ro"):
        rest, requests[field] = np.divmod(rest, counts[field])
    done = replay(requests, loaded)
    return done.bandwidth_bytes_per_s / done.peak_bytes_per_s


def bytes_per_s(memory: Memory) -> float:
    """What the best long streams reach: the stated share of the peak, else that of the memory's part, else all of it."""
    if memory.sustained is not None:
        return memory.bandwidth * memory.sustained
    return memory.bandwidth * (stream_share(memory.part) if memory.part else 1.0)
