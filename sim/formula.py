"""Formulas over the fields of a design: names, numbers, quantities in quotes, arithmetic and comparisons. Parsed, never executed."""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

from .units import DIMENSIONS, parse

MOST_CHARACTERS = 500
OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "round": round}
WISH = "Expected fields, numbers, quantities in quotes, + - * / // %, comparisons, and, or, not, in, min, max, round."
_UNIT = re.compile(r"^\s*[-+]?[\d._]+(?:[eE][-+]?\d+)?\s*(\S+)\s*$")


def amount(value: Any) -> Any:
    """A value as formulas see it: the number behind a quantity, in the inside unit of sim/units.py; anything else as it is.

    A rate in bits a second is taken in bytes, as a bandwidth is.
    """
    match = _UNIT.match(value) if isinstance(value, str) else None
    for dimension in DIMENSIONS.values() if match else ():
        if match and match[1] in dimension.units:
            return parse(value, dimension.name)
    return value


def in_unit_of(number: Any, text: Any) -> Any:
    """The inverse of `amount`: a number in the unit in which `text` is written; whole where it is."""
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    match = _UNIT.match(text) if isinstance(text, str) else None
    if match is None or isinstance(number, (str, bool)):
        return number
    inside = next(d for d in DIMENSIONS.values() if match[1] in d.units)
    scaled = float(number / inside.units[match[1]])
    return f"{int(scaled) if scaled.is_integer() else scaled!r} {match[1]}"


class Formula:
    """A formula that was read. `names`: the fields that it asks for."""

    def __init__(self, text: str, where: str = "") -> None:
        """`where` begins every complaint. ValueError for what is no formula, with the part that is not."""
        self.text, self._where = text, where
        try:
            if len(text) > MOST_CHARACTERS:
                raise ValueError
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's advice on spacing
                self._body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError):
            raise ValueError(f"{where}{text[:MOST_CHARACTERS]!r} cannot be read. {WISH}") from None
        self.names = tuple(dict.fromkeys(self._read(self._body)))

    def __reduce__(self) -> tuple[type[Formula], tuple[str, str]]:
        return Formula, (self.text, self._where)

    def value(self, field: Callable[[str], Any]) -> Any:
        """What it comes to where `field` gives the value of a name. ValueError where it comes to nothing."""
        try:
            return self._value(self._body, field)
        except ZeroDivisionError:
            raise ValueError(f"{self._where}{self.text!r} divides by zero.") from None
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{self._where}{self.text!r} makes no sense here: {error}.") from None

    def number(self, field: Callable[[str], Any]) -> float:
        """`value`, which has to be a number."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{self._where}{self.text!r} is {value!r}. Expected a number.")
        return value

    def _read(self, node: ast.expr) -> list[str]:
        """The names of a node. ValueError for a part that is not of the language."""
        match node:
            case ast.Constant(value=int() | float() | str()):
                return []
            case ast.Name() | ast.Attribute() if (name := _dotted(node)) is not None:
                return [name]
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.BoolOp(values=parts):
                pass
            case ast.UnaryOp(op=ast.USub() | ast.Not(), operand=part):
                parts = [part]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                parts = [left, right]
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in OPERATORS for op in ops):
                parts = [left, *others]
            case ast.Call(func=ast.Name(id=name), args=[_, *_] as parts, keywords=[]) if name in FUNCTIONS:
                pass
            case _:
                raise ValueError(f"{self._where}{self.text!r}: {ast.unparse(node)!r} is no part of a formula. {WISH}")
        return [name for part in parts for name in self._read(part)]

    def _value(self, node: ast.expr, field: Callable[[str], Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return amount(value)
            case ast.Name() | ast.Attribute():
                return amount(field(_dotted(node) or ""))
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return [self._value(part, field) for part in parts]
            case ast.BoolOp(op=op, values=parts):
                return (all if isinstance(op, ast.And) else any)(self._value(part, field) for part in parts)
            case ast.UnaryOp(op=op, operand=part):
                value = self._value(part, field)
                return not value if isinstance(op, ast.Not) else -value
            case ast.BinOp(left=left, op=op, right=right):
                sides = self._value(left, field), self._value(right, field)
                if any(isinstance(side, (str, list)) for side in sides):
                    raise TypeError(f"{ast.unparse(node)} calculates with text or a list")
                return OPERATORS[type(op)](*sides)
            case ast.Call(func=ast.Name(id=name), args=parts):
                return FUNCTIONS[name](*(self._value(part, field) for part in parts))
            case ast.Compare(left=left, ops=ops, comparators=others):
                values = [self._value(part, field) for part in (left, *others)]
                return all(OPERATORS[type(op)](a, b) for op, a, b in zip(ops, values, values[1:], strict=False))
        raise AssertionError(node)


def _dotted(node: ast.expr) -> str | None:
    """ "memory.bandwidth" of a name or an attribute of one."""
    if isinstance(node, ast.Name):
        return node.id
    inner = _dotted(node.value) if isinstance(node, ast.Attribute) else None
    return f"{inner}.{node.attr}" if isinstance(node, ast.Attribute) and inner else None
