"""Linear attention: a feature map of queries and keys, and keys times values before queries; with codes of few bits, additions alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..parts import Attention, Chain, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, projections, swap_attention

CHUNK = 64
"""Tokens of a chunk in the public kernels of causal forms (fla-org/flash-linear-attention)."""


@dataclass(frozen=True, kw_only=True)
class LinearAttention(Transform):
    NAME: ClassVar[str] = "linear_attention"
    SOURCE: ClassVar[str] = "Katharopoulos et al., arXiv 2006.16236; Liu et al., EcoFormer, arXiv 2209.09004"
    GROUP: ClassVar[str] = "attention"

    bits: int = 0
    """Bits of the binary codes of queries and keys (EcoFormer: 16); 0: the features are numbers."""
    keep_every: int = 0
    """Each so-many-th layer keeps softmax attention; 0: none does."""

    def __post_init__(self) -> None:
        if self.bits < 0:
            raise self.wrong("bits", "0 for numbers, or a number of bits")
        if self.keep_every < 0:
            raise self.wrong("keep_every", "0 for no such layer, or a number of layers")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if self.bits and not spec.encoder:
            raise ValueError(f"{self.NAME}: binary codes are those of an encoder's attention, and {spec.name} is causal. Use bits=0.")
        new = self._binary if self.bits else self._numbers
        return swap_attention(self.NAME, spec, new, lambda number: not self.keep_every or number % self.keep_every != 0), scenario

    @staticmethod
    def _numbers(old: Attention, hidden: int) -> Chain:
        inward, out = projections(old, hidden)
        d = old.head_dim
        scan = Step(name="linear_attention", kind="linear_attention", heads=old.heads_q, key_heads=old.heads_kv, key_dim=d, value_dim=d,
                    k=CHUNK if old.causal else 1, cut="heads")
        return chain("linear attention", (inward, Step(name="feature_map", kind="relu", n=(old.heads_q + old.heads_kv) * d), scan, out))

    def _binary(self, old: Attention, hidden: int) -> Chain:
        inward, out = projections(old, hidden)
        heads, d, both = old.heads_q, old.head_dim, old.heads_q + old.heads_kv
        return chain(f"binary attention {self.bits}", (
            inward,
            Step(name="hash", kind="hash", times=both, n=self.bits, k=d),
            Step(name="keys_values", kind="binary_gemm", times=heads, n=d, k=self.bits),
            Step(name="queries_state", kind="binary_gemm", times=heads, n=d, k=self.bits),
            Step(name="normalise", kind="mul", n=heads * d),
            out,
        ))

    @property
    def changes(self) -> str:
        kept = f" in all layers but each {self.keep_every}th" if self.keep_every else ""
        how = f"sums chosen by codes of {self.bits} bits" if self.bits else "keys times values, then queries"
        return f"Softmax attention becomes {how}{kept}; its state does not grow with the tokens."
