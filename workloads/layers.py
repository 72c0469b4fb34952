"""One layer as a block of operators: its residual parts one after another, per device of a tensor-parallel group."""

from __future__ import annotations

import math
from collections.abc import Callable

from .emit import Emit, Part
from .mixers import attention, cached_only, chain, latent
from .scenario import distinct_experts
from .spec import MLA, Attention, Chain, Dense, Layer, MoE, Sublayer
from .trace import Block

ACTIVATIONS = ("silu", "gelu", "relu")
"""Activations of a ModelSpec; each is an operator kind, and with `_mul` the gated form."""


def layer_block(part: Part, layer: Layer, names: dict[str, int]) -> Block:
    """The operators of one layer, residual stream to residual stream. Norm positions (before or after) cost the same."""
    emit, x = Emit(part.at(layer), names, part.scenario.weight_sparsity), Block.INPUT
    if layer.idle and part.decoding:
        for mixer in (sublayer for sublayer in layer.sublayers if isinstance(sublayer, Attention)):
            x = cached_only(emit, mixer, x)
        return emit.block
    if layer.modulation:
        x = emit.linear("modulation", emit.vector("modulation_silu", "silu", x, n=emit.hidden, m=part.sequences),
                        layer.modulation * emit.hidden, emit.hidden, m=part.sequences)
    if layer.parallel:
        _side_by_side(emit, layer, x)
        return emit.block
    for sublayer in layer.sublayers:
        x = _residual(emit, layer, sublayer, x)
    for _ in range(layer.norms - len(layer.sublayers) if layer.norms != EACH_TWICE * len(layer.sublayers) else 0):
        x = emit.vector("norm", part.spec.norm, x, n=emit.hidden)
    return emit.block


EACH_TWICE = 2
"""Norms a residual part where there is one before it and one after it (gemma2)."""


def _residual(emit: Emit, layer: Layer, sublayer: Sublayer, x: int) -> int:
    """A norm, the part, and the sum with what went in; nothing of a part that has been taken out."""
    if isinstance(sublayer, Chain) and not sublayer.steps:
        return x
    norm, hidden = emit.part.spec.norm, emit.hidden
    given = emit.vector("norm", norm, x, n=hidden) if layer.norms else x
    if layer.modulation:
        given = emit.vector("modulate", "modulate", given, n=hidden)
    done = _write(emit, sublayer, given)
    if isinstance(sublayer, Chain) and not sublayer.residual:
        return done
    mixes = isinstance(sublayer, (Attention, MLA, Chain))
    done = _allreduce(emit, "allreduce_attention" if mixes else "allreduce_ffn", done)
    if layer.norms == EACH_TWICE * len(layer.sublayers):
        done = emit.vector("norm", norm, done, n=hidden)
    if layer.modulation:
        done = emit.vector("gate", "mul", done, n=hidden)
    return emit.vector("residual", "add", done, x, n=hidden)


def _side_by_side(emit: Emit, layer: Layer, x: int) -> None:
    """Mixer and FFN of the same input."""
    norm, hidden, ffn = emit.part.spec.norm, emit.hidden, layer.sublayers[-1]
    normed = emit.vector("norm", norm, x, n=hidden)
    mixed = _write(emit, layer.mixer, normed)
    source = emit.vector("norm", norm, x, n=hidden) if layer.norms == EACH_TWICE else normed
    first = len(emit.block.preds)
    fed = _write(emit, ffn, source)
    if not emit.part.decoding:
        # A prefill saturates the device with one stream of operators; in a decode the FFN may run beside the attention.
        emit.block.preds[first] += (mixed,)
    both = _allreduce(emit, "allreduce_layer", emit.vector("residual", "add", mixed, fed, n=hidden))
    emit.vector("residual", "add", both, x, n=hidden)


def _write(emit: Emit, sublayer: Sublayer, x: int) -> int:
    return _WRITERS[type(sublayer)](emit, sublayer, x)


def _allreduce(emit: Emit, name: str, x: int) -> int:
    """Sum of the partial results of a tensor-parallel group; nothing where the group is one device."""
    tp = emit.part.scenario.tp
    return emit.collective(name, "allreduce", x, emit.hidden, tp) if tp > 1 else x


def _activate(emit: Emit, x: int, ffn: Dense | MoE, name: str, width: int, m: int) -> int:
    return emit.vector(name, f"{ffn.activation}_mul" if ffn.gated else ffn.activation, x, n=width, m=m)


def _dense(emit: Emit, ffn: Dense, x: int, prefix: str = "") -> int:
    width, hidden = ffn.width // emit.part.scenario.tp, emit.hidden
    x = emit.factored(prefix + ("gate_up" if ffn.gated else "up"), x, (2 if ffn.gated else 1) * width, hidden, ffn.rank)
    x = _activate(emit, x, ffn, prefix + "activation", width, emit.part.tokens)
    # A neuron's row of weights is read where it is active for one token at least, each token's neurons taken for independent.
    touched = width if ffn.active == 1 else math.ceil(width * (1 - (1 - ffn.active) ** emit.part.tokens))
    return emit.factored(prefix + "down", x, hidden, touched, ffn.rank)


def _moe(emit: Emit, ffn: MoE, x: int) -> int:
    part, hidden, tp = emit.part, emit.hidden, emit.part.scenario.tp
    apart = part.scenario.experts_apart and tp > 1
    groups = distinct_experts(part.scenario.routing, ffn.experts, ffn.top_k, part.tokens)
    # Each device sends its share of the tokens to the experts and has their results back; the sum over devices joins the shares.
    tokens, groups, width = (-(-part.tokens // tp), -(-groups // tp), ffn.width) if apart else (part.tokens, groups, ffn.width // tp)
    rows = tokens * ffn.top_k
    routed = emit.vector("topk", "topk", emit.linear("router", x, ffn.experts, hidden, m=tokens), n=ffn.experts, m=tokens)
    routed = emit.collective("dispatch", "alltoall", routed, hidden, tp, rows) if apart else routed
    up = emit.experts("experts_gate_up" if ffn.gated else "experts_up", routed, groups, rows, (2 if ffn.gated else 1) * width, hidden)
    act = _activate(emit, up, ffn, "experts_activation", width, rows)
    down = emit.experts("experts_down", act, groups, rows, hidden, width)
    down = emit.collective("return", "alltoall", down, hidden, tp, rows) if apart else down
    out = emit.vector("combine", "combine", down, n=hidden, m=rows, summed=ffn.top_k)
    if ffn.shared is None:
        return out
    if ffn.shared_gate:
        x = emit.linear("shared_gate", x, 1, hidden)
    shared = _dense(emit, ffn.shared, x, "shared_")
    return emit.vector("add_shared", "add", out, shared, n=hidden)


_WRITERS: dict[type, Callable[..., int]] = {Attention: attention, MLA: latent, Chain: chain, Dense: _dense, MoE: _moe}
