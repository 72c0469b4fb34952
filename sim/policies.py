"""Policies of a machine by name: what an architect switches, where it stands in a hardware file, and what it is now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .devices.pim_channel import engine_part, key_of, step_ticks, units
from .hardware import Hardware, nearest
from .mapping import OPERATORS
from .pimschema import Pim
from .schema import CAN_RUN
from .units import show

OF_SCHEDULE = {"sub_batches": "sub_batches", "partition": "partition", "barriers": "barriers", "contention": "contention"}
OF_PIM = {"row_buffers": "buffers", "layout": "layout", "whole": "whole", "channels": "placement", "refresh": "refresh",
          "power_cap": "power_cap"}
OF_OPERATORS = ("matmul", "attention_prefill", "attention_decode", *OPERATORS)
POLICIES = (*OF_SCHEDULE, "pim_mode", *OF_PIM, *OF_OPERATORS)
"""`pim_mode` is blocked, where the units that multiply and PIM take turns, or concurrent."""
OFF = {"sub_batches": 1, "barriers": "none", "contention": "none", "power_cap": None}
"""What `off` means."""
STEP = {"newton": "nSTEP", "aim": "nCCDL", "hbm-pim": "nCCDL"}
"""Style of PIM -> the timing from one dot-product step to the next."""
STEP_OF_ATTACC = {"bank": "nCCDAB", "bank-group": "nCCDSB", "buffer": "nBL"}


def with_policies(hardware: Hardware, wishes: Mapping[str, Any]) -> Hardware:
    """The hardware with some of POLICIES changed, checked as a file is: {"sub_batches": 2, "ffn": "auto", "row_buffers": "single"}.

    An operator class may have several units, with commas between them. ValueError for a policy that there is not, that the hardware
    has no unit for, or a value that it does not know.
    """
    changes: dict[str, Any] = {}
    for name, wish in wishes.items():
        if name not in POLICIES:
            raise ValueError(f"no policy {name!r}{nearest(name, POLICIES)}. Expected one of {', '.join(POLICIES)}.")
        value: Any = OFF[name] if wish in ("off", "none") and name in OFF else int(wish) if str(wish).isdecimal() else wish
        if name in OF_SCHEDULE:
            changes[f"schedule.{OF_SCHEDULE[name]}"] = value
        elif name == "pim_mode":
            changes["schedule.exclusive"] = _exclusive(hardware, value)
        elif name in OF_PIM:
            changes |= {f"units.{unit}.{OF_PIM[name]}": value for unit in _pims(hardware, name)}
        else:
            several = isinstance(value, str) and "," in value
            changes[f"mapping.{name}"] = [unit.strip() for unit in value.split(",")] if several else value
    return hardware.replace(changes) if changes else hardware


def parsed(texts: list[str]) -> dict[str, str]:
    """Policies of texts such as "sub_batches=2". ValueError for a text without a sign of equality, and for a policy named twice."""
    out: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise ValueError(f"--policy {text}: expected NAME=VALUE, e.g. sub_batches=2. Names are {', '.join(POLICIES)}.")
        if name in out:
            raise ValueError(f"--policy {text}: {name} is {out[name]} already.")
        out[name] = value
    return out


def named(hardware: Hardware) -> dict[str, Any]:
    """The policies of a hardware as `with_policies` takes them; those of PIM only where it has PIM."""
    spec = hardware.spec
    out: dict[str, Any] = {name: getattr(spec.schedule, field) for name, field in OF_SCHEDULE.items()}
    pim = next((unit for unit in spec.units.values() if isinstance(unit, Pim)), None)
    if pim is not None:
        out["pim_mode"] = "blocked" if spec.schedule.exclusive else "concurrent"
        out |= {name: getattr(pim, field) for name, field in OF_PIM.items()}
        out["power_cap"] = None if pim.power_cap is None else show(pim.power_cap, "W")
    return out | {name: spec.units_for(name) for name in OF_OPERATORS if spec.units_for(name)}


def _pims(hardware: Hardware, policy: str) -> list[str]:
    names = [name for name, unit in hardware.spec.units.items() if isinstance(unit, Pim)]
    if not names:
        raise ValueError(f"{hardware.name} has no PIM unit, which policy {policy} is of.")
    return names


def _exclusive(hardware: Hardware, mode: Any) -> list[list[str]]:
    """Groups of units of which one may work at a time."""
    if mode not in ("blocked", "concurrent"):
        raise ValueError(f"pim_mode is {mode!r}. Expected blocked or concurrent.")
    pims = _pims(hardware, "pim_mode")
    beside = [name for name, unit in hardware.spec.units.items() if "matmul" in CAN_RUN[unit.kind] and name not in pims]
    return [[*beside, *pims]] if mode == "blocked" else []


def capped(hardware: Hardware) -> tuple[Hardware, list[str]]:
    """The hardware with dot-product steps as far apart as PIM's power cap asks, and a sentence where that is farther than before.

    A step draws its array reads and its multiply-adds of 16 bits at the prices of the hardware; opening rows is not in it.
    """
    changed, said = dict(hardware.spec.units), []
    for name, unit in hardware.spec.units.items():
        if not isinstance(unit, Pim) or unit.power_cap is None:
            continue
        key = key_of(unit)
        part, price = engine_part(key), hardware.prices
        lanes = units(key) * part.pim.lanes * unit.channels
        step_pj = lanes * (8 * part.pim.element * price.get("dram_array_bytes", 0.0) + price.get("pim_mac", 0.0))
        ticks = int(-(-step_pj // float(unit.power_cap * part.tick_ps)))
        if ticks <= step_ticks(key):
            continue
        timing = STEP_OF_ATTACC[unit.level] if part.pim.style == "attacc" else STEP[part.pim.style]
        changed[name] = unit.model_copy(update={"timings": {**unit.timings, timing: ticks}})
        said.append(f"{hardware.name}: under {show(unit.power_cap, 'W')} a dot-product step of {name} comes every {ticks} clocks, not "
                    f"every {step_ticks(key)}.")
    return replace(hardware, spec=hardware.spec.model_copy(update={"units": changed})), said
