"""Experiments, each prepared once and simulated once, however many claims and plots ask for its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import nan
from typing import Any

import numpy as np

from gemvane.sim import memory
from gemvane.sim.devices.precision import FALLBACK
from gemvane.sim.estimate import estimate_rows
from gemvane.sim.hardware import Hardware
from gemvane.sim.hardware import load as load_hardware
from gemvane.sim.mapping import choices
from gemvane.sim.result import Result
from gemvane.sim.schema import Cpu, Gpu, Systolic
from gemvane.sim.simulate import simulate
from gemvane.workloads import catalog, lower
from gemvane.workloads.kernels import COLUMNS, rows_from_table
from gemvane.workloads.ops import KINDS, Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.transforms import applied

from .page import Experiment

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


class Bench:
    """Experiments by what they say, and their figures once they have run."""

    def __init__(self) -> None:
        self._prepared: dict[str, _Prepared] = {}
        self._figures: dict[str, Mapping[str, float]] = {}

    def absent(self, experiment: Experiment, figure: str, fault: Fault) -> str | None:
        """Why an experiment will not have a figure that its kind of experiment may have; raises `fault` for one that cannot run."""
        return _absent(figure, self._prepare(experiment, fault)[1])

    def figure(self, experiment: Experiment, name: str, fault: Fault) -> float:
        """A figure in SI units, simulated if it is not known yet."""
        key, prepared = self._prepare(experiment, fault)
        if key not in self._figures:
            try:
                self._figures[key] = _figures(prepared)
            except ValueError as error:
                raise fault("scenario", error) from None
        return self._figures[key][name]

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
        part = "scenario"
        _known("option", experiment.scenario, [field.name for field in fields(Scenario)])
        scenario = Scenario(**experiment.scenario)
        changed, made, _ = applied(spec, scenario)
        lower.check(changed, made)
        memory.check(changed, made, hardware)
        part = "counted_as"
        counted = catalog.load(experiment.counted_as) if experiment.counted_as else spec
    except ValueError as error:
        raise fault(part, error) from None
    return _Prepared(hardware, spec=spec, scenario=scenario, counted=counted)


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
        return {"latency": seconds, "energy": joules, "power": joules / seconds}
    assert prepared.spec is not None and prepared.scenario is not None and prepared.counted is not None
    result = Result(simulate(prepared.spec, prepared.scenario, prepared.hardware))
    needs = result.run.memory
    return {
        "ttft": nan if result.ttft_s is None else result.ttft_s, "tpot": nan if result.tpot_s is None else result.tpot_s,
        "latency": result.latency_s, "throughput": result.throughput_tok_s, "energy": result.energy_j,
        "energy_per_token": result.energy_per_token_j, "power": result.average_power_w, "mfu": mfu(result, prepared.counted),
        "weights": needs.weights_bytes, "kv_cache": needs.kv_cache_bytes,
        **{f"utilisation.{unit}": share for unit, share in result.utilisation.items()},
        **{f"share.{kind}": share for kind, share in shares(result).items()},
    }


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
    generated = run.scenario.batch * run.decode.steps if run.decode is not None else 0
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
