"""Hierarchical vision transformers, whose tokens grow fewer and wider from stage to stage: Swin and PVT-v2."""

from __future__ import annotations

from collections.abc import Sequence

from ..spec import Attention, Chain, Dense, Layer, ModelSpec, Step
from .config import Config, Reader
from .vit import classes

SWIN = ("image_size", "patch_size", "embed_dim", "depths", "num_heads", "window_size")
PVT = ("image_size", "hidden_sizes", "depths", "num_attention_heads", "sr_ratios", "mlp_ratios", "patch_sizes", "strides")
MERGED = 4
"""Neighbours that patch merging makes one token of."""


def counts(config: Config, key: str) -> list[int]:
    """A list of positive whole numbers, one a stage."""
    items = config.items(key)
    if items is None:
        raise config.missing(key)
    if not items or not all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in items):
        raise config.wrong(key, items, "a list of positive whole numbers, one a stage")
    return [int(item) for item in items]  # type: ignore[call-overload]


def same_stages(config: Config, keys: Sequence[str]) -> list[list[int]]:
    lists = [counts(config, key) for key in keys]
    for key, items in zip(keys, lists, strict=True):
        if len(items) != len(lists[0]):
            raise config.wrong(key, f"{len(items)} entries", f"as many as {keys[0]} has, {len(lists[0])}")
    return lists


def ratio(config: Config, key: str, default: float) -> float:
    value = config.values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise config.wrong(key, value, "a positive number")
    return float(value)


def swin(config: Config) -> ModelSpec:
    """Attention in windows (arXiv 2103.14030, section 3); 2 x 2 neighbours become one token between stages. Padding is not modelled."""
    width, patch, image = config.count("embed_dim"), config.count("patch_size"), config.count("image_size")
    depths, heads = same_stages(config, ("depths", "num_heads"))
    window, channels, expand = config.count("window_size"), config.count("num_channels", default=3), ratio(config, "mlp_ratio", 4.0)
    bias, activation = config.flag("qkv_bias", True), config.activation("gelu")
    layers: list[Layer] = []
    side, hidden = image // patch, width
    for stage, (depth, of_stage) in enumerate(zip(depths, heads, strict=True)):
        if stage:
            side, hidden = side // 2, 2 * hidden
            merging = Chain(label="patch merging", residual=False, steps=(
                Step(name="merge", kind="window", n=MERGED * hidden // 2),
                Step(name="merge_norm", kind="layernorm", n=MERGED * hidden // 2),
                Step(name="reduction", kind="gemm", n=hidden, k=MERGED * hidden // 2),
            ))
            layers.append(Layer(mixer=merging, ffn=None, norms=0, hidden=hidden, tokens=side * side))
        if hidden % of_stage:
            raise config.wrong("num_heads", heads, f"divisors of the widths of the stages, of stage {stage} of {hidden}")
        mixer = Attention(heads_q=of_stage, heads_kv=of_stage, head_dim=hidden // of_stage, qkv_bias=bias, out_bias=True, rope=False,
                          causal=False, block=min(window, side) ** 2, extra=(2 * window - 1) ** 2 * of_stage)
        ffn = Dense(width=int(expand * hidden), gated=False, activation=activation, bias=True)
        layers += [Layer(mixer=mixer, ffn=ffn, hidden=hidden, tokens=side * side)] * depth
    embed = (Step(name="patch_embed", kind="conv", n=width, k=channels * patch * patch, bias=True),
             Step(name="patch_norm", kind="layernorm", n=width))
    return _images(config, hidden, layers, (image // patch) ** 2, embed, final_norm=True)


def pvt_v2(config: Config) -> ModelSpec:
    """Keys and values of fewer tokens, and a depthwise convolution in the FFN (arXiv 2106.13797, section 3)."""
    keys = ("hidden_sizes", "depths", "num_attention_heads", "sr_ratios", "mlp_ratios", "patch_sizes", "strides")
    image, channels, entry = config.count("image_size"), config.count("num_channels", default=3), ()
    bias, activation = config.flag("qkv_bias", True), config.activation("gelu")
    layers: list[Layer] = []
    side, tokens = image, 0
    for stage, (hidden, depth, heads, reduce, expand, patch, stride) in enumerate(zip(*same_stages(config, keys), strict=True)):
        side, width = -(-side // stride), expand * hidden
        embed = (Step(name="patch_embed", kind="conv", n=hidden, k=channels * patch * patch, reads=channels * stride * stride, bias=True),
                 Step(name="patch_norm", kind="layernorm", n=hidden))
        if stage:
            layers.append(Layer(mixer=Chain(label="patch embedding", residual=False, steps=embed), ffn=None, norms=0, hidden=hidden,
                                tokens=side * side))
        else:
            entry, tokens = embed, side * side  # type: ignore[assignment]
        mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=hidden // heads, qkv_bias=bias, out_bias=True, rope=False, causal=False,
                          reduce=reduce * reduce)
        ffn = Chain(label=f"FFN {width} with a depthwise convolution", steps=(
            Step(name="up", kind="gemm", n=width, k=hidden, bias=True, cut="n"),
            Step(name="dwconv", kind="dwconv", n=width, k=9, bias=True, cut="n"),
            Step(name="activation", kind=activation, n=width, cut="n"),
            Step(name="down", kind="gemm", n=hidden, k=width, bias=True, cut="k"),
        ))
        layers += [Layer(mixer=mixer, ffn=ffn, hidden=hidden, tokens=side * side)] * depth
        norm = Chain(label="norm", residual=False, steps=(Step(name="stage_norm", kind="layernorm", n=hidden),))
        layers.append(Layer(mixer=norm, ffn=None, norms=0, hidden=hidden, tokens=side * side))
        channels = hidden
    return _images(config, channels, layers, tokens, entry, final_norm=False)


def _images(config: Config, hidden: int, layers: list[Layer], tokens: int, entry: tuple[Step, ...], *, final_norm: bool) -> ModelSpec:
    labels = classes(config)
    return ModelSpec(name=config.name, family=config.family, hidden=hidden, layers=tuple(layers), vocab=0, norm="layernorm",
                     final_norm=final_norm, tokens=tokens, entry=entry, head="classifier" if labels else "none", num_classes=labels,
                     encoder=True)


READERS = {"swin": Reader(swin, SWIN), "pvt_v2": Reader(pvt_v2, PVT)}
