"""Attention without projections to values, or to values and keys (optimised and efficient attention)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import swap_attention


@dataclass(frozen=True, kw_only=True)
class Unprojected(Transform):
    NAME: ClassVar[str] = "unprojected"
    SOURCE: ClassVar[str] = "Hosseini and Hosseini, You Need to Pay Better Attention, arXiv 2403.01643"
    GROUP: ClassVar[str] = "attention"

    dropped: int = 1
    """1: values are the input (optimised attention); 2: keys as well (efficient attention)."""

    def __post_init__(self) -> None:
        if self.dropped not in (1, 2):
            raise self.wrong("dropped", "1 or 2")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        return swap_attention(self.NAME, spec, lambda old, _: replace(old, given=self.dropped)), scenario

    @property
    def changes(self) -> str:
        return f"Attention takes {'values' if self.dropped == 1 else 'keys and values'} from its input without a projection."
