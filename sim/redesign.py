"""Changes to a hardware that bring along what must follow from them."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from .formula import amount
from .hardware import Hardware, nearest
from .schema import Cpu, Gpu, Systolic
from .yamltree import is_leaf

RATES = {Systolic: ("peak", "macs_per_cell", ("clock", "rows", "cols", "num_arrays")), Gpu: ("tensor_peak", "tensor_macs_per_sm",
         ("clock", "num_sms")), Cpu: ("peak", "macs_per_core", ("clock", "num_cores"))}  # fmt: skip
"""Kind of unit -> the peaks that its file states, the multiply-adds of one of its parts in a clock, and what they are multiplied by."""


def redesigned(hardware: Hardware, changes: dict[str, Any]) -> Hardware:
    """`hardware.replace` of `complete` changes. ValueError for what does not fit."""
    return hardware.replace(complete(hardware, changes)) if changes else hardware


def complete(hardware: Hardware, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes with what follows from them.

    A new clock, size or number of a unit's parts restates the peaks that its file says, unless the changes say them too: peak =
    2 x multiply-adds x clock. A new bandwidth alone leaves the pin rate open. Keys of a mapping that the file leaves out are gathered
    into it. ValueError for a clock or count that is no number.
    """
    out: dict[str, Any] = {}
    for key, value in changes.items():
        _put(hardware, out, key.split("."), value)
    if "memory.bandwidth" in changes and not changes.keys() & {"memory.pins", "memory.pin_rate"}:
        out["memory.pin_rate"] = None
    for name, unit in hardware.spec.units.items():
        peak, per_part, factors = RATES.get(type(unit), ("", "", ()))
        touched = any(key.startswith(tuple(f"units.{name}.{field}" for field in (per_part, *factors))) for key in changes)
        if not touched or any(key.startswith(f"units.{name}.{peak}") for key in changes):
            continue
        times = 2
        for field in factors:
            key = f"units.{name}.{field}"
            times *= _number(key, changes.get(key), getattr(unit, field))
        for dtype, macs in getattr(unit, per_part).items():
            key = f"units.{name}.{per_part}.{dtype}"
            out[f"units.{name}.{peak}.{dtype}"] = f"{round(times * _number(key, changes.get(key), macs))} OP/s"
    return out


def stated(hardware: Hardware, key: str) -> Any:
    """What the file says under a dotted key, or what is taken where it says nothing. ValueError where there is no such number."""
    node: Any = hardware.tree.data
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) and not is_leaf(node) else None
    node = node["value"] if is_leaf(node) else node
    if node is None:
        node = _checked(hardware, key)
    if node is None:
        raise ValueError(f"{hardware.name} says no {key}.")
    return node


def check_key(hardware: Hardware, key: str) -> Any:
    """The type of a field. ValueError for a key that the hardware does not have."""
    node: Any = hardware.spec
    annotation: Any = None
    path = key.split(".")
    for i, part in enumerate(path):
        here = ".".join(path[:i]) or "a hardware file"
        if isinstance(node, BaseModel):
            fields = type(node).model_fields
            if part not in fields:
                raise ValueError(f"{hardware.name} has no '{part}' in {here}{nearest(part, tuple(fields))}.")
            annotation = fields[part].rebuild_annotation()
            node = getattr(node, part)
        elif isinstance(node, dict):
            if here == "units" and part not in node:
                raise ValueError(f"{hardware.name} has no unit '{part}'{nearest(part, tuple(node))}. It has {', '.join(node)}.")
            annotation = _entry(annotation)
            node = node.get(part)
        else:
            raise ValueError(f"{here} of {hardware.name} is one value, in which there is no '{part}'.")
    return annotation


def check_value(hardware: Hardware, key: str, value: Any) -> None:
    """ValueError for a key that the hardware does not have, and for a value that the field cannot have by itself."""
    annotation = check_key(hardware, key)
    above, _, last = key.rpartition(".")
    if above and above != "units" and isinstance(_checked(hardware, above), dict):
        annotation, value = check_key(hardware, above), {last: value}  # some mappings know their keys
    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(said if first["type"] == "value_error" else f"{first['input']!r}: {said[0].lower()}{said[1:]}.") from None


def _checked(hardware: Hardware, key: str) -> Any:
    """The checked value under a dotted key, None where there is none."""
    node: Any = hardware.spec
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else getattr(node, part, None)
    return node


def _entry(annotation: Any) -> Any:
    """The type of the values of a mapping."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    args = get_args(annotation)
    return args[1] if len(args) == 2 else Any


def _number(key: str, value: Any, otherwise: Any) -> Any:
    """The number of a changed field in the inside unit; `otherwise` where it does not change."""
    number = otherwise if value is None else amount(value)
    if not isinstance(number, (int, float)):
        raise ValueError(f"{key}: {value!r} is not a number, from which the peak would follow.")
    return number


def _put(hardware: Hardware, out: dict[str, Any], path: list[str], value: Any) -> None:
    """One change under the longest key that the file has a mapping for."""
    node: Any = hardware.tree.data
    for i, part in enumerate(path[:-1]):
        node = node.get(part) if isinstance(node, dict) else None
        if node is None:
            inner = out.setdefault(".".join(path[: i + 1]), {})
            for key in path[i + 1 : -1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = value
            return
    out[".".join(path)] = value
