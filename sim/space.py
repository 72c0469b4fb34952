"""A design space: a YAML file that says what varies, what follows from it and what is left out -> the points to simulate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from gemvane.workloads import catalog, transforms
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec

from .axes import axis_values
from .formula import Formula, in_unit_of
from .hardware import Hardware, load, nearest
from .quantity import Count, Strict
from .redesign import check_key, check_value, stated
from .yamlcheck import validated
from .yamltree import Tree, read_tree

METRICS = {"ttft_s": "minimize", "tpot_s": "minimize", "latency_s": "minimize", "throughput_tok_s": "maximize", "energy_j": "minimize",
           "energy_per_token_j": "minimize", "average_power_w": "minimize", "area_mm2": "minimize", "memory_bytes": "minimize"}  # fmt: skip
"""Figures of a point, and which way is better."""
NAMED = ("model", "hardware")
SCENARIO = tuple(f.name for f in fields(Scenario))
MOST_POINTS = 10_000_000
MOST_TRIES = 50
"""Random points are drawn at most this often for each point that is wanted: constraints may leave few."""


class Sample(Strict):
    """Which points of the space are simulated."""

    kind: Literal["grid", "random", "latin-hypercube"] = "grid"
    points: Count | None = None
    seed: int = Field(default=0, ge=0)


class Search(Strict):
    """What `gemvane search` looks for."""

    objectives: list[Literal[tuple(METRICS)]] = Field(min_length=1)  # type: ignore[valid-type]
    limits: dict[Literal[tuple(METRICS)], float | str] = Field(default_factory=dict)  # type: ignore[valid-type]
    """The worst that is accepted: a number, or a formula such as power.tdp."""
    sampler: Literal["nsga2", "tpe"] = "nsga2"
    trials: Count = 200
    together: Count = 10
    """Points that are asked for at once, and so may be simulated at once; part of what decides the points, the number of jobs is not."""
    population: Count = 20
    seed: int = Field(default=0, ge=0)


class SpaceFile(Strict):
    """The keys of a SPACE.yaml."""

    model: str | None = None
    hardware: str | None = None
    scenario: dict[str, Any] = Field(default_factory=dict)
    vary: dict[str, Any] = Field(min_length=1)
    follow: dict[str, str | int | float] = Field(default_factory=dict)
    where: list[str] = Field(default_factory=list)
    sample: Sample = Sample()
    search: Search | None = None


class Point(NamedTuple):
    """One choice of a value for each axis. `number`: its place in the list of points."""

    number: int
    values: tuple[Any, ...]


class Design(NamedTuple):
    """What a point stands for."""

    model: ModelSpec
    base: Hardware
    changes: dict[str, Any]
    """Of the base hardware: dotted key -> value."""
    scenario: dict[str, Any]
    followed: dict[str, Any]
    """Of changes and scenario, what formulas gave."""
    file: str
    """Name or path of the base hardware, as the space says it."""


@dataclass(frozen=True)
class Space:
    """A checked space. `axes`: name -> the values that it takes, in order."""

    text: str
    axes: dict[str, tuple[Any, ...]]
    fixed: dict[str, Any]
    """Names, and fields of the scenario, that do not vary."""
    follow: dict[str, Formula]
    where: tuple[Formula, ...]
    sample: Sample
    search: Search | None
    limits: dict[str, Formula]
    models: dict[str, ModelSpec] = field(repr=False)
    hardware: dict[str, Hardware] = field(repr=False)

    def design(self, values: tuple[Any, ...]) -> Design:
        """The model, the changes and the scenario of a choice of values. ValueError where a formula comes to nothing."""
        here = self.fixed | dict(zip(self.axes, values, strict=True))
        base = self.hardware[here["hardware"]]
        followed = {}
        for name, formula in self.follow.items():
            value = formula.value(lambda key: self.value(key, here, base))
            here[name] = followed[name] = in_unit_of(value, None if name in SCENARIO else stated(base, name))
        return Design(self.models[here["model"]], base, {name: value for name, value in here.items() if "." in name},
                      {name: value for name, value in here.items() if name in SCENARIO}, followed, here["hardware"])

    def value(self, name: str, here: dict[str, Any], base: Hardware) -> Any:
        """A field as the point has it, or else the scenario's default or the base hardware's."""
        if name in here:
            return here[name]
        return getattr(Scenario(), name) if name in SCENARIO else stated(base, name)

    def allowed(self, values: tuple[Any, ...]) -> bool:
        """Whether a choice of values meets every constraint."""
        if not self.where:
            return True
        field_of = self._fields(values)
        return all(formula.value(field_of) for formula in self.where)

    def bounds(self, values: tuple[Any, ...]) -> dict[str, float]:
        """The worst of each limited figure that is accepted at a choice of values."""
        field_of = self._fields(values)
        return {name: formula.number(field_of) for name, formula in self.limits.items()}

    def _fields(self, values: tuple[Any, ...]) -> Callable[[str], Any]:
        """The value of each field of a choice of values, those that follow included."""
        design = self.design(values)
        here = self.fixed | dict(zip(self.axes, values, strict=True)) | design.followed
        return lambda key: self.value(key, here, design.base)

    def size(self) -> int:
        """Choices of values, constraints aside."""
        return int(np.prod([len(values) for values in self.axes.values()], dtype=object))

    def points(self) -> list[Point]:
        """The points of the sample that meet the constraints, each once; the same for the same file. ValueError where there are none."""
        drawn = {"grid": self._grid, "random": self._random, "latin-hypercube": self._hypercube}[self.sample.kind]()
        found = [Point(i, values) for i, values in enumerate(drawn)]
        if not found:
            raise ValueError("no point of the space meets every constraint of `where`.")
        return found

    def _grid(self) -> Iterator[tuple[Any, ...]]:
        if self.size() > MOST_POINTS:
            raise ValueError(f"the grid has {self.size()} points. Expected at most {MOST_POINTS}, or a sample of kind random.")
        return (values for values in product(*self.axes.values()) if self.allowed(values))

    def _random(self) -> Iterator[tuple[Any, ...]]:
        wanted = self.sample.points or 0
        random, seen, found = np.random.default_rng(self.sample.seed), set(), 0
        lengths = [len(values) for values in self.axes.values()]
        for _ in range(MOST_TRIES * wanted):
            index = tuple(random.integers(lengths).tolist())
            values = self.at(index)
            if index in seen or seen.add(index) or not self.allowed(values):  # type: ignore[func-returns-value]
                continue
            yield values
            found += 1
            if found == wanted:
                return

    def _hypercube(self) -> Iterator[tuple[Any, ...]]:
        """Each axis cut into as many layers as points, each layer taken once; points that fall together or are not allowed are fewer."""
        wanted = self.sample.points or 0
        random = np.random.default_rng(self.sample.seed)
        columns = [np.floor((random.permutation(wanted) + random.random(wanted)) / wanted * len(values)).astype(int)
                   for values in self.axes.values()]
        drawn = dict.fromkeys(zip(*(column.tolist() for column in columns), strict=True))
        return (values for values in map(self.at, drawn) if self.allowed(values))

    def at(self, index: tuple[int, ...]) -> tuple[Any, ...]:
        """The values with these places on their axes."""
        return tuple(values[i] for values, i in zip(self.axes.values(), index, strict=True))


def read(path: str | Path) -> Space:
    """The space of a file. OSError where it cannot be read; ValueError with file, line, key, value and wish for what is wrong in it."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8 text. Expected a YAML file.") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Space:
    """The space that a text says; `name` stands for it in messages. Raises ValueError as `read` does."""
    tree = read_tree(text, name)
    said: SpaceFile = validated(SpaceFile, tree, tree.data, "space", "")
    axes = {str(key): axis_values(tree, key, value) for key, value in said.vary.items()}
    fixed = {key: getattr(said, key) for key in NAMED if getattr(said, key) is not None}
    for key in NAMED:
        _once(tree, key, key in fixed, key in axes)
    for key in said.scenario:
        if key in axes:
            raise _fault(tree, ("scenario", key), "stands under vary too. Expected it in one of the two.")
    models = {str(value): _named(tree, "model", catalog.load, value) for value in axes.get("model", (said.model,))}
    hardware = {str(value): _named(tree, "hardware", load, value) for value in axes.get("hardware", (said.hardware,))}
    for key, values in axes.items():
        for value in values:
            _check_value(tree, ("vary", key), key, value, hardware)
    for key, value in said.scenario.items():
        _check_value(tree, ("scenario", key), key, value, {})
    follow = {key: _formula(tree, ("follow", key), str(value), hardware) for key, value in said.follow.items()}
    for key in follow:
        _check_followed(tree, key, axes, hardware)
    where = tuple(_formula(tree, ("where", i), text, hardware) for i, text in enumerate(said.where))
    limits = {key: _formula(tree, ("search", "limits", key), str(value), hardware)
              for key, value in (said.search.limits.items() if said.search else ())}
    space = Space(text, axes, fixed | {key: _tuple(value) for key, value in said.scenario.items()}, follow, where, said.sample,
                  said.search, limits, models, hardware)
    _check_sample(tree, space)
    _check_objectives(tree, space)
    first = space.at((0,) * len(axes))
    space.allowed(first)  # whether every formula makes sense
    space.bounds(first)
    return space


def _fault(tree: Tree, path: tuple[Any, ...], said: object) -> ValueError:
    return ValueError(f"{tree.at(path)}: {'.'.join(map(str, path))}: {said}")


def _once(tree: Tree, key: str, is_fixed: bool, varies: bool) -> None:
    if is_fixed and varies:
        raise _fault(tree, (key,), "stands under vary too. Expected it in one of the two.")
    if not (is_fixed or varies):
        raise ValueError(f"{tree.at(())}: {key} is missing. Every space names one, or several under vary.")


def _named(tree: Tree, key: str, find: Any, value: Any) -> Any:
    try:
        return find(str(value))
    except ValueError as error:
        raise _fault(tree, (key,) if (key,) in tree.marks else ("vary", key), error) from None


def _check_value(tree: Tree, path: tuple[str, str], key: str, value: Any, hardware: dict[str, Hardware]) -> None:
    """ValueError for a field that is not known, or a value that it cannot have."""
    if key in NAMED and path[0] == "vary":
        return
    try:
        if key in SCENARIO:
            said = Scenario(**{"batch": len(value) if key == "prompt" and isinstance(value, (list, tuple)) else 1, key: value})
            for text in said.transforms:
                transforms.parse(text)
        elif "." not in key or path[0] == "scenario":
            known = (*SCENARIO, *(NAMED if path[0] == "vary" else ()))
            wish = nearest(key, known) or f". Expected a dotted key of the hardware, or one of {', '.join(known)}"
            raise ValueError(f"unknown field '{key}'{wish}.")
        for device in hardware.values() if "." in key else ():
            check_value(device, key, value)
    except (ValueError, TypeError) as error:
        raise _fault(tree, path, error) from None


def _check_followed(tree: Tree, key: str, axes: dict[str, Any], hardware: dict[str, Hardware]) -> None:
    if key in axes:
        raise _fault(tree, ("follow", key), "stands under vary too. Expected it in one of the two.")
    if key in SCENARIO:
        return
    try:
        if "." not in key:
            raise ValueError(f"unknown field '{key}'{nearest(key, SCENARIO)}.")
        for device in hardware.values():
            check_key(device, key)
    except ValueError as error:
        raise _fault(tree, ("follow", key), error) from None


def _formula(tree: Tree, path: tuple[Any, ...], text: str, hardware: dict[str, Hardware]) -> Formula:
    """ValueError for what is no formula, and for a field in it that is not known."""
    formula = Formula(text, f"{tree.at(path)}: {'.'.join(map(str, path))}: ")
    try:
        for name in formula.names:
            if "." in name:
                for device in hardware.values():
                    check_key(device, name)
            elif name not in (*NAMED, *SCENARIO):
                raise ValueError(f"{text!r}: unknown field '{name}'{nearest(name, (*NAMED, *SCENARIO))}.")
    except ValueError as error:
        raise _fault(tree, path, error) from None
    return formula


def _check_sample(tree: Tree, space: Space) -> None:
    sample = space.sample
    if (sample.points is None) != (sample.kind == "grid"):
        path = ("sample",) if sample.points is None else ("sample", "points")
        raise _fault(tree, path, f"points is {'missing' if sample.points is None else sample.points} but kind is {sample.kind}. "
                     "Expected points for random and latin-hypercube, and none for a grid, which takes all.")
    if sample.points is not None and sample.points > min(MOST_POINTS, space.size()):
        raise _fault(tree, ("sample", "points"), f"{sample.points} is more than the {space.size()} points that the space has.")


def _check_objectives(tree: Tree, space: Space) -> None:
    """ValueError for an objective or a limit on a phase that does not run."""
    never = {"prefill": "tpot_s", "decode": "ttft_s"}.get(space.fixed.get("phase", ""))
    for part, wanted in (("objectives", space.search.objectives), ("limits", list(space.limits))) if space.search else ():
        if never in wanted:
            raise _fault(tree, ("search", part), f"has {never}, but the scenario's phase is {space.fixed['phase']}.")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
