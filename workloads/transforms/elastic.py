"""Less of a model: nested feed-forward widths, and tokens that leave early."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Dense
from ..scenario import Scenario
from ..spec import Decoding, ModelSpec
from .base import Transform
from .decoding import Decoder, check_share, expected_tokens, said_of_drafts
from .swap import own_attention, swap_dense


def submodel(name: str, spec: ModelSpec, ffn: float) -> ModelSpec:
    """The model with a share of each feed-forward width. ValueError where it has no dense one."""
    def new(old: Dense, _: int) -> Dense:
        return replace(old, width=max(1, round(ffn * old.width)))

    return swap_dense(name, spec, new)


@dataclass(frozen=True, kw_only=True)
class Elastic(Transform):
    """A submodel whose feed-forward parts are the first neurons of the whole model's."""

    NAME: ClassVar[str] = "elastic"
    SOURCE: ClassVar[str] = "Devvrit et al., MatFormer, arXiv 2310.07707"

    ffn: float = 0.5
    """Share of the feed-forward width."""

    def __post_init__(self) -> None:
        if not 0 < self.ffn <= 1:
            raise self.wrong("ffn", "a share above 0 and up to 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        return submodel(self.NAME, spec, self.ffn), scenario

    @property
    def changes(self) -> str:
        return f"Feed-forward parts have {100 * self.ffn:g} % of their width; attention and embeddings stay."


@dataclass(frozen=True, kw_only=True)
class ElasticDraft(Decoder):
    """The model's own submodel drafts for it: its weights are there already."""

    NAME: ClassVar[str] = "elastic_draft"
    SOURCE: ClassVar[str] = "Devvrit et al., MatFormer, arXiv 2310.07707"

    ffn: float = 0.5
    gamma: int = 4
    acceptance: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.ffn < 1:
            raise self.wrong("ffn", "a share between 0 and 1")
        if self.gamma < 1:
            raise self.wrong("gamma", "at least 1 drafted token")
        check_share(self, "acceptance")

    def decoding(self, spec: ModelSpec, scenario: Scenario) -> Decoding:
        return Decoding(queries=self.gamma + 1, accepted=expected_tokens(self.acceptance, self.gamma), drafts=self.gamma,
                        drafter=submodel(self.NAME, spec, self.ffn), nested=True)

    @property
    def changes(self) -> str:
        return f"A submodel with {100 * self.ffn:g} % of the feed-forward width drafts {self.gamma} tokens for each step."

    @property
    def assumes(self) -> str:
        return f"{said_of_drafts(self.acceptance, self.gamma)}; the submodel has a cache of its own."


@dataclass(frozen=True, kw_only=True)
class EarlyExit(Transform):
    """In decode steps a share of the tokens leaves after a layer; the layers behind only make their keys and values."""

    NAME: ClassVar[str] = "early_exit"
    SOURCE: ClassVar[str] = "Schuster et al., CALM, arXiv 2207.07061"

    layer: int = 8
    """Layers that every token goes through."""
    share: float = 0.5
    """Share of the tokens that leave there."""

    def __post_init__(self) -> None:
        check_share(self, "share")
        if self.layer < 1:
            raise self.wrong("layer", "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if spec.encoder or scenario.phase == "prefill":
            raise ValueError(f"{self.NAME}: {spec.name} has no decode step in this run. Expected a model and a phase that decode.")
        if scenario.batch > 1:
            raise ValueError(f"{self.NAME}: batch is {scenario.batch}, and a batch waits for the token that leaves last. Expected batch 1.")
        behind = len(spec.layers) - self.layer
        if behind < 1:
            raise self.wrong("layer", f"fewer than the {len(spec.layers)} layers of {spec.name}")
        if any(own_attention(layer) is None or layer.between for layer in spec.layers[self.layer:]):
            raise ValueError(f"{self.NAME}: {spec.name} has layers behind it whose cache is not keys and values of their input. Expected "
                             "attention over the model's own tokens.")
        idle = round(self.share * behind)
        cut = len(spec.layers) - idle
        layers = [replace(layer, idle=True) if number >= cut else layer for number, layer in enumerate(spec.layers)]
        return replace(spec, layers=tuple(layers)), scenario

    @property
    def changes(self) -> str:
        return (f"In a mean decode step {100 * self.share:g} % of the layers behind layer {self.layer} only make keys and values of what "
                "has left.")

    @property
    def assumes(self) -> str:
        return (f"{100 * self.share:g} % of the tokens leave after layer {self.layer}, and telling which costs nothing; a mean "
                "step stands for all.")
