"""Attention without the shortcuts of a model: no windows, pieces, strides or reduced keys. What the baselines of many papers are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import own_attention, swap_attention


@dataclass(frozen=True, kw_only=True)
class AllPairs(Transform):
    NAME: ClassVar[str] = "all_pairs"
    SOURCE: ClassVar[str] = "Vaswani et al., arXiv 1706.03762"
    GROUP: ClassVar[str] = "attention"

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        attentions = [own_attention(layer) for layer in spec.layers]
        if not any(a and (a.window or a.block or a.reduce > 1 or a.density < 1) for a in attentions):
            raise ValueError(f"{self.NAME}: every token of {spec.name} already sees every token that it may.")
        plain = {"window": None, "block": 0, "reduce": 1, "density": 1.0, "prepare": ()}
        return swap_attention(self.NAME, spec, lambda old, _: replace(old, **plain)), scenario  # type: ignore[arg-type]

    @property
    def changes(self) -> str:
        return "Every token sees every token that a causal mask, where there is one, leaves it."
