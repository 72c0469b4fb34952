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
from .schedule import NONE, Interference
from .schema import HardwareSpec, Pim

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


def interference(rows: Rows, unit: Int64s, duration_ps: Floats, moved_bytes: Floats, writes: Floats, steps: int,
                 hardware: Hardware) -> Interference:
    """How the rows, each on its unit of a device, slow each other; NONE where nothing does.

    Of each row: mean duration, DRAM bytes, and share of writes. Beside PIM the channel model says; two operators that ask for more than
    the memory sustains share it in proportion to what they ask for.
    """
    spec = hardware.spec
    if spec.schedule.contention == "none":
        return NONE
    names = list(spec.units)
    keys = [_key(spec, names[u], rows.take(np.array([i])), duration_ps[i], moved_bytes[i], writes[i], steps)
            for i, u in enumerate(unit.tolist())]
    kinds = list(dict.fromkeys((u, key) for u, key in zip(unit.tolist(), keys, strict=True) if key is not None))
    number = {kind: i + 1 for i, kind in enumerate(kinds)}
    rate = np.full((len(kinds) + 1, len(kinds) + 1), FULL, np.int64)
    for (u, a), i in number.items():
        for (v, b), j in number.items():
            if u != v and not exclusive(spec, names[u], names[v]):
                rate[i, j] = max(SLOWEST, int(FULL * _speed(spec, names, (u, a), (v, b))))
    if (rate == FULL).all():
        return NONE
    kind = [number.get((u, key), 0) for u, key in zip(unit.tolist(), keys, strict=True)]  # type: ignore[arg-type]
    return Interference(np.array(kind, np.int64), rate, len(names))


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
