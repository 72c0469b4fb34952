"""ModelSpec + Scenario -> Trace: prefill, one decode step, or a whole generation with a growing cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .layers import ACTIVATIONS, Emit, Part, layer_block
from .ops import SHAPE, Int64s, Rows, concatenate, derive
from .partition import PARTITIONS
from .scenario import Scenario
from .spec import MLA, ModelSpec, MoE
from .trace import Block, Requests, Trace


def check(spec: ModelSpec, scenario: Scenario) -> list[str]:
    """Warnings about a model in a scenario. Raises ValueError where the model cannot be cut as asked."""
    tp, pp = scenario.tp, scenario.pp
    if pp > len(spec.layers):
        raise ValueError(f"--pp {pp}: {spec.name} has {len(spec.layers)} layers. Expected at most one stage a layer.")
    if spec.encoder and scenario.phase == "decode":
        raise ValueError(f"{spec.name} is an encoder and has no decode phase. Use --phase prefill.")
    for layer in spec.layers:
        heads = layer.mixer.heads_q
        heads_kv = heads if isinstance(layer.mixer, MLA) else layer.mixer.heads_kv
        shared = layer.ffn.shared if isinstance(layer.ffn, MoE) else None
        if heads % tp:
            raise ValueError(f"--tp {tp}: {spec.name} has {heads} attention heads, which {tp} devices cannot share evenly.")
        if heads_kv % tp and tp % heads_kv:
            raise ValueError(f"--tp {tp}: {spec.name} has {heads_kv} KV heads, which {tp} devices can neither share nor repeat evenly.")
        for width in (layer.ffn.width, shared.width if shared else 0):
            if width % tp:
                raise ValueError(f"--tp {tp}: {spec.name} has a feed-forward width of {width}, which {tp} devices cannot share evenly.")
        if layer.ffn.activation not in ACTIVATIONS:
            raise ValueError(f"{spec.name}: activation {layer.ffn.activation!r} is unknown. Expected one of {', '.join(ACTIVATIONS)}.")
    if spec.encoder and scenario.attention_parallel == "batch":
        raise ValueError(f"--attention-parallel batch: {spec.name} is an encoder and has no cache to share out. Use heads.")
    _check_countable(spec, prompt_lengths(spec, scenario))
    longest = int(scenario.lengths.max())
    reach = longest if spec.encoder or scenario.phase == "prefill" else longest + scenario.decode_steps
    if spec.positions is not None and spec.patches is None and reach > spec.positions:
        return [f"{spec.name} was made for {spec.positions} positions; this run reaches {reach}."]
    return []


def _check_countable(spec: ModelSpec, lengths: Int64s) -> None:
    """ValueError where the operations of one layer would overflow 64 bits."""
    width = spec.hidden + max(layer.ffn.width for layer in spec.layers) + spec.vocab
    tokens = lengths.astype(np.float64)
    if 4 * width * float((tokens**2).sum() + width * tokens.sum()) > 2.0**62:
        raise ValueError(f"a prompt of {int(lengths.max())} tokens (batch {lengths.size}) is longer than 64-bit counts reach.")


def prompt_lengths(spec: ModelSpec, scenario: Scenario) -> Int64s:
    """Tokens of each request: the prompts, or for an image model its patches and class token."""
    if spec.patches is not None:
        return np.full(scenario.batch, spec.patches.tokens, np.int64)
    return scenario.lengths


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


def grow(rows: Rows, requests: Requests, generated: Int64s) -> Rows:
    """Rows of a decode step again for each number of `generated` tokens, step after step: what depends on the cache grows."""
    steps, size = generated.size, rows.size
    shape = {c: np.tile(getattr(rows, c), steps) for c in SHAPE}
    shape["generated"] = np.repeat(generated, size)
    for i in np.flatnonzero((rows.kv_len > 0) & (rows.phase == 1)):
        prompts = requests.prompt[requests.sub_batch == rows.sub_batch[i]]
        seen = prompts[None, :] + generated[:, None]
        if rows.window[i]:
            seen = np.minimum(seen, rows.window[i])
        total = seen.sum(axis=1)
        shape["n"][i::size] = total
        shape["pairs"][i::size] = np.where(rows.pairs[i] > 0, total, 0)
        shape["kv_len"][i::size] = seen.max(axis=1)
    return derive(shape)


def generation(spec: ModelSpec, scenario: Scenario) -> Trace:
    """Prefill and every decode step in one trace, each step after the one before."""
    first = prefill(spec, scenario)
    if spec.encoder or scenario.decode_steps == 0:
        return first
    step = decode_step(spec, scenario)
    steps = scenario.decode_steps
    grown = grow(step.rows, step.requests, np.arange(1, steps + 1))
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


def _lower(spec: ModelSpec, scenario: Scenario, phase: str, sub_batches: int, generated: int, partition: str = "dealt",
           channels: int = 1) -> Trace:
    if partition not in PARTITIONS:
        raise ValueError(f"partition is {partition!r}. Expected one of {', '.join(PARTITIONS)}.")
    lengths = prompt_lengths(spec, scenario)
    sub_batch = PARTITIONS[partition](lengths, min(sub_batches, lengths.size), channels)
    parts = [Part(spec, scenario, phase, lengths[sub_batch == s], generated) for s in range(int(sub_batch.max()) + 1)]
    names: dict[str, int] = {}
    placed = [_Placed(_entry(p, names), -1, s, 0) for s, p in enumerate(parts)]
    blocks = {(layer, s): layer_block(p, layer, names) for layer in dict.fromkeys(spec.layers) for s, p in enumerate(parts)}
    sends = [_send(p, names) for p in parts] if scenario.pp > 1 else []
    before = 0
    for number, layer in enumerate(spec.layers):
        stage = number * scenario.pp // len(spec.layers)
        if stage != before:
            placed += [_Placed(block, number, s, before) for s, block in enumerate(sends)]
            before = stage
        placed += [_Placed(blocks[layer, s], number, s, stage) for s in range(len(parts))]
    placed += [_Placed(_head(p, names), len(spec.layers), s, before) for s, p in enumerate(parts)]
    kept = np.arange(lengths.size)
    if phase == "decode":
        kept = np.sort(np.concatenate([kept[sub_batch == s][scenario.held(p.lengths)] for s, p in enumerate(parts)]))
    return _assemble(placed, tuple(names), Requests(lengths[kept], sub_batch[kept]), scenario.tp * scenario.pp, generated)


def _assemble(placed: list[_Placed], names: tuple[str, ...], requests: Requests, devices: int, generated: int) -> Trace:
    """Blocks one after another; each sub-batch's blocks form a chain."""
    matrices = {id(p.block): np.array([[row[c] for c in SHAPE] for row in p.block.shape], np.int64) for p in placed}
    columns = {c: i for i, c in enumerate(SHAPE)}
    parts, ptr, idx = [], [0], []
    last: dict[int, int] = {}
    offset = 0
    for p in placed:
        matrix = matrices[id(p.block)].copy()
        for column, value in (("layer", p.layer), ("sub_batch", p.sub_batch), ("stage", p.stage), ("generated", generated)):
            matrix[:, columns[column]] = value
        parts.append(matrix)
        before = last.get(p.sub_batch)
        for preds in p.block.preds:
            real = sorted({before if q == Block.INPUT else q + offset for q in preds} - {None})  # type: ignore[type-var]
            idx.extend(real)
            ptr.append(len(idx))
        offset += len(matrix)
        last[p.sub_batch] = offset - 1
    table = np.concatenate(parts)
    rows = derive({c: np.ascontiguousarray(table[:, i]) for c, i in columns.items()})
    return Trace(rows, names, np.array(ptr, np.int64), np.array(idx, np.int64), requests, devices)


def _entry(part: Part, names: dict[str, int]) -> Block:
    """Tokens (or image patches) to the residual stream."""
    emit, spec = Emit(part, names), part.spec
    if spec.patches is not None:
        p = spec.patches
        emit.block.add("patch_embed", "conv", Block.INPUT, m=part.sequences * (p.tokens - 1), n=spec.hidden,
                       k=p.patch * p.patch * p.channels, **emit.common)
    else:
        x = emit.block.add("embedding", "embedding", Block.INPUT, m=part.tokens, n=spec.embed_dim or spec.hidden, **emit.common)
        if spec.embed_dim not in (None, spec.hidden):
            emit.linear("project_in", x, spec.hidden, spec.embed_dim)
    if spec.embed_norm:
        emit.vector("embed_norm", spec.norm, len(emit.block.preds) - 1, n=spec.hidden)
    return emit.block


def _head(part: Part, names: dict[str, int]) -> Block:
    """The residual stream to logits and the next token, to a pooled vector, or to classes."""
    emit, spec, tp, x = Emit(part, names), part.spec, part.scenario.tp, Block.INPUT
    if spec.final_norm:
        x = emit.vector("final_norm", spec.norm, x, n=spec.hidden)
    if spec.head == "pooler":
        x = emit.linear("pooler", x, spec.hidden, spec.hidden, m=part.sequences)
        emit.vector("pooler_tanh", "tanh", x, n=spec.hidden, m=part.sequences)
    elif spec.head == "classifier":
        emit.linear("classifier", x, spec.num_classes, spec.hidden, m=part.sequences)
    else:
        positions = part.tokens if part.scenario.all_logits else part.sequences
        vocab, width = -(-spec.vocab // tp), spec.embed_dim or spec.hidden
        if width != spec.hidden:
            x = emit.linear("project_out", x, width, spec.hidden, m=positions)
        x = emit.linear("lm_head", x, vocab, width, m=positions)
        if tp > 1:
            x = emit.collective("allgather_logits", "allgather", x, vocab * tp, tp, m=part.sequences)
        emit.vector("sample", "argmax", x, n=vocab * tp, m=part.sequences)
    return emit.block


def _send(part: Part, names: dict[str, int]) -> Block:
    emit = Emit(part, names)
    emit.collective("send_stage", "send", Block.INPUT, part.spec.hidden, 2)
    return emit.block


