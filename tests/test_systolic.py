"""Systolic arrays: the worked examples of both timing modes, and what must hold for every shape."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemvane.sim.devices.systolic import DATAFLOWS, fold, gemm_cycles, pipelined_parts

WORKED = [
    # m, n, k, array, dataflow, scalesim, pipelined: one cold fill, one drain, preloads hidden where the stream is long enough
    (8, 128, 128, 128, "ws", 389, 128 + 8 + 254),
    (8, 128, 128, 128, "is", 509, 128 + 128 + 128 + 8 - 2),
    (8, 128, 128, 128, "os", 381, 128 + 256 + 128 - 2),
    (512, 512, 512, 128, "ws", 14303, 128 + 15 * 512 + 512 + 254),
    (512, 512, 512, 128, "os", 12255, 15 * 512 + 512 + 382),
    (1, 4096, 4096, 128, "ws", 392191, 1024 * 128 + 1 + 254),
    (1, 4096, 4096, 128, "os", 139199, 31 * 4096 + 4096 + 382),
    (1, 4096, 4096, 128, "is", 143295, 128 + 31 * 4096 + 4096 + 128 + 1 - 2),
    (100, 100, 100, 32, "ws", 3103, 1666),
    (17, 33, 65, 32, "ws", 665, 210),
    (17, 33, 65, 32, "os", 253, 193),
    (17, 33, 65, 32, "is", 380, 178),
    (127, 129, 131, 32, "ws", 5524, 3238),
    (127, 129, 131, 32, "os", 3859, 2683),
    (127, 129, 131, 32, "is", 4459, 2673),
    (512, 16, 64, 8, "ws", 8543, 8214),
    (512, 16, 64, 8, "os", 9983, 8214),
    (512, 16, 64, 8, "is", 19455, 8214),
]


@pytest.mark.parametrize(("m", "n", "k", "array", "dataflow", "scalesim", "pipelined"), WORKED)
def test_worked_examples_to_the_cycle(m: int, n: int, k: int, array: int, dataflow: str, scalesim: int, pipelined: int) -> None:
    assert gemm_cycles(m, n, k, rows=array, cols=array, dataflow=dataflow, mode="scalesim")[0] == scalesim
    assert gemm_cycles(m, n, k, rows=array, cols=array, dataflow=dataflow)[0] == pipelined


def test_loaded_weights_stream_one_vector_a_cycle() -> None:
    """M = 8, K = N = 128 on 128 x 128: 262 cycles of latency, and the next eight vectors are done eight cycles later."""
    array = {"rows": 128, "cols": 128, "loaded": True}
    assert gemm_cycles(8, 128, 128, **array)[0] == 8 + 128 + 128 - 2
    assert gemm_cycles(16, 128, 128, **array)[0] - gemm_cycles(8, 128, 128, **array)[0] == 8
    for wrong in ({"n": 129}, {"dataflow": "os"}, {"mode": "scalesim"}):
        with pytest.raises(ValueError, match="only a single stationary tile can be loaded already"):
            gemm_cycles(**({"m": 8, "n": 128, "k": 128, **array} | wrong))


def test_scalesim_mode_equals_every_measured_row_without_stalls(shared_data: Path) -> None:
    rows = pd.read_csv(shared_data / "systolic" / "scalesim_dev.csv")
    rows = rows[(rows.status == "ok") & (rows.stall_cycles == 0)]
    assert len(rows) > 400
    for (r, c, flow), part in rows.groupby(["array_rows", "array_cols", "dataflow"]):
        cycles = gemm_cycles(part.M.to_numpy(), part.N.to_numpy(), part.K.to_numpy(), rows=r, cols=c, dataflow=flow, mode="scalesim")
        np.testing.assert_array_equal(cycles, part.total_cycles.to_numpy())


def tile_by_tile(m: int, n: int, k: int, rows: int, cols: int, dataflow: str) -> int:
    """The same rule, one tile after another: when each starts, and when its last sum leaves."""
    sr, sc, t = {"ws": (k, n, m), "is": (k, m, n), "os": (m, n, k)}[dataflow]
    tiles = [(min(rows, sr - r), min(cols, sc - c)) for c in range(0, sc, cols) for r in range(0, sr, rows)]
    start, end = (0 if dataflow == "os" else tiles[0][0]), 0
    for i, (_, used_cols) in enumerate(tiles):
        end = max(end, start + t + (2 * rows if dataflow == "os" else rows) + used_cols - 2)
        if i + 1 < len(tiles):
            start += max(t, rows) if dataflow == "os" else max(t, tiles[i + 1][0])
    return end


sizes, arrays = st.integers(1, 70), st.sampled_from([1, 2, 4, 8, 16])


@given(sizes, sizes, sizes, arrays, arrays, st.sampled_from(DATAFLOWS))
def test_the_closed_form_is_the_tile_by_tile_sum(m: int, n: int, k: int, rows: int, cols: int, dataflow: str) -> None:
    assert gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow)[0] == tile_by_tile(m, n, k, rows, cols, dataflow)


@given(sizes, sizes, sizes, arrays, arrays, st.sampled_from(DATAFLOWS))
def test_no_array_beats_its_cells(m: int, n: int, k: int, rows: int, cols: int, dataflow: str) -> None:
    assert gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow)[0] * rows * cols >= m * n * k


@given(sizes, sizes, sizes, arrays, arrays, st.sampled_from(DATAFLOWS))
def test_a_double_buffer_never_costs_time(m: int, n: int, k: int, rows: int, cols: int, dataflow: str) -> None:
    single = gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow, weight_double_buffer=False)
    assert gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=dataflow) <= single


@given(sizes, sizes, sizes, arrays, arrays)
def test_input_stationary_is_weight_stationary_transposed(m: int, n: int, k: int, rows: int, cols: int) -> None:
    assert gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow="is") == gemm_cycles(n, m, k, rows=rows, cols=cols, dataflow="ws")


def test_parts_add_up_to_the_whole() -> None:
    m, n, k = (np.array(x) for x in ([8, 512, 17], [128, 512, 33], [128, 512, 65]))
    for flow in DATAFLOWS:
        parts = pipelined_parts(fold(m, n, k, 32, 32, flow), 32, 32, flow, True)
        np.testing.assert_array_equal(sum(parts), gemm_cycles(m, n, k, rows=32, cols=32, dataflow=flow))


def test_huge_dimensions_do_not_overflow() -> None:
    side = 2**31
    cycles = int(gemm_cycles(side, 128, side, rows=128, cols=128)[0])
    assert cycles == 128 + (side // 128 - 1) * side + side + 254


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"m": 0}, "must be at least 1"),
        ({"rows": 0}, "an array of 0 x 8"),
        ({"dataflow": "rs"}, "dataflow 'rs' is unknown. Expected one of ws, os, is."),
        ({"mode": "exact"}, "mode 'exact' is unknown"),
    ],
)
def test_bad_input_is_named(wrong: dict[str, object], message: str) -> None:
    arguments = {"m": 8, "n": 8, "k": 8, "rows": 8, "cols": 8} | wrong
    with pytest.raises(ValueError, match=message):
        gemm_cycles(arguments.pop("m"), arguments.pop("n"), arguments.pop("k"), **arguments)
