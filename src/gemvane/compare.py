"""One model on several hardware files over several batch sizes: who wins, and where that changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gemvane.sim.hardware import Hardware
from gemvane.sim.result import Result
from gemvane.sim.simulate import simulate
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec


@dataclass(frozen=True)
class Cell:
    """One hardware at one batch size: a result, or the reason why there is none."""

    hardware: str
    batch: int
    result: Result | None
    reason: str = ""


def sweep(spec: ModelSpec, hardware: Sequence[Hardware], batch: Sequence[int], **scenario: Any) -> list[Cell]:
    """Cells in the order of `batch`, then of `hardware`. Errors of the scenario itself are raised, those of one device kept."""
    cells = []
    for size in batch:
        asked = Scenario(batch=size, **scenario)
        for device in hardware:
            try:
                cells.append(Cell(device.name, size, Result(simulate(spec, asked, device))))
            except ValueError as error:
                cells.append(Cell(device.name, size, None, str(error)))
    return cells


def score(result: Result) -> float:
    """What `compare` ranks by: tokens a second."""
    return result.throughput_tok_s


def winners(cells: Sequence[Cell]) -> dict[int, str]:
    """Fastest hardware of each batch size; batch sizes that fit nowhere are left out."""
    best: dict[int, Cell] = {}
    for cell in cells:
        if cell.result is None:
            continue
        held = best.get(cell.batch)
        if held is None or held.result is None or score(cell.result) > score(held.result):
            best[cell.batch] = cell
    return {batch: cell.hardware for batch, cell in best.items()}


def crossovers(cells: Sequence[Cell]) -> list[tuple[int, str, str]]:
    """(batch, winner before, winner from here on) wherever the winner changes."""
    ordered = sorted(winners(cells).items())
    return [(batch, before, now) for (_, before), (batch, now) in zip(ordered, ordered[1:], strict=False) if before != now]
