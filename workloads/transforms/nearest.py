"""Attention over the nearest keys: an index of the keys, a search for each query, and an attention over what it finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import refuse_decoding, swap_attention


@dataclass(frozen=True, kw_only=True)
class Nearest(Transform):
    """Keys and queries are projected on `projections` directions; a search sorts and visits `candidates` keys a query, gathers them and
    attends to the `keys` best (Prioritized DCI, Li and Malik 2017, as IceFormer uses it)."""

    NAME: ClassVar[str] = "nearest_keys"
    SOURCE: ClassVar[str] = "Mao et al., IceFormer, arXiv 2405.02842; Roy et al., Routing Transformers, arXiv 2003.05997"
    GROUP: ClassVar[str] = "attention"

    keys: int = 64
    candidates: int = 256
    projections: int = 32

    def __post_init__(self) -> None:
        for name in ("keys", "projections"):
            if getattr(self, name) < 1:
                raise self.wrong(name, "at least 1")
        if self.candidates < self.keys:
            raise self.wrong("candidates", f"at least as many as keys, {self.keys}")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        refuse_decoding(self.NAME, spec, scenario, "its index is built of a whole prompt")
        return swap_attention(self.NAME, spec, lambda old, _: replace(old, window=self.keys, prepare=self._search(old))), scenario

    def _search(self, old: Attention) -> tuple[Step, ...]:
        both, d = old.heads_q + old.heads_kv, old.head_dim
        return (
            Step(name="project", kind="gemm", times=both, n=self.projections, k=d),
            # A multiplication and an addition for each element of a candidate, wherever it lies: what a sample of a grid does.
            Step(name="candidate_scores", kind="grid_sample", times=old.heads_q, n=d, k=self.candidates),
            Step(name="nearest", kind="topk", times=old.heads_q, n=self.candidates),
        )

    @property
    def changes(self) -> str:
        return (f"Each query sees the {self.keys} nearest of its keys, found among {self.candidates} candidates by {self.projections} "
                "projections.")

    @property
    def assumes(self) -> str:
        return f"{self.candidates} candidates a query, gathered from scattered places, are enough to find the {self.keys} nearest."
