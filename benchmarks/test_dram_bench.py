"""Requests a second of the DRAM controller, one HBM2 channel with refresh (C++ controllers: 0.1 to 0.6 M, on conflicts 0.02 to 0.03 M)."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gemvane.sim import dram
from gemvane.sim.dram import part
from gemvane.sim.dram.channels import replay_channels

COUNT = 20_000


def hits(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Random banks, each of which keeps its row four times out of five."""
    bank, anew, row = rng.integers(0, 32, COUNT), rng.random(COUNT) > 0.8, rng.integers(0, 16384, COUNT)
    start = np.zeros(COUNT, np.int64)
    for number in range(32):
        mine = np.flatnonzero(bank == number)
        start[mine] = np.maximum.accumulate(np.where(anew[mine], mine, mine[:1]))
    return {"pc": bank % 2, "bg": bank // 2 % 4, "ba": bank // 8, "ro": row[start], "co": rng.integers(0, 32, COUNT)}


def streams() -> dict[str, dict[str, np.ndarray]]:
    i, rng, zero = np.arange(COUNT), np.random.default_rng(1), np.zeros(COUNT, np.int64)
    anywhere = {"pc": rng.integers(0, 2, COUNT), "bg": rng.integers(0, 4, COUNT), "ba": rng.integers(0, 4, COUNT),
                "ro": rng.integers(0, 16384, COUNT), "co": rng.integers(0, 32, COUNT)}
    return {
        "stream": {"rw": zero, "pc": i % 2, "bg": i // 2 % 4, "co": i // 8 % 32, "ba": i // 256 % 4, "ro": i // 1024},
        "row-major": {"rw": zero, "co": i % 32, "pc": i // 32 % 2, "bg": i // 64 % 4, "ba": i // 256 % 4, "ro": i // 1024},
        "hits": {"rw": zero, **hits(rng)},
        "random": {"rw": zero, **anywhere},
        "random-writes": {"rw": (rng.random(COUNT) < 1 / 3).astype(np.int64), **anywhere},
        "conflicts": {"rw": zero, "pc": zero, "bg": zero, "ba": zero, "ro": i % 16384, "co": zero},
    }


@pytest.mark.parametrize("told", [{"row_policy": "closed"}, {"refresh": "per-bank"}], ids=["closed", "per-bank"])
def test_policies(benchmark: BenchmarkFixture, told: dict[str, str]) -> None:
    benchmark(dram.replay, streams()["random"], part.load("hbm2-2000-4gb"), **told)
    benchmark.extra_info["requests_per_s"] = COUNT / benchmark.stats.stats.median


def test_channels(benchmark: BenchmarkFixture) -> None:
    asked = {name: np.tile(values, 8) for name, values in streams()["random"].items()} | {"ch": np.repeat(np.arange(8), COUNT)}
    benchmark(replay_channels, asked, part.load("hbm2-2000-4gb"))
    benchmark.extra_info["requests_per_s"] = 8 * COUNT / benchmark.stats.stats.median


@pytest.mark.parametrize("name", streams())
def test_replay(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark(dram.replay, streams()[name], part.load("hbm2-2000-4gb"), scheduler="frfcfs")
    benchmark.extra_info["requests_per_s"] = COUNT / benchmark.stats.stats.median
