"""LLMServingSim 2: profiler/perf/GPU/MODEL/VARIANT/tpN/{dense,per_sequence,attention}.csv, time_us in microseconds.

Facts: commit 5daddb2 and its page on the output bundle. Times are a profiler's, of the kernels alone. The sizes of a layer come
from the bundled model of the same name; models that are not bundled are left out, as are attentions that mix a prefill with
decodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane.workloads import catalog
from gemvane.workloads.parts import Attention, Dense, MoE
from gemvane.workloads.spec import ModelSpec

from .common import Part, clone_path, read_file

if TYPE_CHECKING:
    import pandas as pd

FILES = "profiler/perf/*/*/*/*/tp*/{dense,per_sequence,attention}.csv"
MODELS = {"meta-llama/Llama-3.1-8B": "llama3-8b", "meta-llama/Llama-3.1-70B": "llama3-70b", "Qwen/Qwen3-32B": "qwen3-32b",
          "Qwen/Qwen3-8B": "qwen3-8b", "Qwen/Qwen3-30B-A3B-Instruct-2507": "qwen3-30b-a3b"}
GPUS = {"H100": "H100-SXM", "A100": "A100-SXM4-80GB", "H200": "H200-SXM"}


def parts(folder: Path, left_out: Counter[str]) -> Iterator[Part]:
    """Every layer and attention of the profiled models that are bundled here."""
    for file in sorted((folder / "profiler" / "perf").glob("*/*/*/*/tp*/*.csv")):
        gpu, owner, model, variant, tp = file.relative_to(folder / "profiler" / "perf").parts[:5]
        if file.stem not in READERS:
            left_out[f"{file.stem}.csv: not read (files)"] += 1
        elif f"{owner}/{model}" not in MODELS:
            left_out[f"{owner}/{model}: no bundled model of that name (files)"] += 1
        else:
            table = read_file(file, "time_us")
            spec = catalog.load(MODELS[f"{owner}/{model}"])
            made = READERS[file.stem](table, file, spec, int(tp.removeprefix("tp")), left_out)
            yield Part(made.assign(gpu=GPUS.get(gpu, gpu), dtype=variant.partition("-")[0], framework="LLMServingSim", launch="profiler",
                                   cache="warm", source_path=clone_path(file, folder), notes=f"vLLM {variant}"), file, "time_us")


def _layers(table: pd.DataFrame, file: Path, spec: ModelSpec, tp: int, left_out: Counter[str]) -> pd.DataFrame:
    import pandas as pd

    count = "tokens" if "tokens" in table else "sequences"
    for column in ("layer", count):
        if column not in table:
            raise ValueError(f"{file}: column {column!r} is missing. It has {', '.join(table.columns)}.")
    shapes = _shapes(spec, tp)
    known = table["layer"].isin(list(shapes))
    for name, number in table["layer"][~known].value_counts().items():
        left_out[f"{name}: no kernel of that name here"] += int(number)
    rows = table[known].reset_index(drop=True)
    sizes = pd.DataFrame([shapes[name] for name in rows["layer"]], columns=["op", "N", "K"])
    sizes["K"] = sizes["K"].where(sizes["op"] == "gemm")
    return sizes.assign(batch=1, M=rows[count], tp=tp, latency_us=rows["time_us"], kernel=rows["layer"])


def _shapes(spec: ModelSpec, tp: int) -> dict[str, tuple[str, int, int]]:
    """Layer's name -> operator, N and K of one device."""
    mixer, ffn = spec.layers[0].mixer, spec.layers[0].ffn
    assert isinstance(mixer, Attention) and isinstance(ffn, Dense | MoE)
    query, keys = mixer.heads_q // tp * mixer.head_dim, max(1, mixer.heads_kv // tp) * mixer.head_dim
    width = ffn.width // tp
    return {
        "layernorm": ("rmsnorm", spec.hidden, 0), "final_layernorm": ("rmsnorm", spec.hidden, 0),
        "qkv_proj": ("gemm", query + 2 * keys, spec.hidden), "o_proj": ("gemm", spec.hidden, query),
        "gate_up_proj": ("gemm", 2 * width, spec.hidden), "down_proj": ("gemm", spec.hidden, width),
        "lm_head": ("gemm", spec.vocab // tp, spec.hidden), "rotary_emb": ("rope", query + keys, 0), "act_fn": ("silu_mul", width, 0),
    }


def _attention(table: pd.DataFrame, file: Path, spec: ModelSpec, tp: int, left_out: Counter[str]) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    for column in ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"):
        if column not in table:
            raise ValueError(f"{file}: column {column!r} is missing. It has {', '.join(table.columns)}.")
    mixed = (table["prefill_chunk"] > 0) & (table["n_decode"] > 0)
    left_out["attention over a prefill and decodes at once"] += int(mixed.sum())
    rows = table[~mixed].reset_index(drop=True)
    decode = rows["n_decode"] > 0
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Attention)
    variant = file.parent.parent.name
    made: dict[str, Any] = {
        "op": np.where(decode, "attention_decode", "attention_prefill"), "window": 0, "batch": np.where(decode, rows["n_decode"], 1),
        "kv_dtype": "fp8" if "kvfp8" in variant else variant.partition("-")[0], "heads_q": mixer.heads_q // tp,
        "heads_kv": max(1, mixer.heads_kv // tp), "head_dim": mixer.head_dim, "q_len": np.where(decode, 1, rows["prefill_chunk"]),
        "kv_len": np.where(decode, rows["kv_decode"] + 1, rows["kv_prefill"] + rows["prefill_chunk"]), "tp": tp,
        "latency_us": rows["time_us"]}
    return pd.DataFrame(made)


READERS = {"dense": _layers, "per_sequence": _layers, "attention": _attention}
