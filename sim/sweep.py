"""A point of a design space -> a row of figures; the rows that no other beats."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import yaml

from gemvane.workloads import lower
from gemvane.workloads.scenario import Scenario

from . import area
from .redesign import complete, redesigned
from .result import Result
from .simulate import simulate
from .space import METRICS, Design, Point, Space

SAID = ("prefill_bound", "decode_bound", "confidence", "band_low", "band_high", "warnings")
"""What a row says of its figures: what binds most of each phase, how sure they are, and how many warnings there were."""


MOST_TRACES = 128


class _Traces:
    """The traces of `lower`, kept: points that differ in hardware alone share them, and nobody changes them."""

    prefill = staticmethod(lru_cache(maxsize=MOST_TRACES)(lower.prefill))
    decode_step = staticmethod(lru_cache(maxsize=MOST_TRACES)(lower.decode_step))


TRACES = _Traces()


def columns(space: Space) -> tuple[str, ...]:
    """The columns of a row, in order."""
    return ("point", *space.axes, *space.follow, *METRICS, *SAID, "reason", "configuration", "seed")


def evaluate(space: Space, point: Point) -> dict[str, Any]:
    """The row of a point: see `columns`. What cannot be simulated has no figures, and the reason why."""
    row = blank(space, point)
    try:
        design = space.design(point.values)
        row |= design.followed | {"configuration": configuration(design)}
        hardware = redesigned(design.base, design.changes)
        row |= figures(Result(simulate(design.model, Scenario(**design.scenario), hardware, TRACES)))
    except ValueError as error:
        row["reason"] = str(error)
    except Exception as error:  # one point must not end a sweep of many
        row["reason"] = f"a fault in gemvane ({type(error).__name__}: {error})"
    return row


def blank(space: Space, point: Point) -> dict[str, Any]:
    """The row of a point without figures."""
    known = {"point": point.number, **dict(zip(space.axes, point.values, strict=True)), "seed": space.sample.seed}
    return {**dict.fromkeys(columns(space)), **known, "reason": "", "configuration": "{}"}


def configuration(design: Design) -> str:
    """Everything that makes the design, as JSON."""
    return json.dumps({"model": design.model.name, "hardware": design.base.name, "changes": design.changes, "scenario": design.scenario})


def figures(result: Result) -> dict[str, Any]:
    """The figures of a result, and what it says of them. None where there is none: of a phase that did not run, or an unknown area."""
    memory, chip = result.run.memory, area.total(result.run.hardware)
    row: dict[str, Any] = {name: getattr(result, name) for name in METRICS if name not in ("area_mm2", "memory_bytes")}
    row |= {"area_mm2": None if chip is None else chip.mm2, "memory_bytes": memory.weights_bytes + memory.kv_cache_bytes}
    row |= {f"{phase}_bound": next(iter(result.bounds(phase))) for phase in result.run.phases}
    sure = result.confidence
    return row | {"confidence": sure.label, "band_low": sure.band[0], "band_high": sure.band[1], "warnings": len(result.warnings)}


def loss(name: str, value: float) -> float:
    """A figure as a number of which less is better."""
    return value if METRICS[name] == "minimize" else -value


def front(rows: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[int]:
    """Indices of the rows that no other beats: none is as good in every objective and better in one. Rows without figures are out;
    of rows alike in every objective the first stands for all. Ordered by the first objective, best first."""
    index = [i for i, row in enumerate(rows) if all(row[name] is not None for name in objectives)]
    losses = np.array([[loss(name, rows[i][name]) for name in objectives] for i in index]).reshape(len(index), len(objectives))
    kept: list[int] = []
    best = np.empty((0, len(objectives)))
    for at in np.lexsort(losses.T[::-1]).tolist():  # whoever beats a row stands before it
        if not (best <= losses[at]).all(axis=1).any():
            kept.append(index[at])
            best = np.vstack([best, losses[at]])
    return kept


def violations(space: Space, point: Point, row: Mapping[str, Any]) -> dict[str, float]:
    """How far each limited figure of a row is beyond its limit: zero or less where it is not, without end where it is not known."""
    return {name: math.inf if row[name] is None else loss(name, row[name]) - loss(name, limit)
            for name, limit in space.bounds(point.values).items()}


def as_hardware(space: Space, point: Point, name: str, base: str, cite: str) -> str:
    """The text of a hardware file: the file `base` with the changes of the point, everything that follows from them included."""
    design = space.design(point.values)
    tree: dict[str, Any] = {"extends": base, "schema_version": 1, "name": name, "description": f"{design.base.name} with changes",
                            "sources": {"search": {"cite": cite, "confidence": "guess"}}}
    for key, value in complete(design.base, design.changes).items():
        *above, last = key.split(".")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value if value is None or isinstance(value, (dict, list)) else {"value": value, "source": "search"}
    return str(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=140))
