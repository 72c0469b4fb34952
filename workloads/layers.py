"""One layer as a block of operators: the mixers and feed-forward parts of a transformer, per device of a tensor-parallel group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .ops import DTYPES, PHASES, SPARSITIES, Int64s
from .scenario import Scenario, distinct_experts
from .spec import MLA, Attention, Dense, Layer, ModelSpec, MoE
from .trace import Block

ACTIVATIONS = ("silu", "gelu", "relu")
"""Activations of a ModelSpec; each is an operator kind, and with `_mul` the gated form."""


@dataclass(frozen=True)
class Part:
    """What one sub-batch brings to one phase. `lengths` are the prompts of its requests."""

    spec: ModelSpec
    scenario: Scenario
    phase: str
    lengths: Int64s
    generated: int = 0
    """Decode: tokens that each request has in the cache beyond its prompt, the one of this step included."""

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
    def tokens(self) -> int:
        """Tokens that go through the layers."""
        return self.sequences if self.decoding else int(self.lengths.sum())


def visible_pairs(lengths: Int64s, window: int | None, causal: bool, full_square: bool) -> int:
    """(query, key) pairs of a prefill: sum over queries i of min(i, window); all keys where not causal or `full_square`."""
    reach = lengths if window is None else np.minimum(lengths, window)
    if not causal or full_square:
        return int((lengths * reach).sum())
    return int((reach * (reach + 1) // 2 + (lengths - reach) * reach).sum())


def visible_tokens(lengths: Int64s, generated: int, window: int | None) -> Int64s:
    """Cached tokens that each request's next query sees."""
    return lengths + generated if window is None else np.minimum(lengths + generated, window)


class Emit:
    """Writes operators of one sub-batch into a block; every method returns the row that the next one waits for."""

    def __init__(self, part: Part, names: dict[str, int], sparsity: str = "dense") -> None:
        self.part = part
        self.block = Block(names=names)
        dtypes = {"weight_dtype": part.scenario.weights, "act_dtype": part.scenario.dtype, "kv_dtype": part.scenario.kv}
        self.common = {"phase": PHASES.index(part.phase), **{key: DTYPES.index(value) for key, value in dtypes.items()}}
        self.pruned = {**self.common, "sparsity": SPARSITIES.index(sparsity)}

    def linear(self, name: str, x: int, n: int, k: int, m: int | None = None, dense: bool = False) -> int:
        """x[m, k] times a weight [k, n]; one row of x makes it a GEMV. `dense` weights are never pruned."""
        m = self.part.tokens if m is None else m
        return self.block.add(name, "gemv" if m == 1 else "gemm", x, m=m, n=n, k=k, **(self.common if dense else self.pruned))

    def per_head(self, name: str, x: int, heads: int, n: int, k: int) -> int:
        """One weight [k, n] a head (absorbed MLA projections)."""
        m = self.part.tokens
        return self.block.add(name, "gemv" if m == 1 else "gemm", x, batch=heads, m=m, n=n, k=k, **self.common)

    def experts(self, name: str, x: int, groups: int, rows: int, n: int, k: int) -> int:
        """`rows` rows shared out over `groups` experts, each with a weight [k, n]."""
        return self.block.add(name, "grouped_gemm", x, batch=groups, m=rows, n=n, k=k, **self.pruned)

    def vector(self, name: str, kind: str, *x: int, n: int, m: int | None = None, summed: int = 0) -> int:
        return self.block.add(name, kind, *x, m=self.part.tokens if m is None else m, n=n, k=summed, **self.common)

    def collective(self, name: str, kind: str, x: int, n: int, peers: int, m: int | None = None) -> int:
        return self.block.add(name, kind, x, m=self.part.tokens if m is None else m, n=n, peers=peers, **self.common)

    def exchange(self, name: str, x: int, m: int, n: int) -> int:
        """Each device's m rows of n elements to the devices that go on with them; nothing where attention is shared out by heads."""
        scenario = self.part.scenario
        return self.collective(name, "alltoall", x, n, scenario.tp, m) if scenario.by_request and n else x

    def append(self, x: int, kv_width: int) -> int:
        held = self.part.held
        m = held.size if self.part.decoding else int(held.sum())
        return self.block.add("kv_append", "kv_append", x, m=m, n=kv_width, kv_width=kv_width, **self.common)

    def attention(self, x: int, mixer: Attention | MLA, heads_q: int, heads_kv: int, head_dim: int, value_dim: int, kv_width: int) -> int:
        part = self.part
        if part.decoding:
            seen = visible_tokens(part.held, part.generated, mixer.window)
            pairs, q_len, tokens = int(seen.sum()), 1, seen.size
        else:
            seen, q_len, tokens = part.lengths, int(part.lengths.max()), part.tokens
            pairs = visible_pairs(part.lengths, mixer.window, mixer.causal, part.scenario.full_square)
        kind = "attention_decode" if part.decoding else "attention_prefill"
        # A prefill reads the keys and values that it has just computed, not what the cache makes of them.
        kv_dtype = self.common["kv_dtype" if part.decoding else "act_dtype"]
        return self.block.add("attention", kind, x, batch=seen.size, m=tokens, n=int(seen.sum()), pairs=pairs, q_len=q_len,
                              kv_len=int(seen.max()), heads_q=heads_q, heads_kv=heads_kv, head_dim=head_dim, value_dim=value_dim,
                              kv_width=kv_width, window=mixer.window or 0, **{**self.common, "kv_dtype": kv_dtype})


def layer_block(part: Part, layer: Layer, names: dict[str, int]) -> Block:
    """The operators of one layer, residual stream to residual stream. Norm positions (before or after) cost the same."""
    emit, spec, x = Emit(part, names, part.scenario.weight_sparsity), part.spec, Block.INPUT
    normed = emit.vector("norm", spec.norm, x, n=spec.hidden)
    mixed = _mixer(emit, layer.mixer, normed)
    if not layer.parallel:
        mixed = _allreduce(emit, "allreduce_attention", mixed)
    if layer.norms == 4:
        mixed = emit.vector("norm", spec.norm, mixed, n=spec.hidden)
    if layer.parallel:
        source = emit.vector("norm", spec.norm, x, n=spec.hidden) if layer.norms == 2 else normed
        first = len(emit.block.preds)
        fed = _ffn(emit, layer.ffn, source)
        if not part.decoding:
            # A prefill saturates the device with one stream of operators; in a decode the FFN may run beside the attention.
            emit.block.preds[first] += (mixed,)
        both = _allreduce(emit, "allreduce_layer", emit.vector("residual", "add", mixed, fed, n=spec.hidden))
        emit.vector("residual", "add", both, x, n=spec.hidden)
        return emit.block
    middle = emit.vector("residual", "add", mixed, x, n=spec.hidden)
    fed = _allreduce(emit, "allreduce_ffn", _ffn(emit, layer.ffn, emit.vector("norm", spec.norm, middle, n=spec.hidden)))
    if layer.norms == 4:
        fed = emit.vector("norm", spec.norm, fed, n=spec.hidden)
    emit.vector("residual", "add", fed, middle, n=spec.hidden)
    return emit.block


def _mixer(emit: Emit, mixer: Attention | MLA, x: int) -> int:
    return _latent_attention(emit, mixer, x) if isinstance(mixer, MLA) else _attention(emit, mixer, x)


def _allreduce(emit: Emit, name: str, x: int) -> int:
    """Sum of the partial results of a tensor-parallel group; nothing where the group is one device."""
    tp = emit.part.scenario.tp
    return emit.collective(name, "allreduce", x, emit.part.spec.hidden, tp) if tp > 1 else x


def _attention(emit: Emit, mixer: Attention, x: int) -> int:
    part, tp, hidden, d = emit.part, emit.part.scenario.tp, emit.part.spec.hidden, mixer.head_dim
    heads_q, heads_kv = mixer.heads_q // tp, max(1, mixer.heads_kv // tp)
    x = emit.linear("qkv_proj", x, (heads_q + 2 * heads_kv) * d, hidden)
    if mixer.qk_norm:
        x = emit.vector("qk_norm", "rmsnorm", x, n=(heads_q + heads_kv) * d)
    if mixer.rope:
        x = emit.vector("rope", "rope", x, n=(heads_q + heads_kv) * d)
    # Attention of a prefill is shared out by heads in any case: many queries read each key, so its cache costs little (Pope et al.,
    # section 3.3). A single KV head is computed on every device, so its keys and values need not move.
    moving = (mixer.heads_q if part.decoding else 0) + (2 * mixer.heads_kv if mixer.heads_kv > 1 else 0)
    x = emit.exchange("alltoall_qkv", x, part.tokens, -(-moving * d // tp))
    by_request = part.scenario.by_request
    if not part.spec.encoder:
        x = emit.append(x, 2 * d * (mixer.heads_kv if by_request else heads_kv))
    if by_request and part.decoding:
        x = emit.attention(x, mixer, mixer.heads_q, mixer.heads_kv, d, d, mixer.kv_elements)
        x = emit.exchange("alltoall_out", x, part.held.size, mixer.heads_q * d)
    else:
        x = emit.attention(x, mixer, heads_q, heads_kv, d, d, 2 * heads_kv * d)
    return emit.linear("o_proj", x, hidden, heads_q * d)


def _latent_attention(emit: Emit, mixer: MLA, x: int) -> int:
    """MLA. Decode keeps the latent and absorbs the up-projections into the query and the output (arXiv 2405.04434, appendix C)."""
    hidden, heads = emit.part.spec.hidden, mixer.heads_q // emit.part.scenario.tp
    latent, query_dim = mixer.kv_lora_rank, mixer.nope_dim + mixer.rope_dim
    if mixer.q_lora_rank is None:
        q = emit.linear("q_proj", x, heads * query_dim, hidden)
    else:
        q = emit.vector("q_norm", "rmsnorm", emit.linear("q_down", x, mixer.q_lora_rank, hidden), n=mixer.q_lora_rank)
        q = emit.linear("q_up", q, heads * query_dim, mixer.q_lora_rank)
    kv = emit.linear("kv_down", x, mixer.kv_elements, hidden)
    kv = emit.vector("kv_norm", "rmsnorm", kv, n=latent)
    rope = emit.block.add("rope", "rope", q, kv, m=emit.part.tokens, n=(heads + 1) * mixer.rope_dim, **emit.common)
    cached = emit.append(rope, mixer.kv_elements)
    if emit.part.decoding:
        q = emit.per_head("q_absorb", cached, heads, latent, mixer.nope_dim)
        q = emit.exchange("alltoall_q", q, emit.part.tokens, heads * mixer.kv_elements)
        seen_by = mixer.heads_q if emit.part.scenario.by_request else heads
        out = emit.attention(q, mixer, seen_by, 1, mixer.kv_elements, latent, mixer.kv_elements)
        out = emit.exchange("alltoall_out", out, emit.part.held.size, seen_by * latent)
        out = emit.per_head("v_absorb", out, heads, mixer.value_dim, latent)
    else:
        up = emit.linear("kv_up", cached, heads * (mixer.nope_dim + mixer.value_dim), latent, dense=True)
        out = emit.attention(up, mixer, heads, heads, query_dim, mixer.value_dim, heads * (query_dim + mixer.value_dim))
    return emit.linear("o_proj", out, hidden, heads * mixer.value_dim)


def _ffn(emit: Emit, ffn: Dense | MoE, x: int) -> int:
    return _dense(emit, ffn, x, "") if isinstance(ffn, Dense) else _moe(emit, ffn, x)


def _activate(emit: Emit, x: int, ffn: Dense | MoE, name: str, width: int, m: int) -> int:
    return emit.vector(name, f"{ffn.activation}_mul" if ffn.gated else ffn.activation, x, n=width, m=m)


def _dense(emit: Emit, ffn: Dense, x: int, prefix: str) -> int:
    width, hidden = ffn.width // emit.part.scenario.tp, emit.part.spec.hidden
    x = emit.linear(prefix + ("gate_up" if ffn.gated else "up"), x, (2 if ffn.gated else 1) * width, hidden)
    x = _activate(emit, x, ffn, prefix + "activation", width, emit.part.tokens)
    return emit.linear(prefix + "down", x, hidden, width)


def _moe(emit: Emit, ffn: MoE, x: int) -> int:
    part, hidden, width = emit.part, emit.part.spec.hidden, ffn.width // emit.part.scenario.tp
    groups = distinct_experts(part.scenario.routing, ffn.experts, ffn.top_k, part.tokens)
    rows = part.tokens * ffn.top_k
    routed = emit.vector("topk", "topk", emit.linear("router", x, ffn.experts, hidden), n=ffn.experts)
    up = emit.experts("experts_gate_up" if ffn.gated else "experts_up", routed, groups, rows, (2 if ffn.gated else 1) * width, hidden)
    act = _activate(emit, up, ffn, "experts_activation", width, rows)
    down = emit.experts("experts_down", act, groups, rows, hidden, width)
    out = emit.vector("combine", "combine", down, n=hidden, m=rows, summed=ffn.top_k)
    if ffn.shared is None:
        return out
    if ffn.shared_gate:
        x = emit.linear("shared_gate", x, 1, hidden)
    shared = _dense(emit, ffn.shared, x, "shared_")
    return emit.vector("add_shared", "add", out, shared, n=hidden)
