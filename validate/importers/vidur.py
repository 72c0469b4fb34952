"""Vidur: data/profiling/compute/GPU/MODEL/mlp.csv and data/profiling/network/NODE/*.csv, milliseconds rounded to 1 us.

Facts: commit 7d47513. Times are a profiler's, of the kernels alone. An operator's shape follows from its column's name and the
model's sizes in the same row; the medians are taken. A collective's size is in bytes, one row a rank. The attention tables are
not in public snapshots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Part, clone_path, read_file

if TYPE_CHECKING:
    import pandas as pd

FILES = "data/profiling/{compute,network}/**/*.csv"
GPUS = {"a100": "A100-SXM4-80GB", "h100": "H100-SXM", "a40": "A40"}
SIZES = ("num_tokens", "num_tensor_parallel_workers", "n_head", "n_kv_head", "n_embd", "n_expanded_embd", "use_gated_mlp")


def parts(folder: Path, left_out: Counter[str]) -> Iterator[Part]:
    """Linear layers, norms, activations, rotary embedding and residual of every profiled model; all-reduces."""
    for file in sorted((folder / "data" / "profiling" / "compute").glob("*/**/mlp.csv")):
        table = read_file(file, *SIZES)
        gpu = GPUS.get(file.relative_to(folder).parts[3], file.relative_to(folder).parts[3])
        for name, shape in _operators(table).items():
            column = f"time_stats.{name}.median"
            if column not in table:
                continue
            here = table[column] > 0
            left_out["shorter than the resolution of 1 us"] += int((table[column] == 0).sum())
            made: dict[str, Any] = {"gpu": gpu, "dtype": "fp16", "M": table["num_tokens"], "tp": table["num_tensor_parallel_workers"],
                                    "latency_us": table[column] * 1e3, "framework": "vidur", "kernel": name, "launch": "profiler",
                                    "cache": "warm", "source_path": clone_path(file, folder), "notes": "median, resolution 1 us"} | shape
            yield Part(table.assign(**made)[list(made)][here].reset_index(drop=True), file, column)
    for file in sorted((folder / "data" / "profiling" / "network").glob("*/all_reduce.csv")):
        column = "time_stats.all_reduce.median"
        table = read_file(file, column, "num_workers", "size")
        node = file.parent.name
        made = {"gpu": GPUS.get(node.partition("_")[0], node), "op": "allreduce", "dtype": "fp16", "bytes": table["size"],
                "tp": table["num_workers"], "latency_us": table[column] * 1e3, "framework": "vidur", "launch": "stream",
                "source_path": clone_path(file, folder), "notes": f"{node}, one row a rank"}
        yield Part(table.assign(**made)[list(made)], file, column)


def _operators(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Name in a column -> operator and shape, over the devices of tensor parallelism."""
    tp, embed, heads, heads_kv = (table[c] for c in ("num_tensor_parallel_workers", "n_embd", "n_head", "n_kv_head"))
    gated = table["use_gated_mlp"].astype(bool)
    width = table["n_expanded_embd"] // tp
    head = embed // heads
    norm = gated.map({True: "rmsnorm", False: "layernorm"})
    query, keys = heads // tp * head, (heads_kv // tp).clip(lower=1) * head
    return {
        "attn_pre_proj": {"op": "gemm", "batch": 1, "N": query + 2 * keys, "K": embed},
        "attn_post_proj": {"op": "gemm", "batch": 1, "N": embed, "K": query},
        "mlp_up_proj": {"op": "gemm", "batch": 1, "N": width * (1 + gated.astype(int)), "K": embed},
        "mlp_down_proj": {"op": "gemm", "batch": 1, "N": embed, "K": width},
        "mlp_act": {"op": gated.map({True: "silu_mul", False: "gelu"}), "N": width},
        "input_layernorm": {"op": norm, "N": embed}, "post_attention_layernorm": {"op": norm, "N": embed},
        "attn_rope": {"op": "rope", "N": query + keys}, "add": {"op": "add", "N": embed},
    }
