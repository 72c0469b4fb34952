"""Matmuls on a GPU: thread-block tiles in waves over SMs, a split inner dimension, L2 and memory traffic."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..calibration import GemmCondition
from ..costs import Floats, Int64s
from .gpu_machine import CLUSTER, Parts, ResolvedGpu

TILES = np.array([(rows, cols) for rows in (64, 128, 192, 256) for cols in (16, 32, 64, 128, 192, 256) if rows * cols <= 40960], np.float64)
"""Output tiles (rows, columns) that GPU matmul libraries compile: the usual CUTLASS menu."""
BLOCK_TILES = np.array([(rows, cols) for rows in (64, 128) for cols in (16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160)], np.float64)
"""Tiles of DeepGEMM (deepseek-ai/DeepGEMM), which scales each 128 elements of the inner dimension."""
FIXED_TILES = np.array([(64, 16), (64, 64), (128, 128)], np.float64)
"""One tile for each range of rows, as in the CUTLASS fp8 kernels of serving frameworks."""
FIXED_ROWS = (64, 128)
"""Rows up to which the first and the second of them run: chosen on SGLang's fp8 rows of the development data, not read in its source."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
TILE_AREA = 128 * 128
CHUNK = 2048
"""Rows costed at once, so that a menu of tiles times rows stays in the processor's cache."""


class Kernel(NamedTuple):
    """A matmul library. `pick`: the best tile; the one that is best at the power of two below (tuned ahead); or one by rows.

    `splits` begins with 1, the inner dimension in one piece.
    """

    tiles: NDArray[np.float64]
    pick: str
    splits: tuple[int, ...]
    k_step: int
    whole_waves: bool


CUBLAS = Kernel(TILES, "best", SPLITS, 32, whole_waves=False)
DEEPGEMM = Kernel(BLOCK_TILES, "best", (1,), 128, whole_waves=True)
TUNED_BLOCK = DEEPGEMM._replace(pick="tuned")
FIXED_FP8 = Kernel(FIXED_TILES, "rows", (1,), 128, whole_waves=True)
KERNELS = {("sglang", "fp8"): FIXED_FP8, ("sglang", "fp8_block"): DEEPGEMM, ("trtllm", "fp8_block"): TUNED_BLOCK,
           ("vllm", "fp8_block"): DEEPGEMM}
"""(framework, type of the kernel table) -> kernel; CUBLAS for all others."""
OWN_INPUTS = ("sglang",)
"""Frameworks whose timing loop has an input of its own for each copy of the weight."""


class Shape(NamedTuple):
    """Columns: `batch` products of [m, k] x [k, n]; copies of the weight that are used in turn, 0 where it is always cold."""

    batch: Floats
    m: Floats
    n: Floats
    k: Floats
    copies: Floats

    def at(self, part: slice) -> Shape:
        return Shape(*(column[part] for column in self))


class Types(NamedTuple):
    """Of all rows of a call: index into DTYPES of the arithmetic, bytes of an activation, a weight, a result, and of an
    activation before it was quantised (0: there is no quantisation)."""

    arithmetic: int
    activation: float
    weight: float
    result: float
    unquantised: float


def gemm(shape: Shape, types: Types, gpu: ResolvedGpu, kernel: Kernel, condition: GemmCondition, own_inputs: bool) -> Parts:
    """Parts of each product. time = fixed + (compute and memory overlapped), for the best split of the inner dimension."""
    chunks = [_gemm(shape.at(slice(i, i + CHUNK)), types, gpu, kernel, condition, own_inputs) for i in range(0, shape.m.size, CHUNK)]
    return Parts(*(np.concatenate(columns) for columns in zip(*chunks, strict=True)))


def _gemm(shape: Shape, types: Types, gpu: ResolvedGpu, kernel: Kernel, condition: GemmCondition, own_inputs: bool) -> Parts:
    physics = gpu.physics
    batch, m, n, k, copies = shape
    weights, inputs, outputs = batch * n * k * types.weight, batch * m * k * types.activation, batch * m * n * types.result
    cycle = np.maximum(copies, 1) if own_inputs else np.ones(m.size)
    kept_weights = np.where(copies > 0, gpu.resident(copies * weights + cycle * (inputs + outputs)), 0.0)
    kept = gpu.resident(cycle * (weights + inputs + outputs))
    read = (1 - kept_weights) * weights + (1 - kept) * inputs
    written = (1 - kept) * outputs
    memory = read / min(gpu.memory_bytes_per_us, gpu.read_bytes_per_us * condition.read_factor) + written / gpu.write_bytes_per_us

    grid = _grid(shape, kernel)
    costs = _tile_costs(types, gpu, kernel, condition)
    time, tile = _unsplit(shape, grid, costs, gpu, kernel)
    best, compute = gpu.overlapped(time, memory, physics.overlap), time
    fewest = grid.min(axis=1)
    for split in kernel.splits[1:]:
        rows = np.flatnonzero(fewest * split <= gpu.num_sms)
        depth = np.maximum(_depth(k[rows], kernel) / split, kernel.k_step)
        each = np.where(grid[rows] * split <= gpu.num_sms, depth[:, None] * costs.element + costs.epilogue, np.inf)
        choice = np.argmin(each, axis=1)
        time = each[np.arange(rows.size), choice]
        whole = gpu.overlapped(time, memory[rows], physics.overlap) + physics.split_us
        whole += split * (batch * m * n)[rows] * 4 * 2 / gpu.tile_bytes_per_us
        better = whole < best[rows]
        rows = rows[better]
        best[rows], compute[rows], tile[rows] = whole[better], time[better], choice[better]
    loaded = kernel.tiles[tile, 0] * types.activation + kernel.tiles[tile, 1] * types.weight
    tile_bytes = grid[np.arange(m.size), tile] * k * loaded
    if not gpu.asynchronous:
        best = np.where((m == 1) & (types.activation == types.weight), np.minimum(best, _gemv(weights, memory, gpu)), best)
    unquantised = batch * m * k * types.unquantised
    stays = gpu.resident(cycle * unquantised)
    quantise = condition.quant_passes * unquantised * ((1 - stays) / gpu.read_bytes_per_us + stays / gpu.tile_bytes_per_us)
    fixed = np.full(m.size, gpu.floor_us + condition.extra_us)
    moved = read + written + condition.quant_passes * unquantised * (1 - stays)
    return Parts(fixed, compute, memory + quantise, best + quantise, moved, tile_bytes)


def _gemv(weights: Floats, memory: Floats, gpu: ResolvedGpu) -> Floats:
    """One row: vector kernels that stream the weights through all SMs and add up inside a thread block, without a split."""
    return gpu.overlapped(weights / gpu.tile_bytes_per_us, memory, gpu.physics.overlap)


class TileCosts(NamedTuple):
    """Of each tile, in us: an element of the inner dimension, and what hides behind no other tile."""

    element: Floats
    epilogue: Floats


def _grid(shape: Shape, kernel: Kernel) -> Floats:
    """[row, tile] thread blocks."""
    blocks: Floats = np.ceil(shape.m[:, None] / kernel.tiles[:, 0])
    blocks *= np.ceil(shape.n[:, None] / kernel.tiles[:, 1])
    blocks *= shape.batch[:, None]
    return blocks


def _tile_costs(types: Types, gpu: ResolvedGpu, kernel: Kernel, condition: GemmCondition) -> TileCosts:
    """An element of the inner dimension costs a block its multiply-adds, or the bytes of its two operands out of L2."""
    tile_m, tile_n = kernel.tiles[:, 0], kernel.tiles[:, 1]
    area = tile_m * tile_n
    issue = area / (gpu.macs_per_us(types.arithmetic, condition.tensor_factor) / gpu.num_sms)
    load = (tile_m * types.activation + tile_n * types.weight) / (gpu.tile_bytes_per_us / gpu.num_sms)
    hidden = CLUSTER if gpu.asynchronous else 1.0
    epilogue = gpu.physics.epilogue_clocks / gpu.mhz * condition.epilogue_factor / hidden * area / TILE_AREA
    return TileCosts(np.maximum(issue, load) + condition.step_ns * 1e-3, epilogue)


def _depth(k: Floats, kernel: Kernel) -> Floats:
    steps: Floats = np.ceil(k / kernel.k_step) * kernel.k_step
    return steps


def _unsplit(shape: Shape, grid: Floats, costs: TileCosts, gpu: ResolvedGpu, kernel: Kernel) -> tuple[Floats, Int64s]:
    """Time in us of all thread blocks, whose waves each fill every SM once, and the tile that was picked."""
    loss = 1.0 if kernel.whole_waves else 0.0 if gpu.asynchronous else gpu.physics.wave_loss
    depth = _depth(shape.k, kernel)[:, None]

    def time_of(blocks: Floats) -> Floats:
        waves = np.maximum(blocks / gpu.num_sms, 1.0)
        if loss:
            waves += loss * (np.ceil(waves) - waves)
        time: Floats = waves * (depth * costs.element + costs.epilogue)
        return time

    time = time_of(grid)
    if kernel.pick == "best":
        tile = np.argmin(time, axis=1)
    elif kernel.pick == "tuned":
        tile = np.argmin(time_of(_grid(shape._replace(m=2.0 ** np.floor(np.log2(shape.m))), kernel)), axis=1)
    else:
        tile = np.searchsorted(FIXED_ROWS, shape.m)
    return time[np.arange(shape.m.size), tile], tile.astype(np.int64)


QUANTISED = ("fp8", "fp8_block", "sq")
"""Types of the kernel table whose activations come as bf16 and are quantised inside the timed region."""


def types_of(table_dtype: str, arithmetic: int, act_bits: int, weight_bits: int, framework: str) -> Types:
    """The types of rows of one table dtype. A trace (no framework) keeps its activations in the type that it computes in."""
    measured = framework != "" and table_dtype in QUANTISED
    activation = act_bits / 8
    return Types(arithmetic, activation, weight_bits / 8, 2.0 if measured else activation, 2.0 if measured else 0.0)


def kernel_of(framework: str, table_dtype: str) -> Kernel:
    return KERNELS.get((framework, table_dtype), CUBLAS)


