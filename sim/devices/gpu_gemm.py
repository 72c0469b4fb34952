"""Matmuls on a GPU: thread-block tiles in waves over SMs, a split inner dimension, L2 and memory traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..calibration import GemmCondition
from ..costs import Floats, Int64s
from .gpu_dispatch import Launch, blocks_us, deepgemm, fixed_fp8
from .gpu_machine import CLUSTER, TILE_AREA, Parts, ResolvedGpu, Shape

TILES = np.array([(rows, cols) for rows in (64, 128, 192, 256) for cols in (16, 32, 64, 128, 192, 256) if rows * cols <= 40960], np.float64)
"""Output tiles (rows, columns) that GPU matmul libraries compile: the usual CUTLASS menu."""
BLOCK_TILES = np.array([(rows, cols) for rows in (64, 128) for cols in (16, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160)], np.float64)
"""Tiles of DeepGEMM (deepseek-ai/DeepGEMM), which scales each 128 elements of the inner dimension."""
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
GEMV_COLUMNS = 128
"""Columns from which on a matmul of one row runs as a matrix-vector product, where kernels are not persistent."""
GEMV_NS = 0.45
"""An element of its inner dimension, beside the bytes: how fast one column is summed. Both from A100's rows of one token."""
CHUNK = 2048
"""Rows costed at once, so that a menu of tiles times rows stays in the processor's cache."""


class Kernel(NamedTuple):
    """A matmul library of which no more than the menu is known: it takes the `tuned` tile, best at the power of two of rows below
    (tuned ahead), or the best one. `splits` begins with 1, the inner dimension in one piece."""

    tiles: NDArray[np.float64]
    tuned: bool
    splits: tuple[int, ...]
    k_step: int
    whole_waves: bool


CUBLAS = Kernel(TILES, False, SPLITS, 32, whole_waves=False)
AMPERE = CUBLAS._replace(tiles=np.array([tile for tile in TILES.tolist() if 192 not in tile]))
"""Where loads are not asynchronous, the same libraries compile powers of two."""
DEEPGEMM = Kernel(BLOCK_TILES, False, (1,), 128, whole_waves=True)
TUNED_BLOCK = DEEPGEMM._replace(tuned=True)
Rule = Callable[["Shape", ResolvedGpu], Launch]
KERNELS: dict[tuple[str, str], Kernel | Rule] = {
    ("sglang", "fp8"): fixed_fp8, ("sglang", "fp8_block"): deepgemm, ("trtllm", "fp8_block"): TUNED_BLOCK, ("vllm", "fp8_block"): DEEPGEMM}
"""(framework, type of the kernel table) -> kernel, or the rule by which one is dispatched; CUBLAS for all others."""
OWN_INPUTS = ("sglang",)
"""Frameworks whose timing loop has an input of its own for each copy of the weight."""
REPLAYS = {"trtllm": 9, "sglang": 9}
"""Times that a framework's rows ran one after another, warm-up included (ai-dynamo/aiconfigurator 095f58a51, collector; H200's vLLM
rows ran for 0.3 s and more). Anything else is taken to run for ever."""


class Types(NamedTuple):
    """Of all rows of a call: index into DTYPES of the arithmetic, bytes of an activation, a weight, a result, and of an
    activation before it was quantised (0: there is no quantisation)."""

    arithmetic: int
    activation: float
    weight: float
    result: float
    unquantised: float


class Setting(NamedTuple):
    """Who runs the rows of a call, and how."""

    kernel: Kernel | Rule
    condition: GemmCondition
    own_inputs: bool = False
    replays: float = np.inf


def setting_of(framework: str, table_dtype: str, condition: GemmCondition) -> Setting:
    kernel = KERNELS.get((framework, table_dtype), CUBLAS)
    return Setting(kernel, condition, framework in OWN_INPUTS, REPLAYS.get(framework, np.inf))


def dispatched(framework: str, table_dtype: str) -> bool:
    """Whether a framework's matmuls of a type take their tile from a rule that is known."""
    return (framework, table_dtype) in KERNELS and not isinstance(KERNELS[framework, table_dtype], Kernel)


def gemm(shape: Shape, types: Types, gpu: ResolvedGpu, setting: Setting) -> Parts:
    """Parts of each product. time = fixed + (compute and memory overlapped), for the best split of the inner dimension."""
    chunks = [_gemm(shape.at(slice(i, i + CHUNK)), types, gpu, setting) for i in range(0, shape.m.size, CHUNK)]
    return chunks[0] if len(chunks) == 1 else Parts(*(np.concatenate(columns) for columns in zip(*chunks, strict=True)))


def _gemm(shape: Shape, types: Types, gpu: ResolvedGpu, setting: Setting) -> Parts:
    condition = setting.condition
    overlap = gpu.physics.overlap * condition.overlap_factor
    batch, m, n, k, copies = shape
    weights, inputs, outputs = batch * n * k * types.weight, batch * m * k * types.activation, batch * m * n * types.result
    cycle = np.maximum(copies, 1) if setting.own_inputs else np.ones(m.size)
    kept_weights = np.where(copies > 0, gpu.resident(copies * weights + cycle * (inputs + outputs)), 0.0)
    kept = gpu.resident(cycle * (weights + inputs + outputs))
    read = (1 - kept_weights) * weights + (1 - kept) * inputs
    written = (1 - kept) * outputs
    memory = read / min(gpu.memory_bytes_per_us, gpu.read_bytes_per_us * condition.read_factor) + written / gpu.write_bytes_per_us

    rate = gpu.macs_per_us(types.arithmetic, condition.tensor_factor)
    epilogue = gpu.physics.epilogue_clocks / gpu.mhz * condition.epilogue_factor / (CLUSTER if gpu.asynchronous else 1.0)
    kernel, step_ns = _on(gpu, setting)
    if isinstance(kernel, Kernel):
        costs = _tile_costs(types, gpu, kernel, rate, epilogue, step_ns)
        compute, adding, tile_bytes = _searched(shape, types, memory, gpu, kernel, costs, overlap)
    else:
        launch = kernel(shape, gpu)
        compute, tile_bytes, again = blocks_us(shape, launch, types.activation, rate, step_ns, epilogue, gpu)
        memory += again / gpu.read_bytes_per_us
        read += again
        adding = np.zeros(m.size)
    fixed = np.full(m.size, gpu.floor_us + condition.extra_us)
    busy = gpu.overlapped(compute, memory, overlap) + adding
    clock = gpu.clock_under_cap(batch * m * n * k / (rate * busy), setting.replays * np.maximum(copies, 1) * busy)
    compute = compute / clock
    busy = gpu.overlapped(compute, memory, overlap) + adding
    if not gpu.asynchronous:
        vector = (m == 1) & (n >= GEMV_COLUMNS) & (types.activation == types.weight)
        busy = np.where(vector, _gemv(k, memory, weights, gpu), busy)

    unquantised = batch * m * k * types.unquantised
    stays = gpu.resident(cycle * unquantised)
    quantise = condition.quant_passes * unquantised * ((1 - stays) / gpu.read_bytes_per_us + stays / gpu.tile_bytes_per_us)
    moved = read + written + condition.quant_passes * unquantised * (1 - stays)
    return Parts(fixed, compute, memory + quantise, busy + quantise, moved, tile_bytes)


def _on(gpu: ResolvedGpu, setting: Setting) -> tuple[Kernel | Rule, float]:
    """The kernel that a GPU runs, and its step_ns: the rules are those of Hopper's kernels, others have a menu."""
    ruled = not isinstance(setting.kernel, Kernel)
    if gpu.asynchronous or not (ruled or setting.kernel is CUBLAS):
        return setting.kernel, setting.condition.step_ns
    return AMPERE, 0.0 if ruled else setting.condition.step_ns


def _searched(shape: Shape, types: Types, memory: Floats, gpu: ResolvedGpu, kernel: Kernel,
              costs: TileCosts, overlap: float) -> tuple[Floats, Floats, Floats]:
    """Time in us of the blocks and of adding up their parts, and the bytes that they load, for the fastest split."""
    grid = _grid(shape, kernel)
    compute, tile = _unsplit(shape, grid, costs, gpu, kernel)
    best, adding = gpu.overlapped(compute, memory, overlap), np.zeros(compute.size)
    fewest = grid.min(axis=1)
    for split in kernel.splits[1:]:
        rows = np.flatnonzero(fewest * split <= gpu.num_sms)
        if rows.size == 0:
            break
        depth = np.maximum(_depth(shape.k[rows], kernel) / split, kernel.k_step)
        each = np.where(grid[rows] * split <= gpu.num_sms, depth[:, None] * costs.element + costs.epilogue, np.inf)
        choice = np.argmin(each, axis=1)
        time = each[np.arange(rows.size), choice]
        parts = gpu.physics.split_us + split * (shape.batch * shape.m * shape.n)[rows] * 4 * 2 / gpu.tile_bytes_per_us
        whole = gpu.overlapped(time, memory[rows], overlap) + parts
        better = whole < best[rows]
        rows = rows[better]
        best[rows], compute[rows], adding[rows], tile[rows] = whole[better], time[better], parts[better], choice[better]
    loaded = kernel.tiles[tile, 0] * types.activation + kernel.tiles[tile, 1] * types.weight
    return compute, adding, grid[np.arange(compute.size), tile] * shape.k * loaded


def _gemv(k: Floats, memory: Floats, weights: Floats, gpu: ResolvedGpu) -> Floats:
    """One row: vector kernels stream the weights, each column by one group of threads that does not split it."""
    return gpu.overlapped(weights / gpu.tile_bytes_per_us, memory, gpu.physics.overlap) + k * GEMV_NS * 1e-3


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


def _tile_costs(types: Types, gpu: ResolvedGpu, kernel: Kernel, rate: float, epilogue: float, step_ns: float) -> TileCosts:
    """An element of the inner dimension costs a block its multiply-adds, or the bytes of its two operands out of L2."""
    tile_m, tile_n = kernel.tiles[:, 0], kernel.tiles[:, 1]
    area = tile_m * tile_n
    load = (tile_m * types.activation + tile_n * types.weight) / (gpu.tile_bytes_per_us / gpu.num_sms)
    return TileCosts(np.maximum(area / (rate / gpu.num_sms), load) + step_ns * 1e-3, epilogue * area / TILE_AREA)


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
    weighed = time_of(_grid(shape._replace(m=2.0 ** np.floor(np.log2(shape.m))), kernel)) if kernel.tuned else time
    tile = np.argmin(weighed, axis=1)
    return time[np.arange(shape.m.size), tile], tile.astype(np.int64)


QUANTISED = ("fp8", "fp8_block", "sq")
"""Types of the kernel table whose activations come as bf16 and are quantised inside the timed region."""


def types_of(table_dtype: str, arithmetic: int, act_bits: int, weight_bits: int, framework: str) -> Types:
    """The types of rows of one table dtype. A trace (no framework) keeps its activations in the type that it computes in."""
    measured = framework != "" and table_dtype in QUANTISED
    activation = act_bits / 8
    return Types(arithmetic, activation, weight_bits / 8, 2.0 if measured else activation, 2.0 if measured else 0.0)
