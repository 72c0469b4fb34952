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


def test_one_kernel_from_its_columns(benchmark: Any) -> None:
    machine = gv.hardware("h100-sxm")
    assert benchmark(gv.estimate_kernel, machine, op="gemm", dtype="bf16", M=4096, N=4096, K=4096).latency_us > 0


def test_events_of_10000_blocks(benchmark: Any) -> None:
    """Ragged decode: 1,250 sequences of 8 KV heads, a block each."""
    from gemvane.sim.calibration import DecodeCondition
    from gemvane.sim.devices import gpu_attention, gpu_blocks, resolve
    from gemvane.workloads.ops import DTYPES

    lengths = RNG.integers(100, 4000, 1250)
    ragged = gpu_blocks.Ragged(np.ones_like(lengths), lengths, 32, 8, 128)
    machine, bf16 = resolve(gv.hardware("h100-sxm").spec)["gpu"], DTYPES.index("bf16")
    found = benchmark(gpu_blocks.decode_us, ragged, bf16, machine, gpu_attention.FLASH3, DecodeCondition())
    assert found > 0
