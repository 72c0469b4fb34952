"""ModelSpec as plain data and back, so that a folder of results keeps the model that was run, wherever it came from."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from . import parts, spec
from .spec import ModelSpec

KIND = "is"
CLASSES: dict[str, Any] = {name: thing for module in (parts, spec) for name, thing in vars(module).items()
                           if isinstance(thing, type) and is_dataclass(thing)}
"""Everything that a spec is made of, by name."""


def to_data(value: Any) -> Any:
    """What json writes: a dataclass becomes a mapping with its class under "is", without the fields that have their default."""
    if is_dataclass(value) and not isinstance(value, type):
        said = {field.name: getattr(value, field.name) for field in fields(value)}
        defaults = {field.name: field.default for field in fields(value) if field.default is not MISSING}
        return {KIND: type(value).__name__} | {name: to_data(v) for name, v in said.items()
                                               if name not in defaults or v != defaults[name]}
    return [to_data(item) for item in value] if isinstance(value, tuple) else value


def from_data(data: Any) -> ModelSpec:
    """The spec of `to_data`. ValueError for data that is none."""
    try:
        found = _value(data)
    except (KeyError, TypeError) as error:
        raise ValueError(f"is no model that this version wrote ({type(error).__name__}: {error}).") from None
    if not isinstance(found, ModelSpec):
        raise ValueError(f"is no model. Expected a mapping that is a {ModelSpec.__name__}.")
    return found


def _value(data: Any) -> Any:
    if isinstance(data, dict):
        return CLASSES[data[KIND]](**{name: _value(value) for name, value in data.items() if name != KIND})
    return tuple(_value(item) for item in data) if isinstance(data, list) else data
