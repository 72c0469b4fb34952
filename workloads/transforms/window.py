"""Sliding-window attention: each query sees the keys nearest to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import swap_attention


@dataclass(frozen=True, kw_only=True)
class Window(Transform):
    NAME: ClassVar[str] = "window"
    SOURCE: ClassVar[str] = "Beltagy et al., Longformer, arXiv 2004.05150; Zhang et al., arXiv 2310.12442"
    GROUP: ClassVar[str] = "attention"

    tokens: int = 1024
    full_every: int = 0
    """Each so-many-th layer keeps full attention; 0: none does."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise self.wrong("tokens", "at least 1")
        if self.full_every < 0:
            raise self.wrong("full_every", "0 for no such layer, or a number of layers")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        def chosen(number: int) -> bool:
            return not self.full_every or number % self.full_every != 0

        def new(old: Attention, _: int) -> Attention:
            return replace(old, window=min(self.tokens, old.window or self.tokens))

        return swap_attention(self.NAME, spec, new, chosen), scenario

    @property
    def changes(self) -> str:
        kept = f" in all layers but each {self.full_every}th" if self.full_every else ""
        return f"A query sees {self.tokens} tokens{kept}, and the cache keeps no more."
