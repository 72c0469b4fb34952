"""The numbers of one GPU that its kernel models share: the hardware file under what was fitted to it or to a relative."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..calibration import Conditions, Physics, load, relatives
from ..costs import Floats
from ..dram.stream import bytes_per_s
from ..schema import Gpu, HardwareSpec
from ..units import ps_to_s
from .precision import Rates, rates

CLUSTER = 2.0
"""Thread blocks that share the operands which they load, and stages of a tile that hide behind the next one, where loads
and matrix instructions are asynchronous (TMA multicast in clusters of two, persistent kernels: NVIDIA Hopper white paper)."""
RESIDENCE_SLOPE = 4
"""How sharply a working set falls out of L2 as it grows: 1 / (1 + (set / share)^4) (guess)."""
TILE_AREA = 128 * 128
"""Results of the thread block whose epilogue is counted as one; those of others go by their area."""
SHARED_BYTES = 227 * 1024
"""Of a Hopper SM's shared memory, for its blocks (NVIDIA CUDA C++ programming guide, compute capability 9.0)."""

CAP_US, CAP_SLOPE = 50e3, 4
"""When the power limit starts to lower the clock, and how abruptly. Fits to seven tables of H100 and H200 (TensorRT-LLM and SGLang,
bf16 and fp8; ai-dynamo/aiconfigurator 095f58a51) each by itself put it between 45 and 95 ms; the slope is a guess."""


class ResolvedGpu(NamedTuple):
    """Rates of one GPU, all SMs together; time in us."""

    freq_hz: int
    num_sms: int
    tensor: Rates
    """Per clock, at the peak."""
    tensor_sustained: float
    vector_ops_per_us: float
    l2_size: int
    l2_bytes_per_us: float
    memory_bytes_per_us: float
    asynchronous: bool
    physics: Physics
    conditions: tuple[dict[str, Conditions], ...]
    """Framework -> its conditions; the GPU's own first, then those of its relatives."""
    attention: str = "auto"
    """Kernel of attentions that name none (gpu_attention.NAMED)."""

    @property
    def mhz(self) -> float:
        return self.freq_hz / 1e6

    @property
    def floor_us(self) -> float:
        return self.physics.floor_us

    @property
    def read_bytes_per_us(self) -> float:
        return self.memory_bytes_per_us * min(1.0, self.physics.read_factor)

    @property
    def write_bytes_per_us(self) -> float:
        return self.memory_bytes_per_us * min(1.0, self.physics.write_factor)

    @property
    def tile_bytes_per_us(self) -> float:
        """Operands out of L2, counted as each thread block needs them."""
        return self.l2_bytes_per_us * self.physics.l2_factor * (CLUSTER if self.asynchronous else 1.0)

    def macs_per_us(self, dtype: int, factor: float) -> float:
        """Of the whole GPU, for an index into DTYPES; never above the peak."""
        share = min(1.0, self.tensor_sustained * self.physics.tensor_factor * factor)
        return float(self.tensor.macs_per_cycle[dtype]) * self.mhz * share

    def resident(self, working_set: Floats) -> Floats:
        """Share of a working set that is still in L2 when it is used again."""
        share: Floats = 1 / (1 + (working_set / (self.physics.resident_share * self.l2_size)) ** RESIDENCE_SLOPE)
        return share

    def overlapped(self, compute: Floats, memory: Floats, overlap: float | Floats) -> Floats:
        """Time of compute and memory at once: their p-norm, between the sum (overlap 0) and the longer one."""
        p = 1 + overlap
        longer = np.maximum(np.maximum(compute, memory), 1e-12)
        shorter = np.minimum(compute, memory) / longer
        time: Floats = longer * (1 + shorter**p) ** (1 / p)
        return time

    def clock_under_cap(self, reached: Floats, run_us: Floats) -> Floats:
        """Share of the clock that the power limit leaves to matmuls that reach a share of their rate, run after run for so long."""
        acts = 1 / (1 + (CAP_US / run_us) ** CAP_SLOPE)
        clock: Floats = 1 / np.sqrt(1 + self.physics.cap_drop * reached**2 * acts)
        return clock


class Shape(NamedTuple):
    """Columns: `batch` products of [m, k] x [k, n]; copies of the weight that are used in turn, 0 where it is always cold."""

    batch: Floats
    m: Floats
    n: Floats
    k: Floats
    copies: Floats

    def at(self, part: slice) -> Shape:
        return Shape(*(column[part] for column in self))


class Parts(NamedTuple):
    """Time of each row in us: what comes before and after, compute, memory, and the two overlapped; bytes that move."""

    fixed: Floats
    compute: Floats
    memory: Floats
    busy: Floats
    dram_bytes: Floats
    tile_bytes: Floats


def resolve(name: str, unit: Gpu, hardware: HardwareSpec) -> ResolvedGpu:
    physics, conditions = _fitted(unit.calibration, ps_to_s(unit.kernel_floor) * 1e6)
    return ResolvedGpu(
        freq_hz=unit.clock,
        num_sms=unit.num_sms,
        tensor=rates({d: unit.tensor_peak[d] / 2 / unit.clock for d in unit.tensor_peak}),
        tensor_sustained=unit.tensor_sustained,
        vector_ops_per_us=unit.vector_peak / 1e6,
        l2_size=unit.l2_size,
        l2_bytes_per_us=unit.l2_bandwidth / 1e6,
        memory_bytes_per_us=bytes_per_s(hardware.memory) / 1e6,
        asynchronous=unit.matrix_unit == "asynchronous",
        physics=physics,
        conditions=conditions,
        attention=unit.attention,
    )


@lru_cache(maxsize=16)
def _fitted(name: str | None, floor_us: float) -> tuple[Physics, tuple[dict[str, Conditions], ...]]:
    known = relatives(name or "")
    own = load(name) if name else None
    physics = own.physics if own is not None else Physics(floor_us=floor_us)
    return physics, tuple(c.conditions for c in known)
