"""Number types of weights, activations and cache (W8A8, W4A16, KV8 ...): bytes and rates follow the type, as everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..ops import DTYPES
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform


@dataclass(frozen=True, kw_only=True)
class Quantise(Transform):
    NAME: ClassVar[str] = "quantise"
    SOURCE: ClassVar[str] = "Dettmers et al., arXiv 2208.07339; Lin et al., arXiv 2306.00978"

    weights: str = "int8"
    activations: str = ""
    """Empty: as they were. A product of 4-bit weights and 16-bit activations goes at the rate of 16 bits."""
    kv: str = ""

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "kv"):
            if getattr(self, name) not in ("", *DTYPES):
                raise self.wrong(name, f"one of {', '.join(DTYPES)}, or nothing for what it was")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        kept = {"weight_dtype": self.weights or scenario.weights, "kv_dtype": self.kv or scenario.kv}
        return spec, scenario.but(dtype=self.activations or scenario.dtype, **kept)

    @property
    def changes(self) -> str:
        said = (("weights", self.weights), ("activations", self.activations), ("the cache", self.kv))
        return "; ".join(f"{what} in {dtype}" for what, dtype in said if dtype) + "."
