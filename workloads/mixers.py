"""Mixers as operators: attention, latent attention, and chains of whatever a layer does else, per device of a tensor-parallel group."""

from __future__ import annotations

import math

from .emit import Emit
from .kinds import BY_NAME
from .spec import MLA, Attention, Chain, Step
from .spread import over_devices

DECODES_AS = {"scan": "scan_step", "linear_attention": "scan_step", "gated_scan": "gated_step", "delta_scan": "delta_step"}
"""What a scan over a prompt becomes where each sequence goes one token on."""


def attention(emit: Emit, mixer: Attention, x: int) -> int:
    """Attention over the layer's own tokens, or over what another layer or an encoder has left in the cache."""
    part, tp, hidden, d = emit.part, emit.part.scenario.tp, emit.hidden, mixer.head_dim
    heads_q, heads_kv = mixer.heads_q // tp, max(1, mixer.heads_kv // tp)
    if mixer.source != "self" or mixer.reduce > 1 or part.last_token:
        return _read(emit, mixer, x, heads_q, heads_kv)
    if mixer.block:
        x = emit.move("window", "window", x, hidden)
    gates = heads_q if mixer.gate else 0
    made = gates + heads_q * (mixer.given < 3) + heads_kv * max(0, 2 - mixer.given)
    x = emit.factored("qkv_proj", x, made * d, hidden, mixer.rank) if made else x
    if mixer.qk_norm:
        x = emit.vector("qk_norm", "rmsnorm", x, n=(heads_q + heads_kv) * d)
    if mixer.rope:
        x = emit.vector("rope", "rope", x, n=(heads_q + heads_kv) * d)
    for step in mixer.prepare:
        x = one_step(emit, step, x)
    # Attention of a prefill is shared out by heads in any case: many queries read each key, so its cache costs little (Pope et al.,
    # section 3.3). A single KV head is computed on every device, so its keys and values need not move.
    moving = (mixer.heads_q if part.decoding else 0) + (2 * mixer.heads_kv if mixer.heads_kv > 1 else 0)
    x = emit.exchange("alltoall_qkv", x, part.tokens, -(-moving * d // tp))
    by_request = part.scenario.by_request
    if not part.spec.encoder:
        x = emit.append(x, 2 * d * (mixer.heads_kv if by_request else heads_kv))
    if by_request and part.decoding:
        x = _attend(emit, mixer, x, mixer.heads_q, mixer.heads_kv)
        x = emit.exchange("alltoall_out", x, part.held.size * part.queries, mixer.heads_q * d)
    else:
        x = _attend(emit, mixer, x, heads_q, heads_kv)
    if mixer.relative:
        x = _position_scores(emit, heads_q, d, x)
    if mixer.gate:
        x = emit.vector("attention_gate", "sigmoid_mul", x, n=heads_q * d)
    x = emit.factored("o_proj", x, hidden, heads_q * d, mixer.rank)
    return emit.move("window", "window", x, hidden) if mixer.block else x


def _attend(emit: Emit, mixer: Attention, x: int, heads_q: int, heads_kv: int) -> int:
    """Attention over the layer's own tokens, with what picks those that are read before it and those that are kept after it."""
    d, kv_width = mixer.head_dim, 2 * heads_kv * mixer.head_dim
    if emit.part.scenario.context > 1:
        return over_devices(emit, mixer, x, heads_q, heads_kv)
    if mixer.top and emit.part.decoding:
        x = emit.pick(x, mixer, heads_q, heads_kv)
    x = emit.attention(x, mixer, heads_q, heads_kv, d, d, kv_width)
    return x if mixer.budget is None else emit.evict(x, mixer, heads_q, kv_width)


def cached_only(emit: Emit, mixer: Attention, x: int) -> int:
    """Keys and values of every token, cached, without attention."""
    part, heads_kv = emit.part, max(1, mixer.heads_kv // emit.part.scenario.tp)
    tokens = int(part.lengths.sum()) if part.last_token else part.tokens
    width = 2 * heads_kv * mixer.head_dim
    return emit.append(emit.linear("kv_proj", x, width, emit.hidden, m=tokens), width, tokens)


def _position_scores(emit: Emit, heads: int, head_dim: int, x: int) -> int:
    """Relative positions of the longest sequence, projected, and their products with every query."""
    length = int(emit.part.lengths.max())
    positions = 2 * length - 1
    x = emit.linear("position_proj", x, heads * head_dim, emit.hidden, m=positions)
    return emit.block.add("position_scores", "bmm", x, batch=emit.part.sequences * heads, m=length, n=positions, k=head_dim, **emit.common)


def _read(emit: Emit, mixer: Attention, x: int, heads_q: int, heads_kv: int) -> int:
    """Queries of the layer's tokens on keys and values of others: an encoder's, an earlier layer's, or fewer of its own (PVT)."""
    part, hidden, d = emit.part, emit.hidden, mixer.head_dim
    given, rows = x, part.tokens
    if part.last_token and mixer.source == "self":
        x = cached_only(emit, mixer, x)
    x = emit.linear("q_proj", x, heads_q * d, hidden)
    if mixer.source == "self" and not part.last_token:
        rows = int((-(-part.lengths // mixer.reduce)).sum())
        given = emit.linear("reduce", given, hidden, mixer.reduce * hidden, m=rows)
        given = emit.vector("reduce_norm", "layernorm", given, n=hidden, m=rows)
        x = emit.linear("kv_proj", given, 2 * heads_kv * d, hidden, m=rows)
    elif mixer.source == "cross" and not part.decoding:
        rows = int(part.source.sum())
        x = emit.linear("kv_proj", x, 2 * heads_kv * d, mixer.source_hidden or hidden, m=rows)
        x = x if part.spec.encoder else emit.append(x, 2 * heads_kv * d, m=rows)
    x = emit.attention(x, mixer, heads_q, heads_kv, d, d, 2 * heads_kv * d)
    return emit.linear("o_proj", x, hidden, heads_q * d)


def latent(emit: Emit, mixer: MLA, x: int) -> int:
    """MLA. Decode keeps the latent and absorbs the up-projections into the query and the output (arXiv 2405.04434, appendix C)."""
    hidden, heads = emit.hidden, mixer.heads_q // emit.part.scenario.tp
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
        out = emit.exchange("alltoall_out", out, emit.part.held.size * emit.part.queries, seen_by * latent)
        out = emit.per_head("v_absorb", out, heads, mixer.value_dim, latent)
    else:
        up = emit.linear("kv_up", cached, heads * (mixer.nope_dim + mixer.value_dim), latent, dense=True)
        out = emit.attention(up, mixer, heads, heads, query_dim, mixer.value_dim, heads * (query_dim + mixer.value_dim))
    return emit.linear("o_proj", out, hidden, heads * mixer.value_dim)


def chain(emit: Emit, mixer: Chain, x: int) -> int:
    """The steps of a chain one after another."""
    for step in mixer.steps:
        x = one_step(emit, step, x)
    return x


def one_step(emit: Emit, step: Step, x: int) -> int:
    """One operator of a chain, with what tensor parallelism leaves of it on a device."""
    part, tp = emit.part, emit.part.scenario.tp
    if step.prefill_only and part.decoding:
        return x
    cut = {name: -(-getattr(step, name) // tp) if step.cut == name else getattr(step, name) for name in ("n", "k", "batch")}
    heads, key_heads = (max(1, count // tp) if step.cut == "heads" and count else count for count in (step.heads, step.key_heads))
    rows = part.sequences if step.each == "sequence" else (part.sequences * step.rows if step.rows else part.tokens * step.times)
    rows = math.ceil(rows * step.share)
    form = BY_NAME[step.kind].form
    shape = {"m": rows, "n": cut["n"], "k": cut["k"], "batch": cut["batch"], "in_elements": rows * step.reads}
    if form in ("scan", "channels"):
        kind = DECODES_AS.get(step.kind, step.kind) if part.decoding else step.kind
        shape |= {"batch": part.sequences, "heads_q": heads, "heads_kv": key_heads, "head_dim": step.key_dim, "value_dim": step.value_dim}
        return emit.block.add(step.name, kind, x, **shape, **emit.common)
    if form == "stencil":
        shape |= {"batch": part.sequences, "kv_width": step.state // tp if step.cut else step.state}
    elif step.along == "tokens" and step.matmul:
        shape |= {"m": part.sequences * step.times, "k": int(part.lengths.max())}
    elif step.along == "tokens":
        shape |= {"m": part.sequences * cut["n"], "n": int(part.lengths.max())}
    elif step.along == "pieces":
        pieces = -(-int(part.lengths.max()) // step.stride)
        products = part.sequences * (max(1, step.times // tp) if step.cut == "heads" else step.times)
        matrix = BY_NAME[step.kind].work == "matmul"
        shape |= {"batch": products if matrix else 1, "m": pieces if matrix else products * pieces, "n": math.ceil(pieces * step.share)}
    elif form == "triangle":
        shape["m"] = rows * heads
    kind = "gemv" if step.kind == "gemm" and rows == 1 else step.kind
    return emit.block.add(step.name, kind, x, **shape, **(emit.pruned if step.kind == "gemm" else emit.common))
