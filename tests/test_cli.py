"""The command line: its JSON, its files, its screens, what it loads."""

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gemvane import __version__
from gemvane.cli import app
from gemvane.commands.scenario import options, prompts, sizes
from gemvane.render import number, parameters

HEAVY = ("numba", "numpy", "pandas", "scipy", "scipy.optimize", "torch", "rich", "yaml")
SMALL = ("gpt2", "--prompt", "16", "--output", "4")


def gemvane(*words: str) -> str:
    """What a command prints on stdout when it succeeds."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.stderr
    return done.stdout


def json_of(*words: str) -> dict[str, Any]:
    """The one object that a command prints with --json, and nothing else."""
    thing = json.loads(gemvane(*words, "--json"))
    assert isinstance(thing, dict)
    return thing


def loaded(*words: str) -> set[str]:
    """Modules in memory at the end of a command, in a process of its own."""
    code = ("import sys\nfrom gemvane.cli import app\ntry: app(sys.argv[1:])\nexcept SystemExit as end: assert not end.code, end.code\n"
            "print('\\n'.join(sys.modules), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("run", "--help"), ("--version",)])
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    assert not loaded(*words) & set(HEAVY)


def test_a_run_loads_neither_pandas_nor_fits_nor_torch() -> None:
    """Where scipy is installed, numba itself loads its linear algebra; nothing of ours asks for scipy."""
    assert not loaded("run", *SMALL, "--hw", "neupims", "--batch", "4") & {"pandas", "scipy.optimize", "torch"}


def test_version() -> None:
    assert gemvane("--version") == f"gemvane {__version__}\n"


def test_a_group_without_a_command_shows_its_help() -> None:
    assert gemvane() == gemvane("--help")
    assert gemvane("hw") == gemvane("hw", "--help")


def test_every_command_has_a_help() -> None:
    for command in ("run", "compare", "sweep", "search", "trace", "doctor", "models list", "models show", "hw list", "hw show", "hw check",
                    "hw schema",
                    "hw diff", "hw new"):
        assert gemvane(*command.split(), "--help").startswith(f"Usage: gemvane {command}")


def test_the_json_of_a_run_has_what_design_promises() -> None:
    result = json_of("run", *SMALL, "--hw", "neupims", "--batch", "4")
    assert result["schema"] == "gemvane.result/1"
    assert {"model", "hardware", "scenario", "ttft_s", "tpot_s", "latency_s", "throughput_tok_s", "energy_j", "energy_per_token_j",
            "energy_by_component_j", "average_power_w", "memory", "utilisation", "ops", "confidence", "warnings"} <= result.keys()
    assert {"weights_bytes", "kv_cache_bytes", "capacity_bytes"} <= result["memory"].keys()
    assert {"name", "kind", "phase", "unit", "count", "time_s", "energy_j", "bound"} <= result["ops"][0].keys()
    assert {"label", "band"} <= result["confidence"].keys()
    assert result["tpot_s"] == pytest.approx((result["latency_s"] - result["ttft_s"]) / (4 - 1))


def test_two_runs_print_the_same_bytes() -> None:
    words = ("run", *SMALL, "--hw", "neupims", "--json")
    assert gemvane(*words) == gemvane(*words)


def test_options_reach_the_scenario() -> None:
    words = ("--batch", "2", "--dtype", "fp16", "--kv-dtype", "fp8", "--weight-dtype", "int8", "--phase", "prefill", "--tp", "2",
             "--pp", "2", "--routing", "zipf", "--full-square", "--all-logits")
    scenario = json_of("run", *SMALL, "--hw", "h100-sxm", *words)["scenario"]
    expected = {"batch": 2, "prompt": 16, "output": 4, "dtype": "fp16", "kv_dtype": "fp8", "weight_dtype": "int8", "phase": "prefill",
                "tp": 2, "pp": 2, "routing": "zipf", "full_square": True, "all_logits": True}
    assert expected.items() <= scenario.items()


def test_a_list_of_prompts_is_a_ragged_batch() -> None:
    scenario = json_of("run", "gpt2", "--hw", "t4", "--prompt", "100,20,5", "--output", "2")["scenario"]
    assert (scenario["batch"], scenario["prompt"]) == (3, [100, 20, 5])


def test_the_screen_of_a_run_names_inputs_bounds_and_uncertainty() -> None:
    lines = gemvane("run", "llama3-8b", "--hw", "h100-sxm").splitlines()
    assert lines[0].startswith("model     llama3-8b: 8.03 B parameters, 32 layers, GQA 32/8, bf16")
    assert lines[1].startswith("hardware  h100-sxm (built in)")
    assert "numbers: " in lines[2] and "measured or from data sheets" in lines[2]
    assert lines[3] == "scenario  batch 1, prompt 512 tokens, output 128 tokens"
    text = "\n".join(lines)
    for word in ("prefill (TTFT)", "decode  (TPOT)", "ms/token", "memory 8", "tokens/s", "/token", " W on average", "of 80.0 GB", " .. +"):
        assert word in text, word
    assert "in 127 steps" in text


def test_verbose_adds_operators_policies_and_its_own_time() -> None:
    text = gemvane("run", *SMALL, "--hw", "neupims", "-v")
    assert gemvane("run", *SMALL, "--hw", "neupims", "--ops") in text
    assert "policies  sub_batches=auto" in text and "gemvane's own time for " in text


def test_an_encoder_has_one_phase_and_says_so() -> None:
    text = gemvane("run", "bert-base", "--hw", "t4")
    assert "encode" in text and "TPOT" not in text and "output" not in text
    assert "warning: t4 cannot multiply in bf16" in text


@pytest.mark.parametrize("words", [("run", "vit-b16", "--hw", "rtx4090"), ("run", "mixtral-8x7b", "--hw", "tpu-v5p", "--tp", "2"),
                                   ("run", "deepseek-v3", "--hw", "b200", "--tp", "8", "--dtype", "fp8"),
                                   ("run", "gpt2", "--hw", "npu-pim-blocked", "--phase", "decode"),
                                   ("compare", "gpt2", "--hw", "t4,neupims", "--batch", "1..4"), ("models", "list"), ("hw", "list"),
                                   ("hw", "show", "attacc"), ("trace", "gpt2", "--output", "2")])
def test_screens_are_plain_text_of_at_most_120_columns(words: tuple[str, ...]) -> None:
    text = gemvane(*words)
    assert "\x1b" not in text and "\ue000" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert not any(line.strip().startswith(("%", "GB", "ms ", "J,")) for line in text.splitlines())


def test_out_holds_the_results_and_nothing_half_written(tmp_path: Path) -> None:
    text = gemvane("run", *SMALL, "--hw", "t4", "--out", str(tmp_path / "a" / "b"))
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [
        "hardware.yaml", "meta.json", "ops.csv", "result.json", "trace.json.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert "".join(text.split()).endswith("/a/b/{result.json,ops.csv,trace.json.gz,hardware.yaml,meta.json}")
    assert (tmp_path / "a" / "b" / "result.json").read_text() == gemvane("run", *SMALL, "--hw", "t4", "--json")


def test_compare_marks_winners_and_where_they_change(tmp_path: Path) -> None:
    words = ("compare", "llama2-7b", "--hw", "t4,l4,a100-80g", "--batch", "1,8", "--prompt", "128", "--output", "8")
    text = gemvane(*words, "--out", str(tmp_path))
    blocks = text.split("\n\n")
    assert any("a100-80g" in line and "fastest" in line for line in text.splitlines())
    assert "fastest: a100-80g at every batch size" in text
    assert "TTFT" in blocks[1] and "tokens/s" in blocks[1] and "J/token" in blocks[1]
    thing = json.loads((tmp_path / "compare.json").read_text())
    assert thing == json_of(*words)
    assert thing["schema"] == "gemvane.compare/2"
    assert [(won["batch"], won["fastest"]) for won in thing["winners"]] == [(1, "a100-80g"), (8, "a100-80g")]
    assert [turn for turn in thing["crossovers"] if turn["of"] == "fastest"] == []
    assert [(cell["batch"], cell["hardware"]) for cell in thing["cells"]][:4] == [(1, "t4"), (1, "l4"), (1, "a100-80g"), (8, "t4")]
    assert all("ops" not in cell for cell in thing["cells"])
    with (tmp_path / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert float(rows[2]["throughput_tok_s"]) == thing["cells"][2]["throughput_tok_s"]


def test_what_does_not_fit_is_a_row_with_its_reason() -> None:
    words = ("compare", "llama3-8b", "--hw", "t4,l4", "--output", "4")
    row = next(line for line in gemvane(*words).splitlines() if line.split()[:2] == ["1", "t4"])
    assert row.endswith("need 16.1 GB, has 16.0 GB")
    cell = json_of(*words)["cells"][0]
    assert cell.keys() == {"model", "prompt", "output", "batch", "hardware", "reason"}
    assert "llama3-8b needs 16.1 GB of weights" in cell["reason"]


def test_a_change_of_winner_is_told(tmp_path: Path) -> None:
    slow = "extends: h100-sxm\nschema_version: 1\nname: big-batch\nmemory: {bandwidth: 2 TB/s, pin_rate: 3.125 Gb/s}\n"
    fast = "units: {gpu: {tensor_macs_per_sm: {bf16: 8192}, tensor_peak: {bf16: 3957 TFLOP/s}, l2_bandwidth: 99 TB/s}}\n"
    (tmp_path / "big.yaml").write_text(slow + fast)
    words = ("compare", "llama3-8b", "--hw", f"h100-sxm,{tmp_path / 'big.yaml'}", "--batch", "1..64", "--output", "8", "--prompt", "128")
    changes = [turn for turn in json_of(*words)["crossovers"] if turn["of"] == "fastest"]
    assert [(change["before"], change["now"]) for change in changes] == [("h100-sxm", "big-batch")]
    assert f"fastest: h100-sxm; from batch {changes[0]['batch']} on: big-batch instead of h100-sxm" in gemvane(*words)


@pytest.mark.parametrize(("text", "numbers"), [
    ("64", [64]), ("8,1,64", [1, 8, 64]), ("1..8", [1, 2, 4, 8]), ("1..100", [1, 2, 4, 8, 16, 32, 64, 100]), ("3..9,64", [3, 4, 8, 9, 64]),
    ("5..5", [5]),
])
def test_lists_and_ranges(text: str, numbers: list[int]) -> None:
    assert sizes("--batch", text) == prompts(text) == numbers


def test_prompts() -> None:
    assert options(None, "512") == {"prompt": 512}
    assert options(None, "5,7") == {"batch": 2, "prompt": (5, 7)}
    assert options(3, "5,7") == {"batch": 3, "prompt": (5, 7)}


def test_the_trace_of_llama2_counts_as_papers_do(tmp_path: Path) -> None:
    words = ("trace", "llama2-7b", "--prompt", "2048", "--phase", "prefill", "--full-square", "--all-logits")
    by = {row["kind"]: row["flops"] for row in json_of(*words)["by"]}
    assert (round(by["gemm"] / 1e12, 4), round(by["attention_prefill"] / 1e12, 4)) == (27.0626, 2.1990)
    assert "27.0626" in gemvane(*words)


def test_a_trace_is_written_and_read_again(tmp_path: Path) -> None:
    from gemvane.workloads import trace

    for name in ("t.csv", "t.parquet"):
        thing = json_of("trace", *SMALL, "-o", str(tmp_path / name))
        assert trace.load(tmp_path / name).size == thing["rows"]
        assert thing["path"] == str(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]


def test_models() -> None:
    shown = json_of("models", "show", "llama3-8b")
    assert (shown["parameters"], shown["active_parameters"], shown["layers"]) == (8_030_261_248, 8_030_261_248, 32)
    assert (shown["weights_bytes"], shown["kv_bytes_per_token"]) == (2 * 8_030_261_248, 2 * 32 * 8 * 128 * 2)
    assert json_of("models", "show", "llama3-8b", "--dtype", "fp8")["weights_bytes"] == 8_030_261_248
    assert len(json_of("models", "list")["models"]) >= 30
    assert "8.03 B (8,030,261,248)" in gemvane("models", "show", "llama3-8b")


def test_every_model_and_hardware_can_be_shown() -> None:
    for row in json_of("models", "list")["models"]:
        assert row["name"] in gemvane("models", "show", row["name"])
    for row in json_of("hw", "list")["hardware"]:
        numbers = json_of("hw", "show", row["name"])["numbers"]
        assert all(number["source"] for number in numbers.values()), row["name"]
        assert gemvane("hw", "check", row["name"]).startswith(f"ok: {sum(not k.startswith('energy') for k in numbers)}"[:4])


def test_hw_diff_tells_values_that_differ_and_not_spellings(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("extends: h100-sxm\nschema_version: 1\nname: x\nmemory: {capacity: 96 GB, bandwidth: 3350 GB/s}\n")
    fields = json_of("hw", "diff", "h100-sxm", str(tmp_path / "x.yaml"))["fields"]
    assert fields == {"memory.capacity": {"a": "80 GB", "b": "96 GB"}}
    assert gemvane("hw", "diff", "h100-sxm", "h100-sxm") == "h100-sxm and h100-sxm have the same numbers\n"


@pytest.mark.parametrize("base", ["h100-sxm", "neupims", "tpu-v5e", "cpu-server"])
def test_a_new_hardware_file_is_in_order_and_runs(base: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    gemvane("hw", "new", "mine", "--from", base, "-o", str(file))
    assert gemvane("hw", "check", str(file)).startswith("ok: ")
    again = tmp_path / "deeper" / "again.yaml"
    again.parent.mkdir()
    gemvane("hw", "new", "again", "--from", str(file), "-o", str(again))
    assert json_of("run", *SMALL, "--hw", str(again))["hardware"] == "again"
    assert json_of("hw", "diff", base, str(again))["fields"] == {}


def test_the_schema_knows_every_key_of_a_file() -> None:
    schema = json.loads(gemvane("hw", "schema"))
    assert "memory" in schema["else"]["required"]
    assert schema["then"]["required"] == ["extends"]
    assert "extends" in schema["then"]["properties"] and "extends" in schema["else"]["properties"]
    refs = set(find(schema, "$ref"))
    assert refs and all(ref.removeprefix("#/$defs/") in schema["$defs"] for ref in refs)
    capacity = schema["$defs"]["Memory"]["properties"]["capacity"]["anyOf"]
    assert capacity[0]["type"] == "string" and capacity[1]["required"] == ["value"]
    assert "required" not in schema["$defs"]["PartMemory"]


def find(node: Any, key: str) -> list[Any]:
    """All values of a key, at any depth."""
    inside = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return ([node[key]] if isinstance(node, dict) and key in node else []) + [hit for child in inside for hit in find(child, key)]


def test_doctor_reports_versions() -> None:
    report = json_of("doctor", "--warm")
    assert report["gemvane"] == __version__ and report["packages"]["numpy"]
    assert report["warm_run_s"] > 0
    assert {"timeline", "dram", "pimissue"} <= report["kernels_s"].keys() and report["numba_cache"]["bytes"] > 0
    text = gemvane("doctor")
    assert "kernel cache" in text and "[record]" in text and "kernels_s" not in json_of("doctor")


@pytest.mark.parametrize(("value", "text"), [
    (1749.7, "1,750"), (0.05527, "0.0553"), (99.96, "100"), (161370.0, "161,000"), (0, "0"), (9.999, "10.0"),
])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_parameters_are_told_as_people_do() -> None:
    assert (parameters(8_030_261_248), parameters(124_439_808), parameters(999_885_952)) == ("8.03 B", "124 M", "1.00 B")


def in_terminal(*words: str, **env: str) -> str:
    """What a command prints on a terminal."""
    mine, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-m", "gemvane", *words], stdout=theirs, stderr=theirs, stdin=theirs, close_fds=True,
                             env={**os.environ, "TERM": "xterm-256color", **env})
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(mine, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    assert child.wait() == 0
    os.close(mine)
    return b"".join(parts).decode()


def test_a_terminal_gets_colour_unless_no_color_is_set() -> None:
    words = ("compare", *SMALL, "--hw", "t4,l4", "--batch", "1,2")
    assert "\x1b[" in in_terminal(*words)
    plain = in_terminal(*words, NO_COLOR="1")
    assert "\x1b[3" not in plain and "fastest" in plain


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m gemvane hw schema | head -1"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")
