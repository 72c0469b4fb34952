"""CPU: cores with matrix and vector units under one cache and one memory."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gemvane.workloads.ops import Rows

from ..costs import Costs, Ledger
from ..dram.stream import bytes_per_s
from ..schema import Cpu, HardwareSpec
from ..units import ps_to_s
from .precision import Rates, rates


class ResolvedCpu(NamedTuple):
    freq_hz: int
    matrix: Rates
    sustained: float
    lanes: float
    memory_bytes_per_cycle: float
    overhead_cycles: float


def resolve(name: str, unit: Cpu, hardware: HardwareSpec) -> ResolvedCpu:
    matrix = rates({d: rate * unit.num_cores for d, rate in unit.macs_per_core.items()})
    return ResolvedCpu(
        freq_hz=unit.clock,
        matrix=matrix,
        sustained=unit.sustained,
        lanes=float(unit.macs_per_core.get("fp32", 1) * unit.num_cores),
        memory_bytes_per_cycle=bytes_per_s(hardware.memory) / unit.clock,
        overhead_cycles=ps_to_s(unit.op_overhead) * unit.clock,
    )


def cost(rows: Rows, cpu: ResolvedCpu) -> Costs:
    """time = overhead + max(multiply-adds at the sustained rate, vector operations, bytes / bandwidth)."""
    ledger = Ledger(rows.size)
    vector = rows.vector_ops / cpu.lanes
    ideal = np.maximum(rows.macs / cpu.matrix.macs_per_cycle[rows.act_dtype], vector)
    compute = np.maximum(rows.macs / cpu.matrix.macs_per_cycle[rows.act_dtype] / cpu.sustained, vector)
    memory = rows.memory_bytes / cpu.memory_bytes_per_cycle
    overhead = np.full(rows.size, cpu.overhead_cycles)
    ledger.spend("ideal", ideal)
    ledger.spend("edge", compute - ideal)
    ledger.spend("memory", memory - compute)
    ledger.spend("launch", overhead)
    ledger.count_macs(rows.macs, cpu.matrix.used[rows.act_dtype])
    ledger.count("vector_op", rows.vector_ops)
    ledger.count("sram_bytes", rows.memory_bytes)
    ledger.count_dram(rows.memory_bytes)
    matrix = np.where(rows.work <= 2, compute, 0)
    ledger.bind({"memory": memory, "compute": matrix, "vector": compute - matrix, "launch": overhead})
    return ledger.costs()
