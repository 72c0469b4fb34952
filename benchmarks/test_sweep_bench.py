"""Design points a second: 10,000 of NPU+PIM configurations, and 1,000 over channels x banks x row buffers x array size."""

import resource
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from gemvane.sim.space import parse
from gemvane.sweeping.sweep import sweep

DECODE = """\
model: llama3-8b
hardware: npu-pim-dual
scenario: {output: 1, phase: decode}
vary:
  units.pim.channels: [16, 32, 64]
  units.pim.buffers: [single, dual]
  units.pim.levels.bank: [2, 4, 8]
  units.npu.rows: [64, 128, 256]
  units.npu.num_arrays: [2, 4, 8, 16]
  schedule.sub_batches: [1, 2]
  prompt: [512, 1024, 2048]
  batch: [16, 32, 64, 128]
  memory.bandwidth: [1 TB/s, 2 TB/s]
follow:
  units.npu.cols: units.npu.rows
  memory.capacity: max(memory.capacity, memory.capacity * units.pim.channels / 16)
sample: {kind: random, points: 10000, seed: 1}
"""
FAMILY = """\
model: llama3-8b
hardware: npu-pim-dual
scenario: {batch: 64, prompt: 512, output: 128, phase: decode}
vary:
  units.pim.channels: [8, 16, 32, 64, 128]
  units.pim.levels.bank: [1, 2, 4, 8]
  units.pim.buffers: [single, dual]
  units.npu.rows: [16, 32, 64, 128, 256]
  units.npu.num_arrays: [1, 2, 4, 8, 16]
follow:
  units.npu.cols: units.npu.rows
  memory.bandwidth: memory.bandwidth * units.pim.channels / 32
  memory.pins: memory.pins * units.pim.channels / 32
  memory.capacity: max(memory.capacity, memory.capacity * units.pim.channels / 32)
"""


def swept(text: str, out: Path) -> None:
    sweep(parse(text, "space.yaml"), out, jobs=2)


def test_10_000_design_points_on_two_cores(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    benchmark.pedantic(swept, args=(DECODE, tmp_path), rounds=1)
    benchmark.extra_info["peak_memory_of_a_worker_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def test_1_000_points_of_128_tokens_on_two_cores(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    benchmark.pedantic(swept, args=(FAMILY, tmp_path), rounds=1)


def test_what_a_point_costs_beside_its_simulation(benchmark: BenchmarkFixture) -> None:
    """A thousand designs of the 10,000: formulas, changed hardware, checks."""
    from gemvane.sim.redesign import redesigned

    space = parse(DECODE, "space.yaml")
    points = space.points()[:1000]

    def designs() -> None:
        for point in points:
            design = space.design(point.values)
            redesigned(design.base, design.changes)

    benchmark(designs)
