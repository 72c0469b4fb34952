"""The language of latencies: names of timings, whole numbers, + - * and max(a, b). Parsed, never executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping

from ..hardware import nearest

MOST_CHARACTERS = 200
MOST_CLOCKS = 10**9
"""A second of DRAM; sums of times stay far inside int64."""


def evaluate(expression: str, timings: Mapping[str, int]) -> int:
    """The clocks that `expression` stands for. ValueError names what it holds that is no part of the language."""
    try:
        if len(expression) > MOST_CHARACTERS:
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's advice on spacing
            body = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError):
        raise ValueError(f"{expression[:MOST_CHARACTERS]!r} cannot be read. Expected timings and whole numbers, e.g. nCL + nBL.") from None
    value = _value(body, expression, timings)
    if abs(value) > MOST_CLOCKS:
        raise ValueError(f"{expression!r} is over {MOST_CLOCKS} clocks.")
    return value


def _value(node: ast.expr, expression: str, timings: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            if name not in timings:
                raise ValueError(f"{expression!r}: unknown timing '{name}'{nearest(name, tuple(timings))}.")
            return timings[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left, expression, timings) + _value(right, expression, timings)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left, expression, timings) - _value(right, expression, timings)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left, expression, timings) * _value(right, expression, timings)
        case ast.Call(func=ast.Name(id="max"), args=[left, right], keywords=[]):
            return max(_value(left, expression, timings), _value(right, expression, timings))
    raise ValueError(f"{expression!r}: {ast.unparse(node)!r} is no part of a latency. "
                     "Expected timings, whole numbers, + - * and max(a, b).")
