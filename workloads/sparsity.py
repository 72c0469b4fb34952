"""How many bits the weights of a model take where its layers' linear weights are pruned to N:M."""

from __future__ import annotations

import numpy as np

from .ops import DTYPE_BITS, INDEX_BITS, SPARSITIES, kept
from .scenario import Scenario
from .spec import MLA, Attention, Chain, Dense, Layer, ModelSpec, MoE, Sublayer

Matrix = tuple[int, int]
"""Inputs and outputs of a linear weight; N of each M inputs are kept."""


def weight_bits(spec: ModelSpec, scenario: Scenario) -> int:
    """Bits of all parameters as they are stored: kept values with their indices, everything that is not pruned as it is."""
    width, pattern = DTYPE_BITS[scenario.weights], SPARSITIES.index(scenario.weight_sparsity)
    bits = spec.parameters * width
    if pattern:
        pruned = [matrix for layer in spec.layers for matrix in prunable(layer, spec.hidden)]
        inputs, outputs = np.array(pruned, np.int64).T
        stored = kept(inputs, np.full(inputs.size, pattern)) * (width + int(INDEX_BITS[pattern]))
        bits -= int(((inputs * width - stored) * outputs).sum())
    return bits


def prunable(layer: Layer, hidden: int) -> list[Matrix]:
    """The linear weights of one layer that N:M pruning reaches, as (inputs, outputs)."""
    return [matrix for part in layer.sublayers for matrix in _matrices(part, layer.hidden or hidden)]


def _matrices(part: Sublayer, hidden: int) -> list[Matrix]:
    if isinstance(part, Chain):
        return [(step.k, step.batch * step.n) for step in part.steps if step.kind == "gemm"]
    return _mixer(part, hidden) if isinstance(part, (Attention, MLA)) else _ffn(part, hidden)


def _mixer(mixer: Attention | MLA, hidden: int) -> list[Matrix]:
    if isinstance(mixer, Attention):
        query, key = mixer.heads_q * mixer.head_dim, mixer.heads_kv * mixer.head_dim
        reduced = [(mixer.reduce * hidden, hidden)] if mixer.reduce > 1 else []
        source = [] if mixer.source == "shared" else [(mixer.source_hidden or hidden, 2 * key)]
        return [(hidden, query * (2 if mixer.gate else 1)), *source, *reduced, (query, hidden)]
    query, rank = mixer.heads_q * (mixer.nope_dim + mixer.rope_dim), mixer.q_lora_rank
    down = [(hidden, query)] if rank is None else [(hidden, rank), (rank, query)]
    return [*down, (hidden, mixer.kv_elements), (mixer.heads_q * mixer.value_dim, hidden)]


def _ffn(ffn: Dense | MoE, hidden: int) -> list[Matrix]:
    inward = 2 if ffn.gated else 1
    if isinstance(ffn, Dense):
        return [(hidden, inward * ffn.width), (ffn.width, hidden)]
    routed = [(hidden, ffn.experts * inward * ffn.width), (ffn.width, ffn.experts * hidden), (hidden, ffn.experts)]
    shared = [] if ffn.shared is None else _ffn(ffn.shared, hidden)
    return [*routed, *shared, *([(hidden, 1)] if ffn.shared_gate else [])]
