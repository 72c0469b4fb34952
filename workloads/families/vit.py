"""ViT: an encoder over image patches and one CLS token, with a pre-norm and a classifier."""

from __future__ import annotations

from dataclasses import replace

from ..spec import ModelSpec, MoE, PatchEmbed
from .bert import encoder_layer
from .config import Config, Reader
from .moe import routing

NEEDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size", "num_channels")


def classes(config: Config) -> int:
    """Labels of the classifier; 0 where the file has none, and is then a bare ViTModel."""
    labels = config.values.get("id2label")
    if isinstance(labels, dict) and labels and not config.has("num_labels"):
        return len(labels)
    return config.count("num_labels", default=0, least=0)


def vit(config: Config) -> ModelSpec:
    hidden, num_classes = config.count("hidden_size"), classes(config)
    patches = PatchEmbed(
        image=config.count("image_size"), patch=config.count("patch_size"), channels=config.count("num_channels", default=3)
    )
    if patches.image % patches.patch:
        raise config.wrong("image_size", patches.image, f"a multiple of patch_size = {patches.patch}")
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=hidden,
        layers=(encoder_layer(config, config.flag("qkv_bias", True)),) * config.count("num_hidden_layers"),
        vocab=0,
        norm="layernorm",
        positions=patches.tokens,
        learned_positions=patches.tokens,
        head="classifier" if num_classes else "pooler",
        num_classes=num_classes,
        patches=patches,
        encoder=True,
        extra_parameters=hidden,  # the CLS token
    )


def vmoe(config: Config) -> ModelSpec:
    """Our own model_type, after V-MoE (arXiv 2106.05974, section 2): experts in every `moe_every`-th FFN, the last layer's among them."""
    plain = vit(config)
    experts, top_k = routing(config, "num_experts")
    dense, every = plain.layers[0].ffn, config.count("moe_every", default=2)
    width, activation = config.count("intermediate_size"), config.activation("gelu")
    moe = MoE(experts=experts, top_k=top_k, width=width, gated=False, activation=activation, bias=True)
    count = len(plain.layers)
    layers = tuple(replace(layer, ffn=moe if (count - 1 - i) % every == 0 else dense) for i, layer in enumerate(plain.layers))
    return replace(plain, layers=layers)


READERS = {"vmoe": Reader(vmoe, (*NEEDS, "num_experts", "num_experts_per_tok")), "vit": Reader(vit, NEEDS)}
