"""transformers' models: built without weights, and given inputs of a scenario's lengths."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..scenario import Scenario
from .attention import NAME, register, unmasked
from .dispatch import sentence

Inputs = dict[str, Any]


def build(config: Any) -> torch.nn.Module:
    """The model of a transformers config, on the meta device: the class that `architectures` names, else the one with a language
    model's head where there is one, else the bare model."""
    import transformers

    architecture = next(iter(getattr(config, "architectures", None) or ()), None)
    try:
        with torch.device("meta"):
            if architecture is not None and hasattr(transformers, architecture):
                model = getattr(transformers, architecture)._from_config(config, dtype=torch.bfloat16)
            else:
                model = _auto(config).from_config(config, dtype=torch.bfloat16)
    except Exception as error:
        raise ValueError(f"transformers cannot build a model of this {type(config).__name__}: {sentence(error)}") from error
    assert isinstance(model, torch.nn.Module)
    return model.eval()


def _auto(config: Any) -> Any:
    import transformers
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    if kind in auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
        return transformers.AutoModelForSpeechSeq2Seq
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return transformers.AutoModelForSeq2SeqLM
    if kind in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return transformers.AutoModelForImageTextToText
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


@contextmanager
def ours(model: Any) -> Iterator[None]:
    """The model's attention is ours while this lasts, and its experts run as grouped products; models that choose their attention by
    themselves keep it, and are recorded at torch's own attention function."""
    config = model.config
    before, experts = config._attn_implementation, getattr(config, "_experts_implementation", None)
    attends, routes = type(model)._can_set_attn_implementation(), type(model)._can_set_experts_implementation()
    register()
    if attends:
        model.set_attn_implementation(NAME)
    if routes:
        model.set_experts_implementation("grouped_mm")
    try:
        with unmasked():
            yield
    finally:
        if attends:
            model.set_attn_implementation(before)
        if routes:
            model.set_experts_implementation(experts)


def prefill_inputs(model: Any, scenario: Scenario) -> Inputs:
    """What the model is called with: prompts of the scenario's length, or an image or a piece of sound as it is made for. A language
    model that may see images is given none."""
    config, batch = model.config, scenario.batch
    length = int(scenario.lengths[0])
    main = model.main_input_name
    inputs: Inputs = {}
    accepted = inspect.signature(model.forward).parameters
    sees = main == "pixel_values" or ("pixel_values" in accepted and not decodes(model))
    if sees:
        inputs["pixel_values"] = _images(model, batch)
    if main == "input_features" and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        inputs[main] = _floats(model, batch, config.num_mel_bins, 2 * config.max_source_positions)
    elif main == "input_ids":
        inputs[main] = _tokens(batch, length)
    elif not sees:
        raise ValueError(f"{type(model).__name__} is called with {main!r}: give example inputs beside the model.")
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = _tokens(batch, length if main != "input_ids" else 1)
    if "past_key_values" in accepted or "cache_params" in accepted:
        inputs["use_cache"] = True
        if (cache := new_cache(model)) is not None and "past_key_values" in accepted:
            inputs["past_key_values"] = cache
    if "logits_to_keep" in accepted and not scenario.all_logits:
        inputs["logits_to_keep"] = 1
    return inputs


def _images(model: Any, batch: int) -> torch.Tensor:
    vision = getattr(model.config, "vision_config", model.config)
    size = getattr(vision, "image_size", None)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    if height is None or width is None:
        raise ValueError(f"the config of {type(model).__name__} has no image_size: give example inputs beside the model.")
    return _floats(model, batch, getattr(vision, "num_channels", 3), height, width)


def new_cache(model: Any) -> Any:
    """An empty cache of the kind that the model fills; None for an encoder."""
    from transformers import DynamicCache, EncoderDecoderCache

    if model.config.is_encoder_decoder:
        decoder = model.config.get_text_config(decoder=True)
        return EncoderDecoderCache(DynamicCache(config=decoder), DynamicCache())
    return DynamicCache(config=model.config.get_text_config(decoder=True)) if decodes(model) else None


def decodes(model: Any) -> bool:
    """Whether the model makes one token after another."""
    can = getattr(model, "can_generate", None)
    return bool(can()) if can is not None else False


def decode_inputs(model: Any, first: Inputs, scenario: Scenario, out: Any) -> Inputs:
    """What the next step is called with, after `first` has filled the cache."""
    kept = {key: value for key, value in first.items() if key in ("past_key_values", "use_cache", "logits_to_keep")}
    if getattr(out, "cache_params", None) is not None:
        kept["cache_params"] = out.cache_params
    token = _tokens(scenario.batch, 1)
    if not model.config.is_encoder_decoder:
        return {"input_ids": token, **kept}
    from transformers.modeling_outputs import BaseModelOutput

    return {"encoder_outputs": BaseModelOutput(last_hidden_state=out.encoder_last_hidden_state), "decoder_input_ids": token, **kept}


def _tokens(batch: int, length: int) -> torch.Tensor:
    return torch.zeros(batch, length, dtype=torch.long, device="meta")


def _floats(model: torch.nn.Module, *shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=next(model.parameters()).dtype, device="meta")
