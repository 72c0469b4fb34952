"""What a user waits for: whole processes, and kernels a second. `make bench` prints them; nothing here fails for being slow."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from pytest_benchmark.fixture import BenchmarkFixture

import gemvane as gv

RUN = ["run", "llama3-8b", "--hw", "neupims", "--batch", "64", "--prompt", "512", "--output", "128"]


def gemvane(*arguments: str, **environment: str) -> None:
    subprocess.run([sys.executable, "-m", "gemvane", *arguments], env={**os.environ, **environment}, check=True, capture_output=True)


def test_help(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(gemvane, args=("--help",), rounds=9, warmup_rounds=1)


def test_run_warm(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(gemvane, args=RUN, rounds=5, warmup_rounds=1)
    benchmark.extra_info["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def test_run_first_ever(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """With an empty cache of compiled kernels."""
    benchmark.pedantic(gemvane, args=RUN, kwargs={"NUMBA_CACHE_DIR": str(tmp_path)}, rounds=1)


def test_estimate_100_000_gemms(benchmark: BenchmarkFixture) -> None:
    random = np.random.default_rng(7)
    sizes = 2 ** random.uniform(0, 15, (100_000, 3))
    table = pd.DataFrame(sizes.astype(int), columns=["M", "N", "K"]).assign(op="gemm", dtype="bf16")
    benchmark(gv.estimate_kernels, table, "h100-sxm")


def test_run_in_process(benchmark: BenchmarkFixture) -> None:
    benchmark(gv.run, "llama3-8b", "neupims", batch=64, prompt=512, output=128)


def test_run_2000_tokens_of_a_large_model(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(gv.run, args=("deepseek-v3", "b200"), kwargs={"batch": 32, "prompt": 1000, "output": 2000, "tp": 8, "dtype": "fp8"},
                       rounds=2, warmup_rounds=1)
