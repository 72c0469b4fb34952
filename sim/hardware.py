"""Hardware: a YAML file, checked and frozen. Every number keeps where it came from."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from . import schema
from .costs import ACTIONS
from .schema import CONFIDENCES, HardwareSpec, PriceTable
from .yamltree import NotFoundError, Tree, dotted, extended, is_leaf, plain, read_tree

FAMILIES = ("gpu", "tpu", "npu", "pim", "cpu")
"""Folders of hw_configs that hold devices."""
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
        """pJ an action, pJ a bit for *_bytes: the energy table with this device's own prices over it."""
        return price_table(self.spec.energy.table).prices | self.spec.energy.prices

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


def nearest(word: str, known: list[str] | tuple[str, ...]) -> str:
    """" (did you mean 'x'?)", or nothing where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


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
    try:
        return model.model_validate(plain(tree, CONFIDENCES))
    except ValidationError as error:
        problems = sorted((_problem(model, tree, e) for e in error.errors()), key=lambda p: p[0])
        more = f" ({len(problems) - 1} more like this: `gemvane hw check` lists them)" if len(problems) > 1 else ""
        raise HardwareError(problems[0][1] + more, tuple(text for _, text in problems)) from None


class HardwareError(ValueError):
    """A file that does not say what it should; `problems` has every fault, one sentence each."""

    def __init__(self, message: str, problems: tuple[str, ...]) -> None:
        super().__init__(message)
        self.problems = problems


def _problem(model: Any, tree: Tree, error: Any) -> tuple[tuple[bool, str, int], str]:
    """Sort key (a misspelt key comes before the missing one that it causes) and sentence of one pydantic error."""
    path, siblings = _path_in_file(tree, error["loc"])
    file, line = tree.mark(path)
    where, key = tree.at(path), dotted(path)
    kind, got = error["type"], error.get("input")
    if kind == "extra_forbidden":
        known = _known_keys(model, error["loc"])
        wish = "" if nearest(path[-1], known) else f" Known fields: {', '.join(known)}."
        text = f"{where}: {key}: unknown field '{path[-1]}'{nearest(path[-1], known)}.{wish}"
    elif kind == "missing":
        near = nearest(path[-1], [s for s in siblings if s not in _known_keys(model, error["loc"])])
        text = f"{where}: {key} is missing{near}. Every {dotted(path[:-1]) or 'hardware file'} needs it."
    elif kind in ("literal_error", "union_tag_invalid"):
        expected = error["ctx"].get("expected") or error["ctx"].get("expected_tags")
        value = got.get("kind") if kind == "union_tag_invalid" and isinstance(got, dict) else got
        text = f"{where}: {key}: {value!r} is not known here. Expected one of {expected}."
    elif kind == "union_tag_not_found":
        text = f"{where}: {key}.kind is missing. Expected one of {', '.join(schema.CAN_RUN)}."
    elif kind == "value_error":
        said = error["msg"].removeprefix("Value error, ")
        inner = (*path, *said.split()[0].rstrip(":").split("."))
        if inner in tree.marks:  # a check of several fields begins with the one that is at fault
            file, line = tree.marks[inner]
            text = f"{tree.at(inner)}: {dotted((*path, said))}"
        else:
            text = f"{where}: {key}: {said}"
    else:
        text = f"{where}: {key}: {got!r}: {error['msg'][0].lower()}{error['msg'][1:]}."
    return (kind == "missing", file, line), text


def _path_in_file(tree: Tree, loc: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[str]]:
    """The keys of an error as they stand in the file (pydantic adds the tag of a union and [key])."""
    node, path = tree.data, []
    for part in loc:
        if part == "[key]":
            break
        inside = (isinstance(node, dict) and part in node) or (isinstance(node, list) and isinstance(part, int))
        if not inside and isinstance(node, dict) and node.get("kind") == part:
            continue
        path.append(part)
        if not inside:
            break
        node = node[part]
    parent: Any = tree.data
    for part in path[:-1]:
        parent = parent[part]
    return tuple(path), list(parent) if isinstance(parent, dict) else []


def _known_keys(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """Fields of the mapping in which an unknown or missing key was met."""
    if len(loc) == 1:
        return list(model.model_fields)
    if loc[0] == "units":
        by_kind = {k.__name__.lower(): k for k in (schema.Gpu, schema.Systolic, schema.Vector, schema.Pim, schema.Cpu, schema.Link)}
        return list(by_kind[loc[2]].model_fields) if len(loc) > 3 and loc[2] in by_kind else []
    sections: dict[str, type[schema.Strict]] = {"memory": schema.Memory, "schedule": schema.Schedule, "power": schema.PowerBudget,
                                                "energy": schema.EnergySpec, "sources": schema.Source}
    inner = sections.get(str(loc[0]))
    return list(inner.model_fields) if inner else []


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
