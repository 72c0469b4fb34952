"""Figures of a run that charts need and no screen shows: operations and bytes, layers, ceilings, channels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gemvane.sim import devices, energy, memory
from gemvane.sim.costs import CAUSES, Floats, Int64s
from gemvane.sim.hardware import Hardware
from gemvane.sim.overlap import seconds
from gemvane.sim.pimschema import Pim
from gemvane.sim.schema import Cpu, Gpu, Systolic, Vector
from gemvane.sim.simulate import Phase, Run
from gemvane.workloads.lower import grow
from gemvane.workloads.ops import BITS, DTYPES

MOST_TOKENS = 8
"""The line of the cache ends at so many times the output, where the memory has room for more."""
STEPS = 24
"""Points of that line."""


class Operator(NamedTuple):
    """The operators of one name on one unit, of all layers, in a step of mean length."""

    phase: str
    name: str
    unit: str
    flops: float
    """Two for each multiply-add, and one for each operation of a vector."""
    bytes: float
    """Every operand once."""
    seconds: float


class Ceiling(NamedTuple):
    """What a hardware can do at most: of a memory bytes a second, of a unit operations a second."""

    name: str
    kind: str
    """bandwidth or compute"""
    rate: float
    top: float
    """Of a bandwidth: the most operations a second that are fed from there."""


class Layers(NamedTuple):
    """Layers whose work takes the same time for the same reasons."""

    phase: str
    label: str
    times: int
    causes_s: dict[str, float]
    """Seconds of one layer in one step, by costs.CAUSES and what contention adds ("contention")."""


def operators(run: Run) -> list[Operator]:
    """Every operator that computes, by phase; the longest first."""
    out, units = [], list(run.hardware.spec.units)
    for name, phase in run.phases.items():
        rows = phase.trace.rows
        if name == "decode":
            rows = grow(rows, phase.trace.requests, phase.grown(np.array([phase.steps // 2])))
        flops, size = 2.0 * rows.useful_macs + rows.vector_ops, rows.memory_bytes
        mean_s = phase.duration_ps.mean(axis=0)[phase.alike] / 1e12
        for code, unit in dict.fromkeys(zip(rows.name.tolist(), phase.unit.tolist(), strict=True)):
            here = (rows.name == code) & (phase.unit == unit)
            if flops[here].sum() and mean_s[here].sum():
                out.append(Operator(name, phase.trace.names[code], units[unit], float(flops[here].sum()), float(size[here].sum()),
                                    float(mean_s[here].sum())))
    return sorted(out, key=lambda operator: -operator.seconds)


def ceilings(hardware: Hardware, dtype: str) -> list[Ceiling]:
    """Peaks of the units in a type of operands, and bandwidths of main memory, PIM and what lies on the chip."""
    spec, peaks, fast = hardware.spec, [], []
    machines = devices.resolve(spec)
    for name, unit in spec.units.items():
        if isinstance(unit, Pim):
            macs = machines[name].peak_macs_per_cycle * machines[name].freq_hz
            fast.append(Ceiling(f"{name}: inside the DRAM", "bandwidth", 2 * macs, 2 * macs))
            peaks.append(Ceiling(f"{name} peak", "compute", 2 * macs, 0))
        elif isinstance(unit, Vector):
            peaks.append(Ceiling(f"{name} peak", "compute", unit.num_lanes * unit.clock, 0))
        elif isinstance(unit, (Gpu, Systolic, Cpu)):
            known = unit.tensor_peak if isinstance(unit, Gpu) else unit.peak
            peak = float({str(key): rate for key, rate in known.items()}.get(dtype, max(known.values())))
            peaks.append(Ceiling(f"{name} peak, {dtype}", "compute", peak, 0))
            fast += [Ceiling(f"{name}: {what}", "bandwidth", rate, peak) for what, rate in _on_chip(unit, dtype)]
    top = max((peak.rate for peak in peaks), default=0.0)
    main = Ceiling(f"{spec.memory.technology} main memory", "bandwidth", spec.memory.bandwidth, top)
    return [main, *fast, *peaks]


def _on_chip(unit: Gpu | Systolic | Cpu, dtype: str) -> list[tuple[str, float]]:
    """Bandwidths of the memories of a unit. An array's SRAM is taken to feed both of its edges an operand a clock."""
    if isinstance(unit, Gpu):
        return [("L2", unit.l2_bandwidth)]
    if isinstance(unit, Cpu):
        levels = {"L1": unit.l1, "L2": unit.l2, "L3": unit.l3}
        return [(name, level.bandwidth) for name, level in levels.items() if level is not None]
    width = float(BITS[DTYPES.index(dtype)]) / 8
    return [("SRAM", unit.num_arrays * (unit.rows + unit.cols) * unit.clock * width)]


def layers(run: Run) -> list[Layers]:
    """The layers of each phase, those that are alike once; what stands outside the layers last."""
    out = []
    for name, phase in run.phases.items():
        groups: dict[bytes, list[int]] = {}
        per_row = _row_causes(phase, run.hardware)
        numbers, last = phase.trace.rows.layer, len(run.spec.layers)
        for layer in np.unique(numbers).tolist():
            causes = per_row[numbers == layer].sum(axis=0)
            key = b"outside" if not 0 <= layer < last else np.round(causes[:-1] * 1e9).tobytes()
            groups.setdefault(key, []).append(layer)
        for key, members in sorted(groups.items(), key=lambda item: item[0] == b"outside"):
            outside = key == b"outside"
            causes = per_row[np.isin(numbers, members)].sum(axis=0) / (1 if outside else len(members))
            label = "embedding and head" if outside else _named(members)
            parts = dict(zip((*CAUSES, "contention"), causes.tolist(), strict=True))
            out.append(Layers(name, label, 1 if outside else len(members), parts))
    return out


def _row_causes(phase: Phase, hardware: Hardware) -> Floats:
    """[row, cause and contention] seconds in a mean step."""
    work = seconds(phase, hardware)[phase.alike] / phase.steps
    line = phase.timeline
    more = (line.end_ps - line.start_ps - phase.alone_ps).reshape(phase.steps, -1).mean(axis=0) / 1e12
    out: Floats = np.column_stack([work, more])
    return out


def _named(members: list[int]) -> str:
    """ "layers 0-31 (32 alike)"."""
    if len(members) == 1:
        return f"layer {members[0]}"
    whole = members[-1] - members[0] + 1 == len(members)
    some = f"{members[0]}-{members[-1]}" if whole else ", ".join(map(str, members[:4])) + (", ..." if len(members) > 4 else "")
    return f"layers {some} ({len(members)} alike)"


def energy_by_phase_j(run: Run) -> dict[str, dict[str, float]]:
    """Phase -> component of energy.COMPONENTS, and static -> joules over all devices."""
    out, devices_used = {}, run.scenario.devices
    for name, phase in run.phases.items():
        counts: Int64s = np.bincount(phase.alike, minlength=phase.duration_ps.shape[1]) @ phase.actions
        parts = {part: pj * 1e-12 for part, pj in energy.by_component_pj(counts * run.scenario.alike, run.hardware).items()}
        out[name] = parts | {"static": energy.static_pj(run.hardware, phase.latency_ps, devices_used) * 1e-12}
    return out


def cache_line(run: Run) -> list[tuple[int, int]]:
    """(generated tokens, bytes of the cache on the fullest device), to where the memory is full or far beyond the output."""
    asked = run.scenario.but(phase="both")
    room, output = run.memory.kv_room_bytes, asked.output
    last = output
    while last < MOST_TOKENS * output and memory.kv_cache_bytes(run.spec, asked.but(output=last)) < room:
        last = min(2 * last, MOST_TOKENS * output)
    tokens = sorted({1, output, *np.linspace(1, last, STEPS).round().astype(int).tolist()})
    return [(count, memory.kv_cache_bytes(run.spec, asked.but(output=count))) for count in tokens]


def hardware_rows(hardware: Hardware) -> list[dict[str, Any]]:
    """Every number of a hardware with its origin."""
    return [{"number": key, "value": p.text, "how it is known": p.confidence or "", "source": p.cite or "",
             "file": f"{p.file}:{p.line}" if p.line else p.file} for key, p in hardware.provenance.items()]
