"""gemvane doctor"""

from __future__ import annotations

import os
import platform
import time
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from gemvane import __version__, output

BASE = ("numpy", "numba", "pandas", "simpy", "pyyaml", "pydantic", "typer", "rich")
EXTRAS = {
    "report": ("HTML reports", ("plotly", "jinja2")),
    "dse": ("gemvane search", ("optuna",)),
    "dask": ("sweeps on a Dask cluster", ("dask", "distributed")),
    "parquet": ("tables as .parquet", ("pyarrow",)),
    "record": ("recording PyTorch and transformers' models", ("torch", "transformers")),
    "onnx": ("recording .onnx files", ("onnx",)),
    "torch": ("measuring kernels on this machine", ("torch",)),
    "calibrate": ("fitting a GPU's numbers to measured kernels", ("scipy",)),
    "pages": ("plots of generated pages", ("matplotlib",)),
    "docs": ("the documentation as a site", ("mkdocs-material", "mkdocstrings", "mkdocstrings-python")),
}
"""Optional extras: what each is for, and its packages."""


def doctor(warm: bool, json: bool) -> None:
    """Report versions, missing extras, caches and, with --warm, how long compiling and a run take."""
    report: dict[str, Any] = {
        "gemvane": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "packages": {name: _version(name) for name in BASE},
        "extras": {extra: {name: _version(name) for name in names} for extra, (_, names) in EXTRAS.items()},
    }
    missing = [name for name, version in report["packages"].items() if version is None]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}. `pip install gemvane` brings them.")
    if warm:
        report["kernels_s"] = _warm()
        report["first_run_s"], report["warm_run_s"] = _timed(), _timed()
    report["numba_cache"] = _numba_cache()
    if json:
        output.show_json(report)
    else:
        _screen(report)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _warm() -> dict[str, float]:
    """Seconds for each file of kernels: those with stated types compile when they are imported, the DRAM controller when it first runs."""
    from gemvane.sim import dram, kernels

    out = {}
    for module in iter_modules(kernels.__path__):
        start = time.perf_counter()
        import_module(f"{kernels.__name__}.{module.name}")
        out[module.name] = round(time.perf_counter() - start, 3)
    start = time.perf_counter()
    dram.replay({name: [0] for name in ("rw", "pc", "bg", "ba", "ro", "co")}, "hbm2-2000-4gb")
    out["dram"] += round(time.perf_counter() - start, 3)
    return out


def _numba_cache() -> dict[str, Any]:
    """Where compiled kernels are kept, how many there are and how large."""
    from numba.core.caching import FunctionCache

    from gemvane.sim.kernels import timeline

    try:
        folder = Path(FunctionCache(timeline.schedule_kernel.py_func).cache_path)
    except RuntimeError:
        return {"folder": None, "kernels": 0, "bytes": 0}
    files = list(folder.glob("*.nbc")) if folder.is_dir() else []
    return {"folder": str(folder), "kernels": len(files), "bytes": sum(file.stat().st_size for file in files)}


def _timed() -> float:
    from gemvane import api

    start = time.perf_counter()
    api.run("gpt2", "neupims", batch=2, prompt=16, output=3)
    return round(time.perf_counter() - start, 3)


def _screen(report: dict[str, Any]) -> None:
    from gemvane.render import facts
    from gemvane.sim.units import show

    rows = [("gemvane", report["gemvane"]), ("python", f"{report['python']} on {report['platform']}, {report['cores']} cores")]
    rows += list(report["packages"].items())
    for extra, packages in report["extras"].items():
        have = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        lacking = ", ".join(name for name, version in packages.items() if not version)
        absent = f"{have + '; ' if have else ''}{lacking} not installed: pip install 'gemvane[{extra}]'"
        rows.append((f"[{extra}]", f"{EXTRAS[extra][0]}: {absent if lacking else have}"))
    cache = report["numba_cache"]
    kept = f"{cache['kernels']} compiled, {show(cache['bytes'], 'B')}" if cache["kernels"] else (
        "empty: the first run compiles, or `gemvane doctor --warm`")
    rows.append(("kernel cache", f"{cache['folder'] or 'nowhere to write: set NUMBA_CACHE_DIR'} ({kept})"))
    if "first_run_s" in report:
        rows.append(("kernels", ", ".join(f"{name} {seconds} s" for name, seconds in report["kernels_s"].items())))
        rows.append(("small run", f"{report['first_run_s']} s the first time, {report['warm_run_s']} s the second"))
    output.show(facts(rows))
