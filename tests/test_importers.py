"""Importers: tiny files in each source's format, written for these tests, become rows of our schema; wrong ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.validate import importers, kerneltable

AIC = "systems/data/h100_sxm"


def put(folder: Path, file: str, *rows: dict[str, Any], header: bool = True) -> Path:
    """A table of a source's clone."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(list(rows))
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, header=header)
    return path


def gemm(**changes: Any) -> dict[str, Any]:
    return {"framework": "TRTLLM", "version": "1.0", "op_name": "gemm", "kernel_source": "torch_flow", "gemm_dtype": "bfloat16",
            "m": 4096, "n": 4096, "k": 4096, "latency": 0.2} | changes


def attention(**changes: Any) -> dict[str, Any]:
    return {"framework": "SGLang", "version": "0.5", "kernel_source": "flash_attention", "batch_size": 2, "isl": 1024, "num_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "attn_dtype": "bfloat16", "kv_cache_dtype": "fp8", "step": 0,
            "latency": 0.1} | changes


def one(table: pd.DataFrame, **where: Any) -> dict[str, Any]:
    """The only row with these values, without its empty cells."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return {str(column): value for column, value in table.iloc[0].items() if not pd.isna(value)}


def test_aiconfigurator(tmp_path: Path) -> None:
    put(tmp_path, f"{AIC}/gemm/trtllm/1.0/gemm_perf.parquet", gemm(power=650.0), gemm(n=65536, k=16384, latency=9.0, power=0.0), gemm(m=0),
        gemm(gemm_dtype="mystery"))
    put(tmp_path, f"{AIC}/attention/sglang/0.5/context_attention_perf.parquet", attention())
    put(tmp_path, f"{AIC}/attention/sglang/0.5/generation_attention_perf.parquet", attention(isl=1, step=2047, num_key_value_heads=0))
    put(tmp_path, f"{AIC}/comm/nccl/2.23/nccl_perf.parquet",
        {"nccl_dtype": "half", "num_gpus": 8, "message_size": 1024, "kernel_source": "NCCL", "op_name": "all_gather", "latency": 0.02})
    put(tmp_path, f"{AIC}/moe/trtllm/1.0/moe_perf.parquet", {"latency": 1.0})
    table = importers.read("aiconfigurator", tmp_path)
    small, large = one(table, op="gemm", N=4096), one(table, op="gemm", N=65536)
    assert (small["latency_us"], small["dtype"], small["framework"], small["launch"]) == (200.0, "bf16", "trtllm 1.0", "graph")
    assert (small["power_w"], "power_w" in large) == (650.0, False)
    # 50 MiB of L2 hold a weight of 32 MiB once and a half: two copies; one of 2 GiB is there once
    assert (small["weight_copies"], large["weight_copies"]) == (2, 1)
    first, step = one(table, op="attention_prefill"), one(table, op="attention_decode")
    assert (first["q_len"], first["kv_len"], first["kv_dtype"], first["heads_kv"]) == (1024, 1024, "fp8", 8)
    assert (step["q_len"], step["kv_len"], step["heads_kv"]) == (1, 2048, 32)
    gather = one(table, op="allgather")
    assert (gather["bytes"], gather["tp"], gather["framework"]) == (2048, 8, "nccl 2.23")
    assert table.attrs["left_out"] == {"number type without a model": 1, "a matrix without rows": 1,
                                       "moe_perf: no model of it here (files)": 1}
    assert set(table["source_repo"]) == {"ai-dynamo/aiconfigurator"}


def test_llmcompass(tmp_path: Path) -> None:
    real = "ae/figure5/{}/real_hardware/{}_A100.csv"
    put(tmp_path, real.format("ab", "matmul"), {"M": 64, "N": 12288, "K": 12288, "t": "0.1900ms", "f": "101.7Tflops"}, header=False)
    put(tmp_path, real.format("cf", "softmax"), {"M": 4096, "N": 1024, "g": 100.0}, header=False)
    put(tmp_path, real.format("g", "gelu"), {"M": 1 << 20, "g": 20.0}, header=False)
    table = importers.read("llmcompass", tmp_path)
    assert one(table, op="gemm")["latency_us"] == pytest.approx(190)
    assert one(table, op="softmax")["latency_us"] == pytest.approx(4096 * 1024 / 100e9 * 1e6)
    assert one(table, op="gelu")["latency_us"] == pytest.approx(2**20 / 20e9 * 1e6)
    assert one(table, op="gelu")["N"] == 1 and set(table["launch"]) == {"eager"}


def test_neusight(tmp_path: Path) -> None:
    data = "scripts/asplos/data/dataset/test"
    put(tmp_path, f"{data}/linear.csv", {"OPName": "linear", "Latency": 1.2, "Device": "NVIDIA L4", "B": 2, "M": 512, "N": 2560, "K": 2560})
    put(tmp_path, f"{data}/elem.csv", {"OPName": "add", "Latency": 0.77, "Device": "Tesla V100-PCIE-32GB", "B": 32768, "H": 1600},
        {"OPName": "addu", "Latency": 0.5, "Device": "Tesla T4", "B": 8, "H": 8})
    table = importers.read("neusight", tmp_path)
    product, add = one(table, op="gemm"), one(table, op="add")
    assert (product["gpu"], product["M"], product["dtype"]) == ("L4", 1024, "fp32")
    assert (add["gpu"], add["latency_us"], add["M"], add["N"]) == ("V100-PCIE-32GB", pytest.approx(770), 32768, 1600)
    assert table.attrs["left_out"] == {"addu: no such operator here": 1}


def test_vidur(tmp_path: Path) -> None:
    sizes = {"num_tokens": 4096, "num_tensor_parallel_workers": 2, "n_head": 32, "n_kv_head": 8, "n_embd": 4096, "n_expanded_embd": 14336,
             "use_gated_mlp": True}
    medians = {"attn_pre_proj": 0.5, "mlp_up_proj": 2.0, "mlp_act": 0.2, "add": 0.0}
    times = {f"time_stats.{name}.median": time for name, time in medians.items()}
    put(tmp_path, "data/profiling/compute/a100/meta-llama/Llama-x/mlp.csv", sizes | times)
    put(tmp_path, "data/profiling/network/h100_dgx/all_reduce.csv", {"time_stats.all_reduce.median": 0.05, "num_workers": 4, "size": 2048})
    table = importers.read("vidur", tmp_path)
    qkv, up = one(table, kernel="attn_pre_proj"), one(table, kernel="mlp_up_proj")
    assert (qkv["launch"], qkv["cache"]) == ("profiler", "warm")
    assert (qkv["N"], qkv["K"], qkv["M"], qkv["gpu"], qkv["latency_us"]) == (16 * 128 + 2 * 4 * 128, 4096, 4096, "A100-SXM4-80GB", 500)
    assert (up["N"], one(table, op="silu_mul")["N"]) == (2 * 7168, 7168)
    assert (one(table, op="allreduce")["bytes"], one(table, op="allreduce")["gpu"]) == (2048, "H100-SXM")
    assert table.attrs["left_out"] == {"shorter than the resolution of 1 us": 1}


def test_llmservingsim(tmp_path: Path) -> None:
    folder = "profiler/perf/H100/meta-llama/Llama-3.1-8B/bf16-kvfp8/tp2"
    put(tmp_path, f"{folder}/dense.csv", {"layer": "qkv_proj", "tokens": 64, "time_us": 20.0},
        {"layer": "embedding", "tokens": 64, "time_us": 3.0})
    put(tmp_path, f"{folder}/per_sequence.csv", {"layer": "lm_head", "sequences": 8, "time_us": 200.0})
    put(tmp_path, f"{folder}/attention.csv", {"prefill_chunk": 0, "kv_prefill": 0, "n_decode": 4, "kv_decode": 512, "time_us": 12.0},
        {"prefill_chunk": 256, "kv_prefill": 768, "n_decode": 0, "kv_decode": 0, "time_us": 30.0},
        {"prefill_chunk": 256, "kv_prefill": 0, "n_decode": 4, "kv_decode": 512, "time_us": 40.0})
    put(tmp_path, "profiler/perf/H100/someone/Model/bf16/tp1/dense.csv", {"layer": "qkv_proj", "tokens": 1, "time_us": 2.0})
    table = importers.read("llmservingsim", tmp_path)
    assert one(table, kernel="qkv_proj")["N"] == 16 * 128 + 2 * 4 * 128
    assert (one(table, kernel="lm_head")["M"], one(table, kernel="lm_head")["N"]) == (8, 128256 // 2)
    decode, chunk = one(table, op="attention_decode"), one(table, op="attention_prefill")
    assert (decode["batch"], decode["kv_len"], decode["heads_kv"], decode["kv_dtype"]) == (4, 513, 4, "fp8")
    assert (chunk["q_len"], chunk["kv_len"]) == (256, 1024)
    assert table.attrs["left_out"]["attention over a prefill and decodes at once"] == 1
    assert table.attrs["left_out"]["someone/Model: no bundled model of that name (files)"] == 1


def test_splitwise(tmp_path: Path) -> None:
    put(tmp_path, "data/perf_model.csv",
        {"model": "llama2-70b", "hardware": "h100-80gb-pcap", "prompt_size": 512, "batch_size": 4, "token_size": 128, "peak_power": 1.0,
         "average_power": 0.7, "prompt_time": 80.0, "token_time": 30.0, "e2e_time": 4000.0, "tensor_parallel": 8})
    table = importers.read("splitwise", tmp_path)
    first, step = one(table, op="e2e_prefill"), one(table, op="e2e_decode")
    assert (first["latency_us"], first["q_len"], first["kv_len"], first["tp"], first["gpu"]) == (80000, 512, 512, 8, "H100-SXM")
    assert (step["latency_us"], step["q_len"]) == (30000, 1)
    assert "h100-80gb-pcap" in step["notes"]


@pytest.mark.parametrize(("latency", "said"), [
    (200.0, "over ten times slower than the roofline of h100-sxm, the first 2e+05 us against 139 us"),      # microseconds in the file
    (0.0002, "over ten times faster than the roofline of h100-sxm, the first 0.2 us against 139 us"),       # seconds in the file
    (0.0, "column 'latency': 0 us of a kernel of kind gemm. Expected a time above zero."),
])
def test_another_unit_is_refused_and_names_the_column(tmp_path: Path, latency: float, said: str) -> None:
    file = put(tmp_path, f"{AIC}/gemm/trtllm/1.0/gemm_perf.parquet", gemm(latency=latency))
    with pytest.raises(ValueError, match="gemm_perf") as error:
        importers.read("aiconfigurator", tmp_path)
    assert str(error.value).startswith(f"{file}: column 'latency'") and said in str(error.value)


def test_bad_input_ends_in_one_sentence(tmp_path: Path) -> None:
    def refused(name: str, folder: Path, out: str = "t.csv") -> str:
        done = CliRunner().invoke(app, ["validate", "import", name, str(folder), "-o", str(tmp_path / out)])
        assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        return done.stderr.removeprefix("error: ").rstrip("\n")

    assert refused("vidurr", tmp_path).startswith("importer 'vidurr' is unknown (did you mean 'vidur'?). Expected one of")
    assert refused("vidur", tmp_path / "no").endswith("no: is no folder. Expected a clone of microsoft/vidur.")
    assert refused("splitwise", tmp_path).endswith("has no data/perf_model.csv. Expected a clone of Mutinifni/splitwise-sim.")
    assert "a kernel table is a .csv or .parquet file" in refused("splitwise", tmp_path, "t.json")
    put(tmp_path, "data/perf_model.csv", {"model": "m", "hardware": "h"})
    assert "column 'prompt_size' is missing. It has model, hardware." in refused("splitwise", tmp_path)


def test_the_command_writes_a_table_that_reads_back(tmp_path: Path) -> None:
    put(tmp_path, "ae/figure5/g/real_hardware/gelu_A100.csv", {"M": 1 << 20, "g": 20.0}, header=False)
    out = tmp_path / "t.csv"
    done = CliRunner().invoke(app, ["validate", "import", "llmcompass", str(tmp_path), "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["by_op"] == {"gelu": 1}
    assert kerneltable.read(out)["licence"].tolist() == ["BSD-3-Clause"]
