"""Where the time and the energy of each unit go, by cause; and what each channel of PIM does."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads import lower

from . import energy
from .costs import ACTIONS, CAUSES, Floats, Int64s
from .devices import pim as pim_model
from .devices import resolve
from .hardware import Hardware
from .overlap import overlap, seconds
from .pimschema import Pim
from .simulate import Phase
from .units import ps_to_s

WAITS = ("contention", "blocked", "idle")
"""What a unit's time goes to beside its own work: see overlap.Overlap."""
DRAM = tuple(a for a in ACTIONS if a.startswith("dram_"))
ENERGY_CAUSES: dict[bool, dict[str, tuple[str, ...]]] = {
    False: {"compute": energy.COMPONENTS["mac"], "vector": ("vector_op",), "sram": ("sram_bytes",), "l2": ("l2_bytes",), "memory": DRAM,
            "link": ("link_bytes",)},
    True: {"compute": energy.COMPONENTS["mac"], "row": ("dram_activate_bytes",), "dot_products": ("pim_mac", "dram_array_bytes"),
           "vector_load": ("pim_buffer_bytes",), "transfer": ("dram_move_bytes", "dram_tsv_bytes", "dram_io_bytes"),
           "vector": ("vector_op",), "sram": ("sram_bytes",)},
}
"""For PIM (True) and all other units: cause -> the actions whose energy it is. `row` opens and closes rows, which have one price;
`memory` is what is read and written through the pins. Refresh is in a hardware's static power."""


class Balance(NamedTuple):
    """How PIM's channels share a phase."""

    fullest_over_mean: float
    """Time of the fullest channel over the mean, of all operators together."""
    least: bool
    """Whether no other placement has a smaller fullest channel."""


def time_s(phase: Phase, hardware: Hardware) -> dict[str, dict[str, float]]:
    """Unit -> cause -> seconds: its work by costs.CAUSES, then WAITS; together the length of the phase. The mean over the devices of a
    pipeline."""
    shared, units = overlap(phase, hardware), list(hardware.spec.units)
    devices = int(phase.trace.rows.stage.max()) + 1
    work = _of_units(phase, hardware, seconds(phase, hardware)) / devices
    waits = np.stack([getattr(shared, f"{name}_ps") for name in WAITS], axis=1)
    return {unit: {name: float(s) for name, s in zip((*CAUSES, *WAITS), (*work[u], *(ps_to_s(t) for t in waits[u])), strict=True) if s}
            for u, unit in enumerate(units)}


def energy_j(phase: Phase, hardware: Hardware) -> dict[str, dict[str, float]]:
    """Unit -> cause -> joules of dynamic energy of one device of a tensor-parallel group, over all devices of a pipeline."""
    counts = _of_units(phase, hardware, phase.actions)
    each = counts * energy.prices_pj(hardware, counts.sum(axis=0).astype(np.int64)) * 1e-12
    out = {}
    for u, (name, unit) in enumerate(hardware.spec.units.items()):
        causes = {cause: float(sum(each[u, ACTIONS.index(a)] for a in actions))
                  for cause, actions in ENERGY_CAUSES[isinstance(unit, Pim)].items()}
        out[name] = {cause: joules for cause, joules in causes.items() if joules}
    return out


def _of_units(phase: Phase, hardware: Hardware, per_entry: Floats | Int64s) -> Floats:
    """[unit, column] sums of [entry, column] over all operators of each unit."""
    out = np.zeros((len(hardware.spec.units), per_entry.shape[1]))
    np.add.at(out, phase.unit, per_entry[phase.alike].astype(np.float64))
    return out


def balance(phase: Phase, hardware: Hardware) -> dict[str, Balance]:
    """PIM unit that works in the phase -> how evenly its channels do."""
    cycles = _of_units(phase, hardware, phase.cycles)
    out = {}
    for u, (name, unit) in enumerate(hardware.spec.units.items()):
        whole = cycles[u].sum()
        if isinstance(unit, Pim) and whole:
            _, least = _channels(phase, hardware, u, 0)
            out[name] = Balance(float(whole / (whole - cycles[u, CAUSES.index("imbalance")])), least)
    return out


def channel_shares(phase: Phase, hardware: Hardware, unit: int, steps: int) -> tuple[Int64s, Floats]:
    """Rows of a step that a PIM unit runs, and [step, row, channel] share of an operator's time in which each channel works."""
    rows = np.flatnonzero(phase.unit == unit)
    entries, of_row = np.unique(phase.alike[rows], return_inverse=True)
    cycles = np.stack([_channels(phase, hardware, unit, step)[0] for step in range(steps)])
    assert cycles.shape[1] == entries.size
    shares: Floats = cycles / np.maximum(1, cycles.max(axis=2, keepdims=True))
    return rows, shares[:, of_row.reshape(-1)]


def _channels(phase: Phase, hardware: Hardware, unit: int, step: int) -> tuple[Int64s, bool]:
    """[entry of the unit, channel] cycles in a step, entries ascending; and whether every placement is known to be the best."""
    mine = np.flatnonzero(phase.unit == unit)
    _, first = np.unique(phase.alike[mine], return_index=True)
    rows = phase.trace.rows.take(mine[first])
    rows = lower.grow(rows, phase.trace.requests, phase.grown(np.array([step])), int(phase.trace.rows.generated.max()))
    machine = list(resolve(hardware.spec).values())[unit]
    return pim_model.channel_cycles(rows, machine, phase.trace.requests)
