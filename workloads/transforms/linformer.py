"""Low-rank keys and values: projected along the sequence to a fixed number of rows (Linformer)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import longest_prompt, swap_attention


@dataclass(frozen=True, kw_only=True)
class LowRankKeys(Transform):
    NAME: ClassVar[str] = "low_rank_keys"
    SOURCE: ClassVar[str] = "Wang et al., Linformer, arXiv 2006.04768"
    GROUP: ClassVar[str] = "attention"

    rows: int = 256

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise self.wrong("rows", "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if not spec.encoder:
            raise ValueError(f"{self.NAME}: {spec.name} is causal, and a projection along the sequence sees what comes later.")
        longest = longest_prompt(self.NAME, spec, scenario)
        return swap_attention(self.NAME, spec, lambda old, _: self._projected(old, longest)), scenario

    def _projected(self, old: Attention, longest: int) -> Attention:
        """Keys and values of all heads share one matrix a layer (section 4, "layerwise" without the sharing of layers)."""
        each = Step(name="key_projection", kind="gemm", along="tokens", times=2 * old.heads_kv * old.head_dim, n=self.rows, k=longest)
        return replace(old, window=self.rows, prepare=(each,))

    @property
    def changes(self) -> str:
        return f"Keys and values are projected along the sequence to {self.rows} rows, which every query sees."
