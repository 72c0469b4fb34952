"""State-space models and hybrids: Mamba, Mamba-2, Jamba (Mamba beside attention and experts)."""

from __future__ import annotations

from ..spec import Attention, Chain, Layer, ModelSpec, MoE, Step
from .config import Config, Reader, never
from .llama import NEEDS as DENSE
from .llama import attention, decoder, gated
from .moe import routing

MAMBA = ("hidden_size", "num_hidden_layers", "state_size", "vocab_size")
MAMBA2 = (*MAMBA, "num_heads", "head_dim")
JAMBA = (*DENSE, "num_experts", "num_experts_per_tok", "attn_layer_period", "expert_layer_period", "mamba_d_state")
DEFAULT_RANK_OF = 16
"""Hidden elements to one of the step's rank, where the file says "auto"."""


def conv(name: str, width: int, taps: int, bias: bool, cut: str = "") -> tuple[Step, Step]:
    """A short causal convolution of each channel and its SiLU; it keeps the inputs of all taps but the last."""
    return (Step(name=name, kind="dwconv", n=width, k=taps, bias=bias, state=(taps - 1) * width, cut=cut),  # type: ignore[arg-type]
            Step(name=f"{name}_silu", kind="silu", n=width, cut=cut))  # type: ignore[arg-type]


def rank_of(config: Config, key: str) -> int:
    """Rank of the step's projection; "auto" is a sixteenth of the hidden size."""
    return -(-config.count("hidden_size") // DEFAULT_RANK_OF) if config.values.get(key, "auto") == "auto" else config.count(key)


def selective(hidden: int, inner: int, states: int, taps: int, rank: int, *, bias: bool, conv_bias: bool, norms: bool = False) -> Chain:
    """Mamba's mixer (arXiv 2312.00752, figure 3); `norms` of the step and the two vectors are Jamba's."""
    inner_norms = tuple(Step(name=f"{name}_norm", kind="rmsnorm", n=width) for name, width in (("dt", rank), ("b", states), ("c", states)))
    return Chain(label=f"Mamba {inner} x {states}", steps=(
        Step(name="in_proj", kind="gemm", n=2 * inner, k=hidden, bias=bias, cut="n"),
        *conv("conv1d", inner, taps, conv_bias, "n"),
        Step(name="x_proj", kind="gemm", n=rank + 2 * states, k=inner, cut="k"),
        *(inner_norms if norms else ()),
        Step(name="dt_proj", kind="gemm", n=inner, k=rank, bias=True, cut="n"),
        Step(name="selective_scan", kind="selective_scan", n=inner, key_dim=states, extra=inner * (states + 1), cut="n"),
        Step(name="out_proj", kind="gemm", n=hidden, k=inner, bias=bias, cut="k"),
    ))


def mamba(config: Config) -> ModelSpec:
    hidden = config.count("hidden_size")
    inner = config.count("intermediate_size", default=hidden * config.count("expand", default=2))
    mixer = selective(hidden, inner, config.count("state_size"), config.count("conv_kernel", default=4), rank_of(config, "time_step_rank"),
                      bias=config.flag("use_bias", False), conv_bias=config.flag("use_conv_bias", True))
    return decoder(config, (Layer(mixer=mixer, ffn=None, norms=1),) * config.count("num_hidden_layers"), tied=True)


def mamba2(config: Config) -> ModelSpec:
    """One matrix-valued state a head (arXiv 2405.21060, section 7); keys and queries are shared by the heads of a group."""
    hidden, heads, width = config.count("hidden_size"), config.count("num_heads"), config.count("head_dim")
    inner, states, groups = heads * width, config.count("state_size"), config.count("n_groups", default=8)
    if inner != hidden * config.count("expand", default=2):
        raise config.wrong("num_heads", heads, f"expand x hidden_size / head_dim = {hidden * config.count('expand', default=2) // width}")
    mixed, bias = inner + 2 * groups * states, config.flag("use_bias", False)
    mixer = Chain(label=f"Mamba-2 {heads} x {width} x {states}", steps=(
        Step(name="in_proj", kind="gemm", n=inner + mixed + heads, k=hidden, bias=bias, cut="n"),
        *conv("conv1d", mixed, config.count("conv_kernel", default=4), config.flag("use_conv_bias", True)),
        Step(name="scan", kind="scan", heads=heads, key_heads=groups, key_dim=states, value_dim=width,
             k=config.count("chunk_size", default=256), extra=3 * heads, cut="heads"),
        Step(name="gate", kind="silu_mul", n=inner, cut="n"),
        Step(name="gate_norm", kind="rmsnorm", n=inner),
        Step(name="out_proj", kind="gemm", n=hidden, k=inner, bias=bias, cut="k"),
    ))
    return decoder(config, (Layer(mixer=mixer, ffn=None, norms=1),) * config.count("num_hidden_layers"))


def jamba(config: Config) -> ModelSpec:
    """Attention in one layer of a period, Mamba in the others; experts in every second layer (arXiv 2403.19887, section 3)."""
    hidden = config.count("hidden_size")
    inner = hidden * config.count("mamba_expand", default=2)
    mixer: Chain = selective(
        hidden, inner, config.count("mamba_d_state"), config.count("mamba_d_conv", default=4), rank_of(config, "mamba_dt_rank"),
        bias=config.flag("mamba_proj_bias", False), conv_bias=config.flag("mamba_conv_bias", True), norms=True)
    attends: Attention = attention(config, config.windows(never))[0]
    experts, top_k = routing(config, "num_experts")
    dense = gated(config)
    moe = MoE(experts=experts, top_k=top_k, width=dense.width, activation=dense.activation)
    period, offset = config.count("attn_layer_period"), config.count("attn_layer_offset", default=4, least=0)
    each, first = config.count("expert_layer_period"), config.count("expert_layer_offset", default=1, least=0)
    layers = tuple(Layer(mixer=attends if i % period == offset else mixer, ffn=moe if i % each == first else dense)
                   for i in range(config.count("num_hidden_layers")))
    return decoder(config, layers)


READERS = {"mamba": Reader(mamba, MAMBA), "mamba2": Reader(mamba2, MAMBA2), "jamba": Reader(jamba, JAMBA)}
