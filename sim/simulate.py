"""The whole tool on one page: ModelSpec + Scenario + Hardware -> Trace -> Costs -> Timeline -> Result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from gemvane.workloads import lower
from gemvane.workloads.ops import Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace
from gemvane.workloads.transforms import Transform, applied

from . import contention, devices, mapping, memory, policies
from .costs import ACTION, ACTIONS, CAUSES, Int64s
from .devices.precision import Rates, used_for
from .hardware import Hardware
from .memory import Memory
from .pimschema import Pim
from .schedule import NONE, Timeline, schedule
from .schema import Link, Systolic
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
    accepted: float = 1.0
    """Tokens that a step gives each request, in the mean."""

    @property
    def tokens(self) -> float:
        """Tokens that its decode steps give each request, in the mean: at least as many as were asked for."""
        return self.steps * self.accepted

    def grown(self, steps: Int64s) -> Int64s:
        """Tokens in the cache beyond the prompt in some of the steps, counted from 0 (drafts have fewer)."""
        more: Int64s = self.trace.rows.generated.max() + lower.more_tokens(self.steps, self.accepted)[steps]
        return more

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
    """A schedule of a phase that was simulated."""

    sub_batches: int
    placement: mapping.Placement
    latency_ps: int
    alone_ps: dict[str, int]
    """What the operators of each class take in a step, one after the other, of the classes that had a choice of units."""


@dataclass(frozen=True)
class Run:
    """Everything that was simulated; reports derive from it."""

    spec: ModelSpec
    scenario: Scenario
    hardware: Hardware
    memory: Memory
    prefill: Phase | None
    decode: Phase | None
    tried: dict[str, tuple[Tried, ...]]
    """Phase -> the schedules of which it is the fastest, in the order of trial."""
    warnings: tuple[str, ...]
    transforms: tuple[Transform, ...] = ()
    """What made `spec` and `scenario` of what was asked for."""

    @property
    def phases(self) -> dict[str, Phase]:
        both = {"prefill": self.prefill, "decode": self.decode}
        return {name: phase for name, phase in both.items() if phase is not None}


class Source(Protocol):
    """Where the traces come from: the module `lower`, or a recording."""

    def prefill(self, spec: ModelSpec, scenario: Scenario, sub_batches: int = 1) -> Trace: ...

    def decode_step(self, spec: ModelSpec, scenario: Scenario, generated: int = 1, sub_batches: int = 1, partition: str = "dealt",
                    channels: int = 1) -> Trace: ...


def simulate(spec: ModelSpec, scenario: Scenario, hardware: Hardware, source: Source = lower) -> Run:
    """The scenario on the hardware. ValueError before the first cycle for anything that cannot run."""
    spec, scenario, transforms = applied(spec, scenario)
    warnings = lower.check(spec, scenario) + _check_links(scenario, hardware)
    _check_sparsity(scenario, hardware)
    devices.check(hardware)
    hardware, slower = policies.capped(hardware)
    used = memory.check(spec, scenario, hardware)
    machines = devices.resolve(hardware.spec)
    warnings += _fallbacks(scenario, hardware, machines) + contention.warnings(hardware) + slower
    first = second = None
    tried: dict[str, tuple[Tried, ...]] = {}
    if scenario.phase != "decode":
        first, tried["prefill"] = _fastest([source.prefill(spec, scenario, scenario.pp)], 1, hardware, machines)
    steps = lower.steps(spec, scenario.decode_steps if scenario.phase == "both" else scenario.output)
    if scenario.phase != "prefill" and not spec.encoder and steps:
        second, tried["decode"] = _decode(spec, scenario, hardware, machines, steps, source)
    return Run(spec, scenario, hardware, used, first, second, tried, tuple(warnings), transforms)


def _decode(spec: ModelSpec, scenario: Scenario, hardware: Hardware, machines: dict[str, Any], steps: int,
            source: Source) -> tuple[Phase, tuple[Tried, ...]]:
    """All decode steps, with the sub-batches of the hardware's policy in each group that goes through the pipeline."""
    policy = hardware.spec.schedule
    channels = max((unit.channels for unit in hardware.spec.units.values() if isinstance(unit, Pim)), default=1)
    counts = dict.fromkeys(min(scenario.batch, n * scenario.pp) for n in _sub_batches(scenario, hardware))
    traces = [source.decode_step(spec, scenario, sub_batches=n, partition=policy.partition, channels=channels) for n in counts]
    return _fastest(traces, steps, hardware, machines, spec.decoding.accepted)


def _sub_batches(scenario: Scenario, hardware: Hardware) -> tuple[int, ...]:
    """The counts to try. ValueError for more than requests."""
    asked = hardware.spec.schedule.sub_batches
    if asked == "auto":
        return AUTO
    if asked > scenario.batch:
        raise ValueError(f"{hardware.name}: schedule.sub_batches is {asked} but the batch has {scenario.batch} requests. "
                         "Expected at most one sub-batch a request, or auto.")
    return (asked,)


def _fastest(traces: list[Trace], steps: int, hardware: Hardware, machines: dict[str, Any],
             accepted: float = 1.0) -> tuple[Phase, tuple[Tried, ...]]:
    """The phase that ends first, of the given traces and of the units that the hardware offers for each class of work."""
    runs = [run_phase(trace, steps, hardware, machines, placement, accepted)
            for trace in traces for placement in mapping.placements(hardware, trace)]
    tried = (Tried(run.sub_batches, run.placement, run.latency_ps, _alone_ps(run, hardware)) for run in runs)
    return min(runs, key=lambda run: run.latency_ps), tuple(tried)


def _alone_ps(run: Phase, hardware: Hardware) -> dict[str, int]:
    """Of each class of operators that had a choice of units: what its operators take in a step at full speed, one after the other."""
    of_row = mapping.classes(run.trace, hardware)
    ps = run.duration_ps.sum(axis=0)[run.alike] // run.steps
    open_to = [work for work, units in mapping.choices(hardware).items() if len(units) > 1]
    each = {work: int(ps[of_row == mapping.CLASSES.index(work)].sum()) for work in open_to}
    return {work: spent for work, spent in each.items() if spent}


def run_phase(trace: Trace, steps: int, hardware: Hardware, machines: dict[str, Any], placement: mapping.Placement,
              accepted: float = 1.0) -> Phase:
    """A trace mapped, costed and scheduled; `steps` times in a row, with a cache that grows by `accepted` tokens a step."""
    trace = mapping.lower_to(trace, hardware, placement)
    unit = mapping.assign(trace, hardware, placement)
    costed = np.stack([c for name, c in trace.rows._asdict().items() if name not in NOT_COSTED] + [unit])
    _, first, alike = np.unique(costed, axis=1, return_index=True, return_inverse=True)
    alike = alike.reshape(-1)
    entries = _Entries(trace.rows.take(first), unit[first], trace, steps, accepted)
    duration_ps, bound, cycles, actions, choice = entries.cost(hardware, machines)

    count = len(hardware.spec.units)
    placed = trace.rows.stage * count + unit
    stages = int(trace.rows.stage.max()) + 1
    together = hardware.spec.schedule.barriers == "stage"
    met = with_barriers(trace) if together else trace
    waits = Waits((met.preds_ptr, met.preds_idx), _previous_step(trace, together))
    pairs = entries.pairs(duration_ps, actions, hardware)
    known: set[tuple[int, int]] = set()
    while True:
        timeline = schedule(placed, duration_ps, *waits.here, groups=_groups(hardware, stages), duration_index=alike,
                            next_preds_ptr=waits.step_before[0], next_preds_idx=waits.step_before[1], interference=pairs.slow(known))
        kind = np.tile(pairs.kind[alike], steps)
        new = contention.met(kind, np.tile(placed, steps), timeline.start_ps, timeline.end_ps, count) & (pairs.every - known)
        known |= new
        if pairs.slow(new) is NONE:  # what works at once in it is slowed as simulated
            break
    sub_batches = int(trace.rows.sub_batch.max()) + 1
    return Phase(trace, placement, unit, alike, duration_ps, bound, cycles, actions, choice, timeline, waits, sub_batches, accepted)


@dataclass(frozen=True)
class _Entries:
    """The different rows of a step."""

    rows: Rows
    unit: Int64s
    trace: Trace
    steps: int
    accepted: float

    def cost(self, hardware: Hardware, machines: dict[str, Any]) -> tuple[Int64s, Int64s, Int64s, Int64s, Int64s]:
        """duration_ps and bound [step, entry]; cycles [entry, cause] and actions [entry, action] summed over the steps; choice [entry].

        Only what reads the growing cache is costed step by step.
        """
        size = self.rows.size
        duration_ps, bound = np.zeros((self.steps, size), np.int64), np.zeros((self.steps, size), np.int64)
        cycles, actions = np.zeros((size, len(CAUSES)), np.int64), np.zeros((size, len(ACTIONS)), np.int64)
        choice = np.zeros(size, np.int64)
        grows = (self.rows.kv_len > 0) & (self.rows.phase == 1)
        base = int(self.trace.rows.generated.max())
        for u, (name, unit) in enumerate(hardware.spec.units.items()):
            for growing, times in ((False, 1), (True, self.steps)):
                index = np.flatnonzero((self.unit == u) & (grows == growing))
                if index.size == 0:
                    continue
                rows = self.rows.take(index)
                if growing:
                    rows = lower.grow(rows, self.trace.requests, base + lower.more_tokens(times, self.accepted), base)
                costs = devices.cost(unit.kind, rows, machines[name], self.trace.requests)
                ps = cycles_to_ps_all(costs.total_cycles, machines[name].freq_hz)
                duration_ps[:, index] = ps.reshape(times, index.size)
                bound[:, index] = costs.bound.reshape(times, index.size)
                choice[index] = costs.choice.reshape(times, index.size)[-1]
                repeat = self.steps // times
                cycles[index] = costs.cycles.reshape(times, index.size, -1).sum(axis=0) * repeat
                actions[index] = costs.actions.reshape(times, index.size, -1).sum(axis=0) * repeat
        return duration_ps, bound, cycles, actions, choice


    def pairs(self, duration_ps: Int64s, actions: Int64s, hardware: Hardware) -> contention.Pairs:
        """How these rows slow each other, by what they do in a mean step."""
        moved = actions[:, ACTION["dram_io_bytes"]] / self.steps
        writes = np.minimum(self.rows.kv_write_bytes / np.maximum(moved, 1), 1)
        return contention.Pairs(self.rows, self.unit, duration_ps.mean(axis=0), moved, writes, self.steps, hardware)


def _previous_step(trace: Trace, together: bool) -> tuple[Int64s, Int64s]:
    """Predecessors in the step before: a sub-batch starts its next token when it has sampled this one, or `together` when its whole group
    has; the first group of a pipeline enters a stage when the last one has left it."""
    rows = trace.rows
    waiting = np.repeat(np.arange(trace.size), np.diff(trace.preds_ptr))
    here = (rows.sub_batch[waiting] == rows.sub_batch[trace.preds_idx]) & (rows.stage[waiting] == rows.stage[trace.preds_idx])
    enters = np.setdiff1d(np.arange(trace.size), waiting[here])
    groups = lower.flights(int(rows.sub_batch.max()) + 1, int(rows.stage.max()) + 1)
    group = {s: number for number, some in enumerate(groups) for s in some}
    sampled = {s: int(np.flatnonzero(rows.sub_batch == s)[-1]) for s in group}
    ahead = groups[-1] if len(groups) > 1 else ()
    count, waits = np.zeros(trace.size, np.int64), []
    for row, own, stage in zip(enters.tolist(), rows.sub_batch[enters].tolist(), rows.stage[enters].tolist(), strict=True):
        before = [sampled[s] for s in (groups[group[own]] if together else [own])] if stage == 0 else []
        if group[own] == 0:
            before += [int(np.flatnonzero((rows.sub_batch == s) & (rows.stage == stage))[-1]) for s in ahead]
        count[row] = len(before)
        waits += before
    return np.concatenate([[0], np.cumsum(count)]), np.array(waits, np.int64)


def _groups(hardware: Hardware, stages: int) -> Int64s:
    """Exclusive group of each unit of each pipeline stage, -1 for none."""
    names = list(hardware.spec.units)
    exclusive = hardware.spec.schedule.exclusive
    group = np.full(len(names), -1, np.int64)
    for number, members in enumerate(exclusive):
        group[[names.index(m) for m in members]] = number
    return np.concatenate([np.where(group >= 0, group + stage * len(exclusive), -1) for stage in range(stages)])


def _check_links(scenario: Scenario, hardware: Hardware) -> list[str]:
    wanted = scenario.devices
    links = [u for u in hardware.spec.units.values() if isinstance(u, Link)]
    if wanted > 1 and not links:
        raise ValueError(f"{hardware.name} has no link to other devices. Use --tp 1 --pp 1, or add a unit of kind link.")
    if links and scenario.tp > links[0].max_devices:
        return [f"{hardware.name} links {links[0].max_devices} devices; --tp {scenario.tp} is taken as if its link reached them all."]
    if links and scenario.context > links[0].max_devices:
        return [f"{hardware.name} links {links[0].max_devices} devices; the {scenario.context} that share out a context are taken as if "
                "its link reached them all."]
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
