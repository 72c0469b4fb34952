"""Figures of experiments, and arithmetic on them whose units must fit. Expressions are parsed, never executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator, Mapping

from gemvane.sim.hardware import nearest
from gemvane.sim.units import parse, show

MOST_CHARACTERS = 200
RATIO = "ratio"
UNITS = {"time": ("s", 1e-12), "energy": ("J", 1e-12), "power": ("W", 1.0), "token rate": ("tok/s", 1.0), "size": ("B", 1.0),
         RATIO: ("", 1.0)}
"""Dimension -> SI unit, and how many of it the number of `units.parse` is."""

MODEL_FIGURES = {
    "ttft": "time", "tpot": "time", "latency": "time", "throughput": "token rate", "energy": "energy", "energy_per_token": "energy",
    "power": "power", "mfu": RATIO, "weights": "size", "kv_cache": "size",
}
"""Figures of a run, SI units. `weights` and `kv_cache` are bytes on one device; mfu = 2 x active parameters x tokens / (time x peak).
Beside them, `utilisation.UNIT`."""
KERNEL_FIGURES = {"latency": "time", "energy": "energy", "power": "power"}


def quantity(text: str, dimension: str) -> float:
    """The number behind a claimed figure, in SI units; ValueError for a unit that does not fit."""
    value = float(parse(text, dimension)) * UNITS[dimension][1]
    if value == 0:
        raise ValueError(f"{text!r} is zero. Expected a figure to compare with.")
    return value


def written(value: float, dimension: str, like: str) -> str:
    """A value for people; a ratio in the unit (% or x) of the claimed text."""
    if dimension != RATIO:
        return show(value, UNITS[dimension][0])
    percent = like.rstrip().endswith("%")
    return f"{100 * value:.3g} %" if percent else f"{value:.3g} x"


def dimension(expression: str, experiments: Mapping[str, str]) -> str:
    """The dimension of an expression on named experiments, each a "model" or a "kernel". ValueError for what does not fit."""
    return _dimension(_body(expression), expression, experiments)


def figures_of(expression: str) -> list[tuple[str, str]]:
    """Experiment and figure of each figure in an expression, from left to right."""

    def walk(node: ast.AST) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.expr) and (figure := _figure(node)):
            yield figure
        else:
            for inner in ast.iter_child_nodes(node):
                yield from walk(inner)

    return list(walk(_body(expression)))


def evaluate(expression: str, read: Callable[[str, str], float]) -> float:
    """The value of a checked expression; `read` gives a figure of an experiment, by both names. ZeroDivisionError as Python's."""
    return _value(_body(expression), read)


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


def _dimension(node: ast.expr, expression: str, experiments: Mapping[str, str]) -> str:
    if figure := _figure(node):
        return _figure_dimension(*figure, experiments)
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return RATIO
        case ast.BinOp(left=left, op=op, right=right):
            a, b = (_dimension(side, expression, experiments) for side in (left, right))
            if isinstance(op, (ast.Add, ast.Sub)) and a == b:
                return a
            if isinstance(op, ast.Div) and b in (a, RATIO):
                return RATIO if a == b else a
            if isinstance(op, ast.Mult) and RATIO in (a, b):
                return b if a == RATIO else a
            if isinstance(op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
                raise ValueError(f"{ast.unparse(node)!r} joins a {a} and a {b}. Expected units that fit.")
    raise ValueError(f"{ast.unparse(node)!r} is no part of a value. Expected figures as in a.tpot, numbers, + - * / and brackets.")


def _figure_dimension(experiment: str, figure: str, experiments: Mapping[str, str]) -> str:
    if experiment not in experiments:
        raise ValueError(f"no experiment {experiment!r}{nearest(experiment, list(experiments))}. Expected one of {', '.join(experiments)}.")
    known = KERNEL_FIGURES if experiments[experiment] == "kernel" else {**MODEL_FIGURES, "utilisation.UNIT": RATIO}
    head, _, unit = figure.partition(".")
    wanted = "utilisation.UNIT" if head == "utilisation" and unit else figure
    if wanted not in known:
        raise ValueError(f"a {experiments[experiment]} has no figure {figure!r}{nearest(figure, list(known))}. "
                         f"Expected one of {', '.join(known)}.")
    return known[wanted]


def _value(node: ast.expr, read: Callable[[str, str], float]) -> float:
    if figure := _figure(node):
        return read(*figure)
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, read) + _value(right, read)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, read) - _value(right, read)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, read) * _value(right, read)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left, read) / _value(right, read)
    raise AssertionError(ast.dump(node))
