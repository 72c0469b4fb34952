"""Layers as blocks of operators: what tensor parallelism and extreme lengths do to them."""

import pytest

from gemvane.workloads import catalog, lower
from gemvane.workloads.ops import CODE
from gemvane.workloads.scenario import Scenario


def test_a_layer_with_attention_beside_its_ffn_sums_once_over_its_devices() -> None:
    falcon = lower.decode_step(catalog.load("falcon-40b"), Scenario(batch=4, tp=4)).rows
    llama = lower.decode_step(catalog.load("llama3-8b"), Scenario(batch=4, tp=4)).rows
    assert (falcon.kind == CODE["allreduce"]).sum() == 60
    assert (llama.kind == CODE["allreduce"]).sum() == 2 * 32


def test_a_prompt_beyond_64_bit_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="a prompt of 1000000000000 tokens"):
        lower.prefill(catalog.load("llama3-8b"), Scenario(prompt=10**12))
