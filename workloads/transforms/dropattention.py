"""Attention taken out of some layers (MLP can be a good transformer learner)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, own_attention


@dataclass(frozen=True, kw_only=True)
class DropAttention(Transform):
    NAME: ClassVar[str] = "drop_attention"
    SOURCE: ClassVar[str] = "Lin et al., MLP Can Be A Good Transformer Learner, arXiv 2404.05657"

    share: float = 0.4
    """Of the layers that lose their attention, with its norm: the last ones that have one."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise self.wrong("share", "a share above 0, at most 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        has = [i for i, layer in enumerate(spec.layers) if own_attention(layer) and layer.ffn is not None and not layer.parallel]
        if not has:
            raise ValueError(f"{self.NAME}: no layer of {spec.name} has attention and a feed-forward part one after the other.")
        gone = round(self.share * len(has))
        if gone == 0:
            raise self.wrong("share", f"at least one of {len(has)} layers")
        layers = list(spec.layers)
        for i in has[-gone:]:
            layers[i] = replace(layers[i], mixer=chain("none", ()), norms=layers[i].norms // 2)
        return replace(spec, layers=tuple(layers)), scenario

    @property
    def changes(self) -> str:
        return f"{self.share:.3g} of the layers have no attention; what enters them goes to the feed-forward part."
