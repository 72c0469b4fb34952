"""What a hardware file may say: the pydantic models behind hw_configs/*.yaml and the editors' JSON schema.

A quantity is text with a unit; by the time these models see it, a mapping {value, source, confidence} has been reduced
to its value (sim/hardware.py keeps the rest as provenance). Numbers come out in the inside units of sim/units.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from .units import DIMENSIONS, parse, show

SCHEMA_VERSION = 1
Confidence = Literal["measured", "datasheet", "paper", "source", "second-hand", "derived", "memory", "guess", "policy"]
CONFIDENCES: tuple[str, ...] = get_args(Confidence)
PEAK_TOLERANCE = 0.02
"""Vendors print peaks to two or three digits (989 TFLOP/s for 989.43), so a check of peak = 2 x MACs x clock allows 2 %."""


def _or_leaf(schema: dict[str, Any]) -> dict[str, Any]:
    """The editors' schema of a number: bare, or a mapping that says where it comes from."""
    origin = {"source": {"type": "string"}, "confidence": {"enum": list(CONFIDENCES)}, "note": {"type": "string"}}
    leaf = {"type": "object", "properties": {"value": schema, **origin}, "required": ["value"], "additionalProperties": False}
    return {"anyOf": [schema, leaf]}


@dataclass(frozen=True, eq=False)
class Quantity:
    """A field that is read by `read` and shown to editors as `json`."""

    read: Callable[[Any], float]
    json: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return _or_leaf(self.json)


def _of(dimension: str) -> Quantity:
    want = DIMENSIONS[dimension]

    def above_zero(text: object) -> float:
        value = parse(text, dimension)
        if value == 0:
            raise ValueError(f"{text!r} is zero. Expected a {want.name} above zero, e.g. '{want.example}'.")
        return value

    return Quantity(above_zero, {"type": "string", "description": f"a {want.name}, e.g. '{want.example}'", "examples": [want.example]})


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a count. Expected a whole number, e.g. 128.")
    if value <= 0:
        raise ValueError(f"{value!r} is not positive. Expected a whole number above zero.")
    return value


def _power_of_two(value: object) -> int:
    count = _count(value)
    if count & (count - 1):
        raise ValueError(f"{count} is not a power of two, which this hardware needs.")
    return count


def _share(text: object) -> float:
    share = float(parse(text, "fraction"))
    if not 0 < share <= 1:
        raise ValueError(f"{text!r} is not a share. Expected more than 0 % and at most 100 %.")
    return share


def _sub_batches(value: object) -> int | str:
    return "auto" if value == "auto" else _count(value)


def _per_cell(value: object) -> float:
    return float(_count(value)) if isinstance(value, int) else float(parse(value, "fraction"))


def _price(action: str, text: object) -> float:
    return float(parse(text, "energy per bit" if action.endswith("_bytes") else "energy"))


def _prices(prices: object) -> dict[str, float]:
    if not isinstance(prices, dict):
        raise ValueError(f"{prices!r} is not a mapping of actions to prices.")
    out = {}
    for action, text in prices.items():
        try:
            out[action] = _price(action, text)
        except ValueError as error:
            raise ValueError(f"{action}: {error}") from None
    return out


Size = Annotated[int, _of("size")]
Bandwidth = Annotated[int, _of("bandwidth")]
PinRate = Annotated[int, _of("pin rate")]
Frequency = Annotated[int, _of("frequency")]
Time = Annotated[int, _of("time")]
ComputeRate = Annotated[int, _of("compute rate")]
Power = Annotated[float, _of("power")]
Length = Annotated[float, _of("length")]
Share = Annotated[float, Quantity(_share, {"type": "string", "examples": ["88 %"]})]
Count = Annotated[int, Quantity(_count, {"type": "integer", "minimum": 1})]
SubBatches = Annotated[int | Literal["auto"], Quantity(_sub_batches, {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]})]
PowerOfTwo = Annotated[int, Quantity(_power_of_two, {"type": "integer", "minimum": 1})]
PerCell = Annotated[float, Quantity(_per_cell, {"anyOf": [{"type": "integer"}, {"type": "string"}]})]
Prices = Annotated[dict[str, float], BeforeValidator(_prices),
                   WithJsonSchema({"type": "object", "description": "action: '0.59 pJ', or '3.9 pJ/bit' for *_bytes"})]

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int16", "int8", "int4", "fp4"]


class Strict(BaseModel):
    """A mapping that knows all its keys and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class Source(Strict):
    cite: str
    confidence: Confidence


class Memory(Strict):
    """The main memory of one device."""

    technology: str
    capacity: Size
    bandwidth: Bandwidth
    sustained: Share = 1.0
    """Share of `bandwidth` that the best long streams reach (refresh, turnarounds)."""
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
    op_overhead: Time
    """Fixed cost of starting one operator: descriptors, DMA latency, synchronisation."""

    @model_validator(mode="after")
    def _peak_is_macs_times_clock(self) -> Systolic:
        cells = self.rows * self.cols * self.num_arrays
        counted = {dtype: 2 * macs * cells * self.clock for dtype, macs in self.macs_per_cell.items()}
        _check_peaks("peak", self.peak, "macs_per_cell", counted)
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
    max_devices: Count


Unit = Annotated[Gpu | Systolic | Vector | Pim | Cpu | Link, Field(discriminator="kind")]
WorkClass = Literal["matmul", "attention_prefill", "attention_decode", "vector", "move", "collective"]
_ALL_BUT_LINKS = ("matmul", "attention_prefill", "attention_decode", "vector", "move")
CAN_RUN: dict[str, tuple[str, ...]] = {
    "gpu": _ALL_BUT_LINKS, "cpu": _ALL_BUT_LINKS, "systolic": ("matmul", "attention_prefill", "attention_decode"),
    "vector": ("vector", "move"), "pim": ("attention_decode",), "link": ("collective",),
}
"""Kind of unit -> the classes of work that its model costs; any other would take no time there."""


class Schedule(Strict):
    """Policies by name; no number here describes silicon."""

    sub_batches: SubBatches = 1
    """Parts into which a decode batch is cut so that units can work on different parts at once; auto: 1 or 2, the faster."""
    exclusive: list[list[str]] = []
    """Groups of units of which only one may work at a time (PIM in blocked mode)."""


class PowerBudget(Strict):
    tdp: Power | None = None
    static: Power
    """Drawn all the time: leakage, clocks, refresh and standby."""


class EnergySpec(Strict):
    table: str
    """Price table under hw_configs/energy/."""
    prices: Prices = {}
    """Prices of this device that differ from the table."""


class PriceTable(Strict):
    """What one action costs at one technology node: hw_configs/energy/*.yaml."""

    schema_version: Literal[1]
    name: str
    node: Length
    description: str
    sources: dict[str, Source] = {}
    prices: Prices


class HardwareSpec(Strict):
    """One device of a kind that exists or does not exist yet."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    kind: Literal["gpu", "tpu", "npu", "npu-pim", "gpu-pim", "cpu"]
    description: str
    sources: dict[str, Source] = {}
    memory: Memory
    units: dict[str, Unit]
    mapping: dict[WorkClass, str]
    schedule: Schedule = Schedule()
    power: PowerBudget
    energy: EnergySpec

    @model_validator(mode="after")
    def _names_meet(self) -> HardwareSpec:
        for work, unit in self.mapping.items():
            if unit not in self.units:
                raise ValueError(f"mapping.{work} names unit {unit!r}; units are {', '.join(self.units)}")
            kind = self.units[unit].kind
            if work not in CAN_RUN[kind]:
                raise ValueError(f"mapping.{work} names unit {unit!r}, a {kind}, which runs only {', '.join(CAN_RUN[kind])}")
        for unit in (name for group in self.schedule.exclusive for name in group):
            if unit not in self.units:
                raise ValueError(f"schedule.exclusive names unit {unit!r}; units are {', '.join(self.units)}")
        return self
