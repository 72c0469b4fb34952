"""Reports: one file with everything in it, that opens offline, whose charts have data; in a real browser where there is one."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.report import compare, measure, page, palette, sweep
from gemvane.report import run as run_page
from gemvane.sim import rerun
from gemvane.sim.sensitivity import FOLLOWS, middle, scaled, sensitivity
from gemvane.workloads import catalog, specfile

SMALL = {"batch": 4, "prompt": 64, "output": 8}
MOST_BYTES = 8_000_000
SPACE = {"model": "gpt2", "hardware": "npu-pim-dual", "scenario": {"prompt": 64, "output": 2},
         "vary": {"units.npu.num_arrays": [2, 4], "batch": [1, 4]}}


def gemvane(*words: str) -> str:
    """What a command prints; it has to end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gemvane", *words])     # as a shell would leave it
        done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: str) -> str:
    """The sentence of a command that ends with status 2."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2, done.output
    return done.output


class Parsed(HTMLParser):
    """What a page refers to, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.charts: list[str] = []
        self.tables = 0
        self.scripts: dict[str, str] = {}
        self._script = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value for name in ("src", "href", "srcset", "action") if (value := given.get(name)) is not None]
        self.tables += tag == "table"
        self._script = given.get("id") or "" if tag == "script" else ""
        if "data-figure" in given:
            self.charts.append(str(given["data-figure"]))

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    @property
    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts["figures"])
        return found


def checked(path: Path) -> Parsed:
    """The page, which refers to nothing outside, has data in every chart and a table for each."""
    assert path.stat().st_size < MOST_BYTES
    found = Parsed(path.read_text(encoding="utf-8"))
    assert [link for link in found.links if not link.startswith(("data:", "#"))] == []
    assert found.charts == list(found.figures) != []
    assert found.tables >= len(found.charts)
    for name, figure in found.figures.items():
        assert any(trace["x"] and trace["y"] for trace in figure["data"]), name
    return found


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    gemvane("run", "gpt2", "--hw", "npu-pim-dual", "--batch", "4", "--prompt", "64", "--output", "8", "--out", str(folder))
    gemvane("report", str(folder))
    return folder


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    gv.sweep(SPACE, folder)
    gemvane("report", str(folder))
    return folder


def test_the_report_of_a_run_holds_everything_and_needs_nothing(run_folder: Path) -> None:
    found = checked(run_folder / "report.html")
    assert {"roofline", "layers", "operators-prefill", "operators-decode", "units", "timeline-prefill", "timeline-decode", "energy",
            "memory", "sensitivity-tpot", "sensitivity-ttft", "trust"} <= set(found.charts)
    text = (run_folder / "report.html").read_text(encoding="utf-8")
    assert f"gemvane {gv.__version__}" in text and "gemvane run gpt2" in text and "prefers-color-scheme: dark" in text
    assert json.loads((run_folder / "meta.json").read_text())["configuration_sha256"] in text
    assert text.count("plotly.js v") == 1
    assert "This run was made by" not in text


def test_a_report_is_the_same_for_the_same_run(run_folder: Path, tmp_path: Path) -> None:
    gemvane("report", str(run_folder), "-o", str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_bytes() == (run_folder / "report.html").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_a_run_of_another_version_is_named_so(run_folder: Path, tmp_path: Path) -> None:
    for file in run_folder.iterdir():
        if file.suffix != ".html":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["versions"]["gemvane"] = "0.0.1"
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    result = json.loads((tmp_path / "result.json").read_text())
    result["tpot_s"] *= 2
    (tmp_path / "result.json").write_text(json.dumps(result))
    gemvane("report", str(tmp_path))
    text = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    assert f"made by gemvane 0.0.1. For this report it was simulated again by gemvane {gv.__version__}" in text
    assert re.search(r"figures have changed since: TPOT was \S+ \S+, is now", text)


def test_a_folder_of_results_can_be_simulated_again(run_folder: Path) -> None:
    result = gv.Result(rerun.again(run_folder))
    assert result.to_json() + "\n" == (run_folder / "result.json").read_text()


@pytest.mark.parametrize("name", ["llama3-8b", "mixtral-8x7b", "deepseek-v3", "t5-base", "vit-b16", "mamba-130m", "bert-base"])
def test_a_model_survives_its_file(name: str) -> None:
    if name not in catalog.names():
        pytest.skip(f"no bundled model {name}")
    spec = catalog.load(name)
    assert specfile.from_data(json.loads(json.dumps(specfile.to_data(spec)))) == spec


@pytest.mark.parametrize(("data", "complaint"), [({"is": "Ship"}, "KeyError"), ({"is": "Dense", "wheels": 4}, "TypeError"),
                                                 (3, "is no model")])
def test_a_file_that_is_no_model_is_refused(data: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        specfile.from_data(data)


@pytest.mark.parametrize(("model", "hw", "scenario"), [
    ("bert-base", "h100-sxm", {"batch": 2, "prompt": 64}), ("gpt2", "tpu-v5p", {"phase": "prefill", "prompt": 64}),
    ("gpt2", "cpu-server", {"phase": "decode", "prompt": 64, "output": 1}), ("gpt2", "h100-sxm", {"tp": 2, "pp": 2, **SMALL}),
    ("gpt2", "attacc", SMALL)])
def test_every_kind_of_run_has_a_report(model: str, hw: str, scenario: dict[str, Any], tmp_path: Path) -> None:
    if model not in catalog.names():
        pytest.skip(f"no bundled model {model}")
    checked(gv.run(model, hw, **scenario).report(tmp_path / "a.html"))


def test_roofline_dots_are_under_every_ceiling_that_holds_for_them() -> None:
    run = gv.run("llama3-8b", "h100-sxm", **SMALL).run
    ceilings = {c.name: c for c in measure.ceilings(run.hardware, "bf16")}
    peak, l2 = ceilings["gpu peak, bf16"].rate, ceilings["gpu: L2"].rate
    assert ceilings["HBM3 main memory"].rate == run.hardware.spec.memory.bandwidth
    for operator in measure.operators(run):
        assert operator.flops / operator.seconds <= peak
        assert operator.bytes / operator.seconds <= l2
    rows = {(o.phase, o.name): o for o in measure.operators(run)}
    gate_up = rows["decode", "gate_up"]     # [4, 4096] x [4096, 2 x 14336] in 32 layers
    assert gate_up.flops == 2 * 4 * 4096 * 28672 * 32
    assert gate_up.bytes == 2 * (4 * 4096 + 4096 * 28672 + 4 * 28672) * 32


def test_layers_that_are_alike_are_folded_and_their_times_add_up() -> None:
    run = gv.run("llama3-8b", "h100-sxm", **SMALL).run
    found = [one for one in measure.layers(run) if one.phase == "decode"]
    assert [(one.label, one.times) for one in found] == [("layers 0-31 (32 alike)", 32), ("embedding and head", 1)]
    whole = sum(one.times * sum(one.causes_s.values()) for one in found)
    assert whole == pytest.approx(run.phases["decode"].duration_ps.mean(axis=0)[run.phases["decode"].alike].sum() / 1e12, rel=1e-6)


def test_energy_of_the_phases_is_the_energy_of_the_run() -> None:
    result = gv.run("gpt2", "npu-pim-dual", **SMALL)
    parts = measure.energy_by_phase_j(result.run)
    assert sum(sum(phase.values()) for phase in parts.values()) == pytest.approx(result.energy_j)
    assert {name for phase in parts.values() for name in phase} <= {p for _, members in palette.ENERGY_GROUPS.values() for p in members}


def test_the_line_of_the_cache_ends_where_the_memory_is_full() -> None:
    result = gv.run("llama3-8b", "npu-hbm2", batch=64, prompt=512, output=128)
    line = dict(measure.cache_line(result.run))
    assert line[128] == result.run.memory.kv_cache_bytes
    tokens = np.array(list(line))
    assert np.all(np.diff(list(line.values())) > 0)
    assert max(line.values()) >= result.run.memory.kv_room_bytes or tokens.max() == measure.MOST_TOKENS * 128


def test_sensitivity_is_the_ratio_of_two_simulations() -> None:
    run = gv.run("gpt2", "h100-sxm", **SMALL).run
    found = {effect.key: effect for effect in sensitivity(run).effects}
    faster = middle(run, run.hardware.replace({"memory.bandwidth": "3.685 TB/s"}))
    base = middle(run)
    assert base.decode is not None and faster.decode is not None
    change = found["memory.bandwidth"].more
    assert change is not None
    assert change["tpot_s"] == pytest.approx(faster.decode.latency_ps / base.decode.latency_ps - 1, rel=1e-9)
    assert change["tpot_s"] < 0
    assert not set(FOLLOWS) & set(found)


@pytest.mark.parametrize(("value", "factor", "expected"), [
    ("3.35 TB/s", 1.1, "3.685 TB/s"), ("88 %", 0.9, "79.2 %"), (132, 1.1, 145), (8, 0.9, 7), (4, 1.1, 5)])
def test_a_number_changes_by_a_share(value: Any, factor: float, expected: Any) -> None:
    assert scaled("key", value, factor) == expected


@pytest.mark.parametrize("value", [1, 2, "auto"])
def test_what_cannot_change_by_a_share_says_so(value: Any) -> None:
    with pytest.raises(ValueError, match="key: "):
        scaled("key", value, 1.1)


def test_the_report_of_a_comparison_says_who_wins_where(tmp_path: Path) -> None:
    words = ("compare", "gpt2", "--hw", "t4,h100-sxm", "--batch", "1,8", "--prompt", "64", "--output", "4")
    gemvane(*words, "--out", str(tmp_path), "--report", str(tmp_path / "now.html"))
    gemvane("report", str(tmp_path))
    for name in ("now.html", "report.html"):
        found = checked(tmp_path / name)
        assert {"throughput", "tpot", "ttft", "energy"} <= set(found.charts)
        assert "h100-sxm is the fastest everywhere" in (tmp_path / name).read_text(encoding="utf-8")
    points = {trace["name"]: trace["y"] for trace in found.figures["throughput"]["data"]}
    cells = json.loads((tmp_path / "compare.json").read_text())["cells"]
    assert points["t4"] == [pytest.approx(c["throughput_tok_s"], rel=1e-4) for c in cells if c["hardware"] == "t4"]


def test_changes_of_the_winner_are_marked() -> None:
    cells = [{"model": "m", "prompt": 1, "output": 2, "batch": batch, "hardware": name, "ttft_s": 1.0, "tpot_s": 1.0,
              "throughput_tok_s": speed, "energy_per_token_j": 1.0, "average_power_w": 1.0, "warnings": [],
              "bounds": {"decode": {"pim": 1.0}},
              "time_by_cause_s": {"decode": {"u": {"ideal": 1.0}}}, "scenario": {"phase": "both"},
              "confidence": {"band": [1, 2], "label": "spec-only"}}
             for batch, name, speed in ((1, "a", 2), (1, "b", 1), (4, "a", 2), (4, "b", 3))]
    found = {"models": ["m"], "scenario": {"dtype": "bf16"}, "policies": {}, "cells": cells,
             "winners": [{"model": "m", "prompt": 1, "output": 2, "batch": batch, "fastest": name, "least energy": "a"}
                         for batch, name in ((1, "a"), (4, "b"))],
             "crossovers": [{"of": "fastest", "axis": "batch", "model": "m", "prompt": 1, "output": 2, "batch": 4, "before": "a",
                             "now": "b"}]}
    made = compare.page(found, None, "0.0.1")
    assert made.notices == [f"This comparison was made by gemvane 0.0.1; this page was written by gemvane {gv.__version__}."]
    assert "m: from batch 4 on b is fastest, no longer a." in made.findings
    assert [shape["x0"] for shape in made.charts[0].figure["layout"]["shapes"]] == [4]


def test_the_report_of_a_sweep_shows_the_points_that_no_other_beats(sweep_folder: Path) -> None:
    found = checked(sweep_folder / "report.html")
    scatter = found.figures["front-energy_per_token_j"]["data"]
    assert len(scatter[0]["x"]) == 4 and 1 <= len(scatter[1]["x"]) <= 4
    points = json.loads(found.scripts["points"])
    assert set(points) == {"0", "1", "2", "3"}
    assert ["units.npu.num_arrays", "2"] in points["0"]["facts"] and ["batch", "1"] in points["0"]["facts"]


def test_a_sweep_without_figures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"none of the 1 points has figures; .* too small"):
        sweep.page({}, [{"reason": "too small"}], "")


def test_the_report_of_a_validation_has_a_dot_a_kernel(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"gemm,bf16,{m},4096,4096,{10 * i}" for i, m in enumerate((16, 256, 4096), 3)]
    table.write_text("\n".join(["op,dtype,M,N,K,latency_us", *rows]) + "\n")
    gemvane("validate", "compare", str(table), "--hw", "h100-sxm", "--report", str(tmp_path / "v.html"))
    found = checked(tmp_path / "v.html")
    assert found.figures["scatter"]["data"][-1]["x"] == [30, 40, 50]


@pytest.mark.parametrize(("meta", "complaint"), [
    (None, "has no meta.json"), ("{", "is not what gemvane writes there"), ("{}", "is not what gemvane writes there"),
    ('{"kind": "song"}', "kind is 'song'. Expected one of run, compare, sweep, search."), ('{"kind": "run"}', "has no hardware.yaml"),
    ('{"kind": "compare"}', "compare.json: is missing"), ('{"kind": "sweep"}', "has no table yet")])
def test_a_folder_that_cannot_be_shown_says_why(meta: str | None, complaint: str, tmp_path: Path) -> None:
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta)
    assert complaint in refused("report", str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_a_missing_folder_and_a_bad_place_are_refused(tmp_path: Path) -> None:
    assert "there is no such folder" in refused("report", str(tmp_path / "nowhere"))
    assert "there is no folder" in refused("run", "gpt2", "--hw", "t4", "--report", str(tmp_path / "no" / "a.html"))


def test_without_plotly_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert "reports need plotly and jinja2: pip install 'gemvane[report]'" in refused("report", str(tmp_path))
    assert "gemvane[report]" in refused("run", "gpt2", "--hw", "t4", "--report", str(tmp_path / "a.html"))


def test_a_recorded_model_has_a_report_without_sensitivities() -> None:
    result = gv.run("gpt2", "t4", **SMALL)
    recorded = gv.Result(rerun.replace(result.run, spec=rerun.replace(result.run.spec, family="recorded")))
    made = run_page.page(recorded)
    assert any("was recorded from code" in text for text in made.warnings)
    assert not any(chart.id.startswith("sensitivity") for chart in made.charts)


def test_text_in_a_page_cannot_become_markup() -> None:
    table = page.Table(("a",), [("</script><b>",)])
    chart = page.Chart("c", "t", "s", table, {"data": [{"name": "</script>"}], "layout": {}})
    text = page.html(page.Page("<i>", "", "a<b", [], [], [chart]))
    assert "<h1>&lt;i&gt;</h1>" in text and "<code>a&lt;b</code>" in text
    assert text.count("</script>") == 4
    assert "<b>" not in Parsed(text).scripts["figures"]


def test_a_result_shows_itself_in_a_notebook() -> None:
    text = gv.run("gpt2", "t4", **SMALL)._repr_html_()
    assert "gpt2 on t4" in text and "time per output token" in text and "J/token" in text
    assert text.count("<table>") == text.count("</table>") == 1


def _chromium() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chromium", Path(__file__).with_name("chromium.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chromium"] = module
    spec.loader.exec_module(module)
    return module


def test_pages_open_in_a_browser_and_a_click_shows_a_configuration(run_folder: Path, sweep_folder: Path) -> None:
    chromium = _chromium()
    if not chromium.BINARY.exists():
        pytest.skip(f"needs a browser, and there is no {chromium.BINARY}")
    drawn = ("[...document.querySelectorAll('.chart')].map((c) => c.data.length > 0 && "
             "c.querySelectorAll('.trace, .bars .point').length > 0)")
    with chromium.Browser() as browser:
        for folder in (run_folder, sweep_folder):
            browser.open((folder / "report.html").as_uri())
            assert all(browser.value(drawn)) and browser.value(drawn)
            assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        where = browser.value("""(() => {
            const chart = document.querySelector('.chart');
            chart.scrollIntoView({ block: 'center', behavior: 'instant' });
            const point = chart.querySelectorAll('.scatterlayer .trace')[1].querySelector('.point').getBoundingClientRect();
            return [point.x + point.width / 2, point.y + point.height / 2, String(chart.data[1].customdata[0])];
        })()""")
        browser.click(where[0], where[1])
        browser.value("new Promise((done) => setTimeout(done, 300))")
        shown = browser.value("document.getElementById('chosen').textContent")
        assert shown.startswith(f"Point {where[2]}") and "npu-pim-dual" in shown and "units.npu.num_arrays" in shown
        assert browser.errors == []
        assert all(address.startswith(("file:", "data:")) for address in browser.requests)
