"""The register-level array: exact products, and the cycles that the closed forms of both timing modes claim."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gemvane.sim.devices.cellarray import REGISTERS, Multiplied, multiply
from gemvane.sim.devices.systolic import DATAFLOWS, gemm_cycles
from gemvane.sim.kernels.cellarray import PIPELINED, SERIAL, SINGLE, cell_array_kernel

sizes, arrays, flows = st.integers(1, 40), st.integers(1, 16), st.sampled_from(DATAFLOWS)
Ints = np.ndarray[tuple[int, int], np.dtype[np.int64]]


def operands(m: int, n: int, k: int) -> tuple[Ints, Ints]:
    rng = np.random.default_rng(m + 100 * n + 10_000 * k)
    return rng.integers(-99, 100, (m, k)), rng.integers(-99, 100, (k, n))


def clocked(m: int, n: int, k: int, rows: int, cols: int, flow: str, mode: str = "pipelined", double: bool = True) -> int:
    """Cycles of a product, which is right."""
    a, b = operands(m, n, k)
    done = multiply(a, b, rows=rows, cols=cols, dataflow=flow, mode=mode, weight_double_buffer=double)
    np.testing.assert_array_equal(done.product, a @ b)
    return done.cycles


@given(sizes, sizes, sizes, arrays, arrays, flows, st.booleans())
@example(1, 40, 40, 16, 16, "ws", True)  # one vector: bound by the preload of weights
@example(33, 34, 1, 16, 16, "os", True)  # one step: bound by the outputs that leave
@example(5, 17, 9, 8, 16, "ws", True)  # the last column fold is one wide: the fold before it ends later
def test_pipelined_cycles_are_what_registers_need(m: int, n: int, k: int, rows: int, cols: int, flow: str, double: bool) -> None:
    closed = gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=flow, weight_double_buffer=double)
    assert clocked(m, n, k, rows, cols, flow, double=double) == closed


@given(sizes, sizes, sizes, arrays, arrays, flows)
def test_serial_cycles_are_those_of_scalesim_and_what_it_leaves_out(m: int, n: int, k: int, rows: int, cols: int, flow: str) -> None:
    sr, sc = {"ws": (k, n), "is": (k, m), "os": (m, n)}[flow]
    folds = -(-sr // rows) * -(-sc // cols)
    # SCALE-Sim reports the index of the last cycle; where outputs are stationary it leaves their way out of the array out
    left_out = 1 + (folds * rows if flow == "os" else 0)
    closed = gemm_cycles(m, n, k, rows=rows, cols=cols, dataflow=flow, mode="scalesim")
    assert clocked(m, n, k, rows, cols, flow, mode="scalesim") == closed + left_out


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.booleans(),
       st.sampled_from([PIPELINED, SINGLE, SERIAL]))
def test_python_and_compiled_kernel_clock_every_register_alike(t: int, sr: int, sc: int, rows: int, cols: int, stationary: bool,
                                                               schedule: int) -> None:
    x, y = operands(t, sc, sr) if stationary else (operands(sr, sc, t)[0].T.copy(), operands(sr, sc, t)[1])
    ends = []
    for kernel in (cell_array_kernel, cell_array_kernel.py_func):
        out, cell = np.zeros((t if stationary else sr, sc), np.int64), np.zeros((8, rows, cols), np.int64)
        record = np.zeros((30, 8, rows, cols), np.int64)
        ends.append((kernel(x, y, stationary, schedule, out, cell, record), out, cell, record))
    for compiled, plain in zip(*ends, strict=True):
        np.testing.assert_array_equal(compiled, plain)
    np.testing.assert_array_equal(ends[0][1], x @ y if stationary else x.T @ y)


def recorded(flow: str = "ws") -> tuple[Ints, Ints, Multiplied]:
    a, b = operands(4, 6, 3)
    return a, b, multiply(a, b, rows=3, cols=3, dataflow=flow, record_cycles=100)


def test_operands_move_one_hop_a_cycle() -> None:
    _, _, done = recorded()
    x, flags = done.registers["x"], done.registers["flags"]
    np.testing.assert_array_equal(x[1:, :, 1:], x[:-1, :, :-1])
    np.testing.assert_array_equal(flags[1:, 1:, :], flags[:-1, :-1, :])  # row r is fed one cycle after row r - 1


def test_a_tile_loads_behind_the_stream_of_the_one_before() -> None:
    a, b, done = recorded()
    assert done.cycles == 3 + 2 * 4 + 3 + 3 - 2  # fill, two streams of four vectors, their way through the array
    held, shadow = done.registers["held"], done.registers["y"]
    for r in range(3):
        for c in range(3):
            np.testing.assert_array_equal(held[3 + r + c : 7 + r + c, r, c], b[r, c])  # swaps with the first vector of its tile
            np.testing.assert_array_equal(held[7 + r + c :, r, c], b[r, 3 + c])
            assert shadow[6 + r + c, r, c] == b[r, 3 + c]
    np.testing.assert_array_equal(done.registers["sum"][5:9, 2, 0], (a @ b)[:, 0])


def test_outputs_leave_through_the_shift_out_registers() -> None:
    a, b, done = recorded("os")
    full, bottom = done.registers["ready"][:, 2, 0], done.registers["out"][:, 2, 0]
    column, other = (a @ b)[:, 0], (a @ b)[:, 3]  # two tiles each: three rows, and one row above two that are not in use
    np.testing.assert_array_equal(bottom[full == 1], [*column[2::-1], 0, 0, column[3], *other[2::-1], 0, 0, other[3]])


def test_only_the_cycles_asked_for_are_recorded() -> None:
    a, b = operands(2, 2, 2)
    for asked, kept in ((0, 0), (3, 3), (99, 2 + 2 + 2 + 2 - 2)):
        registers = multiply(a, b, rows=2, cols=2, record_cycles=asked).registers
        assert tuple(registers) == REGISTERS
        assert all(values.shape == (kept, 2, 2) for values in registers.values())


@pytest.mark.parametrize(("wrong", "message"), [
    ({"a": np.ones((2, 3))}, r"a is float64 of shape \(2, 3\). Expected a matrix of whole numbers"),
    ({"a": np.ones(3, np.int64)}, r"a is int64 of shape \(3,\)"),
    ({"b": np.ones((0, 3), np.int64)}, r"b is int64 of shape \(0, 3\). Expected a matrix of whole numbers, at least 1 x 1."),
    ({"b": np.ones((2, 3), np.int64)}, r"a of shape \(2, 3\) and b of shape \(2, 3\) have no product"),
    ({"rows": 0}, "rows and cols must be at least 1, got an array of 0 x 4."),
    ({"dataflow": "rs"}, "dataflow 'rs' is unknown. Expected one of ws, os, is."),
    ({"mode": "exact"}, "mode 'exact' is unknown. Expected pipelined or scalesim."),
    ({"record_cycles": -1}, "record_cycles is -1. Expected at least 0."),
    ({"rows": 10_000, "cols": 10_000}, "Expected at most 1,000,000,000: `systolic.gemm_cycles` counts them"),
])
def test_bad_input_is_named(wrong: dict[str, object], message: str) -> None:
    arguments = {"a": np.ones((2, 3), np.int64), "b": np.ones((3, 2), np.int64), "rows": 4, "cols": 4} | wrong
    with pytest.raises(ValueError, match=message):
        multiply(arguments.pop("a"), arguments.pop("b"), **arguments)
