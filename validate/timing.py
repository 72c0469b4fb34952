"""How a kernel is timed: other operands each call, warm-up, device events or the clock of the host, CUDA graphs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import Buffer, Plan

Samples = NDArray[np.float64]

ALIGN_BYTES = 256
MOST_SETS = 1024
"""Sets of operands, at most: below a 1024th of twice the cache, what a small kernel reads may still be in the cache."""
BLOCK_ELEMENTS = 1 << 22
"""Random numbers drawn on a CPU; longer operands repeat them."""
SAMPLE_S = 1e-3
"""Shortest time that is taken as one sample."""
LEAST_SAMPLES, MOST_SAMPLES = 5, 500
LEAST_NODES = 20
"""Kernels of one CUDA graph, at least, so that starting the graph is no part of their time."""


class Arena:
    """Operands in blocks of memory that together exceed the last-level cache twice, so that each call finds cold ones.

    A block holds one type and one kind of content, is kept from row to row and made anew where a row needs more.
    """

    def __init__(self, device: str, cache_bytes: int) -> None:
        self.device, self.cache_bytes = device, cache_bytes
        self._blocks: dict[tuple[str, str, int, int], Any] = {}

    def sets(self, plan: Plan) -> list[tuple[Any, ...]]:
        """Sets of tensors for a plan's buffers, at different addresses: as many as twice the cache holds, between 2 and MOST_SETS."""
        size = sum(_padded_bytes(buffer) for buffer in plan.buffers)
        count = min(MOST_SETS, max(2, -(-2 * self.cache_bytes // size)))
        needs: dict[tuple[str, str, int, int], int] = {}
        for buffer in plan.buffers:
            needs[_key(buffer)] = needs.get(_key(buffer), 0) + _padded_bytes(buffer)
        blocks = {key: self._block(key, count * each) for key, each in needs.items()}
        taken = dict.fromkeys(needs, 0)
        return [tuple(_view(blocks, taken, buffer) for buffer in plan.buffers) for _ in range(count)]

    def _block(self, key: tuple[str, str, int, int], size: int) -> Any:
        if key not in self._blocks or self._blocks[key].nbytes < size:
            self._blocks.pop(key, None)
            self._blocks[key] = self._filled(key, size)
        return self._blocks[key]

    def _filled(self, key: tuple[str, str, int, int], size: int) -> Any:
        import torch

        name, fill, below, index = key
        dtype: Any = getattr(torch, name)
        where = f"cuda:{index}" if self.device == "cuda" else "cpu"
        count = size // dtype.itemsize
        if fill == "empty":
            return torch.zeros(count, dtype=dtype, device=where)
        drawn = count if self.device == "cuda" else min(count, BLOCK_ELEMENTS)
        if fill == "index":
            block = torch.randint(0, below, (drawn,), device=where).to(dtype)
        elif name == "int8":
            block = torch.randint(-127, 128, (drawn,), dtype=dtype, device=where)
        else:
            block = torch.randn(drawn, device=where, dtype=torch.float32 if dtype.itemsize == 1 else dtype).to(dtype)
        return block if drawn == count else block.repeat(-(-count // drawn))[:count]


def _key(buffer: Buffer) -> tuple[str, str, int, int]:
    return buffer.dtype, buffer.fill, buffer.below, buffer.device


def _padded_bytes(buffer: Buffer) -> int:
    import torch

    size = math.prod(buffer.shape) * int(getattr(torch, buffer.dtype).itemsize)
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES


def _view(blocks: dict[Any, Any], taken: dict[Any, int], buffer: Buffer) -> Any:
    key, block = _key(buffer), blocks[_key(buffer)]
    start = taken[key] // block.element_size()
    taken[key] += _padded_bytes(buffer)
    return block[start : start + math.prod(buffer.shape)].view(buffer.shape)


class Loop:
    """Calls of one kernel, each with the next set of operands; on a CUDA device also as a graph."""

    def __init__(self, plan: Plan, sets: list[tuple[Any, ...]], device: str) -> None:
        self.calls: list[Callable[[], object]] = [partial(plan.call, *operands) for operands in sets]
        self.device = device
        self._next = itertools.cycle(self.calls)
        self._graph: Any = None
        self._nodes = 1

    def warm(self) -> float:
        """Run a few calls; the seconds of one. The first compiles, loads libraries and touches memory."""
        for _ in range(3):
            self.run(1)
        self.wait()
        start = time.perf_counter()
        self.run(3)
        self.wait()
        return (time.perf_counter() - start) / 3

    def capture(self, seconds: float) -> None:
        """Record the calls, over all sets of operands, as a CUDA graph, of a length that makes its start negligible."""
        import torch

        rounds = max(1, -(-int(min(LEAST_NODES, SAMPLE_S / seconds)) // len(self.calls)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in self.calls * rounds:
                call()
        self._graph, self._nodes = graph, rounds * len(self.calls)
        graph.replay()
        self.wait()

    def run(self, times: int) -> int:
        """Start about `times` calls, or as many whole graphs; how many calls that is."""
        if self._graph is None:
            for call in itertools.islice(self._next, times):
                call()
            return times
        replays = max(1, round(times / self._nodes))
        for _ in range(replays):
            self._graph.replay()
        return replays * self._nodes

    def wait(self) -> None:
        """Until the device is done."""
        if self.device == "cuda":
            import torch

            for index in range(torch.cuda.device_count()):
                torch.cuda.synchronize(index)

    def sample_us(self, times: int) -> float:
        """Microseconds of one of about `times` calls: between two events on the device, by the host's clock on a CPU."""
        if self.device == "cpu":
            start = time.perf_counter()
            done = self.run(times)
            return (time.perf_counter() - start) / done * 1e6
        import torch

        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        done = self.run(times)
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / done * 1e3


def samples_us(loop: Loop, call_s: float, seconds: float) -> Samples:
    """Times of one call, each the mean over at least a millisecond, for about `seconds`; between 5 and 500 of them."""
    times = max(1, round(SAMPLE_S / call_s))
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < LEAST_SAMPLES or (time.perf_counter() < end and len(taken) < MOST_SAMPLES):
        taken.append(loop.sample_us(times))
    return np.array(taken)


def energy_j(loop: Loop, call_s: float, window_s: float, joules: Callable[[], float]) -> tuple[float, float]:
    """(joules of one call, watts) over a window of at least `window_s` in which nothing else runs."""
    times, calls = max(1, round(0.05 / call_s)), 0
    loop.wait()
    start, before = time.perf_counter(), joules()
    while (took := time.perf_counter() - start) < window_s:
        calls += loop.run(times)
        loop.wait()
    spent = joules() - before
    return spent / calls, spent / took


def middle(samples: Iterable[float]) -> tuple[float, float]:
    """(median, distance between the quartiles)."""
    low, median, high = np.percentile(np.asarray(list(samples)), [25, 50, 75])
    return float(median), float(high - low)
