"""Scenario: what it refuses and how it says so; and how many experts a batch touches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemvane.workloads.scenario import ROUTINGS, Scenario, distinct_experts

TYPES = "fp32, tf32, bf16, fp16, fp8, int16, int8, int4, fp4"


@pytest.mark.parametrize("field", ["batch", "output", "tp", "pp"])
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None])
def test_a_count_under_one_or_of_another_type_is_named(field: str, value: object) -> None:
    bad: dict[str, Any] = {field: value}
    with pytest.raises(ValueError) as caught:
        Scenario(**bad)
    assert str(caught.value) == f"{field} is {value!r}. Expected a whole number of at least 1."


@pytest.mark.parametrize("prompt", [0, -5, 2.0, True, None])
def test_a_prompt_under_one_token_is_named(prompt: Any) -> None:
    with pytest.raises(ValueError) as caught:
        Scenario(prompt=prompt)
    assert str(caught.value) == f"prompt is {prompt!r}. Expected a length of at least 1 token."


def test_one_empty_prompt_in_a_list_is_named() -> None:
    with pytest.raises(ValueError, match=r"^prompt is 0\. Expected a length of at least 1 token\.$"):
        Scenario(batch=2, prompt=(7, 0))


@pytest.mark.parametrize("lengths", [(), (1, 2, 3)])
def test_lengths_are_one_a_request(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as caught:
        Scenario(batch=2, prompt=lengths)
    assert str(caught.value) == f"prompt has {len(lengths)} lengths but batch is 2. Expected one length a request."


@pytest.mark.parametrize(
    ("field", "value", "wish"),
    [
        ("phase", "prefil", "prefill, decode, both"),
        ("phase", None, "prefill, decode, both"),
        ("routing", "even", "uniform, balanced, zipf"),
        ("dtype", "int5", TYPES),
        ("dtype", None, TYPES),
        ("weight_dtype", "BF16", TYPES),
        ("kv_dtype", "q4", TYPES),
    ],
)
def test_an_unknown_word_is_named_with_the_known_ones(field: str, value: object, wish: str) -> None:
    bad: dict[str, Any] = {field: value}
    with pytest.raises(ValueError) as caught:
        Scenario(**bad)
    assert str(caught.value) == f"{field} is {value!r}. Expected one of {wish}."


@pytest.mark.parametrize("prompt", [(3, 5), [3, 5], np.array([3, 5])])
def test_lengths_may_come_as_a_tuple_a_list_or_an_array(prompt: Any) -> None:
    scenario = Scenario(batch=2, prompt=prompt)
    assert scenario == Scenario(batch=2, prompt=(3, 5))
    assert scenario.lengths.tolist() == [3, 5]
    assert scenario.lengths.dtype == np.int64


def test_numpy_counts_become_plain_ones() -> None:
    bad: Any = np.int64(4)
    scenario = Scenario(batch=bad, prompt=bad)
    assert (type(scenario.batch), type(scenario.prompt)) == (int, int)


def test_one_length_serves_the_whole_batch() -> None:
    assert Scenario(batch=3, prompt=7).lengths.tolist() == [7, 7, 7]


def test_the_first_token_comes_from_the_prefill() -> None:
    assert Scenario(output=128).decode_steps == 127
    assert Scenario(output=1).decode_steps == 0


def test_weights_and_cache_have_the_type_of_the_activations_unless_told() -> None:
    plain, mixed = Scenario(dtype="fp16"), Scenario(dtype="bf16", weight_dtype="int4", kv_dtype="fp8")
    assert (plain.weights, plain.kv) == ("fp16", "fp16")
    assert (mixed.weights, mixed.kv) == ("int4", "fp8")


def test_a_changed_scenario_is_checked_again() -> None:
    assert Scenario().but(batch=9).batch == 9
    with pytest.raises(ValueError, match="batch is 0"):
        Scenario().but(batch=0)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (128, 8), (256, 8), (32, 4), (4, 4)])
def test_one_token_touches_top_k_experts_and_very_many_touch_all(routing: str, experts: int, top_k: int) -> None:
    assert distinct_experts(routing, experts, top_k, 1) == top_k
    assert distinct_experts(routing, experts, top_k, 10**6) == experts


@pytest.mark.parametrize(
    ("routing", "tokens", "touched"),
    [
        ("uniform", 2, 4),  # 8 (1 - (3/4)^2) = 3.5
        ("uniform", 4, 5),  # 8 (1 - (3/4)^4) = 5.47
        ("uniform", 16, 8),  # 8 (1 - (3/4)^16) = 7.92
        ("balanced", 3, 6),
        ("balanced", 5, 8),
    ],
)
def test_mixtral_touches_so_many_of_its_eight_experts(routing: str, tokens: int, touched: int) -> None:
    assert distinct_experts(routing, 8, 2, tokens) == touched


@given(st.sampled_from(ROUTINGS), st.integers(1, 300), st.data(), st.integers(1, 5000), st.integers(1, 5000))
def test_more_tokens_never_touch_fewer_experts(routing: str, experts: int, data: st.DataObject, a: int, b: int) -> None:
    top_k = data.draw(st.integers(1, experts))
    few, many = (distinct_experts(routing, experts, top_k, tokens) for tokens in sorted((a, b)))
    assert top_k <= few <= many <= experts


@given(st.integers(1, 300), st.data(), st.integers(1, 5000))
def test_skew_touches_fewer_than_chance_and_chance_fewer_than_a_plan(experts: int, data: st.DataObject, tokens: int) -> None:
    top_k = data.draw(st.integers(1, experts))
    zipf, uniform, balanced = (distinct_experts(r, experts, top_k, tokens) for r in ("zipf", "uniform", "balanced"))
    assert zipf <= uniform <= balanced
