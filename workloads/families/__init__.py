"""HF config.json -> ModelSpec: one small, hand-written reader a family. Needs neither torch nor transformers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from ..spec import ModelSpec
from . import bert, clip, cohere, conformer, deepseek, diffusion, encdec, falcon, gemma, gpt2, linear, llama, moe, opt, ssm, vit, windows
from .config import Config, Reader

FAMILIES: dict[str, Reader] = {
    **llama.READERS,
    **moe.READERS,
    **gemma.READERS,
    **gpt2.READERS,
    **opt.READERS,
    **falcon.READERS,
    **cohere.READERS,
    **deepseek.READERS,
    **bert.READERS,
    **vit.READERS,
    **encdec.READERS,
    **ssm.READERS,
    **linear.READERS,
    **windows.READERS,
    **clip.READERS,
    **diffusion.READERS,
    **conformer.READERS,
}
"""Readers by `model_type`."""

CLASS_NAMES = {"DiTTransformer2DModel": "dit", "UNet2DConditionModel": "unet2d_condition"}
"""The model_type that stands for a class of diffusers, whose files name none."""

SPEC_NEEDS = "hidden size, layers, attention heads (query and KV, and their width), feed-forward width and vocabulary"


def read_config(config: Mapping[str, object], name: str, where: str) -> ModelSpec:
    """The spec of one HF config; `where` is the file that errors name. Of a multimodal config, the language model."""
    model_type = config.get("model_type") or CLASS_NAMES.get(str(config.get("_class_name")))
    reader = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    text = config.get("text_config")
    if isinstance(text, Mapping) and (reader is None or not reader.whole):
        outer = {key: config[key] for key in ("model_type", "tie_word_embeddings") if key in config}
        return read_config({**outer, **text}, name, f"{where}: text_config")
    if model_type is None:
        raise ValueError(f"{where}: key 'model_type' is missing; want one of {', '.join(sorted(FAMILIES))}")
    if reader is None:
        raise ValueError(unknown_architecture(model_type, where))
    return reader.read(Config(values=config, name=name, where=where, family=str(model_type), needs=reader.needs))


def unknown_architecture(model_type: object, where: str) -> str:
    nearest = difflib.get_close_matches(str(model_type).lower(), FAMILIES, n=1)
    hint = f", nearest is {nearest[0]}" if nearest else ""
    return (
        f"{where}: model_type {model_type!r} is not a known architecture{hint}. A spec needs {SPEC_NEEDS}. "
        f"Supported: {', '.join(sorted(FAMILIES))}"
    )
