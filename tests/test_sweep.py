"""Sweeps: a row says what a run says, and every point is simulated once, whatever is killed in between."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.sim.space import parse
from gemvane.sim.sweep import evaluate, front
from gemvane.sweeping import folder as folders
from gemvane.sweeping.folder import Folder, read_table, write_table
from gemvane.sweeping.sweep import sweep
from gemvane.sweeping.workers import DEATHS, Processes

SPACE = """\
model: gpt2
hardware: npu-hbm2
scenario: {prompt: 64, output: 2, phase: decode}
vary:
  units.npu.rows: [32, 64, 128]
  memory.capacity: [32 GB, 16 GB, 200 MB]
  batch: {low: 4, high: COUNT, by: 4}
follow:
  units.npu.cols: units.npu.rows
  memory.bandwidth: memory.bandwidth * units.npu.rows / 128
"""
SMALL = SPACE.replace("COUNT", "12")
"""27 points, of which the 9 with 200 MB fail."""
LARGE = SPACE.replace("COUNT", "100")


def gemvane(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gemvane", *map(str, words)], capture_output=True, text=True, check=False)


def table(out: Path) -> pd.DataFrame:
    return pd.DataFrame(read_table(out / "sweep.parquet"))


def file(folder: Path, text: str = SMALL) -> Path:
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_says_what_a_run_says() -> None:
    space = parse("model: gpt2\nhardware: npu-pim-dual\nscenario: {prompt: 64, output: 2, phase: decode, batch: 8}\nvary:\n"
                  "  units.npu.rows: [64]\n  units.pim.channels: [16]\nfollow:\n  memory.pins: 128 * units.pim.channels\n"
                  "  memory.bandwidth: memory.bandwidth * units.pim.channels / 32\n", "space.yaml")
    row = evaluate(space, space.points()[0])
    hardware = gv.hardware("npu-pim-dual").replace({
        "units.npu.rows": 64, "units.npu.peak.fp16": "131.072 TFLOP/s", "units.npu.peak.bf16": "131.072 TFLOP/s",
        "units.pim.channels": 16, "memory.pins": 2048, "memory.bandwidth": "512 GB/s"})
    result = gv.run("gpt2", hardware, batch=8, prompt=64, output=2, phase="decode")
    assert {row[name] == getattr(result, name) for name in ("tpot_s", "energy_j", "energy_per_token_j", "average_power_w")} == {True}
    assert (row["ttft_s"], row["reason"], row["decode_bound"]) == (None, "", next(iter(result.bounds("decode"))))
    assert json.loads(row["configuration"])["changes"]["memory.bandwidth"] == "512 GB/s"


def test_a_point_that_cannot_run_is_a_row_with_its_reason() -> None:
    frame = gv.sweep(parse(SMALL, "space.yaml"))
    failed = frame["memory.capacity"] == "200 MB"
    assert (len(frame), failed.sum()) == (27, 9)
    assert frame[failed]["reason"].str.startswith("gpt2 needs 249 MB of weights").all()
    assert frame[failed]["tpot_s"].isna().all()
    assert (frame[~failed]["reason"] == "").all()
    assert frame[~failed]["tpot_s"].gt(0).all()


def test_a_fault_of_ours_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise IndexError("of 3")

    monkeypatch.setattr("gemvane.sim.sweep.simulate", broken)
    space = parse(SMALL, "space.yaml")
    assert evaluate(space, space.points()[0])["reason"] == "a fault in gemvane (IndexError: of 3)"


def test_the_front() -> None:
    rows = [{"tpot_s": t, "throughput_tok_s": r} for t, r in ((1, 5), (2, 9), (1, 4), (3, 9), (2, 9), (None, None), (0.5, 1))]
    assert front(rows, ("tpot_s", "throughput_tok_s")) == [6, 0, 1]
    assert front(rows, ("tpot_s",)) == [6]
    assert front([], ("tpot_s",)) == []


def test_processes_give_the_table_that_one_process_gives(tmp_path: Path) -> None:
    space = parse(SMALL, "space.yaml")
    one, two = sweep(space, tmp_path / "one"), sweep(space, tmp_path / "two", jobs=2)
    assert one.rows == two.rows
    assert [row["point"] for row in one.rows] == list(range(27))
    assert (tmp_path / "one" / "sweep.parquet").read_bytes() == (tmp_path / "two" / "sweep.parquet").read_bytes()
    again = sweep(space, tmp_path / "two", jobs=2)
    assert again.simulated == 0
    assert len(again.rows) == 27


def test_the_folder_says_what_it_holds(tmp_path: Path) -> None:
    sweep(parse(SMALL, "space.yaml"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["meta.json", "space.yaml", "sweep.parquet"]
    assert (tmp_path / "space.yaml").read_text(encoding="utf-8") == SMALL
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    assert (meta["kind"], meta["versions"]["gemvane"]) == ("sweep", gv.__version__)
    assert set(table(tmp_path)["version"]) == {gv.__version__}


def test_a_torn_line_is_simulated_again_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = parse(SMALL, "space.yaml")
    with Folder(tmp_path, "sweep", space) as folder:
        folder.record([{**evaluate(space, point), "version": gv.__version__} for point in space.points()[:10]])
    journal = tmp_path / "sweep.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    seen: list[int] = []
    monkeypatch.setattr("gemvane.sweeping.workers.evaluate", lambda s, point: seen.append(point.number) or evaluate(s, point))
    done = sweep(space, tmp_path)
    assert seen == list(range(9, 27))
    assert done.rows == sweep(space, tmp_path.with_name("other")).rows
    assert not journal.exists()


def kill_when(words: list[Any], journal: Path, enough: Callable[[int], bool]) -> bool:
    """Start gemvane and kill it when it has journalled enough bytes; whether it was killed before its end."""
    process = subprocess.Popen([sys.executable, "-m", "gemvane", *map(str, words)], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        if journal.exists() and enough(journal.stat().st_size):
            time.sleep(random.Random(journal.stat().st_size).random() / 20)
            process.send_signal(signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.001)
    return False


def test_a_sweep_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    space = file(tmp_path, LARGE)
    killed, whole, journal = tmp_path / "killed", tmp_path / "whole", tmp_path / "killed" / "sweep.jsonl"
    kills, known = 0, 0
    for jobs in (1, 2):
        at = known + 20_000
        kills += kill_when(["sweep", space, "--jobs", jobs, "--out", killed], journal, lambda size, at=at: size > at)
        lines = journal.read_bytes().split(b"\n")[:-1]
        numbers = [json.loads(line)["point"] for line in lines]
        assert len(set(numbers)) == len(numbers)
        known = journal.stat().st_size
    assert kills == 2
    left = sweep(parse(LARGE, "space.yaml"), killed)
    assert left.simulated == 225 - len(numbers)
    sweep(parse(LARGE, "space.yaml"), whole)
    pd.testing.assert_frame_equal(table(killed), table(whole))


@pytest.mark.slow
def test_a_worker_that_dies_loses_no_point_and_one_that_kills_them_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    space = parse(SMALL, "space.yaml")
    workers = Processes(space, 2)
    died: list[list[int]] = []

    def give(self: Any, piece: list[Any]) -> None:
        self.piece, self.since = piece, time.monotonic()
        self.pipe.send(piece)
        if any(point.number == 1 for point in piece):
            died.append([point.number for point in piece])
            self.process.kill()

    monkeypatch.setattr("gemvane.sweeping.workers._Worker.give", give)
    try:
        rows = [row for some in workers.rows(space.points()[:6]) for row in some]
    finally:
        workers.close()
    assert sorted(row["point"] for row in rows) == list(range(6))
    assert [row["point"] for row in rows if "processes died" in row["reason"]] == [1]
    assert died.count([1]) == DEATHS


def test_a_second_process_says_so_and_stops(tmp_path: Path) -> None:
    with Folder(tmp_path / "out", "sweep", parse(SMALL, "space.yaml")):
        done = gemvane("sweep", file(tmp_path), "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/out: process {os.getpid()} is at work in this folder.")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_shards_share_a_folder_and_become_one_table(tmp_path: Path) -> None:
    space = parse(SMALL, "space.yaml")
    with Folder(tmp_path, "sweep", space, (1, 2)), pytest.raises(ValueError, match="at work in this folder"):
        sweep(space, tmp_path)
    with Folder(tmp_path, "sweep", space, (1, 2)):
        second = sweep(space, tmp_path, shard=(2, 2))
        with pytest.raises(ValueError, match="at work in this folder"):
            sweep(space, tmp_path, shard=(1, 2))
    assert [row["point"] for row in second.rows] == list(range(1, 27, 2))
    whole = sweep(space, tmp_path)
    assert whole.simulated == 14
    assert whole.rows == sweep(space, tmp_path.with_name("other")).rows
    assert [path.name for path in tmp_path.glob("sweep*")] == ["sweep.parquet"]


def test_a_full_disk_is_one_sentence_and_what_is_kept_stays(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        done = CliRunner().invoke(app, ["sweep", str(file(tmp_path)), "--jobs", "1", "--out", str(tmp_path / "out")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}/out/sweep.jsonl: File too large. What was simulated is kept; the same command goes on.\n"
    rest = sweep(parse(SMALL, "space.yaml"), tmp_path / "out")
    assert 0 < rest.simulated < 27
    assert len(rest.rows) == 27


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", str(file(tmp_path)), "--jobs", "1", "--out", "/proc/gemvane"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: /proc/gemvane: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--shard", "3/2"], "--shard 3/2: Expected i/n with i from 1 to n, as in 2/4."),
        (["--shard", "1"], "--shard 1: Expected i/n"),
        (["--shard", "99/100"], "--shard 99/100: the space has fewer points than shards."),
        (["--dask", "tcp://x", "--jobs", "2"], "the cluster has workers of its own"),
        (["--jobs", "0"], "jobs"),
    ],
)
def test_bad_options(words: list[str], complaint: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", str(file(tmp_path)), "--out", str(tmp_path / "out"), *words])
    assert done.exit_code == 2
    assert complaint in done.stderr
    assert done.stdout == ""


def test_a_space_that_is_not_there() -> None:
    done = CliRunner().invoke(app, ["sweep", "nowhere.yaml"])
    assert (done.exit_code, done.stderr) == (2, "error: nowhere.yaml: No such file or directory.\n")


def test_a_folder_of_another_space_is_left_alone(tmp_path: Path) -> None:
    sweep(parse(SMALL, "space.yaml"), tmp_path)
    with pytest.raises(ValueError, match="holds the results of another space"):
        sweep(parse(SMALL.replace("prompt: 64", "prompt: 65"), "space.yaml"), tmp_path)
    (tmp_path / "meta.json").unlink()
    with pytest.raises(ValueError, match=r"no meta\.json"):
        sweep(parse(SMALL, "space.yaml"), tmp_path)
    assert len(table(tmp_path)) == 27


def test_json_is_alone_on_stdout_and_the_screen_has_no_control_codes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = CliRunner().invoke(app, ["sweep", str(file(tmp_path)), "--jobs", "1", "--out", str(out)])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "\x1b" not in shown.stdout
    assert "27 points, 27 simulated now" in shown.stdout
    assert "9 points without figures" in shown.stdout
    thing = json.loads(CliRunner().invoke(app, ["sweep", str(file(tmp_path)), "--out", str(out), "--json"]).stdout)
    assert (thing["schema"], thing["points"], thing["simulated_now"], thing["failed"]) == ("gemvane.sweep/1", 27, 0, 9)
    assert {"point", "batch", "tpot_s", "energy_per_token_j"} <= thing["front"][0].keys()


def test_without_pyarrow_the_table_is_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = parse(SMALL, "space.yaml")
    want = sweep(space, tmp_path / "parquet").rows
    monkeypatch.setattr(folders.importlib.util, "find_spec", lambda name: None)
    done = sweep(space, tmp_path / "csv")
    assert done.file.name == "sweep.csv"
    assert read_table(done.file) == want
    assert sweep(space, tmp_path / "csv").simulated == 0


def test_a_column_of_numbers_and_words_becomes_text(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": (100, 200), "c": 1}, {"a": "auto", "b": 512, "c": 2.5}]
    want = [{"a": "1", "b": "(100, 200)", "c": 1.0}, {"a": "auto", "b": "512", "c": 2.5}]
    assert read_table(write_table(tmp_path / "sweep", rows)) == want


def test_a_frame_of_a_space_that_is_said_in_python() -> None:
    frame = gv.sweep({"hardware": "npu-hbm2", "scenario": {"prompt": 16, "output": 1},
                      "vary": {"model": ["gpt2", "bert-base"], "batch": [1, 2]}})
    assert frame["model"].tolist() == ["gpt2", "gpt2", "bert-base", "bert-base"]
    assert frame["ttft_s"].gt(0).all()
