"""One model on several hardware files over several batch sizes: who wins, and where that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gemvane.sim import memory
from gemvane.sim.hardware import Hardware
from gemvane.sim.result import Result
from gemvane.sim.simulate import simulate
from gemvane.sim.units import show
from gemvane.workloads import lower
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec


@dataclass(frozen=True)
class Cell:
    """One hardware at one batch size: a result, or the reason why there is none (`short` where room is short)."""

    hardware: str
    batch: int
    result: Result | None
    reason: str = ""
    short: str = ""


def sweep(spec: ModelSpec, hardware: Sequence[Hardware], batch: Sequence[int], **scenario: Any) -> list[Cell]:
    """Cells in the order of `batch`, then of `hardware`. Errors of the scenario itself are raised, those of one device kept."""
    return list(cells(spec, hardware, batch, **scenario))


def cells(spec: ModelSpec, hardware: Sequence[Hardware], batch: Sequence[int], **scenario: Any) -> Iterator[Cell]:
    """The cells of `sweep` one by one, each as soon as it is simulated."""
    names = [device.name for device in hardware]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"hardware {name!r} is named {names.count(name)} times. Expected different ones, each with its own name.")
    asked = [Scenario(batch=size, **scenario) for size in batch]
    for one in asked:
        lower.check(spec, one)
    for one in asked:
        for device in hardware:
            try:
                yield Cell(device.name, one.batch, Result(simulate(spec, one, device)))
            except ValueError as error:
                yield Cell(device.name, one.batch, None, str(error), _short(spec, one, device, str(error)))


def _short(spec: ModelSpec, scenario: Scenario, device: Hardware, reason: str) -> str:
    """A reason for a cell of a table."""
    used = memory.use(spec, scenario, device)
    if used.fits:
        return reason
    if used.weights_bytes > used.weights_room_bytes:
        return f"weights need {show(used.weights_bytes, 'B')}, has {show(used.weights_room_bytes, 'B')}"
    need = used.weights_bytes + used.kv_cache_bytes
    if need <= used.capacity_bytes:
        return f"KV cache needs {show(used.kv_cache_bytes, 'B')}, has {show(used.kv_room_bytes, 'B')}"
    return f"needs {show(need, 'B')}, has {show(used.capacity_bytes, 'B')}"


def score(result: Result) -> float:
    """What `compare` ranks by: tokens a second."""
    return result.throughput_tok_s


def thrift(result: Result) -> float:
    """Tokens a joule."""
    return 1 / result.energy_per_token_j


def winners(cells: Sequence[Cell], by: Callable[[Result], float] = score) -> dict[int, str]:
    """Best hardware of each batch size, the fastest unless asked otherwise; batch sizes that fit nowhere are left out."""
    best: dict[int, tuple[float, str]] = {}
    for cell in cells:
        if cell.result is None:
            continue
        reached = by(cell.result)
        if cell.batch not in best or reached > best[cell.batch][0]:
            best[cell.batch] = (reached, cell.hardware)
    return {batch: hardware for batch, (_, hardware) in best.items()}


def crossovers(cells: Sequence[Cell], by: Callable[[Result], float] = score) -> list[tuple[int, str, str]]:
    """(batch, winner before, winner from here on) wherever the winner changes."""
    ordered = sorted(winners(cells, by).items())
    return [(batch, before, now) for (_, before), (batch, now) in pairwise(ordered) if before != now]
