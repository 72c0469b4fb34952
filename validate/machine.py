"""What this machine is: the record that travels with a measured table, and a hardware file of its CPU."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from gemvane.sim import hardware
from gemvane.sim.hardware import Hardware

CPUINFO, CACHES = Path("/proc/cpuinfo"), Path("/sys/devices/system/cpu/cpu0/cache")
STEP_CYCLES = 6
"""Cycles of one xorshift step: three shifts and three exclusive ors, each of one cycle and each waiting for the one before."""
MACS_PER_CORE = (
    ("amx_bf16", "bf16", 512), ("amx_int8", "int8", 1024),
    ("avx512f", "fp32", 32), ("avx512_bf16", "bf16", 64), ("avx512_fp16", "fp16", 64), ("avx512_vnni", "int8", 128),
    ("fma", "fp32", 16), ("avx_vnni", "int8", 64),
    ("asimd", "fp32", 8), ("asimdhp", "fp16", 16), ("bf16", "bf16", 32), ("asimddp", "int8", 32),
)
"""Flag of the instruction set, number type, multiply-adds of a core in one clock, best first. Two vector pipes are taken for granted."""
LEAST_MACS = {"fp32": 4}
GUESSED_CACHES = {1: 32 << 10, 2: 1 << 20, 3: 16 << 20}
BYTES_PER_CYCLE = {1: 64, 2: 32, 3: 8}
"""Of one core, reading a level (guess: what most cores since 2015 have)."""
COPY_BYTES = 256 << 20


class CpuFacts(NamedTuple):
    """What the operating system says of a CPU. Sizes are 0 where it says nothing."""

    model: str
    flags: frozenset[str]
    cores: int
    cache_bytes: dict[int, int]


def cpu_facts(cpuinfo: str, caches: dict[int, int], logical: int) -> CpuFacts:
    """From the text of /proc/cpuinfo, the size of each data cache by level, and the number of logical processors."""
    def values(key: str) -> list[str]:
        return re.findall(rf"^{key}\s*:\s*(.*)$", cpuinfo, re.MULTILINE)

    cores = len(set(zip(values("physical id"), values("core id"), strict=False))) or logical
    model = next(iter(values("model name")), platform.processor() or platform.machine())
    flags = frozenset(" ".join(values("flags")[:1] + values("Features")[:1]).split())
    return CpuFacts(" ".join(re.sub(r"\((R|TM)\)", "", model).split()), flags, min(cores, logical), caches)


def this_cpu() -> CpuFacts:
    """The CPU of this machine, as far as Linux tells."""
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
    return cpu_facts(text, _cache_bytes(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _cache_bytes() -> dict[int, int]:
    found = {}
    for index in CACHES.glob("index*"):
        level, kind, size = ((index / name).read_text(encoding="utf-8").strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found[int(level)] = int(size.rstrip("K")) << 10
    return found


def last_level_bytes(facts: CpuFacts) -> int:
    """Size of the last cache before main memory; a guess where the system does not tell."""
    return max(facts.cache_bytes.values(), default=GUESSED_CACHES[3])


@njit(cache=True)
def _xorshift(steps: int, state: np.uint64) -> np.uint64:
    for _ in range(steps):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
    return state


def clock_hz(seconds: float = 0.02) -> float:
    """Clock of one busy core: the best of ten timed chains of dependent single-cycle instructions."""
    _xorshift(10, np.uint64(1))
    steps, best = 10_000, 0.0
    end = time.perf_counter() + 10 * seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        _xorshift(steps, np.uint64(1))
        took = time.perf_counter() - start
        best = max(best, STEP_CYCLES * steps / took)
        steps = max(steps, int(seconds * best / STEP_CYCLES))
    return best


def copy_bytes_per_s(cores: int, least_bytes: int) -> float:
    """Bytes read and written per second by `cores` threads whose operands together exceed the last-level cache twice; the best of four."""
    size = max(COPY_BYTES, least_bytes) // 8 // cores
    parts = [(np.ones(size), np.empty(size)) for _ in range(cores)]
    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(5):        # the first touches the pages
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), parts))
            best = max(best, 2 * 8 * size * cores / (time.perf_counter() - start))
    return best


def slug(text: str) -> str:
    """A name for a hardware file: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cpu_record(threads: int) -> dict[str, Any]:
    """The machine record of a CPU: model, cores, caches, clock and copy bandwidth (measured now), memory, system."""
    facts = this_cpu()
    return {
        "device": "cpu", "name": facts.model, "cores": facts.cores, "threads": threads,
        "cache_bytes": {f"l{level}": size for level, size in sorted(facts.cache_bytes.items())},
        "macs_per_core": macs_per_core(facts.flags), "clock_hz": round(clock_hz()),
        "copy_bytes_s": round(copy_bytes_per_s(threads, last_level_bytes(facts))), "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
    }


def memory_bytes() -> int:
    """Main memory of this machine; 0 where it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


def macs_per_core(flags: frozenset[str]) -> dict[str, int]:
    """Multiply-adds of one core in one clock by number type, from the instruction sets that it lists."""
    found: dict[str, int] = {}
    for flag, dtype, macs in MACS_PER_CORE:
        if flag in flags:
            found.setdefault(dtype, macs)
    return LEAST_MACS | found


CPU_FILE = """\
# {model}, as this machine's operating system and two short measurements show it. What is marked guess is one: put better
# numbers in, or let `gemvane validate calibrate TABLE --hw FILE` find the shares that are really reached.
schema_version: 1
name: {name}
kind: cpu
description: {model}, {used}
sources:
  system: {{cite: "reported by the operating system", confidence: measured}}
  clock: {{cite: "a chain of dependent shifts and exclusive ors, one cycle each, timed on one core", confidence: measured}}
  copy: {{cite: "{cores} threads copying more than the last-level cache, bytes read and written", confidence: measured}}
  flags: {{cite: "instruction sets that the system lists, rates of common cores: two vector pipes", confidence: guess}}
  derived: {{cite: "arithmetic on other numbers of the device", confidence: derived}}
  guess: {{cite: "typical; chosen, not cited", confidence: guess}}
memory:
  technology: {{value: DDR, source: guess}}
  capacity: {{value: "{memory_bytes} B", source: system}}
  bandwidth: {{value: "{bandwidth} GB/s", source: copy}}
  sustained: {{value: "100 %", source: copy}}
units:
  cpu:
    kind: cpu
    clock: {{value: "{clock} MHz", source: clock}}
    num_cores: {{value: {cores}, source: system}}
    macs_per_core:
{macs}
    peak:
{peaks}
    tile:
      rows: {{value: {tile_rows}, source: guess}}
      cols: {{value: {tile_cols}, source: guess}}
    sustained:
{sustained}
    vector_sustained: {{value: "50 %", source: guess}}
{caches}
    op_overhead: {{value: "{overhead} us", source: guess, note: "the call and the threads' barrier"}}
mapping: {{matmul: cpu, attention_prefill: cpu, attention_decode: cpu, vector: cpu, move: cpu}}
power:
  static: {{value: "{static} W", source: guess, note: "10 W and 1 W a core"}}
energy:
  table: 7nm
  prices:  # 12 pJ/bit in all, as for a module on a board
    dram_tsv_bytes: {{value: "0 pJ/bit", source: guess}}
    dram_io_bytes: {{value: "9.21 pJ/bit", source: guess}}
"""


def cpu_file(record: dict[str, Any], name: str) -> str:
    """The text of a hardware file for the CPU of a machine record, with every number's origin."""
    cores, clock_mhz = record["threads"], round(record["clock_hz"] / 1e6)
    macs = record["macs_per_core"]
    sizes = {int(level[1:]): size for level, size in record["cache_bytes"].items()}
    levels = []
    for level in sorted(sizes.keys() | {1, 2}):
        rate = cores * BYTES_PER_CYCLE[level] * clock_mhz / 1e3
        levels.append(f'    l{level}:\n      size: {{value: "{sizes.get(level, GUESSED_CACHES[level])} B", '
                      f'source: {"system" if level in sizes else "guess"}}}\n'
                      f'      bandwidth: {{value: "{rate:.4g} GB/s", source: guess, note: "{BYTES_PER_CYCLE[level]} B a clock and core"}}')
    matrix = macs.get("bf16", 0) >= 256
    return CPU_FILE.format(
        model=record["name"], name=name, cores=cores, used="1 core used" if cores == 1 else f"{cores} cores used",
        memory_bytes=record["memory_bytes"] or 16 << 30, bandwidth=f"{record['copy_bytes_s'] / 1e9:.4g}", clock=clock_mhz,
        static=10 + cores, overhead=5 if cores > 1 else 2,
        tile_rows=32 if matrix else 8, tile_cols=32, caches="\n".join(levels),
        sustained="\n".join(f'      {dtype}: {{value: "70 %", source: guess}}' for dtype in macs),
        macs="\n".join(f"      {dtype}: {{value: {count}, source: flags}}" for dtype, count in macs.items()),
        peaks="\n".join(f'      {dtype}: {{value: "{2 * count * cores * clock_mhz / 1e3:.5g} {"GOP" if dtype == "int8" else "GFLOP"}/s", '
                        "source: derived}" for dtype, count in macs.items()))


def cpu_hardware(record: dict[str, Any], name: str) -> Hardware:
    """The hardware of a machine record's CPU, as its file says."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.yaml"
        file.write_text(cpu_file(record, name), encoding="utf-8")
        return hardware.load(file)
