"""Gemma: explicit head width, tied embeddings, a gated gelu; from gemma2 on four norms a layer and sliding windows."""

from __future__ import annotations

from ..spec import Attention, Dense, ModelSpec
from .config import Config, Reader, never
from .llama import NEEDS, attention, decoder, gated, stack

GEMMA3_DEFAULTS = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
"""HF's Gemma3TextConfig: the hub's files leave out every key that has its default (gemma-3-4b names neither heads nor vocabulary)."""


def mixers(config: Config, windows: tuple[int | None, ...], qk_norm: bool) -> tuple[Attention, ...]:
    bias = config.flag("attention_bias", False)
    return attention(config, windows, head_dim=256, qkv_bias=bias, out_bias=bias, qk_norm=qk_norm)


def feed_forward(config: Config) -> Dense:
    return gated(config, activation="gelu")


def gemma(config: Config) -> ModelSpec:
    return decoder(config, stack(mixers(config, config.windows(never), qk_norm=False), feed_forward(config)), tied=True)


def gemma2(config: Config) -> ModelSpec:
    windows = config.windows(lambda layer: layer % 2 == 0, default=4096)
    return decoder(config, stack(mixers(config, windows, qk_norm=False), feed_forward(config), norms=4), tied=True)


def gemma3(config: Config) -> ModelSpec:
    """Five sliding layers, then one that sees all."""
    values = {key: value for key, value in config.values.items() if value is not None}
    if "_sliding_window_pattern" in values:
        values.setdefault("sliding_window_pattern", values["_sliding_window_pattern"])
    full = Config(values=GEMMA3_DEFAULTS | values, name=config.name, where=config.where, family=config.family, needs=config.needs)
    pattern = full.count("sliding_window_pattern")
    windows = full.windows(lambda layer: (layer + 1) % pattern != 0)
    return decoder(full, stack(mixers(full, windows, qk_norm=True), feed_forward(full), norms=4), tied=True)


READERS = {
    "gemma": Reader(gemma, NEEDS),
    "gemma2": Reader(gemma2, NEEDS),
    "gemma3": Reader(gemma3, NEEDS),
    "gemma3_text": Reader(gemma3, NEEDS),
}
