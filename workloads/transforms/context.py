"""Sequence parallelism: the tokens of each sequence shared out over devices, and attention over all of them (ring or tree)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..scenario import CONTEXTS, Scenario
from ..spec import Attention, ModelSpec
from .base import Transform


@dataclass(frozen=True, kw_only=True)
class Context(Transform):
    """Ring: keys and values go round from device to device, and each attends to what it has (arXiv 2105.13120, 2310.01889).

    Tree, in decode steps: the query is everywhere, each device attends to its own keys, and a reduction joins largest scores, sums and
    results (2408.04093). Every device has all weights, and in a decode step computes every token's products.
    """

    NAME: ClassVar[str] = "context"
    SOURCE: ClassVar[str] = "Li et al., arXiv 2105.13120; Liu et al., arXiv 2310.01889; Shyam et al., Tree Attention, arXiv 2408.04093"

    devices: int = 8
    attention: str = "tree"

    def __post_init__(self) -> None:
        if self.devices < 2:
            raise self.wrong("devices", "at least 2")
        if self.attention not in CONTEXTS:
            raise self.wrong("attention", f"one of {', '.join(CONTEXTS)}")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        for layer in spec.layers:
            if any(not isinstance(part, Attention) or part.source != "self" or part.window or part.block or part.reduce > 1
                   for part in (layer.mixer, *layer.before, *layer.between)) or layer.every > 1:
                raise ValueError(f"{self.NAME}: {spec.name} has layers without full softmax attention over their own tokens.")
        if spec.input_tokens or spec.towers:
            raise ValueError(f"{self.NAME}: the tokens of {spec.name} are not its prompt's.")
        if scenario.by_request:
            raise ValueError(f"{self.NAME}: the cache is already shared out by requests (--attention-parallel batch). Use heads.")
        if self.attention == "tree" and scenario.phase != "decode":
            raise ValueError(f"{self.NAME}: tree attention is of decode steps. Use attention=ring, or phase decode.")
        if int(scenario.lengths.min()) < self.devices:
            raise self.wrong("devices", f"at most the shortest prompt, {int(scenario.lengths.min())} tokens")
        each = tuple((-(-scenario.lengths // self.devices)).tolist())
        prompt = each[0] if isinstance(scenario.prompt, int) else each
        return spec, scenario.but(prompt=prompt, context=self.devices, context_attention=self.attention)

    @property
    def changes(self) -> str:
        return (f"Each of {self.devices} devices holds a piece of every sequence and all weights; {self.attention} attention goes over "
                "all pieces.")

    @property
    def assumes(self) -> str:
        return "Pieces are even and stay so; what a generation adds to a piece is counted on every device."
