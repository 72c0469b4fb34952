"""Mixtures of experts on a llama-like decoder: mixtral, qwen2_moe, qwen3_moe and gpt_oss."""

from __future__ import annotations

from ..spec import Attention, Dense, Layer, ModelSpec, MoE
from .config import Config, Reader, always, never
from .llama import NEEDS, attention, decoder, gated, qwen_windows, stack

LOCAL = (*NEEDS, "num_local_experts", "num_experts_per_tok")
QWEN = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
)


def routing(config: Config, key: str) -> tuple[int, int]:
    """Experts, and how many of them a token runs through."""
    experts, top_k = config.count(key), config.count("num_experts_per_tok")
    if top_k > experts:
        raise config.wrong("num_experts_per_tok", top_k, f"at most {key} = {experts}")
    return experts, top_k


def mixtral(config: Config) -> ModelSpec:
    experts, top_k = routing(config, "num_local_experts")
    ffn = MoE(experts=experts, top_k=top_k, width=config.count("intermediate_size"), activation=config.activation("silu"))
    windows = config.windows(always if config.has("sliding_window") else never)
    return decoder(config, stack(attention(config, windows), ffn))


def gpt_oss(config: Config) -> ModelSpec:
    """Biases everywhere, a sink logit a head, and a window in every second layer, the first one included."""
    experts, top_k = routing(config, "num_local_experts")
    width, activation = config.count("intermediate_size"), config.activation("silu")
    ffn = MoE(experts=experts, top_k=top_k, width=width, activation=activation, bias=True, router_bias=True)
    windows = config.windows(lambda layer: layer % 2 == 0, default=128)
    bias = config.flag("attention_bias", True)
    mixers = attention(config, windows, head_dim=64, qkv_bias=bias, out_bias=bias, sinks=True)
    return decoder(config, stack(mixers, ffn))


def qwen_layers(config: Config, mixers: tuple[Attention, ...], moe: MoE) -> tuple[Layer, ...]:
    """Experts in every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name; a dense FFN in the others."""
    step = config.count("decoder_sparse_step", default=1)
    dense_layers = config.items("mlp_only_layers") or ()
    sparse = [(layer + 1) % step == 0 and layer not in dense_layers for layer in range(len(mixers))]
    dense = None if all(sparse) else gated(config)
    ffns = [moe if dense is None or routed else dense for routed in sparse]
    return tuple(Layer(mixer=mixer, ffn=ffn) for mixer, ffn in zip(mixers, ffns, strict=True))


def qwen2_moe(config: Config) -> ModelSpec:
    """A shared expert, behind a gate of its own, beside the routed ones."""
    experts, top_k = routing(config, "num_experts")
    activation = config.activation("silu")
    shared = Dense(width=config.count("shared_expert_intermediate_size"), gated=True, activation=activation)
    width = config.count("moe_intermediate_size")
    moe = MoE(experts=experts, top_k=top_k, width=width, activation=activation, shared=shared, shared_gate=True)
    bias = config.flag("attention_bias", True)
    return decoder(config, qwen_layers(config, attention(config, qwen_windows(config), qkv_bias=bias), moe))


def qwen3_moe(config: Config) -> ModelSpec:
    experts, top_k = routing(config, "num_experts")
    moe = MoE(experts=experts, top_k=top_k, width=config.count("moe_intermediate_size"), activation=config.activation("silu"))
    bias = config.flag("attention_bias", False)
    mixers = attention(config, qwen_windows(config), qkv_bias=bias, out_bias=bias, qk_norm=True)
    return decoder(config, qwen_layers(config, mixers, moe))


READERS = {
    "mixtral": Reader(mixtral, LOCAL),
    "qwen2_moe": Reader(qwen2_moe, (*QWEN, "shared_expert_intermediate_size")),
    "qwen3_moe": Reader(qwen3_moe, QWEN),
    "gpt_oss": Reader(gpt_oss, LOCAL),
}
