"""How fast traces are scheduled."""

from typing import Any

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim.kernels.timeline import FULL
from gemvane.sim.schedule import Interference, schedule

LAYERS, ROWS_A_LAYER, UNITS = 80, 10, 4


def decode_steps(layers: int, steps: int) -> dict[str, Any]:
    """Two interleaved sub-batches, each a chain of layers of 10 operators; a step waits for the end of the one before."""
    rng = np.random.default_rng(0)
    chain = layers * ROWS_A_LAYER
    rows = 2 * chain
    firsts = np.array([0, chain])
    waits = np.ones(rows, np.int64)
    waits[firsts] = 0
    carried = 1 - waits
    return {
        "unit": np.tile(rng.integers(0, UNITS, ROWS_A_LAYER), 2 * layers),
        "duration_ps": rng.integers(10**6, 10**8, (steps, 2 * ROWS_A_LAYER)),
        "duration_index": np.concatenate([np.tile(np.arange(ROWS_A_LAYER) + half * ROWS_A_LAYER, layers) for half in (0, 1)]),
        "preds_ptr": np.concatenate(([0], np.cumsum(waits))),
        "preds_idx": np.delete(np.arange(rows), firsts) - 1,
        "next_preds_ptr": np.concatenate(([0], np.cumsum(carried))),
        "next_preds_idx": firsts + chain - 1,
        "groups": np.array([0, 0, -1, -1]),
    }


@pytest.mark.parametrize(("layers", "steps"), [(5_000, 1), (LAYERS, 64), (LAYERS, 1_000)], ids=["100k-rows", "64-steps", "1000-steps"])
def test_transformer_trace(benchmark: Any, layers: int, steps: int) -> None:
    problem = decode_steps(layers, steps)
    timeline = benchmark(lambda: schedule(**problem))
    assert timeline.makespan_ps >= timeline.busy_ps(UNITS).max()


def test_transformer_trace_whose_units_slow_each_other(benchmark: Any) -> None:
    problem = decode_steps(LAYERS, 64)
    rate = np.full((3, 3), FULL)
    rate[1, 2], rate[2, 1] = FULL * 7 // 10, FULL * 9 // 10
    interference = Interference(np.arange(2 * ROWS_A_LAYER) % 3, rate, UNITS)
    timeline = benchmark(lambda: schedule(**problem, interference=interference))
    assert timeline.makespan_ps >= schedule(**problem).makespan_ps


def test_decode_iteration_of_npu_and_pim(benchmark: Any) -> None:
    """GPT-3 7B, 32 layers, batch 256 of mixed lengths on a quarter of four devices: sub-batches tried, contention solved before."""
    lengths = tuple(np.clip(np.random.default_rng(0).lognormal(5.2, 0.9, 256), 8, 2000).astype(int).tolist())
    result = benchmark(lambda: gv.run("gpt3-7b", "neupims", batch=256, prompt=lengths, output=1, phase="decode", tp=4))
    assert result.run.decode.sub_batches == 2
