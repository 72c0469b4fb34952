"""CLIP: an image and a text encoder side by side; LLaVA: CLIP's image tokens, projected, in front of a language model's prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..spec import Attention, Dense, Layer, ModelSpec, Step
from .config import Config, Reader
from .llama import llama

CLIP = ("text_config", "vision_config", "projection_dim")
LLAVA = ("text_config", "vision_config")

def inner(config: Config, key: str, needs: tuple[str, ...]) -> Config:
    """The config inside a config."""
    values = config.values.get(key)
    if values is None:
        raise config.missing(key)
    if not isinstance(values, Mapping):
        raise config.wrong(key, values, "a mapping")
    return Config(values=values, name=config.name, where=f"{config.where}: {key}", family=config.family, needs=needs)


def clip_layers(config: Config, *, causal: bool) -> tuple[Layer, ...]:
    heads = config.count("num_attention_heads")
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=config.head_dim(), qkv_bias=True, out_bias=True, rope=False, causal=causal)
    ffn = Dense(width=config.count("intermediate_size"), gated=False, activation=config.activation("gelu"), bias=True)
    return (Layer(mixer=mixer, ffn=ffn),) * config.count("num_hidden_layers")


def vision(config: Config) -> ModelSpec:
    """Patches without a bias, a class token, a norm before the layers and one after them."""
    values = inner(config, "vision_config", ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size",
                                             "patch_size"))
    hidden, image, patch = values.count("hidden_size"), values.count("image_size"), values.count("patch_size")
    if image % patch:
        raise values.wrong("image_size", image, f"a multiple of patch_size = {patch}")
    patches = (image // patch) ** 2
    entry = (Step(name="patch_embed", kind="conv", n=hidden, k=values.count("num_channels", default=3) * patch * patch, rows=patches),)
    return ModelSpec(name=f"{config.name} image encoder", family=config.family, hidden=hidden, layers=clip_layers(values, causal=False),
                     vocab=0, norm="layernorm", embed_norm=True, learned_positions=patches + 1, tokens=patches + 1, entry=entry,
                     head="none", encoder=True, extra_parameters=hidden)


def clip(config: Config) -> ModelSpec:
    """One pass encodes an image and a text of `prompt` tokens a request."""
    needs = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings")
    text, shared, image = inner(config, "text_config", needs), config.count("projection_dim"), vision(config)
    hidden, positions = text.count("hidden_size"), text.count("max_position_embeddings")
    projected = Step(name="image_projection", kind="gemm", n=shared, k=image.hidden, each="sequence")
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=hidden,
        layers=clip_layers(text, causal=True),
        vocab=text.count("vocab_size"),
        norm="layernorm",
        positions=positions,
        learned_positions=positions,
        head="none",
        exit=(Step(name="text_projection", kind="gemm", n=shared, k=hidden, each="sequence"),),
        towers=(replace(image, exit=(projected,)),),
        encoder=True,
        extra_parameters=1,  # the temperature
    )


def llava(config: Config) -> ModelSpec:
    """Image tokens without the class token go through two linear maps. All layers of the image encoder run, as in transformers."""
    values = inner(config, "text_config", ())
    text = llama(replace(values, values={"max_position_embeddings": 4096, **values.values}, needs=LLAVA))
    image, hidden = vision(config), text.hidden
    tokens, bias = image.tokens - 1, config.flag("multimodal_projector_bias", True)
    projector = (Step(name="projector_1", kind="gemm", n=hidden, k=image.hidden, rows=tokens, bias=bias),
                 Step(name="projector_gelu", kind="gelu", n=hidden, rows=tokens),
                 Step(name="projector_2", kind="gemm", n=hidden, k=hidden, rows=tokens, bias=bias))
    return replace(text, towers=(replace(image, exit=projector),), prefix_tokens=tokens)


READERS = {"clip": Reader(clip, CLIP, whole=True), "llava": Reader(llava, LLAVA, whole=True)}
