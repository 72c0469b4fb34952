"""Number types of weights, activations and cache (W8A8, W4A16, KV8 ...), and LLM.int8()'s split of each product in two types."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..ops import DTYPE_BITS, DTYPES
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform


@dataclass(frozen=True, kw_only=True)
class Quantise(Transform):
    """Bytes and rates follow the type, as everywhere."""

    NAME: ClassVar[str] = "quantise"
    SOURCE: ClassVar[str] = "Dettmers et al., arXiv 2208.07339; Lin et al., arXiv 2306.00978"
    GROUP: ClassVar[str] = "types"

    weights: str = "int8"
    activations: str = ""
    """Empty: as they were. A product of 4-bit weights and 16-bit activations goes at the rate of 16 bits."""
    kv: str = ""

    def __post_init__(self) -> None:
        for name in ("weights", "activations", "kv"):
            if getattr(self, name) not in ("", *DTYPES):
                raise self.wrong(name, f"one of {', '.join(DTYPES)}, or nothing for what it was")
        if not (self.weights or self.activations or self.kv):
            raise self.wrong("weights", "a type for one of weights, activations and kv")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        kept = {"weight_dtype": self.weights or scenario.weights, "kv_dtype": self.kv or scenario.kv}
        return spec, scenario.but(dtype=self.activations or scenario.dtype, **kept)

    @property
    def changes(self) -> str:
        said = (("weights", self.weights), ("activations", self.activations), ("the cache", self.kv))
        return "; ".join(f"{what} in {dtype}" for what, dtype in said if dtype) + "."


@dataclass(frozen=True, kw_only=True)
class SplitProducts(Transform):
    """Each linear map quantises its input and multiplies in int8, but for a few inputs with outliers, which it multiplies as they are."""

    NAME: ClassVar[str] = "llm_int8"
    SOURCE: ClassVar[str] = "Dettmers et al., LLM.int8(), arXiv 2208.07339, section 3"
    GROUP: ClassVar[str] = "types"

    outliers: int = 7
    """Inputs of each linear map with outliers: at most 7 features in models of up to 13B parameters, says the paper's section 4."""

    def __post_init__(self) -> None:
        if self.outliers < 0:
            raise self.wrong("outliers", "a number of inputs")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if DTYPE_BITS[scenario.dtype] <= DTYPE_BITS["int8"]:
            raise ValueError(f"{self.NAME}: activations are in {scenario.dtype} already. Expected a type of more than 8 bits.")
        if scenario.weight_sparsity != "dense":
            raise ValueError(f"{self.NAME}: weights are pruned to {scenario.weight_sparsity}, and outliers are not the same in each group. "
                             "Expected dense weights.")
        if self.outliers >= spec.hidden:
            raise self.wrong("outliers", f"fewer than the {spec.hidden} elements of width of {spec.name}")
        return replace(spec, outliers=self.outliers), scenario.but(weight_dtype="int8", kv_dtype=scenario.kv)

    @property
    def changes(self) -> str:
        return (f"Weights in int8; each linear map quantises its input, multiplies in int8, dequantises, and adds the product of "
                f"{self.outliers} inputs in the activations' type.")

    @property
    def assumes(self) -> str:
        return f"{self.outliers} inputs of each linear map have outliers; embeddings and norms are stored in int8 too."
