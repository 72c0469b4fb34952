"""gemvane search"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from gemvane import output
from gemvane.sim import space
from gemvane.sweeping.search import FRONT
from gemvane.sweeping.search import search as run
from gemvane.sweeping.sweep import Done

from . import report as page
from .sweep import brief, cores, default_folder, watched

SCHEMA = "gemvane.search/1"


def search(file: Path, jobs: int | None, dask: str | None, out: Path | None, json: bool, report: Path | None = None) -> None:
    """Run the trials that are missing, and show the front."""
    if dask is not None and jobs is not None:
        raise ValueError(f"--dask {dask} --jobs {jobs}: the cluster has workers of its own. Expected one of the two.")
    page.check(report)
    asked = space.read(file)
    folder = out or default_folder(file, "search")
    start = time.monotonic()
    with watched("searching", json) as watch:
        done = run(asked, folder, jobs=jobs or cores(), dask=dask, watch=watch)
    thing = as_dict(asked, done, folder, time.monotonic() - start)
    files = [] if report is None else [page.of_folder(folder, report)]
    if json:
        output.show_json(thing)
        return
    from gemvane.render_sweep import search_screen

    output.show(*search_screen(asked, done, thing), *(f"-> {path}" for path in files))


def as_dict(asked: space.Space, done: Done, folder: Path, seconds: float) -> dict[str, Any]:
    """The JSON object of `gemvane search --json`."""
    assert asked.search is not None
    failed = Counter(row["reason"] for row in done.rows if row["reason"])
    objectives = list(asked.search.objectives)
    best = sorted((row for row in done.rows if row["front"]), key=lambda row: [row[name] for name in objectives])
    return {"schema": SCHEMA, "table": str(done.file), "trials": len(done.rows), "simulated_now": done.simulated,
            "failed": sum(failed.values()), "reasons": dict(failed.most_common(10)),
            "feasible": sum(bool(row["feasible"]) for row in done.rows), "objectives": objectives,
            "front": [brief(asked, row, objectives) | {"file": str(_file(folder, row))} for row in best], "seconds": seconds}


def _file(folder: Path, row: dict[str, Any]) -> Path:
    return next((folder / FRONT).glob(f"*-{row['point']}.yaml"))
