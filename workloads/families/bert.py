"""BERT: a post-norm encoder. The head is BertModel's pooler, whatever task the file names."""

from __future__ import annotations

from ..spec import Attention, Dense, Layer, ModelSpec
from .config import Config, Reader

NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings")


def encoder_layer(config: Config, qkv_bias: bool = True) -> Layer:
    """Every token sees every token; biases everywhere."""
    heads = config.count("num_attention_heads")
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=config.head_dim(), qkv_bias=qkv_bias, out_bias=True, rope=False, causal=False)
    ffn = Dense(width=config.count("intermediate_size"), gated=False, activation=config.activation("gelu"), bias=True)
    return Layer(mixer=mixer, ffn=ffn)


def bert(config: Config) -> ModelSpec:
    config.refuse("is_decoder", "bert is modelled as an encoder")
    positions = config.count("max_position_embeddings")
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=config.count("hidden_size"),
        layers=(encoder_layer(config),) * config.count("num_hidden_layers"),
        vocab=config.count("vocab_size"),
        norm="layernorm",
        positions=positions,
        learned_positions=positions,
        token_types=config.count("type_vocab_size", default=2),
        embed_norm=True,
        final_norm=False,
        head="pooler",
        encoder=True,
    )


READERS = {"bert": Reader(bert, NEEDS)}
