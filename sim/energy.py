"""Energy: action counts x prices, plus static power x time. No model computes energy; no count goes unpriced."""

from __future__ import annotations

import numpy as np

from .calibration import energy_of, price_factor
from .costs import ACTIONS, Floats, Int64s
from .hardware import Hardware
from .schema import Gpu

COMPONENTS = {
    "mac": tuple(a for a in ACTIONS if a.startswith("mac_")),
    "vector": ("vector_op",),
    "sram": ("sram_bytes",),
    "l2": ("l2_bytes",),
    "dram_activate": ("dram_activate_bytes",),
    "dram_array": ("dram_array_bytes",),
    "dram_move": ("dram_move_bytes",),
    "dram_tsv": ("dram_tsv_bytes",),
    "dram_io": ("dram_io_bytes",),
    "pim": ("pim_mac", "pim_buffer_bytes"),
    "link": ("link_bytes",),
}


def prices_pj(hardware: Hardware, used: Int64s) -> Floats:
    """Price of each action of ACTIONS in pJ: a byte costs eight bits. A GPU's are what was fitted to its power meter.

    `used` counts each action; one that is used and has no price raises ValueError with its name.
    """
    known = hardware.prices
    fitted = next((energy_of(unit.calibration) for unit in hardware.spec.units.values() if isinstance(unit, Gpu)), None)
    if fitted is not None:
        known = {action: price * price_factor(fitted, action) for action, price in known.items()}
    missing = [a for a, count in zip(ACTIONS, used, strict=True) if count and a not in known]
    if missing:
        raise ValueError(f"{hardware.name}: no energy price for {', '.join(missing)}. Add energy.prices.{missing[0]}.")
    return np.array([known.get(a, 0.0) * (8 if a.endswith("_bytes") else 1) for a in ACTIONS])


def energy_pj(actions: Int64s, hardware: Hardware) -> Floats:
    """Dynamic energy of each row of `actions` [row, action]."""
    return actions @ prices_pj(hardware, actions.sum(axis=0))


def by_component_pj(actions: Int64s, hardware: Hardware) -> dict[str, float]:
    """Dynamic energy by COMPONENTS of counts [action]; components without a count are left out."""
    each = actions * prices_pj(hardware, actions)
    index = {a: i for i, a in enumerate(ACTIONS)}
    sums = {name: float(sum(each[index[a]] for a in parts)) for name, parts in COMPONENTS.items()}
    return {name: value for name, value in sums.items() if value}


def static_pj(hardware: Hardware, duration_ps: int, devices: int) -> float:
    """Static power of `devices` devices over a time: 1 W x 1 ps = 1 pJ."""
    return hardware.spec.power.static * duration_ps * devices
