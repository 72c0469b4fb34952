"""GPU: operator rows as kernels (gpu_gemm, gpu_attention, gpu_vector) under the conditions in which they run."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from gemvane.workloads.kernels import FRAMEWORKS, KERNEL_NAMES, Conditions
from gemvane.workloads.ops import BITS, CODE, DTYPES, FORMS, KIND_FORM, KINDS, WORK, Int64s, Rows

from ..calibration import DecodeCondition, GemmCondition, PrefillCondition, VectorCondition, XqaCondition
from ..costs import Costs, Floats, Ledger
from . import gpu_attention, gpu_gemm, gpu_trtllm, gpu_vector
from .gpu_gemm import TILES
from .gpu_machine import Parts, ResolvedGpu, Shape, resolve

__all__ = ["TILES", "ResolvedGpu", "cost", "estimate", "resolve"]

GRAPH_NODE_US, STREAM_US = 1.3, 2.6
"""From one small kernel to the next in a CUDA graph, and queued in a stream (te42kyfo/gpu-benches, gpu-small-kernels: 1.28-1.36
and 2.5-2.7 us on A100 and H200). The floor of a kernel holds the first, which no profiler counts."""
HOST_CALL_US = 12.5
HOST_BEFORE = 0.7
"""One call of a framework's operator on the host, and the share of it that lies before the kernel's launch; the rest runs beside the
kernel. From the smallest and largest rows of PrincetonUniversity/LLMCompass 2e015fd (A100, eager PyTorch)."""
HOST_CALLS: dict[str, dict[str, float]] = {
    "": {"softmax": 1, "gemm": 2, "gemv": 2, "bmm": 2, "layernorm": 4, "rmsnorm": 4, "gelu": 4, "gelu_mul": 4},
    "neusight": {"softmax": 1.6, "layernorm": 2.6, "gelu": 1.3, "relu": 1.4},
}
"""Calls that an eager operator makes, 1 where nothing else is said; "": of any other framework. Chosen on the same LLMCompass rows, by
which its error against them is in sample; and on the smallest rows of NeuSight on A100 and T4, whose modules make one call of a kernel."""
EVENT_CALLS = {"neusight": 1.1}
"""What the clock covers of the host beside the operator, in calls: NeuSight records events around each (sitar-lab/NeuSight 6945927: an
addition of a few elements takes 26.4 us; the host of its V100 is 1.23 times as slow, which no table says)."""
PLAIN_OPERANDS = ("vllm", "llmcompass")
PLAIN_FACTOR = 1.08
"""Matmuls whose operands are not random draw less power and clock higher: large ones of A100 have a median of 284 TFLOP/s under
vLLM (weights not initialised) and 262 under TensorRT-LLM (ai-dynamo/aiconfigurator 095f58a51)."""
ISSUE = {"softmax": 4.5}
"""Issue slots a vector operation, where it is more than one: a softmax passes over its rows three times, converts each time and takes
two exponentials, on units of a quarter of the rate; chosen on LLMCompass's A100 rows."""
WIDE_ROW = 8192
"""Elements of a row that no longer fit one thread block's registers: a reduction reads such a row from memory again."""
REDUCTIONS = ("softmax", "layernorm", "rmsnorm")
TRACE = {"gemm": ("trtllm", "sglang"), "attention_prefill": ("sglang", "trtllm"), "attention_decode": ("sglang", "trtllm"), "vector": ()}
"""Whose kernels a trace is taken to run, without what their clocks cover beside the kernel; and who stands in for a framework that
was not measured."""


class Group(NamedTuple):
    """What rows of one call of a kernel model share."""

    work: str
    framework: str
    dtype: str
    kernel: str
    act: int
    weight: int
    kv: int


def cost(rows: Rows, gpu: ResolvedGpu, conditions: Conditions | None = None) -> Costs:
    """Costs of rows of every class but collectives. Without conditions: in a CUDA graph, weights and cache outside the L2."""
    ledger = Ledger(rows.size)
    conditions = _of_a_trace(rows) if conditions is None else conditions
    parts = estimate(rows, gpu, conditions)
    launch = parts.fixed + launch_us(rows, conditions, parts.fixed + parts.busy)
    ideal = np.maximum(rows.macs / gpu.tensor.macs_per_cycle[rows.act_dtype] / gpu.mhz, rows.vector_ops / gpu.vector_ops_per_us)
    ideal = np.minimum(np.where(rows.work <= 2, rows.macs / gpu.tensor.macs_per_cycle[rows.act_dtype] / gpu.mhz, ideal), parts.busy)
    edge = np.maximum(np.minimum(parts.compute, parts.busy) - ideal, 0)
    in_us = {"ideal": ideal, "edge": edge, "memory": parts.busy - ideal - edge, "launch": launch}
    ledger.spend_all({cause: part * gpu.mhz for cause, part in in_us.items()})
    ledger.count_macs(rows.macs, gpu.tensor.used[rows.act_dtype])
    ledger.count("vector_op", rows.vector_ops)
    ledger.count("sram_bytes", parts.tile_bytes.astype(np.int64))
    ledger.count("l2_bytes", np.maximum(rows.memory_bytes, parts.tile_bytes.astype(np.int64)))
    ledger.count_dram(parts.dram_bytes.astype(np.int64))
    matrix = np.where(rows.work <= WORK.index("attention_decode"), parts.compute, 0)
    ledger.bind({"memory": parts.memory, "compute": matrix, "vector": parts.compute - matrix, "launch": launch})
    return ledger.costs()


def estimate(rows: Rows, gpu: ResolvedGpu, conditions: Conditions) -> Parts:
    """Parts of each row's time in us, without the launch path."""
    groups = _groups(rows, conditions)
    if len(groups) == 1:
        return _kernel(groups[0][0], rows, conditions, gpu)
    out = Parts(*(np.zeros(rows.size) for _ in Parts._fields))
    for group, index in groups:
        parts = _kernel(group, rows.take(index), conditions.take(index), gpu)
        for whole, part in zip(out, parts, strict=True):
            whole[index] = part
    return out


def _of_a_trace(rows: Rows) -> Conditions:
    """Weights and caches come from memory; operators that only change elements find what was computed just before."""
    zero = np.zeros(rows.size, np.int64)
    copies = (_model(rows) == WORK.index("vector")).astype(np.int64)
    return Conditions(zero, np.array(DTYPES, object)[rows.act_dtype].astype(str), rows.kv_dtype, copies, zero, zero, rows.kv_len)


def _groups(rows: Rows, conditions: Conditions) -> list[tuple[Group, Int64s]]:
    """Rows of the same kernel model, framework and types."""
    work = _model(rows)
    if rows.size == 1:
        return [(_group(rows, conditions, work, 0), np.zeros(1, np.int64))]
    _, dtype = np.unique(conditions.dtype, return_inverse=True)
    unfit = work == WORK.index("vector")
    columns = (work, conditions.framework, dtype.reshape(-1), conditions.kernel, rows.act_dtype, rows.weight_dtype, rows.kv_dtype,
               conditions.kv_dtype)
    key = np.zeros(rows.size, np.int64)
    for column in columns:
        key = key * 64 + np.where(unfit & (column is not work) & (column is not conditions.framework), 0, column)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    return [(_group(rows, conditions, work, at), np.flatnonzero(inverse == number)) for number, at in enumerate(first.tolist())]


def _group(rows: Rows, conditions: Conditions, work: Int64s, at: int) -> Group:
    return Group(WORK[work[at]], FRAMEWORKS[conditions.framework[at]], str(conditions.dtype[at]), KERNEL_NAMES[conditions.kernel[at]],
                 int(rows.act_dtype[at]), int(rows.weight_dtype[at]), int(conditions.kv_dtype[at]))


def _model(rows: Rows) -> Int64s:
    """Class of work whose kernel model runs each row: a matmul's, an attention's, or that of all that only changes elements."""
    scan = KIND_FORM[rows.kind] == FORMS.index("scan")
    return np.where(scan, WORK.index("vector"), np.minimum(rows.work, WORK.index("vector")))


def _kernel(group: Group, rows: Rows, conditions: Conditions, gpu: ResolvedGpu) -> Parts:
    if group.work == "matmul":
        return _matmul(group, rows, conditions, gpu)
    if group.work in ("attention_prefill", "attention_decode"):
        return _attention(group, rows, conditions, gpu)
    cold = (conditions.copies == 0) | (rows.work == WORK.index("move"))
    codes, kinds = np.unique(rows.kind, return_inverse=True)
    found = [condition_of(gpu, group.framework, "vector", KINDS[code].name) for code in codes.tolist()]
    extra_us, traffic = (np.array([getattr(one, side) for one in found])[kinds.reshape(-1)] for side in ("extra_us", "traffic_factor"))
    slots = np.array([ISSUE.get(kind.name, 1.0) for kind in KINDS])[rows.kind] * rows.vector_ops
    # A chunked scan multiplies on the tensor cores, beside its vector operations; whatever else multiplies here fuses it with an addition.
    chunked = KIND_FORM[rows.kind] == FORMS.index("scan")
    tensor = gpu.vector_ops_per_us / gpu_vector.FMA_OPS / (gpu.tensor.macs_per_cycle[rows.act_dtype] * gpu.mhz)
    slots = slots + rows.macs * np.where(chunked, tensor, 1.0)
    wide = np.array([kind.name in REDUCTIONS for kind in KINDS])[rows.kind] & (rows.n > WIDE_ROW)
    bytes_ = rows.memory_bytes.astype(np.float64) + wide * rows.input_bytes
    return gpu_vector.vector(bytes_, slots.astype(np.float64), gpu, extra_us, traffic, cold)


def condition_of(gpu: ResolvedGpu, framework: str, section: str, key: str) -> Any:
    """How a framework runs a class of work in a type: of the GPU's own calibration, else of a relative, else of the nearest type.

    A trace runs TRACE's kernels without what lies around them.
    """
    empty = {"gemm": GemmCondition, "attention_prefill": PrefillCondition, "attention_decode": DecodeCondition,
             "vector": VectorCondition}[section]()
    for name in (framework, *TRACE[section]) if framework else TRACE[section]:
        for kind in (key, key.split("-", maxsplit=1)[0], "bf16"):
            for known in gpu.conditions:
                found = getattr(known.get(name), section, None) if name in known else None
                chosen = found.get(kind) if isinstance(found, dict) else found
                if chosen is None:
                    continue
                if framework in PLAIN_OPERANDS and name != framework and section == "gemm":
                    chosen = chosen.model_copy(update={"tensor_factor": chosen.tensor_factor * PLAIN_FACTOR})
                return _bare(chosen) if framework == "" else chosen
    return empty


def _bare(condition: Any) -> Any:
    around = ("extra_us", "quant_passes", "append_passes", "other_head_us", "padded_head_us")
    return condition.model_copy(update={name: 0.0 for name in around if name in type(condition).model_fields})


def _matmul(group: Group, rows: Rows, conditions: Conditions, gpu: ResolvedGpu) -> Parts:
    types = gpu_gemm.types_of(group.dtype, group.act, int(BITS[group.act]), int(BITS[group.weight]), group.framework)
    condition = condition_of(gpu, group.framework, "gemm", gemm_key(group.dtype))
    grouped = rows.kind == CODE["grouped_gemm"]
    each = np.where(grouped, -(-rows.m // np.maximum(rows.batch, 1)), rows.m)
    shape = Shape(*(column.astype(np.float64) for column in (rows.batch, each, rows.n, rows.k, conditions.copies)))
    return gpu_gemm.gemm(shape, types, gpu, gpu_gemm.setting_of(group.framework, group.dtype, condition))


def gemm_key(dtype: str) -> str:
    return "bf16" if dtype in ("bf16", "fp16", "tf32", "fp32") else dtype


def _attention(group: Group, rows: Rows, conditions: Conditions, gpu: ResolvedGpu) -> Parts:
    act_bytes = max(2.0, float(BITS[group.act] / 8)) if group.framework else float(BITS[group.act] / 8)
    queries = rows.m * rows.heads_q * (rows.head_dim + rows.value_dim) * act_bytes
    columns = (rows.batch, rows.heads_q, np.maximum(rows.heads_kv, 1), rows.head_dim, rows.value_dim, rows.q_len, rows.kv_len,
               rows.window, rows.pairs, BITS[rows.kv_dtype] / 8, rows.kv_read_bytes, queries, conditions.copies == 0)
    heads = gpu_attention.Heads(*(np.asarray(column, np.float64) for column in columns))
    named = gpu_attention.NAMED.get(group.kernel) or gpu_attention.NAMED.get(gpu.attention)
    run_by = gpu_attention.OF_FRAMEWORK if group.work == "attention_prefill" else gpu_attention.DECODE_OF_FRAMEWORK
    kernel = named or run_by.get(group.framework, gpu_attention.FLASH3)
    key = attention_key(DTYPES[group.act], DTYPES[group.kv])
    if not kernel.fused:
        return gpu_attention.unfused(heads, group.act, act_bytes, gpu)
    # A prefill over an fp8 cache multiplies in fp8 whatever its label says: its rate is above what bf16 can reach.
    arithmetic = DTYPES.index("fp8") if key == "bf16-fp8" and gpu.tensor.used[DTYPES.index("fp8")] == DTYPES.index("fp8") else group.act
    run = gpu_attention.prefill if group.work == "attention_prefill" else gpu_attention.decode
    condition = condition_of(gpu, group.framework, group.work, key)
    if isinstance(condition, XqaCondition):
        if named is None:
            return gpu_trtllm.decode(heads, np.maximum(conditions.held, rows.kv_len).astype(np.float64), gpu, condition)
        condition = DecodeCondition()
    return run(heads, arithmetic if group.work == "attention_prefill" else group.act, gpu, kernel, condition)


def attention_key(act: str, kv: str) -> str:
    """Key of an attention's condition: bf16, fp8, or bf16-fp8 where only the cache is fp8."""
    kinds = {"fp8": "fp8", "int8": "fp8"}
    act, kv = kinds.get(act, "bf16"), kinds.get(kv, "bf16")
    return act if act == kv else f"{act}-{kv}"


@cache
def _host_calls() -> tuple[Floats, Floats]:
    """[framework, kind] calls of an eager operator, and [framework] what the clock covers beside."""
    calls = [[HOST_CALLS.get(name, HOST_CALLS[""]).get(kind.name, 1) for kind in KINDS] for name in FRAMEWORKS]
    return np.array(calls, np.float64), np.array([EVENT_CALLS.get(name, 0) for name in FRAMEWORKS], np.float64)


def launch_us(rows: Rows, conditions: Conditions, kernel_us: Floats) -> Floats:
    """What a launch path adds to kernels of a CUDA graph, and a profiler leaves out; eager, a short kernel hides behind the host that
    goes on."""
    calls, events = _host_calls()
    host = calls[conditions.framework, rows.kind] * HOST_CALL_US
    eager = np.maximum(host + events[conditions.framework] * HOST_CALL_US - kernel_us, HOST_BEFORE * host)
    by_path = np.stack([np.zeros(rows.size), np.full(rows.size, STREAM_US - GRAPH_NODE_US), eager,
                        np.full(rows.size, -GRAPH_NODE_US)])
    added: Floats = by_path[conditions.launch, np.arange(rows.size)]
    return added
