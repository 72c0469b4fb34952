"""Claims run: claimed and simulated figures side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
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
from gemvane.workloads.ops import Rows
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec

from .page import Claim, Experiment, Page
from .value import UNITS, dimension, evaluate, figures_of, quantity, written

Figures = Callable[[str], float]
"""Name of a figure -> its value in SI units."""


@dataclass(frozen=True)
class Row:
    """One claim, run. Where it cannot be expressed there is the claimed text, but no simulated figure, ratio or number."""

    page: str
    id: str
    claim: str
    paper: str
    kind: str
    claimed: str
    simulated: str | None
    ratio: float | None
    """Simulated over claimed."""
    verdict: str
    """agrees, differs, or cannot be expressed."""
    reason: str
    """What counts as agreement and why; or why it cannot be expressed."""
    why: str | None
    """What explains a difference."""
    assumptions: list[str]
    unit: str | None = None
    """SI unit of the two numbers; empty for a ratio."""
    claimed_value: float | None = None
    simulated_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Prepared:
    """An experiment whose parts are loaded and checked."""

    hardware: Hardware
    rows: Rows | None = None
    spec: ModelSpec | None = None
    scenario: Scenario | None = None
    counted: ModelSpec | None = None


def run(pages: Sequence[Page], watch: Callable[[list[Any]], Iterable[Any]] = iter) -> list[Row]:
    """Every claim of the pages, in order. `watch` passes the claims on and may show how far it is.

    Everything is loaded and checked before the first is simulated: ValueError with file, line and key.
    """
    todo = [(page, name, _prepared(page, name, claim)) for page in pages for name, claim in page.spec.claims.items()]
    known: dict[str, Figures] = {}
    return [_row(page, name, prepared, known) for page, name, prepared in watch(todo)]


def _prepared(page: Page, name: str, claim: Claim) -> dict[str, _Prepared]:
    prepared = {key: _prepare(page, ("claims", name, "experiments", key), one) for key, one in claim.experiments.items()}
    for key, figure in figures_of(claim.value) if claim.value else ():
        if said := _absent(figure, prepared[key]):
            raise page.fault(("claims", name, "value"), f"{key}.{figure}: {said}")
    return prepared


def _absent(figure: str, prepared: _Prepared) -> str | None:
    """Why an experiment will not have a figure that its kind of experiment may have."""
    head, _, unit = figure.partition(".")
    if head == "utilisation" and unit not in prepared.hardware.spec.units:
        return f"{prepared.hardware.name} has units {', '.join(prepared.hardware.spec.units)}."
    scenario, spec = prepared.scenario, prepared.spec
    if scenario is None or spec is None:
        return None
    decodes = scenario.phase != "prefill" and not spec.encoder and (scenario.phase == "decode" or scenario.decode_steps > 0)
    if (head == "ttft" and scenario.phase == "decode") or (head == "tpot" and not decodes):
        return f"the scenario has no {'prefill' if head == 'ttft' else 'decode step'} (phase {scenario.phase}, output {scenario.output})."
    return None


def _prepare(page: Page, path: tuple[str, ...], experiment: Experiment) -> _Prepared:
    part = "hardware"
    try:
        hardware = load_hardware(experiment.hardware)
        part = "changes"
        hardware = hardware.replace(experiment.changes) if experiment.changes else hardware
        if experiment.kernel is not None:
            part = "kernel"
            for key in experiment.kernel:
                if key not in COLUMNS:
                    raise ValueError(f"unknown column {key!r}. Expected some of {', '.join(COLUMNS)}.")
            return _Prepared(hardware, rows_from_table({key: np.array([value]) for key, value in experiment.kernel.items()}))
        part = "model"
        spec = catalog.load(str(experiment.model))
        part = "scenario"
        known = [field.name for field in fields(Scenario)]
        for key in experiment.scenario:
            if key not in known:
                raise ValueError(f"unknown option {key!r}. Expected some of {', '.join(known)}.")
        scenario = Scenario(**experiment.scenario)
        lower.check(spec, scenario)
        memory.check(spec, scenario, hardware)
        part = "counted_as"
        counted = catalog.load(experiment.counted_as) if experiment.counted_as else spec
    except ValueError as error:
        raise page.fault((*path, part), error) from None
    return _Prepared(hardware, spec=spec, scenario=scenario, counted=counted)


def _row(page: Page, name: str, prepared: dict[str, _Prepared], known: dict[str, Figures]) -> Row:
    claim = page.spec.claims[name]
    head, tail = (page.name, name, claim.claim, page.spec.papers[claim.paper], claim.kind, claim.claimed), (claim.why, claim.assumptions)
    if claim.cannot is not None:
        return Row(*head, None, None, "cannot be expressed", claim.cannot, *tail)
    assert claim.value is not None and claim.within is not None

    def read(experiment: str, figure: str) -> float:
        key = claim.experiments[experiment].model_dump_json()
        if key not in known:
            try:
                known[key] = _figures(prepared[experiment])
            except ValueError as error:
                raise page.fault(("claims", name, "experiments", experiment), error) from None
        return known[key](figure)

    kinds = {key: "kernel" if one.rows is not None else "model" for key, one in prepared.items()}
    unit = dimension(claim.value, kinds)
    try:
        simulated = evaluate(claim.value, read)
    except ZeroDivisionError:
        raise page.fault(("claims", name, "value"), f"{claim.value!r} divides by zero.") from None
    claimed = quantity(claim.claimed, unit)
    ratio = simulated / claimed
    agrees = abs(ratio - 1) <= claim.within.share
    reason = f"within {100 * claim.within.share:.3g} %: {claim.within.because}"
    return Row(*head, written(simulated, unit, claim.claimed), ratio, "agrees" if agrees else "differs", reason, *tail,
               UNITS[unit][0], claimed, simulated)


def _figures(prepared: _Prepared) -> Figures:
    """The experiment, simulated."""
    if prepared.rows is not None:
        one = estimate_rows(prepared.rows, prepared.hardware)
        seconds, joules = float(one.latency_ps[0]) / 1e12, float(one.energy_pj[0]) / 1e12
        return {"latency": seconds, "energy": joules, "power": joules / seconds}.__getitem__
    assert prepared.spec is not None and prepared.scenario is not None and prepared.counted is not None
    result = Result(simulate(prepared.spec, prepared.scenario, prepared.hardware))
    counted = prepared.counted

    def figure(name: str) -> float:
        head, _, unit = name.partition(".")
        if head == "utilisation":
            return result.utilisation[unit]
        needs = result.run.memory
        value = {
            "ttft": result.ttft_s, "tpot": result.tpot_s, "latency": result.latency_s, "throughput": result.throughput_tok_s,
            "energy": result.energy_j, "energy_per_token": result.energy_per_token_j, "power": result.average_power_w,
            "mfu": mfu(result, counted), "weights": needs.weights_bytes, "kv_cache": needs.kv_cache_bytes,
        }[head]
        assert value is not None, name  # `_absent` has seen to it
        return value

    return figure


def mfu(result: Result, counted: ModelSpec) -> float:
    """Model FLOPs utilisation as Pope et al. (MLSys'23) count it: 2 x parameters x tokens / (time x peak of all devices).

    Parameters are those of `counted` that a token meets; tokens are all that went through the layers; attention is not counted.
    """
    run = result.run
    prompts = int(run.prefill.trace.requests.prompt.sum()) if run.prefill is not None else 0
    generated = run.scenario.batch * run.decode.steps if run.decode is not None else 0
    work = 2 * counted.active_parameters * (prompts + generated)
    return work / (result.latency_s * result.devices * peak_flops(run.hardware, run.scenario.dtype))


def peak_flops(hardware: Hardware, dtype: str) -> float:
    """Peak of the fastest unit that runs matmuls, in the type that stands in for `dtype` there."""
    peaks = []
    for name in choices(hardware)["matmul"]:
        unit = hardware.spec.units[name]
        if isinstance(unit, Gpu | Systolic | Cpu):
            table: Mapping[Any, int] = unit.tensor_peak if isinstance(unit, Gpu) else unit.peak
            peaks += [table[used] for used in (dtype, *FALLBACK[dtype]) if used in table][:1]
    return float(max(peaks))
