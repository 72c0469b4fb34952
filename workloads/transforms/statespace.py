"""State-space layers in the place of attention: what a layer keeps of the past no longer grows (mmMamba)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..parts import Attention, Chain, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, swap_attention

CHUNK = 256
TAPS = 4
"""Mamba-2's (arXiv 2405.21060, section 7)."""


@dataclass(frozen=True, kw_only=True)
class StateSpace(Transform):
    """A Mamba-2 layer of the attention's own sizes: its queries, keys and values become those of the scan, in as many heads (mmMamba's
    initialisation, arXiv 2502.13145, section 3.2); a decay a head, a short convolution and a gate are new."""

    NAME: ClassVar[str] = "state_space"
    SOURCE: ClassVar[str] = "Liao et al., Multimodal Mamba, arXiv 2502.13145"
    GROUP: ClassVar[str] = "attention"

    keep_every: int = 0
    """Each so-many-th layer keeps its attention; 0: none does."""

    def __post_init__(self) -> None:
        if self.keep_every < 0:
            raise self.wrong("keep_every", "0 for no such layer, or a number of layers")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if spec.encoder:
            raise ValueError(f"{self.NAME}: {spec.name} is an encoder, and a scan is causal.")
        return swap_attention(self.NAME, spec, self._mixer, lambda number: not self.keep_every or number % self.keep_every != 0), scenario

    @staticmethod
    def _mixer(old: Attention, hidden: int) -> Chain:
        d, heads, keys = old.head_dim, old.heads_q, old.heads_kv
        inner, mixed = heads * d, (heads + 2 * keys) * d
        return chain(f"Mamba-2 {heads} x {d} x {d}", (
            Step(name="in_proj", kind="gemm", n=mixed + inner + heads, k=hidden, bias=old.qkv_bias, cut="n"),
            Step(name="conv1d", kind="dwconv", n=mixed, k=TAPS, bias=True, state=(TAPS - 1) * mixed),
            Step(name="conv1d_silu", kind="silu", n=mixed),
            Step(name="scan", kind="scan", heads=heads, key_heads=keys, key_dim=d, value_dim=d, k=CHUNK, extra=3 * heads, cut="heads"),
            Step(name="gate", kind="silu_mul", n=inner, cut="n"),
            Step(name="out_proj", kind="gemm", n=hidden, k=inner, bias=old.out_bias, cut="k"),
        ))

    @property
    def changes(self) -> str:
        kept = f"all layers but each {self.keep_every}th" if self.keep_every else "all layers"
        return (f"Attention becomes a state-space layer of its sizes in {kept}: a state of head_dim x head_dim a head in the place of a "
                "cache.")
