"""Comparing models on machines over batch sizes and lengths."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane import comparison
from gemvane.cli import app
from gemvane.comparison import Cell, Point, told
from gemvane.render_compare import _where
from gemvane.sim.hardware import load
from gemvane.workloads import catalog

SMALL = ("--prompt", "16", "--output", "2")


class Speed:
    """Stands for a result that makes so many tokens a second."""

    def __init__(self, speed: float) -> None:
        self.throughput_tok_s = speed
        self.energy_per_token_j = speed


def cells(table: dict[tuple[Any, ...], dict[str, float | None]]) -> list[Cell]:
    """Cells from {(model, prompt, output, batch): {hardware: speed}}."""
    return [Cell(Point(*point), name, None if speed is None else Speed(speed)) for point, speeds in table.items()  # type: ignore[arg-type]
            for name, speed in speeds.items()]


def gemvane(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.stderr
    return done.stdout


def json_of(*words: str) -> Any:
    return json.loads(gemvane(*words, "--json"))


def test_every_combination_is_a_cell_model_by_model() -> None:
    specs = [catalog.load("gpt2"), catalog.load("bert-base")]
    found = list(comparison.cells(specs, [load("t4"), load("l4")], batch=[1, 2], prompt=[8, 16], output=[2]))
    assert len(found) == 2 * 2 * 2 * 2
    assert [cell.point for cell in found[:8:2]] == [("gpt2", 8, 2, 1), ("gpt2", 8, 2, 2), ("gpt2", 16, 2, 1), ("gpt2", 16, 2, 2)]
    assert [cell.hardware for cell in found[:2]] == ["t4", "l4"]
    assert all(cell.result is not None and cell.result.run.spec.name == cell.point.model for cell in found)


def test_the_winner_changes_along_the_batch() -> None:
    found = cells({("m", 512, 128, 1): {"a": 9, "b": 5}, ("m", 512, 128, 8): {"a": 10, "b": 20}, ("m", 512, 128, 64): {"a": 99, "b": 30}})
    assert comparison.axis(found) == "batch"
    assert [(c.point.batch, c.before, c.now) for c in comparison.crossovers(found)] == [(8, "a", "b"), (64, "b", "a")]
    assert [(c.point.batch, c.now) for c in comparison.crossovers(found, comparison.thrift)] == [(8, "a"), (64, "b")]


def test_along_the_prompt_where_the_batch_does_not_vary_and_apart_for_each_model() -> None:
    found = cells({("m", 512, 1, 4): {"a": 1, "b": 2}, ("m", 64, 1, 4): {"a": 2, "b": 1},
                   ("n", 512, 1, 4): {"a": 2, "b": 1}, ("n", 64, 1, 4): {"a": 2, "b": 1}})
    assert comparison.axis(found) == "prompt"
    assert [(c.point.model, c.point.prompt, c.now) for c in comparison.crossovers(found)] == [("m", 512, "b")]


def test_drawn_prompts_are_no_axis_and_a_point_without_results_has_no_winner() -> None:
    found = cells({("m", "sharegpt-like", 1, 4): {"a": None}, ("m", 64, 1, 4): {"a": 2}, ("m", 64, 8, 4): {"a": 2},
                   ("m", "sharegpt-like", 8, 4): {"a": 1}})
    assert comparison.axis(found) == "output"
    assert len(comparison.winners(found)) == 3


@pytest.mark.parametrize(("prompt", "text"), [
    (512, 512), ("sharegpt-like", "sharegpt-like"), ((100, 20, 5), "100,20,5"),
    ({"lognormal": {"mean": 512, "sigma": 0.7}, "seed": 3}, "lognormal:mean=512,sigma=0.7,seed=3"),
    ({"in_flight": "alpaca-like"}, "in_flight:alpaca-like"), ({"constant": 7, "seed": 1}, "constant:7,seed=1"),
])
def test_a_prompt_is_told_as_it_is_typed(prompt: Any, text: int | str) -> None:
    assert told(prompt) == text


def test_the_screen_tells_all_that_varies_and_who_wins_where(tmp_path: Path) -> None:
    text = gemvane("compare", "gpt2,gpt2-xl", "--hw", "t4,h100-sxm", "--batch", "1,32", "--prompt", "16,64", "--output", "2",
                   "--out", str(tmp_path))
    lines = text.splitlines()
    assert lines[0].startswith("model     gpt2: 124 M") and lines[1].strip().startswith("gpt2-xl: 1.56 B")
    assert lines[2] == "scenario  batch 1 to 32, prompts of 16 to 64 tokens, output 2 tokens"
    assert lines[4].split() == ["model", "prompt", "batch", "hardware", "TTFT", "TPOT", "tokens/s", "J/token"]
    assert "fastest: h100-sxm at every batch size, whatever the model and the prompt" in lines
    assert max(map(len, lines)) <= 120
    with (tmp_path / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["prompt"], row["batch"], row["hardware"]) for row in rows[:3]] == [
        ("gpt2", "16", "1", "t4"), ("gpt2", "16", "1", "h100-sxm"), ("gpt2", "16", "32", "t4")]
    thing = json.loads((tmp_path / "compare.json").read_text())
    assert len(thing["winners"]) == 8 and {won["fastest"] for won in thing["winners"]} == {"h100-sxm"}
    assert float(rows[0]["ttft_s"]) == thing["cells"][0]["ttft_s"]


def test_winners_that_differ_by_model_are_told_apart() -> None:
    text = gemvane("compare", "gpt2,llama3-8b", "--hw", "t4,h100-sxm", *SMALL)
    assert "least energy:\n  gpt2: t4\n  llama3-8b: h100-sxm\n" in text
    assert "fastest: h100-sxm, whatever the model\n" in text


def test_what_makes_no_difference_is_not_told() -> None:
    every = [Point(model, prompt, 1, 1) for model in ("m", "n") for prompt in (8, 16)]
    assert _where(every[:2], every, ["model", "prompt"]) == "m"
    assert _where([every[1], every[3]], every, ["model", "prompt"]) == "prompt 16"
    assert _where(every[1:], every, ["model", "prompt"]) == "m, prompt 16; n, prompt 8; n, prompt 16"


def test_drawn_prompts_are_told_with_their_mean() -> None:
    text = gemvane("compare", "gpt2", "--hw", "t4,l4", "--batch", "2,64", "--prompt", "lognormal:mean=64,sigma=0.1", "--output", "2")
    lengths = gv.Scenario(batch=64, prompt={"lognormal": {"mean": 64, "sigma": 0.1}}).lengths  # type: ignore[arg-type]
    assert f"prompts drawn: lognormal:mean=64,sigma=0.1, mean {lengths.mean():.0f} tokens, output 2 tokens" in text


def test_a_file_of_requests_says_the_batch(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    rows = [{"timestamp": 0, "input_length": length, "output_length": 1, "hash_ids": []} for length in (10, 20, 30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("compare", "gpt2", "--hw", "t4", "--prompt", str(file), "--output", "2")
    thing = json_of(*words)
    assert thing["scenario"]["batch"] == [3]
    assert thing["cells"][0]["scenario"]["prompt"] == [10, 20, 30]
    assert "batch 3, prompts read from " in gemvane(*words) and "mean 20 tokens" in " ".join(gemvane(*words).split())


def test_policies_change_every_hardware() -> None:
    words = ("compare", "gpt2", "--hw", "neupims,npu-pim-dual", *SMALL, "--batch", "8", "--policy", "sub_batches=2")
    thing = json_of(*words)
    assert thing["policies"] == {"sub_batches": "2"}
    assert [cell["policies"]["sub_batches"] for cell in thing["cells"]] == [2, 2]
    assert "policy    sub_batches=2, on all hardware" in gemvane(*words)


def test_verbose_adds_what_each_cell_chose_and_why_one_is_missing() -> None:
    text = gemvane("compare", "llama3-8b", "--hw", "t4,neupims", *SMALL, "-v")
    assert "units busy" in text and "1 sub-batch" in text and "gemvane took" in text
    assert "\nt4: llama3-8b needs 16.1 GB of weights" in text


def test_a_channel_that_is_too_small_is_told_as_one() -> None:
    cell = next(comparison.cells([catalog.load("llama2-7b")], [load("neupims")], prompt=[2048], output=[64]))
    assert cell.short.startswith("a PIM channel needs 1.11 GB, has ")


@pytest.mark.parametrize(("words", "sentence"), [
    ("compare gpt2,gpt2 --hw t4", "model 'gpt2' is named 2 times."),
    ("compare gpt2, --hw t4", "MODEL 'gpt2,': a name is missing."),
    ("compare gpt2 --hw t4 --prompt 0..8", "--prompt 0..8: a length is at least 1 token."),
    ("compare gpt2 --hw t4 --output 8..2", "--output 8..2: 8..2 runs backwards."),
    ("compare gpt2 --hw t4,neupims --policy row_buffers=single", "t4 has no PIM unit, which policy row_buffers is of."),
    ("compare gpt2 --hw t4 --policy speed=fast", "no policy 'speed'"),
])
def test_bad_input_is_one_sentence(words: str, sentence: str) -> None:
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 2
    assert sentence in done.stderr and done.stderr.count("\n") == 1 and not done.stdout


def test_python_takes_one_or_several_and_makes_a_frame() -> None:
    results = gv.compare(["gpt2", "gpt2-xl"], ["t4", gv.hardware("neupims", sub_batches=1)], batch=2, prompt=[16, 32], output=2)
    frame = gv.frame(results)
    assert frame.shape[0] == 2 * 2 * 2
    assert frame["prompt"].tolist() == [16, 16, 32, 32] * 2
    assert frame["ttft_s"].tolist() == [result.ttft_s for result in results]
    assert results[1].run.hardware.spec.schedule.sub_batches == 1
    assert len(gv.compare("llama3-8b", ["t4", "h100-sxm"], output=2)) == 1, "what does not fit is left out"


def test_metrics_have_vllms_names_and_add_up() -> None:
    result = gv.run("gpt2", "t4", batch=3, prompt=16, output=5)
    found = result.metrics()
    assert found["vllm:time_to_first_token_seconds"] == result.ttft_s
    assert found["vllm:request_time_per_output_token_seconds"] == result.tpot_s
    assert found["vllm:prompt_tokens_total"] == 3 * 16 and found["vllm:generation_tokens_total"] == 3 * 5
    parts = found["vllm:request_prefill_time_seconds"] + found["vllm:request_decode_time_seconds"]
    assert parts == pytest.approx(found["vllm:e2e_request_latency_seconds"], rel=1e-12)
    assert "vllm:inter_token_latency_seconds" not in gv.run("bert-base", "t4").metrics()
    assert gv.run("gpt2", "t4", phase="decode", output=3).metrics()["vllm:prompt_tokens_total"] == 0


def test_a_result_tells_itself_in_one_line() -> None:
    text = repr(gv.run("gpt2", "t4", prompt=16, output=2))
    assert text.startswith("<Result: model gpt2, hardware t4, TTFT ") and len(text) < 300 and "\n" not in text
