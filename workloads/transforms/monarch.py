"""Monarch Mixer: block-diagonal products and permutations in the place of attention and feed-forward matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Chain, Dense, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, swap_attention, swap_dense


@dataclass(frozen=True, kw_only=True)
class Monarch(Transform):
    """M2-BERT's layer (arXiv 2310.12109, section 4): three projections, a long convolution gated before and after and one beside it,
    and a way out; the feed-forward matrices are block-diagonal in `blocks` blocks.

    A convolution is three Monarch products along the tokens (to the frequencies of twice the length, back, each two products of blocks of
    the square root of that with a permutation between), here as two passes of transforms.
    """

    NAME: ClassVar[str] = "monarch"
    SOURCE: ClassVar[str] = "Fu et al., Monarch Mixer, arXiv 2310.12109"
    GROUP: ClassVar[str] = "attention"

    blocks: int = 4

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise self.wrong("blocks", "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if not spec.encoder:
            raise ValueError(f"{self.NAME}: {spec.name} is causal; the mixer here is the bidirectional one of M2-BERT.")
        longest = spec.input_tokens or int(scenario.lengths.max())
        for layer in spec.layers:
            hidden = layer.hidden or spec.hidden
            if isinstance(layer.ffn, Dense) and (layer.ffn.width % self.blocks or hidden % self.blocks):
                raise self.wrong("blocks", f"a divisor of the widths {hidden} and {layer.ffn.width} of {spec.name}")
        spec = swap_attention(self.NAME, spec, lambda old, hidden: self._mixer(old, hidden, longest))
        return swap_dense(self.NAME, spec, self._ffn), scenario

    def _mixer(self, _old: Attention, hidden: int, longest: int) -> Chain:
        piece = math.ceil(math.sqrt(2 * longest))
        filters = 2 * _FILTER * (_FILTER + hidden)
        # Blocks of `piece` points, complex: four real products each, two to a transform, there and back, for two filters.
        pass_ = (Step(name="monarch", kind="bmm", times=2 * hidden * piece // longest, n=2 * piece, k=2 * piece),
                 Step(name="permute", kind="permute", n=2 * hidden))
        return chain("Monarch", (
            Step(name="in_proj", kind="gemm", n=3 * hidden, k=hidden, bias=True, cut="n"),
            Step(name="short_conv", kind="dwconv", n=3 * hidden, k=3, bias=True, cut="n"),
            Step(name="gate_in", kind="mul", n=hidden, cut="n"),
            *pass_ * 4,
            Step(name="spectrum", kind="mul", n=4 * hidden, extra=filters),
            Step(name="gate_out", kind="mul", n=hidden, cut="n"),
            Step(name="out_proj", kind="gemm", n=hidden, k=hidden, bias=True, cut="k"),
        ))

    def _ffn(self, old: Dense, hidden: int) -> Chain:
        b, up = self.blocks, old.width * (2 if old.gated else 1)
        return chain(f"block-diagonal {old.width}", (
            Step(name="up", kind="gemm", batch=b, n=up // b, k=hidden // b, bias=old.bias),
            Step(name="activation", kind=f"{old.activation}_mul" if old.gated else old.activation, n=old.width),
            Step(name="permute", kind="permute", n=old.width),
            Step(name="down", kind="gemm", batch=b, n=hidden // b, k=old.width // b, bias=old.bias),
        ))

    @property
    def changes(self) -> str:
        return f"Attention becomes gated long convolutions by Monarch products; feed-forward matrices become {self.blocks} blocks."

    @property
    def assumes(self) -> str:
        return "Filters of the convolutions are kept as their spectrum and not made anew; the sizes of blocks are the square roots."


_FILTER = 128
"""Width of the small network that stands for a filter's parameters (M2-BERT's code, from memory)."""
