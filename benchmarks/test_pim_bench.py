"""PIM commands a second on one channel of hbm2-neupims with refresh, and PIM commands beside requests."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gemvane.sim.dram.contend import POLICIES, contend
from gemvane.sim.dram.pimpart import Buffers, PimPart, Stream, new_state, pim_part, run
from gemvane.sim.dram.pimstream import Block, stream, tile
from gemvane.sim.dram.steady import Steady

TILES = 2000
BOTH = pytest.mark.parametrize("buffers", ["dual", "single"])


def tiles(part: PimPart) -> list[Block]:
    """A tile of four heads' keys and one of values."""
    return [tile(part, row=7, dots=4, steps=8), tile(part, row=9, dots=1, steps=32)]


def alternating(part: PimPart) -> Stream:
    return stream(tiles(part) * (TILES // 2))


@BOTH
@pytest.mark.parametrize("record", [True, False], ids=["recorded", "counted"])
def test_commands(benchmark: BenchmarkFixture, buffers: Buffers, record: bool) -> None:
    part = pim_part(buffers=buffers)
    blocks = alternating(part)
    issued = benchmark(lambda: run(part, blocks, new_state(part), record=record))
    benchmark.extra_info["commands_per_s"] = sum(issued.counts.values()) / benchmark.stats.stats.median


@BOTH
def test_remembered_blocks(benchmark: BenchmarkFixture, buffers: Buffers) -> None:
    """The same stream, a hundred times as long, by transitions that are known from the first round."""
    part = pim_part(buffers=buffers)
    memo, sequence = Steady(part, tiles(part)), np.arange(100 * TILES) % 2
    total = benchmark(memo.run, sequence)
    benchmark.extra_info["commands_per_s"] = sum(total.counts.values()) / benchmark.stats.stats.median


@pytest.mark.parametrize("policy", POLICIES)
def test_beside_requests(benchmark: BenchmarkFixture, policy: str) -> None:
    """With a saturated walk through all rows of all banks."""
    part = pim_part()
    blocks, i = alternating(part), np.arange(100_000)
    bank = i // 16 % 32
    walk = {"rw": 0 * i, "ra": bank // 16, "bg": bank // 4 % 4, "ba": bank % 4, "ro": 100 + i // 512, "arrival": 0 * i}
    done = benchmark(contend, part, blocks, walk, policy=policy)
    benchmark.extra_info["commands_per_s"] = sum(done.counts.values()) / benchmark.stats.stats.median
