"""The report of one run."""

from __future__ import annotations

from gemvane import __version__
from gemvane.render import GLUE, band, bound, dtypes, model_line, number, percent, plural, scenario_line, trust
from gemvane.sim import rerun
from gemvane.sim.result import Result
from gemvane.sim.sensitivity import Sensitivity, sensitivity
from gemvane.sim.units import show

from . import charts
from .page import Page, Table
from .timeline import timelines


def page(result: Result, command: str | None = None, notices: list[str] | None = None) -> Page:
    """The page of a result. `command`: what was typed; `notices`: what must be known before anything else."""
    run = result.run
    found, without = _sensitivity(result)
    more = charts.sensitivity_charts(result, found) if found is not None else []
    every = [charts.roofline(result), charts.layer_chart(result), *charts.operator_charts(result), charts.unit_chart(result),
             *timelines(result), charts.energy_chart(result), *([] if run.spec.encoder else [charts.memory_chart(result)]), *more,
             charts.trust_chart(result), charts.provenance(result)]
    versions = rerun.versions()
    facts = [("model", model_line(run.spec, dtypes(run.scenario))), ("hardware", f"{run.hardware.name}: {run.hardware.spec.description}"),
             ("its numbers", trust(run.hardware)), ("scenario", scenario_line(run.scenario, run.spec)),
             ("configuration", f"sha256 {rerun.digest(run)}"),
             ("simulated by", ", ".join(f"{name} {version}" for name, version in versions.items()))]
    return Page(f"{run.spec.name} on {run.hardware.name}", scenario_line(run.scenario, run.spec), command, facts, _tiles(result), every,
                notices or [], _findings(result, found), [*result.warnings, *without],
                [("result.json", "application/json", result.to_json()), ("ops.csv", "text/csv", Table.of(result.ops_table()).csv),
                 ("hardware.yaml", "application/yaml", rerun.hardware_text(run.hardware))])


def _sensitivity(result: Result) -> tuple[Sensitivity | None, list[str]]:
    """What moves the result; or why that cannot be said."""
    try:
        return sensitivity(result.run), []
    except ValueError as error:
        return None, [f"no sensitivities: {error}"]


def _tiles(result: Result) -> list[tuple[str, str, str]]:
    run = result.run
    low, high = result.confidence.band
    tiles = []
    if result.ttft_s is not None:
        name = "latency" if run.spec.encoder else "time to first token"
        tiles.append((name, show(result.ttft_s, "s"), f"bound: {bound(result.bounds('prefill'), 1)}"))
    if result.tpot_s is not None:
        tiles.append(("time per output token", show(result.tpot_s, "s"), f"bound: {bound(result.bounds('decode'), 1)}"))
    tokens = f"{plural(result.tokens, 'token')} in {show(result.latency_s, 's')}"
    tiles += [("throughput", f"{number(result.throughput_tok_s)} tok/s", tokens),
              ("energy", f"{number(result.energy_per_token_j)} J/tok", f"{show(result.average_power_w, 'W')} on average"),
              ("memory", percent((run.memory.weights_bytes + run.memory.kv_cache_bytes) / run.memory.capacity_bytes),
               f"of {show(run.memory.capacity_bytes, 'B')} on each device"),
              ("real time expected", f"{low:.2f} to {high:.2f} x", result.confidence.label)]
    return tiles


def _findings(result: Result, found: Sensitivity | None) -> list[str]:
    """What a reader should take from the charts."""
    out = []
    for phase in result.run.phases:
        rows = sorted((row for row in result.ops_table() if row["phase"] == phase), key=lambda row: -row["time_s"])
        whole = sum(row["time_s"] for row in rows)
        top = ", ".join(f"{row['name']} ({row['unit']}, {row['bound']} bound) {percent(row['time_s'] / whole)}" for row in rows[:3])
        out.append(f"Most of the {phase} goes to {top}.")
    for figure, text in (("tpot_s", "TPOT"), ("ttft_s", "TTFT")):
        for effect in [] if found is None or figure not in _figures(result) else found.ranked(figure, 1):
            change = effect.more if effect.more is not None else effect.less
            assert change is not None
            value = effect.tried[1] if effect.more is not None else effect.tried[0]
            out.append(f"{effect.key} moves the {text} most: {value} instead of {effect.said} changes it by {100 * change[figure]:+.1f} %.")
    out.append(f"80 % of real runs are expected within {_band(result.confidence.band)} of these times ({result.confidence.label}); "
               f"energy within {_band(result.confidence.energy_band)}.")
    return out


def _band(bounds: tuple[float, float]) -> str:
    return band(bounds).replace(GLUE, " ")


def _figures(result: Result) -> list[str]:
    return [name for name, phase in (("ttft_s", "prefill"), ("tpot_s", "decode")) if phase in result.run.phases]


def changed(was: dict[str, object], result: Result, version: str | None) -> list[str]:
    """What to say first of a run that another version made, or that is no longer what it was."""
    out = []
    if version != __version__:
        made = f"gemvane {version}" if version else "an unknown version of gemvane"
        out.append(f"This run was made by {made}. For this report it was simulated again by gemvane {__version__}.")
    now = result.to_dict()
    told = [f"{name} was {show(float(str(was[key])), unit)}, is now {show(float(now[key]), unit)}"
            for name, key, unit in (("TTFT", "ttft_s", "s"), ("TPOT", "tpot_s", "s"), ("energy", "energy_j", "J"))
            if was.get(key) is not None and now[key] is not None and was[key] != now[key]]
    if told:
        out.append(f"The figures have changed since: {'; '.join(told)}.")
    elif out:
        out[-1] += " The figures are the same."
    return out
