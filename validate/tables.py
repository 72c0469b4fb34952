"""Measured kernel tables: the rows of one GPU, their rooflines, regimes and halves, and what is wrong with them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gemvane.sim.hardware import Hardware
from gemvane.sim.schema import Gpu
from gemvane.workloads.kernels import EMPTY, KERNEL_KINDS
from gemvane.workloads.ops import DTYPES, WORK, Rows

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

HARDWARE = {"A100-SXM4-80GB": "a100-80g", "H100-SXM": "h100-sxm", "H200-SXM": "h200", "A100-PCIE-40GB": "a100-40g", "L40S": "l40s",
            "B200": "b200", "V100-PCIE-32GB": "v100", "T4": "t4", "L4": "l4", "MI300X": "mi300x", "H100-PCIE": "h100-pcie"}
"""`gpu` of a kernel table -> hardware file."""
NEEDED = ("op", "dtype", "latency_us")
COLLECTIVES = ("allreduce", "allgather", "reducescatter", "alltoall")
"""A vendor's collective is a library's algorithm over a machine's links, not a kernel of one device."""
FAR_OFF = 10.0
"""Times above or below its roofline at which a table's unit must be wrong."""
HEAD_COLUMNS = ("heads_q", "heads_kv")
"""What keeps attentions in one half: every width, window and type is in both."""
REGIMES = ("m<=16", "m<=256", "larger")


def rows_of(table: pd.DataFrame, hardware: Hardware, *, what: str = "table") -> pd.DataFrame:
    """The kernels of a table that `hardware` can be held against, with a fresh index.

    Of several GPUs, those rows whose `gpu` is this hardware's. ValueError for a missing column, a latency that is no
    positive number, no row left, or latencies ten times off the roofline.
    """
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise ValueError(f"{what}: column {missing[0]!r} is missing. It has {', '.join(map(str, table.columns))}.")
    if "gpu" in table and table["gpu"].nunique() > 1:
        named = table["gpu"].astype(str)
        table = table[(named.map(HARDWARE).fillna(named) == hardware.name).to_numpy()]
        if table.empty:
            raise ValueError(f"{what}: has rows of {', '.join(sorted(set(named)))}, none of {hardware.name}.")
    known = table["op"].isin(list(KERNEL_KINDS)) & ~table["op"].isin(list(COLLECTIVES))
    rows = table[known.to_numpy()].reset_index(drop=True)
    if rows.empty:
        raise ValueError(f"{what}: no row is a kernel of one device. Expected op to be one of {', '.join(KERNEL_KINDS)}.")
    latency = rows["latency_us"].to_numpy(np.float64)
    bad = np.flatnonzero(~((latency > 0) & np.isfinite(latency)))
    if bad.size:
        raise ValueError(f"{what}: row {int(bad[0])}: latency_us is {latency[bad[0]]:g}. Expected a number above zero.")
    return rows


def check_units(latency_us: Floats, rows: Rows, hardware: Hardware, what: str = "table") -> None:
    """ValueError where the middle row is ten times faster than its roofline, or slower where the roofline is what counts."""
    roofline = roofline_us(rows, hardware)
    long = roofline > 20 if (roofline > 20).sum() >= 10 else np.ones(roofline.size, bool)
    ratio = float(np.median(latency_us[long] / roofline[long]))
    if ratio < 1 / FAR_OFF or (ratio > FAR_OFF and (roofline > 20).sum() >= 10):
        raise ValueError(f"{what}: the middle row takes {ratio:.2g} times its roofline on {hardware.name}. Expected between "
                         f"{1 / FAR_OFF:g} and {FAR_OFF:g}: is latency_us in microseconds?")


def roofline_us(rows: Rows, hardware: Hardware) -> Floats:
    """max(arithmetic at the peak, every operand once at the nominal bandwidth)."""
    arithmetic = np.zeros(rows.size)
    unit = next((u for u in hardware.spec.units.values() if isinstance(u, Gpu)), None)
    peaks = getattr(unit or next(iter(hardware.spec.units.values())), "tensor_peak" if unit else "peak", {})
    for code in np.unique(rows.act_dtype).tolist():
        peak = peaks.get(DTYPES[code]) or max(peaks.values())
        arithmetic = np.where(rows.act_dtype == code, 2 * rows.macs / peak, arithmetic)
    bound: Floats = np.maximum(arithmetic, rows.memory_bytes / hardware.spec.memory.bandwidth) * 1e6
    return np.maximum(bound, 1e-6)


def memory_bound(rows: Rows, hardware: Hardware) -> Mask:
    """Rows whose roofline is the memory's."""
    return np.asarray(rows.memory_bytes / hardware.spec.memory.bandwidth * 1e6 >= roofline_us(rows, hardware) * (1 - 1e-12))


def regime(rows: Rows) -> NDArray[np.int64]:
    """Index into REGIMES: rows of a matmul, queries of an attention, rows of a vector operator."""
    return np.searchsorted([16, 256], rows.m).astype(np.int64)


def band_key(rows: Rows) -> NDArray[Any]:
    """Key of each row's band: its class of work, and for matmuls the regime."""
    work = np.array(WORK, object)[rows.work]
    return np.where(rows.work == 0, work + "-" + np.array(REGIMES, object)[regime(rows)], work).astype(str)


def half(table: pd.DataFrame, salt: str = "half") -> NDArray[np.int64]:
    """0 for rows to fit, 1 for rows held out: by (N, K) of a matmul, by heads of an attention, by size else.

    Another `salt` is another split.
    """
    cells = {column: _text(table, column) for column in (*HEAD_COLUMNS, "M", "N", "K")}
    attention = np.char.startswith(np.asarray(table["op"]).astype(str), "attention")
    plain = [f"{n}x{k}" if k else f"{m}x{n}" for m, n, k in zip(cells["M"], cells["N"], cells["K"], strict=True)]
    heads = ["x".join(parts) for parts in zip(*(cells[c] for c in HEAD_COLUMNS), strict=True)]
    keys = np.where(attention, heads, plain)
    distinct, inverse = np.unique(keys, return_inverse=True)
    # Not a CRC: its lowest bit under a salt follows from that without one, by which public tables may be split already.
    bits = [hashlib.blake2b(f"{salt}:{key}".encode(), digest_size=1).digest()[0] % 2 for key in distinct.tolist()]
    return np.array(bits, np.int64)[inverse.reshape(-1)]


def _text(table: pd.DataFrame, column: str) -> list[str]:
    """Cells as text that does not depend on how a file stored them: whole numbers without a point, empty cells as ""."""
    if column not in table:
        return [""] * len(table)
    distinct, inverse = np.unique(np.asarray(table[column]).astype(str), return_inverse=True)
    texts = np.array(["" if text in EMPTY else text.removesuffix(".0") for text in distinct.tolist()], object)
    out: list[str] = texts[inverse.reshape(-1)].tolist()
    return out
