"""gemvane compare"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gemvane import comparison, output
from gemvane.comparison import Cell
from gemvane.sim.hardware import Hardware, load
from gemvane.workloads import catalog
from gemvane.workloads.scenario import Scenario

from .run import written
from .scenario import batches

SCHEMA = "gemvane.compare/1"
PATIENCE_S = 2.0
"""A progress bar appears after this long."""


def compare(model: str, hw: str, batch: str | None, asked: dict[str, Any], json: bool, out: Path | None) -> None:
    """Simulate every cell, write the files of --out, print the table or the JSON."""
    output.check_folder(out)
    spec = catalog.load(model)
    hardware = _devices(hw)
    lengths = asked["prompt"]
    sizes = batches(batch, {"batch": len(lengths)} if isinstance(lengths, tuple) else {})
    asked.pop("batch", None)
    found = comparison.cells(spec, hardware, sizes, **asked)
    cells = list(_watched(found, len(sizes) * len(hardware)))
    if all(cell.result is None for cell in cells):
        reasons = list(dict.fromkeys(cell.reason for cell in cells))
        raise ValueError(reasons[0] if len(reasons) == 1 else "nothing fits.\n" + "\n".join(f"  {reason}" for reason in reasons))
    scenario = Scenario(batch=sizes[0], **asked)
    thing = as_dict(spec.name, scenario, sizes, cells)
    paths: list[Path] = []
    if out is not None:
        with output.staged(out) as folder:
            (folder / "compare.csv").write_text(as_csv(cells), encoding="utf-8")
            (folder / "compare.json").write_text(output.as_json(thing), encoding="utf-8")
        paths = [out / "compare.json", out / "compare.csv"]
    if json:
        output.show_json(thing)
        return
    from gemvane.render_compare import screen

    output.show(*screen(spec, scenario, hardware, cells), *written(paths))


def _devices(hw: str) -> list[Hardware]:
    """The hardware of a comma list."""
    words = [word.strip() for word in hw.split(",")]
    if not all(words):
        raise ValueError(f"--hw {hw!r}: a name is missing. Expected names separated by commas, as in h100-sxm,neupims.")
    return [load(word) for word in words]


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


def as_dict(model: str, scenario: Scenario, sizes: list[int], cells: list[Cell]) -> dict[str, Any]:
    """The JSON object of `gemvane compare --json`."""
    from dataclasses import asdict

    asked = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(scenario).items()}
    return {
        "schema": SCHEMA,
        "model": model,
        "scenario": {**asked, "batch": sizes},
        "cells": [_cell(cell) for cell in cells],
        "winners": {str(size): name for size, name in comparison.winners(cells).items()},
        "lowest_energy": {str(size): name for size, name in comparison.winners(cells, comparison.thrift).items()},
        "crossovers": [{"batch": size, "before": before, "after": after} for size, before, after in comparison.crossovers(cells)],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    if cell.result is None:
        return {"hardware": cell.hardware, "batch": cell.batch, "reason": cell.reason}
    result = cell.result.to_dict()
    del result["ops"]
    return {"batch": cell.batch, **result}


def as_csv(cells: list[Cell]) -> str:
    """One line a cell; bytes, seconds and joules."""
    columns = ("hardware", "batch", "ttft_s", "tpot_s", "latency_s", "throughput_tok_s", "energy_j", "energy_per_token_j",
               "average_power_w", "weights_bytes", "kv_cache_bytes", "capacity_bytes",
               "prefill_bound", "decode_bound", "band_low", "band_high", "reason")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for cell in cells:
        row = _cell(cell)
        if cell.result is not None:
            low, high = row["confidence"]["band"]
            row |= row["memory"] | {"band_low": low, "band_high": high}
            row |= {f"{phase}_bound": next(iter(shares)) for phase, shares in row["bounds"].items()}
        writer.writerow(row)
    return text.getvalue()
