"""Claims over several settings: axes, means and bounds, what is left out; and the plots of a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.validate.claims import page, plots, scoreboard, value
from gemvane.validate.claims.bench import Bench

RUNNER = CliRunner()
PAGE = """\
schema_version: 1
title: A grid
papers: {me: "A. N. Author, A Paper, 2026"}
assumptions: [all run alone]
without: [{settings: {model: medium, batch: 8}, because: it takes too long}]
experiments:
  old: {hardware: a100-80g, scenario: &short {prompt: 16, output: 4}}
  new: {hardware: h100-sxm, scenario: *short}
axes:
  model: {small: {model: gpt2}, medium: {model: gpt2-xl}}
  batch: {1: {scenario: {batch: 1}}, 8: {scenario: {batch: 8}}}
claims:
  mean:
    claim: B is twice as fast
    paper: me
    kind: claimed
    claimed: "2 x"
    over: {model: all, batch: all}
    value: mean(old.tpot / new.tpot)
    within: {share: "20 %", because: it is a guess}
    why: nobody knows
  bound:
    claim: B is always faster
    paper: me
    kind: claimed
    claimed: "> 1 x"
    over: {model: [small], batch: [1, 8]}
    value: min(old.tpot / new.tpot)
plots:
  speed:
    title: How much faster B is
    x: batch
    y: speed-up
    unit: x
    by: model
    over: {model: all, batch: all}
    series: {over A: old.tpot / new.tpot}
    claimed: {over A: "2 x"}
  share:
    title: What B does
    x: model
    y: part of the time
    unit: "%"
    panels: batch
    over: {model: all, batch: [1]}
    series: {in vectors: new.share.rmsnorm + new.share.layernorm, at work: new.utilisation.gpu}
"""


def written(folder: Path, *changes: tuple[str, str]) -> page.Page:
    text = PAGE
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return page.load(file)


def rows(folder: Path, *changes: tuple[str, str]) -> dict[str, scoreboard.Row]:
    return {row.id: row for row in scoreboard.run([written(folder, *changes)])}


def speedup(model: str, batch: int) -> float:
    old, new = (gv.run(model, hw, batch=batch, prompt=16, output=4).tpot_s for hw in ("a100-80g", "h100-sxm"))
    assert old is not None and new is not None
    return old / new


def test_a_mean_is_that_of_every_setting_that_is_not_left_out(tmp_path: Path) -> None:
    row = rows(tmp_path)["mean"]
    three = {"model small, batch 1": speedup("gpt2", 1), "model small, batch 8": speedup("gpt2", 8),
             "model medium, batch 1": speedup("gpt2-xl", 1)}
    assert row.simulated_value == pytest.approx(sum(three.values()) / 3)
    assert row.setting == "every model, batch (3)"
    least, most = min(three, key=three.__getitem__), max(three, key=three.__getitem__)
    assert row.spread == f"{three[least]:.3g} x ({least}) to {three[most]:.3g} x ({most})"


@pytest.mark.parametrize(("aggregate", "expected"), [("mean", 3.0), ("geomean", 8**0.5), ("min", 2.0), ("max", 4.0)])
def test_aggregates_go_over_the_settings_and_arithmetic_goes_on_with_them(aggregate: str, expected: float) -> None:
    found = value.evaluate(f"1 + {aggregate}(a.x / b.x)", lambda experiment, _, setting: setting if experiment == "a" else 1.0, [2.0, 4.0])
    assert found == pytest.approx(1 + expected)


@pytest.mark.parametrize(("claimed", "verdict"), [
    ("> 1 x", "reproduced"), ("< 1 x", "not reproduced"), ("< 9 x", "reproduced"),
    ("> 9 x", "right direction"), ("< 0.9 x", "not reproduced")])
def test_a_bound_is_reproduced_on_its_side(tmp_path: Path, claimed: str, verdict: str) -> None:
    row = rows(tmp_path, ('"> 1 x"', f'"{claimed}"'))["bound"]
    assert (row.verdict, row.claimed_value) == (verdict, float(claimed[2:-2]))
    assert row.setting == "every batch; model small (2)"


def test_a_share_is_the_time_of_a_kind_of_operator_in_the_time_of_all(tmp_path: Path) -> None:
    changes = ('mean(old.tpot / new.tpot)', 'mean(old.share.layernorm)'), ('  new: {hardware: h100-sxm, scenario: *short}\n', ''), (
        'min(old.tpot / new.tpot)', 'min(old.share.layernorm)')
    text = written(tmp_path, *changes, (PAGE[PAGE.index("plots:"):], ""), ("model: all, batch: all", "model: [small], batch: [8]"))
    found = scoreboard.run([text])[0].simulated_value
    ops = gv.run("gpt2", "a100-80g", batch=8, prompt=16, output=4).ops_table()
    assert found == pytest.approx(sum(op["time_s"] for op in ops if op["kind"] == "layernorm") / sum(op["time_s"] for op in ops))


WRONG = {  # what is changed into what, the line, the key and what is said
    "an unknown axis": ("over: {model: all", "over: {modl: all", 18, "claims.mean.over.modl: no such axis (did you mean 'model'?)."),
    "an unknown label": ("model: [small]", "model: [smal]", 27, "claims.bound.over.model: 'smal' is not on it (did you mean 'small'?)."),
    "no aggregate": ("mean(old.tpot / new.tpot)", "old.tpot / new.tpot", 19,
        "claims.mean.value: old.tpot has a value in each of several settings. Expected mean or geomean or min or max around it."),
    "an aggregate in another": ("mean(old.tpot", "mean(max(old.tpot)", 19, "claims.mean.value: 'max(old.tpot)' is no part of a value."),
    "another function": ("mean(", "median(", 19, "claims.mean.value: 'median(old.tpot / new.tpot)' is no part of a value."),
    "no figure": ("mean(old.tpot / new.tpot)", "2 * 3", 19, "claims.mean.value: '2 * 3' has no figure in it."),
    "everything left out": ("model: [small], batch: [1, 8]", "model: [medium], batch: [8]", 27, "claims.bound.over: every setting"),
    "a bound with a share": ('"2 x"', '"< 2 x"', 20, "claims.mean.within is there although '< 2 x' is a bound."),
    "a figure without a share": ('"> 1 x"', '"1 x"', 22, "claims.bound: within is missing."),
    "no hardware": ("old: {hardware: a100-80g, ", "old: {", 7, "experiments.old: hardware is missing. Expected it here or on an axis."),
    "a model on no axis": ("model: all, batch: all", "batch: all", 7, "experiments.old: neither is there. Expected a kernel or a model."),
    "a setting that does not run": ("batch: 1}}, 8", "batch: 0}}, 8", 7, "experiments.old.scenario: model small, batch 1: batch is 0."),
    "a kind of operator": ("new.share.rmsnorm", "new.share.rmsnrm", 46,
        "plots.share.series.in vectors: no operator is of kind 'rmsnrm' (did you mean 'rmsnorm'?)."),
    "an axis that the plot has not": ("x: batch", "x: length", 32, "plots.speed.x: 'length' is not in over. Expected one of model, batch"),
    "a claim of no series": ('claimed: {over A: "2 x"}', 'claimed: {over B: "2 x"}', 38,
        "plots.speed.claimed: 'over B' is no series. Expected one of over A"),
    "a claimed figure of a plot": ('{over A: "2 x"}', '{over A: "2 W"}', 38, "plots.speed.claimed: '2 W' has the wrong unit 'W'."),
    "a unit of a plot": ("unit: x", "unit: ms", 34, "plots.speed.unit: '1 ms' has the wrong unit 'ms'."),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_grid_or_plot_is_said_with_file_and_line(tmp_path: Path, name: str) -> None:
    old, new, line, message = WRONG[name]
    with pytest.raises(ValueError) as caught:
        loaded = written(tmp_path, (old, new))
        plots.prepare(loaded, Bench())
        scoreboard.run([loaded])
    found = re.sub(r"^.*mine\.yaml:", "", str(caught.value))
    assert found.startswith(f"{line}: {message}"), found


def test_a_plot_has_a_value_for_each_point_that_is_not_left_out(tmp_path: Path) -> None:
    loaded = written(tmp_path)
    small, medium = plots.lines(loaded, "speed", Bench())
    assert (small.label, medium.label, small.claimed) == ("model small", "model medium", 2.0)
    assert small.values == pytest.approx([speedup("gpt2", 1), speedup("gpt2", 8)])
    assert medium.values == pytest.approx([speedup("gpt2-xl", 1), float("nan")], nan_ok=True)


def test_a_mean_of_which_settings_are_left_out_is_no_point(tmp_path: Path) -> None:
    changes = ("    by: model\n", ""), ("{over A: old.tpot / new.tpot}", "{over A: mean(old.tpot / new.tpot)}")
    line, = plots.lines(written(tmp_path, *changes), "speed", Bench())
    assert line.values == pytest.approx([(speedup("gpt2", 1) + speedup("gpt2-xl", 1)) / 2, float("nan")], nan_ok=True)


def test_the_page_has_a_file_for_each_plot_which_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written(tmp_path)
    texts = []
    for _ in range(2):
        done = RUNNER.invoke(app, ["validate", "claims", str(tmp_path / "mine.yaml"), "-o", str(tmp_path / "grid.md")])
        assert done.exit_code == 0, done.stderr
        texts.append([(tmp_path / name).read_text(encoding="utf-8") for name in ("grid.md", "grid-mine-speed.svg", "grid-mine-share.svg")])
    assert texts[0] == texts[1]
    text, speed, share = texts[0]
    assert "![How much faster B is](grid-mine-speed.svg)" in text and "| 2 x | " in text and "- assumed: all run alone" in text
    assert "left out: model medium, batch 8: it takes too long" in text
    for word in ("model small", "model medium", "claimed", "speed-up (x)", "batch"):
        assert f">{word}<" in speed, word
    for word in ("in vectors", "at work", "part of the time (%)", "batch 1"):
        assert f">{word}<" in share, word
