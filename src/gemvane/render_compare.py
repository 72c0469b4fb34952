"""The screen of `gemvane compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from gemvane.comparison import Cell, crossovers, score, thrift, winners
from gemvane.render import band, bound, dtypes, facts, glued, model_line, number, scenario_line, table, warning_lines
from gemvane.sim.hardware import Hardware
from gemvane.sim.result import Result
from gemvane.sim.units import show
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec

PHASES = ("prefill", "decode")


def screen(spec: ModelSpec, scenario: Scenario, hardware: Sequence[Hardware], cells: Sequence[Cell]) -> list[Any]:
    """Inputs, the table, where the winner changes, how sure."""
    sizes = list(dict.fromkeys(cell.batch for cell in cells))
    batch = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    inputs = facts([("model", model_line(spec, dtypes(scenario))), ("scenario", scenario_line(scenario, spec, batch))])
    return [inputs, "", _table(cells, sizes, spec.encoder), "", *_changes(cells, sizes), *_certainty(cells), *_warnings(cells)]


def _table(cells: Sequence[Cell], sizes: Sequence[int], encoder: bool) -> Table:
    """A line a cell, a block a batch size."""
    phases = [phase for phase in PHASES if any(cell.result is not None and phase in cell.result.run.phases for cell in cells)]
    times = ["latency" if encoder else {"prefill": "TTFT", "decode": "TPOT"}[phase] for phase in phases]
    bounds = ["bound" if encoder else f"{phase} bound" for phase in phases]
    out = table("batch", "hardware", *times, "tokens/s", "J/token", *bounds, "", right=("batch", *times, "tokens/s", "J/token"))
    out.columns[1].no_wrap = True
    for size in sizes:
        block = [cell for cell in cells if cell.batch == size]
        for i, cell in enumerate(block):
            remark = cell.short if cell.result is None else ", ".join(_prizes(cell.result, block))
            style = "bold" if remark.startswith("fastest") else "dim" if cell.result is None else None
            row = [str(size) if i == 0 else "", cell.hardware, *_row(cell, phases), remark]
            out.add_row(*map(glued, row), style=style, end_section=i == len(block) - 1)
    return out


def _prizes(result: Result, block: Sequence[Cell]) -> list[str]:
    """What a result is best at among those of its batch size."""
    others = [cell.result for cell in block if cell.result is not None]
    prizes = []
    for text, by in (("fastest", score), ("least energy", thrift)):
        tied = sum(by(other) == by(result) for other in others) > 1
        if len(others) > 1 and by(result) == max(map(by, others)):
            prizes.append(f"{text} (tie)" if tied else text)
    return prizes


def _row(cell: Cell, phases: Sequence[str]) -> list[str]:
    result = cell.result
    if result is None:
        return ["-"] * (2 * len(phases) + 2)
    times = [_time(result, phase) for phase in phases]
    bounds = [bound(result.bounds(phase), 1) if phase in result.run.phases else "-" for phase in phases]
    return [*times, number(result.throughput_tok_s), number(result.energy_per_token_j), *bounds]


def _time(result: Result, phase: str) -> str:
    seconds = result.ttft_s if phase == "prefill" else result.tpot_s
    return "-" if seconds is None else show(seconds, "s")


def _changes(cells: Sequence[Cell], sizes: Sequence[int]) -> list[str]:
    """Who wins, and from which batch size on somebody else does."""
    if len(sizes) == 1 or len({cell.hardware for cell in cells}) == 1:
        return []
    lines = []
    for what, by in (("fastest", score), ("least energy", thrift)):
        won, changed = winners(cells, by), crossovers(cells, by)
        first = min(won)
        line = f"{what}: {won[first]}"
        line += "".join(f"; from batch {batch} on: {now} instead of {before}" for batch, before, now in changed)
        lines.append(line if changed else f"{line} at every batch size" + ("" if len(won) == len(sizes) else " that fits anywhere"))
    return lines


def _certainty(cells: Sequence[Cell]) -> list[str]:
    """The band of each hardware, of its first result."""
    seen: dict[str, str] = {}
    for cell in cells:
        if cell.result is not None:
            sure = cell.result.confidence
            seen.setdefault(cell.hardware, f"  {cell.hardware}: time {band(sure.band)}, energy {band(sure.energy_band)}")
    labels = sorted({cell.result.confidence.label for cell in cells if cell.result is not None})
    return [f"uncertainty ({', '.join(labels)}): 80 % of real figures lie within", *seen.values()]


def _warnings(cells: Sequence[Cell]) -> list[Any]:
    """Each warning once, with the hardware and batch sizes that it is about where there are several."""
    about: dict[str, list[int]] = {}
    for cell in cells:
        for text in cell.result.warnings if cell.result is not None else ():
            about.setdefault(text, []).append(cell.batch)
    return warning_lines(about)
