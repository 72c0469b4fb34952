"""The values that a field of a design space takes: a list, or a range."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from .formula import amount, in_unit_of
from .quantity import Count, Strict
from .yamlcheck import validated
from .yamltree import Tree

MOST_VALUES = 100_000


class Range(Strict):
    """From `low` to `high`, both ends included."""

    low: int | float | str
    high: int | float | str
    steps: Count | None = None
    """Values in all."""
    by: int | float | str | None = None
    """From one value to the next."""
    scale: Literal["linear", "log", "powers of two"] = "linear"

    @model_validator(mode="after")
    def _is_one(self) -> Range:
        ends = [amount(end) for end in (self.low, self.high)]
        for name, end in (("low", self.low), ("high", self.high), ("by", self.by)):
            if end is not None and not isinstance(amount(end), (int, float)):
                raise ValueError(f"{name} is {end!r}. Expected a number, or a quantity with a unit.")
            if end is not None and isinstance(end, str) != isinstance(self.low, str):
                raise ValueError(f"{name} is {end!r} but low is {self.low!r}. Expected all with units, or none.")
        if ends[1] < ends[0]:
            raise ValueError(f"high is {self.high!r}, under low, {self.low!r}: the range is empty.")
        wanted = {"linear": (self.steps is None) != (self.by is None), "log": self.steps is not None and self.by is None,
                  "powers of two": self.steps is None and self.by is None}
        if not wanted[self.scale]:
            needs = {"linear": "either steps or by", "log": "steps", "powers of two": "neither steps nor by"}
            raise ValueError(f"scale is {self.scale}, which takes {needs[self.scale]}.")
        if self.scale != "linear" and ends[0] <= 0:
            raise ValueError(f"low is {self.low!r}. Expected more than zero for scale {self.scale}.")
        if self.by is not None and (amount(self.by) <= 0 or (ends[1] - ends[0]) / amount(self.by) > MOST_VALUES):
            raise ValueError(f"by is {self.by!r}. Expected a step that leaves at most {MOST_VALUES} values.")
        return self

    def values(self) -> list[Any]:
        """Ascending, each once; whole numbers where both ends are, in the unit of `low`."""
        low, high = amount(self.low), amount(self.high)
        if self.scale == "powers of two":
            exact = [low * 2**i for i in range(int(np.log2(high / low) + 1e-9) + 1)]
        elif self.scale == "log":
            exact = np.geomspace(low, high, self.steps or 1).tolist()
        elif self.by is not None:
            exact = [low + i * amount(self.by) for i in range(int((high - low) / amount(self.by) + 1e-9) + 1)]
        else:
            exact = np.linspace(low, high, self.steps or 1).tolist()
        whole = isinstance(low, int) and isinstance(high, int)
        return list(dict.fromkeys(in_unit_of(round(value) if whole else value, self.low) for value in exact))


def axis_values(tree: Tree, key: str, said: Any) -> tuple[Any, ...]:
    """The values of vary.KEY, each once. ValueError with file, line, key and wish where there are none, or no list and no range."""
    where = f"{tree.at(('vary', key))}: vary.{key}"
    if isinstance(said, dict):
        marks = {path[2:]: mark for path, mark in tree.marks.items() if path[:2] == ("vary", key)}
        try:
            return tuple(validated(Range, Tree(said, marks), said, "range", "").values())
        except ValueError as error:
            place, _, rest = str(error).partition(": ")
            raise ValueError(f"{place}: vary.{key}.{rest}".replace(f"vary.{key}.: ", f"vary.{key}: ")) from None
    if not isinstance(said, list):
        raise ValueError(f"{where}: {said!r} is one value. Expected a list, or a range such as {{low: 1, high: 64, scale: powers of two}}; "
                         "what does not vary stands above.")
    if not said:
        raise ValueError(f"{where}: the list is empty. Expected at least one value.")
    values = [tuple(value) if isinstance(value, list) and key == "prompt" else value for value in said]
    for i, value in enumerate(values):
        if value in values[:i]:
            raise ValueError(f"{tree.at(('vary', key, i))}: vary.{key}: {value!r} stands here a second time.")
    return tuple(values)
