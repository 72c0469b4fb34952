"""Hardware: a YAML file, checked and frozen. Every number keeps where it came from."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from .costs import ACTIONS
from .nodes import energy_factor, node
from .quantity import CONFIDENCES
from .schema import HardwareSpec, PriceTable
from .yamlcheck import nearest, validated
from .yamltree import NotFoundError, Tree, dotted, extended, is_leaf, plain, read_tree

__all__ = ["FAMILIES", "Hardware", "Provenance", "load", "names", "nearest", "price_table"]

FAMILIES = ("gpu", "tpu", "npu", "pim", "cpu")
"""Folders of hw_configs that hold devices."""
LOGIC = ("mac_", "vector_op", "sram_", "l2_")
"""Actions whose energy follows the technology node; DRAM, PIM and links have prices of their own."""
OPTIONAL = (("schedule",), ("energy", "prices"))
"""Mappings that a file may leave out and a change may reach into."""


@dataclass(frozen=True)
class Provenance:
    """One number as it was written, and why anybody should believe it."""

    text: str
    cite: str | None
    confidence: str | None
    file: str
    line: int


@dataclass(frozen=True)
class Hardware:
    """One device: checked fields (`spec`), and the text and origin of every number (`provenance`, by dotted key)."""

    spec: HardwareSpec
    provenance: dict[str, Provenance]
    tree: Tree

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def prices(self) -> dict[str, float]:
        """pJ an action, pJ a bit for *_bytes: the energy table, logic scaled to the device's node, with its own prices over it."""
        table, energy = price_table(self.spec.energy.table), self.spec.energy
        factor = energy_factor(table.node, energy.node) if energy.node else 1.0
        scaled = {action: price * (factor if action.startswith(LOGIC) else 1.0) for action, price in table.prices.items()}
        return scaled | energy.prices

    def replace(self, changes: dict[str, Any]) -> Hardware:
        """This hardware with some values changed, e.g. {"memory.bandwidth": "4.8 TB/s"}; checked as a file is.

        A new bandwidth alone leaves the pin rate open. Raises ValueError for a key that the hardware does not have or a
        value that does not fit.
        """
        tree = self.tree
        if "memory.bandwidth" in changes and not changes.keys() & {"memory.pins", "memory.pin_rate"}:
            changes = {"memory.pin_rate": None, **changes}
        for key, value in changes.items():
            path = tuple(key.split("."))
            for section in OPTIONAL:
                if path[: len(section)] == section and section not in tree.marks:
                    tree = tree.replaced(section, {})
            tree = tree.replaced(path, value)
        return _checked(tree)


def names() -> list[str]:
    """Bundled hardware, sorted."""
    return sorted(_bundled())


def load(hardware: str | Path | Hardware) -> Hardware:
    """The hardware of a bundled name or of a YAML file.

    Raises ValueError with file, line, key, value and wish for anything wrong in the file or in one that it extends.
    """
    if isinstance(hardware, Hardware):
        return hardware
    return _checked(extended(str(hardware), _open))


@lru_cache(maxsize=8)
def price_table(name: str) -> PriceTable:
    """The bundled energy table of that name; ValueError where there is none."""
    folder = resources.files("gemvane.hw_configs") / "energy"
    known = sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))
    if name not in known:
        raise NotFoundError(f"no price table {name!r}{nearest(name, known)}; there are {', '.join(known)}.")
    tree = read_tree((folder / f"{name}.yaml").read_text(encoding="utf-8"), f"hw_configs/energy/{name}.yaml")
    table: PriceTable = _validated(PriceTable, tree)
    _check_actions(table.prices, ("prices",), tree)
    return table


@lru_cache(maxsize=1)
def _bundled() -> dict[str, Any]:
    root = resources.files("gemvane.hw_configs")
    return {file.name.removesuffix(".yaml"): file
            for family in FAMILIES if (root / family).is_dir()
            for file in (root / family).iterdir() if file.name.endswith(".yaml")}


def _open(where: str, base: Path | None) -> tuple[str, str, Path | None]:
    """Text, name for messages, and folder of a bundled name or a path (relative to `base`)."""
    if where in _bundled():
        file = _bundled()[where]
        folder = Path(str(file)).parent.name
        return file.read_text(encoding="utf-8"), f"hw_configs/{folder}/{file.name}", None
    path = (base / where) if base else Path(where)
    try:
        if where and path.is_dir():
            raise NotFoundError(f"{where}: is a folder. Expected a hardware YAML file.")
        if where and path.exists():
            return path.read_text(encoding="utf-8"), str(path), path.parent
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"{where}: cannot be read: {error}") from None
    near = difflib.get_close_matches(where, names(), n=3, cutoff=0.4)
    hint = f"nearest are {', '.join(near)}" if near else "`gemvane hw list` shows the bundled ones"
    raise NotFoundError(f"unknown hardware {where!r}: {hint}; or give the path of a YAML file")


def _checked(tree: Tree) -> Hardware:
    spec = _validated(HardwareSpec, tree)
    _check_actions(spec.energy.prices, ("energy", "prices"), tree)
    if spec.energy.node:
        try:
            node(spec.energy.node)
        except ValueError as error:
            raise ValueError(f"{tree.at(('energy', 'node'))}: energy.node: {error}") from None
    try:
        price_table(spec.energy.table)
    except NotFoundError as error:
        raise ValueError(f"{tree.at(('energy', 'table'))}: energy.table: {error}") from None
    return Hardware(spec, dict(_provenance(tree)), tree)


def _check_actions(prices: dict[str, float], path: tuple[str, ...], tree: Tree) -> None:
    """ValueError for the price of an action that no model counts."""
    for action in prices:
        if action not in ACTIONS:
            where = (*path, action)
            raise ValueError(f"{tree.at(where)}: {dotted(where)}: no model counts this action{nearest(action, ACTIONS)}.")


def _validated(model: Any, tree: Tree) -> Any:
    return validated(model, tree, plain(tree, CONFIDENCES), "hardware file", ": `gemvane hw check` lists them")


def _provenance(tree: Tree) -> Iterator[tuple[str, Provenance]]:
    sources = tree.data.get("sources", {})

    def walk(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[str, Provenance]]:
        file, line = tree.mark(path)
        if is_leaf(node):
            source = sources.get(node.get("source"), {})
            cite = source.get("cite", node.get("source"))
            yield dotted(path), Provenance(str(node["value"]), cite, node.get("confidence", source.get("confidence")), file, line)
        elif isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, (*path, key))
        elif isinstance(node, list):
            for i, value in enumerate(node):
                yield from walk(value, (*path, i))
        elif isinstance(node, (int, float)) or (isinstance(node, str) and node[:1].isdigit()):
            yield dotted(path), Provenance(str(node), None, None, file, line)

    for path in (("memory",), ("units",), ("schedule",), ("power",), ("energy", "prices")):
        node: Any = tree.data
        for key in path:
            node = node.get(key, {})
        yield from walk(node, path)
