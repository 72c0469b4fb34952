"""Cohere (Command-R), and PaLM in its form: attention beside a gated FFN, one LayerNorm without biases, tied embeddings."""

from __future__ import annotations

from ..spec import Attention, Layer, ModelSpec
from .config import Config, Reader
from .llama import NEEDS, gated


def cohere(config: Config) -> ModelSpec:
    heads_q, heads_kv = config.heads()
    bias = config.flag("attention_bias", False)
    mixer = Attention(
        heads_q=heads_q,
        heads_kv=heads_kv,
        head_dim=config.head_dim(),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=config.flag("use_qk_norm", False),
        qk_norm_shared=False,
    )
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=config.count("hidden_size"),
        layers=(Layer(mixer=mixer, ffn=gated(config), norms=1, parallel=True),) * config.count("num_hidden_layers"),
        vocab=config.count("vocab_size"),
        norm="layernorm",
        norm_bias=False,
        tied_embeddings=config.flag("tie_word_embeddings", True),
        positions=config.optional("max_position_embeddings"),
    )


READERS = {"cohere": Reader(cohere, NEEDS)}
