"""Linear layers as two factors of a low rank (LiteASR, AxFormer's kin)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Dense
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import own_attention


@dataclass(frozen=True, kw_only=True)
class Factor(Transform):
    """The joint projection to queries, keys and values is one matrix here, and so one pair of factors."""

    NAME: ClassVar[str] = "low_rank"
    SOURCE: ClassVar[str] = "Kamahori et al., LiteASR, arXiv 2502.20583"

    rank: float = 0.25
    """Of a linear layer, as a share of the model's width."""
    encoder: bool = False
    """Only the encoders that run before the model."""

    def __post_init__(self) -> None:
        if not 0 < self.rank <= 1:
            raise self.wrong("rank", "a share above 0, at most 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if self.encoder and not spec.towers:
            raise ValueError(f"{self.NAME}: {spec.name} has no encoder before it. Use encoder=false.")
        if self.encoder:
            return replace(spec, towers=tuple(self._factored(tower) for tower in spec.towers)), scenario
        return self._factored(spec), scenario

    def _factored(self, spec: ModelSpec) -> ModelSpec:
        layers = []
        for layer in spec.layers:
            rank = max(1, round(self.rank * (layer.hidden or spec.hidden)))
            mixer, ffn, attends = layer.mixer, layer.ffn, own_attention(layer)
            if attends is not None and attends.reduce == 1 and not attends.gate:
                mixer = replace(attends, rank=rank)
            if isinstance(ffn, Dense):
                ffn = replace(ffn, rank=rank)
            layers.append(replace(layer, mixer=mixer, ffn=ffn))
        if tuple(layers) == spec.layers:
            raise ValueError(f"{self.NAME}: {spec.name} has no linear layers of attention or a dense feed-forward part.")
        return replace(spec, layers=tuple(layers))

    @property
    def changes(self) -> str:
        whose = " of the encoder" if self.encoder else ""
        return f"Each linear layer{whose} becomes two, with {self.rank:.3g} of the width between."
