"""Why an operator takes its time: its bound, the next one, and what would have to change, all from simulations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.commands.explain import sentences
from gemvane.sim.explain import explain, find, operators
from gemvane.sim.sensitivity import middle, operator_s

SMALL = {"batch": 4, "prompt": 64, "output": 8}
WORDS = ("--batch", "4", "--prompt", "64", "--output", "8")


def gemvane(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["explain", *words])
    assert done.exit_code == status, done.output
    return done.output


def test_a_memory_bound_operator_is_told_so_with_its_next_bound() -> None:
    run = gv.run("llama3-8b", "h100-sxm", **SMALL).run
    found = explain(run, "decode", "gate_up")
    assert (found.unit, found.count, found.bound) == ("gpu", 32, "memory")
    assert found.flops == 2 * 4 * 4096 * 28672 * 32
    weights = 2 * 4096 * 28672 * 32
    assert weights < found.dram_bytes < 1.01 * weights
    assert found.pins_s == found.dram_bytes / run.hardware.spec.memory.bandwidth
    assert found.seconds == pytest.approx(operator_s(middle(run).phases["decode"], "gate_up"), rel=1e-9)
    assert sum(found.causes_s.values()) == pytest.approx(found.seconds, rel=1e-3)
    assert found.moved.ranked("operator_s")[0].key in ("memory.bandwidth", "memory.sustained")
    assert all(one.seconds < found.seconds for one in found.better)
    assert [one.bound == "memory" for one in found.better[:-1]] == [True] * (len(found.better) - 1)


def test_a_compute_bound_operator_hangs_on_its_arrays() -> None:
    found = explain(gv.run("gpt2", "tpu-v5p", batch=8, prompt=512, output=2).run, "prefill", "up")
    assert found.bound == "compute"
    assert found.moved.ranked("operator_s")[0].key in ("units.mxu.num_arrays", "units.mxu.clock")
    assert found.peak_s is not None and found.peak_s <= found.seconds


def test_pim_hangs_on_its_part() -> None:
    found = explain(gv.run("gpt2", "npu-pim-dual", **SMALL).run, "decode", "attention_score")
    assert (found.unit, found.part, found.peak_s) == ("pim", "hbm2-neupims", None)
    if not found.better:
        assert "hangs on the timings of the memory part hbm2-neupims" in sentences(found)[-1]


def test_an_operator_is_found_by_its_name_its_phase_or_its_time() -> None:
    run = gv.run("gpt2", "t4", **SMALL).run
    known = operators(run)
    longest = max((operator_s(run.phases[p], names[0]), p, names[0]) for p, names in known.items())
    assert find(run, None) == longest[1:]
    assert find(run, "prefill:norm") == ("prefill", "norm")
    times = {phase: operator_s(run.phases[phase], "norm") for phase in run.phases}
    assert find(run, "norm") == (max(times, key=lambda phase: times[phase]), "norm")


@pytest.mark.parametrize(("wish", "complaint"), [("sing", "operator 'sing' is not there. Expected one of "),
                                                 ("training:norm", "there is no phase 'training'. Expected one of prefill, decode.")])
def test_an_operator_that_is_not_there_is_refused(wish: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        find(gv.run("gpt2", "t4", **SMALL).run, wish)


def test_the_command_tells_a_folder_as_it_tells_its_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "gpt2", "--hw", "t4", *WORDS, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    told = gemvane(str(tmp_path), "decode:norm")
    assert told == gemvane("gpt2", "decode:norm", "--hw", "t4", *WORDS)
    assert "x norm on gpu" in told and "bound by" in told and "10 % less" in told
    found = json.loads(gemvane(str(tmp_path), "decode:norm", "--json"))
    assert found["name"] == "norm" and found["sensitivity"][0]["more_changes_by"] is not None


@pytest.mark.parametrize(("words", "complaint"), [(("gpt2",), "gpt2: is no folder of results. A model needs --hw"),
                                                  (("gpt2", "--hw", "nothing"), "unknown hardware 'nothing'")])
def test_what_cannot_be_explained_is_refused(words: tuple[str, ...], complaint: str) -> None:
    assert complaint in gemvane(*words, status=2)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    assert "has no hardware.yaml" in gemvane(str(tmp_path), status=2)
