"""Vector unit beside an array: so many lanes, and operands in the array's SRAM where they fit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import Rows

from ..costs import Costs, Int64s, Ledger
from ..dram.stream import bytes_per_s, scattered
from ..schema import HardwareSpec, Systolic, Vector
from ..units import ps_to_s


class ResolvedVector(NamedTuple):
    freq_hz: int
    lanes: int
    memory_bytes_per_cycle: float
    sram_bytes: int
    overhead_cycles: float
    part: str | None
    """Of the main memory."""


def resolve(name: str, unit: Vector, hardware: HardwareSpec) -> ResolvedVector:
    return ResolvedVector(
        freq_hz=unit.clock,
        lanes=unit.num_lanes,
        memory_bytes_per_cycle=bytes_per_s(hardware.memory) / unit.clock,
        sram_bytes=sram_of(hardware),
        overhead_cycles=ps_to_s(unit.op_overhead) * unit.clock,
        part=hardware.memory.part,
    )


def sram_of(hardware: HardwareSpec) -> int:
    """On-chip memory that the units share: the largest array's, in bytes; 0 where there is none."""
    return max((u.sram for u in hardware.units.values() if isinstance(u, Systolic)), default=0)


def dram_bytes(rows: Rows, sram_bytes: int) -> Int64s:
    """Bytes that leave or enter the chip: weights and cache always, activations where they overflow half the SRAM.

    The other half holds the next operator's operands (double buffering).
    """
    activations = rows.input_bytes + rows.output_bytes
    spilled = np.where(activations > sram_bytes // 2, activations, 0)
    return rows.weight_bytes + rows.kv_read_bytes + rows.kv_write_bytes + spilled


OPS_PER_MAC = 2
"""A lane multiplies and adds in two operations (guess where a part has fused ones)."""


def cost(rows: Rows, vector: ResolvedVector) -> Costs:
    """Costs of vector, move and decode attention rows: time = overhead + max(operations / lanes, bytes / bandwidth)."""
    ledger = Ledger(rows.size)
    moved = dram_bytes(rows, vector.sram_bytes)
    operations = rows.vector_ops + OPS_PER_MAC * rows.macs
    issue = -(-operations // vector.lanes)
    memory = moved / vector.memory_bytes_per_cycle * scattered(rows.run_bytes, vector.part)
    ledger.spend("ideal", issue)
    ledger.spend("memory", memory - issue)
    ledger.spend("launch", np.full(rows.size, vector.overhead_cycles))
    ledger.count("vector_op", operations)
    ledger.count("sram_bytes", rows.input_bytes + rows.output_bytes + rows.kv_read_bytes)
    ledger.count_dram(moved)
    ledger.bind({"vector": issue, "memory": memory, "launch": np.full(rows.size, vector.overhead_cycles)})
    return ledger.costs()
