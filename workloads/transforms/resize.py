"""Another depth and width of the same architecture: fewer or more layers, heads, and so on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Dense, Layer
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import own_attention


@dataclass(frozen=True, kw_only=True)
class Resize(Transform):
    """Sizes that are 0 stay as they are; so does the width of a head unless `head_dim` says it."""

    NAME: ClassVar[str] = "resize"
    SOURCE: ClassVar[str] = "Brown et al., Wide Attention Is The Way Forward For Transformers?, arXiv 2210.00640"

    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    vocab: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            if getattr(self, name) < 0:
                raise self.wrong(name, "0 for no change, or a size")
        if not any((self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim, self.ffn, self.vocab)):
            raise ValueError(f"{self.NAME}: no size is given. Expected {self.usage()} with at least one that is not 0.")
        if self.kv_heads and self.heads % self.kv_heads:
            raise self.wrong("kv_heads", f"a divisor of heads, {self.heads}")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if len(set(spec.layers)) > 1 or own_attention(spec.layers[0]) is None or not isinstance(spec.layers[0].ffn, Dense):
            raise ValueError(f"{self.NAME}: the layers of {spec.name} are not all alike, with attention and a dense feed-forward part.")
        layer = self._layer(spec.layers[0])
        return replace(spec, layers=(layer,) * (self.layers or len(spec.layers)), hidden=self.hidden or spec.hidden,
                       vocab=self.vocab or spec.vocab, positions=None), scenario

    def _layer(self, layer: Layer) -> Layer:
        old, ffn = layer.mixer, layer.ffn
        assert isinstance(old, Attention) and isinstance(ffn, Dense)
        heads = self.heads or old.heads_q
        # Heads that share no keys share none afterwards.
        keys = self.kv_heads or (heads if old.heads_kv == old.heads_q else old.heads_kv)
        mixer = replace(old, heads_q=heads, heads_kv=keys, head_dim=self.head_dim or old.head_dim)
        return replace(layer, mixer=mixer, ffn=replace(ffn, width=self.ffn or ffn.width))

    @property
    def changes(self) -> str:
        said = (("layers", self.layers), ("elements of width", self.hidden), ("query heads", self.heads), ("KV heads", self.kv_heads),
                ("elements a head", self.head_dim), ("feed-forward neurons", self.ffn), ("words", self.vocab))
        return f"The model has {', '.join(f'{size} {what}' for what, size in said if size) or 'the sizes it had'}."
