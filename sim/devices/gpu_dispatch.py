"""Matmul kernels whose tile is written down in their library, not searched here: the rules, and how long their blocks take.

A block takes a step of its inner dimension in the longest of three times: the multiply-adds, its operands through the port of its
SM, the latency of a step. All blocks together take no less than L2 needs for their operands.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..costs import Floats
from .gpu_machine import RESIDENCE_SLOPE, SHARED_BYTES, TILE_AREA, ResolvedGpu, Shape

PORT_BYTES = 64
"""Bytes a clock from L2 into one SM (NVIDIA, tuning guides of Volta to Hopper; SGLang's fp8 rows of H100 and H200 fit to 60-75)."""
OUTSIDE = 2.0
"""What a row of a tile outside the matrix costs L2 over one inside: the tensor memory accelerator fills it with zeros, and slowly
(DeepGEMM's source names the bound). From SGLang's fp8 rows of H100 and H200, whose fits gave 1.8 and 2.1."""
INSTRUCTION_ROWS = 64
"""Rows of a Hopper matrix instruction; of a narrower operand the kernel swaps the two, where `Launch.swaps`."""
K_STEP = 128
"""Elements of the inner dimension that a block takes at once."""
L2_NORM = 4
"""How L2's time and the blocks' own add up: their p-norm (guess; 2.6 fits H100's rows better, 4 H200's)."""
SPILLING, SPILL = 128 * 192, 4.0
"""DeepGEMM tiles of so many elements that share no operand run so many times slower than the others: on SGLang's rows of H100 and
H200 (fits: 3.5 and 4.1), to the edge at every shape that is given such a tile; the cause was not looked into."""

FIXED = np.array([
    (16, 1280, 16, 64, 2, 1, 1), (16, np.inf, 16, 64, 1, 1, 1), (64, 1280, 16, 64, 4, 1, 1), (32, np.inf, 32, 64, 1, 1, 1),
    (64, np.inf, 64, 64, 1, 1, 1), (128, 4096, 64, 64, 1, 1, 0), (128, np.inf, 64, 128, 2, 1, 0), (np.inf, np.inf, 128, 128, 2, 1, 0)])
"""Up to so many rows and columns of the result: rows and columns of the tile, blocks down and across that share operands, and
whether the next tile waits for the end of the last. SGLang's fp8 matmuls on Hopper (sgl-project/sglang,
sgl-kernel/csrc/cutlass_extensions/gemm/fp8_gemm_sm90_dispatch.cuh, since pull request 25532)."""


class Launch(NamedTuple):
    """One entry a matmul: rows and columns of its tile, blocks (down, across) that share operands, whether tiles end one by one."""

    rows: Floats
    cols: Floats
    down: Floats
    across: Floats
    serial: Floats
    spills: Floats


def fixed_fp8(shape: Shape, gpu: ResolvedGpu) -> Launch:
    """SGLang's fp8 matmul: the first line of FIXED that holds the result."""
    line = FIXED[np.argmax((shape.m[:, None] <= FIXED[:, 0]) & (shape.n[:, None] <= FIXED[:, 1]), axis=1)]
    rows, cols, down, across, serial = line[:, 2:].T
    return Launch(rows, cols, down, across, serial, np.ones(rows.size))


def deepgemm(shape: Shape, gpu: ResolvedGpu) -> Launch:
    """DeepGEMM's fp8 matmul with scales of 128 elements: the tile whose own model of L1 and L2 cycles is the smallest
    (deepseek-ai/DeepGEMM, csrc/jit_kernels/heuristics/sm90.hpp)."""
    menu = _deepgemm_menu()
    rows, cols, down, across = menu.T
    m, n, k = shape.m[:, None], shape.n[:, None], shape.k[:, None]
    blocks = np.ceil(m / rows) * np.ceil(n / cols) * shape.batch[:, None]
    waves = np.ceil(blocks / gpu.num_sms)
    result = rows * cols * 2
    l2 = (k * (rows // across + cols // down) + result) / min(64.0 * gpu.num_sms, 8e6 / 1.3e3)
    l1 = (k * (rows + cols + np.maximum(rows, INSTRUCTION_ROWS) + cols) + 2 * result) / (128 * gpu.num_sms)
    cycles = np.maximum(l1, l2) * waves * gpu.num_sms
    forbidden = ((down * across > 1) & (waves <= 1)) | ((rows < INSTRUCTION_ROWS) & (m > rows))
    chosen = menu[np.argmin(np.where(forbidden, np.inf, cycles), axis=1)]
    rows, cols, down, across = chosen.T
    spills = np.where((rows * cols >= SPILLING) & (down * across == 1), SPILL, 1.0)
    return Launch(rows, cols, down, across, np.zeros(rows.size), spills)


@lru_cache(maxsize=1)
def _deepgemm_menu() -> NDArray[np.float64]:
    """Tiles (rows, columns) and clusters (down, across) that DeepGEMM tries: what fits registers and three or four stages of loads."""
    menu = []
    for down, across in ((1, 1), (1, 2), (2, 1)):
        for rows in (64, 128, 16, 32, 256):
            for cols in range(16, 193, 16):
                unrolls = cols <= K_STEP or cols - K_STEP in (16, 32, 64)
                stages = (SHARED_BYTES - 1280 - -(-rows * cols * 2 // 1024) * 1024) // ((rows + cols) * K_STEP + rows * 4)
                if unrolls and (rows <= 128 or cols <= 128) and stages >= (4 if rows * cols < SPILLING else 3):
                    menu.append((rows, cols, down, across))
    return np.array(menu, np.float64)


class Blocks(NamedTuple):
    """Of all blocks of each matmul: time in us, bytes loaded, and bytes of an operand that left L2 between two waves."""

    time: Floats
    loaded: Floats
    again: Floats


def blocks_us(shape: Shape, launch: Launch, bytes_: float, macs_per_us: float, latency_ns: float, epilogue_us: float,
              gpu: ResolvedGpu) -> Blocks:
    """What the blocks of each matmul take. `bytes_` an operand's element; `latency_ns` the least time of an element of the inner
    dimension; `epilogue_us` the end of a tile of 128 x 128 that hides behind no other."""
    down_tiles = np.ceil(shape.m / launch.rows / launch.down) * launch.down
    across_tiles = np.ceil(shape.n / launch.cols / launch.across) * launch.across
    blocks = down_tiles * across_tiles * shape.batch
    waves = np.ceil(blocks / gpu.num_sms)
    depth = np.ceil(shape.k / K_STEP) * K_STEP
    instruction = np.where(launch.rows < launch.cols, launch.rows * np.maximum(launch.cols, INSTRUCTION_ROWS),
                           np.maximum(launch.rows, INSTRUCTION_ROWS) * launch.cols)
    loaded = (launch.rows / launch.across + launch.cols / launch.down) * bytes_
    element = np.maximum(instruction / (macs_per_us / gpu.num_sms), loaded / (PORT_BYTES * gpu.mhz)) * launch.spills
    main = depth * np.maximum(element, latency_ns * 1e-3)
    end = np.where(launch.serial > 0, gpu.physics.epilogue_clocks / gpu.mhz, launch.rows * launch.cols / TILE_AREA * epilogue_us)
    in_turn = waves * main + (waves - 1) * end
    half_hidden = (waves - 1) * np.sqrt(main**2 + end**2) + main + end
    outside = (down_tiles * launch.rows - shape.m) * across_tiles / launch.across * shape.batch * bytes_
    l2 = (blocks * loaded + OUTSIDE * outside) * depth / gpu.l2_bytes_per_us
    time = np.where(launch.serial > 0, in_turn, half_hidden)
    time = (time**L2_NORM + l2**L2_NORM) ** (1 / L2_NORM)
    # Blocks go down the shorter side first: all of that operand is loaded again for each wave, unless it stays in L2.
    down_first = across_tiles > down_tiles
    inner = np.where(down_first, shape.m, shape.n) * shape.k * shape.batch * bytes_
    share = np.minimum(1.0, gpu.num_sms / np.where(down_first, down_tiles, across_tiles))
    left = 1 - 1 / (1 + (inner / gpu.l2_size) ** RESIDENCE_SLOPE)
    return Blocks(time, blocks * depth * loaded, np.maximum(waves * share - 1, 0) * inner * left)
