"""Writing operators: what one sub-batch brings to a phase, and rows of its sizes and types."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .ops import DTYPES, PHASES, SPARSITIES, Int64s
from .scenario import Scenario
from .spec import MLA, Attention, Layer, ModelSpec
from .trace import Block


@dataclass(frozen=True)
class Part:
    """What one sub-batch brings to one phase. `lengths` are the prompts of its requests."""

    spec: ModelSpec
    scenario: Scenario
    phase: str
    lengths: Int64s
    generated: int = 0
    """Decode: tokens that each request has in the cache beyond its prompt, the one of this step included."""
    source: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    """Encoded tokens of each request that cross-attention reads."""
    hidden: int = 0
    """Width of the layer that is being written."""
    last_token: bool = False
    """Whether this is the last token of each prompt in a prefill, at a layer that takes no other."""
    fixed: bool = False
    """Decode: `lengths` are all that is in the cache, at its mean over the generation."""

    def at(self, layer: Layer) -> Part:
        """The part as one layer sees it: of its width, with the tokens that it still has."""
        lengths = self.lengths
        if layer.tokens:
            lengths = np.full_like(lengths, layer.tokens)
        elif layer.keep < 1:
            lengths = np.maximum(1, np.ceil(lengths * layer.keep)).astype(np.int64)
        elif layer.every > 1 and self.decoding:
            # Blocks of different requests end at different steps: each step so many requests have one that ends.
            mean = lengths[:: layer.every] + self.scenario.output // 2
            return replace(self, lengths=-(-mean // layer.every), generated=0, fixed=True, hidden=layer.hidden or self.spec.hidden)
        elif layer.every > 1:
            lengths = -(-lengths // layer.every)
        last = layer.last_token and not self.decoding
        phase = "decode" if last else self.phase
        return replace(self, lengths=lengths, hidden=layer.hidden or self.spec.hidden, phase=phase, last_token=last)

    @property
    def decoding(self) -> bool:
        return self.phase == "decode"

    @property
    def sequences(self) -> int:
        return int(self.lengths.size)

    @cached_property
    def held(self) -> Int64s:
        """Prompts of the requests whose cache this device keeps: all, unless attention is shared out by requests."""
        return self.lengths[self.scenario.held(self.lengths)]

    @property
    def queries(self) -> int:
        """Tokens of each sequence that a decode step takes through the layers."""
        return 1 if self.last_token else self.spec.decoding.queries

    @property
    def tokens(self) -> int:
        """Tokens that go through the layers."""
        return self.sequences * self.queries if self.decoding else int(self.lengths.sum())


def visible_pairs(lengths: Int64s, window: int | None, causal: bool, full_square: bool) -> int:
    """(query, key) pairs of a prefill: sum over queries i of min(i, window); all keys where not causal or `full_square`."""
    reach = lengths if window is None else np.minimum(lengths, window)
    if not causal or full_square:
        return int((lengths * reach).sum())
    return int((reach * (reach + 1) // 2 + (lengths - reach) * reach).sum())


def step_reach(cached: Int64s, window: int, queries: int) -> tuple[Int64s, Int64s]:
    """Of so many cached tokens those that the last `queries` of them read together, and the (query, token) pairs that they see: each sees
    itself and up to `window` tokens (0: all) back."""
    if not window:
        return cached, queries * cached - queries * (queries - 1) // 2
    pairs = sum((np.minimum(cached - later, window) for later in range(queries)), np.zeros_like(cached))
    return np.minimum(cached, window + queries - 1), pairs


class Emit:
    """Writes operators of one sub-batch into a block; every method returns the row that the next one waits for."""

    def __init__(self, part: Part, names: dict[str, int], sparsity: str = "dense") -> None:
        self.part = part
        self.block = Block(names=names)
        self.hidden = part.hidden or part.spec.hidden
        dtypes = {"weight_dtype": part.scenario.weights, "act_dtype": part.scenario.dtype, "kv_dtype": part.scenario.kv}
        self.common = {"phase": PHASES.index(part.phase), **{key: DTYPES.index(value) for key, value in dtypes.items()}}
        self.pruned = {**self.common, "sparsity": SPARSITIES.index(sparsity)}

    def linear(self, name: str, x: int, n: int, k: int, m: int | None = None, dense: bool = False) -> int:
        """x[m, k] times a weight [k, n]; one row of x makes it a GEMV. `dense` weights are never pruned."""
        m = self.part.tokens if m is None else m
        if self.part.spec.outliers is not None:
            return self._mixed(name, x, m, n, k, min(k, self.part.spec.outliers))
        return self.block.add(name, "gemv" if m == 1 else "gemm", x, m=m, n=n, k=k, **(self.common if dense else self.pruned))

    def _mixed(self, name: str, x: int, m: int, n: int, k: int, outliers: int) -> int:
        """Outlier inputs multiplied in the activations' type beside the others, quantised, in the weights' (LLM.int8(), section 3.2)."""
        kind, narrow = "gemv" if m == 1 else "gemm", {**self.pruned, "act_dtype": self.common["weight_dtype"]}
        codes = self.vector(f"{name}_quantize", "quantize", x, n=k, m=m)
        product = self.block.add(name, kind, codes, m=m, n=n, k=k - outliers, **narrow)
        if outliers:
            beside = self.block.add(f"{name}_outliers", kind, x, m=m, n=n, k=outliers, **self.pruned)
            return self.vector(f"{name}_dequantize", "dequantize", product, beside, n=n, m=m)
        return self.vector(f"{name}_dequantize", "dequantize", product, n=n, m=m)

    def factored(self, name: str, x: int, n: int, k: int, rank: int) -> int:
        """A linear layer as two factors of a rank; as one matrix where that is 0."""
        return self.linear(name, self.linear(f"{name}_down", x, rank, k), n, rank) if rank else self.linear(name, x, n, k)

    def per_head(self, name: str, x: int, heads: int, n: int, k: int) -> int:
        """One weight [k, n] a head (absorbed MLA projections)."""
        m = self.part.tokens
        return self.block.add(name, "gemv" if m == 1 else "gemm", x, batch=heads, m=m, n=n, k=k, **self.common)

    def experts(self, name: str, x: int, groups: int, rows: int, n: int, k: int) -> int:
        """`rows` rows shared out over `groups` experts, each with a weight [k, n]."""
        return self.block.add(name, "grouped_gemm", x, batch=groups, m=rows, n=n, k=k, **self.pruned)

    def vector(self, name: str, kind: str, *x: int, n: int, m: int | None = None, summed: int = 0) -> int:
        return self.block.add(name, kind, *x, m=self.part.tokens if m is None else m, n=n, k=summed, **self.common)

    def move(self, name: str, kind: str, x: int, n: int) -> int:
        return self.block.add(name, kind, x, m=self.part.tokens, n=n, **self.common)

    def collective(self, name: str, kind: str, x: int, n: int, peers: int, m: int | None = None) -> int:
        return self.block.add(name, kind, x, m=self.part.tokens if m is None else m, n=n, peers=peers, **self.common)

    def exchange(self, name: str, x: int, m: int, n: int) -> int:
        """Each device's m rows of n elements to the devices that go on with them; nothing where attention is shared out by heads."""
        scenario = self.part.scenario
        return self.collective(name, "alltoall", x, n, scenario.tp, m) if scenario.by_request and n else x

    def append(self, x: int, kv_width: int, m: int | None = None) -> int:
        held = self.part.held
        if m is None:
            m = held.size * self.part.queries if self.part.decoding else int(held.sum())
        return self.block.add("kv_append", "kv_append", x, m=m, n=kv_width, kv_width=kv_width, **self.common)

    def attention(self, x: int, mixer: Attention | MLA, heads_q: int, heads_kv: int, head_dim: int, value_dim: int, kv_width: int) -> int:
        part = self.part
        kind = "attention_decode" if part.decoding else "attention_prefill"
        # A prefill reads the keys and values that it has just computed, not what the cache makes of them.
        kv_dtype = self.common["kv_dtype" if part.decoding else "act_dtype"]
        window = mixer.window or 0 if not part.decoding else _most(mixer)
        return self.block.add("attention", kind, x, **_reach(part, mixer, window), heads_q=heads_q, heads_kv=heads_kv, head_dim=head_dim,
                              value_dim=value_dim, kv_width=kv_width, window=window, **{**self.common, "kv_dtype": kv_dtype})

    def pick(self, x: int, mixer: Attention, heads_q: int, heads_kv: int) -> int:
        """The cached tokens that a step's attention will read: scores by a few dimensions of all keys, and the best of them (Loki)."""
        turned = self.per_head("key_rotation", x, heads_q + heads_kv, mixer.head_dim, mixer.head_dim)
        window = mixer.reach or 0
        scores = self.block.add("key_scores", "attention_score", turned, **_reach(self.part, mixer, window), heads_q=heads_q,
                                heads_kv=heads_kv, head_dim=mixer.key_rank, kv_width=heads_kv * mixer.key_rank, window=window,
                                **self.common)
        return self.per_cached("key_topk", "topk", scores, mixer, heads_q)

    def per_cached(self, name: str, kind: str, x: int, mixer: Attention, rows: int) -> int:
        """A vector operator with `rows` rows for each query, as wide as its sequence's cache, with which it grows."""
        window, queries = mixer.reach or 0, self.part.queries
        reach = _reach(self.part, mixer, window)
        return self.block.add(name, kind, x, batch=rows * queries, m=1, n=reach["n"], q_len=queries, kv_len=reach["kv_len"],
                              window=window, **self.common)

    def evict(self, x: int, mixer: Attention, heads_q: int, kv_width: int) -> int:
        """Scores of cached tokens added up and the least found, after each step; of a prompt that is over the budget, the best kept."""
        budget, part = mixer.budget or 0, self.part
        if part.decoding:
            return self.per_cached("evict_topk", "topk", self.per_cached("score_sum", "add", x, mixer, heads_q), mixer, heads_q)
        over = part.lengths[part.lengths > budget]
        if not over.size:
            return x
        x = self.block.add("evict_topk", "topk", x, batch=heads_q, m=1, n=int(over.sum()), **self.common)
        return self.block.add("kv_evict", "kv_evict", x, m=budget * over.size, n=kv_width, kv_width=kv_width, **self.common)


def _most(mixer: Attention | MLA) -> int:
    """Cached tokens that a query of a decode step reads at most; 0 is all."""
    limits = [mixer.reach or 0, mixer.top if isinstance(mixer, Attention) else 0]
    return min((limit for limit in limits if limit), default=0)


def _reach(part: Part, mixer: Attention | MLA, window: int) -> dict[str, int]:
    """Which tokens see which: sequences, queries, keys and visible pairs of an attention."""
    if isinstance(mixer, Attention) and mixer.source == "cross":
        queries = np.full_like(part.source, part.queries) if part.decoding else part.lengths
        return {"batch": queries.size, "m": int(queries.sum()), "n": int(part.source.sum()), "pairs": int((queries * part.source).sum()),
                "q_len": int(queries.max()), "kv_len": int(part.source.max()), "cross": 1}
    if part.decoding:
        seen, pairs = step_reach(part.held + part.generated, window, part.queries)
        return {"batch": seen.size, "m": seen.size * part.queries, "n": int(seen.sum()), "pairs": int(pairs.sum()), "q_len": part.queries,
                "kv_len": int(seen.max()), "cross": int(part.fixed)}
    lengths = part.lengths
    if isinstance(mixer, Attention) and mixer.block:
        pieces = -(-lengths // mixer.block)
        keys, length = int((pieces * mixer.block).sum()), min(mixer.block, int(lengths.max()))
        return {"batch": int(pieces.sum()), "m": part.tokens, "n": keys, "pairs": part.tokens * length, "q_len": length, "kv_len": length}
    if isinstance(mixer, Attention) and mixer.reduce > 1:
        keys_of = -(-lengths // mixer.reduce)
        return {"batch": lengths.size, "m": part.tokens, "n": int(keys_of.sum()), "pairs": int((lengths * keys_of).sum()),
                "q_len": int(lengths.max()), "kv_len": int(keys_of.max())}
    seen_pairs = visible_pairs(lengths, mixer.window, mixer.causal, part.scenario.full_square)
    if isinstance(mixer, Attention):
        seen_pairs = max(part.tokens, round(seen_pairs * mixer.density))
    return {"batch": lengths.size, "m": part.tokens, "n": int(lengths.sum()), "pairs": seen_pairs, "q_len": int(lengths.max()),
            "kv_len": int(lengths.max())}
