"""Technology nodes: how area and switching energy of logic change from one to another (hw_configs/nodes)."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from .quantity import Source, Strict
from .units import parse
from .yamltree import is_leaf, read_tree

FILE = "stillmaker-baas.yaml"


def _quantity(dimension: str) -> Any:
    return BeforeValidator(lambda leaf: float(parse(_value(leaf), dimension)))


def _polynomial(leaf: Any) -> tuple[float, float, float]:
    a, b, c = _value(leaf)
    return float(a), float(b), float(c)


def _value(leaf: Any) -> Any:
    if not is_leaf(leaf) or "source" not in leaf:
        raise ValueError(f"{leaf!r} has no source. Expected {{value: ..., source: ...}}.")
    return leaf["value"]


class Node(Strict):
    """One technology node: area beside 7 nm, usual supply voltage in volts, and a, b, c of the energy of a switch."""

    area: Annotated[float, _quantity("ratio")]
    voltage: Annotated[float, _quantity("voltage")]
    energy: Annotated[tuple[float, float, float], BeforeValidator(_polynomial)]

    @property
    def switch(self) -> float:
        """Energy of a switch at the node's usual voltage, in units of the table."""
        a, b, c = self.energy
        return a * self.voltage**2 + b * self.voltage + c


class Nodes(Strict):
    schema_version: Literal[1]
    name: str
    description: str
    sources: dict[str, Source]
    nodes: dict[str, Node]


@lru_cache(maxsize=1)
def table() -> Nodes:
    """The bundled table of nodes."""
    text = (resources.files("gemvane.hw_configs") / "nodes" / FILE).read_text(encoding="utf-8")
    return Nodes.model_validate(read_tree(text, f"hw_configs/nodes/{FILE}").data)


def node(nanometres: float) -> Node:
    """The node of that length. ValueError where the table has none."""
    known = {parse(name, "length"): entry for name, entry in table().nodes.items()}
    if nanometres not in known:
        raise ValueError(f"there is no node of {nanometres:g} nm in the table. Expected one of {', '.join(table().nodes)}.")
    return known[nanometres]


def energy_factor(from_nm: float, to_nm: float) -> float:
    """What energy of logic at one node is multiplied by for another, each at its usual voltage (Stillmaker and Baas 2017)."""
    return node(to_nm).switch / node(from_nm).switch


def area_factor(from_nm: float, to_nm: float) -> float:
    """The same for area."""
    return node(to_nm).area / node(from_nm).area
