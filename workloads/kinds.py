"""The kinds of operator: one row each, with its class of work, its form and what it computes an element. The formulas are in ops.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WORK = ("matmul", "attention_prefill", "attention_decode", "vector", "move", "collective")
EXP_OPS = 4
"""Vector operations that one exponential or division is taken for (guess: a polynomial of degree 3)."""
SIGMOID_OPS = 2 + 2 * EXP_OPS

ARITHMETIC = ("mac", "add", "shift")
"""What a matmul's `macs` are: multiply-adds, additions alone, or a shift and an addition. All go at the rate of the row's type."""


@dataclass(frozen=True)
class Kind:
    """One kind of operator. `vector_ops`, `reads` and `writes` are per element of the output (of a scan: per score; per vector of keys)."""

    name: str
    work: str
    vector_ops: int = 0
    reads: int = 1
    writes: int = 1
    weights: bool = True
    """Matmul: whether the second operand is a weight. Move, random, stencil: whether the rows read, or the taps, are."""
    grouped: bool = False
    form: str = ""
    """Which formulas hold; by default those of its work."""
    macs: int = 0
    """Stencil: multiply-adds a tap. Scan: products of a state with a vector, a token and head; above 2 it is a delta rule."""
    arithmetic: str = "mac"
    left_bits: int = 0
    """Matmul: bits of the first operand, 0 for those of its type; so for the second and for the product."""
    right_bits: int = 0
    out_bits: int = 0


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
    Kind("hash", "matmul", out_bits=1),
    Kind("binary_gemm", "matmul", weights=False, arithmetic="add", right_bits=1),
    Kind("add_gemm", "matmul", arithmetic="add"),
    Kind("shift_gemm", "matmul", arithmetic="shift"),
    Kind("spike_gemm", "matmul", arithmetic="add", left_bits=1),
    Kind("groupnorm", "vector", vector_ops=7),
    Kind("batchnorm", "vector", vector_ops=2),
    Kind("sigmoid", "vector", vector_ops=SIGMOID_OPS),
    Kind("sigmoid_mul", "vector", vector_ops=1 + SIGMOID_OPS, reads=2),
    Kind("softplus", "vector", vector_ops=2 + 2 * EXP_OPS),
    Kind("exp", "vector", vector_ops=EXP_OPS),
    Kind("relu2", "vector", vector_ops=2),
    Kind("modulate", "vector", vector_ops=2),
    Kind("lerp", "vector", vector_ops=3, reads=2),
    Kind("merge", "vector", vector_ops=3 + EXP_OPS),
    Kind("sample", "vector", vector_ops=6 + EXP_OPS, writes=0),
    Kind("verify", "vector", vector_ops=3, reads=2, writes=0),
    Kind("lstm_cell", "vector", vector_ops=5 * SIGMOID_OPS + 4, reads=5, writes=2),
    Kind("gru_cell", "vector", vector_ops=3 * SIGMOID_OPS + 5, reads=7),
    Kind("quantize", "vector", form="cast", vector_ops=4),
    Kind("dequantize", "vector", form="cast", vector_ops=2),
    Kind("dwconv", "vector", form="stencil", macs=1),
    Kind("wavelet", "vector", form="stencil", macs=1),
    Kind("pool", "vector", form="stencil", vector_ops=1, weights=False),
    Kind("dp_step", "vector", form="stencil", vector_ops=2),
    Kind("fft", "vector", form="fft", vector_ops=5, reads=2, writes=2),
    Kind("sort", "vector", form="sort", vector_ops=1),
    Kind("scan", "attention_prefill", form="scan", vector_ops=2 + EXP_OPS, reads=2, macs=2),
    Kind("linear_attention", "attention_prefill", form="scan", vector_ops=1, reads=2, macs=2),
    Kind("gated_scan", "attention_prefill", form="scan", vector_ops=2 + EXP_OPS, reads=3, macs=2),
    Kind("delta_scan", "attention_prefill", form="scan", vector_ops=2 + EXP_OPS, reads=2, macs=3),
    Kind("scan_step", "vector", form="step", vector_ops=1, reads=2, macs=2),
    Kind("gated_step", "vector", form="step", vector_ops=1, reads=3, macs=2),
    Kind("delta_step", "vector", form="step", vector_ops=1, reads=2, macs=3),
    Kind("selective_scan", "vector", form="channels", vector_ops=7 + EXP_OPS, reads=3),
    Kind("wkv", "vector", form="channels", vector_ops=4 + 2 * EXP_OPS, reads=2),
    Kind("trisolve", "vector", form="triangle"),
    Kind("permute", "move", weights=False),
    Kind("window", "move", weights=False),
    Kind("unfold", "move", weights=False),
    Kind("interpolate", "move", weights=False, vector_ops=6),
    Kind("kv_evict", "move", weights=False),
    Kind("gather", "move", form="random", weights=False),
    Kind("scatter", "move", form="random", weights=False, vector_ops=1, reads=2),
    Kind("grid_sample", "move", form="random", weights=False, vector_ops=2),
    Kind("lut", "move", form="random", vector_ops=1),
)
BY_NAME = {kind.name: kind for kind in KINDS}
CODE = {kind.name: code for code, kind in enumerate(KINDS)}
KIND_WORK = np.array([WORK.index(kind.work) for kind in KINDS], np.int64)
KIND_ARITHMETIC = np.array([ARITHMETIC.index(kind.arithmetic) for kind in KINDS], np.int64)
FORMS = ("matmul", "attention", "row", "cast", "stencil", "fft", "sort", "scan", "step", "channels", "triangle", "move", "random",
         "collective")
_OF_WORK = {"attention_prefill": "attention", "attention_decode": "attention", "vector": "row"}
KIND_FORM = np.array([FORMS.index(kind.form or _OF_WORK.get(kind.work, kind.work)) for kind in KINDS], np.int64)

VOCABULARY: dict[str, tuple[str, ...]] = {
    "GEMM": ("gemm",), "GEMV": ("gemv",), "BMM": ("bmm",), "GROUPED_GEMM": ("grouped_gemm",), "SOFTMAX": ("softmax",),
    "NORM": ("rmsnorm", "layernorm", "groupnorm", "batchnorm"),
    "ELEM": ("add", "mul", "relu", "relu2", "gelu", "silu", "tanh", "sigmoid", "softplus", "exp", "relu_mul", "gelu_mul", "silu_mul",
             "sigmoid_mul", "rope", "modulate", "lerp"),
    "REDUCE": ("merge", "combine"), "KVAPPEND": ("kv_append", "kv_evict"), "SAMPLE": ("argmax", "sample", "verify"),
    "GATHER": ("gather", "embedding"), "SCATTER": ("scatter",), "TOPK": ("topk",), "SORT": ("sort",), "HASH": ("hash",), "LUT": ("lut",),
    "CONV1D": ("conv",), "CONV2D": ("conv",), "CONV3D": ("conv",), "DWCONV": ("dwconv",), "UPSAMPLE": ("interpolate", "conv"),
    "GRIDSAMPLE": ("grid_sample",), "POOL": ("pool",), "UNFOLD": ("unfold",), "WINDOW": ("window",), "PERMUTE": ("permute",),
    "FFT": ("fft",), "WAVELET": ("wavelet",),
    "SCAN": ("scan", "linear_attention", "gated_scan", "delta_scan", "scan_step", "gated_step", "delta_step", "selective_scan", "wkv"),
    "TRISOLVE": ("trisolve",), "RNN": ("gemv", "lstm_cell", "gru_cell"),
    "SPARSE": ("gemm", "attention_prefill", "attention_decode"), "QUANT": ("quantize", "dequantize"), "BINARY": ("binary_gemm",),
    "SHIFTADD": ("shift_gemm", "add_gemm"), "SPIKE": ("spike_gemm",), "MOE": ("grouped_gemm", "topk", "combine", "alltoall"),
    "COLLECTIVE": ("allreduce", "allgather", "reducescatter", "alltoall", "send"), "DP": ("dp_step",),
}
"""Operators of the literature, and the kinds that stand for them. An RNN and a path search are chains of rows, one a step; a sparse
product is a gemm with `sparsity`, or an attention whose `pairs` are those of the blocks that it keeps."""
