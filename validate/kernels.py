"""The real kernels, in torch: each row of KERNELS makes a call with its operands from a shape.

torch is imported where it is used. What one call reads and writes is listed as buffers, so that the measuring can hand it
other memory each time; outputs are written into buffers too wherever torch allows, since allocation is no part of a kernel.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

from .kerneltable import Shape

TORCH_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn", "int8": "int8"}
FLOATS = ("fp32", "bf16", "fp16")
GPU = ("cuda",)
UNFUSED = "unfused"
"""Mark, in `notes`, of an operator that runs as several kernels here although one could do it."""
PAGE_TOKENS = 256
"""Tokens of a page of the KV cache in flash_attn's paged decode."""
ROPE_HEAD = 128
"""Elements of the heads that the rotary kernel turns."""


class Buffer(NamedTuple):
    """One operand: its shape, its torch type, and what it holds: "normal" or "index" random data, "empty", "pages" in order."""

    shape: tuple[int, ...]
    dtype: str
    fill: str = "normal"
    below: int = 0
    """Of an index: the values are less than this."""
    device: int = 0


class Plan(NamedTuple):
    """A kernel of one shape: what it reads and writes, and the call that takes those tensors in that order."""

    buffers: tuple[Buffer, ...]
    call: Callable[..., object]
    notes: str = ""


class Kernel(NamedTuple):
    """One way to run an operator."""

    op: str
    name: str
    dtypes: tuple[str, ...]
    plan: Callable[[Shape, str], Plan]
    """Takes a shape and "cpu" or "cuda"."""
    needs: str | None = None
    """A package without which there is no such kernel."""
    devices: tuple[str, ...] = ("cpu", "cuda")


def kernels_for(shape: Shape, device: str, devices: int = 1) -> list[Kernel]:
    """The kernels that run a shape on "cpu" or "cuda"; an empty list where none can."""
    return [kernel for kernel in KERNELS
            if kernel.op == shape.op and shape.dtype in kernel.dtypes and device in kernel.devices and shape.tp <= devices
            and (kernel.needs is None or importlib.util.find_spec(kernel.needs) is not None)]


def _gemm(shape: Shape, device: str) -> Plan:
    import torch

    t = TORCH_DTYPES[shape.dtype]
    return Plan((Buffer((shape.M, shape.K), t), Buffer((shape.N, shape.K), t), Buffer((shape.M, shape.N), t, "empty")),
                lambda x, w, out: torch.mm(x, w.t(), out=out))


def _gemm_fp8(shape: Shape, device: str) -> Plan:
    import torch

    one = torch.ones((), device=device)
    return Plan((Buffer((shape.M, shape.K), TORCH_DTYPES["fp8"]), Buffer((shape.N, shape.K), TORCH_DTYPES["fp8"])),
                lambda x, w: torch._scaled_mm(x, w.t(), one, one, out_dtype=torch.bfloat16),
                "activations come in fp8, no quantisation inside")


def _gemm_int8(shape: Shape, device: str) -> Plan:
    import torch

    return Plan((Buffer((shape.M, shape.K), "int8"), Buffer((shape.N, shape.K), "int8")), lambda x, w: torch._int_mm(x, w.t()),
                "activations come in int8, out in int32")


def _bmm(shape: Shape, device: str) -> Plan:
    import torch

    t, b = TORCH_DTYPES[shape.dtype], shape.batch
    return Plan((Buffer((b, shape.M, shape.K), t), Buffer((b, shape.N, shape.K), t), Buffer((b, shape.M, shape.N), t, "empty")),
                lambda x, w, out: torch.bmm(x, w.transpose(1, 2), out=out))


def _heads(shape: Shape) -> tuple[Buffer, Buffer, Buffer]:
    """Queries, keys and values as [batch, heads, tokens, head_dim]."""
    t, kv = TORCH_DTYPES[shape.dtype], TORCH_DTYPES[shape.kv_dtype or shape.dtype]
    cache = Buffer((shape.batch, shape.heads_kv, shape.kv_len, shape.head_dim), kv)
    return Buffer((shape.batch, shape.heads_q, shape.q_len, shape.head_dim), t), cache, cache


def _sdpa(shape: Shape, device: str) -> Plan:
    import torch
    from torch.nn.attention.bias import causal_lower_right

    if shape.window:
        raise ValueError("scaled_dot_product_attention has no sliding window")
    grouped = shape.heads_q != shape.heads_kv
    # `is_causal` aligns the triangle at the top; queries after a cached prefix need it at the bottom.
    rest: dict[str, Any] = {"is_causal": shape.op == "attention_prefill"}
    if shape.op == "attention_prefill" and shape.q_len != shape.kv_len:
        rest = {"attn_mask": causal_lower_right(shape.q_len, shape.kv_len)}
    attend = torch.nn.functional.scaled_dot_product_attention
    return Plan(_heads(shape), lambda q, k, v: attend(q, k, v, enable_gqa=grouped, **rest))


def _unfused(shape: Shape, device: str) -> Plan:
    """Score product, softmax, value product: the score matrix goes through memory."""
    import torch

    group = shape.heads_q // shape.heads_kv
    q, cache, _ = _heads(shape)
    rows, flat = group * shape.q_len, shape.batch * shape.heads_kv
    scores = Buffer((flat, rows, shape.kv_len), q.dtype, "empty")
    low = torch.ones(shape.q_len, shape.kv_len, dtype=torch.bool, device=device).triu(shape.kv_len - shape.q_len + 1).repeat(group, 1)
    causal = shape.op == "attention_prefill"

    def attend(q: Any, k: Any, v: Any, scores: Any, shares: Any, out: Any) -> object:
        torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=shape.head_dim**-0.5, out=scores)
        if causal:
            scores.masked_fill_(low, float("-inf"))
        torch.ops.aten._softmax.out(scores, -1, False, out=shares)
        return torch.bmm(shares, v, out=out)

    query = Buffer((flat, rows, shape.head_dim), q.dtype)
    cache = Buffer((flat, shape.kv_len, shape.head_dim), q.dtype)
    return Plan((query, cache, cache, scores, scores, query._replace(fill="empty")), attend, UNFUSED)


def _flash_prefill(shape: Shape, device: str) -> Plan:
    flash = importlib.import_module("flash_attn")
    q, cache, _ = _heads(shape)
    swapped = [b._replace(shape=(b.shape[0], b.shape[2], b.shape[1], b.shape[3])) for b in (q, cache, cache)]
    window = (shape.window - 1, 0) if shape.window else (-1, -1)
    return Plan(tuple(swapped), lambda q, k, v: flash.flash_attn_func(q, k, v, causal=True, window_size=window))


def _flash_paged(shape: Shape, device: str) -> Plan:
    import torch

    flash = importlib.import_module("flash_attn")
    pages = -(-shape.kv_len // PAGE_TOKENS)
    t, kv = TORCH_DTYPES[shape.dtype], TORCH_DTYPES[shape.kv_dtype or shape.dtype]
    cache = Buffer((shape.batch * pages, PAGE_TOKENS, shape.heads_kv, shape.head_dim), kv)
    table = torch.randperm(shape.batch * pages, device=device, dtype=torch.int32).view(shape.batch, pages)
    lengths = torch.full((shape.batch,), shape.kv_len, dtype=torch.int32, device=device)
    window = (shape.window - 1, 0) if shape.window else (-1, -1)
    return Plan((Buffer((shape.batch, 1, shape.heads_q, shape.head_dim), t), cache, cache),
                lambda q, k, v: flash.flash_attn_with_kvcache(q, k, v, cache_seqlens=lengths, block_table=table, causal=True,
                                                              window_size=window), f"pages of {PAGE_TOKENS} tokens")


def _rowwise(function: Callable[[Any, Shape], Callable[..., object]], reads: int = 1, weights: int = 0, writes: int = 1,
             unfused_on: tuple[str, ...] = ()) -> Callable[[Shape, str], Plan]:
    """Plans of an operator over M rows of N elements: so many matrices in, vectors in, and matrices out."""
    def plan(shape: Shape, device: str) -> Plan:
        import torch

        t = TORCH_DTYPES[shape.dtype]
        matrix, vector = Buffer((shape.M, shape.N), t), Buffer((shape.N,), t)
        return Plan((*[matrix] * reads, *[vector] * weights, *[matrix._replace(fill="empty")] * writes), function(torch, shape),
                    UNFUSED if device in unfused_on else "")
    return plan


def _compiled(plan: Callable[[Shape, str], Plan]) -> Callable[[Shape, str], Plan]:
    """The same plans as one kernel that torch.compile makes."""
    def compiled(shape: Shape, device: str) -> Plan:
        import torch

        torch._dynamo.reset()      # else the ninth shape falls back to eager silently
        made = plan(shape, device)
        return made._replace(call=torch.compile(made.call, dynamic=False), notes="")
    return compiled


def _silu_mul(torch: Any, shape: Shape) -> Callable[..., object]:
    def call(gate: Any, up: Any, out: Any) -> object:
        torch.ops.aten.silu.out(gate, out=out)
        return torch.mul(out, up, out=out)
    return call


def _rope(shape: Shape, device: str) -> Plan:
    """Rotary embedding of M tokens whose heads have N elements together; halves of a head turn by each position's angles."""
    import torch

    head = ROPE_HEAD if shape.N % ROPE_HEAD == 0 else shape.N
    t = TORCH_DTYPES[shape.dtype]
    x, angle = Buffer((shape.M, shape.N // head, 2, head // 2), t), Buffer((shape.M, 1, head // 2), t)

    def turn(x: Any, cos: Any, sin: Any, out: Any) -> None:
        first, second = x.unbind(2)
        torch.mul(first, cos, out=out[:, :, 0])
        out[:, :, 0].addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=out[:, :, 1])
        out[:, :, 1].addcmul_(first, sin)

    return Plan((x, angle, angle, x._replace(fill="empty")), turn, UNFUSED)


def _embedding(shape: Shape, device: str) -> Plan:
    import torch

    t = TORCH_DTYPES[shape.dtype]
    return Plan((Buffer((shape.K, shape.N), t), Buffer((shape.M,), "int64", "index", shape.K), Buffer((shape.M, shape.N), t, "empty")),
                lambda table, tokens, out: torch.index_select(table, 0, tokens, out=out))


def _topk(shape: Shape, device: str) -> Plan:
    import torch

    t = TORCH_DTYPES[shape.dtype]
    return Plan((Buffer((shape.M, shape.N), t), Buffer((shape.M, shape.K), t, "empty"), Buffer((shape.M, shape.K), "int64", "empty")),
                lambda x, values, places: torch.topk(x, shape.K, out=(values, places)))


def _collective(name: str, shares_in: bool, shares_out: bool) -> Callable[[Shape, str], Plan]:
    """Plans of one NCCL call from one process over `tp` devices; `bytes` is the whole message."""
    def plan(shape: Shape, device: str) -> Plan:
        import torch

        elements = shape.bytes // getattr(torch, TORCH_DTYPES[shape.dtype]).itemsize
        share = elements // shape.tp
        sides = [[Buffer((share if shared else elements,), TORCH_DTYPES[shape.dtype], fill, device=i) for i in range(shape.tp)]
                 for shared, fill in ((shares_in, "normal"), (shares_out, "empty"))]
        run = getattr(torch.cuda.nccl, name)
        return Plan((*sides[0], *sides[1]), lambda *both: run(list(both[: shape.tp]), list(both[shape.tp :])))
    return plan


_softmax = _rowwise(lambda torch, s: lambda x, out: torch.ops.aten._softmax.out(x, -1, False, out=out))
_layernorm = _rowwise(lambda torch, s: lambda x, scale, shift: torch.native_layer_norm(x, [s.N], scale, shift, 1e-5), weights=2, writes=0)
_rmsnorm = _rowwise(lambda torch, s: lambda x, scale: torch.rms_norm(x, [s.N], scale), weights=1, writes=0, unfused_on=("cpu",))
_gelu = _rowwise(lambda torch, s: lambda x, out: torch.ops.aten.gelu.out(x, out=out))
_gated = _rowwise(_silu_mul, reads=2, unfused_on=("cpu", "cuda"))
_add = _rowwise(lambda torch, s: lambda x, y, out: torch.add(x, y, out=out), reads=2)
_copy = _rowwise(lambda torch, s: lambda x, out: out.copy_(x))

KERNELS = (
    Kernel("gemm", "aten::mm", FLOATS, _gemm),
    Kernel("gemm", "aten::_scaled_mm", ("fp8",), _gemm_fp8, devices=GPU),
    Kernel("gemm", "aten::_int_mm", ("int8",), _gemm_int8),
    Kernel("bmm", "aten::bmm", FLOATS, _bmm),
    Kernel("attention_prefill", "sdpa", FLOATS, _sdpa),
    Kernel("attention_prefill", "flash2 flash_attn", ("bf16", "fp16"), _flash_prefill, "flash_attn", GPU),
    Kernel("attention_prefill", "unfused bmm softmax bmm", FLOATS, _unfused),
    Kernel("attention_decode", "sdpa", FLOATS, _sdpa),
    Kernel("attention_decode", "split-kv flash_attn paged", ("bf16", "fp16"), _flash_paged, "flash_attn", GPU),
    Kernel("softmax", "aten::_softmax", FLOATS, _softmax),
    Kernel("layernorm", "aten::native_layer_norm", FLOATS, _layernorm),
    Kernel("rmsnorm", "aten::rms_norm", FLOATS, _rmsnorm),
    Kernel("gelu", "aten::gelu", FLOATS, _gelu),
    Kernel("silu_mul", "aten::silu aten::mul", FLOATS, _gated),
    Kernel("silu_mul", "inductor", FLOATS, _compiled(_gated), "triton", GPU),
    Kernel("rope", "aten::mul aten::addcmul", FLOATS, _rope),
    Kernel("rope", "inductor", FLOATS, _compiled(_rope), "triton", GPU),
    Kernel("add", "aten::add", FLOATS, _add),
    Kernel("copy", "aten::copy_", FLOATS, _copy),
    Kernel("embedding", "aten::index_select", FLOATS, _embedding),
    Kernel("topk", "aten::topk", FLOATS, _topk),
    Kernel("allreduce", "nccl", FLOATS, _collective("all_reduce", False, False), devices=GPU),
    Kernel("allgather", "nccl", FLOATS, _collective("all_gather", True, False), devices=GPU),
    Kernel("reducescatter", "nccl", FLOATS, _collective("reduce_scatter", False, True), devices=GPU),
)
"""Every kernel that can be measured: another one is a row here."""
