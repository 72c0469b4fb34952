"""aiconfigurator: systems/data/SYSTEM/OPERATOR/FRAMEWORK/VERSION/*_perf.parquet, latency in milliseconds.

Collectives count elements, not bytes; a prefill or decode step sees isl + step keys. Facts: the repository's collector at
commit 095f58a51.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemvane.sim.hardware import load
from gemvane.sim.schema import Gpu
from gemvane.workloads.kernels import TABLE_DTYPES

from .. import tables
from .common import Part, clone_path, read_file

if TYPE_CHECKING:
    import pandas as pd

FILES = "systems/data/*/**/*_perf.parquet"
GPUS = {"a100_sxm": "A100-SXM4-80GB", "a100_pcie": "A100-PCIE-80GB", "h100_sxm": "H100-SXM", "h100_pcie": "H100-PCIE",
        "h200_sxm": "H200-SXM", "b200_sxm": "B200", "b300_sxm": "B300", "gb200": "GB200", "gb300": "GB300", "l40s": "L40S", "l4": "L4"}
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float": "fp32", "float32": "fp32", "nvfp4": "fp4"}
COLLECTIVES = {"all_reduce": "allreduce", "all_gather": "allgather", "reduce_scatter": "reducescatter", "alltoall": "alltoall"}
ELEMENT_BYTES = {"fp16": 2, "bf16": 2, "fp32": 4, "int8": 1}


def parts(folder: Path, left_out: Counter[str]) -> Iterator[Part]:
    """The GEMM, attention and collective tables of a clone; the others are counted in `left_out`."""
    for file in sorted(folder.glob(f"**/{FILES}")):
        reader = READERS.get(file.stem)
        if reader is None:
            left_out[f"{file.stem}: no model of it here (files)"] += 1
            continue
        table = read_file(file, "latency")
        made = reader(table, file)
        typed = made["dtype"].isin(list(TABLE_DTYPES))
        known = typed & ~(made.get("M", 1) == 0)
        left_out["number type without a model"] += int((~typed).sum())
        left_out["a matrix without rows"] += int((typed & ~known).sum())
        common: dict[str, Any] = {"gpu": _gpu(file), "latency_us": table["latency"] * 1e3, "source_path": clone_path(file, folder)}
        if "power" in table:
            common["power_w"] = table["power"].where(table["power"] > 0)
        yield Part(made.assign(**common)[known].reset_index(drop=True), file, "latency")


def _gpu(file: Path) -> str:
    system = file.parts[max(i for i, part in enumerate(file.parts) if part == "data") + 1]
    return GPUS.get(system, system)


def _dtypes(column: pd.Series[Any]) -> pd.Series[Any]:
    return column.astype(str).replace(DTYPES)


def _framework(table: pd.DataFrame) -> pd.Series[Any]:
    return table["framework"].astype(str).str.lower() + " " + table["version"].astype(str)


def _need(table: pd.DataFrame, file: Path, *columns: str) -> None:
    for column in columns:
        if column not in table:
            raise ValueError(f"{file}: column {column!r} is missing. It has {', '.join(map(str, table.columns))}.")


def _gemm(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    import pandas as pd

    _need(table, file, "framework", "version", "gemm_dtype", "m", "n", "k")
    dtype = _dtypes(table["gemm_dtype"])
    return pd.DataFrame({
        "op": "gemm", "dtype": dtype, "batch": 1, "M": table["m"], "N": table["n"], "K": table["k"], "launch": "graph",
        "framework": _framework(table), "kernel": table.get("kernel_source", ""), "weight_copies": _copies(table, dtype, _gpu(file))})


def _copies(table: pd.DataFrame, dtype: pd.Series[Any], gpu: str) -> Any:
    """Weights that the timed graph cycles through: TensorRT-LLM min(5, max(1, ceil(L2 / weight))), SGLang 6, vLLM 6 but 1 for fp8_block."""
    framework = table["framework"].astype(str).str.lower()
    element = dtype.map({"bf16": 2.0, "fp16": 2.0, "fp32": 4.0, "int4_wo": 0.5, "fp4": 0.5}).fillna(1.0)
    six = np.where((framework == "vllm") & (dtype == "fp8_block"), 1, 6)
    if gpu not in tables.HARDWARE:
        return np.where(framework == "trtllm", np.nan, six)
    size = next(unit.l2_size for unit in load(tables.HARDWARE[gpu]).spec.units.values() if isinstance(unit, Gpu))
    l2 = round(size / 1e6) << 20      # data sheets say MB; the driver, which the collector asks, reports so many MiB
    trtllm = np.clip(np.ceil(l2 / (table["n"] * table["k"] * element)), 1, 5)
    return np.where(framework == "trtllm", trtllm, six)


def _attention(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    import pandas as pd

    _need(table, file, "framework", "version", "batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "attn_dtype",
          "kv_cache_dtype")
    decode = file.stem.startswith("generation")
    keys = table["num_key_value_heads"].where(table["num_key_value_heads"] > 0, table["num_heads"])
    return pd.DataFrame({
        "op": "attention_decode" if decode else "attention_prefill", "dtype": _dtypes(table["attn_dtype"]),
        "kv_dtype": _dtypes(table["kv_cache_dtype"]), "window": table.get("window_size", 0), "batch": table["batch_size"],
        "heads_q": table["num_heads"], "heads_kv": keys, "head_dim": table["head_dim"], "q_len": 1 if decode else table["isl"],
        "kv_len": table["isl"] + table["step"], "launch": "graph", "framework": _framework(table),
        "kernel": table.get("kernel_source", "")})


def _nccl(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    _need(table, file, "op_name", "nccl_dtype", "num_gpus", "message_size")
    return _collective(table, table["nccl_dtype"], f"nccl {file.parent.name}").assign(launch="stream")


def _custom_allreduce(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    _need(table, file, "framework", "version", "op_name", "allreduce_dtype", "num_gpus", "message_size")
    kernel = table["kernel_source"].astype(str) if "kernel_source" in table else table["op_name"].astype(str)
    return _collective(table, table["allreduce_dtype"], _framework(table)).assign(
        kernel=kernel, launch=np.where(kernel.str.endswith("_eager"), "eager", "graph"))


def _collective(table: pd.DataFrame, dtype: pd.Series[Any], framework: Any) -> pd.DataFrame:
    import pandas as pd

    dtypes = _dtypes(dtype)
    return pd.DataFrame({
        "op": table["op_name"].map(COLLECTIVES), "dtype": dtypes, "bytes": table["message_size"] * dtypes.map(ELEMENT_BYTES).fillna(2),
        "tp": table["num_gpus"], "framework": framework, "kernel": "nccl"})


READERS = {"gemm_perf": _gemm, "context_attention_perf": _attention, "generation_attention_perf": _attention, "nccl_perf": _nccl,
           "custom_allreduce_perf": _custom_allreduce}
