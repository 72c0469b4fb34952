"""The whole tool on one page: ModelSpec + Scenario + Hardware -> Trace -> Costs -> Timeline -> Result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gemvane.workloads import lower
from gemvane.workloads.ops import Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace

from . import contention, devices, mapping, memory
from .costs import ACTION, ACTIONS, CAUSES, Int64s
from .devices.precision import Rates, used_for
from .hardware import Hardware
from .memory import Memory
from .schedule import Interference, Timeline, schedule
from .schema import Link, Pim, Systolic
from .stages import with_barriers
from .units import cycles_to_ps_all

NOT_COSTED = ("name", "layer", "stage")
"""Columns that do not change what a row costs: rows alike in all others are costed once."""
AUTO = (1, 2, 4)
"""Counts of sub-batches that `auto` tries."""


class Waits(NamedTuple):
    """Who waits for whom: pointers and rows, as a trace has them."""

    here: tuple[Int64s, Int64s]
    """Rows of the same step."""
    step_before: tuple[Int64s, Int64s]


@dataclass(frozen=True)
class Phase:
    """One phase run: operators of one step, their costs in every step, and when they ran.

    Columns indexed by `alike` have one entry for each different row of a step.
    """

    trace: Trace
    placement: mapping.Placement
    unit: Int64s
    alike: Int64s
    """Of each row of a step: its entry in the columns below."""
    duration_ps: Int64s
    """[step, entry]"""
    bound: Int64s
    """[step, entry]"""
    cycles: Int64s
    """[entry, cause], over all steps, once for each entry."""
    actions: Int64s
    """[entry, action], over all steps, once for each entry."""
    choice: Int64s
    """[entry] index into costs.CHOICES, of the last step."""
    timeline: Timeline
    """Operators last their duration, and longer where others slow them."""
    waits: Waits
    sub_batches: int

    @property
    def alone_ps(self) -> Int64s:
        """What each operator would last if nothing slowed it: flat, as the timeline's columns."""
        return self.duration_ps[:, self.alike].ravel()

    @property
    def steps(self) -> int:
        return self.timeline.steps

    @property
    def latency_ps(self) -> int:
        return self.timeline.makespan_ps


class Tried(NamedTuple):
    """A schedule of the decode steps that was simulated."""

    sub_batches: int
    placement: mapping.Placement
    latency_ps: int


@dataclass(frozen=True)
class Run:
    """Everything that was simulated; reports derive from it."""

    spec: ModelSpec
    scenario: Scenario
    hardware: Hardware
    memory: Memory
    prefill: Phase | None
    decode: Phase | None
    tried: tuple[Tried, ...]
    """The schedules of which `decode` is the fastest, in the order of trial."""
    warnings: tuple[str, ...]

    @property
    def phases(self) -> dict[str, Phase]:
        both = {"prefill": self.prefill, "decode": self.decode}
        return {name: phase for name, phase in both.items() if phase is not None}


def simulate(spec: ModelSpec, scenario: Scenario, hardware: Hardware) -> Run:
    """The scenario on the hardware. ValueError before the first cycle for anything that cannot run."""
    warnings = lower.check(spec, scenario) + _check_links(scenario, hardware)
    _check_sparsity(scenario, hardware)
    used = memory.check(spec, scenario, hardware)
    machines = devices.resolve(hardware.spec)
    warnings += _fallbacks(scenario, hardware, machines) + contention.warnings(hardware)
    first = None
    if scenario.phase != "decode":
        first = _fastest([lower.prefill(spec, scenario, scenario.pp)], 1, hardware, machines)[0]
    steps = scenario.decode_steps if scenario.phase == "both" else scenario.output
    if scenario.phase == "prefill" or spec.encoder or steps == 0:
        return Run(spec, scenario, hardware, used, first, None, (), tuple(warnings))
    second, tried = _decode(spec, scenario, hardware, machines, steps)
    return Run(spec, scenario, hardware, used, first, second, tried, tuple(warnings))


def _decode(spec: ModelSpec, scenario: Scenario, hardware: Hardware, machines: dict[str, Any],
            steps: int) -> tuple[Phase, tuple[Tried, ...]]:
    """All decode steps, with the sub-batches of the hardware's policy (never fewer than pipeline stages)."""
    policy = hardware.spec.schedule
    channels = max((unit.channels for unit in hardware.spec.units.values() if isinstance(unit, Pim)), default=1)
    counts = dict.fromkeys(min(scenario.batch, max(n, scenario.pp)) for n in _sub_batches(scenario, hardware))
    traces = [lower.decode_step(spec, scenario, sub_batches=n, partition=policy.partition, channels=channels) for n in counts]
    return _fastest(traces, steps, hardware, machines)


def _sub_batches(scenario: Scenario, hardware: Hardware) -> tuple[int, ...]:
    """The counts to try. ValueError for more than requests."""
    asked = hardware.spec.schedule.sub_batches
    if asked == "auto":
        return AUTO
    if asked > scenario.batch:
        raise ValueError(f"{hardware.name}: schedule.sub_batches is {asked} but the batch has {scenario.batch} requests. "
                         "Expected at most one sub-batch a request, or auto.")
    return (asked,)


def _fastest(traces: list[Trace], steps: int, hardware: Hardware, machines: dict[str, Any]) -> tuple[Phase, tuple[Tried, ...]]:
    """The phase that ends first, of the given traces and of the units that the hardware offers for each class of work."""
    runs = [run_phase(trace, steps, hardware, machines, placement)
            for trace in traces for placement in mapping.placements(hardware, trace)]
    return min(runs, key=lambda run: run.latency_ps), tuple(Tried(run.sub_batches, run.placement, run.latency_ps) for run in runs)


def run_phase(trace: Trace, steps: int, hardware: Hardware, machines: dict[str, Any], placement: mapping.Placement) -> Phase:
    """A trace mapped, costed and scheduled; `steps` times in a row, with a growing cache."""
    trace = mapping.lower_to(trace, hardware, placement)
    unit = mapping.assign(trace, hardware, placement)
    costed = np.stack([c for name, c in trace.rows._asdict().items() if name not in NOT_COSTED] + [unit])
    _, first, alike = np.unique(costed, axis=1, return_index=True, return_inverse=True)
    alike = alike.reshape(-1)
    entries = _Entries(trace.rows.take(first), unit[first], trace, steps)
    duration_ps, bound, cycles, actions, choice = entries.cost(hardware, machines)

    count = len(hardware.spec.units)
    placed = trace.rows.stage * count + unit
    stages = int(trace.rows.stage.max()) + 1
    together = hardware.spec.schedule.barriers == "stage"
    met = with_barriers(trace) if together else trace
    waits = Waits((met.preds_ptr, met.preds_idx), _previous_step(trace, together))
    timeline = schedule(placed, duration_ps, *waits.here, groups=_groups(hardware, stages), duration_index=alike,
                        next_preds_ptr=waits.step_before[0], next_preds_idx=waits.step_before[1],
                        interference=entries.interference(duration_ps, actions, hardware))
    sub_batches = int(trace.rows.sub_batch.max()) + 1
    return Phase(trace, placement, unit, alike, duration_ps, bound, cycles, actions, choice, timeline, waits, sub_batches)


@dataclass(frozen=True)
class _Entries:
    """The different rows of a step."""

    rows: Rows
    unit: Int64s
    trace: Trace
    steps: int

    def cost(self, hardware: Hardware, machines: dict[str, Any]) -> tuple[Int64s, Int64s, Int64s, Int64s, Int64s]:
        """duration_ps and bound [step, entry]; cycles [entry, cause] and actions [entry, action] summed over the steps; choice [entry].

        Only what reads the growing cache is costed step by step.
        """
        size = self.rows.size
        duration_ps, bound = np.zeros((self.steps, size), np.int64), np.zeros((self.steps, size), np.int64)
        cycles, actions = np.zeros((size, len(CAUSES)), np.int64), np.zeros((size, len(ACTIONS)), np.int64)
        choice = np.zeros(size, np.int64)
        grows = (self.rows.kv_len > 0) & (self.rows.phase == 1)
        for u, (name, unit) in enumerate(hardware.spec.units.items()):
            for growing, times in ((False, 1), (True, self.steps)):
                index = np.flatnonzero((self.unit == u) & (grows == growing))
                if index.size == 0:
                    continue
                rows = self.rows.take(index)
                if growing:
                    rows = lower.grow(rows, self.trace.requests, int(rows.generated[0]) + np.arange(times))
                costs = devices.cost(unit.kind, rows, machines[name], self.trace.requests)
                ps = cycles_to_ps_all(costs.total_cycles, machines[name].freq_hz)
                duration_ps[:, index] = ps.reshape(times, index.size)
                bound[:, index] = costs.bound.reshape(times, index.size)
                choice[index] = costs.choice.reshape(times, index.size)[-1]
                repeat = self.steps // times
                cycles[index] = costs.cycles.reshape(times, index.size, -1).sum(axis=0) * repeat
                actions[index] = costs.actions.reshape(times, index.size, -1).sum(axis=0) * repeat
        return duration_ps, bound, cycles, actions, choice


    def interference(self, duration_ps: Int64s, actions: Int64s, hardware: Hardware) -> Interference:
        """How these rows slow each other, by what they do in a mean step."""
        moved = actions[:, ACTION["dram_io_bytes"]] / self.steps
        writes = np.minimum(self.rows.kv_write_bytes / np.maximum(moved, 1), 1)
        return contention.interference(self.rows, self.unit, duration_ps.mean(axis=0), moved, writes, self.steps, hardware)


def _previous_step(trace: Trace, together: bool) -> tuple[Int64s, Int64s]:
    """Predecessors in the step before: a sub-batch starts its next token when it has sampled this one, or `together` when all have."""
    first = np.flatnonzero(np.diff(trace.preds_ptr) == 0)
    last = {int(s): int(np.flatnonzero(trace.rows.sub_batch == s)[-1]) for s in np.unique(trace.rows.sub_batch)}
    waits = [list(last.values()) if together else [last[int(s)]] for s in trace.rows.sub_batch[first]]
    count = np.zeros(trace.size, np.int64)
    count[first] = [len(some) for some in waits]
    return np.concatenate([[0], np.cumsum(count)]), np.array([row for some in waits for row in some], np.int64)


def _groups(hardware: Hardware, stages: int) -> Int64s:
    """Exclusive group of each unit of each pipeline stage, -1 for none."""
    names = list(hardware.spec.units)
    exclusive = hardware.spec.schedule.exclusive
    group = np.full(len(names), -1, np.int64)
    for number, members in enumerate(exclusive):
        group[[names.index(m) for m in members]] = number
    return np.concatenate([np.where(group >= 0, group + stage * len(exclusive), -1) for stage in range(stages)])


def _check_links(scenario: Scenario, hardware: Hardware) -> list[str]:
    wanted = scenario.tp * scenario.pp
    links = [u for u in hardware.spec.units.values() if isinstance(u, Link)]
    if wanted > 1 and not links:
        raise ValueError(f"{hardware.name} has no link to other devices. Use --tp 1 --pp 1, or add a unit of kind link.")
    if links and scenario.tp > links[0].max_devices:
        return [f"{hardware.name} links {links[0].max_devices} devices; --tp {scenario.tp} is taken as if its link reached them all."]
    return []


def _check_sparsity(scenario: Scenario, hardware: Hardware) -> None:
    """ValueError where a unit that may multiply by the weights cannot use their pattern."""
    wish = scenario.weight_sparsity
    for name in mapping.units_for("matmul", hardware) if wish != "dense" else ():
        unit = hardware.spec.units[name]
        known = unit.sparsity if isinstance(unit, Systolic) else []
        if wish not in known:
            raise ValueError(f"{hardware.name}: unit {name}, a {unit.kind}, cannot use {wish} weights. Expected "
                             f"{' or '.join(['dense', *known])}.")


def _fallbacks(scenario: Scenario, hardware: Hardware, machines: dict[str, Any]) -> list[str]:
    """A warning for each unit that multiplies in another type than the asked-for one. ValueError where it has none."""
    out = []
    for name, machine in machines.items():
        for rates in (value for value in machine if isinstance(value, Rates)):
            used = used_for(scenario.dtype, rates, f"{hardware.name}: unit {name}")
            if used != scenario.dtype:
                out.append(f"{hardware.name} cannot multiply in {scenario.dtype}: unit {name} uses {used}, bytes stay {scenario.dtype}.")
    return out
