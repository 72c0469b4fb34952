"""Block-sparse attention of a prefill: a pass that scores blocks, and an attention over those that are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import swap_attention


@dataclass(frozen=True, kw_only=True)
class BlockSparse(Transform):
    """XAttention's scores are those of pieces of `stride` queries with pieces of `stride` keys, each over `stride` x head_dim elements
    (antidiagonals of their product, arXiv 2503.16428, section 2); a softmax of them, their sums and a sort of each row choose blocks."""

    NAME: ClassVar[str] = "block_sparse"
    SOURCE: ClassVar[str] = "Xu et al., XAttention, arXiv 2503.16428"
    GROUP: ClassVar[str] = "attention"

    density: float = 0.1
    """Share of the visible blocks that are computed."""
    stride: int = 16
    """Tokens of a piece of the scoring pass; 0: the blocks are known without one."""
    block: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise self.wrong("density", "a share above 0, at most 1")
        if self.stride < 0:
            raise self.wrong("stride", "0 for no scoring pass, or a number of tokens")
        if self.block < 1:
            raise self.wrong("block", "at least 1 token")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        return swap_attention(self.NAME, spec, lambda old, _: replace(old, density=self.density, prepare=self._pass(old))), scenario

    def _pass(self, old: Attention) -> tuple[Step, ...]:
        if not self.stride:
            return ()
        # Where later tokens are hidden, half of the pieces meet.
        pieces = {"along": "pieces", "times": old.heads_q, "stride": self.stride, "share": 0.5 if old.causal else 1.0, "cut": "heads",
                  "prefill_only": True}
        blocks = pieces | {"stride": self.block}
        return (
            Step(name="block_scores", kind="bmm", k=self.stride * old.head_dim, **pieces),  # type: ignore[arg-type]
            Step(name="block_softmax", kind="softmax", **pieces),  # type: ignore[arg-type]
            Step(name="block_sort", kind="sort", **blocks),  # type: ignore[arg-type]
        )

    @property
    def changes(self) -> str:
        scores = f", after a pass that scores pieces of {self.stride} tokens and sorts blocks of {self.block}" if self.stride else ""
        return f"A prefill's attention computes {self.density:.3g} of the visible pairs{scores}; a decode step reads all keys."

    @property
    def assumes(self) -> str:
        return f"The density, {self.density:.3g}, in every layer and head alike: how many blocks a text needs, no shape tells."
