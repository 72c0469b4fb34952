"""Units that work at once: for how long, what it costs each, and what keeps a unit from working."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .costs import ACTION, CAUSES, Floats, Int64s
from .devices import resolve
from .hardware import Hardware
from .pimschema import Pim
from .simulate import Phase
from .units import ps_to_s


@dataclass(frozen=True)
class Overlap:
    """How the units of a device shared a phase; [unit] columns in ps, the mean over the devices of a pipeline.

    A unit's time is its work at full speed, what contention adds to it, waiting while an operator is ready but a unit of the same
    exclusive group is at work (blocked), and having no operator that is ready (idle).
    """

    fraction: float
    """Share of the phase in which at least two units of a device work."""
    work_ps: Floats
    contention_ps: Floats
    blocked_ps: Floats
    idle_ps: Floats

    def to_dict(self, units: list[str]) -> dict[str, Any]:
        """Seconds by unit."""
        parts = {f"{name}_s": dict(zip(units, (float(ps_to_s(t)) for t in getattr(self, f"{name}_ps")), strict=True))
                 for name in ("work", "contention", "blocked", "idle")}
        return {"fraction": self.fraction, **parts}


def overlap(phase: Phase, hardware: Hardware) -> Overlap:
    """What `Overlap` says of a phase."""
    count, devices = len(hardware.spec.units), int(phase.trace.rows.stage.max()) + 1
    timeline = phase.timeline
    placed = np.tile(timeline.unit, timeline.steps)

    def of_units(ps: Int64s) -> Floats:
        mean: Floats = np.bincount(placed, ps, count * devices).reshape(devices, count).mean(axis=0)
        return mean

    lasted = timeline.end_ps - timeline.start_ps
    work, contention, blocked = of_units(phase.alone_ps), of_units(lasted - phase.alone_ps), of_units(_blocked_ps(phase, placed))
    shared = sum(_shared_ps(phase, placed // count == device) for device in range(devices)) / devices
    return Overlap(shared / max(1, phase.latency_ps), work, contention, blocked, phase.latency_ps - work - contention - blocked)


def _shared_ps(phase: Phase, mine: Any) -> int:
    """Time in which at least two of some operators run."""
    start, end = phase.timeline.start_ps, phase.timeline.end_ps
    works = mine & (end > start)
    when = np.concatenate([start[works], end[works]])
    change = np.repeat([1, -1], int(works.sum()))
    order = np.lexsort((change, when))
    active = np.cumsum(change[order])[:-1]
    return int(np.diff(when[order])[active >= 2].sum())


def _blocked_ps(phase: Phase, placed: Int64s) -> Int64s:
    """From when an operator was ready and its unit free to when it started."""
    timeline = phase.timeline
    size, rows = timeline.start_ps.size, timeline.rows
    ready = np.zeros(size, np.int64)
    for s in range(timeline.steps):
        for (ptr, idx), before in ((phase.waits.here, s), (phase.waits.step_before, s - 1)):
            if before >= 0 and idx.size:
                waits = np.flatnonzero(np.diff(ptr))
                last = np.maximum.reduceat(timeline.end_ps[idx + before * rows], ptr[waits])
                ready[waits + s * rows] = np.maximum(ready[waits + s * rows], last)
    order = np.lexsort((timeline.end_ps, timeline.start_ps, placed))
    free = np.zeros(size, np.int64)
    same = placed[order[1:]] == placed[order[:-1]]
    free[order[1:]] = np.where(same, timeline.end_ps[order[:-1]], 0)
    return timeline.start_ps - np.maximum(ready, free)


def seconds(phase: Phase, hardware: Hardware) -> Floats:
    """[entry, cause] seconds of work over all steps, once for each entry."""
    freq = np.array([machine.freq_hz for machine in resolve(hardware.spec).values()], np.float64)
    unit_of_entry = np.zeros(phase.cycles.shape[0], np.int64)
    unit_of_entry[phase.alike] = phase.unit
    out: Floats = phase.cycles / freq[unit_of_entry][:, None]
    return out


def shares_of_peak(phase: Phase, hardware: Hardware) -> dict[str, float]:
    """Of each unit, what its useful work would take at peak, over the length of the phase; of the memory, bytes over what it could move.

    Of a collective, a share of the time; of PIM, that of the fullest channel. The mean over the devices of a pipeline.
    """
    spec, devices = hardware.spec, int(phase.trace.rows.stage.max()) + 1
    repeats = np.bincount(phase.alike, minlength=phase.duration_ps.shape[1])
    unit = np.zeros(repeats.size, np.int64)
    unit[phase.alike] = phase.unit
    ideal = np.bincount(unit, repeats * seconds(phase, hardware)[:, CAUSES.index("ideal")], len(spec.units))
    whole = max(ps_to_s(phase.latency_ps), 1e-12) * devices
    outside = np.array([isinstance(u, Pim) and u.capacity is not None for u in spec.units.values()])
    moved = float((phase.actions[:, ACTION["dram_io_bytes"]] * repeats)[~outside[unit]].sum())
    shares = {name: float(s) / whole for name, s, u in zip(spec.units, ideal, spec.units.values(), strict=True) if u.kind != "link"}
    return shares | {"memory": moved / (spec.memory.bandwidth * whole)}
