"""Fourier transforms in the place of attention (FNet)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..parts import Attention, Chain, Step
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import chain, longest_prompt, swap_attention


@dataclass(frozen=True, kw_only=True)
class Fourier(Transform):
    NAME: ClassVar[str] = "fourier"
    SOURCE: ClassVar[str] = "Lee-Thorp et al., FNet, arXiv 2105.03824"
    GROUP: ClassVar[str] = "attention"

    dense: bool = False
    """The transforms as products with their matrices, which arrays run faster up to some length."""

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if not spec.encoder:
            raise ValueError(f"{self.NAME}: {spec.name} is causal, and a Fourier transform mixes what comes later into every token.")
        longest = longest_prompt(self.NAME, spec, scenario) if self.dense else 0
        return swap_attention(self.NAME, spec, lambda old, hidden: self._mixer(old, hidden, longest)), scenario

    def _mixer(self, _old: Attention, hidden: int, longest: int) -> Chain:
        if not self.dense:
            return chain("FFT", (Step(name="fft_hidden", kind="fft", n=hidden),
                                 Step(name="fft_tokens", kind="fft", n=hidden, along="tokens")))
        # Real in, complex between, real part out: two products of real matrices along the width, and two along the tokens.
        # Their matrices are no parameters.
        return chain("DFT", (Step(name="dft_hidden", kind="gemm", n=2 * hidden, k=hidden, extra=-2 * hidden * hidden),
                             Step(name="dft_tokens", kind="gemm", along="tokens", times=2 * hidden, n=longest, k=longest,
                                  extra=-longest * longest),
                             Step(name="real_part", kind="add", n=hidden)))

    @property
    def changes(self) -> str:
        how = "products with the transforms' matrices" if self.dense else "fast transforms"
        return f"Attention becomes {how} along the width and along the tokens, without weights."
