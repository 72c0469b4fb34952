"""Conformers over speech: wav2vec2-conformer. A token stands for 320 samples (20 ms); the prompt counts tokens."""

from __future__ import annotations

from math import prod

from ..spec import Attention, Chain, Dense, Layer, ModelSpec, Step
from .config import Config, Reader
from .windows import same_stages

NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "conv_dim", "conv_stride", "conv_kernel")


def convolution(hidden: int, taps: int) -> Chain:
    """The convolution module (arXiv 2005.08100, section 2.2): gated, then each channel over its neighbours, then mixed."""
    return Chain(label=f"convolution of {taps} taps", steps=(
        Step(name="pointwise_1", kind="gemm", n=2 * hidden, k=hidden),
        Step(name="glu", kind="sigmoid_mul", n=hidden),
        Step(name="depthwise", kind="dwconv", n=hidden, k=taps),
        Step(name="batch_norm", kind="batchnorm", n=hidden),
        Step(name="depthwise_silu", kind="silu", n=hidden),
        Step(name="pointwise_2", kind="gemm", n=hidden, k=hidden),
    ))


def features(config: Config) -> tuple[Step, ...]:
    """Convolutions over the samples, each with a norm and a gelu, then the projection to the layers' width."""
    dims, strides, kernels = same_stages(config, ("conv_dim", "conv_stride", "conv_kernel"))
    group = config.values.get("feat_extract_norm", "group") == "group"
    bias, channels, steps = config.flag("conv_bias", False), 1, []
    for i, (dim, stride, kernel) in enumerate(zip(dims, strides, kernels, strict=True)):
        times = prod(strides[i + 1 :])
        steps.append(Step(name=f"conv{i}", kind="conv", n=dim, k=kernel * channels, reads=stride * channels, times=times, bias=bias))
        if not group or i == 0:
            steps.append(Step(name=f"conv{i}_norm", kind="groupnorm" if group else "layernorm", n=dim, times=times))
        steps.append(Step(name=f"conv{i}_gelu", kind="gelu", n=dim, times=times))
        channels = dim
    hidden = config.count("hidden_size")
    return (*steps, Step(name="feature_norm", kind="layernorm", n=channels),
            Step(name="feature_projection", kind="gemm", n=hidden, k=channels, bias=True, extra=hidden))  # and the embedding of a mask


def conformer(config: Config) -> ModelSpec:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    relative = config.values.get("position_embeddings_type", "relative") == "relative"
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=config.head_dim(), qkv_bias=True, out_bias=True, rope=not relative,
                      causal=False, relative=relative)
    half = Dense(width=config.count("intermediate_size"), gated=False, activation=config.activation("silu"), bias=True)
    kernel, groups = config.count("num_conv_pos_embeddings", default=128), config.count("num_conv_pos_embedding_groups", default=16)
    unused = hidden * (hidden // groups) * kernel + kernel + hidden  # a convolution of positions that the checkpoint has and does not run
    taps = config.count("conv_depthwise_kernel_size", default=31)
    layer = Layer(before=(half,), mixer=mixer, between=(convolution(hidden, taps),), ffn=half, norms=5)
    return ModelSpec(name=config.name, family=config.family, hidden=hidden, layers=(layer,) * config.count("num_hidden_layers"), vocab=0,
                     norm="layernorm", entry=features(config), head="none", encoder=True, extra_parameters=unused)


READERS = {"wav2vec2-conformer": Reader(conformer, NEEDS)}
