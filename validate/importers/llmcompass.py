"""LLMCompass: ae/figure5/*/real_hardware/OPERATOR_GPU.csv without header; matmuls in milliseconds, the rest in Gelements/s.

Facts: commit 2e015fd. Every row is eager PyTorch in fp16 and holds 12 to 45 us of framework time. Whole layers and the
model's own tables are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Part, clone_path, read_file

if TYPE_CHECKING:
    import pandas as pd

FILES = "ae/figure5/*/real_hardware/*.csv"
GPUS = {"A100": "A100-SXM4-80GB"}
COLUMNS = {"matmul": ["M", "N", "K", "milliseconds", "Tflops"], "softmax": ["M", "N", "Gelements/s"],
           "layernorm": ["M", "N", "Gelements/s"], "gelu": ["M", "Gelements/s"]}


def parts(folder: Path, left_out: Counter[str]) -> Iterator[Part]:
    """Matmul, softmax, LayerNorm and GELU tables of a clone."""
    for file in sorted(folder.glob(FILES)):
        op, _, gpu = file.stem.partition("_")
        if op not in COLUMNS:
            left_out[f"{file.stem}: whole layers (files)"] += 1
            continue
        table = read_file(file, names=COLUMNS[op])
        column = "milliseconds" if op == "matmul" else "Gelements/s"
        if table[column].isna().any():
            raise ValueError(f"{file}: has fewer than {len(COLUMNS[op])} cells in a line. Expected {', '.join(COLUMNS[op])}.")
        made: dict[str, Any] = {"gpu": GPUS.get(gpu, gpu), "op": "gemm" if op == "matmul" else op, "dtype": "fp16", "M": table["M"],
                                "N": table.get("N", 1), "latency_us": _us(table, op), "launch": "eager", "cache": "warm",
                                "framework": "LLMCompass", "source_path": clone_path(file, folder),
                                "notes": "eager PyTorch, framework time included"}
        if op == "matmul":
            made |= {"batch": 1, "K": table["K"]}
        yield Part(table.assign(**made)[list(made)], file, column)


def _us(table: pd.DataFrame, op: str) -> pd.Series[Any]:
    if op == "matmul":
        return table["milliseconds"].astype(str).str.removesuffix("ms").astype(float) * 1e3
    return table["M"] * table.get("N", 1) / table["Gelements/s"] / 1e3
