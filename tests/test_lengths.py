"""Lengths of requests, when they arrive, and the files in which they are recorded."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.workloads import arrivals, lengths, requests
from gemvane.workloads.requests import RequestTrace
from gemvane.workloads.scenario import Scenario

RUNNER = CliRunner()
SAMPLES = Path(str(resources.files("gemvane.workloads") / "samples"))
MANY = 200_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(a: RequestTrace, b: RequestTrace) -> bool:
    return a.hash_ids == b.hash_ids and all(np.array_equal(getattr(a, c), getattr(b, c)) for c in ("arrival_ns", "prompt", "output"))


# Distributions

@pytest.mark.parametrize(
    ("distribution", "mean", "deviation"),
    [
        (lengths.Constant(40), 40, 0),
        (lengths.Uniform(100, 300), 200, ((201**2 - 1) / 12) ** 0.5),
        (lengths.Lognormal(512, 0.7), 512, 512 * (np.exp(0.7**2) - 1) ** 0.5),
        (lengths.Empirical([10, 20, 90]), 40, ((30**2 + 20**2 + 50**2) / 3) ** 0.5),
    ],
)
def test_draws_have_the_mean_and_deviation_of_their_distribution(distribution: lengths.Distribution, mean: float, deviation: float) -> None:
    drawn = distribution.draw(MANY, rng())
    assert drawn.dtype == np.int64 and drawn.min() >= 1
    assert drawn.mean() == pytest.approx(mean, rel=0.01)
    assert drawn.std() == pytest.approx(deviation, rel=0.02, abs=0.01)


def test_both_ends_of_a_uniform_distribution_are_drawn() -> None:
    assert np.unique(lengths.Uniform(3, 5).draw(200, rng())).tolist() == [3, 4, 5]


def test_no_length_is_below_one_token() -> None:
    assert lengths.Lognormal(1, 3.0).draw(1000, rng()).min() == 1


@pytest.mark.parametrize(("name", "prompt", "output"), [("sharegpt-like", 80, 296), ("alpaca-like", 12, 56)])
def test_chats_have_the_published_averages(name: str, prompt: int, output: int) -> None:
    prompts, outputs = lengths.CHATS[name].draw(MANY, rng())
    assert (prompts.mean(), outputs.mean()) == (pytest.approx(prompt, rel=0.01), pytest.approx(output, rel=0.01))


def test_a_running_batch_meets_long_answers_more_often_and_each_at_any_of_its_tokens() -> None:
    cached = lengths.in_flight(np.array([5, 50]), np.array([1, 3]), MANY, rng())
    values, counts = np.unique(cached, return_counts=True)
    assert values.tolist() == [5, 50, 51, 52]
    assert counts / MANY == pytest.approx([0.25] * 4, rel=0.02)


def test_of_lognormal_answers_half_of_their_length_biased_mean_is_cached() -> None:
    sigma = lengths.SIGMA
    cached = lengths.drawn({"in_flight": "sharegpt-like"}, MANY)
    assert cached.mean() == pytest.approx(80 + 296 / 2 * np.exp(sigma**2), rel=0.02)


# How a scenario asks for them

@pytest.mark.parametrize(
    "asked",
    ["alpaca-like", {"lognormal": {"mean": 512, "sigma": 0.7}}, {"in_flight": "sharegpt-like", "seed": 4},
     {"uniform": {"low": 1, "high": 9}}],
)
def test_what_is_drawn_once_is_drawn_again(asked: Any) -> None:
    drawn = Scenario(batch=50, prompt=asked)
    assert drawn == Scenario(batch=50, prompt=asked)
    assert isinstance(drawn.prompt, tuple) and len(set(drawn.prompt)) > 5


def test_another_seed_draws_others_and_the_longest_is_cut() -> None:
    asked = {"lognormal": {"mean": 512, "sigma": 0.7}}
    plain, other = (lengths.drawn({**asked, "seed": seed}, 100) for seed in (0, 1))
    assert plain.tolist() == lengths.drawn(asked, 100).tolist() != other.tolist()
    assert lengths.drawn({**asked, "most": 300}, 100).tolist() == np.minimum(plain, 300).tolist()


@pytest.mark.parametrize("asked", [{"constant": 7}, {"constant": {"tokens": 7}}, {"empirical": [7]}])
def test_a_distribution_of_one_parameter_takes_it_alone(asked: Any) -> None:
    assert lengths.drawn(asked, 2).tolist() == [7, 7]


def test_a_file_gives_its_first_prompts_or_its_distribution() -> None:
    file, trace = str(SAMPLES / "mooncake.jsonl"), requests.read(SAMPLES / "mooncake.jsonl")
    assert Scenario(batch=5, prompt=file).prompt == tuple(trace.prompt[:5].tolist())
    assert set(lengths.drawn({"empirical": file}, 500).tolist()) == set(trace.prompt.tolist())
    cached = lengths.drawn({"in_flight": file}, 500)
    assert trace.prompt.min() <= cached.min() and cached.max() < (trace.prompt + trace.output).max()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("sharegpt", "prompt: 'sharegpt' is not known. Expected one of sharegpt-like, alpaca-like, or a file of requests"),
        ({"in_flight": 3}, "prompt: 3 is not known. Expected one of sharegpt-like,"),
        ({"normal": {"mean": 3}}, "prompt: normal is no distribution. Expected one of constant, uniform, lognormal, empirical or"),
        ({"seed": 3}, "prompt: nothing is no distribution."),
        ({"lognormal": {"mean": 3}}, "prompt: lognormal is {'mean': 3}. Expected mean, sigma."),
        ({"lognormal": 3}, "prompt: lognormal is 3. Expected mean, sigma."),
        ({"lognormal": {"mean": 0, "sigma": 1}}, "prompt: lognormal: mean is 0. Expected a number of at least 1."),
        ({"lognormal": {"mean": 9, "sigma": -1}}, "prompt: lognormal: sigma is -1. Expected a number of at least 0."),
        ({"lognormal": {"mean": 9, "sigma": float("nan")}}, "prompt: lognormal: sigma is nan. Expected a number of at least 0."),
        ({"uniform": {"low": 9, "high": 5}}, "prompt: uniform: high is 5. Expected a whole number of at least 9."),
        ({"constant": 0}, "prompt: constant: tokens is 0. Expected a whole number of at least 1."),
        ({"empirical": []}, "prompt: empirical: values is []. Expected a list of lengths, or the path of a file of requests."),
        ({"empirical": [3, "x"]}, "prompt: empirical: values is 'x'. Expected a whole number of at least 1."),
        ({"constant": 3, "seed": -1}, "prompt: seed is -1. Expected a whole number of at least 0."),
        ({"constant": 3, "most": 0}, "prompt: most is 0. Expected a whole number of at least 1."),
        (str(SAMPLES / "azure.csv"), f"prompt: {SAMPLES / 'azure.csv'} has 12 requests, but 13 are to run. Expected at least as many."),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_sentence(asked: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Scenario(batch=13, prompt=asked)
    assert str(caught.value).startswith(message), str(caught.value)


# Arrivals

@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_arrivals_have_their_rate_and_their_spread(cv: float) -> None:
    arrival_ns = arrivals.gamma(4.0, cv, MANY, rng())
    between = np.diff(arrival_ns) / 1e9
    assert arrival_ns[0] == 0 and between.min() >= 0
    assert between.mean() == pytest.approx(1 / 4.0, rel=0.03)
    assert between.std() / between.mean() == pytest.approx(cv, rel=0.03)


def test_poisson_counts_vary_as_much_as_their_mean() -> None:
    arrival_ns = arrivals.poisson(10.0, MANY, rng())
    counts = np.bincount(arrival_ns // 10**9)[:-1]
    assert counts.var() / counts.mean() == pytest.approx(1, rel=0.05)


def test_a_chat_over_time_is_drawn_from_its_seed() -> None:
    first, again, other = (arrivals.chat(lengths.CHATS["alpaca-like"], 20, 5.0, cv=2.0, seed=seed) for seed in (7, 7, 8))
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize(
    ("rate", "cv", "count", "message"),
    [(0.0, 1.0, 5, "rate_per_s is 0.0. Expected"), (1.0, -1.0, 5, "cv is -1.0. Expected"), (1.0, float("nan"), 5, "cv is nan"),
     (1.0, 1.0, 0, "count is 0. Expected at least 1 request.")],
)
def test_arrivals_that_cannot_be_are_named(rate: float, cv: float, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        arrivals.gamma(rate, cv, count, rng())


# Files

def test_every_format_tells_the_same_requests() -> None:
    native = requests.read(SAMPLES / "mooncake.jsonl")
    assert (native.size, native.arrival_ns[0], len(native.hash_ids)) == (12, 0, 12)
    for name in ("azure.csv", "burstgpt.csv", "lengths.csv", "lengths.json"):
        trace = requests.read(SAMPLES / name)
        assert (trace.prompt.tolist(), trace.output.tolist()) == (native.prompt.tolist(), native.output.tolist()), name
        assert trace.arrival_ns.tolist() == (native.arrival_ns.tolist() if name in ("azure.csv", "burstgpt.csv") else [0] * 12), name


def test_requests_come_in_order_of_arrival_and_failed_ones_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5.5,x,10,20,30,API log\n7,x,9,0,9,API log\n"
                    "2,x,30,40,70,API log\n", encoding="utf-8")
    trace = requests.read(file)
    assert (trace.arrival_ns.tolist(), trace.prompt.tolist()) == ([2 * 10**9, 5_500_000_000], [30, 10])


def test_dates_keep_their_hundred_nanoseconds_and_zones_are_utc(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.9999999,3,4\n2023-11-17 00:00:01.5+00:00,5,6\n",
                    encoding="utf-8")
    assert requests.read(file).arrival_ns.tolist() == [0, 1_500_000_100]


@given(st.lists(st.tuples(st.integers(0, 2**53), st.integers(1, 10**6), st.integers(1, 10**6), st.lists(st.integers(0, 99), max_size=3)),
                min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, int, list[int]]]) -> None:
    rows.sort(key=lambda row: row[0])
    when, prompt, output = np.array([row[:3] for row in rows], np.int64).T
    hashes = tuple(tuple(row[3]) for row in rows)
    trace = RequestTrace(when, prompt, output, hashes if any(hashes) else ())
    file = tmp_path_factory.mktemp("requests") / "a.jsonl"
    requests.write(trace, file)
    assert same(requests.read(file), trace)
    keys = {"timestamp", "input_length", "output_length", "hash_ids"}
    assert all(set(json.loads(line)) == keys for line in file.read_text().splitlines())


GOOD = '{"timestamp": 0, "input_length": 3, "output_length": 4}\n'
AZURE, BURST = "TIMESTAMP,ContextTokens,GeneratedTokens\n", "Timestamp,Request tokens,Response tokens\n"
MALFORMED = [
    ("a.jsonl", GOOD + "{", ":2: is no JSON: "),
    ("a.jsonl", GOOD + "[1]", ":2: [1] is no request. Expected an object with timestamp, input_length and output_length."),
    ("a.jsonl", '{"timestamp": 0, "output_length": 4}', ":1: input_length is missing. Every request needs it."),
    ("a.jsonl", GOOD.replace("0", "-1.5"), ":1: timestamp is -1.5. Expected milliseconds from 0 on."),
    ("a.jsonl", GOOD.replace("0", '"x"'), ":1: timestamp is 'x'. Expected milliseconds from 0 on."),
    ("a.jsonl", GOOD.replace("3", "0"), ":1: input_length is 0. Expected a whole number of at least 1."),
    ("a.jsonl", GOOD.replace("4", "4.5"), ":1: output_length is 4.5. Expected a whole number of at least 0."),
    ("a.jsonl", GOOD.replace("}", ', "hash_ids": ["x"]}'), ":1: hash_ids is ['x']. Expected a list of whole numbers."),
    ("a.jsonl", "\n", ": there is no request with an output in it."),
    ("a.csv", "", ":1: the columns are none. Expected TIMESTAMP, ContextTokens, GeneratedTokens (azure); or "),
    ("a.csv", "a,b\n", ":1: the columns are a, b. Expected TIMESTAMP, ContextTokens, GeneratedTokens (azure); or "),
    ("a.csv", AZURE + "2023-11-16,1,2\nnoon,1,2\n", ":3: TIMESTAMP is 'noon'. Expected a date and time, e.g. 2024-05-10"),
    ("a.csv", AZURE + "2023-11-16,1\n", ":2: has 2 fields. Expected 3, as many as the header."),
    ("a.csv", AZURE + "2023-11-16,x,2\n", ":2: ContextTokens is 'x'. Expected a whole number of at least 1."),
    ("a.csv", BURST + "-1,1,2\n", ":2: Timestamp is '-1'. Expected seconds from 0 on."),
    ("a.csv", BURST + "inf,1,2\n", ":2: Timestamp is 'inf'. Expected seconds from 0 on."),
    ("a.csv", BURST + "1,1,-2\n", ":2: Response tokens is '-2'. Expected a whole number of at least 0."),
    ("a.csv", "prompt,output\n1,99999999999999999\n", ":2: output is '99999999999999999'. Expected a whole number of at least 0."),
    ("a.json", "[[1, 2],\n", ":2: is no JSON: "),
    ("a.json", '{"prompt": 1}', ": is no list. Expected one of [prompt, output] or of objects with prompt and output."),
    ("a.json", "[[1, 2], [3]]", ": request 2: is [3]. Expected [prompt, output] or an object with prompt and output."),
    ("a.json", '[{"prompt": 1}]', ": request 1: output is missing. Every request needs it."),
    ("a.json", "[[1, true]]", ": request 1: output is True. Expected a whole number of at least 0."),
    ("a.txt", "", ": requests are read from .jsonl, .csv, .json, not '.txt'."),
    ("folder.csv", None, ": cannot be read: "),
]


@pytest.mark.parametrize(("name", "text", "message"), MALFORMED)
def test_a_malformed_file_is_said_with_file_line_and_field(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        requests.read(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}{message}"), str(caught.value)


def test_only_the_native_format_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.csv: requests are written as \.jsonl, not '\.csv'\.$"):
        requests.write(requests.read(SAMPLES / "lengths.csv"), tmp_path / "a.csv")


# The command

@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--batch", "6", "--prompt", "alpaca-like"], "alpaca-like"),
        (["--batch", "6", "--prompt", "lognormal:mean=50,sigma=0.5,seed=2,most=90"],
         {"lognormal": {"mean": 50, "sigma": 0.5}, "seed": 2, "most": 90}),
        (["--batch", "6", "--prompt", "in_flight:alpaca-like,seed=2"], {"in_flight": "alpaca-like", "seed": 2}),
        (["--batch", "6", "--prompt", "constant:9"], {"constant": 9}),
        (["--batch", "6", "--prompt", str(SAMPLES / "burstgpt.csv")], str(SAMPLES / "burstgpt.csv")),
        (["--prompt", str(SAMPLES / "lengths.json")], str(SAMPLES / "lengths.json")),
    ],
)
def test_the_command_takes_drawn_lengths_and_files(words: list[str], asked: Any) -> None:
    done = RUNNER.invoke(app, ["run", "gpt2", "--hw", "t4", "--output", "2", *words, "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["scenario"]
    assert found["batch"] == (6 if "--batch" in words else 12)
    assert tuple(found["prompt"]) == Scenario(batch=found["batch"], prompt=asked).prompt


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("sharegpt", "error: --prompt sharegpt: 'sharegpt' is not a whole number."),
        ("lognormal:9", "error: prompt: lognormal is 9. Expected mean, sigma."),
        ("lognormal:mean=9,3", "error: --prompt lognormal:mean=9,3: cannot be read. Expected something like lognormal:mean=512,"),
        ("alpaca-like:seed=3", "error: --prompt alpaca-like:seed=3: cannot be read."),
        ("nowhere.csv", "error: nowhere.csv: cannot be read: "),
    ],
)
def test_a_prompt_that_cannot_be_drawn_is_one_sentence_and_exit_2(prompt: str, message: str) -> None:
    done = RUNNER.invoke(app, ["run", "gpt2", "--hw", "t4", "--prompt", prompt])
    assert done.exit_code == 2
    assert done.stderr.startswith(message), done.stderr
