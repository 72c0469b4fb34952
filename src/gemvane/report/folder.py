"""A folder of results -> its page, whatever wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gemvane.sim import rerun
from gemvane.sim.result import Result

from .page import Page

FILE = "report.html"
"""What a report is called unless somebody says otherwise."""


def page(folder: Path) -> Page:
    """The page of a folder that run, compare, sweep or search filled. ValueError for any other."""
    file = folder / rerun.META
    if not file.is_file():
        raise ValueError(f"{folder}: has no {rerun.META}. Expected a folder that gemvane run, compare, sweep or search wrote with --out.")
    try:
        meta: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = meta["kind"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: is not what gemvane writes there ({type(error).__name__}: {error}).") from None
    makers = {"run": _run, "compare": _compare, "sweep": _sweep, "search": _sweep}
    if kind not in makers:
        raise ValueError(f"{file}: kind is {kind!r}. Expected one of {', '.join(makers)}.")
    return makers[kind](folder, meta)


def simulated(folder: Path) -> Result:
    """The result of a run's folder, simulated again. ValueError for a folder of anything else."""
    if not (folder / rerun.HARDWARE).is_file():
        raise ValueError(f"{folder}: has no {rerun.HARDWARE}. Expected a folder that `gemvane run --out` wrote.")
    return Result(rerun.again(folder))


def _run(folder: Path, meta: dict[str, Any]) -> Page:
    from .run import changed, page

    result, was = simulated(folder), _json(folder / "result.json")
    return page(result, meta.get("command"), changed(was, result, meta.get("versions", {}).get("gemvane")))


def _compare(folder: Path, meta: dict[str, Any]) -> Page:
    from .compare import page

    return page(_json(folder / "compare.json"), meta.get("command"), meta.get("versions", {}).get("gemvane"))


def _sweep(folder: Path, meta: dict[str, Any]) -> Page:
    from gemvane.sweeping.folder import TABLE, read_table

    from .sweep import page

    table = next((file for file in (folder / f"{TABLE}.parquet", folder / f"{TABLE}.csv") if file.is_file()), None)
    if table is None:
        raise ValueError(f"{folder}: has no table yet. `gemvane {meta['kind']} SPACE --out {folder}` goes on where it stopped.")
    return page(meta, read_table(table), (folder / "space.yaml").read_text(encoding="utf-8"))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(f"{file}: is missing.")
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON ({error}).") from None
    return found
