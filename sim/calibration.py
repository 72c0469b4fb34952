"""What was fitted to measured kernels of a GPU: hw_configs/calibration/NAME.yaml, and what stands in where nothing was.

Shares and factors lie on top of the numbers of the hardware file, so that they can be carried to another GPU.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from .quantity import Source, Strict
from .yamltree import is_leaf, read_tree


def _fitted(leaf: Any) -> float:
    return float(leaf["value"]) if is_leaf_of_fit(leaf) else float(leaf)


def is_leaf_of_fit(leaf: Any) -> bool:
    """Whether a mapping is one fitted number: {value, low, high}, the 95 % confidence interval."""
    return isinstance(leaf, dict) and is_leaf(leaf)


Fitted = Annotated[float, BeforeValidator(_fitted)]


class Physics(Strict):
    """One GPU. The defaults are guesses: round numbers near those of A100, H100 and H200."""

    floor_us: Fitted = 2.7
    """A kernel without work inside a CUDA graph: launch, first loads, last stores."""
    tensor_factor: Fitted = 1.0
    """Multiply-add rate of matmuls over the hardware file's `tensor_sustained`."""
    read_factor: Fitted = 0.95
    """Bandwidth of long reads over the hardware file's `memory.sustained`; `write_factor` the same for results."""
    write_factor: Fitted = 0.8
    l2_factor: Fitted = 0.8
    """Bandwidth of tiles out of L2 over the hardware file's `l2_bandwidth`."""
    resident_share: Fitted = 0.4
    """Share of the L2 in which a working set survives from one use to the next."""
    overlap: Fitted = 2.5
    """How well compute hides memory: 0 adds their times, infinity takes the longer one."""
    epilogue_clocks: Fitted = 3400.0
    """Clocks of one SM to start and store an output tile of 128 x 128 that hides behind no other tile."""
    split_us: Fitted = 2.7
    """Adding up the parts of a split inner dimension: a second, small kernel."""
    wave_loss: Fitted = 0.7
    """Share of a partly filled wave of thread blocks that is lost; persistent kernels (`matrix_unit: asynchronous`) lose none."""

    cap_drop: Fitted = 0.3
    """How far the power limit lowers the clock of matmuls that run on and on: to 1 / sqrt(1 + cap_drop x (share of the rate)^2)."""


class GemmCondition(Strict):
    """How one framework runs matmuls of one type, and what its clock covers."""

    extra_us: Fitted = 0.0
    """Beside the matmul: launches of the quantisation kernels."""
    tensor_factor: Fitted = 1.0
    read_factor: Fitted = 1.0
    quant_passes: Fitted = 0.0
    """Times that quantisation moves the unquantised activations."""
    epilogue_factor: Fitted = 1.0
    overlap_factor: Fitted = 1.0
    """Of the physics' overlap: kernels with few loads under way, or one wave of blocks, hide less."""
    step_ns: Fitted = 0.0
    """Of an element of the inner dimension, for one thread block: beside the multiply-adds (scales, conversions); of kernels that are
    dispatched by rule, the least time (a step's latency)."""


class PrefillCondition(Strict):
    """How one framework runs attention over a prompt."""

    extra_us: Fitted = 0.0
    """Beside the floor of one kernel: cache append, rotary embedding, planning."""
    other_head_us: Fitted = 0.0
    """Where the head is not 128 wide."""
    padded_head_us: Fitted = 0.0
    """Where the head is no power of two wide."""
    append_passes: Fitted = 0.0
    """Times that kernels around the attention move queries, keys and values."""
    tensor_factor: Fitted = 0.85
    score_rate: Fitted = 40.0
    """Scores a clock and SM through exponential and rescaling."""
    block_clocks: Fitted = 4000.0
    """A thread block before its first and after its last tile of keys."""
    row_share: Fitted = 0.0
    """Share of that which goes with the rows it has, of 128: loading queries and storing results."""
    wide_factor: Fitted = 1.0
    """By how much longer a key takes than its width says, where heads are wider than 128 and tiles have fewer keys."""
    tail: Fitted = 0.4
    """Share of the longest block's time by which the blocks end unevenly."""
    window_keys: Fitted = 64.0
    """Keys outside a sliding window that a block still visits, behind the mask at its two ends."""
    convert_clocks: Fitted = 0.0
    """A key of 128 elements and its value, for each block: to convert them into the type of the arithmetic."""
    combine_us: Fitted = 8.0
    """Adding up the parts where keys are split over blocks."""


class DecodeCondition(Strict):
    """How one framework runs attention of one query over the cache."""

    extra_us: Fitted = 0.0
    padded_head_us: Fitted = 0.0
    read_factor: Fitted = 1.0
    overlap: Fitted = 1.0
    """As of the physics, where many blocks follow each other on an SM; one block alone loads first and computes then."""
    latency_clocks: Fitted = 2000.0
    """A thread block on an idle GPU, without keys."""
    block_clocks: Fitted = 5500.0
    """The same for each block of an SM where all SMs are busy."""
    block_width: Fitted = 0.3
    """By how much a block of 256-wide heads takes longer than one of 128."""
    tile_clocks: Fitted = 2000.0
    """128 keys of 128 bf16 elements through one block."""
    group_width: Fitted = 0.1
    """By how much a tile takes longer for each 8 query heads a KV head beyond the first 8."""
    sm_tile_clocks: Fitted = 0.0
    """What 128 keys of 128 elements take of an SM, whatever blocks it runs; 0: never what counts."""
    sm_wide: Fitted = 1.0
    """By how much longer that takes where heads are wider than 128 and tiles have fewer keys."""
    combine_us: Fitted = 2.0


class XqaCondition(Strict):
    """How TensorRT-LLM runs a decode (gpu_trtllm): XQA for heads that share keys, and MMHA, which shares nothing."""

    extra_us: Fitted = 2.5
    rope_us: Fitted = 2.5
    """Of XQA for Hopper on 64-wide heads (with attention sinks): rotary embedding and append are a kernel of their own."""
    read_factor: Fitted = 1.1
    overlap: Fitted = 2.0
    """As of the physics, within one wave of blocks."""
    latency_clocks: Fitted = 7000.0
    """A block of XQA without keys, alone on its SM."""
    block_clocks: Fitted = 2500.0
    """Of the SM, where it has several."""
    block_width: Fitted = 0.2
    """By how much all of a block takes longer for 256-wide heads than for 128."""
    block_group: Fitted = 0.2
    """By how much a block takes longer, without its keys, for each 8 query heads beyond the first 8; `key_group` of a key."""
    key_clocks: Fitted = 20.0
    """A key through one block."""
    key_group: Fitted = 0.1
    sm_key_clocks: Fitted = 3.0
    """A key of 128 bytes, of an SM's time."""
    sm_group: Fitted = 0.3
    combine_us: Fitted = 1.2
    part_clocks: Fitted = 100.0
    """To add up a part of 8 query heads 128 wide."""
    mmha_extra_us: Fitted = 1.0
    mmha_block_clocks: Fitted = 8000.0
    """A block of MMHA without keys."""
    mmha_first_clocks: Fitted = 4500.0
    """Its first loop over keys, of which the eighth takes as long as all; `mmha_loop_clocks` each further one."""
    mmha_loop_clocks: Fitted = 8500.0
    mmha_split_clocks: Fitted = 9000.0
    """Of a block that is one of several: its results written, and those of all added up."""
    mmha_width: Fitted = 0.0
    mmha_overlap: Fitted = 1.0


class VectorCondition(Strict):
    """How one framework runs one kind of operator that only moves and changes elements."""

    extra_us: Fitted = 0.0
    """Beside the floor of one kernel: the launches of the others that the operator is made of."""
    traffic_factor: Fitted = 1.0
    """Bytes moved over the operands' bytes, each once: kernels that pass over them again, or that fill no whole transactions."""


class Conditions(Strict):
    """One framework. Keys are types of the kernel table: bf16, fp8, fp8_block; of attention bf16, fp8, and bf16-fp8 (fp8 cache);
    of operators that move and change elements their kind."""

    gemm: dict[str, GemmCondition] = Field(default_factory=dict)
    attention_prefill: dict[str, PrefillCondition] = Field(default_factory=dict)
    attention_decode: dict[str, DecodeCondition | XqaCondition] = Field(default_factory=dict)
    vector: dict[str, VectorCondition] = Field(default_factory=dict)


class FitError(Strict):
    """Mean absolute relative error of one group of rows, as a share; `held_out` on shapes that the fit has not seen."""

    op: str
    dtype: str
    framework: str
    rows: int
    train: float
    held_out: float


class Machine(Strict):
    """What the measured machine was: a hardware file that says otherwise is another machine."""

    num_sms: int
    peak: int
    bandwidth: int


class FitBand(Strict):
    """Measured over predicted: 80 % of the held-out rows lie between."""

    low: float
    high: float


class Activity(Strict):
    """Power of a class of work that is not a matmul on random numbers: `share` of its dynamic energy, beside SMs that wait."""

    share: Fitted = 1.0
    active_w: Fitted = 0.0


class EnergyFit(Strict):
    """What a GPU's actions cost, as factors on the price table, from rows with a power meter. Static power is the hardware file's."""

    factors: dict[Literal["mac", "sram", "dram"], Fitted]
    """mac: arithmetic; sram: shared memory and L2; dram: main memory."""
    activity: dict[str, Activity]
    """By class of work, where it differs from a matmul."""
    cap_share: Fitted
    """Share of the TDP at which the clock gives way."""
    rows: int
    train: float
    held_out: float
    median: float
    """The middle error of the held-out rows: a meter that still shows what ran before is far off, and draws the mean away."""
    band: FitBand
    """Measured over predicted energy at the measured time, weighted by energy, of the held-out rows."""


class Calibration(Strict):
    """The file."""

    schema_version: Literal[1]
    name: str
    sources: dict[str, Source]
    machine: Machine
    physics: Physics
    conditions: dict[str, Conditions]
    errors: list[FitError]
    bands: dict[str, FitBand]
    """Of single kernels, by class of work and, of matmuls, regime: matmul-m<=16, attention_decode."""
    run_bands: dict[str, FitBand]
    """The same weighted by time, by class of work: for the sum over a run's operators."""
    energy: EnergyFit | None = None


ORDER = ("h200", "h100-sxm", "a100-80g")
"""Where a condition that a file lacks is looked for, newest first."""


def read(text: str, file: str) -> Calibration:
    """The calibration of a file's text; ValueError with the file and the key for anything that is no calibration."""
    try:
        return Calibration.model_validate(read_tree(text, file).data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}.") from None


@lru_cache(maxsize=8)
def load(name: str) -> Calibration | None:
    """The bundled calibration of that name, or that of a path; None where there is none."""
    file = resources.files("gemvane.hw_configs") / "calibration" / f"{name}.yaml"
    path = Path(name)
    if name.endswith(".yaml") and path.is_file():
        return read(path.read_text(encoding="utf-8"), name)
    return read(file.read_text(encoding="utf-8"), f"hw_configs/calibration/{name}.yaml") if file.is_file() else None


def relatives(name: str) -> list[Calibration]:
    """The calibration of a name, then those that stand in for conditions which it lacks."""
    found = [load(n) for n in dict.fromkeys((name, *ORDER))]
    return [c for c in found if c is not None]


PRICED = {"mac": ("mac_", "vector_op"), "sram": ("sram_bytes", "l2_bytes"), "dram": ("dram_",)}
"""Factor of an energy fit -> prefixes of the actions that it scales."""


def energy_of(name: str | None) -> EnergyFit | None:
    """The energy fit of a calibration; None where it has none."""
    known = load(name) if name else None
    return None if known is None else known.energy


def price_factor(energy: EnergyFit, action: str) -> float:
    """What an action costs over the price table."""
    return next((energy.factors[group] for group, prefixes in PRICED.items() if action.startswith(prefixes)), 1.0)  # type: ignore[index]
