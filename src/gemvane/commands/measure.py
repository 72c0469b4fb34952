"""gemvane validate measure, gemvane validate machine"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gemvane import output
from gemvane.validate import machine, suites
from gemvane.validate import measure as measuring


def measure(device: str, suite: str | None, model: str | None, dtype: str, file: Path, seconds: float, window_s: float,
            threads: int | None, hw: str | None, json: bool) -> None:
    """Run real kernels and write how long they took."""
    _check(suite, model, seconds, window_s, threads)
    measuring.check_output(file)
    shapes = suites.of_model(model, dtype) if model else suites.suite(suite or "quick", dtype)
    found = measuring.find_device(device, threads, hw)
    report = measuring.measure(shapes, file, found, seconds=seconds, window_s=window_s, watch=_watched)
    if json:
        output.show_json({"table": str(file), "rows": report.measured + report.kept, "measured": report.measured, "kept": report.kept,
                          "flagged": report.flagged, "skipped": report.skipped, "machine": found.record})
    else:
        _screen(report, found, file)


def _check(suite: str | None, model: str | None, seconds: float, window_s: float, threads: int | None) -> None:
    if suite and model:
        raise ValueError("--suite and --model exclude each other: each of them says which shapes are measured.")
    if not 0 < seconds < 3600:
        raise ValueError(f"--seconds-per-row {seconds:g}: Expected more than 0 and less than 3600.")
    if window_s != 0 and not measuring.LEAST_WINDOW_S <= window_s < 3600:
        raise ValueError(f"--energy-window {window_s:g}: Expected at least {measuring.LEAST_WINDOW_S:g} seconds, since power meters "
                         "average over a second; or 0 for no energy.")
    if threads is not None and threads < 1:
        raise ValueError(f"--threads {threads}: Expected at least 1.")


def _watched(jobs: list[Any]) -> Iterable[Any]:
    """The rows; on a terminal, with a bar on stderr."""
    if not sys.stderr.isatty():
        return jobs
    from rich.console import Console
    from rich.progress import track

    return track(jobs, "measuring", console=Console(stderr=True), transient=True)


def _screen(report: measuring.Report, device: measuring.Device, file: Path) -> None:
    from gemvane.render import facts, glued, plural

    rows = plural(report.measured, "row")
    kept = f", {report.kept} kept from before" if report.kept else ""
    flagged = f"{plural(report.flagged, 'row')}: faster than the roofline, or spread wide; `notes` says which" if report.flagged else "none"
    reasons = Counter(skip["reason"] for skip in report.skipped)
    lost = [("skipped" if i == 0 else "", f"{plural(count, 'row')}: {reason}") for i, (reason, count) in enumerate(reasons.most_common())]
    lines = [("device", device.name), ("measured", rows + kept), ("flagged", flagged), *lost, ("energy", device.record["energy"])]
    output.show(facts(lines), "", glued(f"-> {file} and its machine record"))


def show_machine(file: Path | None, name: str | None, threads: int | None, json: bool) -> None:
    """What this machine's CPU is; with a file, as hardware of its own."""
    if threads is not None and threads < 1:
        raise ValueError(f"--threads {threads}: Expected at least 1.")
    if file is not None:
        output.check_file(file)
        if file.exists():
            raise ValueError(f"{file} is there already and is not overwritten. Remove it, or name another with -o.")
    record = machine.cpu_record(threads or machine.this_cpu().cores)
    if file is not None:
        chosen = name or machine.slug(file.stem)
        machine.cpu_hardware(record, chosen)
        file.write_text(machine.cpu_file(record, chosen), encoding="utf-8")
    if json:
        output.show_json(record)
        return
    from gemvane.render import facts, glued
    from gemvane.sim.units import show

    caches = ", ".join(f"{level.upper()} {size >> 10} KiB" for level, size in record["cache_bytes"].items())
    lines = [("CPU", record["name"]), ("cores", f"{record['cores']}, of which {record['threads']} used"), ("caches", caches or "not told"),
             ("clock", f"{show(record['clock_hz'], 'Hz')}, measured on one core"),
             ("memory", f"{show(record['memory_bytes'], 'B')}, copied at {show(record['copy_bytes_s'], 'B/s')}")]
    wrote = [] if file is None else ["", glued(f"-> {file}: `gemvane hw show {file}` says what is a guess")]
    output.show(facts(lines), *wrote)
