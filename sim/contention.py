"""How fast PIM and the other units of a device go while both use the same channels: one channel, simulated command by command.

A unit that moves DRAM bytes asks every channel for reads and writes at an even pace; PIM runs its tiles there. `dram.contend` serves
both in one channel, under the policy that the hardware's schedule names, until one of the two is over; how far each has come by then,
in the time that it needs alone, is its speed beside the other. All channels are taken to be alike: work lasts as long as on the fullest
one, and there PIM is busy all the time. Each different pair is solved once.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gemvane.workloads.ops import BITS, CODE, DTYPES, Rows

from .costs import Floats, Int64s
from .devices.pim_channel import Key, Shape, engine_part, key_of, packed_part, part_of
from .dram import gemv
from .dram.contend import Contended, contend
from .dram.pimpart import PimPart, Stream, new_state, run
from .dram.pimstream import Attention, made, score_steps, stream, value_steps
from .dram.stream import bytes_per_s
from .hardware import Hardware
from .kernels.pimissue import INTERVAL
from .kernels.timeline import FULL, SLOWEST
from .pimschema import Pim
from .schedule import NONE, Interference
from .schema import HardwareSpec

LEVELS = 16
"""Steps of the share of the peak bandwidth that an operator asks for. (Whole ticks between requests would be 1, 2/3, 1/2, ... of it.)"""
WRITES = 8
"""Steps of the share of writes."""
REFRESHES = 16
"""Refresh intervals that a pair is simulated for."""
MOST = 16
"""Tiles (of one token a bank) of an operand, and vectors that meet it, after which both are taken to go on alike."""
LANE_BITS = 16
"""Width of the operands in which a memory part states its sizes."""


class Traffic(NamedTuple):
    """Requests of an operator: sixteenths of the peak bandwidth, of which so many eighths are writes."""

    level: int
    writes: int


class Tiles(NamedTuple):
    """What PIM does to one item (a request, a matrix) of so many tokens (rows), a power of two."""

    shape: Shape
    tokens: int


class Speeds(NamedTuple):
    """Shares of the speed that each has alone."""

    pim: float
    requests: float


def _newton(key: Key, tiles: Tiles) -> Stream:
    plain, shape = engine_part(key), tiles.shape
    part = packed_part(plain, shape)
    op = Attention(tiles.tokens, shape.heads, shape.dim, shape.group)
    vectors = max(1, part.pim.vector_buffer // part.row_bytes)
    steps = (value_steps(part, op, vectors=vectors) if shape.kind == "attention_value"
             else score_steps(part, op, vectors=vectors, layout=key.layout))  # type: ignore[arg-type]
    blocks = [made(plain, step) for step in steps]
    return stream(blocks * _times(plain, stream(blocks)))


def _gemv(key: Key, tiles: Tiles) -> Stream:
    plain, shape = engine_part(key), tiles.shape
    part = packed_part(plain, shape)
    op = (gemv.values if shape.kind == "attention_value" else gemv.scores)(tiles.tokens, shape.dim, shape.group)
    return gemv.commands(gemv.plan(part, *[op] * _times(plain, gemv.commands(gemv.plan(part, op)))))


STREAMS = {"newton": _newton, "aim": _gemv, "hbm-pim": _gemv}
"""By style of the part: the commands of a request, again and again for REFRESHES intervals or more."""


def _times(part: PimPart, once: Stream) -> int:
    return -(-REFRESHES * int(part.setup[INTERVAL]) // (run(part, once, new_state(part), record=False).end + 1))


@lru_cache(maxsize=256)
def _pim_alone(key: Key, tiles: Tiles) -> tuple[Stream, Int64s]:
    """The stream, and the last tick of each of its blocks."""
    part = engine_part(key)
    commands = STREAMS[part.pim.style](key, tiles)
    return commands, run(part, commands, new_state(part), record=False).times[:, 1]


@lru_cache(maxsize=256)
def _requests_alone(key: Key, traffic: Traffic) -> tuple[dict[str, Int64s], Int64s]:
    """The requests, and the ticks at which they are served, ascending. They walk as weights are laid out (dram/stream.py), in the
    upper half of the rows, so that PIM's are other rows of the same banks."""
    part = engine_part(key)
    burst = Fraction(part.request_bytes * 10**12, part_of(key).spec.organisation.bandwidth) / part.tick_ps
    interval = burst * LEVELS / traffic.level
    number = np.arange(int(REFRESHES * int(part.setup[INTERVAL]) / interval))
    rest, requests = number, {"arrival": number * interval.numerator // interval.denominator}
    counts = {"bg": part.groups, "co": part.row_bytes // part.request_bytes, "ba": part.group_banks, "ra": part.ranks, "ro": part.rows // 2}
    for field, size in counts.items():
        rest, requests[field] = np.divmod(rest, size)
    requests["ro"] += part.rows // 2
    requests["rw"] = (number + 1) * traffic.writes // WRITES - number * traffic.writes // WRITES
    return requests, _served(requests, contend(part, stream([]), requests, policy="pim-first"))


def _served(requests: dict[str, Int64s], done: Contended) -> Int64s:
    """Ticks at which the data of requests has come or gone, ascending."""
    return np.sort(requests["arrival"] + done.latency_ticks)


@lru_cache(maxsize=4096)
def speeds(key: Key, tiles: Tiles, traffic: Traffic, policy: str) -> Speeds:
    """The speeds of `tiles` and `traffic` beside each other on a channel under a policy of `dram.contend.POLICIES`."""
    commands, blocks_alone = _pim_alone(key, tiles)
    requests, served_alone = _requests_alone(key, traffic)
    done = contend(engine_part(key), commands, requests, policy=policy)
    blocks, served = done.times[:, 1], _served(requests, done)
    over = min(int(blocks[-1]), int(served[-1]))
    return Speeds(_reached(blocks, blocks_alone, over), _reached(served, served_alone, over))


def _reached(ends: Int64s, alone: Int64s, tick: int) -> float:
    """Time alone of what has ended by a tick, over that tick; at most 1."""
    count = int(np.searchsorted(ends, tick, side="right"))
    return min(1.0, float(alone[count - 1] + 1) / (tick + 1)) if count else 0.0


def warnings(hardware: Hardware) -> list[str]:
    """A sentence for each PIM unit in the main memory that may work beside other units and whose contention cannot be simulated."""
    out, spec = [], hardware.spec
    for name, unit in spec.units.items():
        if isinstance(unit, Pim) and unit.capacity is None and not _simulated(unit) and spec.schedule.contention != "none":
            beside = [other for other, u in spec.units.items() if _moves(u) and not exclusive(spec, name, other)]
            if beside:
                out.append(f"{hardware.name}: {name} and {' and '.join(beside)} are taken not to disturb each other: "
                           f"requests beside the PIM commands of {unit.part} cannot be simulated.")
    return out


def _simulated(unit: Pim) -> bool:
    """Whether the unit's PIM works in the main memory, under commands that can be simulated beside requests."""
    return unit.capacity is None and engine_part(key_of(unit)).pim.style in STREAMS


def _moves(unit: Any) -> bool:
    return unit.kind not in ("pim", "link")


def exclusive(spec: HardwareSpec, one: str, other: str) -> bool:
    """Whether only one of two units may work at a time."""
    return any(one in group and other in group for group in spec.schedule.exclusive)


class Pairs:
    """Rows of a step, each on its unit of a device, and how those that work at once slow each other; a pair is simulated when asked for.

    Of each row: mean duration, DRAM bytes, and share of writes. Beside PIM the channel model says; two operators that ask for more than
    the memory sustains share it in proportion to what they ask for.
    """

    def __init__(self, rows: Rows, unit: Int64s, duration_ps: Floats, moved_bytes: Floats, writes: Floats, steps: int,
                 hardware: Hardware) -> None:
        self._spec, self._names = hardware.spec, list(hardware.spec.units)
        keys: list[Tiles | Traffic | None] = [None] * unit.size
        if self._spec.schedule.contention != "none":
            keys = [_key(self._spec, self._names[u], rows.take(np.array([i])), duration_ps[i], moved_bytes[i], writes[i], steps)
                    for i, u in enumerate(unit.tolist())]
        self._kinds = list(dict.fromkeys((u, key) for u, key in zip(unit.tolist(), keys, strict=True) if key is not None))
        number = {kind: i + 1 for i, kind in enumerate(self._kinds)}
        self.kind = np.array([number.get((u, key), 0) for u, key in zip(unit.tolist(), keys, strict=True)], np.int64)  # type: ignore[arg-type]
        """Of each row: its number among the different ones, 0 for what neither slows nor is slowed."""

    @property
    def every(self) -> set[tuple[int, int]]:
        """All pairs of kinds on units that may work at once, the smaller number first."""
        of_unit = [u for u, _ in self._kinds]
        return {(i + 1, j + 1) for j in range(len(of_unit)) for i in range(j)
                if of_unit[i] != of_unit[j] and not exclusive(self._spec, self._names[of_unit[i]], self._names[of_unit[j]])}

    def slow(self, pairs: set[tuple[int, int]]) -> Interference:
        """How these pairs of kinds slow each other, all others being taken not to; NONE where nothing does."""
        rate = np.full((len(self._kinds) + 1, len(self._kinds) + 1), FULL, np.int64)
        for one, other in pairs:
            for i, j in ((one, other), (other, one)):
                rate[i, j] = max(SLOWEST, int(FULL * _speed(self._spec, self._names, self._kinds[i - 1], self._kinds[j - 1])))
        return NONE if (rate == FULL).all() else Interference(self.kind, rate, len(self._names))


def met(kind: Int64s, placed: Int64s, start_ps: Int64s, end_ps: Int64s, device_units: int) -> set[tuple[int, int]]:
    """Pairs of kinds, the smaller number first, of operators that run at once on units of one device."""
    together = np.zeros((int(kind.max(initial=0)) + 1,) * 2, np.bool_)
    lasts = (kind > 0) & (end_ps > start_ps)
    on = {int(unit): np.flatnonzero(lasts & (placed == unit)) for unit in np.unique(placed[lasts])}
    on = {unit: index[np.argsort(start_ps[index], kind="stable")] for unit, index in on.items()}
    for one, other in ((a, b) for a in on for b in on if a < b and a // device_units == b // device_units):
        mine, theirs = on[one], on[other]
        first = np.searchsorted(end_ps[theirs], start_ps[mine], side="right")
        count = np.maximum(0, np.searchsorted(start_ps[theirs], end_ps[mine], side="left") - first)
        at = np.repeat(first - np.cumsum(count) + count, count) + np.arange(count.sum())
        together[np.repeat(kind[mine], count), kind[theirs[at]]] = True
    return {(min(pair), max(pair)) for pair in zip(*(index.tolist() for index in np.nonzero(together)), strict=True)}


Kind = tuple[int, Tiles | Traffic]


def _speed(spec: HardwareSpec, names: Sequence[str], one: Kind, other: Kind) -> float:
    """Share of its speed that one keeps beside the other."""
    (u, a), (v, b) = one, other
    if isinstance(a, Traffic) and isinstance(b, Traffic):
        return min(1.0, bytes_per_s(spec.memory) / spec.memory.bandwidth * LEVELS / (a.level + b.level))
    for pim, tiles, traffic, which in ((u, a, b, "pim"), (v, b, a, "requests")):
        unit = spec.units[names[pim]]
        if isinstance(unit, Pim) and isinstance(tiles, Tiles) and isinstance(traffic, Traffic):
            return float(getattr(speeds(key_of(unit), tiles, traffic, spec.schedule.contention), which))
    return 1.0


def _key(spec: HardwareSpec, name: str, row: Rows, duration_ps: float, moved_bytes: float, writes: float,
         steps: int) -> Tiles | Traffic | None:
    """What a row does to a channel; None where it leaves the channels alone."""
    unit = spec.units[name]
    if isinstance(unit, Pim):
        if not _simulated(unit):
            return None
        if row.kind[0] != CODE["kv_append"]:
            return _tiles(unit, row, steps)
    elif not _moves(unit):
        return None
    level = min(LEVELS, round(LEVELS * moved_bytes * 1e12 / max(1.0, duration_ps * spec.memory.bandwidth)))
    return Traffic(level, round(WRITES * writes)) if level else None


def _tiles(unit: Pim, row: Rows, steps: int) -> Tiles:
    """A request of mean length, halfway through the steps, rounded to a power of two, up to where all tiles are full."""
    matmul, value = row.work[0] == 0, row.kind[0] == CODE["attention_value"]
    heads = 1 if matmul or unit.whole == "head" else max(1, int(row.heads_kv[0]))
    group = row.m[0] if matmul else row.heads_q[0] // max(1, row.heads_kv[0])
    dim = (row.k if matmul else row.value_dim if value else row.head_dim)[0]
    dtype = int((row.kv_dtype if not matmul else row.weight_dtype if row.weight_bytes[0] else row.act_dtype)[0])
    rate = next(float(macs) for name, macs in unit.operands.items() if name == DTYPES[dtype])
    kind = "matmul" if matmul else "attention_value" if value else "attention_score"
    whole = Shape(kind, heads, min(int(group), MOST), int(dim), LANE_BITS / float(BITS[dtype]), rate)
    part = packed_part(engine_part(key_of(unit)), whole)
    together = 1 if value else max(1, part.row_bytes // part.pim.element // whole.dim)
    tokens = row.n[0] / unit.channels if matmul else row.n[0] / max(1, row.batch[0]) + (0 if row.window[0] else steps / 2)
    if unit.placement == "split" and not matmul:
        tokens /= unit.channels
    alike = min(MOST * part.banks, max(part.pim.lanes, 2 ** round(np.log2(max(1.0, tokens)))))
    return Tiles(whole._replace(heads=min(heads, together)), int(alike))
