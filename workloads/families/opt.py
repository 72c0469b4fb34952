"""OPT: GPT-like, with relu and two unused rows in front of its position table."""

from __future__ import annotations

from ..spec import Attention, Dense, Layer, ModelSpec
from .config import Config, Reader

NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim", "vocab_size", "max_position_embeddings")
POSITION_OFFSET = 2


def opt(config: Config) -> ModelSpec:
    if not config.flag("layer_norm_elementwise_affine", True):
        raise config.wrong("layer_norm_elementwise_affine", False, "true (norms without weights are not modelled)")
    heads, bias = config.count("num_attention_heads"), config.flag("enable_bias", True)
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=config.head_dim(), qkv_bias=bias, out_bias=bias, rope=False)
    ffn = Dense(width=config.count("ffn_dim"), gated=False, activation=config.activation("relu"), bias=bias)
    positions = config.count("max_position_embeddings")
    pre_norm = config.flag("do_layer_norm_before", True)
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=config.count("hidden_size"),
        layers=(Layer(mixer=mixer, ffn=ffn),) * config.count("num_hidden_layers"),
        vocab=config.count("vocab_size"),
        norm="layernorm",
        tied_embeddings=config.flag("tie_word_embeddings", True),
        positions=positions,
        learned_positions=positions + POSITION_OFFSET,
        embed_dim=config.optional("word_embed_proj_dim"),
        final_norm=pre_norm and not config.flag("_remove_final_layer_norm", False),
    )


READERS = {"opt": Reader(opt, NEEDS)}
