"""Layer norms become root-mean-square norms (Pre-RMSNorm)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform


@dataclass(frozen=True, kw_only=True)
class RmsNorm(Transform):
    NAME: ClassVar[str] = "rms_norm"
    SOURCE: ClassVar[str] = "Jiang et al., Pre-RMSNorm and Pre-CRMSNorm Transformers, arXiv 2305.14858"

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if spec.norm != "layernorm":
            raise ValueError(f"{self.NAME}: {spec.name} has no layer norm ({spec.norm}).")
        return replace(spec, norm="rmsnorm"), scenario

    @property
    def changes(self) -> str:
        return "Norms do without the mean and the bias: one reduction in the place of two."
