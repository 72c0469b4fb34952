"""gemvane hw schema: the JSON schema that editors check hardware files with."""

from __future__ import annotations

import copy
from typing import Any

from gemvane import output
from gemvane.sim.schema import HardwareSpec


def schema() -> None:
    """Print it."""
    output.show_json(hardware_schema())


def hardware_schema() -> dict[str, Any]:
    """The schema of a whole file; of one that extends another, the same with nothing required."""
    whole = HardwareSpec.model_json_schema()
    definitions = whole.pop("$defs")
    part = _partial(whole)
    definitions |= {f"Part{name}": _partial(definition) for name, definition in definitions.items()}
    extends = {"type": "string", "description": "A bundled hardware, or the path of a file from here, that this one changes."}
    for one in (whole, part):
        one["properties"] = {"extends": extends, **one["properties"]}
    part["required"] = ["extends"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "gemvane hardware",
        "type": "object",
        "if": {"required": ["extends"]},
        "then": part,
        "else": whole,
        "$defs": definitions,
    }


def _partial(node: Any) -> Any:
    """The schema with nothing required but the value of a number that says its source."""
    if isinstance(node, list):
        return [_partial(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = copy.copy(node)
    if out.get("required") != ["value"]:
        out.pop("required", None)
    if "discriminator" in out:      # without its kind, a unit may be of several kinds
        out.pop("discriminator")
        out["anyOf"] = out.pop("oneOf")
    if isinstance(out.get("$ref"), str):
        out["$ref"] = out["$ref"].replace("#/$defs/", "#/$defs/Part")
    return {key: _partial(value) if key not in ("$ref", "required") else value for key, value in out.items()}
