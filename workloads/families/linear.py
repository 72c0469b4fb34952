"""Linear attention: RWKV-4, gated linear attention, DeltaNet, Qwen3-Next (gated delta rule beside softmax attention), and FNet."""

from __future__ import annotations

from dataclasses import replace

from ..spec import Attention, Chain, Dense, Layer, ModelSpec, MoE, Step
from .config import Config, Reader, never
from .llama import attention, decoder
from .moe import QWEN, routing
from .ssm import conv

RWKV = ("hidden_size", "num_hidden_layers", "vocab_size")
FLA = (*RWKV, "num_heads")
NEXT = (*QWEN, "shared_expert_intermediate_size", "linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim",
        "linear_value_head_dim")
FNET = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "max_position_embeddings")
CHUNK = 64
"""Tokens of a chunk in the public kernels (fla-org/flash-linear-attention)."""
WKV_STATES = 3
"""Numerator, denominator and largest exponent of each channel."""


def rwkv(config: Config) -> ModelSpec:
    """RWKV-4: a weighted mean that decays, and a squared-relu feed-forward part, each on a mix with the token before."""
    hidden = config.count("hidden_size")
    inner, width = config.count("attention_hidden_size", default=hidden), config.count("intermediate_size", default=4 * hidden)
    mix = {"kind": "lerp", "n": hidden, "extra": hidden}
    time = Chain(label=f"RWKV {inner}", steps=(
        *(Step(name=f"mix_{name}", state=hidden if name == "key" else 0, **mix) for name in ("key", "value", "receptance")),  # type: ignore[arg-type]
        Step(name="kvr_proj", kind="gemm", n=3 * inner, k=hidden, cut="n"),
        Step(name="wkv", kind="wkv", n=inner, key_dim=WKV_STATES, extra=2 * inner, cut="n"),
        Step(name="receptance_gate", kind="sigmoid_mul", n=inner, cut="n"),
        Step(name="o_proj", kind="gemm", n=hidden, k=inner, cut="k"),
    ))
    channel = Chain(label=f"channel mix {width}", steps=(
        *(Step(name=f"mix_{name}", state=hidden if name == "key" else 0, **mix) for name in ("key", "receptance")),  # type: ignore[arg-type]
        Step(name="up", kind="gemm", n=width, k=hidden, cut="n"),
        Step(name="activation", kind="relu2", n=width, cut="n"),
        Step(name="down", kind="gemm", n=hidden, k=width, cut="k"),
        Step(name="receptance", kind="gemm", n=hidden, k=hidden),
        Step(name="receptance_gate", kind="sigmoid_mul", n=hidden),
    ))
    layers = (Layer(mixer=time, ffn=channel),) * config.count("num_hidden_layers")
    return replace(decoder(config, layers), norm="layernorm", embed_norm=True)


def fla_ffn(config: Config) -> Dense:
    """A gated FFN of two thirds of `hidden_ratio` x hidden, rounded up to 256, where the file states no width."""
    hidden = config.count("hidden_size")
    width = -(-int(hidden * config.count("hidden_ratio", default=4) * 2 / 3) // 256) * 256
    return Dense(width=config.count("intermediate_size", default=width), gated=True, activation=config.activation("silu"))


def share(config: Config, key: str, default: float) -> int:
    """A width that the file states as a share of the hidden size."""
    value = config.values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise config.wrong(key, value, "a positive number")
    return int(config.count("hidden_size") * value)


def linear_layers(config: Config, kind: str, *, decay_rank: int = 0, beta: bool = False, gate: bool) -> tuple[Layer, ...]:
    """Layers of linear attention: projections, short convolutions where the file has them, the scan, its norm, an output gate."""
    hidden, heads = config.count("hidden_size"), config.count("num_heads")
    key, value = share(config, "expand_k", 0.5 if decay_rank else 1.0), share(config, "expand_v", 1.0)
    convs = conv("conv1d", 2 * key + value, config.count("conv_size", default=4), False) if config.flag("use_short_conv", beta) else ()
    decay = (Step(name="decay_down", kind="gemm", n=decay_rank, k=hidden),
             Step(name="decay_up", kind="gemm", n=key, k=decay_rank, bias=True))
    solve = Step(name="trisolve", kind="trisolve", n=CHUNK, heads=heads, prefill_only=True, cut="heads")
    mixer = Chain(label=f"{config.family} {heads} x {key // heads} x {value // heads}", steps=(
        Step(name="qkv_proj", kind="gemm", n=2 * key + value + (value if gate else 0), k=hidden, cut="n"),
        *convs,
        *(decay if decay_rank else ()),
        *((Step(name="beta_proj", kind="gemm", n=heads, k=hidden), solve) if beta else ()),
        Step(name="scan", kind=kind, heads=heads, key_heads=heads, key_dim=key // heads, value_dim=value // heads, k=CHUNK, cut="heads"),
        Step(name="out_norm", kind="rmsnorm", n=value // heads, times=heads),
        *((Step(name="gate", kind="silu_mul", n=value, cut="n"),) if gate else ()),
        Step(name="o_proj", kind="gemm", n=hidden, k=value, cut="k"),
    ))
    return (Layer(mixer=mixer, ffn=fla_ffn(config)),) * config.count("num_hidden_layers")


def gla(config: Config) -> ModelSpec:
    """Gated linear attention: a decay of each key element, from a low rank (arXiv 2312.06635, section 4)."""
    rank = config.count("gate_low_rank_dim", default=16)
    return decoder(config, linear_layers(config, "gated_scan", decay_rank=rank, gate=config.flag("use_output_gate", True)))


def delta_net(config: Config) -> ModelSpec:
    """The delta rule over chunks (arXiv 2406.06484): a step size a head, and the inverse of a triangle in each chunk."""
    return decoder(config, linear_layers(config, "delta_scan", beta=True, gate=config.flag("use_gate", False)))


def gated_delta(config: Config) -> Chain:
    """Qwen3-Next's linear layers: keys and queries of fewer heads than values, one decay a value head (arXiv 2412.06464)."""
    hidden, key_heads, heads = (config.count(name) for name in ("hidden_size", "linear_num_key_heads", "linear_num_value_heads"))
    key_dim, value_dim = config.count("linear_key_head_dim"), config.count("linear_value_head_dim")
    key, value = key_heads * key_dim, heads * value_dim
    return Chain(label=f"gated DeltaNet {heads} x {key_dim} x {value_dim}", steps=(
        Step(name="qkvz_proj", kind="gemm", n=2 * key + 2 * value, k=hidden, cut="n"),
        Step(name="ba_proj", kind="gemm", n=2 * heads, k=hidden, cut="n"),
        *conv("conv1d", 2 * key + value, config.count("linear_conv_kernel_dim", default=4), False, "n"),
        Step(name="trisolve", kind="trisolve", n=CHUNK, heads=heads, prefill_only=True, cut="heads"),
        Step(name="scan", kind="delta_scan", heads=heads, key_heads=key_heads, key_dim=key_dim, value_dim=value_dim, k=CHUNK,
             extra=2 * heads, cut="heads"),
        Step(name="out_norm", kind="rmsnorm", n=value_dim, times=heads),
        Step(name="gate", kind="silu_mul", n=value, cut="n"),
        Step(name="o_proj", kind="gemm", n=hidden, k=value, cut="k"),
    ))


def qwen3_next(config: Config) -> ModelSpec:
    """Three layers of the gated delta rule, then one of gated softmax attention; experts in all."""
    experts, top_k = routing(config, "num_experts")
    activation, count = config.activation("silu"), config.count("num_hidden_layers")
    shared = Dense(width=config.count("shared_expert_intermediate_size"), gated=True, activation=activation)
    moe = MoE(experts=experts, top_k=top_k, width=config.count("moe_intermediate_size"), activation=activation, shared=shared,
              shared_gate=True)
    bare = Config(values={k: v for k, v in config.values.items() if k != "layer_types"}, name=config.name, where=config.where,
                  family=config.family, needs=config.needs)
    full: Attention = replace(attention(bare, bare.windows(never), head_dim=256, qk_norm=True)[0], gate=True)
    every = config.count("full_attention_interval", default=4)
    types = config.items("layer_types") or ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(count)]
    unknown = [kind for kind in types if kind not in ("full_attention", "linear_attention")]
    if unknown or len(types) != count:
        raise config.wrong("layer_types", unknown[0] if unknown else f"{len(types)} entries",
                           f"full_attention or linear_attention for each of {count} layers")
    delta = gated_delta(config)
    return decoder(config, tuple(Layer(mixer=full if kind == "full_attention" else delta, ffn=moe) for kind in types))


def fnet(config: Config) -> ModelSpec:
    """Fourier transforms along the width and along the tokens in the place of attention (arXiv 2105.03824, section 3)."""
    hidden, positions = config.count("hidden_size"), config.count("max_position_embeddings")
    mixer = Chain(label="FFT", steps=(Step(name="fft_hidden", kind="fft", n=hidden),
                                      Step(name="fft_tokens", kind="fft", n=hidden, along="tokens")))
    ffn = Dense(width=config.count("intermediate_size"), gated=False, activation=config.activation("gelu"), bias=True)
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=hidden,
        layers=(Layer(mixer=mixer, ffn=ffn),) * config.count("num_hidden_layers"),
        vocab=config.count("vocab_size"),
        norm="layernorm",
        positions=positions,
        learned_positions=positions,
        token_types=config.count("type_vocab_size", default=4),
        embed_dim=None,
        embed_norm=True,
        final_norm=False,
        head="pooler",
        encoder=True,
        extra_parameters=hidden * hidden + hidden,  # a projection after the embedding, which is folded into it when run
    )


READERS = {"rwkv": Reader(rwkv, RWKV), "gla": Reader(gla, FLA), "delta_net": Reader(delta_net, FLA),
           "qwen3_next": Reader(qwen3_next, NEXT), "fnet": Reader(fnet, FNET)}
