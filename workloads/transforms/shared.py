"""A cache made once: YOCO's decoder-decoder, and one latent for all heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import MLA
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .cache import refuse_cacheless
from .swap import own_attention


@dataclass(frozen=True, kw_only=True)
class CacheOnce(Transform):
    """The first half of the layers sees a window; the others all read one cache, and in a prefill only the last token goes through them."""

    NAME: ClassVar[str] = "yoco"
    SOURCE: ClassVar[str] = "Sun et al., You Only Cache Once, arXiv 2405.05254, section 2"
    GROUP: ClassVar[str] = "cache"

    window: int = 1024
    """Tokens that the first half sees (the paper has a variant with a window, and one with retention)."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise self.wrong("window", "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        refuse_cacheless(self.NAME, spec)
        if scenario.all_logits:
            raise ValueError(f"{self.NAME}: only the last token of a prompt goes through all layers, so there are no other logits.")
        mixers = [own_attention(layer) for layer in spec.layers]
        if any(mixer is None or layer.between for mixer, layer in zip(mixers, spec.layers, strict=True)):
            raise ValueError(f"{self.NAME}: {spec.name} has layers without softmax attention over its own tokens, or with attention over "
                             "those of an encoder. Expected attention in every layer.")
        half, layers = len(spec.layers) // 2, []
        for number, (layer, mixer) in enumerate(zip(spec.layers, mixers, strict=True)):
            assert mixer is not None
            if number < half:
                layers.append(replace(layer, mixer=replace(mixer, window=min(self.window, mixer.window or self.window))))
            else:
                made_once = replace(mixer, window=None, source="self" if number == half else "shared")
                layers.append(replace(layer, mixer=made_once, last_token=True))
        return replace(spec, layers=tuple(layers)), scenario

    @property
    def changes(self) -> str:
        return (f"The first half of the layers sees {self.window} tokens; keys and values of the others are made once, by the first of "
                "them, and a prefill takes only the last token through them.")


@dataclass(frozen=True, kw_only=True)
class Latent(Transform):
    """Multi-head attention becomes latent attention: the cache holds one latent and one rotary key a token."""

    NAME: ClassVar[str] = "latent"
    SOURCE: ClassVar[str] = "DeepSeek-V2, arXiv 2405.04434, section 2.1"
    GROUP: ClassVar[str] = "cache"

    rank: int = 512
    rope: int = 64

    def __post_init__(self) -> None:
        for name in ("rank", "rope"):
            if getattr(self, name) < 1:
                raise self.wrong(name, "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        refuse_cacheless(self.NAME, spec)
        layers = []
        for layer in spec.layers:
            if (old := own_attention(layer)) is None:
                raise ValueError(f"{self.NAME}: {spec.name} has layers without softmax attention over its own tokens. Expected it in all.")
            mixer = MLA(heads_q=old.heads_q, q_lora_rank=None, kv_lora_rank=self.rank, nope_dim=old.head_dim, rope_dim=self.rope,
                        value_dim=old.head_dim, causal=old.causal, window=old.window)
            layers.append(replace(layer, mixer=mixer))
        return replace(spec, layers=tuple(layers)), scenario

    @property
    def changes(self) -> str:
        return f"The cache holds {self.rank + self.rope} elements a token and layer: a latent of {self.rank}, a rotary key of {self.rope}."
