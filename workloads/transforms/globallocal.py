"""Global and local layers: the lower ones run on blocks of tokens, the upper ones on the tokens of one block (Block Transformer)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Layer, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, own_attention


@dataclass(frozen=True, kw_only=True)
class GlobalLocal(Transform):
    NAME: ClassVar[str] = "global_local"
    SOURCE: ClassVar[str] = "Ho et al., Block Transformer, arXiv 2406.02657"
    GROUP: ClassVar[str] = "attention"

    block: int = 4
    """Tokens of a block."""
    share: float = 0.5
    """Of the layers that are global."""
    prefix: int = 2
    """Positions that a block's context takes before its tokens in the local layers."""

    def __post_init__(self) -> None:
        if self.block < 2:
            raise self.wrong("block", "at least 2 tokens")
        if not 0 < self.share < 1:
            raise self.wrong("share", "a share between 0 and 1")
        if self.prefix < 1:
            raise self.wrong("prefix", "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if spec.encoder or not all(own_attention(layer) for layer in spec.layers):
            raise ValueError(f"{self.NAME}: {spec.name} is no decoder whose every layer has attention over its own tokens.")
        border = round(self.share * len(spec.layers))
        if not 0 < border < len(spec.layers):
            raise self.wrong("share", f"a share that leaves global and local layers among {len(spec.layers)}")
        layers = spec.layers
        top = layers[border - 1]
        context = Step(name="context_proj", kind="gemm", n=self.prefix * spec.hidden, k=spec.hidden)
        into = replace(top, every=self.block, between=(*top.between, replace(chain("context", (context,)), residual=True)))
        low = tuple(replace(layer, every=self.block) for layer in layers[: border - 1])
        return replace(spec, layers=(*low, into, *(self._local(layer) for layer in layers[border:]))), scenario

    def _local(self, layer: Layer) -> Layer:
        """Of a prompt only its last block is decoded; the cache holds no more than a block and its context."""
        assert isinstance(layer.mixer, Attention)
        reach = self.block + self.prefix
        return replace(layer, mixer=replace(layer.mixer, window=reach), tokens=reach)

    @property
    def changes(self) -> str:
        return (f"{self.share:.3g} of the layers run once in {self.block} tokens, on blocks; the others see no more than the block's "
                f"{self.block} tokens and {self.prefix} of context. A projection makes the context.")

    @property
    def assumes(self) -> str:
        return ("Blocks of different requests end at different steps, so each step runs the global layers for one request in "
                f"{self.block}, whose cache is taken at its mean length.")
