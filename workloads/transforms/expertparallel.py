"""Expert parallelism: the devices of a tensor-parallel group have whole experts, and tokens travel to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..scenario import Scenario
from ..spec import ModelSpec, MoE
from .base import Transform


@dataclass(frozen=True, kw_only=True)
class ExpertParallel(Transform):
    NAME: ClassVar[str] = "expert_parallel"
    SOURCE: ClassVar[str] = "Lepikhin et al., GShard, arXiv 2006.16668"

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        mixtures = [part for layer in spec.layers for part in layer.sublayers if isinstance(part, MoE)]
        if not mixtures:
            raise ValueError(f"{self.NAME}: {spec.name} has no experts.")
        if scenario.tp < 2:
            raise ValueError(f"{self.NAME}: tp is {scenario.tp}. Expected a tensor-parallel group of at least 2 devices for the experts.")
        for mixture in mixtures:
            if mixture.experts % scenario.tp:
                raise ValueError(f"{self.NAME}: {spec.name} has {mixture.experts} experts. Expected a multiple of tp, {scenario.tp}.")
        return spec, scenario.but(experts_apart=True)

    @property
    def changes(self) -> str:
        return ("Each device of a tensor-parallel group has whole experts in the place of a piece of each; two all-to-alls bring tokens to "
                "their experts and results back.")

    @property
    def assumes(self) -> str:
        return "Every device's experts are sent as many tokens."
