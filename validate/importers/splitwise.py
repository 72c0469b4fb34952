"""splitwise-sim: data/perf_model.csv, whole models; prompt_time and token_time in milliseconds, power as a share of the TDP.

Facts: commit 8f99e7d. Each line gives two rows: a prompt of the whole batch (e2e_prefill), and the mean step after it (e2e_decode).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .common import Part, clone_path, read_file

FILES = "data/perf_model.csv"
GPUS = {"a100-80gb": "A100-SXM4-80GB", "h100-80gb": "H100-SXM", "h100-80gb-pcap": "H100-SXM"}


def parts(folder: Path, left_out: Counter[str]) -> Iterator[Part]:
    """Prompt and token times of a clone."""
    file = folder / FILES
    if not file.is_file():
        return
    table = read_file(file, "model", "hardware", "prompt_size", "batch_size", "token_size", "average_power", "prompt_time", "token_time",
                      "tensor_parallel")
    hardware = table["hardware"].astype(str)
    cells = zip(table["model"], hardware, table["token_size"], table["average_power"], strict=True)
    notes = [f"{model} on {hw}, {tokens} tokens out, mean power {power:.4g} of the TDP over the run" for model, hw, tokens, power in cells]
    common: dict[str, Any] = {
        "gpu": hardware.map(GPUS).fillna(hardware), "dtype": "fp16", "batch": table["batch_size"], "kv_len": table["prompt_size"],
        "tp": table["tensor_parallel"], "framework": "splitwise-sim", "launch": "eager", "notes": np.array(notes, object),
        "source_path": clone_path(file, folder)}
    for op, column, queries in (("e2e_prefill", "prompt_time", table["prompt_size"]), ("e2e_decode", "token_time", 1)):
        made = {**common, "op": op, "q_len": queries, "latency_us": table[column] * 1e3}
        yield Part(table.assign(**made)[list(made)], file, column)
