"""Shifts and additions in the place of multiplications (ShiftAddViT)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention, Chain, Dense, MoE, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, dense_steps, projections, swap_attention


@dataclass(frozen=True, kw_only=True)
class ShiftAdd(Transform):
    """Attention becomes linear attention whose products with binary queries and keys are additions; projections and feed-forward matrices
    become shifts. `multiplied` of the tokens go to a feed-forward part that still multiplies (its mixture of two primitives)."""

    NAME: ClassVar[str] = "shift_add"
    SOURCE: ClassVar[str] = "You et al., ShiftAddViT, arXiv 2306.06446"
    GROUP: ClassVar[str] = "attention"

    multiplied: float = 0.5
    shift_projections: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.multiplied <= 1:
            raise self.wrong("multiplied", "a share")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if not spec.encoder:
            raise ValueError(f"{self.NAME}: {spec.name} is causal; the binary attention here is that of an encoder.")
        layers = []
        for layer in swap_attention(self.NAME, spec, self._attention).layers:
            if isinstance(layer.ffn, MoE):
                raise ValueError(f"{self.NAME}: {spec.name} already has a mixture of experts.")
            layers.append(layer if layer.ffn is None else replace(layer, ffn=self._ffn(layer.ffn, layer.hidden or spec.hidden)))
        return replace(spec, layers=tuple(layers)), scenario

    def _attention(self, old: Attention, hidden: int) -> Chain:
        inward, out = projections(old, hidden)
        if self.shift_projections:
            inward, out = replace(inward, kind="shift_gemm"), replace(out, kind="shift_gemm")
        d = old.head_dim
        # Signs of queries and keys are their codes, as wide as a head: keys with values, then queries with the sums.
        return chain("add attention", (inward, Step(name="signs", kind="relu", n=(old.heads_q + old.heads_kv) * d),
                                       Step(name="keys_values", kind="binary_gemm", times=old.heads_q, n=d, k=d),
                                       Step(name="queries_state", kind="binary_gemm", times=old.heads_q, n=d, k=d), out))

    def _ffn(self, old: Dense | Chain, hidden: int) -> Chain:
        """The part twice, once with shifts: each token goes through one of the two."""
        plain = dense_steps(old, hidden) if isinstance(old, Dense) else old.steps
        steps: list[Step] = []
        for kind, share in (("gemm", self.multiplied), ("shift_gemm", 1 - self.multiplied)):
            for step in plain if share else ():
                steps.append(replace(step, name=f"{'multiply' if kind == 'gemm' else 'shift'}_{step.name}", share=share,
                                     kind=kind if step.kind == "gemm" else step.kind))
        router = (Step(name="router", kind="gemm", n=2, k=hidden), Step(name="choose", kind="topk", n=2)) if 0 < self.multiplied < 1 else ()
        return chain("mixture of multiplication and shift", (*router, *steps))

    @property
    def changes(self) -> str:
        return (f"Products of attention become additions, {'projections and ' if self.shift_projections else ''}feed-forward products "
                f"shifts, but for {self.multiplied:.3g} of the tokens, whose feed-forward part multiplies.")

    @property
    def assumes(self) -> str:
        return f"The router sends {self.multiplied:.3g} of the tokens to the part that multiplies."
