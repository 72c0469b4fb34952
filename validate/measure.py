"""Measured kernels: shapes in, a kernel table with the record of this machine out. Goes on where a table was left."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gemvane.sim import hardware
from gemvane.sim.hardware import Hardware
from gemvane.workloads.kernels import KERNEL_KINDS, rows_from_table

from . import kerneltable, machine, meters, tables, timing
from .kernels import Kernel, kernels_for
from .kerneltable import COLUMNS, MEASURED, Shape

if TYPE_CHECKING:
    import pandas as pd

GPU_FILES = {"H200": "h200", "H100 80GB HBM3": "h100-sxm", "H100 PCIe": "h100-pcie", "A100-SXM4-80GB": "a100-80g",
             "A100-SXM4-40GB": "a100-40g", "B200": "b200", "L40S": "l40s", "L4": "l4", "RTX 4090": "rtx4090", "T4": "t4",
             "V100": "v100", "MI300X": "mi300x"}
"""Part of the name that the driver gives a GPU -> hardware file, for the roofline of its rows."""
WIDE_SPREAD = 0.1
"""Distance between the quartiles over the median above which a row is flagged."""
SAVE_S = 5.0
LEAST_WINDOW_S = 2.0
"""The shortest window for energy: counters move every 20 to 100 ms and meters average over a second."""


@dataclass(frozen=True)
class Device:
    """What is measured: "cpu" or "cuda", its name, its record, and how to read its energy and clocks."""

    kind: str
    name: str
    record: dict[str, Any]
    cache_bytes: int
    count: int
    meter: meters.Meter | None
    hardware: Hardware | None
    """For the rooflines; None where there is no file for this device."""


@dataclass
class Report:
    """What came of a measurement: rows measured now, rows kept from before, shapes left out with the reason, rows flagged."""

    measured: int = 0
    kept: int = 0
    flagged: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)


class Job(NamedTuple):
    shape: Shape
    kernel: Kernel
    launch: str


def find_device(kind: str, threads: int | None = None, hw: str | None = None) -> Device:
    """The device to measure: "cpu", "cuda", or "auto", which is a GPU where there is one.

    Raises ValueError without torch, without a GPU for "cuda", or for an unknown kind.
    """
    if kind not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {kind!r} is unknown. Expected auto, cpu or cuda.")
    try:
        import torch
    except ImportError:
        raise ValueError("measuring runs kernels in torch, which is not installed: pip install 'gemvane[torch]'.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA GPU on this machine. Use --device cpu, or a torch built for the GPU.")
    if kind == "cpu" or not torch.cuda.is_available():
        return _cpu(threads, hw)
    return _gpu(hw)


def _cpu(threads: int | None, hw: str | None) -> Device:
    import torch

    threads = threads or machine.this_cpu().cores
    torch.set_num_threads(threads)
    record = machine.cpu_record(threads) | {"torch": torch.__version__, "vector_isa": torch.backends.cpu.get_cpu_capability()}
    name = f"{record['name']} ({threads} {'core' if threads == 1 else 'cores'})"
    meter = meters.cpu_meter()
    record["energy"] = meter.name if meter else "not readable"
    cache = machine.last_level_bytes(machine.this_cpu())
    own = hardware.load(hw) if hw else machine.cpu_hardware(record, machine.slug(name))
    return Device("cpu", name, record, cache, 1, meter, own)


def _gpu(hw: str | None) -> Device:
    import torch

    facts = torch.cuda.get_device_properties(0)
    uuid = f"GPU-{facts.uuid}"
    meter = meters.gpu_meter(uuid)
    file = hw or next((file for part, file in GPU_FILES.items() if part in facts.name), None)
    record = {
        "device": "cuda", "name": facts.name, "devices": torch.cuda.device_count(), "num_sms": facts.multi_processor_count,
        "l2_bytes": facts.L2_cache_size, "memory_bytes": facts.total_memory, "capability": f"{facts.major}.{facts.minor}",
        **meters.told(uuid), "torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "energy": meter.name if meter else "not readable", "host": machine.this_cpu().model,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return Device("cuda", facts.name, record, facts.L2_cache_size, torch.cuda.device_count(), meter, hardware.load(file) if file else None)


def jobs(shapes: Iterable[Shape], device: Device) -> Iterator[Job]:
    """Every kernel of every shape that this device has, eager and, on a GPU, in a CUDA graph."""
    for shape in shapes:
        for kernel in kernels_for(shape, device.kind, device.count):
            for launch in ("eager",) if device.kind == "cpu" or shape.tp else ("eager", "graph"):
                yield Job(shape, kernel, launch)


def measure(shapes: list[Shape], path: Path, device: Device, *, seconds: float = 0.3, window_s: float = LEAST_WINDOW_S,
            watch: Callable[[list[Job]], Iterable[Job]] = iter) -> Report:
    """Measure every shape into the table at `path`; rows that are there already stay and are not measured again.

    `seconds` are spent on the times of a row, `window_s` on its energy where that can be read (0: not at all). The file is
    replaced whole every few seconds and at the end, so that a killed run loses little.
    Raises ValueError for a table of another device, or where nothing can be measured.
    """
    rows = _kept(path, device)
    report = Report(kept=len(rows))
    done = {_identity(row) for row in rows}
    todo = [job for job in jobs(shapes, device) if _key(job, device) not in done]
    if not todo and not rows:
        raise ValueError(f"{path}: {device.name} has no kernel for any of the {len(shapes)} shapes.")
    record = device.record | {"schema": "gemvane.machine/1", "data": "normal random numbers", "seconds_per_row": seconds,
                              "energy_window_s": window_s if device.meter else 0, "cache_bytes_rotated_over": 2 * device.cache_bytes,
                              "roofline": device.hardware.name if device.hardware else "none",
                              "measured": time.strftime("%Y-%m-%d", time.gmtime())}
    arena, saved = timing.Arena(device.kind, device.cache_bytes), time.perf_counter()
    try:
        for job in watch(todo):
            try:
                rows.append(_row(job, device, arena, seconds, window_s))
            except (RuntimeError, ValueError, NotImplementedError) as error:
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                report.skipped.append({"row": _title(job), "reason": reason})
            if time.perf_counter() - saved > SAVE_S:
                _save(rows, path, record, device.hardware)
                saved = time.perf_counter()
    finally:
        if rows:
            table = _save(rows, path, record, device.hardware)
            report.flagged = int(table["notes"].str.contains("roofline|spread", regex=True).sum())
    report.measured = len(rows) - report.kept
    if not rows:
        raise ValueError(f"{path}: no row could be measured; the first: {report.skipped[0]['row']}: {report.skipped[0]['reason']}")
    return report


def _kept(path: Path, device: Device) -> list[dict[str, Any]]:
    """The rows of the table that is there."""
    if not path.exists():
        return []
    table = kerneltable.read(path)
    others = table.loc[table["gpu"] != device.name, "gpu"]
    if len(others):
        raise ValueError(f"{path}: holds rows of {others.iloc[0]!r} and this machine has {device.name!r}. Name another file with -o.")
    lacking = [column for column in (*COLUMNS, *MEASURED) if column not in table]
    if lacking:
        raise ValueError(f"{path}: column {lacking[0]!r} is missing, so it is no table of `validate measure`. Name another file with -o.")
    text = ["gpu", "op", "dtype", "kv_dtype", "framework", "kernel", "notes", "source_repo", "source_path", "licence", "launch"]
    cells = table.astype(object)
    cells[text] = cells[text].where(cells[text].notna(), "")
    rows: list[dict[str, Any]] = cells.to_dict("records")  # type: ignore[assignment]
    return rows


def _framework(device: Device) -> str:
    return f"torch {device.record['torch']}"


def _key(job: Job, device: Device) -> tuple[Any, ...]:
    return (*job.shape, _framework(device), job.kernel.name, job.launch)


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row measured: its shape (an empty cell is 0), launch condition and kernel."""
    cells = [row[column] for column in Shape._fields]
    sizes = [cell if isinstance(cell, str) else 0 if cell is None or np.isnan(cell) else int(cell) for cell in cells]
    return (*sizes, row["framework"], row["kernel"], row["launch"])


def _title(job: Job) -> str:
    sizes = ", ".join(f"{name} {value}" for name, value in job.shape._asdict().items() if value and name not in ("op", "dtype", "kv_dtype"))
    return f"{job.shape.op} {job.shape.dtype} {sizes} ({job.kernel.name}, {job.launch})"


def _row(job: Job, device: Device, arena: timing.Arena, seconds: float, window_s: float) -> dict[str, Any]:
    """One measured row."""
    plan = job.kernel.plan(job.shape, device.kind)
    sets = arena.sets(plan)
    loop = timing.Loop(plan, sets, device.kind)
    call_s = loop.warm()
    if job.launch == "graph":
        loop.capture(call_s)
    median, spread = timing.middle(timing.samples_us(loop, call_s, seconds))
    state = device.meter.state() if device.meter else {}
    energy_uj = power_w = None
    if device.meter and window_s:
        joules, power_w = timing.energy_j(loop, median / 1e6, window_s, device.meter.joules)
        energy_uj = joules * 1e6
    return {"gpu": device.name, **job.shape._asdict(), "latency_us": median, "power_w": power_w, "weight_copies": len(sets),
            "framework": _framework(device), "kernel": job.kernel.name, "notes": plan.notes, "source_repo": "gemvane validate measure",
            "source_path": "", "licence": "Apache-2.0",
            **dict.fromkeys(MEASURED), "launch": job.launch, "iqr_us": spread, "energy_uj": energy_uj, **state}


def _save(rows: list[dict[str, Any]], path: Path, record: dict[str, Any], own: Hardware | None) -> pd.DataFrame:
    """The table with its flags, written whole."""
    import pandas as pd

    table = pd.DataFrame(rows, columns=[*COLUMNS, *MEASURED])
    sizes = [name for name in Shape._fields if name not in ("op", "dtype", "kv_dtype")]
    table[sizes] = table[sizes].astype("Int64").mask(table[sizes].astype("Int64") == 0)
    table["notes"] = flags(table, own)
    kerneltable.write(table, path, record)
    return table


def flags(table: pd.DataFrame, own: Hardware | None) -> list[str]:
    """The notes of each row with its flags made anew: faster than the roofline of its hardware, a wide spread."""
    notes = [[note for note in str(text).split("; ") if note and not note.startswith(("faster than", "spread"))] for text in table["notes"]]
    latency = table["latency_us"].to_numpy(np.float64)
    if own is not None:
        where = np.flatnonzero(table["op"].isin(list(KERNEL_KINDS)) & ~table["op"].isin(list(tables.COLLECTIVES)))
        least = tables.roofline_us(rows_from_table(table.iloc[where]), own)
        for i, bound in zip(where.tolist(), least.tolist(), strict=True):
            if latency[i] < bound:
                notes[i].append(f"faster than the roofline of {own.name}, {bound:.3g} us")
    for i, spread in enumerate((table["iqr_us"].to_numpy(np.float64) / latency).tolist()):
        if spread > WIDE_SPREAD:
            notes[i].append(f"spread {100 * spread:.0f} %")
    return ["; ".join(parts) for parts in notes]


def check_output(path: Path) -> None:
    """ValueError where a table cannot be written at `path`."""
    kerneltable.check_name(path)
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"-o {path}: there is no folder {folder}.")
    if path.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"-o {path}: cannot be written.")
