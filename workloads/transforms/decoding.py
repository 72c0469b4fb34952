"""Several tokens a decode step: drafted by a smaller model, by heads beside the model's own, or all at once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from .. import catalog
from ..parts import Chain
from ..scenario import Scenario
from ..spec import Decoding, ModelSpec
from .base import Transform


class Decoder(Transform):
    """What the transforms here have in common."""

    GROUP: ClassVar[str] = "decoding"

    @abstractmethod
    def decoding(self, spec: ModelSpec, scenario: Scenario) -> Decoding:
        """How the model decodes; ValueError for a draft that does not fit it."""

    def apply(self, spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario]:
        if spec.encoder or scenario.phase == "prefill":
            raise ValueError(f"{self.NAME}: {spec.name} generates no tokens in this run. Expected a model and a phase that decode.")
        if any(isinstance(part, Chain) and part.state_elements for part in spec.cached_parts):
            raise ValueError(f"{self.NAME}: {spec.name} has layers with a state, which cannot take back tokens that are not accepted. "
                             "Expected attention in every layer.")
        if any(layer.every > 1 for layer in spec.layers):
            raise ValueError(f"{self.NAME}: {spec.name} has layers that run once for several tokens. Expected layers that run for each.")
        decoding = self.decoding(spec, scenario)
        if decoding.drafter is not None and scenario.pp > 1:
            raise ValueError(f"{self.NAME}: a drafter is not cut into pipeline stages. Use --pp 1.")
        return replace(spec, decoding=decoding), scenario

    def named(self, model: str, spec: ModelSpec) -> ModelSpec:
        """The drafting model by its name or path. ValueError where it does not speak the model's tokens."""
        drafter = catalog.load(model)
        if drafter.encoder or drafter.vocab != spec.vocab or bool(drafter.towers) != bool(spec.towers):
            kind = "an encoder" if drafter.encoder else f"a model of {drafter.vocab} tokens"
            raise ValueError(f"{self.NAME}: {drafter.name} is {kind}{' with an encoder' if drafter.towers else ''} and cannot draft for "
                             f"{spec.name}. Expected a model that generates the same {spec.vocab} tokens of the same input.")
        return drafter


def expected_tokens(acceptance: float, drafted: int) -> float:
    """Tokens of a step whose drafts are each accepted with one probability if all before were: (1 - a^(g + 1)) / (1 - a), with the one
    that the model itself adds (Leviathan et al., arXiv 2211.17192, equation 1)."""
    return float(sum(acceptance**place for place in range(drafted + 1)))


def said_of_drafts(acceptance: float, drafted: int) -> str:
    """What is assumed of drafts that are each accepted with one probability, without a full stop."""
    return (f"Each draft is accepted with probability {acceptance:g} if those before it were, which gives "
            f"{expected_tokens(acceptance, drafted):.3g} tokens a step")


def check_share(transform: Transform, *names: str) -> None:
    """ValueError for a parameter that is no share."""
    for name in names:
        if not 0 <= getattr(transform, name) <= 1:
            raise transform.wrong(name, "a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Speculative(Decoder):
    """A smaller model drafts tokens one by one; the model looks at all of them together."""

    NAME: ClassVar[str] = "speculative"
    SOURCE: ClassVar[str] = "Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318"

    draft: str = "llama3.2-1b"
    """Name or config.json of the smaller model."""
    gamma: int = 4
    acceptance: float = 0.8

    def __post_init__(self) -> None:
        if self.gamma < 1:
            raise self.wrong("gamma", "at least 1 drafted token")
        check_share(self, "acceptance")

    def decoding(self, spec: ModelSpec, scenario: Scenario) -> Decoding:
        return Decoding(queries=self.gamma + 1, accepted=expected_tokens(self.acceptance, self.gamma), drafts=self.gamma,
                        drafter=self.named(self.draft, spec))

    @property
    def changes(self) -> str:
        return f"{self.draft} drafts {self.gamma} tokens; a step of the model takes them and the last one together."

    @property
    def assumes(self) -> str:
        return f"{said_of_drafts(self.acceptance, self.gamma)}; all requests advance alike."


@dataclass(frozen=True, kw_only=True)
class BigLittle(Decoder):
    """A little model generates until it is unsure; the big one then reads all that at once, and may take tokens back."""

    NAME: ClassVar[str] = "big_little"
    SOURCE: ClassVar[str] = "Kim et al., Speculative Decoding with Big Little Decoder, arXiv 2302.07863"

    little: str = "t5-base"
    """Name or config.json of the little model."""
    fallback: float = 0.2
    """Share of the little model's tokens after which it hands over to the big one."""
    rollback: float = 0.05
    """Share of the little model's tokens that the big one takes back."""

    def __post_init__(self) -> None:
        check_share(self, "rollback")
        if not 0 < self.fallback <= 1:
            raise self.wrong("fallback", "a share above 0 and up to 1")
        if self.rollback == 1:
            raise self.wrong("rollback", "less than all")

    def decoding(self, spec: ModelSpec, scenario: Scenario) -> Decoding:
        return Decoding(queries=self._drafts + 1, accepted=self._accepted, drafts=self._drafts, drafter=self.named(self.little, spec))

    @property
    def _drafts(self) -> int:
        return round(1 / self.fallback)

    @property
    def _accepted(self) -> float:
        return self._drafts * (1 - self.rollback) + 1

    @property
    def changes(self) -> str:
        return f"{self.little} generates {self._drafts} tokens, then the model takes them together and adds one."

    @property
    def assumes(self) -> str:
        return (f"The big model runs after {self._drafts} tokens of the little one and takes {100 * self.rollback:g} % of them "
                f"back, which gives {self._accepted:.3g} tokens a step.")


@dataclass(frozen=True, kw_only=True)
class Blockwise(Decoder):
    """Heads beside the model's own predict the tokens of a block, which its next step verifies while it predicts the next block."""

    NAME: ClassVar[str] = "blockwise"
    SOURCE: ClassVar[str] = "Stern et al., Blockwise Parallel Decoding, arXiv 1811.03115, section 4"

    block: int = 8
    accepted: float = 4.0
    """Tokens of a block that are accepted in the mean."""

    def __post_init__(self) -> None:
        if self.block < 2:
            raise self.wrong("block", "at least 2 tokens")
        if not 1 <= self.accepted <= self.block:
            raise self.wrong("accepted", f"from 1 to the {self.block} tokens of a block")

    def decoding(self, spec: ModelSpec, scenario: Scenario) -> Decoding:
        return Decoding(queries=self.block, accepted=self.accepted, heads=self.block - 1)

    @property
    def changes(self) -> str:
        return (f"A step takes {self.block} tokens of each sequence; {self.block - 1} more heads of the hidden width share the projection "
                "to the vocabulary.")

    @property
    def assumes(self) -> str:
        return f"{self.accepted:g} of the {self.block} tokens of a block are accepted in the mean; all requests advance alike."


@dataclass(frozen=True, kw_only=True)
class MultiToken(Decoder):
    """Heads beside the model's own draft the tokens after the next one (a single chain of drafts, no tree)."""

    NAME: ClassVar[str] = "multi_token"
    SOURCE: ClassVar[str] = "Cai et al., Medusa, arXiv 2401.10774; Gloeckle et al., arXiv 2404.19737"

    heads: int = 3
    acceptance: float = 0.8
    vocabulary: bool = True
    """Whether each head has a projection to the vocabulary of its own, as Medusa's."""

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise self.wrong("heads", "at least 1")
        check_share(self, "acceptance")

    def decoding(self, spec: ModelSpec, scenario: Scenario) -> Decoding:
        return Decoding(queries=self.heads + 1, accepted=expected_tokens(self.acceptance, self.heads), heads=self.heads,
                        own_vocabulary=self.vocabulary)

    @property
    def changes(self) -> str:
        return f"{self.heads} more heads draft a token each; a step takes them and the last one together."

    @property
    def assumes(self) -> str:
        return f"{said_of_drafts(self.acceptance, self.heads)}; all requests advance alike."


@dataclass(frozen=True, kw_only=True)
class AllAtOnce(Decoder):
    """All tokens of the output go through the decoder together, once or in a few passes that refine them (non-autoregressive)."""

    NAME: ClassVar[str] = "non_autoregressive"
    SOURCE: ClassVar[str] = "Gu et al., arXiv 1711.02281; Ghazvininejad et al., arXiv 1904.09324; Gao et al., arXiv 2206.08317"

    passes: int = 1
    upsample: float = 1.0
    """Positions that each pass takes for a token that comes out (of a directed acyclic decoder: several)."""

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise self.wrong("passes", "at least 1")
        if self.upsample < 1:
            raise self.wrong("upsample", "at least 1")

    def decoding(self, spec: ModelSpec, scenario: Scenario) -> Decoding:
        tokens = max(1, scenario.decode_steps if scenario.phase == "both" else scenario.output)
        if self.passes > tokens:
            raise self.wrong("passes", f"no more than the {tokens} tokens that come out")
        return Decoding(queries=round(tokens * self.upsample), accepted=tokens / self.passes)

    @property
    def changes(self) -> str:
        many = "one pass" if self.passes == 1 else f"{self.passes} passes"
        wide = f", {self.upsample:g} positions a token" if self.upsample > 1 else ""
        return f"All tokens go through the decoder together, in {many}{wide}."

    @property
    def assumes(self) -> str:
        return ("The length of the output is known beforehand, and the first token comes with the prefill as it does "
                "without the transform.")
