"""Which shapes are measured: named suites, and the shapes of a model."""

from __future__ import annotations

from collections.abc import Iterable

from gemvane.workloads import catalog
from gemvane.workloads.lower import decode_step, prefill
from gemvane.workloads.ops import DTYPES, KINDS, Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import MLA

from .kerneltable import Shape

SERVED = {"llama2-7b": 1, "llama3-8b": 1, "qwen2.5-7b": 1, "qwen3-32b": 1, "mixtral-8x7b": 1, "llama3-70b": 8}
"""Models of the serving suite, and over how many devices their layers are shared out."""
DECODE = tuple((batch, length) for batch in (1, 8, 32, 128) for length in (512, 2048, 8192))
PREFILL = ((1, 128), (1, 512), (1, 2048), (8, 512), (2, 4096))
"""(requests, tokens in the cache or the prompt)."""
SMALL = ((1, 1024), (16, 4096), (64, 1024), (128, 4096), (512, 2048), (1024, 4096))
"""(rows, elements a row) of the quick suite's operators."""
ROWWISE = ("softmax", "layernorm", "rmsnorm", "gelu", "silu_mul", "add", "copy", "rope")
MOST_TOKENS = 1 << 20
"""Cached tokens over a batch beyond which a decode is left out: the cache would not fit beside the operands of other rows."""


def quick(dtype: str) -> list[Shape]:
    """Every operator at a few sizes, GEMMs also in the other number types."""
    gemms = [Shape("gemm", dtype, M=m, N=n, K=k) for m in (1, 16, 128, 512)
             for n, k in ((1024, 1024), (4096, 1024), (1024, 4096), (4096, 4096))]
    others = [Shape("gemm", other, M=m, N=n, K=1024) for other in ("fp32", "fp16", "fp8", "int8") if other != dtype
              for m, n in ((32, 1024), (256, 1024), (256, 2048), (32, 4096))]
    attention = _attention(dtype, ((1, 256), (2, 1024)), ((1, 512), (4, 2048)), ((8, 2, 64), (16, 4, 128), (8, 8, 128)))
    return [*gemms, *others, *_odd_gemms(dtype), *_small_operators(dtype, *SMALL), *attention,
            *_collectives(dtype, (1 << 16, 1 << 24))]


def serving(dtype: str) -> list[Shape]:
    """What the SERVED models compute at the batch sizes of a server, prefill and decode."""
    shapes: dict[Shape, None] = {}
    for model, tp in SERVED.items():
        shapes |= dict.fromkeys(of_model(model, dtype, tp))
    return list(shapes)


def full(dtype: str) -> list[Shape]:
    """quick and serving, and grids: GEMMs over tile edges, attention over head layouts, operators over sizes, every number type."""
    edges = (1, 2, 4, 8, 16, 17, 32, 33, 64, 65, 96, 128, 129, 256, 257, 512, 1024, 2048, 4096, 8192)
    gemms = [Shape("gemm", each, M=m, N=n, K=k) for each in dict.fromkeys((dtype, "fp8", "int8", "fp16"))
             for n in (128, 1024, 4096, 7168, 14336) for k in (128, 1024, 4096, 8192) for m in edges]
    attention = _attention(dtype, [(b, s) for b in (1, 4, 16) for s in (64, 256, 1024, 4096)],
                           [(b, s) for b in (1, 4, 16, 64, 256) for s in (128, 512, 2048, 8192, 32768)],
                           ((32, 32, 128), (32, 8, 128), (64, 8, 128), (8, 1, 128), (16, 16, 64)))
    rows = [shape for m in (1, 16, 256, 4096) for n in (1024, 4096, 16384) for shape in _small_operators(dtype, (m, n))]
    collectives = _collectives(dtype, [1 << i for i in range(10, 31, 2)])
    return list(dict.fromkeys([*quick(dtype), *serving(dtype), *gemms, *attention, *rows, *collectives]))


SUITES = {"quick": quick, "serving": serving, "full": full}


def suite(name: str, dtype: str = "bf16") -> list[Shape]:
    """The shapes of a named suite. ValueError for an unknown name."""
    if name not in SUITES:
        raise ValueError(f"--suite {name!r} is unknown. Expected one of {', '.join(SUITES)}.")
    return SUITES[name](dtype)


def of_model(model: str, dtype: str = "bf16", tp: int = 1) -> list[Shape]:
    """The distinct kernels of a bundled model, or a config.json, at the batch sizes and lengths of the serving suite.

    An expert of a mixture is a GEMM of its own. Operators that no kernel measures are left out.
    """
    spec = catalog.load(model)
    latent = any(isinstance(layer.mixer, MLA) for layer in spec.layers)
    shapes: dict[Shape, None] = {}
    for batch, length in PREFILL:
        scenario = Scenario(batch=batch, prompt=length, output=1, dtype=dtype, tp=tp, phase="prefill")
        shapes |= dict.fromkeys(_shapes(prefill(spec, scenario).rows, latent))
    for batch, length in () if spec.encoder else DECODE:
        if batch * length <= MOST_TOKENS:
            scenario = Scenario(batch=batch, prompt=length, output=2, dtype=dtype, tp=tp)
            shapes |= dict.fromkeys(_shapes(decode_step(spec, scenario).rows, latent))
    return list(shapes)


def _shapes(rows: Rows, latent: bool) -> Iterable[Shape]:
    """Operators as kernels. Multi-head latent attention is left out: its kernels are not those of the other attentions."""
    for i in range(rows.size):
        kind, dtype = KINDS[rows.kind[i]].name, DTYPES[rows.act_dtype[i]]
        m, n, k, batch = (int(column[i]) for column in (rows.m, rows.n, rows.k, rows.batch))
        if kind in ("gemm", "gemv"):
            yield Shape("gemm", dtype, M=m, N=n, K=k)
        elif kind == "grouped_gemm":
            yield Shape("gemm", dtype, M=-(-m // batch), N=n, K=k)
        elif kind == "bmm":
            yield Shape("bmm", dtype, batch=batch, M=m, N=n, K=k)
        elif kind in ("attention_prefill", "attention_decode") and not latent:
            sizes = {name: int(getattr(rows, name)[i]) for name in ("window", "heads_q", "heads_kv", "head_dim", "q_len", "kv_len")}
            yield Shape(kind, dtype, DTYPES[rows.kv_dtype[i]], batch=batch, **sizes)
        elif kind in ROWWISE:
            yield Shape(kind, dtype, M=batch * m, N=n)


def _odd_gemms(dtype: str) -> list[Shape]:
    """Sizes that fill no tile, and products of a batch."""
    return [Shape("gemm", dtype, M=m, N=n, K=k) for m, n, k in ((17, 1000, 1000), (129, 1032, 968))] + [
        Shape("bmm", dtype, batch=b, M=m, N=n, K=k) for b, m, n, k in ((8, 128, 128, 64), (32, 1, 1024, 128), (16, 256, 256, 128))]


def _small_operators(dtype: str, *sizes: tuple[int, int]) -> list[Shape]:
    rows = [Shape(op, dtype, M=m, N=n) for op in ROWWISE for m, n in sizes]
    gathers = [Shape("embedding", dtype, M=m, N=n, K=32768) for m, n in sizes]
    return [*rows, *gathers, *(Shape("topk", dtype, M=m, N=n, K=8) for m, n in sizes)]


def _attention(dtype: str, prompts: Iterable[tuple[int, int]], caches: Iterable[tuple[int, int]],
               layouts: Iterable[tuple[int, int, int]]) -> list[Shape]:
    """Prefill and decode of (batch, length) by (query heads, KV heads, head size)."""
    caches, layouts = list(caches), list(layouts)
    first = [Shape("attention_prefill", dtype, dtype, 0, b, heads_q=q, heads_kv=kv, head_dim=d, q_len=s, kv_len=s)
             for b, s in prompts for q, kv, d in layouts]
    return first + [Shape("attention_decode", dtype, dtype, 0, b, heads_q=q, heads_kv=kv, head_dim=d, q_len=1, kv_len=s)
                    for b, s in caches if b * s <= MOST_TOKENS for q, kv, d in layouts]


def _collectives(dtype: str, sizes: Iterable[int]) -> list[Shape]:
    return [Shape(op, dtype, bytes=size, tp=tp) for op in ("allreduce", "allgather", "reducescatter") for tp in (2, 4, 8) for size in sizes]
