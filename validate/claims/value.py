"""Figures of experiments, and arithmetic on them whose units must fit. Expressions are parsed, never executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, geometric_mean
from typing import Any

from gemvane.sim.hardware import nearest
from gemvane.sim.units import parse, show
from gemvane.workloads.ops import KINDS

MOST_CHARACTERS = 200
RATIO = "ratio"
UNITS = {"time": ("s", 1e-12), "energy": ("J", 1e-12), "power": ("W", 1.0), "token rate": ("tok/s", 1.0), "size": ("B", 1.0),
         "work": ("FLOP", 1.0), "parameter count": ("params", 1.0), RATIO: ("", 1.0)}
"""Dimension -> SI unit, and how many of it the number of `units.parse` is."""

MODEL_FIGURES = {
    "ttft": "time", "tpot": "time", "latency": "time", "throughput": "token rate", "energy": "energy", "energy_per_token": "energy",
    "compute_energy": "energy", "power": "power", "mfu": RATIO, "weights": "size", "kv_cache": "size", "memory": "size",
    "parameters": "parameter count", "flops": "work",
}
"""Figures of a run, SI units. `weights`, `kv_cache` and `memory`, their sum, are bytes on one device; `flops` twice the multiply-adds of
all devices, of a decode phase alone those of one step; mfu = 2 x active parameters x tokens / (time x peak); `compute_energy` is that of
arithmetic alone. Beside them, `utilisation.UNIT`; and `share.KIND`, what operators of a kind take of the time that all operators take."""
KERNEL_FIGURES = {"latency": "time", "energy": "energy", "power": "power", "result": "size"}
"""Of a kernel; `result` is what it leaves, in bytes."""
FAMILIES = {"utilisation": "UNIT", "share": "KIND"}
"""Figures of a run that have one more word."""
AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "geomean": geometric_mean, "min": min, "max": max}
"""Over the settings of a claim, as in mean(a.tpot / b.tpot)."""
BOUNDS = {"<": "below", ">": "above"}
"""A claimed figure may be a bound: "> 1 x"."""


def quantity(text: str, dimension: str) -> float:
    """The number behind a claimed figure (of a bound, that which it names), in SI units; ValueError for a unit that does not fit."""
    value = float(parse(text.lstrip("<> "), dimension)) * UNITS[dimension][1]
    if value == 0:
        raise ValueError(f"{text!r} is zero. Expected a figure to compare with.")
    return value


def written(value: float, dimension: str, like: str) -> str:
    """A value for people; a ratio in the unit (% or x) of the claimed text."""
    if dimension != RATIO:
        return show(value, UNITS[dimension][0])
    percent = like.rstrip().endswith("%")
    return f"{100 * value:.3g} %" if percent else f"{value:.3g} x"


def unchanged(expression: str, dimension: str, like: str) -> float | None:
    """What a value would be if its experiments did not differ, in the unit of the claimed text: 1 of a ratio in x; of one in %, what the
    expression gives where every figure is the same: 0 of "1 - a.energy / b.energy". None where nothing is compared."""
    if dimension != RATIO:
        return None
    if not like.rstrip().endswith("%"):
        return 1.0
    try:
        same = evaluate(expression, lambda *_: 1.0)
    except ZeroDivisionError:
        return None
    return same if len({experiment for experiment, _ in figures_of(expression)}) > 1 else None


def bound(text: str) -> str | None:
    """Whether a claimed figure is a bound: "below", "above" or None."""
    return BOUNDS.get(text[:1])


def dimension(expression: str, experiments: Mapping[str, str], settings: int = 1) -> str:
    """The dimension of an expression on named experiments, each a "model" or a "kernel", in so many settings.

    ValueError for what does not fit; in several settings, for a figure that stands outside mean, geomean, min or max.
    """
    return _dimension(_body(expression), experiments, settings > 1)


def figures_of(expression: str) -> list[tuple[str, str]]:
    """Experiment and figure of each figure in an expression, from left to right."""

    def walk(node: ast.AST) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.expr) and (figure := _figure(node)):
            yield figure
        else:
            for inner in ast.iter_child_nodes(node):
                yield from walk(inner)

    return list(walk(_body(expression)))


def evaluate(expression: str, read: Callable[[str, str, Any], float], settings: Sequence[Any] = (None,)) -> float:
    """The value of a checked expression; `read` gives a figure of an experiment, by both names, in one of the settings.

    ZeroDivisionError as Python's.
    """
    return _value(_body(expression), read, settings)


def each(expression: str, read: Callable[[str, str, Any], float], settings: Sequence[Any]) -> list[float]:
    """What an expression averages over (or takes the least or greatest of), setting by setting; nothing for another expression."""
    node = _body(expression)
    return [_value(node.args[0], read, [one]) for one in settings] if isinstance(node, ast.Call) else []


def _body(expression: str) -> ast.expr:
    try:
        if len(expression) > MOST_CHARACTERS:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on spacing
            return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        shown = expression[:MOST_CHARACTERS]
        raise ValueError(f"{shown!r} cannot be read. Expected figures of experiments, e.g. a.tpot / b.tpot.") from None


def _figure(node: ast.expr) -> tuple[str, str] | None:
    """Experiment and figure of `name.figure` or `name.utilisation.unit`."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.insert(0, node.attr)
        node = node.value
    return (node.id, ".".join(words)) if isinstance(node, ast.Name) and words else None


def _dimension(node: ast.expr, experiments: Mapping[str, str], many: bool, nested: bool = False) -> str:
    if figure := _figure(node):
        if many:
            raise ValueError(f"{'.'.join(figure)} has a value in each of several settings. Expected {' or '.join(AGGREGATES)} around it.")
        return _figure_dimension(*figure, experiments)
    match node:
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in AGGREGATES and not nested:
            return _dimension(inner, experiments, False, True)
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return RATIO
        case ast.BinOp(left=left, op=op, right=right):
            a, b = (_dimension(side, experiments, many, nested) for side in (left, right))
            if isinstance(op, (ast.Add, ast.Sub)) and a == b:
                return a
            if isinstance(op, ast.Div) and b in (a, RATIO):
                return RATIO if a == b else a
            if isinstance(op, ast.Mult) and RATIO in (a, b):
                return b if a == RATIO else a
            if isinstance(op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
                raise ValueError(f"{ast.unparse(node)!r} joins a {a} and a {b}. Expected units that fit.")
    raise ValueError(f"{ast.unparse(node)!r} is no part of a value. Expected figures as in a.tpot, numbers, + - * / and brackets, "
                     f"and {', '.join(AGGREGATES)} over several settings.")


def _figure_dimension(experiment: str, figure: str, experiments: Mapping[str, str]) -> str:
    if experiment not in experiments:
        raise ValueError(f"no experiment {experiment!r}{nearest(experiment, list(experiments))}. Expected one of {', '.join(experiments)}.")
    of_model = experiments[experiment] != "kernel"
    head, _, word = figure.partition(".")
    if of_model and head in FAMILIES and word:
        kinds = [kind.name for kind in KINDS]
        if head == "share" and word not in kinds:
            raise ValueError(f"no operator is of kind {word!r}{nearest(word, kinds)}. Expected one of {', '.join(kinds)}.")
        return RATIO
    known = MODEL_FIGURES if of_model else KERNEL_FIGURES
    if figure not in known:
        listed = [*known, *(f"{head}.{word}" for head, word in FAMILIES.items() if of_model)]
        raise ValueError(f"a {experiments[experiment]} has no figure {figure!r}{nearest(figure, listed)}. "
                         f"Expected one of {', '.join(listed)}.")
    return known[figure]


def _value(node: ast.expr, read: Callable[[str, str, Any], float], settings: Sequence[Any]) -> float:
    if figure := _figure(node):
        return read(*figure, settings[0])
    match node:
        case ast.Call(func=ast.Name(id=name), args=[inner]):
            return AGGREGATES[name]([_value(inner, read, [one]) for one in settings])
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _value(left, read, settings), _value(right, read, settings)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise AssertionError(ast.dump(node))
