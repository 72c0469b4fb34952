"""Requests a second of the DRAM controller, one HBM2 channel with refresh (C++ controllers: 0.1 to 0.6 M, on conflicts 0.02 to 0.03 M)."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gemvane.sim import dram
from gemvane.sim.dram import part

COUNT = 20_000


def streams() -> dict[str, dict[str, np.ndarray]]:
    i, rng, zero = np.arange(COUNT), np.random.default_rng(1), np.zeros(COUNT, np.int64)
    anywhere = {"pc": rng.integers(0, 2, COUNT), "bg": rng.integers(0, 4, COUNT), "ba": rng.integers(0, 4, COUNT),
                "ro": rng.integers(0, 16384, COUNT), "co": rng.integers(0, 32, COUNT)}
    return {
        "stream": {"rw": zero, "pc": i % 2, "bg": i // 2 % 4, "co": i // 8 % 32, "ba": i // 256 % 4, "ro": i // 1024},
        "row-major": {"rw": zero, "co": i % 32, "pc": i // 32 % 2, "bg": i // 64 % 4, "ba": i // 256 % 4, "ro": i // 1024},
        "random": {"rw": zero, **anywhere},
        "random-writes": {"rw": (rng.random(COUNT) < 1 / 3).astype(np.int64), **anywhere},
        "conflicts": {"rw": zero, "pc": zero, "bg": zero, "ba": zero, "ro": i % 16384, "co": zero},
    }


@pytest.mark.parametrize("name", streams())
def test_replay(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(dram.replay, streams()[name], part.load("hbm2-2000-4gb"), scheduler="frfcfs")
    benchmark.extra_info["requests_per_s"] = COUNT / benchmark.stats.stats.median
