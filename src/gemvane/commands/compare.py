"""gemvane compare"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from gemvane import comparison, output
from gemvane.comparison import Cell
from gemvane.sim import policies
from gemvane.sim.hardware import load
from gemvane.sim.sweep import figures
from gemvane.workloads import catalog, lengths, requests
from gemvane.workloads.spec import ModelSpec

from . import report as page
from . import scenario
from .run import written

SCHEMA = "gemvane.compare/2"
PATIENCE_S = 2.0
"""A progress bar appears after this long."""


class Sizes(NamedTuple):
    """What is varied: keywords of `comparison.cells`."""

    batch: list[int]
    prompt: list[Any]
    output: list[int]


def sizes(batch: str | None, prompt: str, output: str) -> Sizes:
    """The batch sizes and lengths of --batch, --prompt and --output; without --batch, as many requests as a file has, or one."""
    if batch is None and lengths.is_file(prompt):
        batch = str(requests.read(prompt).size)
    return Sizes(scenario.sizes("--batch", batch or "1"), scenario.prompts(prompt), scenario.sizes("--output", output))


def compare(models: str, hw: str, varied: Sizes, wishes: list[str], asked: dict[str, Any], verbose: bool, json: bool, out: Path | None,
            report: Path | None = None) -> None:
    """Simulate every cell, write the files of --out and --report, print the table or the JSON. `wishes` are policies as NAME=VALUE, of
    all hardware."""
    start = time.monotonic()
    output.check_folder(out)
    page.check(report)
    specs = [catalog.load(name) for name in names("MODEL", models)]
    changes = policies.parsed(wishes)
    hardware = [policies.with_policies(load(name), changes) for name in names("--hw", hw)]
    found = comparison.cells(specs, hardware, **varied._asdict(), **asked)
    cells = list(_watched(found, len(specs) * len(hardware) * prod(map(len, varied))))
    if all(cell.result is None for cell in cells):
        reasons = list(dict.fromkeys(cell.reason for cell in cells))
        raise ValueError(reasons[0] if len(reasons) == 1 else "nothing fits.\n" + "\n".join(f"  {reason}" for reason in reasons))
    thing = as_dict(specs, varied, changes, asked, cells)
    paths: list[Path] = []
    if out is not None:
        with output.staged(out) as folder:
            (folder / "compare.csv").write_text(as_csv(cells), encoding="utf-8")
            (folder / "compare.json").write_text(output.as_json(thing), encoding="utf-8")
            page.save_meta(folder, "compare")
        paths = [out / "compare.json", out / "compare.csv"]
    if report is not None:
        paths.append(page.of_comparison(thing, report))
    if json:
        output.show_json(thing)
        return
    from gemvane.render_compare import detail, screen

    more = detail(cells, time.monotonic() - start) if verbose else []
    output.show(*screen(specs, wishes, cells), *more, *written(paths))


def names(what: str, text: str) -> list[str]:
    """The words of a comma list."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ValueError(f"{what} {text!r}: a name is missing. Expected names separated by commas, as in "
                         f"{'h100-sxm,neupims' if what == '--hw' else 'llama3-8b,gpt2'}.")
    return words


def _watched(cells: Iterable[Cell], total: int) -> Iterator[Cell]:
    """The cells; on a terminal, a bar on stderr once they have taken a while."""
    if not sys.stderr.isatty():
        yield from cells
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    start = time.monotonic()
    bar = Progress(TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                   console=Console(stderr=True), transient=True)
    task = bar.add_task("cells", total=total)
    try:
        for cell in cells:
            yield cell
            bar.advance(task)
            if time.monotonic() - start > PATIENCE_S and not bar.live.is_started:
                bar.start()
    finally:
        bar.stop()


def as_dict(specs: Sequence[ModelSpec], varied: Sizes, changes: dict[str, str], asked: dict[str, Any], cells: list[Cell]) -> dict[str, Any]:
    """The JSON object of `gemvane compare --json`."""
    won = {name: comparison.winners(cells, by) for name, by in comparison.RANKED.items()}
    turns = {name: comparison.crossovers(cells, by) for name, by in comparison.RANKED.items()}
    return {
        "schema": SCHEMA,
        "models": [spec.name for spec in specs],
        "scenario": {**asked, "transforms": list(asked["transforms"]), **varied._asdict()},
        "policies": changes,
        "cells": [_cell(cell) for cell in cells],
        "winners": [point._asdict() | {name: best[point] for name, best in won.items()} for point in won["fastest"]],
        "crossovers": [{"of": name, "axis": comparison.axis(cells), **turn.point._asdict(), "before": turn.before, "now": turn.now}
                       for name, found in turns.items() for turn in found],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    where = cell.point._asdict() | {"hardware": cell.hardware}
    if cell.result is None:
        return where | {"reason": cell.reason}
    result = cell.result.to_dict()
    del result["ops"]
    return result | where


def as_csv(cells: list[Cell]) -> str:
    """One line a cell; bytes, seconds and joules."""
    rows = [cell.point._asdict() | {"hardware": cell.hardware, "reason": cell.reason}
            | ({} if cell.result is None else figures(cell.result)) for cell in cells]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
