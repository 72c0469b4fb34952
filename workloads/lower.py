"""ModelSpec + Scenario -> Trace: prefill, one decode step, or a whole generation with a growing cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .emit import Emit, Part, step_reach
from .layers import ACTIVATIONS, layer_block
from .mixers import one_step
from .ops import SHAPE, Int64s, Rows, concatenate, derive
from .partition import PARTITIONS
from .scenario import Scenario
from .spec import MLA, Attention, Chain, ModelSpec, MoE, Sublayer
from .trace import Block, Requests, Trace

Mask = NDArray[np.bool_]


def check(spec: ModelSpec, scenario: Scenario) -> list[str]:
    """Warnings about a model in a scenario. Raises ValueError where the model cannot be cut as asked."""
    tp, pp = scenario.tp, scenario.pp
    if pp > len(spec.layers):
        raise ValueError(f"--pp {pp}: {spec.name} has {len(spec.layers)} layers. Expected at most one stage a layer.")
    if spec.encoder and scenario.phase == "decode":
        raise ValueError(f"{spec.name} is an encoder and has no decode phase. Use --phase prefill.")
    for model in (*spec.companions, spec):
        for part in dict.fromkeys(part for layer in model.layers for part in layer.sublayers):
            _check_part(model.name, part, tp)
    if spec.encoder and scenario.attention_parallel == "batch":
        raise ValueError(f"--attention-parallel batch: {spec.name} is an encoder and has no cache to share out. Use heads.")
    for model in (*spec.companions, spec):
        _check_countable(model, prompt_lengths(model, scenario))
    longest = int(prompt_lengths(spec, scenario).max())
    reach = longest if spec.encoder or scenario.phase == "prefill" else longest + scenario.decode_steps
    if spec.positions is not None and not spec.input_tokens and reach > spec.positions:
        return [f"{spec.name} was made for {spec.positions} positions; this run reaches {reach}."]
    return []


def _check_part(model: str, part: Sublayer, tp: int) -> None:
    """ValueError where a part of a layer cannot be shared out over `tp` devices, or has an unknown activation."""
    if isinstance(part, Chain):
        for step in part.steps:
            names = () if not step.cut else (("heads", "key_heads") if step.cut == "heads" else (step.cut,))
            for size in (getattr(step, name) for name in names):
                if size % tp and not (step.cut == "heads" and tp % max(size, 1) == 0):
                    raise ValueError(f"--tp {tp}: {model} has {size} {step.cut} in {step.name}, which {tp} devices cannot share evenly.")
    elif isinstance(part, (Attention, MLA)):
        if part.heads_q % tp:
            raise ValueError(f"--tp {tp}: {model} has {part.heads_q} attention heads, which {tp} devices cannot share evenly.")
        heads_kv = part.heads_q if isinstance(part, MLA) else part.heads_kv
        if heads_kv % tp and tp % heads_kv:
            raise ValueError(f"--tp {tp}: {model} has {heads_kv} KV heads, which {tp} devices can neither share nor repeat evenly.")
    else:
        shared = part.shared if isinstance(part, MoE) else None
        for width in (part.width, shared.width if shared else 0):
            if width % tp:
                raise ValueError(f"--tp {tp}: {model} has a feed-forward width of {width}, which {tp} devices cannot share evenly.")
        if part.activation not in ACTIVATIONS:
            raise ValueError(f"{model}: activation {part.activation!r} is unknown. Expected one of {', '.join(ACTIVATIONS)}.")


def _widest(part: Sublayer) -> int:
    if isinstance(part, Chain):
        return max((step.n * step.times for step in part.steps), default=0)
    return 0 if isinstance(part, (Attention, MLA)) else part.width


def _check_countable(spec: ModelSpec, lengths: Int64s) -> None:
    """ValueError where the operations of one layer would overflow 64 bits."""
    width = spec.hidden + max(_widest(part) for layer in spec.layers for part in layer.sublayers) + spec.vocab
    tokens = lengths.astype(np.float64)
    if 4 * width * float((tokens**2).sum() + width * tokens.sum()) > 2.0**62:
        raise ValueError(f"a prompt of {int(lengths.max())} tokens (batch {lengths.size}) is longer than 64-bit counts reach.")


def prompt_lengths(spec: ModelSpec, scenario: Scenario) -> Int64s:
    """Tokens of each request that enter the layers in a prefill: the prompts; of an image model its patches and class token; of a
    decoder beside an encoder that takes the prompt, what it starts from; with an image before the prompt, both."""
    if spec.input_tokens or spec.start_tokens:
        return np.full(scenario.batch, spec.input_tokens or spec.start_tokens, np.int64)
    return scenario.lengths + spec.prefix_tokens


def source_lengths(spec: ModelSpec, scenario: Scenario) -> Int64s:
    """Encoded tokens of each request that cross-attention reads; 0 where there are none."""
    if spec.towers and not spec.prefix_tokens:
        return prompt_lengths(spec.towers[0], scenario)
    return np.full(scenario.batch, spec.source_tokens, np.int64)


def prefill(spec: ModelSpec, scenario: Scenario, sub_batches: int = 1) -> Trace:
    """All prompts once through the model; the logits are those of each last position unless `all_logits`."""
    check(spec, scenario)
    return _lower(spec, scenario, "prefill", sub_batches, 0)


def decode_step(spec: ModelSpec, scenario: Scenario, generated: int = 1, sub_batches: int = 1, partition: str = "dealt",
                channels: int = 1) -> Trace:
    """One token for every request, with prompt + `generated` tokens in the cache after the append.

    `partition`: how requests become sub-batches, a name in `partition.PARTITIONS`; `channels`: of the PIM that holds the cache.
    """
    check(spec, scenario)
    if spec.encoder:
        raise ValueError(f"{spec.name} is an encoder and has no decode phase. Use --phase prefill.")
    return _lower(spec, scenario, "decode", sub_batches, generated, partition, channels)


def grow(rows: Rows, requests: Requests, generated: Int64s, base: int | None = None) -> Rows:
    """Rows of a decode step again for each number of `generated` tokens, step after step: what depends on the cache grows.

    `base`: tokens generated in the step of the rows, by default the most that one of them has; those of drafts have fewer.
    """
    steps, size = generated.size, rows.size
    shape = {c: np.tile(getattr(rows, c), steps) for c in SHAPE}
    behind = rows.generated - (rows.generated.max(initial=0) if base is None else base)
    shape["generated"] = (generated[:, None] + behind).ravel()
    for i in np.flatnonzero((rows.kv_len > 0) & (rows.phase == 1) & (rows.cross == 0)):
        prompts = requests.prompt[requests.sub_batch == rows.sub_batch[i]]
        seen, pairs = step_reach(prompts + (generated + behind[i])[:, None], int(rows.window[i]), int(rows.q_len[i]))
        shape["n"][i::size] = seen.sum(axis=1)
        shape["pairs"][i::size] = np.where(rows.pairs[i] > 0, pairs.sum(axis=1), 0)
        shape["kv_len"][i::size] = seen.max(axis=1)
    return derive(shape)


def generation(spec: ModelSpec, scenario: Scenario) -> Trace:
    """Prefill and every decode step in one trace, each step after the one before."""
    first = prefill(spec, scenario)
    if spec.encoder:
        return first
    return chained(first, decode_step(spec, scenario), steps(spec, scenario.decode_steps), spec.decoding.accepted)


def steps(spec: ModelSpec, tokens: int) -> int:
    """Decode steps that give each request so many tokens, in the mean."""
    return math.ceil(tokens / spec.decoding.accepted - EXACT)


EXACT = 1e-9
"""What rounding may add to a whole number of steps."""


def more_tokens(steps: int, accepted: float) -> Int64s:
    """Tokens that each request has more at the start of each step than at that of the first."""
    more: Int64s = np.floor(np.arange(steps) * accepted + EXACT).astype(np.int64)
    return more


def most_generated(spec: ModelSpec, tokens: int) -> int:
    """Tokens beyond the prompt that each request has in the cache in the last of the steps that give it so many, drafted ones included."""
    more = more_tokens(steps(spec, tokens), spec.decoding.accepted)
    return spec.decoding.queries + int(more[-1]) if more.size else 0


def chained(first: Trace, step: Trace, steps: int, accepted: float = 1.0) -> Trace:
    """A prefill and `steps` decode steps after it, each after the one before, with a cache that grows by `accepted` tokens a step."""
    if steps == 0:
        return first
    grown = grow(step.rows, step.requests, step.rows.generated.max() + more_tokens(steps, accepted))
    names = tuple(dict.fromkeys((*first.names, *step.names)))
    code = {name: i for i, name in enumerate(names)}
    rows = concatenate([_renamed(first.rows, first.names, code), _renamed(grown, step.names, code)])
    offsets = first.size + step.size * np.arange(steps)
    ptr, idx = [first.preds_ptr], [first.preds_idx]
    for offset in offsets:
        ptr.append(step.preds_ptr[1:] + 1 + ptr[-1][-1])
        idx.append(np.concatenate([[offset - 1], step.preds_idx + offset]))
    return Trace(rows, names, np.concatenate(ptr), np.concatenate(idx), first.requests, first.devices)


def lower(spec: ModelSpec, scenario: Scenario) -> Trace:
    """The trace of the scenario's phase: prefill, decode (one step, its cache one token longer than the prompt), or both."""
    by_phase: dict[str, Callable[[ModelSpec, Scenario], Trace]] = {"prefill": prefill, "decode": decode_step, "both": generation}
    return by_phase[scenario.phase](spec, scenario)


def _renamed(rows: Rows, names: tuple[str, ...], code: dict[str, int]) -> Rows:
    return rows._replace(name=np.array([code[n] for n in names], np.int64)[rows.name])


@dataclass(frozen=True)
class _Placed:
    """A block where it stands in the model."""

    block: Block
    layer: int
    sub_batch: int
    stage: int
    behind: int = 0
    """Decode: tokens that each request has in the cache fewer than in the model's own rows."""


def _lower(spec: ModelSpec, scenario: Scenario, phase: str, sub_batches: int, generated: int, partition: str = "dealt",
           channels: int = 1) -> Trace:
    if partition not in PARTITIONS:
        raise ValueError(f"partition is {partition!r}. Expected one of {', '.join(PARTITIONS)}.")
    lengths, source = prompt_lengths(spec, scenario), source_lengths(spec, scenario)
    sub_batch = PARTITIONS[partition](lengths, min(sub_batches, lengths.size), channels)
    count = int(sub_batch.max()) + 1
    cached = generated + (spec.decoding.queries - 1 if phase == "decode" else 0)
    parts = [Part(spec, scenario, phase, lengths[sub_batch == s], cached, source[sub_batch == s]) for s in range(count)]
    names: dict[str, int] = {}
    first = sum(len(model.layers) for model in spec.companions)
    placed: list[_Placed] = []
    blocks = cache(lambda layer, s: layer_block(parts[s], layer, names))
    sends = cache(lambda s: _send(parts[s], names))
    stages = np.arange(len(spec.layers)) * scenario.pp // len(spec.layers)
    for stage, group in product(range(scenario.pp), flights(count, scenario.pp)):
        here = np.flatnonzero(stages == stage)
        if stage == 0 and phase == "prefill":
            placed += [block for s in group for block in _towers(spec, scenario, sub_batch == s, s, names)]
        if stage == 0:
            placed += [block for s in group for block in _drafts(spec, scenario, phase, sub_batch == s, s, names, generated)]
            placed += [_Placed(_entry(parts[s], names), first - 1, s, 0) for s in group]
        placed += [_Placed(blocks(spec.layers[number], s), first + int(number), s, stage) for number in here for s in group]
        if stage < scenario.pp - 1:
            placed += [_Placed(sends(s), first + int(here[-1]) + 1, s, stage) for s in group]
        else:
            placed += [_Placed(_head(parts[s], names), first + len(spec.layers), s, stage) for s in group]
    kept = np.arange(lengths.size)
    if phase == "decode":
        kept = np.sort(np.concatenate([kept[sub_batch == s][scenario.held(p.lengths)] for s, p in enumerate(parts)]))
    return _assemble(placed, tuple(names), Requests(lengths[kept], sub_batch[kept]), scenario.devices, cached)


def flights(sub_batches: int, stages: int) -> list[range]:
    """The sub-batches that go through a pipeline together: as many groups of them as there are stages, one behind the other."""
    width = -(-sub_batches // stages)
    return [range(first, min(first + width, sub_batches)) for first in range(0, sub_batches, width)]


def _towers(spec: ModelSpec, scenario: Scenario, chosen: Mask, sub_batch: int, names: dict[str, int]) -> list[_Placed]:
    """The encoders of a sub-batch's requests, one after another, on the first stage."""
    placed, number = [], 0
    for tower in spec.towers:
        placed += _alone(Part(tower, scenario, "prefill", prompt_lengths(tower, scenario)[chosen]), sub_batch, number, names)
        number += len(tower.layers)
    return placed


def _drafts(spec: ModelSpec, scenario: Scenario, phase: str, chosen: Mask, sub_batch: int, names: dict[str, int],
            generated: int) -> list[_Placed]:
    """The steps of the drafter before a step of the model, or its own prefill, on the first stage; nothing without one."""
    decoding, number = spec.decoding, sum(len(tower.layers) for tower in spec.towers)
    if (drafter := decoding.drafter) is None:
        return []
    lengths, source = prompt_lengths(drafter, scenario)[chosen], source_lengths(drafter, scenario)[chosen]
    if phase == "prefill":
        own = Part(drafter, scenario, phase, lengths, 0, source)
        return [*_towers(drafter, scenario, chosen, sub_batch, names), *_alone(own, sub_batch, number, names)]
    return [block for step in range(decoding.drafts)
            for block in _alone(Part(drafter, scenario, phase, lengths, generated + step, source), sub_batch, number, names,
                                decoding.queries - 1 - step)]


def _alone(part: Part, sub_batch: int, number: int, names: dict[str, int], behind: int = 0) -> list[_Placed]:
    """A whole model on the first stage, its layers counted from `number`."""
    blocks = {layer: layer_block(part, layer, names) for layer in dict.fromkeys(part.spec.layers)}
    inner = [_Placed(blocks[layer], number + i, sub_batch, 0, behind) for i, layer in enumerate(part.spec.layers)]
    ends = (_Placed(_entry(part, names), number - 1, sub_batch, 0, behind),
            _Placed(_head(part, names), number + len(part.spec.layers), sub_batch, 0, behind))
    return [one for one in (ends[0], *inner, ends[1]) if one.block.preds]


def _assemble(placed: list[_Placed], names: tuple[str, ...], requests: Requests, devices: int, generated: int) -> Trace:
    """Blocks one after another; each sub-batch's blocks form a chain. A group of sub-batches enters a stage of the pipeline when the
    group before it has left it: else they would share the stage, reach the next one together, and leave the others idle."""
    matrices = {id(p.block): np.array([[row[c] for c in SHAPE] for row in p.block.shape], np.int64) for p in placed}
    columns = {c: i for i, c in enumerate(SHAPE)}
    parts, ptr, idx = [], [0], []
    last: dict[int, int] = {}
    left: dict[tuple[int, int], int] = {}
    stages = 1 + max(p.stage for p in placed)
    groups = flights(1 + max(p.sub_batch for p in placed), stages)
    ahead = {s: tuple(groups[g]) for g, group in enumerate(groups[1:]) for s in group} if stages > 1 else {}
    offset = 0
    for p in placed:
        matrix = matrices[id(p.block)].copy()
        for column, value in (("layer", p.layer), ("sub_batch", p.sub_batch), ("stage", p.stage),
                              ("generated", generated - p.behind)):
            matrix[:, columns[column]] = value
        parts.append(matrix)
        before = {last[p.sub_batch]} if p.sub_batch in last else set()
        if (p.sub_batch, p.stage) not in left:
            before |= {left[s, p.stage] for s in ahead.get(p.sub_batch, ())}
        for preds in p.block.preds:
            idx.extend(sorted(set().union(*(before if q == Block.INPUT else {q + offset} for q in preds))))
            ptr.append(len(idx))
        offset += len(matrix)
        last[p.sub_batch] = left[p.sub_batch, p.stage] = offset - 1
    table = np.concatenate(parts)
    rows = derive({c: np.ascontiguousarray(table[:, i]) for c, i in columns.items()})
    return Trace(rows, names, np.array(ptr, np.int64), np.array(idx, np.int64), requests, devices)


def _entry(part: Part, names: dict[str, int]) -> Block:
    """Tokens, image patches or whatever else to the residual stream."""
    spec = part.spec
    emit = Emit(part.at(spec.layers[0]) if spec.entry else part, names)
    if spec.patches is not None:
        p = spec.patches
        emit.block.add("patch_embed", "conv", Block.INPUT, m=part.sequences * (p.tokens - 1), n=spec.hidden,
                       k=p.patch * p.patch * p.channels, **emit.common)
    elif spec.entry:
        x = Block.INPUT
        for step in spec.entry:
            x = one_step(emit, step, x)
    else:
        x = emit.block.add("embedding", "embedding", Block.INPUT, m=part.tokens, n=spec.embed_dim or spec.hidden, **emit.common)
        if spec.embed_dim not in (None, spec.hidden):
            emit.linear("project_in", x, spec.hidden, spec.embed_dim)
    if spec.embed_norm:
        emit.vector("embed_norm", spec.norm, len(emit.block.preds) - 1, n=emit.hidden)
    return emit.block


def _head(part: Part, names: dict[str, int]) -> Block:
    """The residual stream to logits and the next token, to a pooled vector, or to classes."""
    spec, tp, x = part.spec, part.scenario.tp, Block.INPUT
    part = part.at(spec.layers[-1])
    emit = Emit(replace(part, hidden=spec.hidden), names)
    if spec.final_norm:
        x = emit.vector("final_norm", spec.norm, x, n=spec.hidden)
    for step in spec.exit:
        x = one_step(emit, step, x)
    if spec.head == "pooler":
        x = emit.linear("pooler", x, spec.hidden, spec.hidden, m=part.sequences)
        emit.vector("pooler_tanh", "tanh", x, n=spec.hidden, m=part.sequences)
    elif spec.head == "classifier":
        emit.linear("classifier", x, spec.num_classes, spec.hidden, m=part.sequences)
    elif spec.head == "lm":
        answered = part.tokens if part.decoding else part.sequences
        positions = part.tokens if part.scenario.all_logits else answered
        vocab, width = -(-spec.vocab // tp), spec.embed_dim or spec.hidden
        if width != spec.hidden:
            x = emit.linear("project_out", x, width, spec.hidden, m=positions)
        x = emit.linear("lm_head", x, vocab, width, m=positions)
        if tp > 1:
            x = emit.collective("allgather_logits", "allgather", x, vocab * tp, tp, m=answered)
        compared = part.decoding and spec.decoding.drafter is not None
        x = emit.vector("sample", "verify" if compared else "argmax", x, n=vocab * tp, m=answered)
        _later_heads(emit, x, vocab)
    return emit.block


def _later_heads(emit: Emit, x: int, vocab: int) -> None:
    """Tokens after the next one, predicted by heads that read the last accepted position."""
    spec, rows = emit.part.spec, emit.part.sequences
    heads, hidden = spec.decoding.heads, spec.hidden
    if heads:
        kind = "gemv" if rows == 1 else "gemm"
        x = emit.block.add("later_heads", kind, x, batch=heads, m=rows, n=hidden, k=hidden, **emit.common)
        x = emit.vector("later_activation", "silu", x, n=hidden, m=heads * rows)
        if spec.decoding.own_vocabulary:
            x = emit.block.add("later_logits", kind, x, batch=heads, m=rows, n=vocab, k=hidden, **emit.common)
        else:
            x = emit.linear("later_logits", x, vocab, hidden, m=heads * rows)
        emit.vector("later_sample", "argmax", x, n=vocab, m=heads * rows)


def _send(part: Part, names: dict[str, int]) -> Block:
    emit = Emit(part, names)
    emit.collective("send_stage", "send", Block.INPUT, part.spec.hidden, 2)
    return emit.block


