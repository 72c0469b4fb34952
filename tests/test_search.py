"""Searches: the same trials whoever simulates them and whatever is killed in between; a front that nothing beats, as files that run."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.sim.space import Space, parse
from gemvane.sweeping.folder import read_table
from gemvane.sweeping.search import search

pytest.importorskip("optuna")

SPACE = """\
model: gpt2
hardware: npu-hbm2
scenario: {prompt: 64, output: 2, phase: decode}
vary:
  units.npu.rows: {low: 16, high: 256, scale: powers of two}
  units.npu.num_arrays: [1, 2, 4, 8]
  units.npu.dataflow: [ws, os]
  memory.bandwidth: {low: 256 GB/s, high: 2048 GB/s, scale: powers of two}
  batch: {low: 1, high: 64, by: 1}
follow:
  units.npu.cols: units.npu.rows
where:
  - units.npu.rows * units.npu.num_arrays <= 1024
search:
  objectives: [tpot_s, energy_per_token_j, area_mm2]
  limits: {area_mm2: 300, average_power_w: 2 * power.static}
  trials: 30
  population: 10
  seed: 3
"""


def space(**changes: str) -> Space:
    text = SPACE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return parse(text, "space.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that nothing interrupted."""
    out = tmp_path_factory.mktemp("search") / "whole"
    search(space(), out)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    return read_table(out / "sweep.parquet")


def test_processes_find_what_one_process_finds(whole: Path, tmp_path: Path) -> None:
    done = search(space(), tmp_path, jobs=2)
    assert (tmp_path / "sweep.parquet").read_bytes() == (whole / "sweep.parquet").read_bytes()
    assert [row["point"] for row in done.rows] == list(range(30))
    assert search(space(), tmp_path).simulated == 0


def test_nothing_is_simulated_twice(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    from gemvane.sim.sweep import evaluate

    monkeypatch.setattr("gemvane.sweeping.workers.evaluate", lambda s, point: seen.append(point.values) or evaluate(s, point))
    done = search(space(), tmp_path)
    assert len(set(seen)) == len(seen) == done.simulated
    assert done.rows == rows(whole)


def test_the_front_is_what_nothing_within_the_limits_beats(whole: Path) -> None:
    found = rows(whole)
    names = ("tpot_s", "energy_per_token_j", "area_mm2")
    static = gv.hardware("npu-hbm2").spec.power.static
    inside = [row for row in found if row["tpot_s"] is not None and row["area_mm2"] <= 300 and row["average_power_w"] <= 2 * static]
    assert [row["point"] for row in inside] == [row["point"] for row in found if row["feasible"]]
    assert 0 < len(inside) < len(found)

    def beats(a: Any, b: Any) -> bool:
        return all(a[n] <= b[n] for n in names) and any(a[n] < b[n] for n in names)

    best = [row for row in inside if not any(beats(other, row) for other in inside)]
    figures = {tuple(row[n] for n in names) for row in best}
    assert {tuple(row[n] for n in names) for row in found if row["front"]} == figures
    assert sum(row["front"] for row in found) == len(figures) > 1


def test_a_file_of_the_front_runs_and_says_the_same(whole: Path) -> None:
    row = next(row for row in rows(whole) if row["front"])
    file = whole / "front" / f"npu-hbm2-{row['point']}.yaml"
    first = re.fullmatch(r"# (gemvane run .*)", file.read_text(encoding="utf-8").splitlines()[0])
    assert first is not None
    words = shlex.split(first[1])[1:]
    thing = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [thing[name] for name in ("tpot_s", "energy_per_token_j")] == [row["tpot_s"], row["energy_per_token_j"]]
    assert len(list((whole / "front").iterdir())) == sum(row["front"] for row in rows(whole))


def test_a_search_that_is_killed_again_and_again_ends_as_one_that_was_not(whole: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "space.yaml", tmp_path / "out"
    file.write_text(SPACE, encoding="utf-8")
    words = [sys.executable, "-m", "gemvane", "search", str(file), "--jobs", "1", "--out", str(out)]
    log, kills = out / "optuna.log", 0
    for enough in (4_000, 15_000):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (log.exists() and log.stat().st_size > enough):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    assert not (out / "sweep.parquet").exists()
    search(space(), out)
    pd.testing.assert_frame_equal(pd.DataFrame(rows(out)), pd.DataFrame(rows(whole)))


def test_tpe_searches_too(tmp_path: Path) -> None:
    asked = space(**{"trials: 30": "trials: 24\n  sampler: tpe"})
    first, second = search(asked, tmp_path / "a"), search(asked, tmp_path / "b")
    assert first.rows == second.rows
    assert len({row["batch"] for row in first.rows}) > 1


def test_a_search_finds_better_points_than_chance(whole: Path) -> None:
    """Median of the last ten trials that have figures, against that of the first ten, which are drawn at random."""
    tpot = [row["tpot_s"] * row["energy_per_token_j"] for row in rows(whole) if row["tpot_s"] is not None]
    assert sorted(tpot[-10:])[5] < sorted(tpot[:10])[5]


def test_the_screen_and_the_json_of_a_search(whole: Path, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE, encoding="utf-8")
    shown = CliRunner().invoke(app, ["search", str(file), "--out", str(whole)])
    assert shown.exit_code == 0
    assert "30 trials" in shown.stdout
    thing = json.loads(CliRunner().invoke(app, ["search", str(file), "--out", str(whole), "--json"]).stdout)
    assert (thing["schema"], thing["trials"], thing["objectives"]) == ("gemvane.search/1", 30, ["tpot_s", "energy_per_token_j", "area_mm2"])
    assert all(Path(point["file"]).exists() for point in thing["front"])


def test_a_space_without_objectives_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE[: SPACE.index("search:")], encoding="utf-8")
    done = CliRunner().invoke(app, ["search", str(file), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: the space has no section search.")


def test_a_folder_of_a_sweep_is_no_folder_of_a_search(tmp_path: Path) -> None:
    from gemvane.sweeping.sweep import sweep

    small = space(**{"low: 1, high: 64, by: 1": "low: 1, high: 1, by: 1", "low: 16, high": "low: 256, high"})
    sweep(small, tmp_path)
    with pytest.raises(ValueError, match="Choose another --out"):
        search(small, tmp_path)
