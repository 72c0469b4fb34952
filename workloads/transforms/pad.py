"""Requests padded to the longest: what a batch costs without packed (ragged) kernels, which are gemvane's default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform


@dataclass(frozen=True, kw_only=True)
class Pad(Transform):
    NAME: ClassVar[str] = "pad"
    SOURCE: ClassVar[str] = "Zhai et al., ByteTransformer, arXiv 2210.03052: what it does away with"

    to: int = 0
    """Length of every request; 0: that of the longest."""

    def __post_init__(self) -> None:
        if self.to < 0:
            raise self.wrong("to", "0 for the longest request, or a length")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        longest = int(scenario.lengths.max())
        if spec.input_tokens:
            raise ValueError(f"{self.NAME}: every input of {spec.name} has {spec.input_tokens} tokens, so there is nothing to pad.")
        if self.to and self.to < longest:
            raise self.wrong("to", f"at least the longest request, {longest} tokens")
        if (self.to or longest) == int(scenario.lengths.min()):
            raise ValueError(f"{self.NAME}: every request has {longest} tokens, so there is nothing to pad.")
        return spec, scenario.but(prompt=self.to or longest)

    @property
    def changes(self) -> str:
        return f"Every request has {self.to or 'as many'} tokens{'' if self.to else ' as the longest'}."
