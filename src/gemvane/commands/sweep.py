"""gemvane sweep"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gemvane import output
from gemvane.sim import space
from gemvane.sim.sweep import front
from gemvane.sweeping.sweep import Done, Watch
from gemvane.sweeping.sweep import sweep as run

from . import report as page

SCHEMA = "gemvane.sweep/1"
PATIENCE_S = 2.0
"""A progress bar appears after this long."""
NOTE_S = 30.0
"""Where nobody watches, a line is written this often."""
TRADE = ("tpot_s", "energy_per_token_j")
"""Of a sweep without objectives, what the front that is shown trades off; ttft_s stands in for tpot_s where only the prefill runs."""


def sweep(file: Path, jobs: int | None, dask: str | None, shard: str | None, out: Path | None, json: bool,
          report: Path | None = None) -> None:
    """Simulate what is not there yet, and show what there is."""
    if dask is not None and jobs is not None:
        raise ValueError(f"--dask {dask} --jobs {jobs}: the cluster has workers of its own. Expected one of the two.")
    part = parse_shard(shard)
    page.check(report)
    asked = space.read(file)
    folder = out or default_folder(file, "sweep")
    start = time.monotonic()
    with watched("sweeping", json) as watch:
        done = run(asked, folder, jobs=jobs or cores(), dask=dask, shard=part, watch=watch)
    thing = as_dict(asked, done, time.monotonic() - start)
    files = [] if report is None else [page.of_folder(folder, report)]
    if json:
        output.show_json(thing)
        return
    from gemvane.render_sweep import sweep_screen

    output.show(*sweep_screen(asked, done, thing), *(f"-> {path}" for path in files))


def as_dict(asked: space.Space, done: Done, seconds: float) -> dict[str, Any]:
    """The JSON object of `gemvane sweep --json`."""
    failed = Counter(row["reason"] for row in done.rows if row["reason"])
    figures = TRADE if any(row["tpot_s"] is not None for row in done.rows) else ("ttft_s", TRADE[1])
    return {"schema": SCHEMA, "table": str(done.file), "points": len(done.rows), "simulated_now": done.simulated,
            "failed": sum(failed.values()), "reasons": dict(failed.most_common(10)), "objectives": list(figures),
            "front": [brief(asked, done.rows[i], figures) for i in front(done.rows, figures)], "seconds": seconds}


def brief(asked: space.Space, row: dict[str, Any], figures: Any) -> dict[str, Any]:
    """What varies, and the figures that count."""
    return {name: row[name] for name in ("point", *asked.axes, *figures)}


def default_folder(file: Path, command: str) -> Path:
    """Where results go unless --out says it."""
    return Path(f"{file.stem}-{command}")


def cores() -> int:
    """Processors that this process may use."""
    import os

    return len(os.sched_getaffinity(0))


def parse_shard(text: str | None) -> tuple[int, int]:
    """(2, 4) of "2/4", (1, 1) of None."""
    if text is None:
        return 1, 1
    part, _, parts = text.partition("/")
    if not (part.isascii() and parts.isascii() and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"--shard {text}: Expected i/n with i from 1 to n, as in 2/4.")
    return int(part), int(parts)


@contextmanager
def watched(what: str, quiet: bool) -> Iterator[Watch]:
    """Shows how far it is, how fast, and how long it will take: a bar on a terminal, elsewhere a line now and then."""
    start, noted, first = time.monotonic(), time.monotonic(), -1
    if not sys.stderr.isatty() or quiet:

        def note(known: int, total: int) -> None:
            nonlocal noted, first
            first, now = known if first < 0 else first, time.monotonic()
            if now - noted > NOTE_S and not quiet:
                noted, rate = now, max(known - first, 1) / (now - start)
                output.note(f"{what}: {known} of {total} points, {rate:.3g} a second, {(total - known) / rate:.0f} s left")

        yield note
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
                   TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    task = bar.add_task("points", total=None, rate="")

    def move(known: int, total: int) -> None:
        nonlocal first
        first, now = known if first < 0 else first, time.monotonic()
        bar.update(task, completed=known, total=total, rate=f"{max(known - first, 1) / (now - start):.3g}/s")
        if now - start > PATIENCE_S and not bar.live.is_started:
            bar.start()

    try:
        yield move
    finally:
        bar.stop()
