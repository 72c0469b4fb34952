"""Cohere's models and PaLM: parallel layers around one LayerNorm without biases, one table of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gemvane.workloads import lower
from gemvane.workloads.catalog import load
from gemvane.workloads.families import read_config
from gemvane.workloads.ops import CODE
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec

COMMAND_R_PLUS: dict[str, object] = {
    "model_type": "cohere", "hidden_size": 12288, "num_hidden_layers": 64, "num_attention_heads": 96, "num_key_value_heads": 8,
    "intermediate_size": 33792, "vocab_size": 256000, "use_qk_norm": True,
}


def command_r_plus(**changes: object) -> ModelSpec:
    return read_config({**COMMAND_R_PLUS, **changes}, "command-r-plus", "config.json")


def test_command_r_plus_has_its_published_parameters_with_a_norm_of_each_heads_query_and_key() -> None:
    assert command_r_plus().parameters == 103_810_674_688
    assert command_r_plus().parameters - command_r_plus(use_qk_norm=False).parameters == 64 * (96 + 8) * 128


def test_embeddings_are_tied_unless_told() -> None:
    assert command_r_plus(tie_word_embeddings=False).parameters - command_r_plus().parameters == 256_000 * 12288


def test_biases_of_norms_would_be_one_more_a_norm_and_element() -> None:
    model = load("command-r")
    assert replace(model, norm_bias=True).parameters - model.parameters == (40 + 1) * 8192


def test_palm_is_its_matrices_one_norm_a_layer_and_one_table() -> None:
    palm, padded = load("palm-540b"), load("palm-540b-padded")
    layer = 2 * 18432 * 48 * 256 + 2 * 18432 * 256 + 3 * 18432 * 73728 + 18432  # q and o, k and v, gate and up and down, norm
    assert palm.parameters == 118 * layer + 256_000 * 18432 + 18432
    assert padded.parameters - palm.parameters == 118 * 2 * 18432 * 16 * 256
    assert (palm.attention_label, padded.attention_label) == ("MQA 48/1", "MQA 64/1")


def test_attention_and_ffn_of_a_layer_share_its_norm() -> None:
    rows = lower.decode_step(load("command-r"), Scenario(batch=2)).rows
    assert (rows.kind == CODE["layernorm"]).sum() == 40 + 1


def test_a_missing_width_is_named() -> None:
    with pytest.raises(ValueError, match=r"^config.json: key 'intermediate_size' is missing \(family cohere needs hidden_size, "):
        command_r_plus(intermediate_size=None)
