"""Falcon: multi-query (7b) or grouped attention (the "new decoder architecture"), beside the FFN."""

from __future__ import annotations

from ..spec import Attention, Dense, Layer, ModelSpec
from .config import Config, Reader

NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def falcon_heads(config: Config) -> tuple[int, int]:
    """`num_kv_heads` counts only in the new architecture; before it, `multi_query` (the default) is one KV head and else all."""
    if config.flag("new_decoder_architecture", False):
        return config.heads("num_kv_heads")
    heads_q = config.count("num_attention_heads")
    return heads_q, 1 if config.flag("multi_query", True) else heads_q


def falcon_norms(config: Config, parallel: bool) -> int:
    """Two norms, but for one that attention and FFN share where they run side by side."""
    new = config.flag("new_decoder_architecture", False)
    return config.count("num_ln_in_parallel_attn", default=2 if new else 1) if parallel else 2


def falcon(config: Config) -> ModelSpec:
    hidden = config.count("hidden_size")
    heads_q, heads_kv = falcon_heads(config)
    bias, alibi = config.flag("bias", False), config.flag("alibi", False)
    parallel = config.flag("parallel_attn", True) or config.flag("new_decoder_architecture", False)
    mixer = Attention(heads_q=heads_q, heads_kv=heads_kv, head_dim=config.head_dim(), qkv_bias=bias, out_bias=bias, rope=not alibi)
    width = config.count("ffn_hidden_size", default=4 * hidden)
    ffn = Dense(width=width, gated=False, activation=config.activation("gelu"), bias=bias)
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=hidden,
        layers=(Layer(mixer=mixer, ffn=ffn, norms=falcon_norms(config, parallel), parallel=parallel),) * config.count("num_hidden_layers"),
        vocab=config.count("vocab_size"),
        norm="layernorm",
        tied_embeddings=config.flag("tie_word_embeddings", True),
        positions=config.optional("max_position_embeddings"),
    )


READERS = {"falcon": Reader(falcon, NEEDS)}
