"""What is wrong gets one clear sentence, exit status 2, no traceback, and leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gemvane import api
from gemvane.cli import app
from gemvane.sim.result import Result

HEAD = "extends: {base}\nschema_version: 1\nname: x\n"


def refused(*words: str) -> str:
    """The one line on stderr of a command that ends with status 2 and prints nothing."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("base", "line", "message"), [
    ("h100-sxm", "memory: {bandwidth: 3.35 GHz}",
     "x.yaml:4: memory.bandwidth: '3.35 GHz' has the wrong unit 'GHz'. Expected a bandwidth, e.g. '3.35 TB/s'."),
    ("h100-sxm", "memory: {bandwidth: 3.35}", "x.yaml:4: memory.bandwidth: 3.35 has no unit. Expected a bandwidth, e.g. '3.35 TB/s'."),
    ("h100-sxm", "memory: {bandwidth: '3.35'}", "x.yaml:4: memory.bandwidth: '3.35' has no unit. Expected a bandwidth, e.g. '3.35 TB/s'."),
    ("h100-sxm", "memory: {bandwith: 3.35 TB/s}", "x.yaml:4: memory.bandwith: unknown field 'bandwith' (did you mean 'bandwidth'?)."),
    ("h100-sxm", "memory: {capacity: -80 GB}", "x.yaml:4: memory.capacity: '-80 GB' is negative. Expected a size, e.g. '80 GB'."),
    ("h100-sxm", "memory: {capacity: 0 GB}", "x.yaml:4: memory.capacity: '0 GB' is zero. Expected a size above zero, e.g. '80 GB'."),
    ("h100-sxm", "units: {gpu: {num_sms: -3}}", "x.yaml:4: units.gpu.num_sms: -3 is not positive. Expected a whole number above zero."),
    ("tpu-v5e", "units: {mxu: {rows: 100}}", "x.yaml:4: units.mxu.rows: 100 is not a power of two"),
    ("h100-sxm", "units: {gpu: {tensor_peak: {bf16: 900 TFLOP/s}}}", "tensor_peak.bf16 is 900.0 T"),
    ("h100-sxm", "units: {gpu: {tensor_peak: {bf16: 900 TFLOP/s}}}", "but 2 x MACs x clock is 989.4 T"),
    ("h100-sxm", "memory: {pins: 1024}", "memory.bandwidth is 3.35 TB/s but pins x pin_rate is 669 GB/s"),
    ("h100-sxm", "mapping: {matmul: npu}", "names unit 'npu'; units are gpu, link"),
    ("h100-sxm", "name: y", "x.yaml:4: key 'name' stands here a second time."),
    ("h100-sxm", "memory: {capacity: {value: 80 GB, sauce: me}}", "x.yaml:4: memory.capacity: unknown field 'sauce'."),
])
def test_a_hardware_file_that_is_wrong(base: str, line: str, message: str, here: Path) -> None:
    Path("x.yaml").write_text(HEAD.format(base=base) + line + "\n")
    assert message in refused("run", "gpt2", "--hw", "x.yaml", "--out", "results")
    assert message in refused("hw", "check", "x.yaml")
    assert [path.name for path in here.iterdir()] == ["x.yaml"]


@pytest.mark.parametrize(("lines", "message"), [
    ("units:\n  pim:\n    part: hbm2-neupim", "x.yaml:6: units.pim.part: unknown memory part 'hbm2-neupim' (did you mean 'hbm2-neupims'?)"),
    ("units:\n  pim:\n    part: hbm2-2000-4gb", "x.yaml:6: units.pim.part is 'hbm2-2000-4gb', a memory part without PIM commands."),
    ("units:\n  pim:\n    part: part.yaml", "part.yaml:4: timings.nRCDRD: '14 ns' is not a count of clocks."),
    ("units:\n  pim:\n    timings: {nFAV: 20}", "x.yaml:6: units.pim.timings.nFAV is 20, but memory part hbm2-neupims has only nBL"),
    ("units:\n  pim:\n    timings: {nRFC: 3880}", "REFab comes every 3900 ticks, but from one to the next, with a row opened and closed"),
    ("units:\n  pim:\n    timings: {nRFC: 1950}", "2 refreshes of 1950 ticks come every 3900 ticks, so that some banks are refreshed"),
    ("units:\n  pim:\n    level: buffer", "x.yaml:6: units.pim.level is 'buffer', but the units of memory part hbm2-neupims are at"),
    ("units:\n  pim:\n    part: rule.yaml", "x.yaml:6: units.pim.part: rule.yaml:5: constraints.0.prev: no command 'ACTX'"),
    ("memory: {part: hbm9}", "x.yaml:4: memory.part: unknown memory part 'hbm9'"),
    ("units:\n  pim:\n    channels: 24", "x.yaml:6: units.pim.channels is 24, into which the memory's 4096 pins do not divide"),
    ("mapping: {ffn: vector}", "x.yaml:4: mapping.ffn names unit 'vector', a vector, which runs only vector, move, attention_decode"),
])
def test_a_pim_that_its_part_cannot_be(lines: str, message: str, here: Path) -> None:
    Path("x.yaml").write_text(HEAD.format(base="neupims") + lines + "\n")
    Path("rule.yaml").write_text("extends: hbm2-neupims\nschema_version: 1\nname: z\n"
                                 "constraints:\n  - {level: bank, prev: [ACTX], next: [RD], latency: nRP}\n")
    Path("part.yaml").write_text("extends: hbm2-neupims\nschema_version: 1\nname: y\ntimings: {nRCDRD: 14 ns}\n")
    assert message in refused("hw", "check", "x.yaml")
    assert message in refused("run", "gpt2", "--hw", "x.yaml")


@pytest.mark.parametrize(("texts", "message"), [
    ({"x": "- a\n- b\n"}, "x.yaml: is a list. Expected a mapping of keys to values."),
    ({"x": "just words\n"}, "x.yaml: is plain text. Expected a mapping of keys to values."),
    ({"x": ""}, "x.yaml: is empty. Expected a mapping of keys to values."),
    ({"x": "a: [1\n"}, "x.yaml:2: is not YAML"),
    ({"x": "extends: x.yaml\n"}, "x.yaml:1: extends: 'x.yaml' extends itself (x -> x). Expected a chain that ends."),
    ({"x": "extends: y.yaml\n", "y": "extends: x.yaml\n"}, "'x.yaml' extends itself (x -> y -> x). Expected a chain that ends."),
    ({"x": "extends: nothing\n"}, "unknown hardware 'nothing'"),
])
def test_a_file_that_is_no_hardware(texts: dict[str, str], message: str, here: Path) -> None:
    for name, text in texts.items():
        (here / f"{name}.yaml").write_text(text)
    assert message in refused("run", "gpt2", "--hw", "x.yaml")


def test_check_lists_every_problem(here: Path) -> None:
    Path("x.yaml").write_text(HEAD.format(base="h100-sxm") + "memory: {bandwidth: 3.35, capacity: 80}\nunits: {gpu: {num_sm: 3}}\n")
    done = CliRunner().invoke(app, ["hw", "check", "x.yaml"])
    assert (done.exit_code, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: x.yaml:") for line in lines)
    assert any("num_sm' (did you mean 'num_sms'?)" in line for line in lines)
    report = json.loads(CliRunner().invoke(app, ["hw", "check", "x.yaml", "--json"]).stdout)
    assert report["ok"] is False and [f"error: {problem}" for problem in report["problems"]] == lines
    assert "(2 more like this: `gemvane hw check` lists them)" in refused("run", "gpt2", "--hw", "x.yaml")


@pytest.mark.parametrize(("words", "message"), [
    ("run llama3-8 --hw t4", "unknown model 'llama3-8': nearest are llama3-8b"),
    ("run gpt2 --hw h100", "unknown hardware 'h100': nearest are"),
    ("run gpt2 --hw h100", "h100-sxm"),
    ("compare gpt2 --hw t4,h100", "unknown hardware 'h100': nearest are"),
    ("run gpt2 --hw t4 --batch 0", "batch is 0. Expected a whole number of at least 1."),
    ("run gpt2 --hw t4 --batch -1", "batch is -1. Expected a whole number of at least 1."),
    ("run gpt2 --hw t4 --output 0", "output is 0. Expected a whole number of at least 1."),
    ("run gpt2 --hw t4 --prompt 0", "prompt is 0. Expected a length of at least 1 token."),
    ("run gpt2 --hw t4 --prompt 5,x", "--prompt 5,x: 'x' is not a whole number. Expected 512 or 100,2000,512."),
    ("run gpt2 --hw t4 --prompt 5,6 --batch 3", "prompt has 2 lengths but batch is 3."),
    ("run llama3-8b --hw h100-sxm --tp 3", "--tp 3: llama3-8b has 32 attention heads, which 3 devices cannot share evenly."),
    ("compare llama3-8b --hw h100-sxm,h200 --tp 3", "--tp 3: llama3-8b has 32 attention heads, which 3 devices cannot share evenly."),
    ("run gpt2 --hw t4 --pp 99", "--pp 99: gpt2 has 12 layers."),
    ("run gpt2 --hw t4 --dtype bf61", "dtype is 'bf61'. Expected one of fp32, tf32, bf16"),
    ("models show gpt2 --dtype bf61", "--dtype bf61: no such number type. Expected one of fp32, tf32, bf16"),
    ("run gpt2 --hw t4 --phase x", "phase is 'x'. Expected one of prefill, decode, both."),
    ("run gpt2 --hw t4 --routing x", "routing is 'x'. Expected one of uniform, balanced, zipf."),
    ("run bert-base --hw t4 --phase decode", "bert-base is an encoder and has no decode phase. Use --phase prefill."),
    ("run gpt2 --hw t4,l4", "`gemvane run` takes one hardware. Several are for `gemvane compare`."),
    ("compare gpt2 --hw t4 --batch 8..2", "--batch 8..2: 8..2 runs backwards."),
    ("compare gpt2 --hw t4 --batch 1..x", "--batch 1..x: 'x' is not a whole number. Expected 64, 1,8,64 or 1..512."),
    ("compare gpt2 --hw t4 --batch 1..", "'' is not a whole number."),
    ("compare gpt2 --hw t4 --batch 1...8", "'.8' is not a whole number."),
    ("compare gpt2 --hw t4 --batch 0..4", "--batch 0..4: a batch has at least 1 request."),
    ("compare gpt2 --hw t4,t4", "hardware 't4' is named 2 times."),
    ("compare gpt2 --hw t4,,l4", "--hw 't4,,l4': a name is missing."),
    ("trace gpt2 -o x.txt", "-o x.txt: a trace is written as .parquet, .csv, .et, not '.txt'."),
    ("trace gpt2 -o x", "a trace is written as .parquet, .csv, .et, not 'without a suffix'."),
    ("trace gpt2 -o nowhere/x.csv", "-o nowhere/x.csv: there is no folder nowhere."),
    ("models show gpt5", "unknown model 'gpt5': nearest are gpt2"),
    ("run nothing.json --hw t4", "model 'nothing.json': no such file"),
    ("hw new Big --from t4", "'Big' is no name for hardware."),
    ("hw new t4 --from t4", "'t4' is the name of a bundled hardware."),
    ("run gpt2", "missing option '--hw'"),
    ("run --hw t4", "missing argument 'MODEL'. `gemvane run --help` shows what there is."),
    ("run gpt2 --hw t4 --bacht 2", "no such option: --bacht"),
    ("run gpt2 --hw t4 --batch many", "invalid value for '--batch'"),
    ("rnu gpt2", "no such command 'rnu'"),
    ("hw lisst", "no such command 'lisst'"),
    ("run gpt2 --hw neupims --batch 2 --policy sub_batches=3", "schedule.sub_batches is 3 but the batch has 2 requests."),
    ("run gpt2 --hw neupims --policy ffn=vector", "mapping.ffn names unit 'vector', a vector, which runs only"),
    ("run gpt2 --hw neupims --policy ffn", "--policy ffn: expected NAME=VALUE, e.g. sub_batches=2."),
    ("run gpt2 --hw neupims --policy buffers=dual", "no policy 'buffers'"),
    ("run gpt2 --hw h100-sxm --policy row_buffers=dual", "h100-sxm has no PIM unit, which policy row_buffers is of."),
    ("run gpt2 --hw neupims --policy channels=best", "units.pim.placement: 'best' is not known here."),
    ("run gpt3-7b --hw neupims --batch 40 --prompt 1000 --output 2", "or --batch 32 or less"),
    ("run gpt3-7b --hw npu-hbm2 --batch 200 --prompt 1000 --output 2", "or --batch 35 or less"),
    ("run gpt3-7b --hw neupims --prompt 2040", "each of its 32 PIM channels only 584 MB, and the fullest would get 1."),
    ("run gpt2 --hw attacc --kv-dtype int4", "the PIM unit's operands have no int4, the type of the cache."),
])
def test_words_that_are_wrong(words: str, message: str, here: Path) -> None:
    assert message in refused(*words.split())
    assert not list(here.iterdir())


@pytest.mark.parametrize(("text", "message"), [
    ('{"model_type": "llama"', "config.json: line 1, column 23: not JSON"),
    ("[1]", "config.json: holds a JSON list: want a mapping"),
    ('{"model_type": "llama", "hidden_size": 64}', "config.json: key 'num_hidden_layers' is missing (family llama needs hidden_size"),
    ('{"model_type": "mamba9", "hidden_size": 64}', "model_type 'mamba9' is not a known architecture"),
    ('{"hidden_size": 64}', "config.json"),
])
def test_a_config_that_is_wrong(text: str, message: str, here: Path) -> None:
    Path("config.json").write_text(text)
    assert message in refused("run", "config.json", "--hw", "t4")
    assert message in refused("models", "show", str(here))


def test_a_model_that_does_not_fit_says_what_is_needed_what_there_is_and_two_ways_out() -> None:
    message = refused("run", "llama3-70b", "--hw", "h100-sxm")
    for part in ("141 GB of weights", "MB of KV cache", "h100-sxm has 80.0 GB", "--tp 2", "--dtype fp8"):
        assert part in message, part


def test_comparing_what_fits_nowhere_gives_every_reason() -> None:
    done = CliRunner().invoke(app, ["compare", "llama3-70b", "--hw", "t4,l4"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nothing fits.\n")
    assert "t4 has 16.0 GB" in done.stderr and "l4 has 24.0 GB" in done.stderr


def test_a_prompt_over_the_positions_is_a_warning() -> None:
    words = ["run", "gpt2", "--hw", "t4", "--prompt", "2000", "--output", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert "warning: gpt2 was made for 1024 positions; this run reaches 2001." in done.stdout
    done = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(done.stdout)["warnings"] == ["gpt2 was made for 1024 positions; this run reaches 2001.",
                                                   *json.loads(done.stdout)["warnings"][1:]]


@pytest.mark.parametrize("words", ["run gpt2 --hw t4 --out there", "compare gpt2 --hw t4 --out there",
                                   "run gpt2 --hw t4 --out there/below"])
def test_out_that_is_a_file_is_left_alone(words: str, here: Path) -> None:
    Path("there").write_text("mine")
    assert "there is a file. Expected a folder" in refused(*words.split())
    assert Path("there").read_text() == "mine"


def test_a_new_hardware_file_never_replaces_one(here: Path) -> None:
    Path("mine.yaml").write_text("mine")
    assert "mine.yaml is there already and is not overwritten." in refused("hw", "new", "mine", "--from", "t4")
    assert Path("mine.yaml").read_text() == "mine"


def test_a_disk_that_fills_leaves_nothing_behind(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(result: Result, folder: Path) -> list[Path]:
        (folder / "result.json").write_text("{")
        raise OSError(28, "No space left on device", "result.json")

    monkeypatch.setattr(Result, "save", full)
    assert refused("run", "gpt2", "--hw", "t4", "--out", "deep/er") == "result.json: No space left on device."
    assert not list(here.iterdir())


def test_a_fault_of_ours_is_told_in_one_sentence_and_shown_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Result:
        raise KeyError("lost")

    monkeypatch.setattr(api, "run", broken)
    done = CliRunner().invoke(app, ["run", "gpt2", "--hw", "t4"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: this is a fault in gemvane, not in your input (KeyError: 'lost'). With --debug it shows where.\n"
    for words, env in ((["run", "gpt2", "--hw", "t4", "--debug"], {}), (["run", "gpt2", "--hw", "t4"], {"GEMVANE_DEBUG": "1"})):
        shown = CliRunner().invoke(app, words, env=env).stderr
        assert "Traceback" in shown and "broken" in shown and shown.splitlines()[-1] == done.stderr.rstrip("\n")


def test_the_program_itself_ends_with_status_2() -> None:
    done = subprocess.run([sys.executable, "-m", "gemvane", "run", "gpt2", "--hw", "nothing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown hardware 'nothing'") and "Traceback" not in done.stderr
