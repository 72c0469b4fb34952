"""The whole tool on one page: ModelSpec + Scenario + Hardware -> Trace -> Costs -> Timeline -> Result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gemvane.workloads import lower
from gemvane.workloads.ops import Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace

from . import devices, mapping, memory
from .costs import ACTIONS, CAUSES, Int64s
from .devices.precision import Rates, used_for
from .hardware import Hardware
from .memory import Memory
from .schedule import Timeline, schedule
from .schema import Link
from .units import cycles_to_ps_all

NOT_COSTED = ("name", "layer", "stage")
"""Columns that do not change what a row costs: rows alike in all others are costed once."""


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
    sub_batches: int

    @property
    def steps(self) -> int:
        return self.timeline.steps

    @property
    def latency_ps(self) -> int:
        return self.timeline.makespan_ps


@dataclass(frozen=True)
class Run:
    """Everything that was simulated; reports derive from it."""

    spec: ModelSpec
    scenario: Scenario
    hardware: Hardware
    memory: Memory
    prefill: Phase | None
    decode: Phase | None
    warnings: tuple[str, ...]

    @property
    def phases(self) -> dict[str, Phase]:
        both = {"prefill": self.prefill, "decode": self.decode}
        return {name: phase for name, phase in both.items() if phase is not None}


def simulate(spec: ModelSpec, scenario: Scenario, hardware: Hardware) -> Run:
    """The scenario on the hardware. ValueError before the first cycle for anything that cannot run."""
    warnings = lower.check(spec, scenario) + _check_links(scenario, hardware)
    used = memory.check(spec, scenario, hardware)
    machines = devices.resolve(hardware.spec)
    warnings += _fallbacks(scenario, hardware, machines)
    first = second = None
    if scenario.phase != "decode":
        first = _fastest(lower.prefill(spec, scenario, scenario.pp), 1, hardware, machines)
    steps = scenario.decode_steps if scenario.phase == "both" else scenario.output
    if scenario.phase != "prefill" and not spec.encoder and steps > 0:
        second = _decode(spec, scenario, hardware, machines, steps)
    return Run(spec, scenario, hardware, used, first, second, tuple(warnings))


def _decode(spec: ModelSpec, scenario: Scenario, hardware: Hardware, machines: dict[str, Any], steps: int) -> Phase:
    """All decode steps, with the sub-batches of the hardware's policy (never fewer than pipeline stages)."""
    asked = hardware.spec.schedule.sub_batches
    counts = dict.fromkeys(min(scenario.batch, max(n, scenario.pp)) for n in ((1, 2) if asked == "auto" else (asked,)))
    runs = [_fastest(lower.decode_step(spec, scenario, sub_batches=n), steps, hardware, machines) for n in counts]
    return min(runs, key=lambda run: run.latency_ps)


def _fastest(trace: Trace, steps: int, hardware: Hardware, machines: dict[str, Any]) -> Phase:
    """The phase with the units that end it first, of those that the hardware offers for each class of work."""
    runs = [run_phase(trace, steps, hardware, machines, placement) for placement in mapping.placements(hardware, trace)]
    return min(runs, key=lambda run: run.latency_ps)


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
    ptr, idx = _previous_step(trace)
    timeline = schedule(placed, duration_ps, trace.preds_ptr, trace.preds_idx, groups=_groups(hardware, stages),
                        duration_index=alike, next_preds_ptr=ptr, next_preds_idx=idx)
    sub_batches = int(trace.rows.sub_batch.max()) + 1
    return Phase(trace, placement, unit, alike, duration_ps, bound, cycles, actions, choice, timeline, sub_batches)


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


def _previous_step(trace: Trace) -> tuple[Int64s, Int64s]:
    """Predecessors in the step before: a sub-batch starts its next token when it has sampled this one."""
    waits = np.diff(trace.preds_ptr) == 0
    last = {int(s): int(np.flatnonzero(trace.rows.sub_batch == s)[-1]) for s in np.unique(trace.rows.sub_batch)}
    idx = np.array([last[int(s)] for s in trace.rows.sub_batch[waits]], np.int64)
    return np.concatenate([[0], np.cumsum(waits)]).astype(np.int64), idx


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


def _fallbacks(scenario: Scenario, hardware: Hardware, machines: dict[str, Any]) -> list[str]:
    """A warning for each unit that multiplies in another type than the asked-for one. ValueError where it has none."""
    out = []
    for name, machine in machines.items():
        for rates in (value for value in machine if isinstance(value, Rates)):
            used = used_for(scenario.dtype, rates, f"{hardware.name}: unit {name}")
            if used != scenario.dtype:
                out.append(f"{hardware.name} cannot multiply in {scenario.dtype}: unit {name} uses {used}, bytes stay {scenario.dtype}.")
    return out
