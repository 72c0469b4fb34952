"""Other simulators' tables: the streams, the golden values, every row of the shared data, and what is said of a bad table."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.sim.devices import scalesim as device
from gemvane.validate.oracles import ramulator, report, scalesim, streams

HBM2 = streams.Sizes(pc=2, bg=4, ba=4, ro=16384, co=32)
RUNNER = CliRunner()
WORKED = [
    # dataflow, total cycles, SRAM ifmap / filter / ofmap of M,N,K = 17,33,65 on 32 x 32 (reference/systolic.md, section 1.2)
    ("os", 253, 2210, 2145, 689),
    ("ws", 665, 2210, 2145, 1683),
    ("is", 380, 1105, 2145, 1683),
]


def golden(**changes: Any) -> dict[str, Any]:
    """HBM2, one new row a request, refresh on: the row of the reference run."""
    return {"cfg": "R_HBM2", "scheduler": "FRFCFS", "refresh": "on", "stream": "bankconflict_rd", "n": 20000, "last_rw_cmd_tick": 1028348,
            "row_hits": 0, "row_misses": 220, "row_conflicts": 19780, "avg_read_latency_ticks": 1675.14,
            "cmds": '{"ACT": 20000, "RD": 20000, "PREpb": 19780, "PREab": 219, "REFab": 526}'} | changes


def gemm_row(**changes: Any) -> dict[str, Any]:
    """17 x 33 x 65 weight-stationary on 32 x 32 with 64 kB each, as SCALE-Sim v2 reports it."""
    return {"scalesim_version": "v2_22f88b1", "M": 17, "N": 33, "K": 65, "array_rows": 32, "array_cols": 32, "dataflow": "ws",
            "ifmap_sram_kb": 64, "filter_sram_kb": 64, "ofmap_sram_kb": 64, "bw_mode": "CALC", "bw_words_per_cycle": np.nan,
            "total_cycles": 665, "stall_cycles": 0, "overall_util": 5.35494, "mapping_efficiency": 34.912109, "compute_util": 4.179619,
            "sram_ifmap_reads": 2210, "sram_filter_reads": 2145, "sram_ofmap_writes": 1683,
            "dram_ifmap_reads": 1105, "dram_filter_reads": 2145, "dram_ofmap_writes": 1683} | changes


def csv(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    file = tmp_path / "table.csv"
    pd.DataFrame(list(rows)).to_csv(file, index=False)
    return file


# Streams

@pytest.mark.parametrize("name", streams.NAMES)
def test_a_stream_stays_inside_its_part(name: str) -> None:
    made = streams.stream(name, HBM2, 3000)
    assert set(made) == {"rw", *streams.FIELDS}
    for field in streams.FIELDS:
        assert made[field].shape == (3000,)
        assert made[field].min() >= 0 and made[field].max() < getattr(HBM2, field)
    assert set(np.unique(made["rw"])) <= {0, 1}


def test_streams_by_hand() -> None:
    first = streams.stream("stride33_rd", HBM2, 4)
    assert first["pc"].tolist() == [0, 1, 0, 1]             # 0, 33, 66, 99
    assert first["bg"].tolist() == [0, 0, 1, 1]
    assert first["co"].tolist() == [0, 4, 8, 12]
    conflict = streams.stream("bankconflict_rd", HBM2, 16386)
    assert conflict["ro"][[0, 1, -2, -1]].tolist() == [0, 1, 0, 1]
    assert not any(conflict[field].any() for field in ("rw", "pc", "bg", "ba", "co"))
    assert streams.stream("seq_mix16", HBM2, 48)["rw"].tolist() == [0] * 16 + [1] * 16 + [0] * 16
    assert streams.stream("seq_bgilv_wr", HBM2, 3)["rw"].tolist() == [1, 1, 1]


def test_a_bank_of_hit80_steps_through_its_columns_and_keeps_most_rows() -> None:
    made = streams.stream("hit80_rd", HBM2, 20000)
    bank = (made["ba"] * HBM2.bg + made["bg"]) * HBM2.pc + made["pc"]
    mine = np.flatnonzero(bank == 5)
    assert np.array_equal(made["co"][mine], np.arange(1, mine.size + 1) % HBM2.co)
    assert 0.75 < np.mean(np.diff(made["ro"][mine]) == 0) < 0.85


@pytest.mark.parametrize("cfg", ramulator.PARTS)
def test_the_streams_are_those_of_the_reference_runs(cfg: str, shared_data: Path) -> None:
    sizes = json.loads((shared_data / "dram" / "orgs.json").read_text())[cfg]
    with np.load(shared_data / "dram" / "traces" / f"{cfg}.npz") as saved:
        names = sorted({key.split("__")[0] for key in saved.files})
        assert names
        for name in names:
            made = streams.stream(name, streams.Sizes(**sizes), 20000)
            for field, values in made.items():
                assert np.array_equal(values, saved[f"{name}__{field}"]), (name, field)


@pytest.mark.parametrize("cfg", ["R_HBM2", "R_HBM4", "R_DDR5", "R_LPDDR5"])
def test_every_stream_is_the_generators(cfg: str, shared_data: Path) -> None:
    sizes = json.loads((shared_data / "dram" / "orgs.json").read_text())[cfg]
    theirs = runpy.run_path(str(shared_data / "dram" / "gen_streams.py"))["streams"](sizes, 5000)
    assert set(theirs) == set(streams.NAMES)
    for name, columns in theirs.items():
        made = streams.stream(name, streams.Sizes(**sizes), 5000)
        assert all(np.array_equal(made[field], values) for field, values in columns.items()), name


# Ramulator

@pytest.mark.parametrize(("cfg", "stream", "tick"), [("R_HBM2", "bankconflict_rd", 1028348), ("R_HBM3", "hit80_rd", 55599),
                                                     ("R_GDDR6", "rand_mix", 183271)])
def test_golden_ticks(cfg: str, stream: str, tick: int) -> None:
    found = ramulator.compare(pd.DataFrame([golden(cfg=cfg, stream=stream, last_rw_cmd_tick=tick)]))
    assert found["columns"]["last_rw_cmd_tick"] == 1
    assert found["max_error"] == 0


def test_a_golden_row_is_exact_and_a_wrong_one_is_not() -> None:
    wrong_tick, wrong_count = golden(last_rw_cmd_tick=1028349), golden(cmds='{"ACT": 20000}')
    found = ramulator.compare(pd.DataFrame([golden(), wrong_tick, wrong_count]))
    assert (found["rows"], found["compared"], found["exact"]) == (3, 3, 1)
    assert found["max_error"] == pytest.approx(1 / 1028349)
    assert found["columns"] == {"last_rw_cmd_tick": 2, "cmds": 2, "row_hits": 3, "row_misses": 3, "row_conflicts": 3,
                                "avg_read_latency_ticks": 3}
    assert "cmds" in found["detail"][2]["different"]
    assert [(group["group"], group["rows"], group["exact"]) for group in found["by"]] == [("R_HBM2 FRFCFS", 3, 1)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cfg": "R_HBM9"}, "cfg R_HBM9 is not one of R_HBM2"),
        ({"stream": "zigzag"}, "stream zigzag is not one of seq_rowmajor_rd"),
        ({"scheduler": "FCFS"}, "scheduler FCFS is not one of FRFCFS, FRFCFS-RowHit"),
        ({"refresh": "sometimes"}, "refresh sometimes is not one of on, off"),
        ({"n": 0}, "n is 0, not a whole number of at least 1"),
        ({"cmds": "many"}, "cmds is not a JSON object of command counts"),
        ({"fwd_reads": 3}, "fwd_reads is 3: forwarded reads and merged writes are not modelled"),
        ({"last_rw_cmd_tick": float("nan")}, "last_rw_cmd_tick is nan, not a number"),
    ],
)
def test_a_row_that_cannot_be_replayed_is_skipped_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    found = ramulator.compare(pd.DataFrame([golden(**changes)]))
    assert found["compared"] == 0 and found["mape"] is None and found["by"] == []
    assert found["skipped"][0]["row"] == 0
    assert found["skipped"][0]["reason"].startswith(reason)


@pytest.mark.parametrize("cfg", ramulator.PARTS)
def test_every_row_of_ramulator_is_exact(cfg: str, shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "dram" / "ramulator2_results_dev.csv")
    found = ramulator.compare(table[table["cfg"] == cfg])
    assert found["skipped"] == []
    assert found["exact"] == found["compared"] == found["rows"] == 24
    assert set(found["columns"].values()) == {24}
    assert found["mape"] == found["max_error"] == 0


# SCALE-Sim

@pytest.mark.parametrize(("flow", "cycles", "ifmap", "weights", "ofmap"), WORKED)
def test_worked_counts(flow: str, cycles: int, ifmap: int, weights: int, ofmap: int) -> None:
    counts = device.counts(17, 33, 65, rows=32, cols=32, dataflow=flow)
    assert (counts.total_cycles[0], counts.sram_ifmap_reads[0], counts.sram_filter_reads[0], counts.sram_ofmap_writes[0]) == (
        cycles, ifmap, weights, ofmap)


SIZE = st.integers(1, 40)


@given(SIZE, SIZE, SIZE, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["os", "ws", "is"]))
def test_memory_that_holds_everything_reads_everything_once(m: int, n: int, k: int, rows: int, cols: int, flow: str) -> None:
    free = device.memory(m, n, k, rows=rows, cols=cols, dataflow=flow, ifmap_bytes=4096, filter_bytes=4096, ofmap_bytes=4096)
    counts = device.counts(m, n, k, rows=rows, cols=cols, dataflow=flow)
    assert (free.total_cycles, free.stall_cycles) == (counts.total_cycles[0], 0)
    assert (free.dram_ifmap_reads, free.dram_filter_reads) == (m * k, k * n)
    assert free.dram_ofmap_writes >= m * n * (1 if flow == "os" else -(-k // rows) if flow == "ws" else 1)
    fixed = device.memory(m, n, k, rows=rows, cols=cols, dataflow=flow, ifmap_bytes=4096, filter_bytes=4096, ofmap_bytes=4096,
                          words_per_cycle=2)
    assert fixed.total_cycles >= free.total_cycles


@pytest.mark.parametrize(("flow", "v2", "v3"), [("os", 11087, 13167), ("is", 11183, 13167), ("ws", 12776, 12979)])
def test_version_3_counts_waits_twice(flow: str, v2: int, v3: int) -> None:
    def cycles(version: int) -> int:
        return device.memory(1, 256, 256, rows=32, cols=32, dataflow=flow, ifmap_bytes=65536, filter_bytes=65536, ofmap_bytes=65536,
                             words_per_cycle=10, version=version).total_cycles

    assert (cycles(2), cycles(3)) == (v2, v3)


@pytest.mark.parametrize(("m", "n", "k", "flow", "ifmap", "weights"), [(256, 256, 256, "os", 524288, 81884),
                                                                      (256, 256, 256, "ws", 524288, 65536)])
def test_a_buffer_that_is_emptied_when_full_reads_again(m: int, n: int, k: int, flow: str, ifmap: int, weights: int) -> None:
    found = device.memory(m, n, k, rows=32, cols=32, dataflow=flow, ifmap_bytes=65536, filter_bytes=65536, ofmap_bytes=65536)
    assert (found.dram_ifmap_reads, found.dram_filter_reads) == (ifmap, weights)


def test_a_worked_row_is_exact_and_a_wrong_one_says_where() -> None:
    found = scalesim.compare(pd.DataFrame([gemm_row(), gemm_row(sram_filter_reads=2146), gemm_row(compute_util=5.0)]))
    assert (found["compared"], found["exact"]) == (3, 1)
    assert found["max_error"] == 0
    assert [row["different"] for row in found["detail"]] == ["", "sram_filter_reads", "compute_util"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scalesim_version": "v1"}, "scalesim_version v1 is not v2 or v3"),
        ({"dataflow": "rs"}, "dataflow rs is not one of ws, os, is"),
        ({"bw_mode": "MAYBE"}, "bw_mode MAYBE is not CALC or USER"),
        ({"bw_mode": "USER"}, "bw_words_per_cycle is nan, not a number"),
        ({"M": 0}, "M is 0, not a whole number of at least 1"),
        ({"M": 2**31, "K": 2**31}, "2147483648 x 33 x 2147483648 has more than"),
    ],
)
def test_a_gemm_that_cannot_be_reproduced_is_skipped_with_its_reason(changes: dict[str, Any], reason: str) -> None:
    found = scalesim.compare(pd.DataFrame([gemm_row(), gemm_row(**changes)]))
    assert (found["compared"], found["exact"]) == (1, 1)
    assert found["skipped"][0]["row"] == 1
    assert found["skipped"][0]["reason"].startswith(reason)


def test_every_row_of_scalesim_is_exact(shared_data: Path) -> None:
    found = scalesim.compare(pd.read_csv(shared_data / "systolic" / "scalesim_dev.csv"))
    assert found["skipped"] == []
    assert found["exact"] == found["compared"] == found["rows"] == 654
    assert set(found["columns"].values()) == {654}


def test_sram_and_bandwidth_have_a_least_size() -> None:
    common: dict[str, Any] = {"rows": 8, "cols": 8, "dataflow": "ws", "filter_bytes": 4096, "ofmap_bytes": 4096}
    with pytest.raises(ValueError, match="an SRAM of 64 bytes is too small"):
        device.memory(8, 8, 8, ifmap_bytes=64, **common)
    with pytest.raises(ValueError, match="0 words per cycle"):
        device.memory(8, 8, 8, ifmap_bytes=4096, words_per_cycle=0, **common)


# The shape of the answer, and the command

def test_the_error_of_a_zero_is_defined() -> None:
    def error(theirs: float, ours: float) -> float:
        return report.Compared(0, "", theirs, ours, {}, False, {}).error

    assert (error(0, 0), error(0, 3), error(4, 3)) == (0, 1, -0.25)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_command_prints_one_object_and_writes_the_rows(suffix: str, tmp_path: Path) -> None:
    table = tmp_path / f"table{suffix}"
    rows = pd.DataFrame([gemm_row(), gemm_row(bw_mode="MAYBE")])
    if suffix == ".csv":
        rows.to_csv(table, index=False)
    else:
        pytest.importorskip("pyarrow")
        rows.to_parquet(table)
    done = RUNNER.invoke(app, ["validate", "oracles", "scalesim", str(table), "--json", "-o", str(tmp_path / "rows.csv")])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["oracle", "rows", "compared", "exact", "mape", "max_error", "columns", "by", "skipped"]
    assert (found["rows"], found["compared"], found["exact"]) == (2, 1, 1)
    assert found["by"] == [{"group": "v2 CALC ws", "rows": 1, "exact": 1, "mape": 0.0, "max_error": 0.0}]
    assert found["skipped"] == [{"row": 1, "reason": "bw_mode MAYBE is not CALC or USER"}]
    assert pd.read_csv(tmp_path / "rows.csv")["ours"].tolist() == [665]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv", table.name]


def test_the_screen_tells_groups_and_reasons(tmp_path: Path) -> None:
    table = csv(tmp_path, gemm_row(), gemm_row(dataflow="rs"), gemm_row(dataflow="rs"))
    done = RUNNER.invoke(app, ["validate", "oracles", "scalesim", str(table)])
    assert done.exit_code == 0, done.stderr
    assert "v2 CALC ws" in done.stdout
    assert "2 rows: dataflow rs is not one of" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["scalsim", "TABLE"], "oracle 'scalsim' is unknown (did you mean 'scalesim'?)"),
        (["ramulator", "TABLE"], "column 'cfg' is missing"),
        (["scalesim", "nowhere.csv"], "nowhere.csv: there is no such file"),
        (["scalesim", "table.txt"], "a table is read from .csv or .parquet, not '.txt'"),
        (["scalesim", "TABLE", "-o", "rows.txt"], "-o rows.txt: the rows are written as .csv"),
        (["scalesim", "TABLE", "-o", "no/where/rows.csv"], "there is no folder no/where"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    table = csv(tmp_path, gemm_row())
    done = RUNNER.invoke(app, ["validate", "oracles", *(str(table) if word == "TABLE" else word for word in words)])
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_an_empty_file_is_no_table(tmp_path: Path) -> None:
    table = tmp_path / "empty.csv"
    table.write_text("")
    done = RUNNER.invoke(app, ["validate", "oracles", "ramulator", str(table)])
    assert done.exit_code == 2
    assert "cannot be read as a table" in done.stderr
