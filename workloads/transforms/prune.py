"""Token reduction over the layers of an encoder: pruned by a score, or merged by similarity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Chain, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain


@dataclass(frozen=True, kw_only=True)
class Reduce(Transform):
    """At each stage a score of every token, its top-k and a gather of those that stay; or, merging, a product of half of the tokens with
    the other half, its top-k and a scatter-add of those that go (ToMe, arXiv 2210.09461, section 3)."""

    NAME: ClassVar[str] = "reduce_tokens"
    SOURCE: ClassVar[str] = "Pan et al., IA-RED2, arXiv 2106.12620; Bolya et al., ToMe, arXiv 2210.09461"

    keep: float = 0.7
    """Share of the tokens that each stage keeps of those it is given."""
    stages: int = 3
    """Stages, spread evenly over the layers, none before the first."""
    merge: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise self.wrong("keep", "a share between 0 and 1")
        if self.stages < 1:
            raise self.wrong("stages", "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if not spec.encoder:
            raise ValueError(f"{self.NAME}: {spec.name} generates tokens from a cache whose layers are taken to hold the same ones. "
                             "Expected an encoder.")
        count = len(spec.layers)
        if self.stages >= count:
            raise self.wrong("stages", f"fewer than the {count} layers of {spec.name}")
        if any(layer.tokens or layer.keep < 1 for layer in spec.layers):
            raise ValueError(f"{self.NAME}: the layers of {spec.name} already differ in their tokens.")
        starts = {round(count * (i + 1) / (self.stages + 1)): i + 1 for i in range(self.stages)}
        layers, stage = [], 0
        for number, layer in enumerate(spec.layers):
            stage = starts.get(number, stage)
            before = (self._select(spec.hidden), *layer.before) if number in starts else layer.before
            layers.append(replace(layer, keep=self.keep**stage, before=before) if stage else layer)
        return replace(spec, layers=tuple(layers)), scenario

    def _select(self, hidden: int) -> Chain:
        if self.merge:
            steps = (Step(name="similarity", kind="bmm", along="pieces", times=1, stride=2, k=hidden),
                     Step(name="best", kind="topk", along="pieces", times=1, stride=2),
                     Step(name="merge", kind="scatter", n=hidden))
        else:
            steps = (Step(name="token_score", kind="gemm", n=1, k=hidden),
                     Step(name="best", kind="topk", n=1), Step(name="select", kind="gather", n=hidden))
        return replace(chain("merge" if self.merge else "prune", steps), residual=False)

    @property
    def changes(self) -> str:
        return (f"{self.stages} stages {'merge' if self.merge else 'prune'} tokens, each to {self.keep:.3g} of what it is given; "
                f"the last layers run on {self.keep**self.stages:.3g} of them.")

    @property
    def assumes(self) -> str:
        return "Every input keeps the same share, so that a batch stays dense."
