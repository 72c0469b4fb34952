"""The row of each class of work: which kind it is, and its sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..mixers import DECODES_AS
from ..ops import CODE, DTYPES, PHASES
from ..scenario import distinct_experts
from . import aten
from .graph import BOOKKEEPING, Node, Tensor

Row = dict[str, int]
Made = tuple[str, str, Row]
"""What the name ends in (after the module's path), the kind, the columns."""


@dataclass(frozen=True)
class Asked:
    """What the one who records decides, beyond what the model does."""

    phase: str
    full_square: bool = False
    routing: str = "uniform"
    stands_for: dict[str, str] = field(default_factory=dict)
    """Number types of the recording that become others."""
    weight_dtype: str | None = None
    kv_dtype: str | None = None

    @property
    def decoding(self) -> bool:
        return self.phase == "decode"


class Group(NamedTuple):
    """Operators that become one row, those of them whose results others read, and what those others are."""

    members: list[Node]
    escaping: tuple[Node, ...]
    readers: frozenset[str]


def emit(group: Group, asked: Asked) -> Made | None:
    """The row of a group; None where it needs none: nothing reads it, or it copies what the next operator reads in any case."""
    node = group.members[0]
    made = _BY_WORK[node.work](node, asked) if node.work in _BY_WORK else _vector(group, asked)
    if made is None:
        return None
    suffix, kind, row = made
    return suffix, kind, {"phase": PHASES.index(asked.phase), "generated": int(asked.decoding), **row}


def _types(asked: Asked, act: Tensor, weight: Tensor | None = None) -> Row:
    """The columns of number types: of what is read and written, of the weight."""
    return {"act_dtype": _code(asked, act), "weight_dtype": _code(asked, weight or act, asked.weight_dtype),
            "kv_dtype": _code(asked, act, asked.kv_dtype)}


def _code(asked: Asked, tensor: Tensor, instead: str | None = None) -> int:
    """The type of a tensor, or the one that is asked for instead."""
    name = instead or asked.stands_for.get(tensor.dtype, tensor.dtype)
    return DTYPES.index(name if name in DTYPES else "fp32")


def _product(node: Node, asked: Asked) -> Made:
    x, w = node.facts["operands"]
    if node.op == "_grouped_mm":
        top_k = node.facts["top_k"]
        groups = distinct_experts(asked.routing, w.shape[0], top_k, x.rows // top_k)
        return "", "grouped_gemm", {"batch": groups, "m": x.rows, "n": w.shape[-1], "k": x.width, **_types(asked, x, w)}
    if x.static:  # a weight times what is computed: the transposed product
        x, w = w._replace(shape=_turned(w.shape)), x._replace(shape=_turned(x.shape))
    m, k = (x.shape[-2] if len(x.shape) > 1 else 1), x.width
    n = w.shape[-1] if len(w.shape) > 1 else 1
    batch = math.prod(x.shape[:-2])
    kind = ("gemv" if m == 1 else "gemm") if w.static else "bmm"
    return "", kind, {"batch": batch, "m": m, "n": n, "k": k, **_types(asked, x, w)}


def _turned(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], *shape[-2:][::-1]) if len(shape) > 1 else shape


def _conv(node: Node, asked: Asked) -> Made:
    x, w, out = node.reads[0], node.reads[1], node.writes[0]
    groups, kernel = node.facts["groups"], math.prod(w.shape[2:])
    if node.facts["transposed"]:
        sizes = {"m": x.size // x.shape[1], "n": w.shape[1] * kernel, "k": w.shape[0] // groups}
    elif groups == x.shape[1] == out.shape[1] and groups > 1:
        return "", "dwconv", {"m": out.size // groups, "n": groups, "k": kernel, "in_elements": x.size, **_types(asked, x, w)}
    else:
        sizes = {"m": out.size // out.shape[1], "n": w.shape[0] // groups, "k": w.shape[1] * kernel}
    unfolded = groups * sizes["m"] * sizes["k"]  # where taps overlap, the input is smaller than what the product reads
    return "", "conv", {"batch": groups, **sizes, "in_elements": x.size if x.size < unfolded else 0, **_types(asked, x, w)}


def _pool(node: Node, asked: Asked) -> Made:
    x, out = node.reads[0], node.writes[0]
    channels = out.shape[1]
    return "pool", "pool", {"m": out.size // channels, "n": channels, "k": -(-x.size // out.size), "in_elements": x.size,
                            **_types(asked, x)}


def _fft(node: Node, asked: Asked) -> Made:
    """Over several dimensions it is as much work as one transform of all their points."""
    longest = max(node.reads[0], node.writes[0], key=lambda t: t.size)
    points = math.prod(longest.shape[dim] for dim in node.facts["dims"])
    return "fft", "fft", {"m": longest.size // points, "n": points, **_types(asked, node.reads[0])}


def _move(node: Node, asked: Asked) -> Made:
    """A copy that is an operator by itself: its rows are along the last dimension."""
    kind, out = _MOVES[node.op], node.writes[0]
    taps = {"k": 4} if kind == "grid_sample" else {}  # bilinear: four neighbours
    read = {"in_elements": node.reads[0].size} if kind in ("unfold", "interpolate") else {}
    return kind, kind, {"m": out.rows, "n": out.width, **taps, **read, **_types(asked, out)}


_MOVES = {"roll": "window", "im2col": "unfold", "sort": "sort", "grid_sampler_2d": "grid_sample", "upsample_nearest1d": "interpolate",
          "upsample_nearest2d": "interpolate", "upsample_bilinear2d": "interpolate", "upsample_bicubic2d": "interpolate"}


def _mixer(node: Node, asked: Asked) -> Made:
    """The inside of a state-space or linear-attention mixer: `numbers` as mixers.py gives them."""
    x, out, kind, numbers = node.reads[0], node.writes[0], node.facts["kind"], node.facts["numbers"]
    batch, tokens = x.shape[0], x.rows
    row = {"batch": batch, "m": tokens, **_types(asked, x)}
    if kind == "dwconv":
        return "conv1d", kind, {**row, "n": out.width, "k": numbers[0], "kv_width": (numbers[0] - 1) * out.width}
    if kind in ("selective_scan", "wkv"):
        return kind, kind, {**row, "n": out.width, "head_dim": numbers[0]}
    heads, key_heads, key_dim, value_dim, chunk = numbers
    sizes = {"heads_q": heads, "heads_kv": key_heads, "head_dim": key_dim, "value_dim": value_dim, "k": chunk}
    return kind, DECODES_AS[kind] if asked.decoding else kind, {**row, **sizes}


def _embedding(node: Node, asked: Asked) -> Made:
    table, out = node.reads[0], node.writes[0]
    return "", "embedding", {"m": out.rows, "n": out.width, **_types(asked, out, table)}


def _attention(node: Node, asked: Asked) -> Made:
    q, k, v = node.reads
    (batch, heads_q, q_len, head_dim), (_, heads_kv, kv_len, value_dim) = q.shape, v.shape
    window, causal = node.facts["window"], node.facts["causal"] and not asked.full_square
    row = {"batch": batch, "m": batch * q_len, "n": batch * kv_len, "pairs": batch * pairs(q_len, kv_len, window, causal), "q_len": q_len,
           "kv_len": kv_len, "heads_q": heads_q, "heads_kv": heads_kv, "head_dim": head_dim, "value_dim": value_dim,
           "kv_width": heads_kv * (head_dim + value_dim), "window": window, "cross": int(_crosses(node, asked)), **_types(asked, q)}
    # A prefill reads the keys and values that it has just computed, not what the cache makes of them.
    row["kv_dtype"] = _code(asked, k, asked.kv_dtype) if asked.decoding else _code(asked, q)
    return "attention", "attention_decode" if asked.decoding else "attention_prefill", row


def _crosses(node: Node, asked: Asked) -> bool:
    """Whether the keys are another sequence's: of a decode step, those that this step has added nothing to."""
    q, k, _ = node.reads
    return k.source < 0 if asked.decoding else q.shape[-2] != k.shape[-2]


def pairs(q_len: int, kv_len: int, window: int, causal: bool) -> int:
    """(query, key) pairs of one sequence whose last query is its last key: query i sees the keys up to its own, at most `window`."""
    reach = min(kv_len, window) if window else kv_len
    return int(np.clip(np.arange(kv_len - q_len, kv_len) + 1, 0, reach).sum()) if causal else q_len * reach


def _append(node: Node, asked: Asked) -> Made:
    kept = node.reads
    batch, tokens = (kept[0].shape[0], kept[0].shape[-2]) if len(kept[0].shape) > 2 else (1, kept[0].rows)
    width = sum(t.size for t in kept) // (batch * tokens)
    return "kv_append", "kv_append", {"m": batch * tokens, "n": width, "kv_width": width, **_types(asked, kept[0])}


def _vector(group: Group, asked: Asked) -> Made | None:
    """Element-wise work that is kept on chip: it reads and writes once what comes from outside and what goes there."""
    written = [t for node in group.escaping for t in node.writes if t.dtype not in BOOKKEEPING or node.op in ("topk", "argmax")]
    ops = [node.op for node in group.members if node.work == "vector"]
    top = next((node for node in group.members if node.op == "topk"), None)
    if top is not None:
        return "topk", "topk", {"m": top.reads[0].rows, "n": top.reads[0].width, **_types(asked, top.reads[0])}
    if not written:
        return None
    if not ops:
        return _copied(group, asked)
    if all(node.op == "add" and any(t.static and len(t.shape) == 1 for t in node.reads)
           for node in group.members if node.work == "vector"):
        return None  # a bias: the product before it adds it
    own = {number for node in group.members for number in node.numbers}
    outer = list({(t.id, t.source): t for node in group.members for t in node.live
                  if t.source not in own and t.dtype not in BOOKKEEPING}.values())
    out = max(written, key=lambda t: t.size)
    kind, suffix = _kind(group, ops, outer, out)
    types = _types(asked, out)
    if kind == "rope":
        tokens = out.shape[0] * out.shape[-2] if len(out.shape) > 2 else out.rows
        return suffix, kind, {"m": tokens, "n": sum(t.size for t in written) // tokens, **types}
    read = max((t.size for t in outer), default=out.size)
    if kind == "combine":
        return suffix, kind, {"m": read // out.width, "n": out.width, "k": read // out.size, **types}
    if kind == "argmax":
        return suffix, kind, {"m": read // outer[0].width, "n": outer[0].width, **types}
    return suffix, kind, {"m": out.rows, "n": out.width, **types}


def _copied(group: Group, asked: Asked) -> Made | None:
    """Copies alone: rows chosen by an index are gathered, unless the experts that read them do it; all others ride along."""
    chosen = [node.writes[0] for node in group.escaping if node.op in aten.LOOKUP and node.writes[0].dtype not in BOOKKEEPING]
    if not chosen or "_grouped_mm" in group.readers:
        return None
    out = max(chosen, key=lambda t: t.size)
    return "gather", "gather", {"m": out.rows, "n": out.width, **_types(asked, out)}


def _kind(group: Group, ops: list[str], outer: list[Tensor], out: Tensor) -> tuple[str, str]:
    """The kind of a group, and what its name ends in."""
    has = set(ops)
    norm = next((name for name, members in aten.NORMS.items() if has & set(members)), None)
    if norm is not None or "norm" in group.members[0].module.lower() or {"mean", "rsqrt"} <= has:
        return norm or ("layernorm" if has & {"var", "sub", "var_mean"} else "rmsnorm"), ""  # a norm's row has the norm's own name
    if _rotates(group):
        return "rope", "rope"
    if has & set(aten.SOFTMAX):
        return "softmax", "softmax"
    if "argmax" in has:
        return "argmax", "argmax"
    for activation, members in aten.ACTIVATIONS.items():
        if has & set(members):
            gated = sum(t.size for t in outer) >= 2 * out.size and "mul" in has
            kind = "gelu" if activation == "tanh" and "pow" in has else activation
            if kind == "sigmoid" and ops.count("mul") > gated:  # x times sigmoid(x) is a silu
                kind = "silu"
            return f"{kind}_mul" if gated and f"{kind}_mul" in CODE else kind, "activation"
    largest = max((t.size for t in outer), default=0)
    if has & set(aten.SUMS) and largest >= 2 * out.size and largest % out.size == 0:
        return "combine", "sum"
    if has & set(aten.SUMS) & {"index_add", "scatter_add", "scatter_reduce"}:
        return "scatter", "scatter"
    if sum(t.size >= out.size for t in outer) < 2:
        return "modulate", "scale"
    return ("add", "add") if has & {"add", "sub"} else ("mul", "mul")


def _rotates(group: Group) -> bool:
    """Products with tables that are known before the run, and halves that change places: a rotary embedding."""
    turned = any(node.op in ("neg", "cat", "stack") or any(t.dtype == "complex" for t in node.reads) for node in group.members)
    return turned and any(node.op == "mul" and any(t.static and t.width > 1 and len(t.shape) > 1 for t in node.reads)
                          for node in group.members)


_BY_WORK: dict[str, Callable[[Node, Asked], Made]] = {
    "product": _product, "conv": _conv, "embedding": _embedding, "attention": _attention, "append": _append, "pool": _pool, "fft": _fft,
    "mixer": _mixer, "moved": _move,
}
