"""DeepSeek-V2 and V3: latent attention, a few dense layers, then routed and shared experts. The MTP layer of V3 is left out."""

from __future__ import annotations

from ..spec import MLA, Dense, Layer, ModelSpec, MoE
from .config import Config, Reader
from .llama import NEEDS as DENSE
from .llama import decoder, gated
from .moe import routing

MLA_KEYS = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
NEEDS = (*DENSE, *MLA_KEYS, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")


def latent_attention(config: Config) -> MLA:
    config.refuse("attention_bias", "latent attention has no biases here")
    return MLA(
        heads_q=config.count("num_attention_heads"),
        q_lora_rank=config.optional("q_lora_rank"),
        kv_lora_rank=config.count("kv_lora_rank"),
        nope_dim=config.count("qk_nope_head_dim"),
        rope_dim=config.count("qk_rope_head_dim"),
        value_dim=config.count("v_head_dim"),
    )


def experts(config: Config, correction: bool) -> MoE:
    """The shared experts are one dense FFN, as wide as all of them."""
    routed, top_k = routing(config, "n_routed_experts")
    width, activation = config.count("moe_intermediate_size"), config.activation("silu")
    shared = config.count("n_shared_experts", default=0, least=0)
    return MoE(
        experts=routed,
        top_k=top_k,
        width=width,
        activation=activation,
        router_correction=correction,
        shared=Dense(width=shared * width, gated=True, activation=activation) if shared else None,
    )


def deepseek(config: Config, correction: bool) -> ModelSpec:
    mixer, dense, moe = latent_attention(config), gated(config), experts(config, correction)
    first, step = config.count("first_k_dense_replace", default=0, least=0), config.count("moe_layer_freq", default=1)
    layers = range(config.count("num_hidden_layers"))
    ffns = (moe if layer >= first and layer % step == 0 else dense for layer in layers)
    return decoder(config, tuple(Layer(mixer=mixer, ffn=ffn) for ffn in ffns))


def deepseek_v2(config: Config) -> ModelSpec:
    return deepseek(config, correction=False)


def deepseek_v3(config: Config) -> ModelSpec:
    """V3 learns one score correction an expert (arXiv 2412.19437, section 2.1.2)."""
    return deepseek(config, correction=True)


READERS = {"deepseek_v2": Reader(deepseek_v2, NEEDS), "deepseek_v3": Reader(deepseek_v3, NEEDS)}
