"""NeuSight: scripts/asplos/data/dataset/{train,test}/OPERATOR.csv, fp32 in eager PyTorch, Latency in milliseconds.

Facts: commit 6945927. Rows of B x H elements; where an operator's name ends in u its second operand is a scalar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gemvane.workloads.kernels import KERNEL_KINDS

from .common import Part, clone_path, read_file

FILES = "scripts/asplos/data/dataset/{train,test}/{bmm,linear,elem,ln,softmax}.csv"
GPUS = {"A100 80GB PCIe": "A100-PCIE-80GB"}
OPS = {"linear": "gemm", "ln": "layernorm"}


def parts(folder: Path, left_out: Counter[str]) -> Iterator[Part]:
    """Products, elementwise operators, LayerNorm and softmax of a clone, both halves of its data."""
    for half in ("train", "test"):
        for name in ("bmm", "linear", "elem", "ln", "softmax"):
            file = folder / "scripts" / "asplos" / "data" / "dataset" / half / f"{name}.csv"
            if not file.is_file():
                continue
            product = name in ("bmm", "linear")
            table = read_file(file, "OPName", "Latency", "Device", *(("B", "M", "N", "K") if product else ("B", "H")))
            op = table["OPName"].astype(str).replace(OPS)
            known = op.isin(list(KERNEL_KINDS))
            for other, count in op[~known].value_counts().items():
                left_out[f"{other}: no such operator here"] += int(count)
            gpu = table["Device"].astype(str).str.replace(r"^(NVIDIA|Tesla) ", "", regex=True).replace(GPUS)
            made: dict[str, Any] = {"gpu": gpu, "op": op, "dtype": "fp32", "latency_us": table["Latency"] * 1e3, "launch": "eager",
                                    "cache": "warm", "framework": "NeuSight", "kernel": table.get("Kernel Name", ""),
                                    "source_path": clone_path(file, folder), "notes": "eager PyTorch, L2 not controlled"}
            if name == "linear":
                made |= {"batch": 1, "M": table["B"] * table["M"], "N": table["N"], "K": table["K"]}
            elif product:
                made |= {"batch": table["B"], "M": table["M"], "N": table["N"], "K": table["K"]}
            else:
                made |= {"M": table["B"], "N": table["H"]}
            yield Part(table.assign(**made)[list(made)][known].reset_index(drop=True), file, "Latency")
