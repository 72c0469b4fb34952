"""One file a kind of unit: operator rows -> Costs. Each has `resolve` (checked fields -> numbers) and `cost`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gemvane.workloads.kernels import Conditions
from gemvane.workloads.ops import Rows
from gemvane.workloads.trace import Requests

from ..costs import Costs, by_arithmetic
from ..dram.part import load
from ..hardware import Hardware
from ..pimschema import Pim
from ..schema import HardwareSpec
from ..yamlcheck import FaultyFileError
from ..yamltree import dotted
from . import cpu, gpu, link, pim, pim_channel, systolic, vector

MODELS: dict[str, Any] = {"gpu": gpu, "systolic": systolic, "vector": vector, "pim": pim, "cpu": cpu, "link": link}


def resolve(hardware: HardwareSpec) -> dict[str, Any]:
    """Each unit's numbers for the models, by unit name, in the hardware's order."""
    return {name: MODELS[unit.kind].resolve(name, unit, hardware) for name, unit in hardware.units.items()}


def check(hardware: Hardware) -> None:
    """ValueError with file, line and key where the hardware names a memory part that is not there, or asks of one what it has not."""
    for path, opened in _parts(hardware):
        try:
            opened()
        except ValueError as error:
            if isinstance(error, FaultyFileError):
                raise
            said = str(error)
            field = said.split(maxsplit=1)[0].rstrip(":").split(".")
            inside = field[0] in Pim.model_fields  # what is said begins with the field of the unit that is at fault
            key, told = ((*path[:-1], *field), f"{dotted(path[:-1])}.{said}") if inside else (path, f"{dotted(path)}: {said}")
            raise ValueError(f"{hardware.tree.at(key)}: {told}") from None


def _parts(hardware: Hardware) -> Iterator[tuple[tuple[str, ...], Callable[[], Any]]]:
    """Where a memory part is named, and what opens it."""
    spec = hardware.spec
    if spec.memory.part is not None:
        yield ("memory", "part"), partial(load, spec.memory.part)
    for name, unit in spec.units.items():
        if isinstance(unit, Pim):
            yield ("units", name, "part"), partial(pim_channel.engine_part, pim_channel.key_of(unit))


def cost(kind: str, rows: Rows, machine: Any, requests: Requests, conditions: Conditions | None = None) -> Costs:
    """Costs of rows on one unit. PIM alone asks whose cache it reads; a GPU alone, under which conditions a kernel was measured."""
    if kind == "pim":
        return pim.cost(rows, machine, requests)
    costs: Costs = gpu.cost(rows, machine, conditions) if kind == "gpu" else MODELS[kind].cost(rows, machine)
    return by_arithmetic(costs, rows)
