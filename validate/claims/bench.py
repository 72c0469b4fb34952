"""Experiments, each prepared once and simulated once, however many claims and plots ask for its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from math import nan
from typing import Any

import numpy as np

from gemvane.sim import memory
from gemvane.sim.devices.precision import FALLBACK
from gemvane.sim.estimate import estimate_rows
from gemvane.sim.hardware import Hardware, nearest
from gemvane.sim.hardware import load as load_hardware
from gemvane.sim.mapping import choices
from gemvane.sim.result import Result
from gemvane.sim.schema import Cpu, Gpu, Systolic
from gemvane.sim.simulate import simulate
from gemvane.workloads import catalog, lower
from gemvane.workloads.kernels import COLUMNS, rows_from_table
from gemvane.workloads.kinds import BY_NAME
from gemvane.workloads.ops import KINDS, Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import Attention, Chain, ModelSpec, Step
from gemvane.workloads.transforms import applied
from gemvane.workloads.transforms.swap import swap_attention

from .page import Experiment

UNTIMED = ("weights", "kv_cache", "memory", "parameters", "flops")
"""Figures of a workload that need no simulation."""
WORDS = {str: "a word", int: "a whole number", bool: "true or false", float: "a number"}
Fault = Callable[[str, object], ValueError]
"""Key of an experiment and what is wrong there -> the error to raise."""


@dataclass(frozen=True)
class _Prepared:
    """An experiment whose parts are loaded and checked."""

    hardware: Hardware
    rows: Rows | None = None
    spec: ModelSpec | None = None
    scenario: Scenario | None = None
    counted: ModelSpec | None = None
    made: tuple[ModelSpec, Scenario] | None = None
    """What the scenario's transforms make of both."""


class Bench:
    """Experiments by what they say, and their figures once they have run."""

    def __init__(self) -> None:
        self._prepared: dict[str, _Prepared] = {}
        self._counts: dict[str, Mapping[str, float]] = {}
        self._figures: dict[str, Mapping[str, float]] = {}

    def absent(self, experiment: Experiment, figure: str, fault: Fault) -> str | None:
        """Why an experiment will not have a figure that its kind of experiment may have; raises `fault` for one that cannot run."""
        return _absent(figure, self._prepare(experiment, fault)[1])

    def figure(self, experiment: Experiment, name: str, fault: Fault) -> float:
        """A figure in SI units, simulated if it is not known yet."""
        key, prepared = self._prepare(experiment, fault)
        if name in UNTIMED:
            return self._untimed(key, prepared)[name]
        if key not in self._figures:
            try:
                self._figures[key] = _figures(prepared)
            except ValueError as error:
                raise fault("scenario", error) from None
        return self._figures[key][name]

    def _untimed(self, key: str, prepared: _Prepared) -> Mapping[str, float]:
        if key not in self._counts:
            self._counts[key] = untimed(prepared.hardware, *prepared.made) if prepared.made else {}
        return self._counts[key]

    def _prepare(self, experiment: Experiment, fault: Fault) -> tuple[str, _Prepared]:
        key = experiment.model_dump_json()
        if key not in self._prepared:
            self._prepared[key] = _prepare(experiment, fault)
        return key, self._prepared[key]


def _prepare(experiment: Experiment, fault: Fault) -> _Prepared:
    part = "hardware"
    try:
        hardware = load_hardware(str(experiment.hardware))
        part = "changes"
        hardware = hardware.replace(experiment.changes) if experiment.changes else hardware
        if experiment.kernel is not None:
            part = "kernel"
            _known("column", experiment.kernel, COLUMNS)
            return _Prepared(hardware, rows_from_table({key: np.array([value]) for key, value in experiment.kernel.items()}))
        part = "model"
        spec = catalog.load(str(experiment.model))
        part = "config"
        spec = catalog.load(str(experiment.model), experiment.config) if experiment.config else spec
        part = "mixer"
        spec = swap_attention("a chain", spec, _chain(experiment.mixer)) if experiment.mixer else spec
        part = "scenario"
        _known("option", experiment.scenario, [field.name for field in fields(Scenario)])
        scenario = _scenario(experiment.scenario, spec, hardware)
        changed, made, _ = applied(spec, scenario)
        lower.check(changed, made)
        memory.check(changed, made, hardware)
        part = "counted_as"
        counted = catalog.load(experiment.counted_as) if experiment.counted_as else spec
    except ValueError as error:
        raise fault(part, error) from None
    return _Prepared(hardware, spec=spec, scenario=scenario, counted=counted, made=(changed, made))


def _scenario(given: Mapping[str, Any], spec: ModelSpec, hardware: Hardware) -> Scenario:
    """The scenario that an experiment says; where its batch is "fits", with as many requests as the memory of a device has room for."""
    if given.get("batch") != "fits":
        return Scenario(**given)
    one = Scenario(**{**given, "batch": 1})
    changed, made, _ = applied(spec, one)
    most = memory.most_requests(changed, made, hardware)
    if not most:
        raise ValueError(f"batch is fits, but {hardware.name} has no room for one request of {spec.name}, or none of them needs any.")
    return one.but(batch=most)


def _chain(steps: Sequence[Mapping[str, Any]]) -> Callable[[Attention, int], Chain]:
    """What stands in the place of an attention."""
    wanted = {field.name: str if field.default is MISSING else type(field.default) for field in fields(Step)}
    for step in steps:
        _known("field of a step", step, wanted)
        for key, value in step.items():
            if type(value) is not wanted[key] and not (wanted[key] is float and type(value) is int):
                raise ValueError(f"{key} of a step is {value!r}. Expected {WORDS[wanted[key]]}.")
        for key in ("name", "kind"):
            if key not in step:
                raise ValueError(f"a step has no {key}. Expected a name, a kind and its sizes.")
        if step["kind"] not in BY_NAME:
            raise ValueError(f"unknown kind {step['kind']!r}{nearest(step['kind'], list(BY_NAME))}.")
    chain = Chain(label="chain", steps=tuple(Step(**step) for step in steps))
    return lambda *_: chain


def _known(what: str, given: Mapping[str, Any], names: Any) -> None:
    for key in given:
        if key not in names:
            raise ValueError(f"unknown {what} {key!r}. Expected some of {', '.join(names)}.")


def _absent(figure: str, prepared: _Prepared) -> str | None:
    head, _, unit = figure.partition(".")
    if head == "utilisation" and unit not in prepared.hardware.spec.units:
        return f"{prepared.hardware.name} has units {', '.join(prepared.hardware.spec.units)}."
    scenario, spec = prepared.scenario, prepared.spec
    if scenario is None or spec is None:
        return None
    decodes = scenario.phase != "prefill" and not spec.encoder and (scenario.phase == "decode" or scenario.decode_steps > 0)
    if (head == "ttft" and scenario.phase == "decode") or (head == "tpot" and not decodes):
        return f"the scenario has no {'prefill' if head == 'ttft' else 'decode step'} (phase {scenario.phase}, output {scenario.output})."
    if head == "mfu" and not peak_flops(prepared.hardware, scenario.dtype):
        return f"{prepared.hardware.name} has no unit whose peak in {scenario.dtype} is known."
    return None


def _figures(prepared: _Prepared) -> dict[str, float]:
    """The experiment, simulated: all its figures in SI units, nan for a time of a phase that did not run."""
    if prepared.rows is not None:
        one = estimate_rows(prepared.rows, prepared.hardware)
        seconds, joules = float(one.latency_ps[0]) / 1e12, float(one.energy_pj[0]) / 1e12
        return {"latency": seconds, "energy": joules, "power": joules / seconds, "result": float(prepared.rows.output_bytes[0])}
    assert prepared.spec is not None and prepared.scenario is not None and prepared.counted is not None
    result = Result(simulate(prepared.spec, prepared.scenario, prepared.hardware))
    return {
        "ttft": nan if result.ttft_s is None else result.ttft_s, "tpot": nan if result.tpot_s is None else result.tpot_s,
        "latency": result.latency_s, "throughput": result.throughput_tok_s, "energy": result.energy_j,
        "energy_per_token": result.energy_per_token_j, "compute_energy": compute_j(result),
        "power": result.average_power_w, "mfu": mfu(result, prepared.counted),
        **{f"utilisation.{unit}": share for unit, share in result.utilisation.items()},
        **{f"share.{kind}": share for kind, share in shares(result).items()},
    }


def compute_j(result: Result) -> float:
    """Joules of arithmetic alone: multiply-adds, additions and shifts of matmuls, and vector operations."""
    return sum(result.energy_by_component_j.get(part, 0.0) for part in ("mac", "vector"))


def untimed(hardware: Hardware, spec: ModelSpec, scenario: Scenario) -> dict[str, float]:
    """Figures of UNTIMED: bytes on one device, parameters of the whole model, and twice its multiply-adds."""
    needs, trace = memory.use(spec, scenario, hardware), lower.lower(spec, scenario)
    return {"weights": needs.weights_bytes, "kv_cache": needs.kv_cache_bytes, "memory": needs.weights_bytes + needs.kv_cache_bytes,
            "parameters": spec.parameters, "flops": trace.flops * scenario.alike}


def shares(result: Result) -> dict[str, float]:
    """Kind of operator -> what its operators take of the time that all operators take, waiting not counted."""
    taken = np.zeros(len(KINDS))
    for phase in result.run.phases.values():
        taken += np.bincount(np.tile(phase.trace.rows.kind, phase.steps), phase.alone_ps, len(KINDS))
    return {kind.name: float(share) for kind, share in zip(KINDS, taken / taken.sum(), strict=True)}


def mfu(result: Result, counted: ModelSpec) -> float:
    """Model FLOPs utilisation as Pope et al. (MLSys'23) count it: 2 x parameters x tokens / (time x peak of all devices).

    Parameters are those of `counted` that a token meets; tokens are all that went through the layers; attention is not counted. nan
    where no unit's peak is known.
    """
    run = result.run
    prompts = int(run.prefill.trace.requests.prompt.sum()) if run.prefill is not None else 0
    generated = run.scenario.batch * run.decode.tokens if run.decode is not None else 0
    work = 2 * counted.active_parameters * (prompts + generated)
    peak = peak_flops(run.hardware, run.scenario.dtype)
    return work / (result.latency_s * result.devices * peak) if peak else nan


def peak_flops(hardware: Hardware, dtype: str) -> float:
    """Peak of the fastest unit that runs matmuls, in the type that stands in for `dtype` there; 0 where no such unit has one."""
    peaks = [0]
    for name in choices(hardware)["matmul"]:
        unit = hardware.spec.units[name]
        if isinstance(unit, Gpu | Systolic | Cpu):
            table: Mapping[Any, int] = unit.tensor_peak if isinstance(unit, Gpu) else unit.peak
            peaks += [table[used] for used in (dtype, *FALLBACK[dtype]) if used in table][:1]
    return float(max(peaks))
