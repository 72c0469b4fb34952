"""Area of a chip's parts: counts x areas, with the range of what is known of each. For comparing design points, not for floor plans."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator

from .hardware import Hardware
from .nodes import area_factor
from .pimschema import Pim
from .quantity import Length, Source, Strict
from .schema import Systolic, Vector
from .units import parse
from .yamltree import is_leaf, read_tree


class Area(NamedTuple):
    """Square millimetres (or a share), and the range in which it lies."""

    mm2: float
    low: float
    high: float

    def times(self, count: float) -> Area:
        return Area(self.mm2 * count, self.low * count, self.high * count)


def _read(dimension: str) -> Any:
    def read(leaf: Any) -> Area:
        if not is_leaf(leaf) or not {"low", "high", "source"} <= set(leaf):
            raise ValueError(f"{leaf!r}: want {{value: ..., low: ..., high: ..., source: ...}}.")
        value, low, high = (float(parse(leaf[key], dimension)) for key in ("value", "low", "high"))
        if not low <= value <= high:
            raise ValueError(f"{leaf['value']!r} is not between {leaf['low']!r} and {leaf['high']!r}.")
        return Area(value, low, high)

    return BeforeValidator(read)


class AreaTable(Strict):
    """What one of each part takes: hw_configs/area/*.yaml."""

    schema_version: Literal[1]
    name: str
    node: Annotated[Length, BeforeValidator(lambda leaf: leaf["value"] if is_leaf(leaf) else leaf)]
    description: str
    sources: dict[str, Source]
    areas: dict[str, Annotated[Area, _read("area")]]
    shares: dict[str, Annotated[Area, _read("fraction")]]


@lru_cache(maxsize=1)
def table() -> AreaTable:
    """The bundled areas."""
    text = (resources.files("gemvane.hw_configs") / "area" / "7nm.yaml").read_text(encoding="utf-8")
    return AreaTable.model_validate(read_tree(text, "hw_configs/area/7nm.yaml").data)


def parts(hardware: Hardware) -> dict[str, Area]:
    """Square millimetres of each part of one chip that has arrays: name -> Area; {} for hardware without arrays.

    Logic and SRAM are scaled to the node of the hardware (`energy.node`), interfaces are not. Control, network on chip and links are
    not in it.
    """
    spec, known = hardware.spec, table().areas
    arrays = {name: unit for name, unit in spec.units.items() if isinstance(unit, Systolic)}
    if not arrays:
        return {}
    scale = area_factor(table().node, spec.energy.node) if spec.energy.node else 1.0
    out = {}
    for name, unit in arrays.items():
        cell = max((known[f"mac_{dtype}"].times(max(rate, 1.0)) for dtype, rate in unit.macs_per_cell.items()), key=lambda a: a.mm2)
        out[name] = cell.times(scale * unit.num_arrays * unit.rows * unit.cols)
        out[f"{name} SRAM"] = known["sram_bit"].times(scale * 8 * (unit.sram + (unit.accumulators or 0)))
    out |= {name: known["vector_lane"].times(scale * unit.num_lanes) for name, unit in spec.units.items() if isinstance(unit, Vector)}
    if spec.memory.pins:
        part, pins = ("hbm_kilobit", 1024) if spec.memory.technology.startswith("HBM") else ("ddr_pin", 1)
        out["memory interface"] = known[part].times(spec.memory.pins / pins)
    return out


def total(hardware: Hardware) -> Area | None:
    """The sum of `parts`; None for hardware without arrays."""
    found = parts(hardware)
    return Area(*(sum(column) for column in zip(*found.values(), strict=True))) if found else None


def dram_share(hardware: Hardware) -> float:
    """What the second row buffer of its banks adds to the area of the DRAM dies; 0 where there is none."""
    dual = any(isinstance(unit, Pim) and unit.buffers == "dual" for unit in hardware.spec.units.values())
    return table().shares["dual_row_buffer"].mm2 if dual else 0.0
