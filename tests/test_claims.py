"""Published claims: what a page may say, how its figures are computed and compared, and the TPU page itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.validate.claims import bench, page, scoreboard, value
from gemvane.workloads import catalog, lower
from gemvane.workloads.scenario import Scenario

RUNNER = CliRunner()
PAGE = """\
schema_version: 1
title: A page
papers: {me: "A. N. Author, A Paper, 2026"}
claims:
  faster:
    claim: A step is three times as fast on B
    paper: me
    kind: claimed
    claimed: "3 x"
    experiments:
      a: {hardware: a100-80g, model: gpt2, scenario: {batch: 2, prompt: 16, output: 4}}
      b: {hardware: h100-sxm, model: gpt2, scenario: {batch: 2, prompt: 16, output: 4}}
    value: a.tpot / b.tpot
    within: {share: "20 %", because: it is a guess}
    assumptions: [both run alone]
  matmul:
    claim: A matmul takes 20 us
    paper: me
    kind: measured
    claimed: "20 us"
    experiments:
      one: {hardware: h100-sxm, changes: {memory.bandwidth: "1 TB/s"}, kernel: {op: gemm, dtype: bf16, M: 16, N: 4096, K: 4096}}
    value: one.latency
    within: {share: "50 %", because: it is a guess}
    why: nobody knows
  trained:
    claim: It trains
    paper: me
    kind: measured
    claimed: 40 % of peak
    cannot: no training
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """The page with some of its text changed."""
    text = PAGE
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    file = folder / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def rows(folder: Path, *changes: tuple[str, str]) -> dict[str, scoreboard.Row]:
    return {row.id: row for row in scoreboard.run([page.load(written(folder, *changes))])}


# Figures

def test_a_ratio_of_two_runs_is_compared_with_the_claimed_one(tmp_path: Path) -> None:
    row = rows(tmp_path)["faster"]
    a, b = (gv.run("gpt2", hw, batch=2, prompt=16, output=4).tpot_s for hw in ("a100-80g", "h100-sxm"))
    assert a is not None and b is not None
    assert row.ratio == pytest.approx(a / b / 3)
    assert (row.unit, row.claimed_value, row.simulated_value) == ("", 3.0, pytest.approx(a / b))
    assert (row.claimed, row.simulated, row.paper, row.kind) == ("3 x", f"{a / b:.3g} x", "A. N. Author, A Paper, 2026", "claimed")
    assert (row.verdict, row.reason, row.assumptions) == ("right direction", "within 20 %: it is a guess", ["both run alone"])


def test_a_kernel_runs_on_changed_hardware(tmp_path: Path) -> None:
    row = rows(tmp_path)["matmul"]
    weight = 4096 * 4096 * 2 / 1e12  # 34 us at 1 TB/s
    assert row.ratio is not None and row.ratio > weight / 20e-6
    assert (row.unit, row.claimed_value) == ("s", pytest.approx(20e-6))
    assert row.simulated is not None and row.simulated.endswith(" us")
    assert row.why == "nobody knows"


def test_what_cannot_be_expressed_has_no_figure_but_a_reason(tmp_path: Path) -> None:
    row = rows(tmp_path)["trained"]
    assert (row.claimed, row.simulated, row.ratio) == ("40 % of peak", None, None)
    assert (row.verdict, row.reason) == ("not modelled", "no training")


@pytest.mark.parametrize(("part", "verdict"), [(0.99, "right direction"), (1.01, "reproduced")])
def test_reproduced_is_as_near_as_the_page_says(tmp_path: Path, part: float, verdict: str) -> None:
    ratio = rows(tmp_path)["faster"].ratio
    assert ratio is not None
    assert rows(tmp_path, ('"20 %"', f'"{100 * part * abs(ratio - 1):.3f} %"'))["faster"].verdict == verdict


@pytest.mark.parametrize(
    ("expression", "claimed", "unit"),
    [
        ("a.ttft", "1 ms", "s"), ("a.latency + a.tpot * 2", "1 ms", "s"), ("a.throughput", "1 ktok/s", "tok/s"),
        ("a.energy", "1 J", "J"), ("a.energy_per_token", "1 mJ", "J"), ("a.power", "1 W", "W"), ("a.mfu", "1 %", "%"),
        ("a.utilisation.gpu", "50 %", "%"), ("a.weights", "1 GB", "B"), ("a.kv_cache / a.weights", "1 %", "%"),
        ("1 - b.energy / a.energy", "10 %", "%"), ("(a.ttft - b.ttft) / a.ttft", "2 x", "x"),
    ],
)
def test_a_value_is_shown_in_the_unit_of_its_claim(tmp_path: Path, expression: str, claimed: str, unit: str) -> None:
    both = expression if "b." in expression else f"{expression} * (b.tpot / b.tpot)"
    row = rows(tmp_path, ("a.tpot / b.tpot", both), ('"3 x"', f'"{claimed}"'))["faster"]
    assert row.simulated is not None and row.simulated.endswith(unit)


def test_arithmetic_keeps_its_order() -> None:
    figures = {("a", "x"): 6.0, ("b", "y"): 2.0}
    found = value.evaluate("(a.x + 2 * b.y) / b.y - 1", lambda experiment, figure, _: figures[experiment, figure])
    assert found == (6 + 4) / 2 - 1


def test_mfu_is_two_flops_a_parameter_and_token_of_the_counted_model() -> None:
    result = gv.run("llama3-8b", "h100-sxm", batch=4, prompt=512, output=3, tp=2)
    peak = 2 * result.run.hardware.spec.units["gpu"].tensor_peak["bf16"]
    tokens = 4 * 512 + 4 * 2
    assert bench.mfu(result, result.run.spec) == pytest.approx(2 * 8_030_261_248 * tokens / (result.latency_s * peak))


def test_a_padded_model_counts_as_the_one_it_stands_for(tmp_path: Path) -> None:
    figures = []
    for counted in ("", ", counted_as: gpt2-xl"):
        changes = (("a.tpot / b.tpot", "a.mfu * (b.tpot / b.tpot)"), ("output: 4}}", f"output: 4}}{counted}}}"))
        figures.append(rows(tmp_path, *changes)["faster"].ratio)
    assert figures[0] is not None and figures[1] is not None
    assert figures[1] / figures[0] == pytest.approx(1_557_611_200 / 124_439_808)


def test_an_experiment_that_stands_twice_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    simulate = bench.simulate
    monkeypatch.setattr(bench, "simulate", lambda *asked: runs.append(asked) or simulate(*asked))
    rows(tmp_path, ("hardware: a100-80g", "hardware: h100-sxm"))
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("simulated", "claimed", "within", "side", "nothing", "word"),
    [
        (2.5, 3.0, 0.2, None, 1.0, "reproduced"), (2.3, 3.0, 0.2, None, 1.0, "right direction"),
        (9.0, 3.0, 0.2, None, 1.0, "right direction"),
        (1.0, 3.0, 0.2, None, 1.0, "not reproduced"), (0.9, 3.0, 0.2, None, 1.0, "not reproduced"),
        (0.9, 0.5, 0.2, None, 1.0, "right direction"),
        (0.05, 0.25, 0.2, None, 0.0, "right direction"), (-0.05, 0.25, 0.2, None, 0.0, "not reproduced"),
        (5e-3, 9e-3, 0.2, None, None, "not reproduced"), (5.0, 1.0, 0.2, None, 1.0, "not reproduced"),
        (1.2, 1.1, None, "above", 1.0, "reproduced"), (1.05, 1.1, None, "above", 1.0, "right direction"),
        (0.9, 1.0, None, "above", 1.0, "not reproduced"), (0.9, 1.0, None, "below", 1.0, "reproduced"),
    ],
)
def test_the_four_verdicts(simulated: float, claimed: float, within: float | None, side: str | None, nothing: float | None,
                           word: str) -> None:
    assert scoreboard.verdict(simulated, claimed, within, side, nothing) == word


@pytest.mark.parametrize(
    ("expression", "dimension", "claimed", "nothing"),
    [
        ("a.tpot / b.tpot", "ratio", "3 x", 1.0), ("a.tpot * (1 + 5 * a.share.gemm) / b.tpot", "ratio", "3 x", 1.0),
        ("1 - a.energy / b.energy", "ratio", "25 %", 0.0), ("mean(a.kv_cache / b.kv_cache)", "ratio", "10 %", 1.0),
        ("a.utilisation.gpu", "ratio", "65 %", None), ("a.tpot", "time", "29 ms", None),
        ("a.tpot / (b.tpot - a.tpot)", "ratio", "25 %", None),
    ],
)
def test_no_change_is_what_alike_experiments_would_give(expression: str, dimension: str, claimed: str, nothing: float | None) -> None:
    assert value.unchanged(expression, dimension, claimed) == nothing


def test_a_model_may_have_other_sizes_or_another_mixer(tmp_path: Path) -> None:
    def parameters(*changes: tuple[str, str]) -> float | None:
        value_of_a = ("a.tpot / b.tpot", "a.parameters * (b.tpot / b.tpot)"), ('"3 x"', '"100 Mparams"')
        return rows(tmp_path, *value_of_a, *changes)["faster"].simulated_value

    layer = 12 * 768 * 768 + 13 * 768
    assert parameters() == 124_439_808
    assert parameters(("model: gpt2,", "model: gpt2, config: {n_layer: 10},")) == 124_439_808 - 2 * layer
    attention = 4 * 768 * 768 + 4 * 768
    chain = "model: gpt2, mixer: [{name: mix, kind: gemm, n: 768, k: 768, bias: true}],"
    assert parameters(("model: gpt2,", chain)) == 124_439_808 - 12 * (attention - 768 * 769)


def test_flops_and_memory_are_those_of_the_changed_workload(tmp_path: Path) -> None:
    half = ("output: 4}}", 'output: 4, transforms: ["quantise:weights=int8"]}}')
    changes = ("a.tpot / b.tpot", "a.memory / b.memory - a.kv_cache / b.memory + 0 * (a.flops / b.flops)"), half
    row = rows(tmp_path, *changes)["faster"]
    whole = gv.run("gpt2", "h100-sxm", batch=2, prompt=16, output=4).run.memory
    assert row.simulated_value == pytest.approx(whole.weights_bytes / 2 / (whole.weights_bytes + whole.kv_cache_bytes), rel=1e-3)
    flops = rows(tmp_path, ("a.tpot / b.tpot", "a.flops * (b.flops / b.flops)"), ('"3 x"', '"1 GFLOP"'))["faster"].simulated_value
    assert flops == lower.generation(catalog.load("gpt2"), Scenario(batch=2, prompt=16, output=4)).flops


# What a page may not say

WRONG = {  # what is changed into what, the line, the key under claims and what is said
    "an unknown field": ('    claimed: "3 x"', '    claim_ed: "3 x"', 9,
        "faster.claim_ed: unknown field 'claim_ed' (did you mean 'claimed'?)"),
    "a paper that is not there": ("paper: me", "paper: you", 7, "faster.paper: 'you' is not in papers. Expected one of me"),
    "a kind": ("kind: claimed", "kind: said", 8,
        "faster.kind: 'said' is not known here. Expected one of 'measured', 'modelled' or 'claimed'."),
    "no unit": ('"3 x"', '"3"', 9, "faster.claimed: '3' has no unit. Expected a ratio, e.g. '3 x'."),
    "another unit": ('"3 x"', '"3 ms"', 9, "faster.claimed: '3 ms' has the wrong unit 'ms'. Expected a ratio, e.g. '3 x'."),
    "zero": ('"3 x"', '"0 x"', 9, "faster.claimed: '0 x' is zero. Expected a figure to compare with."),
    "not text": ('"20 us"', "20", 20, "matmul.claimed: 20: input should be a valid string."),
    "no such experiment": ("a.tpot / b.tpot", "a.tpot / c.tpot", 13, "faster.value: no experiment 'c'. Expected one of a, b."),
    "no such figure": ("a.tpot / b", "a.tpto / b", 13, "faster.value: a model has no figure 'tpto' (did you mean 'tpot'?)."),
    "a figure of a run": ("one.latency", "one.tpot", 23,
        "matmul.value: a kernel has no figure 'tpot'. Expected one of latency, energy, power, result."),
    "units that do not fit": ("a.tpot / b.tpot", "a.tpot + b.power", 13, "faster.value: 'a.tpot + b.power' joins a time and a power."),
    "no arithmetic": ("a.tpot / b.tpot", "max(a.tpot, b.tpot)", 13, "faster.value: 'max(a.tpot, b.tpot)' is no part of a value."),
    "no expression": ("a.tpot / b.tpot", "a.tpot /", 13, "faster.value: 'a.tpot /' cannot be read."),
    "a long expression": ("a.tpot / b.tpot", "+".join(["a.tpot"] * 99), 13, "faster.value: 'a.tpot+"),
    "an idle experiment": ("a.tpot / b.tpot", "a.mfu", 12, "faster.experiments.b: is never used in value 'a.mfu'"),
    "nothing to run": ("value: a.tpot / b.tpot", "why: so", 5,
        "faster: value is missing. Expected experiments, value and within, or cannot"),
    "both ways": ("cannot: no training", "cannot: no training\n    value: a.tpot", 32,
        "trained.value is there although the claim cannot be expressed."),
    "neither model nor kernel": ("model: gpt2, scenario", "scenario", 11,
        "faster.experiments.a: neither is there. Expected a kernel or a model"),
    "a kernel in a scenario": ("K: 4096}", "K: 4096}, scenario: {batch: 2}", 22, "matmul.experiments.one.scenario: goes with a model"),
    "a share": ('"20 %"', '"0 %"', 14, "faster.within.share: '0 %' is not a share."),
    "unknown hardware": ("hardware: a100-80g", "hardware: a100-8g", 11, "faster.experiments.a.hardware: unknown hardware 'a100-8g'"),
    "a change": ("memory.bandwidth:", "memory.bandwith:", 22,
        "matmul.experiments.one.changes: change of h100-sxm: memory.bandwith: unknown field"),
    "unknown model": ("model: gpt2,", "model: gpt9,", 11, "faster.experiments.a.model: unknown model 'gpt9': nearest are gpt2"),
    "an option": ("{batch: 2,", "{batches: 2,", 11,
        "faster.experiments.a.scenario: unknown option 'batches'. Expected some of batch, prompt,"),
    "an option's value": ("{batch: 2,", "{batch: 0,", 11, "faster.experiments.a.scenario: batch is 0. Expected a whole number"),
    "a value of a config": ("model: gpt2,", "model: gpt2, config: {n_layer: none},", 11,
        "faster.experiments.a.config: gemvane/workloads/models/gpt2.json: key 'n_layer' = 'none': want a positive whole number"),
    "a step without a kind": ("model: gpt2,", "model: gpt2, mixer: [{name: mix}],", 11,
        "faster.experiments.a.mixer: a step has no kind. Expected a name, a kind and its sizes."),
    "a kind of a step": ("model: gpt2,", "model: gpt2, mixer: [{name: mix, kind: lerpp}],", 11,
        "faster.experiments.a.mixer: unknown kind 'lerpp' (did you mean 'lerp'?)."),
    "a field of a step": ("model: gpt2,", "model: gpt2, mixer: [{name: mix, kind: gemm, width: 3}],", 11,
        "faster.experiments.a.mixer: unknown field of a step 'width'. Expected some of name, kind, n, k"),
    "a size of a step": ("model: gpt2,", "model: gpt2, mixer: [{name: mix, kind: gemm, n: many}],", 11,
        "faster.experiments.a.mixer: n of a step is 'many'. Expected a whole number."),
    "a chain without attention": ("model: gpt2,", "model: mamba-130m, mixer: [{name: mix, kind: gemm, n: 8, k: 8}],", 11,
        "faster.experiments.a.mixer: a chain: mamba-130m has no softmax attention over its own tokens to change."),
    "a mixer of a kernel": ("K: 4096}", "K: 4096}, mixer: [{name: mix, kind: add}]", 22, "matmul.experiments.one.mixer: goes with a model"),
    "a column": ("M: 16", "m: 16", 22, "matmul.experiments.one.kernel: unknown column 'm'. Expected some of op, dtype"),
    "a kernel": ("op: gemm", "op: gem", 22, "matmul.experiments.one.kernel: kernel table: row 0: op 'gem' is unknown."),
    "too large": ("model: gpt2,", "model: llama3-405b,", 11, "faster.experiments.a.scenario: llama3-405b needs"),
    "a phase that is not run": ("output: 4}}", "output: 4, phase: prefill}}", 13,
        "faster.value: a.tpot: the scenario has no decode step (phase prefill"),
    "a unit that is not there": ("a.tpot / b.tpot", "a.utilisation.mxu / b.mfu", 13,
        "faster.value: a.utilisation.mxu: a100-80g has units gpu, link."),
    "division by zero": ("a.tpot / b.tpot", "a.tpot / (b.tpot - b.tpot)", 13,
        "faster.value: 'a.tpot / (b.tpot - b.tpot)' divides by zero."),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_file_line_key_and_wish(tmp_path: Path, name: str) -> None:
    old, new, line, message = WRONG[name]
    with pytest.raises(ValueError) as caught:
        rows(tmp_path, (old, new))
    assert str(caught.value).startswith(f"{tmp_path}/mine.yaml:{line}: claims.{message}"), str(caught.value)


def test_nothing_is_simulated_before_everything_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "simulate", lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueError, match="unknown column 'm'"):
        rows(tmp_path, ("M: 16", "m: 16"))


def test_a_page_that_is_not_there_offers_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^unknown page of claims 'tpus' \(did you mean 'tpu'\?\); there are "):
        page.load("tpus")


# The bundled pages

@pytest.fixture(scope="module")
def tpu() -> dict[str, scoreboard.Row]:
    return {row.id: row for row in scoreboard.run([page.load("tpu")])}


@pytest.mark.parametrize(
    ("name", "ratio", "verdict"),
    [
        ("v2-matmul", 0.999, "reproduced"), ("v2-reduce-scatter", 0.958, "reproduced"), ("palm-decode", 0.45, "not reproduced"),
        ("palm-prefill", 0.60, "not reproduced"), ("palm-chat", 0.45, "not reproduced"),
    ],
)
def test_the_tpu_page_comes_out_as_it_is_reported(tpu: dict[str, scoreboard.Row], name: str, ratio: float, verdict: str) -> None:
    assert tpu[name].ratio == pytest.approx(ratio, rel=0.02)
    assert tpu[name].verdict == verdict


def test_the_matmul_of_tpu_v2_is_its_roofline_and_the_reduce_scatter_half_the_bytes_on_one_link(tpu: dict[str, scoreboard.Row]) -> None:
    roofline, scatter = 2 * 8192 * 32768 * 8192 / (2 * 2 * 128 * 128 * 700e6), 134_217_728 / 2 / 62e9
    for name, seconds, claimed in (("v2-matmul", roofline, 96e-3), ("v2-reduce-scatter", scatter, 1.13e-3)):
        assert tpu[name].ratio == pytest.approx(seconds / claimed, rel=0.002)


def test_the_quick_claims_of_neupims_are_still_as_the_page_in_docs_has_them() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "neupims.md").read_text(encoding="utf-8")
    whole = page.load("neupims")
    some = {name: whole.spec.claims[name] for name in ("interleaving-loses", "interleaving-wins", "npu-busy-blocked", "area")}
    for row in scoreboard.run([replace(whole, spec=whole.spec.model_copy(update={"claims": some}))]):
        cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| {row.claim} |")]
        assert [(line[1], line[2], line[-1]) for line in cells] == [(row.claimed, row.simulated or "-", row.verdict)]


# The command

def test_json_is_one_list_of_what_the_design_asks_for() -> None:
    done = RUNNER.invoke(app, ["validate", "claims", "tpu", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"claim", "paper", "kind", "claimed", "simulated", "ratio", "verdict", "assumptions"} < found[0].keys()
    assert [row["id"] for row in found] == list(page.load("tpu").spec.claims)
    assert {row["verdict"] for row in found} == {"reproduced", "not reproduced", "not modelled"}
    assert {row["figure"] for row in found[:5]} == {"latency", "utilisation"}


def test_the_screen_and_the_page_show_both_figures_and_every_reason(tmp_path: Path) -> None:
    file = written(tmp_path)
    done = RUNNER.invoke(app, ["validate", "claims", str(file), "-o", str(tmp_path / "claims.md")])
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "claims.md").read_text(encoding="utf-8")
    for part in ("3 x", "20 us", "40 % of peak", "nobody knows", "both run alone", "no training", "A. N. Author, A Paper, 2026"):
        assert part in done.stdout and part in text
    assert "3 claims: " in done.stdout and "| A matmul takes 20 us | 20 us | " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "error: unknown page of claims 'nowhere.yaml'"),
        (["tpu", "-o", "claims.txt"], "error: -o claims.txt: the page is written as .md, not '.txt'."),
        (["tpu", "-o", "no/folder/claims.md"], "error: -o no/folder/claims.md: there is no folder no/folder."),
    ],
)
def test_a_bad_word_is_one_sentence_and_exit_2(words: list[str], message: str) -> None:
    done = RUNNER.invoke(app, ["validate", "claims", *words])
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
