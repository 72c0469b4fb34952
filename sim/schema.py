"""What a hardware file may say: the pydantic models behind hw_configs/*.yaml and the editors' JSON schema.

A quantity is text with a unit; by the time these models see it, a mapping {value, source, confidence} has been reduced
to its value (sim/hardware.py keeps the rest as provenance). Numbers come out in the inside units of sim/units.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from gemvane.workloads.ops import DTYPE_BITS, GROUP, INDEX_BITS, KEPT, SPARSITIES

from .pimschema import Pim
from .quantity import (
    Bandwidth,
    ComputeRate,
    Count,
    Dtype,
    Frequency,
    Length,
    PerCell,
    PinRate,
    Power,
    PowerOfTwo,
    Prices,
    Share,
    Size,
    Source,
    Strict,
    SubBatches,
    Time,
)
from .units import show

SCHEMA_VERSION = 1
PEAK_TOLERANCE = 0.02
"""Vendors print peaks to two or three digits (989 TFLOP/s for 989.43), so a check of peak = 2 x MACs x clock allows 2 %."""
PARTIAL_SUM_BITS = 32


def _check_peaks(what: str, stated: Mapping[Any, int], macs: str, counted: Mapping[Any, float]) -> None:
    """Both tables name the same types, and each stated peak is 2 x MACs x clock (`counted`)."""
    if not counted:
        raise ValueError(f"{macs} is empty. Expected at least one operand type.")
    for dtype in (*counted, *stated):
        if dtype not in stated:
            raise ValueError(f"{macs} has {dtype} but {what} has not")
        if dtype not in counted:
            raise ValueError(f"{what} has {dtype} but {macs} has not")
        peak = stated[dtype]
        if abs(peak - counted[dtype]) > PEAK_TOLERANCE * peak:
            raise ValueError(f"{what}.{dtype} is {show(peak, 'OP/s', 4)} but 2 x MACs x clock is {show(counted[dtype], 'OP/s', 4)}")


class Memory(Strict):
    """The main memory of one device."""

    technology: str
    capacity: Size
    bandwidth: Bandwidth
    part: str | None = None
    """Memory part under hw_configs/memory/ whose channels this is."""
    sustained: Share | None = None
    """Share of `bandwidth` that the best long streams reach (refresh, turnarounds). Left out: that of `part`, replayed."""
    pins: Count | None = None
    pin_rate: PinRate | None = None

    @model_validator(mode="after")
    def _pins_carry_the_bandwidth(self) -> Memory:
        if self.pins is not None and self.pin_rate is not None:
            carried = self.pins * self.pin_rate / 8
            if abs(carried - self.bandwidth) > 0.01 * self.bandwidth:
                raise ValueError(f"bandwidth is {show(self.bandwidth, 'B/s')} but pins x pin_rate is {show(carried, 'B/s')}")
        return self


class Gpu(Strict):
    kind: Literal["gpu"]
    clock: Frequency
    num_sms: Count
    tensor_macs_per_sm: dict[Dtype, Count]
    """Dense multiply-adds of one SM (or CU) in one clock, by operand type."""
    tensor_peak: dict[Dtype, ComputeRate]
    tensor_sustained: Share = 1.0
    """Share of `tensor_peak` that the best large matmul is known to reach (power, issue)."""
    vector_peak: ComputeRate
    l2_size: Size
    l2_bandwidth: Bandwidth
    kernel_floor: Time
    """Shortest time of a kernel inside a CUDA graph: launch, prologue and epilogue together."""
    matrix_unit: Literal["synchronous", "asynchronous"] = "synchronous"
    """asynchronous: loads and matrix instructions run on their own and thread blocks share operands (TMA, warp-group MMA, clusters)."""
    attention: Literal["auto", "flash2", "flash3", "split-kv", "fixed-split", "lean", "paged", "unfused"] = "auto"
    """Kernel of attentions that name none. auto: that of the framework that was measured; of a trace, flash3."""
    calibration: str | None = None
    """Whose fitted parameters it runs with: a file under hw_configs/calibration/, or a path; its own, or a relative's."""

    @model_validator(mode="after")
    def _peak_is_macs_times_clock(self) -> Gpu:
        counted = {dtype: 2 * macs * self.num_sms * self.clock for dtype, macs in self.tensor_macs_per_sm.items()}
        _check_peaks("tensor_peak", self.tensor_peak, "tensor_macs_per_sm", counted)
        return self


def least_tiles(rows: int, cols: int, dataflow: str, input_bits: int, weight_bits: int) -> tuple[int, int, int]:
    """Bytes of input, weight and partial sums without which an array has no tile: of what streams through it one vector, of what
    stays in it one array tile, and each of them twice."""
    tile = rows * cols
    elements = {"ws": (rows, tile, cols), "os": (rows, cols, tile), "is": (tile, rows, cols)}[dataflow]
    widths = (input_bits, weight_bits, PARTIAL_SUM_BITS)
    at_input, at_weight, at_output = (2 * -(-count * bits // 8) for count, bits in zip(elements, widths, strict=True))
    return at_input, at_weight, at_output


class Buffers(Strict):
    """Parts of an array's memory that only one operand may use."""

    input: Size
    weight: Size
    output: Size


def _pattern(value: object) -> str:
    if value not in SPARSITIES[1:]:
        known = ", ".join(SPARSITIES[1:])
        raise ValueError(f"{value!r} is no pattern. Expected one of {known}, in quotes (a bare 2:4 is a number in YAML).")
    return str(value)


Pattern = Annotated[str, BeforeValidator(_pattern), WithJsonSchema({"enum": list(SPARSITIES[1:])})]


class Systolic(Strict):
    kind: Literal["systolic"]
    clock: Frequency
    num_arrays: Count
    rows: PowerOfTwo
    cols: PowerOfTwo
    macs_per_cell: dict[Dtype, PerCell]
    """Multiply-adds of one cell in one clock, by operand type; a share ("25 %") where several passes are needed."""
    peak: dict[Dtype, ComputeRate]
    sparsity: list[Pattern] = Field(default_factory=list)
    """Patterns of weights that the cells can hold compressed, N rows of cells for M of the matrix; weight-stationary only. Each cell
    picks its activation by the index that it holds, so M activations a cycle go past each N rows, and the buffers are taken to
    deliver them. Left out: weights are dense."""
    dataflow: Literal["ws", "os", "is", "auto"] = "ws"
    weight_double_buffer: bool = True
    """Load the next stationary tile behind the stream of this one."""
    sram: Size
    """Memory of all arrays together: tiles of operands, twice each, and activations that stay between operators."""
    buffers: Buffers | None = None
    """Left out: the operands share `sram` as suits each operator."""
    accumulators: Size | None = None
    """Memory of all arrays for partial sums alone, four bytes each. Left out: they lie in `sram`."""
    op_overhead: Time
    """Fixed cost of starting one operator: descriptors, DMA latency, synchronisation."""

    @model_validator(mode="after")
    def _peak_is_macs_times_clock(self) -> Systolic:
        cells = self.rows * self.cols * self.num_arrays
        counted = {dtype: 2 * macs * cells * self.clock for dtype, macs in self.macs_per_cell.items()}
        _check_peaks("peak", self.peak, "macs_per_cell", counted)
        return self

    @model_validator(mode="after")
    def _sparse_weights_stay(self) -> Systolic:
        if self.sparsity and self.dataflow not in ("ws", "auto"):
            raise ValueError(f"sparsity needs stationary weights but dataflow is {self.dataflow}. Expected ws or auto")
        return self

    @model_validator(mode="after")
    def _some_tile_fits(self) -> Systolic:
        """Half of the memory may be taken by activations that stay between operators."""
        bits = max(DTYPE_BITS[dtype] for dtype in self.macs_per_cell)
        flows = ("ws", "os", "is") if self.dataflow == "auto" else (self.dataflow,)
        needs = [least_tiles(self.rows, self.cols, flow, bits, bits) for flow in flows]
        patterns = [SPARSITIES.index(pattern) for pattern in self.sparsity]
        sparse = [least_tiles(self.rows, self.cols, "ws", bits * int(GROUP[p] // KEPT[p]), bits + int(INDEX_BITS[p])) for p in patterns]
        least = 2 * max(min(sum(need) for need in needs), *(sum(need) for need in sparse), 0)
        if self.sram < least:
            raise ValueError(f"sram is {self.sram} B. The least that works under {self.rows} x {self.cols} cells is {least} B: half of it "
                             "for two tiles of each operand, half for activations")
        if self.buffers is not None:
            sizes = dict(self.buffers)
            if sum(sizes.values()) > self.sram:
                raise ValueError(f"buffers add up to {show(sum(sizes.values()), 'B')} but sram is {show(self.sram, 'B')}")
            for i, (name, size) in enumerate(sizes.items()):
                need = max(min(each[i] for each in needs), *(each[i] for each in sparse), 0)
                if size < need:
                    raise ValueError(f"buffers.{name} is {show(size, 'B')} but two tiles of it are {show(need, 'B')}")
        return self


class Vector(Strict):
    kind: Literal["vector"]
    clock: Frequency
    num_lanes: Count
    """Operations of the whole unit in one clock."""
    op_overhead: Time


class CacheLevel(Strict):
    size: Size
    """Of one cache: that of a core where each has its own, the whole where all share it."""
    bandwidth: Bandwidth
    """Of all cores together, reading."""


class RegisterTile(Strict):
    """Output elements that a core keeps in registers during a matmul."""

    rows: Count
    cols: Count


class Cpu(Strict):
    kind: Literal["cpu"]
    clock: Frequency
    num_cores: Count
    macs_per_core: dict[Dtype, Count]
    peak: dict[Dtype, ComputeRate]
    tile: RegisterTile
    sustained: dict[Dtype, Share] = Field(default_factory=dict)
    """Share of `peak` that whole tiles of a matmul reach; 1 for a type that is left out."""
    vector_sustained: Share = 1.0
    """Share of the fp32 rate that everything else reaches."""
    overlap: Share = 1.0
    """Share of computing and moving, of the shorter of the two, that hides behind the longer."""
    l1: CacheLevel
    l2: CacheLevel
    l3: CacheLevel | None = None
    op_overhead: Time
    """Fixed cost of an operator: the framework's call and the barrier of its threads."""

    @model_validator(mode="after")
    def _peak_is_macs_times_clock(self) -> Cpu:
        if "fp32" not in self.macs_per_core:
            raise ValueError("macs_per_core has no fp32, which is the rate of the vector units")
        counted = {dtype: 2 * macs * self.num_cores * self.clock for dtype, macs in self.macs_per_core.items()}
        _check_peaks("peak", self.peak, "macs_per_core", counted)
        return self


class Link(Strict):
    """What connects one device to its peers: the alpha-beta model of one port pair."""

    kind: Literal["link"]
    bandwidth: Bandwidth
    """Out of one device, all its links together, one direction."""
    latency: Time
    """One message of size zero from one device to another."""
    algorithm: Literal["ring", "tree", "auto"] = "auto"
    """Behind a switch. A torus has rings along its axes."""
    topology: Literal["switch", "torus"] = "switch"
    axes: Count | None = None
    """Of a torus: a device has two links along each, which share `bandwidth` evenly."""
    wraps_from: Count | None = None
    """Of a torus: devices along an axis from which on its ends are linked."""
    max_devices: Count

    @model_validator(mode="after")
    def _a_torus_has_axes(self) -> Link:
        for name, value in (("axes", self.axes), ("wraps_from", self.wraps_from)):
            if (value is not None) != (self.topology == "torus"):
                raise ValueError(f"{name} is {'missing' if value is None else value} but topology is {self.topology}")
        return self


Unit = Annotated[Gpu | Systolic | Vector | Pim | Cpu | Link, Field(discriminator="kind")]
WorkClass = Literal["matmul", "attention_prefill", "attention_decode", "vector", "move", "collective"]
OperatorClass = Literal["projection", "ffn", "lm_head", "attention_score", "softmax", "attention_value"]
WORK_OF = {"projection": "matmul", "ffn": "matmul", "lm_head": "matmul", "softmax": "vector", "attention_score": "attention_decode",
           "attention_value": "attention_decode"}
"""Operator class -> the class of work that it is part of, whose unit it has where the mapping does not name it."""
_ALL_BUT_LINKS = ("matmul", "attention_prefill", "attention_decode", "vector", "move")
CAN_RUN: dict[str, tuple[str, ...]] = {
    "gpu": _ALL_BUT_LINKS, "cpu": _ALL_BUT_LINKS, "systolic": ("matmul", "attention_prefill", "attention_decode"),
    "vector": ("vector", "move", "attention_decode"), "pim": ("matmul", "attention_prefill", "attention_decode"), "link": ("collective",),
}
"""Kind of unit -> the classes of work that its model costs; any other would take no time there."""
IN_PARTS = ("systolic", "vector", "pim")
"""Kinds of unit that may run scores and values of attention without each other: the others' kernels are fused."""


def can_run(kind: str, work: str) -> bool:
    """Whether a kind of unit runs a class of work or of operators."""
    fused = work in ("attention_score", "attention_value") and kind not in IN_PARTS
    return WORK_OF.get(work, work) in CAN_RUN[kind] and not fused


class Schedule(Strict):
    """Policies by name; no number here describes silicon."""

    sub_batches: SubBatches = 1
    """Parts into which a decode batch is cut so that units can work on different parts at once; auto: 1, 2 or 4, the fastest."""
    partition: Literal["dealt", "halves", "greedy", "balanced"] = "dealt"
    """Which request goes to which sub-batch: see workloads.partition.PARTITIONS."""
    barriers: Literal["none", "stage"] = "none"
    """none: an operator waits for its operands alone; stage: all units meet where NeuPIMs' stages end (ASPLOS'24)."""
    contention: Literal["pim-first", "requests-first", "oldest-first", "blocked", "none"] = "pim-first"
    """Who goes first in a channel that PIM shares with other units: see sim.dram.contend.POLICIES; none: neither slows the other."""
    exclusive: list[list[str]] = Field(default_factory=list)
    """Groups of units of which only one may work at a time (PIM in blocked mode)."""


class PowerBudget(Strict):
    tdp: Power | None = None
    static: Power
    """Drawn all the time: leakage, clocks, refresh and standby."""


class EnergySpec(Strict):
    table: str
    """Price table under hw_configs/energy/."""
    node: Length | None = None
    """Technology node of the device where it is another than the table's: logic and SRAM are scaled to it."""
    prices: Prices = Field(default_factory=dict)
    """Prices of this device that differ from the table; they are not scaled."""


class PriceTable(Strict):
    """What one action costs at one technology node: hw_configs/energy/*.yaml."""

    schema_version: Literal[1]
    name: str
    node: Length
    description: str
    sources: dict[str, Source] = Field(default_factory=dict)
    prices: Prices


class HardwareSpec(Strict):
    """One device of a kind that exists or does not exist yet."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Literal["gpu", "tpu", "npu", "npu-pim", "gpu-pim", "cpu"]
    description: str
    sources: dict[str, Source] = Field(default_factory=dict)
    memory: Memory
    units: dict[str, Unit]
    mapping: dict[WorkClass | OperatorClass, str | Annotated[list[str], Field(min_length=1)]]
    """The unit that runs each class of work, or of operators where they differ; a list: the one with which a phase is over first; auto: of
    all units that can."""
    schedule: Schedule = Schedule()
    power: PowerBudget
    energy: EnergySpec

    @model_validator(mode="after")
    def _names_meet(self) -> HardwareSpec:
        for work in self.mapping:
            if not self.units_for(work):
                raise ValueError(f"mapping.{work} is auto but none of {', '.join(self.units)} can run it")
        for work, unit in ((named, unit) for named in self.mapping for unit in self.units_for(named)):
            if unit not in self.units:
                raise ValueError(f"mapping.{work} names unit {unit!r}; units are {', '.join(self.units)}")
            kind = self.units[unit].kind
            if not can_run(kind, work):
                able = " or ".join(name for name, u in self.units.items() if can_run(u.kind, work)) or "none of its units"
                raise ValueError(f"mapping.{work} names unit {unit!r}, a {kind}, which runs only {', '.join(CAN_RUN[kind])}; "
                                 f"{work} runs on {able}")
        if {"attention_score", "attention_value"} & set(self.mapping):
            for work in ("attention_score", "attention_value"):
                for unit in self.units_for(work) or self.units_for("attention_decode"):
                    if not can_run(self.units[unit].kind, work):
                        raise ValueError(f"mapping.attention_decode names unit {unit!r}, whose attention is one kernel, but only a part of "
                                         f"it is mapped elsewhere; name a unit for {work} too")
        for name, pim in ((name, unit) for name, unit in self.units.items() if isinstance(unit, Pim)):
            pins, room = (self.memory.pins if pim.capacity is None else None), pim.capacity or self.memory.capacity
            for what, amount in (("pins", pins), ("bytes", room)):
                if amount is not None and amount % pim.channels:
                    raise ValueError(f"units.{name}.channels is {pim.channels}, into which the memory's {amount} {what} do not divide")
        for unit in (name for group in self.schedule.exclusive for name in group):
            if unit not in self.units:
                raise ValueError(f"schedule.exclusive names unit {unit!r}; units are {', '.join(self.units)}")
        return self

    def units_for(self, work: str) -> list[str]:
        """The units that may run a class of work or of operators; [] where the mapping does not name it."""
        named = self.mapping.get(work, [])  # type: ignore[call-overload]
        if named == "auto" and "auto" not in self.units:
            return [name for name, unit in self.units.items() if can_run(unit.kind, work)]
        return [named] if isinstance(named, str) else list(dict.fromkeys(named))
