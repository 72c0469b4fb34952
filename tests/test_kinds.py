"""Every kind of operator: which of the literature's operators it stands for, what it counts, and that every machine runs it."""

from __future__ import annotations

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim import devices, energy, mapping
from gemvane.sim.costs import ACTION
from gemvane.sim.dram.stream import random_share, scattered, stream_share
from gemvane.sim.hardware import Hardware
from gemvane.sim.simulate import Phase, run_phase
from gemvane.workloads.ops import CODE, DERIVED, DTYPES, KIND_ARITHMETIC, KINDS, SHAPE, VOCABULARY, Rows, derive
from gemvane.workloads.trace import Requests, Trace

BF16, INT8 = DTYPES.index("bf16"), DTYPES.index("int8")
DEFAULT = {"batch": 1, "peers": 1, "weight_dtype": BF16, "act_dtype": BF16, "kv_dtype": BF16}
MACHINES = ("h100-sxm", "tpu-v4", "neupims", "cent", "cpu-server")
SIZES = {"m": 256, "n": 128, "k": 64, "heads_q": 4, "heads_kv": 4, "head_dim": 64, "value_dim": 64, "kv_width": 512, "q_len": 256,
         "kv_len": 256, "pairs": 256 * 256, "peers": 2}


def rows(kind: str, **shape: int) -> Rows:
    one = {**dict.fromkeys(SHAPE, 0), **DEFAULT, **shape, "kind": CODE[kind]}
    return derive({c: np.array([value], np.int64) for c, value in one.items()})


def row(kind: str, **shape: int) -> dict[str, int]:
    """The derived columns of one row that are not 0."""
    one = rows(kind, **shape)
    return {c: int(getattr(one, c)[0]) for c in DERIVED if getattr(one, c)[0]}


def run(machine: Hardware, kind: str, **shape: int) -> Phase:
    """One operator on one machine."""
    one = rows(kind, **{**SIZES, **shape})
    trace = Trace(one, (kind,), np.array([0, 0]), np.zeros(0, np.int64), Requests(np.array([256]), np.array([0])))
    return run_phase(trace, 1, machine, devices.resolve(machine.spec), mapping.placements(machine, trace)[0])


def test_the_vocabulary_has_39_operators_and_every_kind_stands_for_one() -> None:
    assert len(VOCABULARY) == 39
    assert {kind for kinds in VOCABULARY.values() for kind in kinds} | {"attention_score", "attention_value"} == set(CODE)


@pytest.mark.parametrize("name", MACHINES)
def test_every_kind_runs_on_every_machine_in_time_and_energy(name: str) -> None:
    machine = gv.hardware(name)
    for kind in KINDS:
        if kind.name in ("attention_score", "attention_value"):
            continue  # what mapping makes of attention_decode
        decode = {"phase": 1, "generated": 1, "m": 1, "q_len": 1, "pairs": 257, "n": 257, "kv_len": 257}
        phase = run(machine, kind.name, **(decode if kind.name == "attention_decode" else {}))
        assert phase.duration_ps.min() > 0, kind.name
        assert energy.energy_pj(phase.actions.reshape(-1, len(ACTION)), machine).sum() > 0, kind.name


def test_a_chunked_scan_runs_on_the_array_and_never_in_pim() -> None:
    for name, unit in (("tpu-v4", "mxu"), ("cent", "vector"), ("neupims", "npu"), ("cpu-server", "cpu")):
        machine = gv.hardware(name)
        assert list(machine.spec.units)[run(machine, "scan").unit[0]] == unit


def test_a_scan_on_an_array_takes_longer_with_a_delta_rule_and_longer_chunks() -> None:
    tpu = gv.hardware("tpu-v4")
    times = [int(run(tpu, kind, m=65536, batch=16, k=k).duration_ps.sum()) for kind, k in (("scan", 64), ("delta_scan", 64), ("scan", 256))]
    assert times[0] < times[1]
    assert times[0] < times[2]


# --- what each form counts


def test_a_convolution_reads_its_input_once_not_once_a_tap() -> None:
    shape = {"m": 64, "n": 8, "k": 9 * 4}
    assert row("conv", **shape, in_elements=64 * 4) == {
        "macs": 64 * 8 * 36, "weight_bytes": 8 * 36 * 2, "input_bytes": 64 * 4 * 2, "output_bytes": 64 * 8 * 2}
    assert row("conv", **shape)["input_bytes"] == 64 * 36 * 2  # a patch embedding, whose taps do not overlap


def test_hashes_and_codes_and_spikes_take_one_bit() -> None:
    shape = {"m": 16, "n": 8, "k": 32}
    assert row("hash", **shape)["output_bytes"] == 16 * 8 // 8
    assert row("binary_gemm", **shape)["input_bytes"] == 16 * 32 * 2 + 8 * 32 // 8
    assert row("spike_gemm", **shape)["input_bytes"] == 16 * 32 // 8


@pytest.mark.parametrize(("kind", "action"), [("binary_gemm", "mac_add"), ("add_gemm", "mac_add"), ("spike_gemm", "mac_add"),
                                              ("shift_gemm", "mac_shift"), ("gemm", "mac_bf16")])
@pytest.mark.parametrize("machine", ["h100-sxm", "tpu-v4"])
def test_additions_and_shifts_have_a_price_of_their_own(machine: str, kind: str, action: str) -> None:
    counts = run(gv.hardware(machine), kind).actions.reshape(-1, len(ACTION))[0]
    assert counts[ACTION[action]] == 256 * 128 * 64
    assert counts[: len(DTYPES)].sum() == (256 * 128 * 64 if action == "mac_bf16" else 0)


def test_an_addition_costs_less_than_a_multiply_add_of_eight_bits() -> None:
    prices = gv.hardware("tpu-v4").prices
    assert prices["mac_add"] < prices["mac_shift"] < prices["mac_int8"]
    assert KIND_ARITHMETIC[CODE["shift_gemm"]] == 2


def test_a_depthwise_convolution_multiplies_each_tap_and_keeps_its_state() -> None:
    plain = {"macs": 6 * 5 * 4, "weight_bytes": 5 * 4 * 2, "input_bytes": 6 * 5 * 2, "output_bytes": 6 * 5 * 2}
    assert row("dwconv", m=6, n=5, k=4) == plain
    assert row("dwconv", m=6, n=5, k=4, batch=2, kv_width=15) == {**plain, "kv_write_bytes": 2 * 15 * 2}
    assert row("dwconv", m=6, n=5, k=4, batch=2, kv_width=15, phase=1)["kv_read_bytes"] == 2 * 15 * 2


def test_a_pool_reads_every_tap_and_writes_less() -> None:
    assert row("pool", m=4, n=8, k=9, in_elements=16 * 8) == {"vector_ops": 4 * 8 * 9, "input_bytes": 16 * 8 * 2, "output_bytes": 4 * 8 * 2}


def test_a_fourier_transform_takes_5_n_log2_n() -> None:
    assert row("fft", m=3, n=1024) == {"vector_ops": 3 * 5 * 1024 * 10, "input_bytes": 3 * 2048 * 2, "output_bytes": 3 * 2048 * 2}


def test_a_sort_takes_a_bitonic_network() -> None:
    assert row("sort", m=2, n=256)["vector_ops"] == 2 * 256 * 8 * 9 // 2


def test_quantising_halves_the_bytes_that_are_written() -> None:
    assert row("quantize", m=4, n=8, weight_dtype=INT8) == {"vector_ops": 128, "input_bytes": 64, "output_bytes": 32}
    assert row("dequantize", m=4, n=8, weight_dtype=INT8) == {"vector_ops": 64, "input_bytes": 32, "output_bytes": 64}


def test_a_scan_multiplies_inside_its_chunks_and_with_its_state() -> None:
    """Mamba-2: C scores of N by G groups; C products with P values, a state N x P read and updated, by H heads; a token."""
    chunk, states, width, heads, groups = 64, 128, 64, 8, 2
    one = row("scan", m=256, batch=4, k=chunk, heads_q=heads, heads_kv=groups, head_dim=states, value_dim=width)
    assert one["macs"] == 256 * (groups * chunk * states + heads * (chunk * width + 2 * states * width))
    assert one["kv_write_bytes"] == 4 * heads * states * width * 2
    assert "kv_read_bytes" not in one
    assert one["input_bytes"] == 256 * (2 * groups * states + heads * (width + 1)) * 2


def test_a_step_of_a_scan_updates_and_reads_its_state() -> None:
    shape = {"m": 4, "batch": 4, "heads_q": 8, "heads_kv": 8, "head_dim": 128, "value_dim": 64}
    state = 4 * 8 * 128 * 64
    one, delta = row("scan_step", **shape), row("delta_step", **shape)
    assert (one["macs"], delta["macs"]) == (2 * state, 3 * state)
    assert one["kv_read_bytes"] == one["kv_write_bytes"] == 2 * state


def test_a_selective_scan_writes_no_state_but_the_last() -> None:
    one = row("selective_scan", m=1000, batch=1, n=1536, head_dim=16)
    assert one["vector_ops"] == 1000 * 1536 * 16 * 11
    assert one["kv_write_bytes"] == 1536 * 16 * 2
    assert one["input_bytes"] == 1000 * (3 * 1536 + 2 * 16) * 2


def test_triangles_take_a_sixth_of_a_cube() -> None:
    assert row("trisolve", m=2 * 60, n=60)["macs"] == 2 * 60**3 // 6


def test_a_table_row_is_read_for_each_look_up_and_summed() -> None:
    assert row("lut", m=4, n=8, k=16) == {"vector_ops": 4 * 8 * 16, "weight_bytes": 4 * 8 * 16 * 2, "output_bytes": 4 * 8 * 2}
    assert row("grid_sample", m=4, n=8, k=4) == {"vector_ops": 4 * 8 * 4 * 2, "input_bytes": 4 * 8 * 4 * 2, "output_bytes": 4 * 8 * 2}
    assert row("scatter", m=4, n=8) == {"vector_ops": 32, "input_bytes": 2 * 32 * 2, "output_bytes": 32 * 2}


def test_moves_read_what_there_is_and_write_what_they_make() -> None:
    assert row("unfold", m=4, n=9 * 8, in_elements=16 * 8) == {"input_bytes": 16 * 8 * 2, "output_bytes": 4 * 72 * 2}
    assert row("permute", m=4, n=8) == {"input_bytes": 64, "output_bytes": 64}
    assert row("kv_evict", m=4, n=8) == {"kv_read_bytes": 64, "kv_write_bytes": 64}


@pytest.mark.parametrize("part", ["hbm2-2000-4gb", "ddr4-3200-8gb"])
def test_short_runs_at_random_places_get_less_of_a_memory_than_long_ones(part: str) -> None:
    shares = [random_share(part, run) for run in (16, 64, 1024, 16384)]
    assert shares == sorted(shares)
    assert shares[0] < 0.3 < stream_share(part)
    assert shares[-1] <= 1.02 * stream_share(part)
    assert scattered(np.array([0, 16]), part).tolist() == [1.0, stream_share(part) / shares[0]]
    assert scattered(np.array([0, 16]), None).tolist() == [1.0, 1.0]


def test_a_table_of_short_rows_takes_longer_than_one_of_long_rows_as_large() -> None:
    machine = gv.hardware("tpu-v4")
    short, long = (int(run(machine, "lut", m=4096, n=n, k=64 * 1024 // n).duration_ps.sum()) for n in (16, 1024))
    assert short > 1.3 * long
