"""Models on hardware over batch sizes and lengths: who wins, and where that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

from gemvane.results import Result
from gemvane.sim import memory
from gemvane.sim.hardware import Hardware
from gemvane.sim.simulate import simulate
from gemvane.sim.units import show
from gemvane.workloads import lower
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.transforms import applied

ORDERED = ("batch", "prompt", "output")
"""Along the first of these that varies, a change of the winner is told."""
Figure = Callable[[Result], float]
"""A figure of a result of which more is better."""


class Point(NamedTuple):
    """What every hardware is asked. `prompt` is a length, or says how lengths are drawn."""

    model: str
    prompt: int | str
    output: int
    batch: int


@dataclass(frozen=True)
class Cell:
    """One hardware at one point: a result, or the reason why there is none (`short` where room is short)."""

    point: Point
    hardware: str
    result: Result | None
    reason: str = ""
    short: str = ""


class Change(NamedTuple):
    """From this point on, along the axis that is told, another hardware wins."""

    point: Point
    before: str
    now: str


def cells(specs: Sequence[ModelSpec], hardware: Sequence[Hardware], *, batch: Sequence[int] = (1,), prompt: Sequence[Any] = (512,),
          output: Sequence[int] = (128,), **scenario: Any) -> Iterator[Cell]:
    """Every hardware at every point, each cell as soon as it is simulated; model by model, in the order of `prompt`, `output`, `batch`.

    A prompt is whatever `Scenario` takes for one. Errors of a scenario are raised before the first cell, those of one device kept in it.
    """
    _different("model", [spec.name for spec in specs])
    _different("hardware", [device.name for device in hardware])
    asked = [(spec, Point(spec.name, told(lengths), tokens, size), Scenario(batch=size, prompt=lengths, output=tokens, **scenario))
             for spec, lengths, tokens, size in product(specs, prompt, output, batch)]
    for spec, _, one in asked:
        lower.check(*applied(spec, one)[:2])
    for (spec, point, one), device in product(asked, hardware):
        try:
            yield Cell(point, device.name, Result(simulate(spec, one, device)))
        except ValueError as error:
            yield Cell(point, device.name, None, str(error), _short(spec, one, device, str(error)))


def _different(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{what} {name!r} is named {names.count(name)} times. Expected different ones, each with its own name.")


def told(prompt: Any) -> int | str:
    """A prompt in a table: 512; sharegpt-like; lognormal:mean=512,sigma=0.7,seed=3; a length a request as 100,20,5."""
    if isinstance(prompt, Mapping):
        (name, said), *options = prompt.items()
        words = [f"{key}={value}" for key, value in (*(said.items() if isinstance(said, Mapping) else ()), *options)]
        return f"{name}:{','.join(words if isinstance(said, Mapping) else [str(said), *words])}"
    if isinstance(prompt, str):
        return prompt
    return ",".join(map(str, prompt)) if hasattr(prompt, "__len__") else int(prompt)


def _short(spec: ModelSpec, scenario: Scenario, device: Hardware, reason: str) -> str:
    """A reason for a cell of a table."""
    spec, scenario, _ = applied(spec, scenario)
    used = memory.use(spec, scenario, device)
    if used.fits:
        return reason
    if used.weights_bytes > used.weights_room_bytes:
        return f"weights need {show(used.weights_bytes, 'B')}, has {show(used.weights_room_bytes, 'B')}"
    need = used.weights_bytes + used.kv_cache_bytes
    if used.kv_cache_bytes <= used.kv_room_bytes:
        return f"a PIM channel needs {show(used.channel_bytes, 'B')}, has {show(used.kv_room_bytes // used.channels, 'B')}"
    if need <= used.capacity_bytes:
        return f"KV cache needs {show(used.kv_cache_bytes, 'B')}, has {show(used.kv_room_bytes, 'B')}"
    return f"needs {show(need, 'B')}, has {show(used.capacity_bytes, 'B')}"


def score(result: Result) -> float:
    """What `compare` ranks by: tokens a second."""
    return result.throughput_tok_s


def thrift(result: Result) -> float:
    """Tokens a joule."""
    return 1 / result.energy_per_token_j


RANKED = {"fastest": score, "least energy": thrift}
"""What is won, and by which figure."""


def varying(cells: Sequence[Cell]) -> list[str]:
    """The fields of the points that have more than one value."""
    return [name for name in Point._fields if len({getattr(cell.point, name) for cell in cells}) > 1]


def fields(cells: Sequence[Cell]) -> list[str]:
    """What a point is told by: all that varies, and the batch."""
    return [name for name in Point._fields if name in (*varying(cells), "batch")]


def axis(cells: Sequence[Cell]) -> str:
    """The field along which changes are told: the first of ORDERED that varies and is a number throughout; else the batch."""
    numbers = [name for name in ORDERED if name in varying(cells) and all(isinstance(getattr(c.point, name), int) for c in cells)]
    return numbers[0] if numbers else "batch"


def winners(cells: Sequence[Cell], by: Figure = score) -> dict[Point, str]:
    """Best hardware of each point, the fastest unless asked otherwise; points that fit nowhere are left out."""
    best: dict[Point, tuple[float, str]] = {}
    for cell in cells:
        if cell.result is None:
            continue
        reached = by(cell.result)
        if cell.point not in best or reached > best[cell.point][0]:
            best[cell.point] = (reached, cell.hardware)
    return {point: hardware for point, (_, hardware) in best.items()}


def lines(cells: Sequence[Cell], by: Figure = score) -> dict[Point, list[tuple[Point, str]]]:
    """The winners along the axis, ascending, for each choice of everything else; by the first point of each line."""
    along = axis(cells)
    found: dict[tuple[Any, ...], list[tuple[Point, str]]] = {}
    for point, hardware in winners(cells, by).items():
        found.setdefault(tuple(value for name, value in point._asdict().items() if name != along), []).append((point, hardware))
    ordered = [sorted(line, key=lambda one: getattr(one[0], along)) for line in found.values()]
    return {line[0][0]: line for line in ordered}


def crossovers(cells: Sequence[Cell], by: Figure = score) -> list[Change]:
    """Wherever the winner changes along the axis."""
    return [Change(point, before, now) for line in lines(cells, by).values()
            for (_, before), (point, now) in pairwise(line) if before != now]
