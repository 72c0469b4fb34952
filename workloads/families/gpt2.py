"""GPT-2, and GPT-3 in its sizes: multi-head attention, a plain gelu FFN, LayerNorm, learned positions, biases everywhere."""

from __future__ import annotations

from ..spec import Attention, Dense, Layer, ModelSpec
from .config import Config, Reader

GPT2 = ("n_embd", "n_layer", "n_head", "n_positions", "vocab_size")
GPT3 = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def gpt(config: Config, positions: int, vocab: int) -> ModelSpec:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    width = config.count("intermediate_size", default=4 * hidden)
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=config.head_dim(), qkv_bias=True, out_bias=True, rope=False)
    ffn = Dense(width=width, gated=False, activation=config.activation("gelu"), bias=True)
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=hidden,
        layers=(Layer(mixer=mixer, ffn=ffn),) * config.count("num_hidden_layers"),
        vocab=vocab,
        norm="layernorm",
        tied_embeddings=config.flag("tie_word_embeddings", True),
        positions=positions,
        learned_positions=positions,
    )


def gpt2(config: Config) -> ModelSpec:
    config.refuse("add_cross_attention", "no encoder is modelled beside gpt2")
    return gpt(config, config.count("max_position_embeddings"), config.count("vocab_size"))


def gpt3(config: Config) -> ModelSpec:
    """Our own model_type: GPT-3 was never published as a config.json (Brown et al., arXiv 2005.14165, table 2.1)."""
    return gpt(config, config.count("max_position_embeddings", default=2048), config.count("vocab_size", default=50257))


READERS = {"gpt2": Reader(gpt2, GPT2), "gpt3": Reader(gpt3, GPT3)}
