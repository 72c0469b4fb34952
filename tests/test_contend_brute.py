"""sim/dram/contend.py told a second time, tick by tick in plain Python: slow, for small streams, sharing the part's rules alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim.dram import part as parts
from gemvane.sim.dram.contend import POLICIES, contend
from gemvane.sim.dram.pimpart import Buffers, PimPart, new_state, pim_part
from gemvane.sim.dram.pimstream import Block, load_vector, stream, tile
from gemvane.sim.kernels import contend as kernels

QUEUE, SPARE = 32, 10
ALWAYS, IF_OPEN, IF_OTHER, IF_SAME, IF_CLOSED = range(5)
Command = tuple[int, str, int, int]
"""Tick, name, bank, row."""


@dataclass
class Request:
    write: bool
    bank: int
    row: int
    arrival: int
    entered: int = -1


@dataclass
class Brute:
    part: PimPart
    policy: str
    blocks: list[Block]
    requests: list[Request]
    now: int = 0
    emitted: list[Command] = field(default_factory=list)

    def __post_init__(self) -> None:
        loaded = parts.load(self.part.name)
        self.names, self.scope = loaded.commands, parts.resolve(loaded).scope.tolist()
        self.counts = parts.resolve(loaded).counts.tolist()
        timings = {name: self.part.timings[name] for name in ("nSTRICT", "nSINGLE")}
        told = [parts.rules(replace(loaded, spec=loaded.spec.model_copy(
            update={"timings": {**loaded.spec.timings, **timings, "nSTEPS": steps}}))) for steps in (0, 1)]  # fmt: skip
        self.rules = defaultdict(list)
        for rule, stepped in zip(*told, strict=True):
            self.rules[rule.next].append((rule, stepped.ticks - rule.ticks))
        self.past: dict[tuple[int, int, int], list[tuple[int, int]]] = defaultdict(list)
        self.rows = [[None] * self.part.banks, [None] * self.part.banks]
        self.pim_buffer = 1 if self.part.buffers == "dual" else 0
        self.interval = int(self.part.setup[0])
        self.due = -(-max(self.now, 1) // self.interval) * self.interval if self.interval else 10**9
        self.rank = (self.due // self.interval - 1) % self.part.ranks if self.interval else 0
        self.queues: list[list[Request]] = [[], []]
        self.writing = self.refreshing = self.running = self.held = self.waited = False
        self.touched = self.shutting = False
        self.turn: int | None = None
        self.exclusive = self.part.buffers == "single" or self.policy == "blocked"
        self.left: list[list[list[int]]] = []      # runs of the running block, what is still to be issued of each
        self.slack = 0
        self.put_off: int | None = None

    def node(self, bank: int, level: int) -> int:
        width = 1
        for count in self.counts[level:]:
            width *= count
        return bank // width

    def free(self, command: int, bank: int, tick: int) -> bool:
        """Whether no rule forbids a command now."""
        for rule, slope in self.rules[command]:
            own = self.node(bank, rule.level)
            nodes = [own]
            if rule.sibling:
                count = self.counts[rule.level - 1]
                nodes = [n for n in range(own // count * count, own // count * count + count) if n != own]
            for node in nodes:
                past = self.past[rule.level, node, rule.prev]
                if len(past) >= rule.window:
                    since, steps = past[-rule.window]
                    if tick < since + rule.ticks + slope * steps:
                        return False
        return True

    def when(self, command: int, bank: int) -> int:
        tick = self.now
        while not self.free(command, bank, tick):
            tick += 1
        return tick

    def emit(self, command: int, bank: int, row: int, steps: int = 0) -> None:
        for level in range(self.scope[command] + 1):
            self.past[level, self.node(bank, level), command].append((self.now, steps))
        name = self.names[command]
        if name in ("ACT", "PREpb"):
            self.rows[0][bank] = row if name == "ACT" else None
        elif name in ("G_ACT", "PIM_PRECHARGE"):
            for i in range(bank, bank + (self.part.group_banks if name == "G_ACT" else 1)):
                self.rows[self.pim_buffer][i] = row if name == "G_ACT" else None
        self.emitted.append((self.now, name, bank, row))

    def wanted(self, line: list[int]) -> bool:
        command, bank, row, _, when, _ = line
        buffer = self.pim_buffer if self.names[command] in ("G_ACT", "PIM_PRECHARGE") else 0
        held = self.rows[buffer][bank]
        if when == ALWAYS:
            return True
        return held is None if when == IF_CLOSED else held is not None and (when == IF_OPEN or (held == row) == (when == IF_SAME))

    def take_in(self) -> None:
        if self.policy == "blocked" and (self.running or self.turn is not None):
            return
        waiting = [one for one in self.requests if one.entered < 0]
        for one in waiting:
            if one.arrival > self.now or len(self.queues[one.write]) == QUEUE:
                return
            one.entered = self.now
            self.queues[one.write].append(one)

    def allowed(self) -> bool:
        """Whether the policy lets the next block start now."""
        if self.turn is None:
            self.turn = self.now
        waiting = [*self.queues[0], *self.queues[1]]
        if self.exclusive and self.policy == "oldest-first":
            waiting = [one for one in waiting if one.entered < self.turn]
        return not (self.exclusive and self.policy != "pim-first" and waiting)

    def begin(self) -> bool:
        """Start the next block, if it is over before the next refresh."""
        block = self.blocks[0]
        lines = block.lines.tolist()
        first = next((line for line in lines if self.wanted(line)), None)
        tick = self.when(first[0], first[1]) if first else self.now
        _, base, per_open, if_closed, if_other, bank, row = block.need.tolist()
        need = base + per_open * sum(held is not None for held in self.rows[self.pim_buffer])
        if bank >= 0 and self.rows[0][bank] != row:
            need += if_closed if self.rows[0][bank] is None else if_other
        self.slack = self.due - 1 - tick - need
        if self.interval and self.slack <= 0 and not self.waited:
            self.held, self.turn = True, None
            return False
        self.running, self.left = True, []
        while lines:
            self.left.append(lines[: lines[0][5]])
            lines = lines[lines[0][5] :]
        self.own_banks = {line[1] for run in self.left for line in run if line[4] == IF_CLOSED}
        self.own_row = next((line[2] for run in self.left for line in run if self.names[line[0]] == "G_ACT"), None)
        return True

    def pim(self) -> tuple[int, list[int]] | None:
        """Tick and line of the next PIM command, or of a precharge before a block."""
        self.shutting = False
        while True:
            while self.running and self.left:
                self.left[0] = [line for line in self.left[0] if self.wanted(line)]
                if self.left[0]:
                    self.take_in()
                    tick, line = min(((self.when(line[0], line[1]), line) for line in self.left[0]), key=lambda found: found[0])
                    if self.put_off is not None:
                        self.slack -= tick - self.put_off
                        self.put_off = None
                    return tick, line
                self.left.pop(0)
            if self.running:
                self.blocks.pop(0)
                self.running, self.waited, self.turn, self.put_off = False, False, None, None
            self.refreshing = self.due <= self.now
            self.take_in()
            if not self.blocks or self.refreshing or self.held or not self.allowed():
                return None
            opened = [bank for bank, row in enumerate(self.rows[0]) if row is not None] if self.touched else []
            if opened:
                self.shutting, close = True, self.names.index("PREpb")
                tick, bank = min((self.when(close, bank), bank) for bank in opened)
                return tick, [close, bank, -1, 0, ALWAYS, 1]
            self.touched = False
            if not self.begin():
                self.take_in()
                return None

    def step_of_refresh(self) -> tuple[int, int] | None:
        """Command and bank, if it may come now."""
        first = self.rank * self.part.banks // self.part.ranks
        for bank in range(first, first + self.part.banks // self.part.ranks):
            for buffer, name in ((0, "PREpb"), (1, "PIM_PRECHARGE")):
                if self.rows[buffer][bank] is not None:
                    command = self.names.index(name)
                    return (command, bank) if self.free(command, bank, self.now) else None
        command = self.names.index("REFab")
        return (command, first) if self.free(command, first, self.now) else None

    def wish(self, one: Request, before: list[Request]) -> str | None:
        """The command that a request may have next."""
        if self.refreshing and one.bank * self.part.ranks // self.part.banks == self.rank:
            return None
        if self.running and self.own_row == one.row:
            return None
        held = self.rows[0][one.bank]
        if held == one.row:
            return "WR" if one.write else "RD"
        if self.running and one.bank in self.own_banks:
            return None
        t = self.part.timings
        spare = self.slack if self.running and self.interval else 10**9
        if held is not None:
            hit = any(other.bank == one.bank and other.row == held for other in before)
            return "PREpb" if spare > t["nRP"] + t["nRCDWR"] and not hit else None
        name = "PIM_PRECHARGE" if self.pim_buffer and self.rows[1][one.bank] == one.row else "ACT"
        return name if spare > t["nRCDWR"] else None

    def choice(self) -> tuple[Request, str] | None:
        """The first ready hit of the queue in turn, else its first ready request, with its command."""
        reads, writes = (len(queue) for queue in self.queues)
        if not self.writing:
            self.writing = 10 * writes > 8 * QUEUE or not reads
        elif 10 * writes < 2 * QUEUE and reads:
            self.writing = False
        if self.shutting or (self.running and (self.exclusive or (self.interval and self.slack < SPARE))):
            return None
        queue = self.queues[self.writing]
        wishes = [(one, self.wish(one, queue[:i])) for i, one in enumerate(queue)]
        ready = [(one, name) for one, name in wishes if name and self.free(self.names.index(name), one.bank, self.now)]
        return next((found for found in ready if found[1] in ("RD", "WR")), ready[0] if ready else None)

    def tick(self) -> None:
        pim = self.pim()
        if self.refreshing:
            step = self.step_of_refresh()
            if step:
                self.emit(*step, -1)
                if self.names[step[0]] == "REFab":
                    self.due += self.interval
                    self.rank = (self.rank + 1) % self.part.ranks
                    self.waited, self.held, self.refreshing = self.waited or self.held, False, False
                return
        chosen = self.choice()
        pim_now = pim is not None and pim[0] == self.now
        if chosen and pim_now and not (
            self.policy == "requests-first" or (self.policy == "oldest-first" and self.turn is not None and chosen[0].entered < self.turn)
        ):
            chosen = None
        if chosen:
            one, name = chosen
            self.emit(self.names.index(name), one.bank, one.row)
            if name in ("RD", "WR"):
                self.queues[one.write].remove(one)
                self.put_off = pim[0] if pim else None
            else:
                self.slack -= self.part.timings["nRCDWR" if name == "ACT" else "nRP"]
                self.touched = not self.pim_buffer
        elif pim and pim_now:
            command, bank, row, steps, *_ = pim[1]
            self.emit(command, bank, row, steps)
            if not self.shutting:
                self.left[0].remove(pim[1])

    def run(self) -> list[Command]:
        while True:
            self.pim()
            if not self.blocks and not self.queues[0] and not self.queues[1] and all(one.entered >= 0 for one in self.requests):
                return self.emitted
            self.tick()
            self.now += 1


PARTS = {(buffers, refresh): pim_part(buffers=buffers, refresh=refresh) for buffers in ("dual", "single") for refresh in (True, False)}  # type: ignore[arg-type]


def both(part: PimPart, policy: str, which: list[int], asked: list[Request], start: int) -> tuple[list[Command], list[Command]]:
    """Commands of the plain and of the fast controller."""
    pool = [tile(part, row=7, dots=2, steps=8), load_vector(part), tile(part, row=3, dots=1, steps=12), load_vector(part, row=2, bank=5)]
    blocks = [pool[i] for i in which]
    banks, inner = np.array([one.bank for one in asked], np.int64), part.group_banks
    table = {"rw": [int(one.write) for one in asked], "ra": banks // (inner * part.groups), "bg": banks // inner % part.groups,
             "ba": banks % inner, "ro": [one.row for one in asked], "arrival": [one.arrival for one in asked]}  # fmt: skip
    done = contend(part, stream(blocks), table, policy=policy, state=new_state(part, start=start), record=True)
    fast = [(tick, part.commands[command], bank, row) for tick, command, bank, row, *_ in done.commands.tolist()]
    return Brute(part, policy, blocks, asked, start).run(), fast


@st.composite
def requests(draw: st.DrawFn, start: int) -> list[Request]:
    """Few or many at a time, to one or all banks, to the tiles' and vectors' rows and to others."""
    gaps = draw(st.lists(st.sampled_from([0, 0, 0, 1, 7, 60]), max_size=45))
    banks, rows = st.integers(0, draw(st.sampled_from([0, 3, 31]))), st.sampled_from(draw(st.sampled_from([[1], [0, 1, 2, 3, 7]])))
    write = st.sampled_from(draw(st.sampled_from([[False], [True], [False, False, True]])))
    return [Request(draw(write), draw(banks), draw(rows), start + arrival) for arrival in np.cumsum(gaps).tolist()]


@settings(deadline=None, max_examples=50)
@given(st.data(), st.sampled_from(sorted(POLICIES)), st.sampled_from(sorted(PARTS)), st.lists(st.integers(0, 3), max_size=3),
       st.sampled_from([1500, 1700, 1850, 1949]))  # fmt: skip
def test_the_kernel_does_what_ticking_does(data: st.DataObject, policy: str, key: tuple[Buffers, bool], which: list[int],
                                          start: int) -> None:  # fmt: skip
    plain, fast = both(PARTS[key], policy, which, data.draw(requests(start)), start)
    assert fast == plain


@pytest.mark.parametrize("policy", POLICIES)
def test_the_plain_kernel_is_the_compiled_one(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Request(i % 5 == 0, i * 7 % 32, 1 + i % 3, 1700 + 9 * i) for i in range(12)]
    for buffers in ("dual", "single"):
        _, compiled = both(PARTS[buffers, True], policy, [1, 0], list(asked), 1700)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "contend_kernel", kernels.contend_kernel.py_func)
            _, plain = both(PARTS[buffers, True], policy, [1, 0], list(asked), 1700)
        assert plain == compiled
        assert {command for _, command, _, _ in compiled} >= {"RD", "WR", "G_ACT", "GWRITE", "REFab"}
