"""A memory part: a YAML file, checked and frozen, and resolved once into whole ticks and flat arrays for kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..hardware import Provenance
from ..quantity import CONFIDENCES
from ..yamlcheck import nearest, validated
from ..yamltree import NotFoundError, Tree, dotted, extended, is_leaf, plain
from .expression import evaluate
from .partschema import LEVELS, PROTOCOLS, Constraint, PartSpec

Int64s = NDArray[np.int64]
HISTORY = 8
"""Commands of one kind that the engine remembers at a node: the widest window of a constraint."""
SECTIONS = ("organisation", "clock", "timings", "commands", "pim")
"""Mappings whose numbers describe silicon and keep their origin."""


@dataclass(frozen=True)
class Part:
    """One channel of a memory: checked fields (`spec`), and the text and origin of every number (`provenance`, by dotted key)."""

    spec: PartSpec
    provenance: dict[str, Provenance]
    tree: Tree
    file: str

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def resolved(self) -> ResolvedPart:
        """`resolve` of this part, once."""
        return resolve(self)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """`rules` of this part, once."""
        return tuple(rules(self))

    @property
    def commands(self) -> tuple[str, ...]:
        """Names by command id."""
        return tuple(self.spec.commands)

    @property
    def tick_ps(self) -> Fraction:
        """Picoseconds of one tick, exact."""
        return self.spec.clock.period / self.spec.clock.ticks

    @property
    def request_bytes(self) -> int:
        return self.spec.organisation.request

    @property
    def rows(self) -> int:
        return self.spec.organisation.rows

    @property
    def columns(self) -> int:
        """Requests in one row of one bank."""
        return self.spec.organisation.columns


class ResolvedPart(NamedTuple):
    """A part for kernels. Levels are 0 channel, 1 pseudo-channel, 2 rank (stack ID), 3 bank group, 4 bank; times are ticks.

    The rules of previous command p at level l are rule_*[rule_ptr[l * C + p] : rule_ptr[l * C + p + 1]] for C commands.
    """

    counts: Int64s
    """[4] nodes of levels 1 to 4 inside one of the level above."""
    rule_ptr: Int64s
    rule_next: Int64s
    rule_ticks: Int64s
    rule_window: Int64s
    rule_sibling: Int64s
    """1 where the rule holds for the other nodes of the level, not for the node itself."""
    scope: Int64s
    """[C] level of what a command addresses."""
    on_row_bus: Int64s
    """[C] 1 row bus, 0 column bus or the only bus."""
    length: Int64s
    """[C] ticks that a command keeps its bus."""
    act: int
    act2: int
    pre: int
    preab: int
    rd: int
    wr: int
    rda: int
    wra: int
    refab: int
    refpb: int
    refsb: int
    cas_rd: int
    cas_wr: int
    read_latency: int
    """From a read to the end of its data."""
    ticks_per_clock: int
    refresh_interval: int
    bank_refresh_interval: int
    """Between the refreshes of one bank and of the next of its rank; 0 where the part does not say."""
    refresh_level: int
    protocol: int
    """0 single, 1 hbm, 2 hbm-half, 3 lpddr5."""
    aad: int
    wck_read: int
    wck_write: int


class Rule(NamedTuple):
    """One line of the resolved table. Where two lines differ in `ticks` alone, the longer one holds."""

    level: int
    prev: int
    next: int
    window: int
    sibling: int
    ticks: int


def names() -> list[str]:
    """Bundled parts, sorted."""
    return sorted(_bundled())


def load(part: str | Path | Part) -> Part:
    """The part of a bundled name or of a YAML file.

    Raises ValueError with file, line, key, value and wish for anything wrong in the file or in one that it extends.
    """
    if isinstance(part, Part):
        return part
    return _bundled_part(str(part)) if str(part) in _bundled() else _read(str(part))


@lru_cache(maxsize=64)
def _bundled_part(name: str) -> Part:
    """Read once: the points of a sweep name the same few parts."""
    return _read(name)


def _read(where: str) -> Part:
    tree = extended(where, _open)
    spec: PartSpec = validated(PartSpec, tree, plain(tree, CONFIDENCES, tree.data.get("sources", {})), "memory part", "")
    for name, clocks in spec.timings.items():
        leaf = tree.data["timings"][name]
        if clocks == 0 and not (is_leaf(leaf) and leaf.get("note")):
            raise ValueError(f"{tree.at(('timings', name))}: timings.{name} is 0. Expected clocks above zero, "
                             "or a note that says why there are none.")
    loaded = Part(spec, dict(_provenance(tree)), tree, tree.mark(("name",))[0])
    _ = loaded.resolved
    return loaded


def rules(part: Part) -> list[Rule]:
    """The resolved table, sorted. ValueError for a constraint that names what is not there or comes out below zero."""
    ids = {name: i for i, name in enumerate(part.commands)}
    lengths = _lengths(part)
    table: dict[tuple[int, int, int, int, int], int] = {}
    for rule in (*_bus_rules(part, lengths), *_timing_rules(part, ids, lengths)):
        table[rule[:-1]] = max(rule.ticks, table.get(rule[:-1], 0))
    return sorted(Rule(*key, ticks) for key, ticks in table.items())


def _lengths(part: Part) -> list[int]:
    """Ticks that each command keeps its bus."""
    return [int(command.cycles * part.spec.clock.ticks) for command in part.spec.commands.values()]


def resolve(part: Part) -> ResolvedPart:
    """The part in ticks. ValueError where `rules` raises it, and for an interval or latency below one clock."""
    spec, ids = part.spec, {name: i for i, name in enumerate(part.commands)}
    scopes = [_level(part, command.scope, ("commands", name, "scope")) for name, command in spec.commands.items()]
    table = part.rules
    rows = np.array([level * len(ids) + prev for level, prev, *_ in table], np.int64)

    def ticks(expression: str, *path: str) -> int:
        return _value(part, expression, path, least=1) * spec.clock.ticks

    only = spec.lpddr5
    return ResolvedPart(
        counts=np.array(_counts(spec.organisation.levels), np.int64),
        rule_ptr=np.searchsorted(rows, np.arange(5 * len(ids) + 1)).astype(np.int64),
        rule_next=np.array([rule.next for rule in table], np.int64),
        rule_ticks=np.array([rule.ticks for rule in table], np.int64),
        rule_window=np.array([rule.window for rule in table], np.int64),
        rule_sibling=np.array([rule.sibling for rule in table], np.int64),
        scope=np.array(scopes, np.int64),
        on_row_bus=np.array([command.bus == "row" for command in spec.commands.values()], np.int64),
        length=np.array(_lengths(part), np.int64),
        act=ids.get("ACT", ids.get("ACT1", -1)), act2=ids.get("ACT2", -1), pre=ids["PREpb"], preab=ids["PREab"],
        rd=ids["RD"], wr=ids["WR"], rda=ids.get("RDA", -1), wra=ids.get("WRA", -1),
        refab=ids[spec.refresh.command], refpb=ids.get("REFpb", -1), refsb=ids.get("REFsb", -1),
        cas_rd=ids.get("CAS_RD", -1), cas_wr=ids.get("CAS_WR", -1),
        read_latency=ticks(spec.read_latency, "read_latency"),
        ticks_per_clock=spec.clock.ticks,
        refresh_interval=ticks(spec.refresh.interval, "refresh", "interval"),
        bank_refresh_interval=ticks(spec.refresh.bank_interval, "refresh", "bank_interval") if spec.refresh.bank_interval else 0,
        refresh_level=scopes[ids[spec.refresh.command]],
        protocol=PROTOCOLS.index(spec.protocol),
        aad=ticks(only.act2_within, "lpddr5", "act2_within") if only else 0,
        wck_read=ticks(only.wck_read, "lpddr5", "wck_read") if only else 0,
        wck_write=ticks(only.wck_write, "lpddr5", "wck_write") if only else 0,
    )


def _counts(levels: Any) -> list[int]:
    return [next((n for name, n in levels.items() if LEVELS[name] == level), 1) for level in range(1, 5)]


def _bus_rules(part: Part, lengths: list[int]) -> Iterator[Rule]:
    """A command longer than a tick keeps the other commands off its bus, whatever they address."""
    buses = [command.bus for command in part.spec.commands.values()]
    for prev, length in enumerate(lengths):
        if length > 1:
            yield from (Rule(0, prev, after, 1, 0, length) for after, bus in enumerate(buses) if bus == buses[prev])


def _timing_rules(part: Part, ids: dict[str, int], lengths: list[int]) -> Iterator[Rule]:
    """The constraints of the file in ticks, from the end of one command to the end of the other."""
    lists: dict[tuple[str, ...], list[Constraint]] = {("constraints",): part.spec.constraints}
    lists |= {("commands", name, "constraints"): command.constraints for name, command in part.spec.commands.items()}
    lists |= {("pim", "constraints"): part.spec.pim.constraints} if part.spec.pim else {}
    for where, rule in (((*of, i), rule) for of, listed in lists.items() for i, rule in enumerate(listed)):
        level = _level(part, rule.level, (*where, "level"))
        clocks = _value(part, rule.latency, (*where, "latency"))
        if rule.window > HISTORY:
            raise _fault(part, (*where, "window"), f"{rule.window} is longer than the history of {HISTORY} commands that the engine keeps.")
        for key, called in (("prev", rule.prev), ("next", rule.next)):
            for name in called:
                if name not in ids:
                    raise _fault(part, (*where, key), f"no command {name!r}{nearest(name, part.commands)}. Expected some of "
                                                      f"{', '.join(part.commands)}.")
        for before in rule.prev:
            for after in rule.next:
                ticks = clocks * part.spec.clock.ticks + lengths[ids[before]] - lengths[ids[after]]
                if ticks < 0:
                    raise _fault(part, (*where, "latency"), f"{rule.latency!r} makes {before} to {after} {ticks} ticks. "
                                                            "Expected 0 or more.")
                yield Rule(level, ids[before], ids[after], rule.window, int(rule.sibling), ticks)


def _value(part: Part, expression: str, path: tuple[Any, ...], least: int = 0) -> int:
    try:
        value = evaluate(expression, part.spec.timings)
    except ValueError as error:
        raise _fault(part, path, str(error)) from None
    if value < least:
        raise _fault(part, path, f"{expression!r} is {value} clocks. Expected {least} or more.")
    return value


def _level(part: Part, name: str, path: tuple[Any, ...]) -> int:
    known = ("channel", *part.spec.organisation.levels)
    if name not in known:
        raise _fault(part, path, f"no level {name!r}{nearest(name, known)}. Expected one of {', '.join(known)}.")
    return LEVELS[name]


def _fault(part: Part, path: tuple[Any, ...], said: str) -> ValueError:
    return ValueError(f"{part.tree.at(path)}: {dotted(path)}: {said}")


@lru_cache(maxsize=1)
def _bundled() -> dict[str, Any]:
    folder = resources.files("gemvane.hw_configs") / "memory"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}


def _open(where: str, base: Path | None) -> tuple[str, str, Path | None]:
    """Text, name for messages, and folder of a bundled name or a path (relative to `base`)."""
    if where in _bundled():
        return _bundled()[where].read_text(encoding="utf-8"), f"hw_configs/memory/{where}.yaml", None
    path = (base / where) if base else Path(where)
    try:
        if where and path.is_dir():
            raise NotFoundError(f"{where}: is a folder. Expected a memory YAML file.")
        if where and path.exists():
            return path.read_text(encoding="utf-8"), str(path), path.parent
    except (OSError, UnicodeDecodeError) as error:
        raise NotFoundError(f"{where}: cannot be read: {error}") from None
    raise NotFoundError(f"unknown memory part {where!r}{nearest(where, names())}; there are {', '.join(names())}; "
                        "or give the path of a YAML file")


def _provenance(tree: Tree) -> Iterator[tuple[str, Provenance]]:
    sources = tree.data.get("sources", {})

    def walk(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[str, Provenance]]:
        file, line = tree.mark(path)
        if is_leaf(node):
            source = sources.get(node.get("source"), {})
            confidence = node.get("confidence", source.get("confidence"))
            yield dotted(path), Provenance(str(node["value"]), source.get("cite"), confidence, file, line)
        elif isinstance(node, dict):
            for key, value in node.items():
                yield from walk(value, (*path, key))
        elif isinstance(node, (int, float)) or (isinstance(node, str) and node[:1].isdigit()):
            yield dotted(path), Provenance(str(node), None, None, file, line)

    for section in SECTIONS:
        yield from walk(tree.data.get(section, {}), (section,))
