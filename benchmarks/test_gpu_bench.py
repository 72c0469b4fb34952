"""Speed of the GPU model: kernels a second, and one call."""

from typing import Any

import numpy as np
import pandas as pd

import gemvane as gv

RNG = np.random.default_rng(0)
ROWS = 100_000
GEMMS = pd.DataFrame({"op": "gemm", "dtype": "bf16", "framework": "trtllm", "M": RNG.integers(1, 32769, ROWS),
                      "N": 2 ** RNG.integers(5, 17, ROWS), "K": 2 ** RNG.integers(5, 17, ROWS), "weight_copies": 3})


def test_100000_matmuls(benchmark: Any) -> None:
    out = benchmark.pedantic(gv.estimate_kernels, (GEMMS, "h100-sxm"), rounds=3)
    assert len(out) == ROWS


def test_one_matmul(benchmark: Any) -> None:
    from gemvane.sim.devices import gpu, resolve
    from gemvane.workloads.kernels import rows_from_table

    machine = resolve(gv.hardware("h100-sxm").spec)["gpu"]
    rows = rows_from_table({"op": ["gemm"], "dtype": ["bf16"], "M": [4096], "N": [4096], "K": [4096]})
    assert benchmark(gpu.cost, rows, machine).total_cycles[0] > 0
