"""Closed forms of GEMMs a second; SCALE-Sim's memory request by request; cells of the register-level array a second.

SCALE-Sim v2 itself takes 51 s of CPU for 1 x 4096 x 4096, output-stationary on 128 x 128 (CALC), and 5.1 s for 512 x 512 x 512.
"""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from gemvane.sim.devices import scalesim
from gemvane.sim.devices.cellarray import multiply
from gemvane.sim.devices.systolic import DATAFLOWS, gemm_cycles

COUNT = 100_000
SRAM = {"ifmap_bytes": 65536, "filter_bytes": 65536, "ofmap_bytes": 65536}


@pytest.mark.parametrize("mode", ["scalesim", "pipelined"])
@pytest.mark.parametrize("flow", DATAFLOWS)
def test_gemm_cycles(benchmark: BenchmarkFixture, flow: str, mode: str) -> None:
    m, n, k = np.random.default_rng(1).integers(1, 8192, (3, COUNT))
    benchmark(gemm_cycles, m, n, k, rows=128, cols=128, dataflow=flow, mode=mode)
    benchmark.extra_info["gemms_per_s"] = COUNT / benchmark.stats.stats.median


@pytest.mark.parametrize(("m", "n", "k"), [(1, 4096, 4096), (512, 512, 512)])
@pytest.mark.parametrize("words", [None, (10, 10, 10)], ids=["CALC", "USER"])
def test_scalesim_memory(benchmark: BenchmarkFixture, m: int, n: int, k: int, words: tuple[int, int, int] | None) -> None:
    benchmark(scalesim.run, scalesim.Gemm(m, n, k), rows=128, cols=128, dataflow="os", words_per_cycle=words, **SRAM)


def test_scalesim_convolution(benchmark: BenchmarkFixture) -> None:
    """AlexNet's first layer."""
    layer = scalesim.Convolution(224, 224, 11, 11, 3, 96, 4, 4)
    benchmark(scalesim.run, layer, rows=32, cols=32, dataflow="ws", **SRAM)


@pytest.mark.parametrize("flow", DATAFLOWS)
def test_cell_array(benchmark: BenchmarkFixture, flow: str) -> None:
    a, b = np.random.default_rng(1).integers(-9, 10, (2, 128, 128))
    done = benchmark(multiply, a, b, rows=16, cols=16, dataflow=flow)
    benchmark.extra_info["cell_cycles_per_s"] = done.cycles * 16 * 16 / benchmark.stats.stats.median
