"""A kernel table (the one schema for measured and predicted kernels) as operator rows, one a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .ops import BITS, CODE, DTYPES, KINDS, SHAPE, WORK, Int64s, Rows, derive

if TYPE_CHECKING:
    import pandas as pd

Mask = NDArray[np.bool_]

KERNEL_KINDS = {
    "gemm": "gemm", "gemv": "gemv", "bmm": "bmm", "attention_prefill": "attention_prefill", "attention_decode": "attention_decode",
    "softmax": "softmax", "layernorm": "layernorm", "rmsnorm": "rmsnorm", "gelu": "gelu", "relu": "relu", "tanh": "tanh", "silu": "silu",
    "silu_mul": "silu_mul", "add": "add", "mul": "mul", "rope": "rope", "topk": "topk", "embedding": "embedding", "copy": "permute",
    "allreduce": "allreduce", "allgather": "allgather", "reducescatter": "reducescatter", "alltoall": "alltoall",
}
"""`op` of the table -> kind of operator."""

TABLE_DTYPES = {dtype: dtype for dtype in DTYPES} | {"fp8_block": "fp8", "sq": "int8", "int8_wo": "bf16", "int4_wo": "bf16"}
"""`dtype` of the table -> type of the activations and the arithmetic."""
WEIGHT_DTYPES = TABLE_DTYPES | {"int8_wo": "int8", "int4_wo": "int4"}

EMPTY = ("", "None", "nan", "NaN", "<NA>")
"""Texts of a cell without a value."""
LARGEST = 2**53
"""Sizes beyond this are not exact as floats, in which a table with empty cells holds them."""

FRAMEWORKS = ("", "trtllm", "sglang", "vllm", "triton", "vidur", "llmservingsim", "llmcompass", "neusight")
"""Who ran a kernel: it decides which kernels run and what the clock covers. "": nobody in particular."""
LAUNCHES = ("graph", "stream", "eager", "profiler")
"""How a kernel gets onto the device: replayed from a graph, queued in a stream, or called one by one from a framework; or, however it
got there, a profiler's time of the kernel alone, without the gap to the next one."""
PROFILED = ("vidur", "llmservingsim")
"""Sources that add up a profiler's kernel times (microsoft/vidur 7d47513, vidur/profiling; casys-kaist/LLMServingSim 5daddb2)."""
CACHES = ("", "warm", "cold")
"""Whether a row finds its operands in L2 where they fit, since the same ones were used before; "": by `weight_copies`."""
KERNEL_NAMES = ("", "flash2", "flash3", "split-kv", "fixed-split", "lean", "paged", "unfused")
"""Attention kernels that the column `kernel` may ask for."""

COLUMNS = ("op", "dtype", "kv_dtype", "window", "batch", "M", "N", "K", "heads_q", "heads_kv", "head_dim", "q_len", "kv_len", "bytes", "tp")


class Conditions(NamedTuple):
    """What a measured row contains beside its shape; columns as long as the table."""

    framework: Int64s
    """Index into FRAMEWORKS."""
    dtype: NDArray[Any]
    """Type as the table names it: fp8_block and int4_wo are more than the type of their arithmetic."""
    kv_dtype: Int64s
    """Type of the cache (index into DTYPES), also where a prefill reads what it has just computed."""
    copies: Int64s
    """Copies of the operands used in turn; 0 where every row finds its weights, or its cache, outside the L2."""
    launch: Int64s
    """Index into LAUNCHES."""
    kernel: Int64s
    """Index into KERNEL_NAMES."""
    held: Int64s
    """Tokens of an attention's longest sequence, also those that a window hides."""

    def take(self, index: Int64s) -> Conditions:
        """The rows at `index`, in that order."""
        return Conditions(*(column[index] for column in self))


def conditions_from_table(table: pd.DataFrame | Mapping[str, Any]) -> Conditions:
    """The conditions of a kernel table's rows.

    The first word of `framework` counts (a row that ran a Triton kernel is one of its own); `launch` is a column, or follows
    from the framework, or from `notes`; an empty `weight_copies` is one copy where a framework measured it, else none that
    stays in L2, unless a column `cache` says warm or cold.
    """
    size = len(np.asarray(table["op"]))
    framework = _named(table, "framework", FRAMEWORKS, size)
    asked = _named(table, "kernel", ("", *KERNEL_NAMES[1:], "triton"), size)
    framework = np.where((asked == len(KERNEL_NAMES)) & (framework > 0), FRAMEWORKS.index("triton"), framework)
    launch = _named(table, "launch", LAUNCHES, size)
    if "launch" not in table and "notes" in table:
        launch = np.where(_says(table["notes"], "eager"), LAUNCHES.index("eager"), 0)
    if "launch" not in table:
        profiled = np.isin(framework, [FRAMEWORKS.index(name) for name in PROFILED])
        launch = np.where(profiled, LAUNCHES.index("profiler"), launch)
    copies = _whole("weight_copies", np.asarray(table["weight_copies"]) if "weight_copies" in table else None, size)
    copies = np.where((copies == 0) & (framework > 0), 1, copies)
    cache = _named(table, "cache", CACHES, size)
    copies = np.where(cache == CACHES.index("cold"), 0, np.where(cache == CACHES.index("warm"), np.maximum(copies, 1), copies))
    act = _codes("dtype", np.asarray(table["dtype"]), {d: DTYPES.index(name) for d, name in TABLE_DTYPES.items()})
    stored = _kv_dtypes(np.asarray(table["kv_dtype"]) if "kv_dtype" in table else None, act)
    kernel = np.where(asked < len(KERNEL_NAMES), asked, 0)
    held = _whole("kv_len", np.asarray(table["kv_len"]) if "kv_len" in table else None, size)
    return Conditions(framework, np.asarray(table["dtype"]).astype(str), stored, copies, launch, kernel, held)


def _named(table: pd.DataFrame | Mapping[str, Any], column: str, names: tuple[str, ...], size: int) -> Int64s:
    """Index of the first word of each cell in `names`, 0 where it is none of them."""
    if column not in table:
        return np.zeros(size, np.int64)
    distinct, inverse = np.unique(np.asarray(table[column]).astype(str), return_inverse=True)
    words = [text.lower().split()[0] if text.split() else "" for text in distinct.tolist()]
    codes = np.array([names.index(word) if word in names else 0 for word in words], np.int64)
    return codes[inverse.reshape(-1)]


def _says(cells: Any, word: str) -> Mask:
    """Whether each cell's text holds a word."""
    distinct, inverse = np.unique(np.asarray(cells).astype(str), return_inverse=True)
    return np.array([word in text.lower() for text in distinct.tolist()])[inverse.reshape(-1)]


def rows_from_table(table: pd.DataFrame | Mapping[str, Any]) -> Rows:
    """Operator rows of a kernel table; columns that a table lacks count as empty.

    Raises ValueError naming the row and column for an `op` or `dtype` that is unknown or a size that is missing.
    """
    columns = {name: np.asarray(table[name]) for name in COLUMNS if name in table}
    for needed in ("op", "dtype"):
        if needed not in columns:
            raise ValueError(f"kernel table: column {needed!r} is missing. It has {', '.join(map(str, table)) or 'no columns'}.")
    kind = _codes("op", columns["op"], {op: CODE[name] for op, name in KERNEL_KINDS.items()})
    act = _codes("dtype", columns["dtype"], {d: DTYPES.index(name) for d, name in TABLE_DTYPES.items()})
    weight = _codes("dtype", columns["dtype"], {d: DTYPES.index(name) for d, name in WEIGHT_DTYPES.items()})
    size = kind.size
    number = {name: _whole(name, columns.get(name), size) for name in COLUMNS if name not in ("op", "dtype", "kv_dtype")}
    shape: dict[str, Int64s] = {c: np.zeros(size, np.int64) for c in SHAPE}
    shape |= {"kind": kind, "act_dtype": act, "weight_dtype": weight, "kv_dtype": _kv_dtypes(columns.get("kv_dtype"), act)}
    work = np.array([WORK.index(KINDS[c].work) for c in range(len(KINDS))])[kind]
    attention = (work == WORK.index("attention_prefill")) | (work == WORK.index("attention_decode"))
    collective = work == WORK.index("collective")

    shape["batch"] = np.where(collective | (work == WORK.index("vector")), 1, np.maximum(number["batch"], 1))
    shape["m"], shape["n"], shape["k"] = number["M"], np.maximum(number["N"], 1), np.where(work == 0, number["K"], 0)
    shape["m"] = np.where(collective, number["bytes"] * 8 // BITS[act], shape["m"])
    shape["n"] = np.where(collective, 1, shape["n"])
    shape["peers"] = np.maximum(number["tp"], 1)
    _attention_columns(shape, number, attention, work == WORK.index("attention_decode"))
    _check_sizes(shape, number, kind, work, attention)
    return derive(shape)


def _attention_columns(shape: dict[str, Int64s], number: dict[str, Int64s], attention: Mask, decode: Mask) -> None:
    batch, q, kv, window = shape["batch"], number["q_len"], number["kv_len"], number["window"]
    reach = np.where(window > 0, np.minimum(window, kv), kv)
    # Causal pairs of q queries at the end of kv keys, each seeing at most `reach`: q kv - q (q - 1) / 2 without a window.
    full = np.minimum(q, np.maximum(0, kv - reach))
    growing = q - full
    pairs = full * reach + growing * reach - growing * (growing - 1) // 2
    keys = np.where(window > 0, np.minimum(kv, reach + q - 1), kv)
    values = {"m": batch * q, "n": batch * keys, "pairs": batch * pairs, "q_len": q, "kv_len": np.where(decode, reach, kv),
              "heads_q": number["heads_q"], "heads_kv": number["heads_kv"], "head_dim": number["head_dim"],
              "value_dim": number["head_dim"], "kv_width": 2 * number["heads_kv"] * number["head_dim"], "window": window}
    for column, value in values.items():
        shape[column] = np.where(attention, value, shape[column])
    # A prefill without a cached prefix reads the keys and values that it has just computed.
    shape["kv_dtype"] = np.where(attention & ~decode & (kv == q), shape["act_dtype"], shape["kv_dtype"])


def _codes(column: str, values: NDArray[Any], known: dict[str, int]) -> Int64s:
    distinct, inverse = np.unique(values.astype(str), return_inverse=True)
    codes = np.empty(distinct.size, np.int64)
    for i, text in enumerate(distinct.tolist()):
        if text not in known:
            row = int(np.flatnonzero(inverse == i)[0])
            wish = ", ".join(name for name in known if name not in EMPTY)
            raise ValueError(f"kernel table: row {row}: {column} {text!r} is unknown. Expected one of {wish}.")
        codes[i] = known[text]
    return codes[inverse.reshape(-1)]


def _kv_dtypes(values: NDArray[Any] | None, act: Int64s) -> Int64s:
    if values is None:
        return act
    codes = _codes("kv_dtype", values, {dtype: i for i, dtype in enumerate(DTYPES)} | dict.fromkeys(EMPTY, -1))
    return np.where(codes < 0, act, codes)


def _whole(column: str, values: NDArray[Any] | None, size: int) -> Int64s:
    """A column as int64, empty cells as 0."""
    if values is None:
        return np.zeros(size, np.int64)
    if values.shape != (size,):
        raise ValueError(f"kernel table: column {column!r} has {values.size} cells. Expected {size}, one a row.")
    number = _floats(values)
    bad = np.flatnonzero(~((number >= 0) & (number < LARGEST) & (np.floor(number) == number)))
    if bad.size:
        row = int(bad[0])
        raise ValueError(f"kernel table: row {row}: {column} is {values[row]}. Expected a whole number of at least 0, or an empty cell.")
    return number.astype(np.int64)


def _floats(values: NDArray[Any]) -> NDArray[np.float64]:
    """Cells as floats: 0 where empty, NaN where no number."""
    if values.dtype.kind in "iuf":
        number = values.astype(np.float64)
        return np.where(np.isnan(number), 0.0, number)
    import pandas as pd

    cells = pd.Series(values, dtype=object)
    empty = cells.isna() | (cells == "")
    return pd.to_numeric(cells.mask(empty, 0), errors="coerce").to_numpy(np.float64)


def _check_sizes(shape: dict[str, Int64s], number: dict[str, Int64s], kind: Int64s, work: Int64s, attention: Mask) -> None:
    needed = {"M": ~attention & (work != WORK.index("collective")), "K": work == 0, "N": work == 0, "heads_q": attention,
              "heads_kv": attention, "head_dim": attention, "q_len": attention, "kv_len": attention,
              "bytes": work == WORK.index("collective"), "tp": work == WORK.index("collective")}
    for column, where in needed.items():
        bad = np.flatnonzero(where & (number[column] < 1))
        if bad.size:
            row = int(bad[0])
            raise ValueError(f"kernel table: row {row}: {column} is missing or 0, which a kernel of kind {KINDS[kind[row]].name} needs.")
    for row in np.flatnonzero(attention & (number["q_len"] > number["kv_len"]))[:1].tolist():
        q_len, kv_len = number["q_len"][row], number["kv_len"][row]
        raise ValueError(f"kernel table: row {row}: q_len is {q_len} but kv_len is {kv_len}. Expected at least one key a query.")
    for row in np.flatnonzero(attention & (number["heads_q"] % np.maximum(number["heads_kv"], 1) != 0))[:1].tolist():
        heads_q, heads_kv = number["heads_q"][row], number["heads_kv"][row]
        raise ValueError(f"kernel table: row {row}: heads_q is {heads_q}. Expected a multiple of heads_kv, which is {heads_kv}.")
