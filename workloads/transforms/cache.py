"""What a cache keeps and what a step reads of it: eviction to a budget, low-rank keys with top-k."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from ..parts import Attention
from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .swap import own_attention, swap_attention


def longest(spec: ModelSpec, scenario: Scenario) -> int:
    """Tokens of the longest request when all are generated."""
    prompt = spec.start_tokens or int(scenario.lengths.max()) + spec.prefix_tokens
    return prompt + (0 if scenario.phase == "prefill" else scenario.decode_steps)


def refuse_cacheless(name: str, spec: ModelSpec) -> None:
    """ValueError for a model that keeps no keys."""
    if spec.encoder:
        raise ValueError(f"{name}: {spec.name} is an encoder and has no cache. Expected a model that generates.")


@dataclass(frozen=True, kw_only=True)
class Evict(Transform):
    """Of each sequence a number of tokens stays in the cache, those with the highest accumulated scores (H2O, A2SF); layers may have
    two budgets (ScaleKV's drafters and refiners)."""

    NAME: ClassVar[str] = "kv_evict"
    SOURCE: ClassVar[str] = "Zhang et al., H2O, arXiv 2306.14048; Jo and Shin, A2SF, arXiv 2407.20485; Li et al., ScaleKV, arXiv 2505.19602"
    GROUP: ClassVar[str] = "cache"

    keep: float = 0.1
    """Share of the tokens of the longest request, all of its output included; the mean of the layers."""
    tokens: int = 0
    """Tokens instead of a share; 0: the share."""
    wide: float = 0.0
    """Share of the layers, the first ones, that keep `ratio` times what each other one keeps."""
    ratio: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise self.wrong("keep", "a share above 0 and up to 1")
        if self.tokens < 0:
            raise self.wrong("tokens", "0 for a share, or a number of tokens")
        if not 0 <= self.wide < 1:
            raise self.wrong("wide", "a share of the layers, less than 1")
        if self.ratio < 1:
            raise self.wrong("ratio", "at least 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        refuse_cacheless(self.NAME, spec)
        count, most = sum(own_attention(layer) is not None for layer in spec.layers), longest(spec, scenario)
        wide = round(self.wide * count)
        mean = self.tokens or self.keep * most
        narrow = mean * count / max(1, wide * self.ratio + count - wide)
        budgets = iter([math.ceil(mean if not wide else narrow * (self.ratio if number < wide else 1)) for number in range(count)])
        return swap_attention(self.NAME, spec, lambda old, _: replace(old, budget=min(most, next(budgets)))), scenario

    @property
    def changes(self) -> str:
        kept = f"{self.tokens} tokens" if self.tokens else f"{100 * self.keep:g} % of the tokens of the longest request"
        classes = f", the first {100 * self.wide:g} % of the layers {self.ratio:g} times as many as the others" if self.wide else ""
        return f"The cache of a sequence keeps {kept}{classes}; each step adds up scores and finds the least."

    @property
    def assumes(self) -> str:
        return ("The attention kernel gives its scores, a new token is written where one was evicted, and the layers' budget is "
                "the same for each request.")


@dataclass(frozen=True, kw_only=True)
class TopKeys(Transform):
    """A step scores all keys by their first principal components and attends over the best tokens (Loki)."""

    NAME: ClassVar[str] = "loki"
    SOURCE: ClassVar[str] = "Singhania et al., Loki, arXiv 2406.02542"
    GROUP: ClassVar[str] = "cache"

    rank: int = 32
    """Of the elements of a key, those that the scores read."""
    keep: float = 0.25
    """Share of the tokens of the longest request, all of its output included, that attention reads."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise self.wrong("rank", "at least 1")
        if not 0 < self.keep < 1:
            raise self.wrong("keep", "a share between 0 and 1")

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        refuse_cacheless(self.NAME, spec)
        top = math.ceil(self.keep * longest(spec, scenario))

        def new(old: Attention, _: int) -> Attention:
            if self.rank >= old.head_dim:
                raise self.wrong("rank", f"fewer than the {old.head_dim} elements of a key of {spec.name}")
            return replace(old, key_rank=self.rank, top=top)

        return swap_attention(self.NAME, spec, new), scenario

    @property
    def changes(self) -> str:
        return (f"Keys are turned to their principal components; a step reads {self.rank} elements of every key, and whole keys and values "
                f"of {100 * self.keep:g} % of the tokens.")

    @property
    def assumes(self) -> str:
        return ("The first elements of all keys lie together, and scattered keys and values are read as fast as those in one piece.")
