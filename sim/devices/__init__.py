"""One file a kind of unit: operator rows -> Costs. Each has `resolve` (checked fields -> numbers) and `cost`."""

from __future__ import annotations

from typing import Any

from gemvane.workloads.kernels import Conditions
from gemvane.workloads.ops import Rows
from gemvane.workloads.trace import Requests

from ..costs import Costs
from ..schema import HardwareSpec
from . import cpu, gpu, link, pim, systolic, vector

MODELS: dict[str, Any] = {"gpu": gpu, "systolic": systolic, "vector": vector, "pim": pim, "cpu": cpu, "link": link}


def resolve(hardware: HardwareSpec) -> dict[str, Any]:
    """Each unit's numbers for the models, by unit name, in the hardware's order."""
    return {name: MODELS[unit.kind].resolve(name, unit, hardware) for name, unit in hardware.units.items()}


def cost(kind: str, rows: Rows, machine: Any, requests: Requests, conditions: Conditions | None = None) -> Costs:
    """Costs of rows on one unit. PIM alone asks whose cache it reads; a GPU alone, under which conditions a kernel was measured."""
    if kind == "pim":
        return pim.cost(rows, machine, requests)
    if kind == "gpu":
        return gpu.cost(rows, machine, conditions)
    costs: Costs = MODELS[kind].cost(rows, machine)
    return costs
