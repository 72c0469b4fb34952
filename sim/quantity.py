"""Types of the fields of YAML files: quantities with units, counts, shares, and the origin that a number may state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from .units import DIMENSIONS, parse

Confidence = Literal["measured", "datasheet", "paper", "source", "second-hand", "derived", "memory", "guess", "policy"]
CONFIDENCES: tuple[str, ...] = get_args(Confidence)


def _or_leaf(schema: dict[str, Any]) -> dict[str, Any]:
    """The editors' schema of a number: bare, or a mapping that says where it comes from."""
    origin = {"source": {"type": "string"}, "confidence": {"enum": list(CONFIDENCES)}, "note": {"type": "string"}}
    leaf = {"type": "object", "properties": {"value": schema, **origin}, "required": ["value"], "additionalProperties": False}
    return {"anyOf": [schema, leaf]}


@dataclass(frozen=True, eq=False)
class Quantity:
    """A field that is read by `read` and shown to editors as `json`."""

    read: Callable[[Any], float]
    json: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return _or_leaf(self.json)


def _of(dimension: str) -> Quantity:
    want = DIMENSIONS[dimension]

    def above_zero(text: object) -> float:
        value = parse(text, dimension)
        if value == 0:
            raise ValueError(f"{text!r} is zero. Expected a {want.name} above zero, e.g. '{want.example}'.")
        return value

    return Quantity(above_zero, {"type": "string", "description": f"a {want.name}, e.g. '{want.example}'", "examples": [want.example]})


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a count. Expected a whole number, e.g. 128.")
    if value <= 0:
        raise ValueError(f"{value!r} is not positive. Expected a whole number above zero.")
    return value


def _power_of_two(value: object) -> int:
    count = _count(value)
    if count & (count - 1):
        raise ValueError(f"{count} is not a power of two, which this hardware needs.")
    return count


def _share(text: object) -> float:
    share = float(parse(text, "fraction"))
    if not 0 < share <= 1:
        raise ValueError(f"{text!r} is not a share. Expected more than 0 % and at most 100 %.")
    return share


def _sub_batches(value: object) -> int | str:
    return "auto" if value == "auto" else _count(value)


def _per_cell(value: object) -> float:
    return float(_count(value)) if isinstance(value, int) else float(parse(value, "fraction"))


def _price(action: str, text: object) -> float:
    return float(parse(text, "energy per bit" if action.endswith("_bytes") else "energy"))


def _prices(prices: object) -> dict[str, float]:
    if not isinstance(prices, dict):
        raise ValueError(f"{prices!r} is not a mapping of actions to prices.")
    out = {}
    for action, text in prices.items():
        try:
            out[action] = _price(action, text)
        except ValueError as error:
            raise ValueError(f"{action}: {error}") from None
    return out


Size = Annotated[int, _of("size")]
Bandwidth = Annotated[int, _of("bandwidth")]
PinRate = Annotated[int, _of("pin rate")]
Frequency = Annotated[int, _of("frequency")]
Time = Annotated[int, _of("time")]
ComputeRate = Annotated[int, _of("compute rate")]
Power = Annotated[float, _of("power")]
Length = Annotated[float, _of("length")]
Share = Annotated[float, Quantity(_share, {"type": "string", "examples": ["88 %"]})]
Count = Annotated[int, Quantity(_count, {"type": "integer", "minimum": 1})]
SubBatches = Annotated[int | Literal["auto"], Quantity(_sub_batches, {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]})]
PowerOfTwo = Annotated[int, Quantity(_power_of_two, {"type": "integer", "minimum": 1})]
PerCell = Annotated[float, Quantity(_per_cell, {"anyOf": [{"type": "integer"}, {"type": "string"}]})]
Prices = Annotated[dict[str, float], BeforeValidator(_prices),
                   WithJsonSchema({"type": "object", "description": "action: '0.59 pJ', or '3.9 pJ/bit' for *_bytes"})]

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int16", "int8", "int4", "fp4"]


class Strict(BaseModel):
    """A mapping that knows all its keys and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Strict):
    cite: str
    confidence: Confidence
