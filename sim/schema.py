"""What a hardware file may say: the pydantic models behind hw_configs/*.yaml and the editors' JSON schema.

A quantity is text with a unit; by the time these models see it, a mapping {value, source, confidence} has been reduced
to its value (sim/hardware.py keeps the rest as provenance). Numbers come out in the inside units of sim/units.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gemvane.workloads.ops import DTYPE_BITS

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


class Systolic(Strict):
    kind: Literal["systolic"]
    clock: Frequency
    num_arrays: Count
    rows: PowerOfTwo
    cols: PowerOfTwo
    macs_per_cell: dict[Dtype, PerCell]
    """Multiply-adds of one cell in one clock, by operand type; a share ("25 %") where several passes are needed."""
    peak: dict[Dtype, ComputeRate]
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
    def _some_tile_fits(self) -> Systolic:
        """Half of the memory may be taken by activations that stay between operators."""
        bits = max(DTYPE_BITS[dtype] for dtype in self.macs_per_cell)
        flows = ("ws", "os", "is") if self.dataflow == "auto" else (self.dataflow,)
        needs = [least_tiles(self.rows, self.cols, flow, bits, bits) for flow in flows]
        least = 2 * min(sum(need) for need in needs)
        if self.sram < least:
            raise ValueError(f"sram is {self.sram} B. The least that works under {self.rows} x {self.cols} cells is {least} B: half of it "
                             "for two tiles of each operand, half for activations")
        if self.buffers is not None:
            sizes = dict(self.buffers)
            if sum(sizes.values()) > self.sram:
                raise ValueError(f"buffers add up to {show(sum(sizes.values()), 'B')} but sram is {show(self.sram, 'B')}")
            for name, size, *need in zip(sizes, sizes.values(), *needs, strict=True):
                if size < min(need):
                    raise ValueError(f"buffers.{name} is {show(size, 'B')} but two tiles of it are {show(min(need), 'B')}")
        return self


class Vector(Strict):
    kind: Literal["vector"]
    clock: Frequency
    num_lanes: Count
    """Operations of the whole unit in one clock."""
    op_overhead: Time


class Pim(Strict):
    """Multiply-accumulate units in the DRAM banks. Timings are cycles of `clock`, with their JEDEC names."""

    kind: Literal["pim"]
    clock: Frequency
    channels: Count
    ranks: PowerOfTwo
    bank_groups: PowerOfTwo
    banks_per_group: PowerOfTwo
    row: Size
    """One row of one bank, as the dot-product units see it."""
    lanes: PowerOfTwo
    """16-bit multiply-adds of one bank in one dot-product step."""
    activate_banks: PowerOfTwo
    """Banks that one activation command opens."""
    buffers: Literal["single", "dual"]
    placement: Literal["request", "head"] = "request"
    """What lives whole in one channel: a request with all its heads, or one KV head of a request."""
    step_cycles: Count
    """Cycles from one dot-product step to the next."""
    min_steps: Count
    """Depth of the dot-product pipeline: a shorter product takes as long as this many steps."""
    n_rcd: Count
    n_rp: Count
    n_rtp: Count
    n_faw: Count
    """Window of four single-bank activations; an activation of four banks fills it."""
    n_rfc: Count
    n_refi: Count
    gwrite_cycles: Count
    """Time to load one row of vector data into the channel's global buffer."""
    precharge_commands: Count
    """Commands that close the PIM row of every bank: one a bank, or 1 where an all-bank precharge exists."""
    external_bandwidth: Bandwidth
    """Ordinary bandwidth of the memory in which the PIM units sit."""
    capacity: Size | None = None
    """Memory of its own, beside the device's main memory; the KV cache lives there. Left out: PIM sits in main memory."""

    @model_validator(mode="after")
    def _activation_fits(self) -> Pim:
        banks = self.ranks * self.bank_groups * self.banks_per_group
        if self.activate_banks > banks:
            raise ValueError(f"activate_banks is {self.activate_banks} but a channel has {banks} banks")
        return self


class Cpu(Strict):
    kind: Literal["cpu"]
    clock: Frequency
    num_cores: Count
    macs_per_core: dict[Dtype, Count]
    peak: dict[Dtype, ComputeRate]
    sustained: Share = 1.0
    cache: Size
    op_overhead: Time

    @model_validator(mode="after")
    def _peak_is_macs_times_clock(self) -> Cpu:
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
_ALL_BUT_LINKS = ("matmul", "attention_prefill", "attention_decode", "vector", "move")
CAN_RUN: dict[str, tuple[str, ...]] = {
    "gpu": _ALL_BUT_LINKS, "cpu": _ALL_BUT_LINKS, "systolic": ("matmul", "attention_prefill", "attention_decode"),
    "vector": ("vector", "move", "attention_decode"), "pim": ("attention_decode",), "link": ("collective",),
}
"""Kind of unit -> the classes of work that its model costs; any other would take no time there."""


class Schedule(Strict):
    """Policies by name; no number here describes silicon."""

    sub_batches: SubBatches = 1
    """Parts into which a decode batch is cut so that units can work on different parts at once; auto: 1 or 2, the faster."""
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
    mapping: dict[WorkClass, str | Annotated[list[str], Field(min_length=1)]]
    """The unit that runs each class of work; a list: the one with which a phase is over first."""
    schedule: Schedule = Schedule()
    power: PowerBudget
    energy: EnergySpec

    @model_validator(mode="after")
    def _names_meet(self) -> HardwareSpec:
        for work, unit in ((work, unit) for work, units in self.mapping.items() for unit in ([units] if isinstance(units, str) else units)):
            if unit not in self.units:
                raise ValueError(f"mapping.{work} names unit {unit!r}; units are {', '.join(self.units)}")
            kind = self.units[unit].kind
            if work not in CAN_RUN[kind]:
                raise ValueError(f"mapping.{work} names unit {unit!r}, a {kind}, which runs only {', '.join(CAN_RUN[kind])}")
        for unit in (name for group in self.schedule.exclusive for name in group):
            if unit not in self.units:
                raise ValueError(f"schedule.exclusive names unit {unit!r}; units are {', '.join(self.units)}")
        return self
