"""Is a command trace legal? A second reading of a part's rules, slow and simple, that shares no code with the controller.

Every command is held against the last commands of each kind at the nodes that it touches, against its bus and clock edge,
and against the rows that are open. Only the table of timing rules comes from sim/dram/part.py.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..hardware import nearest
from . import part
from .part import Part, Rule
from .partschema import LEVELS

if TYPE_CHECKING:
    import pandas as pd

TABLE = "command trace"
ADDRESS = ("pc", "ra", "bg", "ba")
"""Columns of levels 1 to 4; one whose level the part has not, or has once, may be missing."""
OTHER_NAMES = {"steps": ("num_comps",), "tick": ("clock",), "ra": ("sid", "rank"), "ro": ("row",), "co": ("column",)}
BANK = 4
CLOSED, HALF = -1, -2
"""Instead of an open row. HALF: LPDDR5, after ACT1 and before ACT2."""
ACCESSES = ("RD", "WR", "RDA", "WRA")
SHUTS = ("RDA", "WRA", "PREpb", "PREab")
PRECHARGES = ("PREpb", "PREab")
SAME_BANK = "REFsb"
"""Addresses a bank of every bank group of its rank, and so no bank group."""
DOTS = ("COMP", "COMPS_READRES")
"""Newton's dot products, which go on for some steps after their command."""


class Violation(NamedTuple):
    """One rule that one command breaks. Rows are those of the trace, from 0."""

    row: int
    tick: int
    command: str
    rule: str
    """In words: "bank: ACT -> RD wants 15 ticks"."""
    previous: int
    """Row of the command that the rule counts from; -1 where there is none."""
    early_by: int
    """Ticks that it should have waited; 0 where waiting would not help, below 0 where it comes too late."""

    def __str__(self) -> str:
        ticks = f"{abs(self.early_by)} tick{'' if abs(self.early_by) == 1 else 's'}"
        when = f", {ticks} {'early' if self.early_by > 0 else 'late'}" if self.early_by else ""
        after = f" after row {self.previous}" if self.previous >= 0 else ""
        return f"row {self.row}: {self.command} at tick {self.tick}{when}{after}: {self.rule}"


class _Command(NamedTuple):
    row: int
    tick: int
    id: int
    name: str
    path: tuple[int, ...]
    """Number of its node in each level, from the channel down to what it addresses."""
    ro: int
    steps: int


def check(commands: pd.DataFrame, memory: str | Path | Part) -> list[Violation]:
    """Every rule of the part that a trace of one channel breaks, in order of its rows.

    Columns: tick (or clock), command, pc, ra (or sid, rank), bg, ba, ro (or row), and, where they are known, co (or column) and
    steps (or num_comps) of a PIM dot product; -1 where a command addresses no such level. Raises ValueError naming row and
    field where a row cannot be read.
    """
    loaded = part.load(memory)
    channel = _Channel(loaded)
    broken = [fault for given in _read(commands, loaded) for fault in channel.take(given)]
    return sorted((*broken, *channel.left_open()), key=lambda fault: (fault.row, -fault.early_by))


def whole_numbers(values: Any, table: str, column: str) -> part.Int64s:
    """A column as int64. ValueError naming table, row and column for what is no whole number."""
    array = np.asarray(values)
    if array.dtype.kind in "iu" and (array.size == 0 or int(array.max()) < 2**63):
        return array.astype(np.int64)
    out = np.empty(array.shape, np.int64)
    for row, value in enumerate(array.tolist()):
        try:
            if isinstance(value, bool) or int(value) != float(value):
                raise ValueError
            out[row] = int(value)
        except (TypeError, ValueError, OverflowError):
            text = repr(value) if isinstance(value, str) else value
            raise ValueError(f"{table}: row {row}: {column} is {text}. Expected a whole number.") from None
    return out


def _read(commands: pd.DataFrame, loaded: Part) -> Iterator[_Command]:
    """The rows of a trace, all of them checked before the first is given."""
    resolved = part.resolve(loaded)
    counts = [int(n) for n in resolved.counts]
    columns = _columns(commands, counts)
    size = columns["tick"].size
    ids = {name: i for i, name in enumerate(loaded.commands)}
    names = commands["command"].tolist()
    for row, name in enumerate(names):
        if name not in ids:
            raise ValueError(f"{TABLE}: row {row}: command {name!r} is unknown to {loaded.name}{nearest(str(name), loaded.commands)}. "
                             f"Expected one of {', '.join(loaded.commands)}.")
    scope = resolved.scope[[ids[name] for name in names]] if size else np.zeros(0, np.int64)
    openers = {name for name, command in loaded.spec.commands.items() if command.opens or name in ("ACT", "ACT1", "ACT2")}
    opens = np.array([name in openers for name in names], bool)
    limits = dict(zip(ADDRESS, counts, strict=True)) | {"ro": loaded.rows, "co": loaded.columns, "tick": 2**62, "steps": 2**20}
    for field, limit in limits.items():
        values = columns[field]
        must = (scope >= ADDRESS.index(field) + 1) & (limit > 1) if field in ADDRESS else opens if field == "ro" else field == "tick"
        must = must & (np.array(names, object) != SAME_BANK) if field == "bg" else must
        bad = np.flatnonzero((values >= limit) | (values < np.where(must, 0, -1)))
        if bad.size:
            row = int(bad[0])
            wish = "0 or more" if field == "tick" else f"{field} 0 to {limit - 1}"
            raise ValueError(f"{TABLE}: row {row}: {field} of {names[row]} is {values[row]}. Expected {wish}.")
    address = np.stack([columns[field] for field in ADDRESS], axis=1).clip(0).tolist()
    steps = _steps(names, columns["steps"].tolist(), loaded.spec.timings.get("nFILL", 0))
    ticks, rows = columns["tick"].tolist(), columns["ro"].tolist()
    for row, (name, level, tick, ro) in enumerate(zip(names, scope.tolist(), ticks, rows, strict=True)):
        down = zip(counts[:level], address[row][:level], strict=True)
        path = tuple(accumulate(down, lambda node, step: node * step[0] + step[1], initial=0))
        yield _Command(row, tick, ids[name], name, path, ro, steps[row])


def _steps(names: list[str], told: list[int], fill: int) -> list[int]:
    """Steps for which a PIM dot product goes on after its command: at least as many as fill the adder tree."""
    out, before = [0] * len(names), 0
    for row, name in enumerate(names):
        before = before + 1 if name == "COMP" else 0 if name == "READRES" else before
        if name in DOTS:
            out[row] = max(0, fill - before) if name == "COMP" else max(told[row], fill)
    return out


def _columns(commands: pd.DataFrame, counts: list[int]) -> dict[str, part.Int64s]:
    """The number columns under the names that are used here; -1 for one that may be missing and is."""
    optional = {"co", "steps", *(field for field, count in zip(ADDRESS, counts, strict=True) if count == 1)}
    there = [str(name) for name in commands.columns]
    out = {}
    for field in ("tick", *ADDRESS, "ro", "co", "steps"):
        found = [name for name in (field, *OTHER_NAMES.get(field, ())) if name in there]
        if found:
            out[field] = whole_numbers(commands[found[0]], TABLE, found[0])
        elif field in optional:
            out[field] = np.full(len(commands), -1, np.int64)
        else:
            raise ValueError(f"{TABLE}: column {field!r} is missing. It has {', '.join(there) or 'no columns'}.")
    if "command" not in there:
        raise ValueError(f"{TABLE}: column 'command' is missing. It has {', '.join(there)}.")
    return out


class _Channel:
    """What has happened on one channel: the last commands of each kind at each node, and the rows that are open."""

    def __init__(self, loaded: Part) -> None:
        resolved = part.resolve(loaded)
        self.protocol = loaded.spec.protocol
        names = {LEVELS[name]: name.replace("_", " ") for name in ("channel", *loaded.spec.organisation.levels)}
        self.level_names = [names[max(there for there in names if there <= level)] for level in range(BANK + 1)]
        self.commands = loaded.commands
        self.counts = [int(n) for n in resolved.counts]
        self.scope = resolved.scope.tolist()
        self.length = resolved.length.tolist()
        self.bus = [command.bus for command in loaded.spec.commands.values()]
        self.within, self.wck = resolved.aad, {"R": resolved.wck_read, "W": resolved.wck_write}
        self.rules: dict[int, list[Rule]] = defaultdict(list)
        self.levels: dict[int, set[int]] = defaultdict(set)
        for rule in part.rules(loaded):
            self.rules[rule.next].append(rule)
            self.levels[rule.prev].add(rule.level)
        self.loaded = loaded
        self.stepped: dict[int, dict[tuple[int, ...], int]] = {}
        self.past: dict[tuple[int, int, int], deque[_Command]] = defaultdict(lambda: deque(maxlen=part.HISTORY))
        banks = prod(self.counts)
        self.open_row, self.half_row = [CLOSED] * banks, [CLOSED] * banks
        self.pim_row = self.open_row if loaded.spec.timings.get("nSINGLE", 1) else [CLOSED] * banks
        """A buffer of their own for rows that PIM commands open, unless the timing nSINGLE is 1 or the part has no such switch."""
        declared = dict(enumerate(loaded.spec.commands.values()))
        self.opens = {i: command.opens for i, command in declared.items() if command.opens}
        self.closes = {i: command.closes for i, command in declared.items() if command.closes}
        self.needs = {i: command.needs for i, command in declared.items() if command.needs}
        self.opener = next((self.commands[i] for i, buffer in self.opens.items() if buffer == "pim"), "")
        self.changed: list[_Command | None] = [None] * banks
        """[bank] the last command that opened or closed a row."""
        self.last: _Command | None = None
        self.last_on: dict[str, _Command] = {}
        self.rising: _Command | None = None
        self.awake_until, self.woken = 0, ("", -1)

    def take(self, given: _Command) -> Iterator[Violation]:
        """The rules that the next command breaks; then it counts as issued, right or wrong."""
        for look in (self.order, self.timing, self.edge, self.rows, self.pim_rows, self.data_clock):
            for rule, previous, early_by in look(given):
                yield Violation(given.row, given.tick, given.name, rule, previous.row if previous else -1, early_by)
        for level in self.levels[given.id]:
            for node in self.nodes(given, level):
                self.past[level, node, given.id].append(given)
        self.note(given)

    def nodes(self, given: _Command, level: int) -> range:
        """The nodes of a level that a command touches: its own, or all below what it addresses."""
        scope = self.scope[given.id]
        if given.name == SAME_BANK and level >= BANK - 1:
            groups, banks = self.counts[2], self.counts[3] if level == BANK else 1
            first = given.path[2] * groups * banks + (given.path[BANK] % banks if level == BANK else 0)
            return range(first, first + groups * banks, banks)
        width = prod(self.counts[scope:level])
        first = given.path[min(level, scope)] * width
        return range(first, first + width)

    def order(self, given: _Command) -> Iterator[tuple[str, _Command | None, int]]:
        """Ticks never go back, and a bus carries one command a tick."""
        if self.last and given.tick < self.last.tick:
            yield "order: ticks do not go back", self.last, self.last.tick - given.tick
        bus = self.bus[given.id]
        same = self.last_on.get(bus)
        if same and given.tick == same.tick:
            yield f"channel: {'the command bus' if bus == 'any' else f'the {bus} bus'} carries one command a tick", same, 1

    def timing(self, given: _Command) -> Iterator[tuple[str, _Command | None, int]]:
        """The table: each rule once, from the command that it counts longest from."""
        for rule in self.rules[given.id]:
            previous, early, held = None, 0, 0
            for node in self.nodes(given, rule.level):
                for other in self.siblings(node, rule.level) if rule.sibling else (node,):
                    past = self.past.get((rule.level, other, rule.prev), ())
                    if len(past) < rule.window:
                        continue
                    first = past[-rule.window]
                    ticks = rule.ticks if first.steps == 0 else self.after_steps(rule, first.steps)
                    if first.tick + ticks - given.tick > early:
                        previous, early, held = first, first.tick + ticks - given.tick, ticks
            if early:
                yield self.told(rule._replace(ticks=held)), previous, early

    def after_steps(self, rule: Rule, steps: int) -> int:
        """Ticks of a rule after a PIM dot product of some steps, for which nSTEPS stands in the part."""
        if steps not in self.stepped:
            timings = {**self.loaded.spec.timings, "nSTEPS": steps}
            other = replace(self.loaded, spec=self.loaded.spec.model_copy(update={"timings": timings}))
            self.stepped[steps] = {other_rule[:-1]: other_rule.ticks for other_rule in part.rules(other)}
        return self.stepped[steps][rule[:-1]]

    def siblings(self, node: int, level: int) -> list[int]:
        """The other nodes of its level in the node above."""
        count = self.counts[level - 1] if level else 1
        first = node // count * count
        return [other for other in range(first, first + count) if other != node]

    def told(self, rule: Rule) -> str:
        level = self.level_names[rule.level]
        text = f"{level}: {self.commands[rule.prev]} -> {self.commands[rule.next]} wants {rule.ticks} tick{'' if rule.ticks == 1 else 's'}"
        return text + (f" between two of one {self.level_names[rule.level - 1]}" if rule.sibling else "") + (
            f" from the last {self.commands[rule.prev]} but {rule.window - 1}" if rule.window > 1 else "")

    def edge(self, given: _Command) -> Iterator[tuple[str, _Command | None, int]]:
        """HBM3 and HBM4: rising edges are the odd ticks; a falling edge is for precharges, and not for all of them."""
        if self.protocol != "hbm-half" or given.tick % 2 == 1:
            return
        if given.name not in PRECHARGES:
            yield f"clock: {given.name} starts on a rising edge, which is an odd tick", None, 1
            return
        before = self.rising
        if not before or given.tick != before.tick + self.length[before.id] or given.path[1:2] != before.path[1:2]:
            return
        if self.scope[given.id] < BANK or self.scope[before.id] < BANK or given.path == before.path:
            yield f"clock: {given.name} on the falling edge of {before.name} wants another pseudochannel or another single bank", before, 1

    def rows(self, given: _Command) -> Iterator[tuple[str, _Command | None, int]]:
        """Rows are opened once, used while open, and closed before a refresh."""
        for bank in self.nodes(given, BANK):
            row, changed = self.open_row[bank], self.changed[bank]
            if given.name in ACCESSES and row < 0:
                yield f"bank: {given.name} wants an open row", changed, 0
            elif given.name in ACCESSES and given.ro not in (-1, row):
                yield f"bank: {given.name} of row {given.ro} wants that row open, not row {row}", changed, 0
            elif given.name in ("ACT", "ACT1") and row != CLOSED:
                yield f"bank: {given.name} wants a closed bank", changed, 0
            elif given.name.startswith(("REF", "RFM")) and row != CLOSED:
                yield f"{self.level_names[self.scope[given.id]]}: {given.name} wants closed banks", changed, 0
                return
            elif given.name in PRECHARGES and row == HALF:
                yield f"bank: ACT1 wants its ACT2 before {given.name}", changed, 0
        if given.name == "ACT1":
            waits = [self.changed[bank] for bank, row in enumerate(self.open_row) if row == HALF and bank != given.path[BANK]]
            if waits:
                yield "channel: ACT1 wants the ACT2 of the one before", waits[0], 0
        elif given.name == "ACT2":
            yield from self.second_half(given)

    def pim_rows(self, given: _Command) -> Iterator[tuple[str, _Command | None, int]]:
        """PIM commands find the rows as the part says that they need them; no row is open in both buffers of a bank."""
        single = self.pim_row is self.open_row
        opens, needs = self.opens.get(given.id), self.needs.get(given.id)
        for bank in self.nodes(given, BANK):
            row, other, changed = self.pim_row[bank], self.open_row[bank], self.changed[bank]
            if opens and (row if opens == "pim" else other) != CLOSED:
                where = "closed bank" if single or opens == "ordinary" else "closed PIM row buffer"
                yield f"bank: {given.name} wants a {where}", changed, 0
            elif needs == "pim" and row == CLOSED:
                yield f"bank: {given.name} wants a row that {self.opener} has opened", changed, 0
            elif needs == "ordinary" and other == CLOSED:
                yield f"bank: {given.name} wants an open row", changed, 0
            elif given.name.startswith(("REF", "RFM")) and row != CLOSED and not single:
                yield f"{self.level_names[self.scope[given.id]]}: {given.name} wants closed PIM row buffers", changed, 0
            elif not single and ((given.name == "ACT" and given.ro == row) or (opens == "pim" and given.ro == other >= 0)):
                yield f"bank: row {given.ro} is open in the other row buffer", changed, 0
            else:
                continue
            return

    def second_half(self, given: _Command) -> Iterator[tuple[str, _Command | None, int]]:
        """LPDDR5: ACT2 follows ACT1 to the same row, in time."""
        bank = given.path[BANK]
        first = self.changed[bank]
        if self.open_row[bank] != HALF or not first:
            yield "bank: ACT2 wants ACT1 before it", first, 0
            return
        if given.ro != self.half_row[bank]:
            yield f"bank: ACT2 of row {given.ro} wants that row in ACT1, not row {self.half_row[bank]}", first, 0
        if given.tick > first.tick + self.within:
            yield f"bank: ACT1 -> ACT2 wants {self.within} ticks at most", first, first.tick + self.within - given.tick

    def data_clock(self, given: _Command) -> Iterator[tuple[str, _Command | None, int]]:
        """LPDDR5: an access finds the data clock awake, or comes after a CAS of its own."""
        if self.protocol == "lpddr5" and given.name in ACCESSES and given.tick >= self.awake_until:
            cas = f"CAS_{given.name[:2]}"
            if self.woken != (cas, given.path[BANK]):
                yield f"channel: {given.name} wants {cas} before it, because the data clock sleeps", None, 0

    def note(self, given: _Command) -> None:
        """What the command leaves behind, other than its tick."""
        self.last = self.last_on[self.bus[given.id]] = given
        if self.bus[given.id] == "row" and given.tick % 2 == 1:
            self.rising = given
        if given.name.startswith("CAS"):
            self.woken = given.name, given.path[BANK]
        elif given.name in ACCESSES:
            self.woken = "", -1
            self.awake_until = max(self.awake_until, given.tick + self.wck[given.name[0]])
        row = HALF if given.name == "ACT1" else given.ro if given.name in ("ACT", "ACT2") else CLOSED
        if given.name in ("ACT", "ACT1", "ACT2", *SHUTS):
            for bank in self.nodes(given, BANK):
                self.open_row[bank], self.half_row[bank], self.changed[bank] = row, given.ro, given

        buffer = self.opens.get(given.id) or self.closes.get(given.id)
        for bank in self.nodes(given, BANK) if buffer else ():
            rows = self.pim_row if buffer == "pim" else self.open_row
            rows[bank], self.changed[bank] = given.ro if given.id in self.opens else CLOSED, given

    def left_open(self) -> Iterator[Violation]:
        """Activations whose second half was due before the trace ended, and never came."""
        for row, first in zip(self.open_row, self.changed, strict=True):
            if row == HALF and first and self.last and self.last.tick > first.tick + self.within:
                yield Violation(first.row, first.tick, first.name, f"bank: ACT1 -> ACT2 wants {self.within} ticks at most", -1, 0)
