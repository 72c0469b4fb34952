"""The operator vocabulary: what each kind of operator is, and what it computes and moves. A new operator is a row here.

Shapes of a row, by class of work:
    matmul      `batch` products of [m, k] x [k, n]; a grouped one has m rows in all, shared out over `batch` experts
    attention   m query tokens over all sequences, n cached tokens that they read, `pairs` visible (query, key) pairs
    vector      batch x m rows of n elements; where k > 1, each k rows are summed into one that is written
    move        m rows of n elements
    collective  m rows of n elements, between `peers` devices
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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

WORK = ("matmul", "attention_prefill", "attention_decode", "vector", "move", "collective")
EXP_OPS = 4
"""Vector operations that one exponential or division is taken for (guess: a polynomial of degree 3)."""


@dataclass(frozen=True)
class Kind:
    """One kind of operator. `vector_ops`, `reads` and `writes` are per element of the output."""

    name: str
    work: str
    vector_ops: int = 0
    reads: int = 1
    writes: int = 1
    weights: bool = True
    """Matmul: whether the second operand is a weight. Move: whether the rows read are."""
    grouped: bool = False


KINDS = (
    Kind("gemm", "matmul"),
    Kind("gemv", "matmul"),
    Kind("bmm", "matmul", weights=False),
    Kind("grouped_gemm", "matmul", grouped=True),
    Kind("conv", "matmul"),
    Kind("attention_prefill", "attention_prefill", vector_ops=4 + EXP_OPS),
    Kind("attention_decode", "attention_decode", vector_ops=4 + EXP_OPS),
    Kind("attention_score", "attention_decode"),
    Kind("attention_value", "attention_decode"),
    Kind("softmax", "vector", vector_ops=4 + EXP_OPS),
    Kind("rmsnorm", "vector", vector_ops=4),
    Kind("layernorm", "vector", vector_ops=7),
    Kind("rope", "vector", vector_ops=3),
    Kind("silu_mul", "vector", vector_ops=3 + 2 * EXP_OPS, reads=2),
    Kind("gelu_mul", "vector", vector_ops=9 + 2 * EXP_OPS, reads=2),
    Kind("silu", "vector", vector_ops=2 + 2 * EXP_OPS),
    Kind("gelu", "vector", vector_ops=8 + 2 * EXP_OPS),
    Kind("relu", "vector", vector_ops=1),
    Kind("relu_mul", "vector", vector_ops=2, reads=2),
    Kind("tanh", "vector", vector_ops=2 + 2 * EXP_OPS),
    Kind("add", "vector", vector_ops=1, reads=2),
    Kind("mul", "vector", vector_ops=1, reads=2),
    Kind("combine", "vector", vector_ops=2),
    Kind("topk", "vector", vector_ops=8, writes=0),
    Kind("argmax", "vector", vector_ops=1, writes=0),
    Kind("embedding", "move"),
    Kind("kv_append", "move", weights=False),
    Kind("allreduce", "collective"),
    Kind("allgather", "collective"),
    Kind("reducescatter", "collective"),
    Kind("alltoall", "collective"),
    Kind("send", "collective"),
)
CODE = {kind.name: code for code, kind in enumerate(KINDS)}
KIND_WORK = np.array([WORK.index(kind.work) for kind in KINDS], np.int64)
_VECTOR_OPS = np.array([kind.vector_ops for kind in KINDS], np.int64)
_READS = np.array([kind.reads for kind in KINDS], np.int64)
_WRITES = np.array([kind.writes for kind in KINDS], np.int64)
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
    kind, batch, m, n, k = (shape[c] for c in ("kind", "batch", "m", "n", "k"))
    weight, act, kv = shape["weight_dtype"], shape["act_dtype"], shape["kv_dtype"]
    zero = np.zeros_like(m)
    out = {name: zero.copy() for name in DERIVED}
    is_ = {work: KIND_WORK[kind] == code for code, work in enumerate(WORK)}

    rows = np.where(_GROUPED[kind], m, batch * m)
    stationary = batch * n * k
    matmul, weights = is_["matmul"], _WEIGHTS[kind]
    out["macs"] += np.where(matmul, rows * n * k, 0)
    stored = batch * n * kept(k, shape["sparsity"]) * (BITS[weight] + INDEX_BITS[shape["sparsity"]])
    out["weight_bytes"] += np.where(matmul & weights, (stored + 7) // 8, 0)
    out["input_bytes"] += np.where(matmul, _bytes(rows * k, act) + np.where(weights, 0, _bytes(stationary, act)), 0)
    out["output_bytes"] += np.where(matmul, _bytes(rows * n, act), 0)

    attention = is_["attention_prefill"] | is_["attention_decode"]
    whole = attention & (kind != CODE["attention_score"]) & (kind != CODE["attention_value"])
    score, value = whole | (kind == CODE["attention_score"]), whole | (kind == CODE["attention_value"])
    q, scores = m * shape["heads_q"], shape["pairs"] * shape["heads_q"]
    out["macs"] += np.where(score, scores * shape["head_dim"], 0) + np.where(value, scores * shape["value_dim"], 0)
    out["vector_ops"] += np.where(whole, scores * _VECTOR_OPS[kind], 0)
    out["input_bytes"] += np.where(score, _bytes(q * shape["head_dim"], act), np.where(value, _bytes(scores, act), 0))
    out["output_bytes"] += np.where(value, _bytes(q * shape["value_dim"], act), np.where(score, _bytes(scores, act), 0))
    # A whole attention reads a token's cache entry once; score alone reads its keys, value alone its values.
    width = np.where(whole, shape["kv_width"], shape["heads_kv"] * np.where(score, shape["head_dim"], shape["value_dim"]))
    out["kv_read_bytes"] += np.where(attention, _bytes(n * width, kv), 0)

    elements = batch * m * n
    out["vector_ops"] += np.where(is_["vector"], elements * _VECTOR_OPS[kind], 0)
    out["input_bytes"] += np.where(is_["vector"], _bytes(elements * _READS[kind], act), 0)
    out["output_bytes"] += np.where(is_["vector"], _bytes(elements * _WRITES[kind] // np.maximum(k, 1), act), 0)

    lookup, append = kind == CODE["embedding"], kind == CODE["kv_append"]
    out["weight_bytes"] += np.where(lookup, _bytes(elements, weight), 0)
    out["output_bytes"] += np.where(lookup, _bytes(elements, act), 0)
    out["input_bytes"] += np.where(append, _bytes(elements, act), 0)
    out["kv_write_bytes"] += np.where(append, _bytes(elements, kv), 0)

    out["link_bytes"] += np.where(is_["collective"], _bytes(elements, act), 0)
    return Rows(**shape, **out)


def concatenate(parts: list[Rows]) -> Rows:
    """All rows of `parts`, one after another."""
    return Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
