"""gemvane doctor"""

from __future__ import annotations

import platform
import time
from importlib import metadata
from typing import Any

from gemvane import __version__, output

BASE = ("numpy", "numba", "pandas", "simpy", "pyyaml", "pydantic", "typer", "rich")
EXTRAS = {"torch": ("torch",), "report": ("plotly", "jinja2"), "dse": ("optuna",), "dask": ("dask", "distributed"),
          "calibrate": ("scipy",), "parquet": ("pyarrow",)}


def doctor(warm: bool, json: bool) -> None:
    """Report versions, missing extras and, with --warm, how long compiling and a run take."""
    report: dict[str, Any] = {
        "gemvane": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in BASE},
        "extras": {extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()},
        "numba_cache": _numba_cache(),
    }
    if warm:
        report["first_run_s"], report["warm_run_s"] = _timed(), _timed()
    missing = [name for name, version in report["packages"].items() if version is None]
    if missing:
        raise ValueError(f"not installed: {', '.join(missing)}. `pip install gemvane` brings them.")
    if json:
        output.show_json(report)
    else:
        _screen(report)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numba_cache() -> dict[str, Any]:
    """Where compiled kernels are kept, and how many there are."""
    from pathlib import Path

    from numba.core.caching import FunctionCache

    from gemvane.sim.kernels import timeline

    try:
        folder = Path(FunctionCache(timeline.schedule_kernel.py_func).cache_path)
    except RuntimeError:
        return {"folder": None, "kernels": 0}
    return {"folder": str(folder), "kernels": len(list(folder.glob("*.nbc"))) if folder.is_dir() else 0}


def _timed() -> float:
    from gemvane import api

    start = time.perf_counter()
    api.run("gpt2", "neupims", batch=2, prompt=16, output=3)
    return round(time.perf_counter() - start, 3)


def _screen(report: dict[str, Any]) -> None:
    from gemvane.render import facts

    rows = [("gemvane", report["gemvane"]), ("python", f"{report['python']} on {report['platform']}")]
    rows += list(report["packages"].items())
    for extra, packages in report["extras"].items():
        have = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
        lacking = [name for name, version in packages.items() if not version]
        rows.append((f"[{extra}]", have if not lacking else f"{have + '; ' if have else ''}{', '.join(lacking)} not installed: "
                                                            f"pip install 'gemvane[{extra}]'"))
    cache = report["numba_cache"]
    if cache["folder"] is None:
        cache = {"folder": "nowhere to write: set NUMBA_CACHE_DIR", "kernels": 0}
    state = f"{cache['kernels']} compiled" if cache["kernels"] else "empty: the first run compiles, or `gemvane doctor --warm`"
    rows.append(("kernel cache", f"{cache['folder']} ({state})"))
    if "first_run_s" in report:
        rows.append(("small run", f"{report['first_run_s']} s the first time, {report['warm_run_s']} s the second"))
    output.show(facts(rows))
