"""Activation sparsity: of the feed-forward part's neurons only those that are not zero go on (the lazy neuron phenomenon)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import swap_dense


@dataclass(frozen=True, kw_only=True)
class Lazy(Transform):
    NAME: ClassVar[str] = "active_neurons"
    SOURCE: ClassVar[str] = "Li et al., The Lazy Neuron Phenomenon, arXiv 2210.06313"

    share: float = 0.03
    """Of the neurons that one token makes other than zero."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise self.wrong("share", "a share between 0 and 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        return swap_dense(self.NAME, spec, lambda ffn, _: replace(ffn, active=self.share)), scenario

    @property
    def changes(self) -> str:
        return (f"The product down from the neurons is over those that a token of the step makes other than zero, {self.share:.3g} of them "
                "for one token; every weight is kept.")

    @property
    def assumes(self) -> str:
        return "Tokens choose their neurons independently, so that a batch reads the union of what they choose."
