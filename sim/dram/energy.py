"""Energy of commands on one channel: counts x prices by term, plus power x time. No count goes unpriced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..hardware import nearest
from ..quantity import CONFIDENCES
from ..units import parse
from ..yamltree import NotFoundError, Tree, extended, is_leaf
from .part import Part, load, resolve
from .pimpart import PimPart, Stream

TERMS = ("activation", "array", "movement", "tsv", "io", "refresh", "standby", "pim_mac", "second_row_buffer")
UNITS = {
    "activation": "energy", "array_read": "energy per bit", "array_write": "energy per bit", "movement": "energy per bit",
    "group_movement": "energy per bit", "tsv": "energy per bit", "io": "energy per bit", "refresh": "energy", "standby": "power",
    "second_row_buffer": "power", "pim_read": "energy per bit", "pim_mac": "energy",
}
"""Price -> its dimension: per bit of a request, per row, per REFab, per MAC, or all the time. group_movement is the part of movement
from an array to its bank group."""
STEP = "STEP"
"""Counts steps of composite dot products (COMPS_READRES) beside their number; a COMP is one step by itself."""
FREE = ("PREpb", "PREab", "PIM_PRECHARGE", "P_HEADER", "ACT1", "CAS_RD", "CAS_WR", "TMOD", "MODE_AB", "MODE_SB", "SFM")
"""Closing a row is in the price of opening it, ACT1 is half of what ACT2 pays for, and the rest only sets up a command.
The softmax unit of SFM has no public figure."""
_IN = ("WR_GB", "WR_BIAS", "WR_CRF", "WR_SRF", "WR_GRF", "WRGB")
"""PIM commands that bring one request from outside to buffers or registers, _OUT that read one, _INSIDE that move one to another die."""
_OUT = ("RD_MAC", "RD_AF", "RD_GRF")
_INSIDE = ("MVSB", "MVGB")
_STEPS = ("COMP", STEP, "MACAB", "MAC", "ADD", "MUL")
"""One column of the bank of every unit, multiplied."""
_KEYS = ("schema_version", "name", "description", "standards", "stands_in_for", "sources", "prices", "ranges",
         "pim_read_factors", "not_covered")


class Price(NamedTuple):
    """pJ, pJ a bit or W, between what other sources say, and where it comes from."""

    value: float
    low: float
    high: float
    cite: str
    confidence: str


@dataclass(frozen=True)
class DramPrices:
    """What commands of one technology cost: hw_configs/dram-energy/*.yaml."""

    name: str
    standards: tuple[str, ...]
    stands_in_for: tuple[str, ...]
    """Standards without public figures of their own."""
    prices: dict[str, Price]
    pim_read_factors: dict[str, float]
    """Source -> how many READs an all-bank dot-product step is; the first is the default."""
    not_covered: tuple[str, ...]
    """Prices that the sources have no figure for: they count nothing and are named in results."""


@dataclass(frozen=True)
class DramEnergy:
    """Energy of one channel by term, in pJ."""

    part: str
    prices: str
    stand_in: bool
    """Whether the prices are those of another standard."""
    terms_pj: dict[str, float]
    low_pj: dict[str, float]
    """With the lowest price of every source, and the lowest number of READs a dot-product step."""
    high_pj: dict[str, float]
    pim_read_factor: float | None
    pim_read_pj: dict[str, float]
    """Source of a factor -> array reads of all dot-product steps with it."""
    not_covered: tuple[str, ...]

    @property
    def total_pj(self) -> float:
        return sum(self.terms_pj.values())

    @property
    def pim_read_spread(self) -> float:
        """The largest over the smallest of `pim_read_pj`, less one; 0 where nothing is multiplied."""
        some = [pj for pj in self.pim_read_pj.values() if pj]
        return max(some) / min(some) - 1 if some else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The value of "energy_pj" in the JSON object of `gemvane dram replay --json`."""
        return {"total": self.total_pj, "low": sum(self.low_pj.values()), "high": sum(self.high_pj.values()), "terms": self.terms_pj,
                "pim_read": self.pim_read_pj, "prices": self.prices, "stand_in": self.stand_in, "not_covered": list(self.not_covered)}


def names() -> list[str]:
    """Bundled price files, sorted."""
    return sorted(_bundled())


@lru_cache(maxsize=1)
def _bundled() -> dict[str, Any]:
    folder = resources.files("gemvane.hw_configs") / "dram-energy"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}


@lru_cache(maxsize=16)
def load_prices(prices: str | Path) -> DramPrices:
    """The prices of a bundled name or of a YAML file. ValueError with file, line, key and value for anything wrong in it."""
    return _read(extended(str(prices), _open))


def _open(where: str, base: Path | None) -> tuple[str, str, Path | None]:
    """Text, name for messages, and folder of a bundled name or a path (relative to `base`)."""
    if where in _bundled():
        return _bundled()[where].read_text(encoding="utf-8"), f"hw_configs/dram-energy/{where}.yaml", None
    path = (base / where) if base else Path(where)
    try:
        return path.read_text(encoding="utf-8"), str(path), path.parent
    except (OSError, UnicodeDecodeError):
        raise NotFoundError(f"unknown DRAM prices {where!r}{nearest(where, names())}; there are {', '.join(names())}; "
                            "or give the path of a YAML file") from None


def prices_of(part: Part) -> DramPrices | None:
    """The bundled prices of a part's standard, or those that stand in for it; None where there are none."""
    tables = [load_prices(name) for name in names()]
    own = [table for table in tables if part.spec.standard in table.standards]
    near = [table for table in tables if part.spec.standard in table.stands_in_for]
    return next(iter(own + near), None)


def _read(tree: Tree) -> DramPrices:
    data = tree.data
    for key in data:
        if key not in _KEYS:
            raise ValueError(f"{tree.at((key,))}: {key}: unknown field{nearest(key, _KEYS)}. Known fields: {', '.join(_KEYS)}.")
    for key in _KEYS:
        if key not in data:
            raise ValueError(f"{tree.at(())}: {key} is missing. Every DRAM price file needs it.")
    for section in ("sources", "prices", "ranges", "pim_read_factors"):
        if not isinstance(data[section], dict):
            raise ValueError(f"{tree.at((section,))}: {section}: {data[section]!r} is no mapping.")
    for where, name in [(place, name) for place in ("prices", "ranges", "not_covered") for name in data[place]]:
        if name not in UNITS:
            raise ValueError(f"{tree.at((where, name))}: {where}.{name}: no such price{nearest(name, tuple(UNITS))}. "
                             f"Expected one of {', '.join(UNITS)}.")
    factors = {name: _number(tree, ("pim_read_factors", name)) for name in data["pim_read_factors"]}
    return DramPrices(str(data["name"]), tuple(data["standards"]), tuple(data["stands_in_for"]),
                      {name: _price(tree, name) for name in data["prices"]}, factors, tuple(data["not_covered"]))


def _price(tree: Tree, name: str) -> Price:
    value = _number(tree, ("prices", name), UNITS[name])
    ends = tree.data["ranges"].get(name, {})
    low, high = (_number(tree, ("ranges", name, end), UNITS[name]) if end in ends else value for end in ("low", "high"))
    if not low <= value <= high:
        raise ValueError(f"{tree.at(('prices', name))}: prices.{name} is {value:g}, outside its range of {low:g} to {high:g}.")
    source = tree.data["sources"][tree.data["prices"][name]["source"]]
    return Price(value, low, high, source["cite"], source["confidence"])


def _number(tree: Tree, path: tuple[str, ...], dimension: str | None = None) -> float:
    """The value of a leaf that has a source: a quantity of the dimension, or a plain number above zero."""
    leaf: Any = tree.data
    for key in path:
        leaf = leaf[key]
    where = f"{tree.at(path)}: {'.'.join(path)}"
    if not is_leaf(leaf):
        raise ValueError(f"{where}: {leaf!r} has no source. Expected {{value, source}}.")
    source = tree.data["sources"].get(leaf.get("source"))
    if not isinstance(source, dict) or not source.get("cite") or source.get("confidence") not in CONFIDENCES:
        raise ValueError(f"{where}: source {leaf.get('source')!r} is not in sources with a cite and a confidence.")
    value = leaf["value"]
    if dimension is None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{where}: {value!r} is no number above zero.")
        return float(value)
    try:
        return float(parse(value, dimension))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


class _Use(NamedTuple):
    """How much of a price one command takes, and the term that it belongs to."""

    term: str
    price: str
    amount: float


def _uses(part: Part) -> dict[str, tuple[_Use, ...]]:
    """What one command of each kind takes; an all-bank dot-product step takes one READ, to be multiplied."""
    counts = resolve(part).counts.tolist()
    scope = dict(zip(part.commands, resolve(part).scope.tolist(), strict=True))
    bits, row = 8 * part.request_bytes, 8 * part.request_bytes * part.columns
    banks = {name: math.prod(counts[level:]) for name, level in scope.items()}
    opens = [name for name, command in part.spec.commands.items() if command.opens or name in ("ACT", "ACT2")]
    out_of_die = (_Use("movement", "movement", bits), _Use("tsv", "tsv", bits), _Use("io", "io", bits))
    read, write = ((_Use("array", f"array_{kind}", bits), *out_of_die) for kind in ("read", "write"))
    refreshed = banks[part.spec.refresh.command]
    return {
        **dict.fromkeys(FREE, ()),
        **{name: (_Use("activation", "activation", banks[name]),) for name in opens},
        "RD": read, "RDA": read, "WR": write, "WRA": write,
        part.spec.refresh.command: (_Use("refresh", "refresh", 1),),
        "REFpb": (_Use("refresh", "refresh", 1 / refreshed),),
        "REFsb": (_Use("refresh", "refresh", counts[2] / refreshed),),  # one bank of every group
        "GWRITE": (_Use("array", "array_read", row), _Use("movement", "movement", row)),  # into the vector buffer of the channel
        **(_pim_uses(part, math.prod(counts), bits) if part.spec.pim else {}),
    }


def _pim_uses(part: Part, banks: int, bits: int) -> dict[str, tuple[_Use, ...]]:
    """PIM commands; those that multiply take their operands from arrays, and no movement, TSV or I/O unless the units are that far."""
    pim = part.spec.pim
    assert pim is not None
    units = banks // pim.banks_per_unit
    moved, through, out = (_Use(name, name, bits) for name in ("movement", "tsv", "io"))
    groups = banks // resolve(part).counts.tolist()[-1]
    multiply, row_read = _Use("pim_mac", "pim_mac", units * pim.lanes), _Use("array", "array_read", bits)
    return {
        **dict.fromkeys(_IN, (moved, through, out)),
        **dict.fromkeys(_OUT, (moved, through, out)),
        "READRES": (row_read, moved, through, out), "COMPS_READRES": (row_read, moved, through, out),  # NeuPIMs: as a READ
        **dict.fromkeys(_INSIDE, (moved, through)),
        **dict.fromkeys(_STEPS, (_Use("array", "pim_read", bits), multiply)),
        "MACSB": (_Use("array", "array_read", groups * bits), _Use("movement", "group_movement", groups * bits),
                  _Use("pim_mac", "pim_mac", groups * pim.lanes)),
        "MACPB": (row_read, moved, through, _Use("pim_mac", "pim_mac", pim.lanes)),
        "EWMUL": (_Use("array", "pim_read", bits / 4), _Use("pim_mac", "pim_mac", units // 4 * pim.lanes)),  # CENT: a quarter of a MACAB
        "AF": (_Use("array", "array_read", banks * bits),),  # CENT: a read of every bank
        "COPY_BKGB": (row_read, moved), "COPY_GBBK": (_Use("array", "array_write", bits), moved),
        "FILL": (_Use("array", "array_read", units * bits),), "GRF_WB": (_Use("array", "array_write", units * bits),),
    }  # fmt: skip


def steps(part: PimPart, stream: Stream) -> int:
    """Steps of all composite dot products of a stream, fill included: what `energy` wants as the count STEP."""
    composite = stream.lines[:, 0] == part.id("COMPS_READRES")
    return int(np.sum(stream.lines[composite, 3]))


def energy(counts: Mapping[str, int], seconds: float, part: str | Path | Part, prices: str | Path | DramPrices | None = None, *,
           pim_read_factor: float | None = None, buffers: Literal["dual", "single"] = "dual") -> DramEnergy:
    """Energy of commands on one channel of a part over a time, by default with the prices of its standard.

    `pim_read_factor`: READs an all-bank dot-product step, by default the first of the prices (4: NeuPIMs, Newton; 3: CENT, IANUS).
    `buffers`: row buffers a bank of a part with PIM. Raises ValueError naming a command that has a count and no price.
    """
    loaded = load(part)
    table = _table(loaded, prices)
    _check(counts, seconds, pim_read_factor)
    uses = _uses(loaded)
    amounts = _amounts(counts, uses, table)
    two_buffers = loaded.spec.pim is not None and buffers == "dual" and "dual" in loaded.spec.pim.row_buffers
    watts = ("standby", "second_row_buffer") if two_buffers else ("standby",)
    for name in watts if seconds else ():
        if _known(name, table):
            amounts[name, name] = seconds * 1e12
    used = amounts.get(("array", "pim_read"), 0.0)
    factors = table.pim_read_factors
    if used and not factors and pim_read_factor is None:
        raise ValueError(f"{table.name}: has no pim_read_factors, which COMP needs. Give pim_read_factor.")
    factor = next(iter(factors.values()), None) if pim_read_factor is None else float(pim_read_factor)
    every = (*factors.values(), *(() if factor is None else (factor,)))
    pim = table.prices["pim_read"].value if used else 0.0

    def terms(end: str, times: float) -> dict[str, float]:
        out = dict.fromkeys(TERMS, 0.0)
        for (term, price), amount in amounts.items():
            out[term] += amount * float(getattr(table.prices[price], end)) * (times if price == "pim_read" else 1.0)
        return out

    return DramEnergy(
        loaded.name, table.name, loaded.spec.standard in table.stands_in_for,
        terms("value", factor or 0.0), terms("low", min(every, default=0.0)), terms("high", max(every, default=0.0)), factor,
        {name: used * pim * value for name, value in factors.items()}, table.not_covered,
    )


def _table(part: Part, prices: str | Path | DramPrices | None) -> DramPrices:
    if prices is not None:
        return prices if isinstance(prices, DramPrices) else load_prices(prices)
    found = prices_of(part)
    if found is None:
        raise ValueError(f"{part.name}: no energy prices for {part.spec.standard}. Give prices: {', '.join(names())} or a YAML file.")
    return found


def _check(counts: Mapping[str, int], seconds: float, factor: float | None) -> None:
    if not 0 <= seconds < math.inf:
        raise ValueError(f"seconds = {seconds!r}: want a time, zero or more")
    if factor is not None and not 0 < factor < math.inf:
        raise ValueError(f"pim_read_factor = {factor!r}: want a number above zero, e.g. 4 or 3")
    for name, count in counts.items():
        if count < 0:
            raise ValueError(f"counts: {name} is {count}. Expected zero or more.")
    if counts.get("COMPS_READRES", 0) and STEP not in counts:
        raise ValueError(f"counts: has COMPS_READRES and no {STEP}. Add how many steps they take together.")


def _amounts(counts: Mapping[str, int], uses: dict[str, tuple[_Use, ...]], table: DramPrices) -> dict[tuple[str, str], float]:
    """(term, price) -> how much of it the counts take."""
    out: dict[tuple[str, str], float] = {}
    for name, count in counts.items():
        if not count:
            continue
        if name not in uses:
            raise ValueError(f"{name}: {count} issued, and no energy price for it.")
        for term, price, amount in uses[name]:
            if _known(price, table, name):
                out[term, price] = out.get((term, price), 0.0) + count * amount
    return out


def _known(price: str, table: DramPrices, command: str = "") -> bool:
    """Whether there is a figure; ValueError where the file neither has it nor says that it is not covered."""
    if price in table.prices or price in table.not_covered:
        return price in table.prices
    raise ValueError(f"{table.name}: no energy price {price}{f' for {command}' if command else ''}. Add prices.{price}.")
