"""Monarch Mixer: block-diagonal products and permutations in the place of attention and feed-forward matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..parts import Attention, Chain, Dense, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, longest_prompt, swap_attention, swap_dense


@dataclass(frozen=True, kw_only=True)
class Monarch(Transform):
    """M2-BERT's layer (arXiv 2310.12109, section 4): three projections, a long convolution gated before and after and one beside it, and a
    way out; a gated feed-forward part whose matrices are block-diagonal.

    A convolution of a sequence is to the frequencies and back, each two Monarch matrices of blocks of sqrt(length). It is one kernel that
    reads and writes each element once; two real numbers go as one complex one, so padding costs nothing (arXiv 2311.05908, section 3).
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
        longest = longest_prompt(self.NAME, spec, scenario)
        for layer in spec.layers:
            hidden = layer.hidden or spec.hidden
            if isinstance(layer.ffn, Dense) and (layer.ffn.width % self.blocks or hidden % self.blocks):
                raise self.wrong("blocks", f"a divisor of the widths {hidden} and {layer.ffn.width} of {spec.name}")
        spec = swap_attention(self.NAME, spec, lambda old, hidden: self._mixer(old, hidden, longest))
        return swap_dense(self.NAME, spec, self._ffn), scenario

    def _mixer(self, _old: Attention, hidden: int, longest: int) -> Chain:
        piece = math.ceil(math.sqrt(longest))
        # Each element meets a block's column in two matrices there and two back, complex times complex: 16 x piece real products.
        conv = Step(name="long_conv", kind="bmm", rows=math.ceil(hidden * longest / piece), n=piece, k=2 * 2 * 4 * piece, reads=piece,
                    extra=_FILTER * (_FILTER + hidden))
        return chain("Monarch", (
            Step(name="in_proj", kind="gemm", n=3 * hidden, k=hidden, bias=True, cut="n"),
            Step(name="short_conv", kind="dwconv", n=3 * hidden, k=3, bias=True, cut="n"),
            Step(name="gate_in", kind="mul", n=hidden, cut="n"),
            conv, conv,
            Step(name="gate_out", kind="mul", n=hidden, cut="n"),
            Step(name="out_proj", kind="gemm", n=hidden, k=hidden, bias=True, cut="k"),
        ))

    def _ffn(self, old: Dense, hidden: int) -> Chain:
        b, kind = self.blocks, f"{old.activation}_mul"
        return chain(f"block-diagonal {old.width}", (
            Step(name="gate_up", kind="gemm", batch=b, n=2 * old.width // b, k=hidden // b, bias=old.bias),
            Step(name="activation", kind=kind, n=old.width),
            Step(name="permute", kind="permute", n=old.width),
            Step(name="down", kind="gemm", batch=b, n=hidden // b, k=old.width // b, bias=old.bias),
        ))

    @property
    def changes(self) -> str:
        return f"Attention becomes gated long convolutions by Monarch products; feed-forward parts a gated one of {self.blocks} blocks."

    @property
    def assumes(self) -> str:
        return "Filters of the convolutions are kept as their spectrum and not made anew; the sizes of blocks are the square roots."


_FILTER = 128
"""Width of the small network that stands for a filter's parameters (M2-BERT's code, from memory)."""
