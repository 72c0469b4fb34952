"""Llama and its close relatives: pre-norm decoders with RMS norms, RoPE and a gated FFN."""

from __future__ import annotations

from dataclasses import replace

from ..spec import MLA, Attention, Dense, Layer, ModelSpec, MoE
from .config import Config, Reader, always, never

NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def decoder(config: Config, layers: tuple[Layer, ...], tied: bool = False) -> ModelSpec:
    """The shell of a llama-like decoder around its layers; `tied` is what the family does where the file is silent."""
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=config.count("hidden_size"),
        layers=layers,
        vocab=config.count("vocab_size"),
        norm="rmsnorm",
        tied_embeddings=config.flag("tie_word_embeddings", tied),
        positions=config.optional("max_position_embeddings"),
    )


def stack(mixers: tuple[Attention, ...] | tuple[MLA, ...], ffn: Dense | MoE, norms: int = 2) -> tuple[Layer, ...]:
    """One layer a mixer, all with the same FFN."""
    return tuple(Layer(mixer=mixer, ffn=ffn, norms=norms) for mixer in mixers)


def gated(config: Config, activation: str = "silu") -> Dense:
    return Dense(
        width=config.count("intermediate_size"),
        gated=True,
        activation=config.activation(activation),
        bias=config.flag("mlp_bias", False),
    )


def attention(
    config: Config,
    windows: tuple[int | None, ...],
    *,
    head_dim: int | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    sinks: bool = False,
) -> tuple[Attention, ...]:
    """Grouped attention, one a layer, alike but for the window; `head_dim` is the family's own where the file is silent."""
    heads_q, heads_kv = config.heads()
    one = Attention(
        heads_q=heads_q,
        heads_kv=heads_kv,
        head_dim=config.head_dim(default=head_dim),
        qkv_bias=qkv_bias,
        out_bias=out_bias,
        qk_norm=qk_norm,
        sinks=sinks,
    )
    return tuple(replace(one, window=window) for window in windows)


def qwen_windows(config: Config) -> tuple[int | None, ...]:
    """Qwen slides only if `use_sliding_window` says so, and then from layer `max_window_layers` on."""
    if not config.flag("use_sliding_window", False):
        return config.windows(never)
    first = config.count("max_window_layers", default=28, least=0)
    return config.windows(lambda layer: layer >= first, default=4096)


def llama(config: Config) -> ModelSpec:
    bias = config.flag("attention_bias", False)
    return decoder(config, stack(attention(config, config.windows(never), qkv_bias=bias, out_bias=bias), gated(config)))


def windowed(config: Config) -> ModelSpec:
    """Mistral and phi3: no biases, and one sliding window, if any, for all layers."""
    windows = config.windows(always if config.has("sliding_window") else never)
    return decoder(config, stack(attention(config, windows), gated(config)))


def qwen2(config: Config) -> ModelSpec:
    return decoder(config, stack(attention(config, qwen_windows(config), qkv_bias=True), gated(config)))


def qwen3(config: Config) -> ModelSpec:
    bias = config.flag("attention_bias", False)
    mixers = attention(config, qwen_windows(config), head_dim=128, qkv_bias=bias, out_bias=bias, qk_norm=True)
    return decoder(config, stack(mixers, gated(config)))


READERS = {
    "llama": Reader(llama, NEEDS),
    "mistral": Reader(windowed, NEEDS),
    "phi3": Reader(windowed, NEEDS),
    "qwen2": Reader(qwen2, NEEDS),
    "qwen3": Reader(qwen3, NEEDS),
}
