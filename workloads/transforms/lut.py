"""Look-up tables in the place of linear layers (MemoryFormer)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Chain, Dense, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, dense_steps, own_attention, refuse_decoding, swap_attention, swap_dense


@dataclass(frozen=True, kw_only=True)
class LookUp(Transform):
    """A layer's input is cut into chunks of `bits` elements, whose signs are the row of the chunk's table; the rows, weighed by how sure
    the signs are, are summed (Memory Layer, arXiv 2411.12992, section 3). Tables follow the type of the weights."""

    NAME: ClassVar[str] = "lookup_tables"
    SOURCE: ClassVar[str] = "Ding et al., MemoryFormer, arXiv 2411.12992"

    bits: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16:
            raise self.wrong("bits", "1 to 16")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        refuse_decoding(self.NAME, spec, scenario, "the attention between the tables is taken to be a prefill's")
        for layer in spec.layers:
            for width in (layer.hidden or spec.hidden, layer.ffn.width if isinstance(layer.ffn, Dense) else self.bits):
                if width % self.bits:
                    raise self.wrong("bits", f"a divisor of the width {width} of {spec.name}")
        if not all(own_attention(layer) for layer in spec.layers):
            raise ValueError(f"{self.NAME}: not every layer of {spec.name} has softmax attention over its own tokens.")
        return swap_dense(self.NAME, swap_attention(self.NAME, spec, self._attention), self._ffn), scenario

    def _layer(self, name: str, n: int, k: int) -> tuple[Step, Step]:
        chunks = k // self.bits
        return (Step(name=f"{name}_hash", kind="sigmoid", n=k),
                Step(name=name, kind="lut", n=n, k=chunks, extra=chunks * n << self.bits))

    def _attention(self, old: Attention, hidden: int) -> Attention:
        tables = self._layer("qkv_tables", (old.heads_q + 2 * old.heads_kv) * old.head_dim, hidden)
        return replace(old, given=3, prepare=(*tables, *old.prepare))

    def _ffn(self, old: Dense, hidden: int) -> Chain:
        up, inner = self._layer("up_tables", old.width * (2 if old.gated else 1), hidden), old.width
        return chain(f"look-up tables {inner}", (
            *up,
            dense_steps(old, hidden)[1],
            *self._layer("down_tables", hidden, inner),
        ))

    @property
    def changes(self) -> str:
        return ("Projections to queries, keys and values, and feed-forward matrices, become sums of rows of tables, one row in "
                f"{2**self.bits} for each {self.bits} elements of the input.")
