"""The operator vocabulary: what each kind of operator is, and what it computes and moves. A new operator is a row of KINDS in kinds.py.

Shapes of a row, by form:
    matmul      `batch` products of [m, k] x [k, n]; a grouped one has m rows in all, shared out over `batch` experts; a convolution
                is one with k = channels x taps, whose input has `in_elements` elements (0: m x k, no element read twice)
    attention   m query tokens over all sequences, n cached tokens that they read, `pairs` visible (query, key) pairs
    row         batch x m rows of n elements; where k > 1, each k rows are summed into one that is written
    cast        as row, between the type of activations and that of weights
    stencil     m rows of n elements, each from k neighbours; `batch` sequences with a state of `kv_width` elements each
    fft         batch x m transforms of n points;   sort: batch x m rows of n elements
    scan        m tokens of `batch` sequences, heads_q heads of state [head_dim, value_dim], heads_kv of keys, chunks of k tokens
    channels    m tokens of `batch` sequences, n channels with head_dim states each, one step a token
    triangle    inverses of lower triangles [n, n], m rows of them in all
    move        m rows of n elements, of an input of `in_elements` (0: m x n)
    random      m rows of n elements, each summed from k rows at scattered places (0: 1)
    collective  m rows of n elements, between `peers` devices
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .kinds import ARITHMETIC, CODE, EXP_OPS, FORMS, KIND_ARITHMETIC, KIND_FORM, KIND_WORK, KINDS, VOCABULARY, WORK, Kind

__all__ = [
    "ARITHMETIC", "BITS", "CODE", "DERIVED", "DTYPES", "DTYPE_BITS", "EXP_OPS", "FORMS", "GROUP", "INDEX_BITS", "KEPT", "KINDS",
    "KIND_ARITHMETIC", "KIND_FORM", "KIND_WORK", "PHASES", "SHAPE", "SPARSITIES", "VOCABULARY", "WORK", "Int64s", "Kind", "Rows",
    "concatenate", "derive", "kept",
]

Int64s = NDArray[np.int64]

DTYPE_BITS = {"fp32": 32, "tf32": 32, "bf16": 16, "fp16": 16, "fp8": 8, "int16": 16, "int8": 8, "int4": 4, "fp4": 4}
DTYPES = tuple(DTYPE_BITS)
BITS = np.array(list(DTYPE_BITS.values()), np.int64)

SPARSITIES = ("dense", "1:2", "1:4", "2:4", "1:8", "2:8", "4:8", "1:16", "2:16", "4:16", "8:16")
"""Patterns of a weight [k, n]: N:M keeps N of each M neighbours along k. A kept value is stored with its place in its group,
in ceil(log2 M) bits (2:4 is the format of NVIDIA's sparse tensor cores, arXiv 2104.08378, section 3)."""
_PATTERN = np.array([[1, 1], *(list(map(int, name.split(":"))) for name in SPARSITIES[1:])], np.int64)
KEPT, GROUP = _PATTERN[:, 0], _PATTERN[:, 1]
"""N and M of each pattern; 1 and 1 of dense weights."""
INDEX_BITS = np.ceil(np.log2(GROUP)).astype(np.int64)

_VECTOR_OPS, _READS, _WRITES, _MACS, _LEFT, _RIGHT, _OUT = (
    np.array([getattr(kind, name) for kind in KINDS], np.int64)
    for name in ("vector_ops", "reads", "writes", "macs", "left_bits", "right_bits", "out_bits"))
_GROUPED = np.array([kind.grouped for kind in KINDS])
_WEIGHTS = np.array([kind.weights for kind in KINDS])

PHASES = ("prefill", "decode")


class Rows(NamedTuple):
    """Equal-length int64 columns, one row an operator. Sizes are per device; dtypes are indices into DTYPES."""

    name: Int64s
    kind: Int64s
    layer: Int64s
    phase: Int64s
    generated: Int64s
    sub_batch: Int64s
    stage: Int64s
    batch: Int64s
    m: Int64s
    n: Int64s
    k: Int64s
    heads_q: Int64s
    heads_kv: Int64s
    head_dim: Int64s
    value_dim: Int64s
    q_len: Int64s
    kv_len: Int64s
    kv_width: Int64s
    window: Int64s
    pairs: Int64s
    peers: Int64s
    weight_dtype: Int64s
    act_dtype: Int64s
    kv_dtype: Int64s
    sparsity: Int64s
    """Of the weight of a gemm, gemv or grouped_gemm: index into SPARSITIES."""
    cross: Int64s
    """1 where attention reads the keys and values of another sequence, which do not grow with what is generated."""
    in_elements: Int64s
    """Elements of the input where they are not read once each: of a convolution, pooling, unfolding or interpolation; else 0."""
    macs: Int64s
    vector_ops: Int64s
    weight_bytes: Int64s
    input_bytes: Int64s
    output_bytes: Int64s
    kv_read_bytes: Int64s
    kv_write_bytes: Int64s
    link_bytes: Int64s

    def take(self, index: Int64s) -> Rows:
        """The rows at `index`, in that order."""
        return Rows(*(column[index] for column in self))

    @property
    def size(self) -> int:
        """Number of rows."""
        return int(self.kind.size)

    @property
    def work(self) -> Int64s:
        """Index into WORK of each row."""
        return KIND_WORK[self.kind]

    @property
    def kept_k(self) -> Int64s:
        """Weights that a matmul keeps of each column of k."""
        return kept(self.k, self.sparsity)

    @property
    def useful_macs(self) -> Int64s:
        """Multiply-adds by weights that are kept; `macs` counts those of the dense product."""
        return np.where(self.sparsity > 0, self.macs // np.maximum(self.k, 1) * self.kept_k, self.macs)

    @property
    def run_bytes(self) -> Int64s:
        """Bytes that lie together of what a row of form random reads or writes at scattered places; 0 of every other row."""
        dtype = np.where(_WEIGHTS[self.kind], self.weight_dtype, self.act_dtype)
        return np.where(KIND_FORM[self.kind] == FORMS.index("random"), np.maximum(_bytes(self.n, dtype), 1), 0)

    @property
    def memory_bytes(self) -> Int64s:
        """Every operand once: the least that each row moves between memory and chip."""
        return self.weight_bytes + self.input_bytes + self.output_bytes + self.kv_read_bytes + self.kv_write_bytes


DERIVED = ("macs", "vector_ops", "weight_bytes", "input_bytes", "output_bytes", "kv_read_bytes", "kv_write_bytes", "link_bytes")
SHAPE = tuple(field for field in Rows._fields if field not in DERIVED)


def _bytes(elements: Int64s, dtype: Int64s) -> Int64s:
    return (elements * BITS[dtype] + 7) // 8


def kept(k: Int64s, sparsity: Int64s) -> Int64s:
    """Values kept of k: N of each whole group of M, and up to N of what is left over."""
    groups, rest = np.divmod(k, GROUP[sparsity])
    return groups * KEPT[sparsity] + np.minimum(rest, KEPT[sparsity])


def derive(shape: dict[str, Int64s]) -> Rows:
    """Rows with their work and bytes from the columns of SHAPE (the formulas stand in the module's first lines)."""
    out = {name: np.zeros_like(shape["m"]) for name in DERIVED}
    form = KIND_FORM[shape["kind"]]
    for code in np.unique(form).tolist():
        where = np.flatnonzero(form == code)
        row = Rows(**{c: values[where] for c, values in shape.items()}, **dict.fromkeys(DERIVED, where))
        for name, value in _FORMULAS[FORMS[code]](row).items():
            out[name][where] = value
    return Rows(**shape, **out)


Sums = dict[str, Int64s]
"""Derived columns of rows of one form; those left out are 0."""


def _matmul(r: Rows) -> Sums:
    rows, stationary = np.where(_GROUPED[r.kind], r.m, r.batch * r.m), r.batch * r.n * r.k
    weights, sparsity, kind = _WEIGHTS[r.kind], r.sparsity, r.kind
    act, weight = BITS[r.act_dtype], BITS[r.weight_dtype]
    left, right = np.where(_LEFT[kind] > 0, _LEFT[kind], act), np.where(_RIGHT[kind] > 0, _RIGHT[kind], np.where(weights, weight, act))
    stored = (r.batch * r.n * kept(r.k, sparsity) * (right + INDEX_BITS[sparsity]) + 7) // 8
    read = (np.where(r.in_elements > 0, r.in_elements, rows * r.k) * left + 7) // 8
    written = (rows * r.n * np.where(_OUT[kind] > 0, _OUT[kind], act) + 7) // 8
    return {"macs": rows * r.n * r.k, "weight_bytes": np.where(weights, stored, 0), "output_bytes": written,
            "input_bytes": read + np.where(weights, 0, (stationary * right + 7) // 8)}


def _attention(r: Rows) -> Sums:
    whole = (r.kind != CODE["attention_score"]) & (r.kind != CODE["attention_value"])
    score, value = whole | (r.kind == CODE["attention_score"]), whole | (r.kind == CODE["attention_value"])
    q, scores, act = r.m * r.heads_q, r.pairs * r.heads_q, r.act_dtype
    # A whole attention reads a token's cache entry once; score alone reads its keys, value alone its values.
    width = np.where(whole, r.kv_width, r.heads_kv * np.where(score, r.head_dim, r.value_dim))
    return {"macs": np.where(score, scores * r.head_dim, 0) + np.where(value, scores * r.value_dim, 0),
            "vector_ops": np.where(whole, scores * _VECTOR_OPS[r.kind], 0),
            "input_bytes": np.where(score, _bytes(q * r.head_dim, act), _bytes(scores, act)),
            "output_bytes": np.where(value, _bytes(q * r.value_dim, act), _bytes(scores, act)),
            "kv_read_bytes": _bytes(r.n * width, r.kv_dtype)}


def _row(r: Rows) -> Sums:
    elements = r.batch * r.m * r.n
    return {"vector_ops": elements * _VECTOR_OPS[r.kind], "input_bytes": _bytes(elements * _READS[r.kind], r.act_dtype),
            "output_bytes": _bytes(elements * _WRITES[r.kind] // np.maximum(r.k, 1), r.act_dtype)}


def _cast(r: Rows) -> Sums:
    elements, narrow = r.batch * r.m * r.n, r.kind == CODE["quantize"]
    return {"vector_ops": elements * _VECTOR_OPS[r.kind],
            "input_bytes": _bytes(elements, np.where(narrow, r.act_dtype, r.weight_dtype)),
            "output_bytes": _bytes(elements, np.where(narrow, r.weight_dtype, r.act_dtype))}


def _stencil(r: Rows) -> Sums:
    """A state of the last tokens (a causal convolution's) is read by a decode step and written by either phase."""
    elements, state = r.m * r.n, _bytes(r.batch * r.kv_width, r.kv_dtype)
    return {"macs": elements * r.k * _MACS[r.kind], "vector_ops": elements * r.k * _VECTOR_OPS[r.kind],
            "weight_bytes": np.where(_WEIGHTS[r.kind], _bytes(r.n * r.k, r.weight_dtype), 0),
            "input_bytes": _bytes(np.where(r.in_elements > 0, r.in_elements, elements), r.act_dtype),
            "output_bytes": _bytes(elements, r.act_dtype), "kv_read_bytes": np.where(r.phase == 1, state, 0), "kv_write_bytes": state}


def _log2(n: Int64s) -> Int64s:
    """log2, rounded up to a whole number."""
    return np.ceil(np.log2(np.maximum(n, 2))).astype(np.int64)


def _fft(r: Rows) -> Sums:
    """5 n log2 n operations of a complex transform (Cooley and Tukey's count)."""
    elements = r.batch * r.m * r.n
    return {"vector_ops": elements * _log2(r.n) * _VECTOR_OPS[r.kind], "input_bytes": _bytes(elements * _READS[r.kind], r.act_dtype),
            "output_bytes": _bytes(elements * _WRITES[r.kind], r.act_dtype)}


def _sort(r: Rows) -> Sums:
    """Batcher's bitonic network: log2 n (log2 n + 1) / 2 stages of n / 2 comparisons, each of two results."""
    elements, depth = r.batch * r.m * r.n, _log2(r.n)
    return {"vector_ops": elements * (depth * (depth + 1) // 2) * _VECTOR_OPS[r.kind], "input_bytes": _bytes(elements, r.act_dtype),
            "output_bytes": _bytes(elements, r.act_dtype)}


def _vectors(r: Rows) -> Sums:
    """What a token brings to a scan and takes from it: keys and queries (and decays) of each key head, values, one decay a head."""
    act, state = r.act_dtype, _bytes(r.batch * r.heads_q * r.head_dim * r.value_dim, r.kv_dtype)
    return {"input_bytes": _bytes(r.m * (_READS[r.kind] * r.heads_kv * r.head_dim + r.heads_q * (r.value_dim + 1)), act),
            "output_bytes": _bytes(r.m * r.heads_q * r.value_dim, act), "kv_write_bytes": state}


def _scan(r: Rows) -> Sums:
    """The chunked form (Dao and Gu, arXiv 2405.21060, section 6; of the delta rule Yang et al., arXiv 2406.06484, section 3).

    A chunk of k tokens: scores of keys of its own, their product with the values, the state read by the queries and updated. A delta
    rule has scores of keys with keys too, and multiplies keys and values by the inverse of their triangle.
    """
    chunk, d, v, delta = r.k, r.head_dim, r.value_dim, _MACS[r.kind] > 2
    macs = r.heads_kv * chunk * d + r.heads_q * (chunk * v + _MACS[r.kind] * d * v)
    inverse = r.heads_kv * chunk * d + r.heads_q * chunk * (d + v)
    return {**_vectors(r), "macs": r.m * (macs + np.where(delta, inverse, 0)), "vector_ops": r.m * r.heads_q * chunk * _VECTOR_OPS[r.kind]}


def _step(r: Rows) -> Sums:
    """One token of each sequence: the state decays, takes an outer product and is read; a delta rule reads it once more before."""
    vectors, state = _vectors(r), r.m * r.heads_q * r.head_dim * r.value_dim
    return {**vectors, "macs": state * _MACS[r.kind], "vector_ops": state * _VECTOR_OPS[r.kind], "kv_read_bytes": vectors["kv_write_bytes"]}


def _channels(r: Rows) -> Sums:
    """Mamba's selective scan in one kernel (Gu and Dao, arXiv 2312.00752, section 3.3.2): no state but the last goes to memory.

    Reads x, the step and the gate of each channel (RWKV-4's: keys and values), and two vectors of the state's width a token.
    """
    state = _bytes(r.batch * r.n * r.head_dim, r.kv_dtype)
    return {"vector_ops": r.m * r.n * r.head_dim * _VECTOR_OPS[r.kind], "output_bytes": _bytes(r.m * r.n, r.act_dtype),
            "input_bytes": _bytes(r.m * (r.n * _READS[r.kind] + 2 * r.head_dim), r.act_dtype),
            "weight_bytes": _bytes(r.n * r.head_dim, r.weight_dtype), "kv_read_bytes": np.where(r.phase == 1, state, 0),
            "kv_write_bytes": state}


def _triangle(r: Rows) -> Sums:
    """Forward substitution: n^3 / 6 multiply-adds a triangle, rounded up by row."""
    return {"macs": r.m * -(-r.n * r.n // 6), "input_bytes": _bytes(r.m * r.n, r.act_dtype), "output_bytes": _bytes(r.m * r.n, r.act_dtype)}


def _move(r: Rows) -> Sums:
    elements, lookup, cache = r.batch * r.m * r.n, r.kind == CODE["embedding"], (r.kind == CODE["kv_append"]) | (r.kind == CODE["kv_evict"])
    evict = r.kind == CODE["kv_evict"]
    read = np.where(r.in_elements > 0, r.in_elements, elements)
    return {"vector_ops": elements * _VECTOR_OPS[r.kind], "weight_bytes": np.where(lookup, _bytes(elements, r.weight_dtype), 0),
            "input_bytes": np.where(lookup | evict, 0, _bytes(read, r.act_dtype)),
            "output_bytes": np.where(cache, 0, _bytes(elements, r.act_dtype)),
            "kv_read_bytes": np.where(evict, _bytes(elements, r.kv_dtype), 0),
            "kv_write_bytes": np.where(cache, _bytes(elements, r.kv_dtype), 0)}


def _random(r: Rows) -> Sums:
    elements, taps, weights = r.m * r.n, np.maximum(r.k, 1), _WEIGHTS[r.kind]
    read = elements * taps * _READS[r.kind]
    return {"vector_ops": elements * taps * _VECTOR_OPS[r.kind], "weight_bytes": np.where(weights, _bytes(read, r.weight_dtype), 0),
            "input_bytes": np.where(weights, 0, _bytes(read, r.act_dtype)), "output_bytes": _bytes(elements, r.act_dtype)}


def _collective(r: Rows) -> Sums:
    return {"link_bytes": _bytes(r.batch * r.m * r.n, r.act_dtype)}


_FORMULAS: dict[str, Callable[[Rows], Sums]] = {
    "matmul": _matmul, "attention": _attention, "row": _row, "cast": _cast, "stencil": _stencil, "fft": _fft, "sort": _sort, "scan": _scan,
    "step": _step, "channels": _channels, "triangle": _triangle, "move": _move, "random": _random, "collective": _collective,
}


def concatenate(parts: list[Rows]) -> Rows:
    """All rows of `parts`, one after another."""
    return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
