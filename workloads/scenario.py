"""Scenario: how a model is used. Batch, lengths, precision and parallelism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .lengths import drawn
from .ops import DTYPES, SPARSITIES, Int64s

ROUTINGS = ("uniform", "balanced", "zipf")
PHASES = ("prefill", "decode", "both")
SPREADS = ("heads", "batch")
CONTEXTS = ("ring", "tree")


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One batch of requests that enter together and leave together (static batching).

    `prompt` is one length for all or a list of lengths, one a request; or asks for lengths that are drawn from a seed or read from a
    file, in any form of `lengths.drawn`, and becomes that list. `output` counts generated tokens, of which the first comes from the
    prefill. `phase` limits a run to one part. Raises ValueError naming the field that does not fit.
    """

    batch: int = 1
    prompt: int | tuple[int, ...] = 512
    output: int = 128
    phase: str = "both"
    dtype: str = "bf16"
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    weight_sparsity: str = "dense"
    """N:M where the layers' linear weights keep N of each M values along their input dimension. Embeddings, the head and MLA's
    up-projections from the latent stay dense: the first two are not pruned in practice (arXiv 2301.00774), and decode reads the
    last along their other dimension."""
    tp: int = 1
    pp: int = 1
    attention_parallel: str = "heads"
    """What the devices of a tensor-parallel group share out of the attention over the cache: "heads", or "batch": each device
    keeps the cache of some requests, with all their heads (Pope et al., MLSys'23, section 3.3)."""
    context: int = 1
    """Devices that share out the tokens of each sequence, all weights on each; `prompt` is then what one of them holds."""
    context_attention: str = "ring"
    """How attention reaches the keys of the others: they go round, or ("tree") partial results are reduced."""
    experts_apart: bool = False
    """The devices of a tensor-parallel group have whole experts, not a piece of each."""
    routing: str = "uniform"
    """How tokens choose experts: "uniform" draws each token's experts at random, "balanced" spreads them evenly,
    "zipf" weighs expert i by 1/i."""
    full_square: bool = False
    """Count all query-key pairs of causal attention, as most papers do, not the visible triangle."""
    all_logits: bool = False
    """Compute the logits of every prompt position, not of the last one only."""
    transforms: tuple[str, ...] = ()
    """Techniques that change the workload, applied in this order: "kv_evict:keep=0.1", as `transforms.parse` reads them. One text may
    name several, "quantise:kv=int8 + yoco", or none, ""."""

    def __post_init__(self) -> None:
        if isinstance(self.prompt, (Sequence, np.ndarray)) and not isinstance(self.prompt, (str, tuple)):
            object.__setattr__(self, "prompt", tuple(self.prompt))
        for field in ("batch", "output", "tp", "pp", "context"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{field} is {value!r}. Expected a whole number of at least 1.")
            object.__setattr__(self, field, int(value))
        if isinstance(self.prompt, (str, Mapping)):
            try:
                object.__setattr__(self, "prompt", tuple(drawn(self.prompt, self.batch).tolist()))
            except ValueError as error:
                raise ValueError(f"prompt: {error}") from None
        lengths = self.prompt if isinstance(self.prompt, tuple) else (self.prompt,)
        for length in lengths:
            if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < 1:
                raise ValueError(f"prompt is {length!r}. Expected a length of at least 1 token.")
        object.__setattr__(self, "prompt", tuple(map(int, lengths)) if isinstance(self.prompt, tuple) else int(self.prompt))
        if isinstance(self.prompt, tuple) and len(self.prompt) != self.batch:
            raise ValueError(f"prompt has {len(self.prompt)} lengths but batch is {self.batch}. Expected one length a request.")
        texts = (self.transforms,) if isinstance(self.transforms, str) else self.transforms
        object.__setattr__(self, "transforms", tuple(name.strip() for text in texts for name in text.split("+") if name.strip()))
        for field, known in (("phase", PHASES), ("attention_parallel", SPREADS), ("context_attention", CONTEXTS), ("routing", ROUTINGS),
                             ("dtype", DTYPES), ("weight_dtype", (*DTYPES, None)), ("kv_dtype", (*DTYPES, None)),
                             ("weight_sparsity", SPARSITIES)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is {getattr(self, field)!r}. Expected one of {', '.join(str(k) for k in known if k)}.")

    @cached_property
    def lengths(self) -> Int64s:
        """Prompt length of each request."""
        if isinstance(self.prompt, tuple):
            return np.array(self.prompt, np.int64)
        return np.full(self.batch, self.prompt, np.int64)

    @property
    def weights(self) -> str:
        return self.weight_dtype or self.dtype

    @property
    def kv(self) -> str:
        return self.kv_dtype or self.dtype

    @property
    def by_request(self) -> bool:
        """Whether the cache is shared out by requests, not by heads."""
        return self.attention_parallel == "batch" and self.tp > 1

    @property
    def alike(self) -> int:
        """Devices that do the same at a time: those of a stage."""
        return self.tp * self.context

    @property
    def devices(self) -> int:
        """All devices of the run."""
        return self.alike * self.pp

    def held(self, lengths: Int64s) -> Int64s:
        """Indices of the requests, of prompts so long, whose cache the fullest device of a tensor-parallel group keeps, ascending.

        Shared out by requests, they are dealt out longest first: device 0 has the longest, and ceil(batch / tp) in all. Time and energy
        take every device for this one.
        """
        if not self.by_request:
            return np.arange(lengths.size)
        return np.sort(np.argsort(-lengths, kind="stable")[:: self.tp])

    @property
    def decode_steps(self) -> int:
        """Steps after the first token, which the prefill gives."""
        return self.output - 1

    def but(self, **changes: object) -> Scenario:
        """This scenario with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def distinct_experts(routing: str, experts: int, top_k: int, tokens: int) -> int:
    """Experts that at least one of `tokens` tokens is sent to, in expectation, rounded; at least top_k.

    uniform: E (1 - (1 - k/E)^T), each token drawing k of E without replacement; zipf: the same with expert i drawn in
    proportion to 1/i (capped at one draw a token); balanced: min(E, k T).
    """
    if routing == "balanced":
        return min(experts, top_k * tokens)
    weight = 1.0 / np.arange(1, experts + 1) if routing == "zipf" else np.ones(experts)
    share = np.minimum(1.0, top_k * weight / weight.sum())
    touched = float((1.0 - (1.0 - share) ** tokens).sum())
    return int(min(experts, max(top_k, round(touched))))
