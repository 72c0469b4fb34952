"""Results as tables for people. Every number has its unit, in its cell or in the head of its column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from gemvane.sim import policies
from gemvane.sim.costs import CAUSES
from gemvane.sim.hardware import Hardware
from gemvane.sim.units import show
from gemvane.workloads.spec import ModelSpec

if TYPE_CHECKING:
    from gemvane.sim.result import Result
    from gemvane.sim.simulate import Phase
    from gemvane.workloads.transforms import Transform

TRUST = (
    ("measured or from data sheets", ("measured", "datasheet")),
    ("from papers or other tools", ("paper", "source", "second-hand")),
    ("derived", ("derived",)),
    ("guessed or from memory", ("guess", "memory")),
    ("chosen", ("policy",)),
    ("without a source", (None,)),
)
"""How the confidences of hardware files are told in one line."""


MOST_TRIED = 6
"""Schedules that the screen names."""
GLUE = "\ue000"
"""A space that is never broken; `output.show` prints it as a space. (rich would break a no-break space.)"""


def glued(text: str) -> str:
    """The text with each number held to what follows it, so that no line begins with a unit."""
    return re.sub(r"(?<=\d) (?=\S)", GLUE, text)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table. Columns in `right` hold numbers and are never broken."""
    out = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    right = set(right)
    for column in columns:
        out.add_column(column, justify="right" if column in right else "left", no_wrap=column in right, overflow="fold")
    return out


def facts(rows: Sequence[tuple[str, str]]) -> Table:
    """Lines of a name and what it is."""
    out = Table.grid(padding=(0, 2))
    out.add_column(style="bold", no_wrap=True)
    out.add_column(overflow="fold")
    for name, text in rows:
        out.add_row(name, glued(text))
    return out


def percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def number(value: float) -> str:
    """Three digits, grouped: 1,750 or 0.0553."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")
    return f"{rounded:,.{max(0, 2 - int(np.floor(np.log10(abs(rounded)))))}f}"


def plural(count: int, thing: str) -> str:
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def parameters(count: int) -> str:
    """8.03 B, 124 M: as people say it."""
    return f"{number(count / 1e9)} B" if count >= 999.5e6 else f"{number(count / 1e6)} M"


def model_line(spec: ModelSpec, dtype: str) -> str:
    active = f" ({parameters(spec.active_parameters)} active)" if spec.active_parameters != spec.parameters else ""
    size = f"{parameters(spec.parameters)} parameters{active}, {plural(len(spec.layers), 'layer')}"
    return f"{spec.name}: {size}, {spec.attention_label}, {dtype}"


def trust(hardware: Hardware) -> str:
    """"59 numbers: 40 measured or from data sheets, 12 derived, 7 guessed or from memory"."""
    found = [p.confidence for p in hardware.provenance.values()]
    parts = [(sum(c in members for c in found), text) for text, members in TRUST]
    return f"{plural(len(found), 'number')}: " + ", ".join(f"{count} {text}" for count, text in parts if count)


def dtypes(scenario: Any) -> str:
    others = [f"{what} {dtype}" for what, dtype in (("weights", scenario.weight_dtype), ("KV cache", scenario.kv_dtype))
              if dtype and dtype != scenario.dtype]
    if scenario.weight_sparsity != "dense":
        others.append(f"weights {scenario.weight_sparsity}")
    return str(scenario.dtype) + (f" ({', '.join(others)})" if others else "")


def scenario_line(scenario: Any, spec: ModelSpec, batch: str = "", prompt: str = "", output: str = "") -> str:
    """What is asked of the model, in one line; the texts stand in where several sizes or lengths are asked."""
    lengths = scenario.lengths
    if spec.input_tokens:
        prompt = f"one input of {spec.input_tokens:,} tokens a request"
    elif prompt:
        pass
    elif lengths.min() == lengths.max():
        prompt = f"prompt {lengths[0]:,} tokens"
    else:
        prompt = f"prompts of {lengths.min():,} to {lengths.max():,} tokens ({lengths.sum():,} in all)"
    output = "" if spec.encoder or scenario.phase == "prefill" else f", {output or 'output ' + plural(scenario.output, 'token')}"
    groups = (("tensor", scenario.tp), ("pipeline", scenario.pp), ("context", scenario.context))
    ways = [f"{kind} parallel {count}" for kind, count in groups if count > 1]
    spread = f", on {scenario.devices} devices ({', '.join(ways)})" if ways else ""
    only = {"prefill": ", prefill only", "decode": ", decode only", "both": ""}["prefill" if spec.encoder else scenario.phase]
    counted = [text for on, text in ((scenario.full_square, "full-square attention"), (scenario.all_logits, "all logits")) if on]
    if scenario.by_request:
        counted.insert(0, "attention shared out by requests")
    if any(hasattr(layer.ffn, "experts") for layer in spec.layers):
        counted.insert(0, f"{scenario.routing} routing")
    return ", ".join([f"batch {batch or scenario.batch}, {prompt}{output}{only}{spread}", *counted])


def run_screen(result: Result, where: str) -> list[Any]:
    """The screen of `gemvane run`: inputs, phases, totals, how sure. `where` says where the hardware came from."""
    run = result.run
    inputs = facts([
        ("model", model_line(run.spec, dtypes(run.scenario))),
        ("hardware", f"{run.hardware.name} ({where}): {run.hardware.spec.description}"),
        ("", trust(run.hardware)),
        ("scenario", scenario_line(run.scenario, run.spec)),
        *(("transform" if number == 0 else "", said(transform)) for number, transform in enumerate(run.transforms)),
    ])
    phases = table("", "latency", "whole phase", "energy", "bound by", "units busy", right=("latency", "whole phase", "energy"))
    for name in run.phases:
        phases.add_row(*map(glued, _phase_row(result, name)))
    totals = facts([*_units(result), *_pim(result), ("throughput", _throughput(result)), ("energy", _energy(result)),
                    ("memory", _memory(result)), ("uncertainty", _uncertainty(result))])
    units = ["", units_table(result)] if result.channels else []
    return [inputs, "", phases, *units, "", totals, *warning_lines(result.warnings)]


def said(transform: Transform) -> str:
    """What a transform changes and what it takes for given."""
    return f"{transform}: {transform.changes}" + (f" Assumed: {transform.assumes}" if transform.assumes else "")


def units_table(result: Result) -> Table:
    """Of each phase and unit: how long it works, its useful work over its peak, where its time and its energy go."""
    numbers = ("works", "of peak", "energy")
    out = table("phase", "unit", "works", "of peak", "where its time goes", "energy", "where its energy goes", right=numbers)
    for name, phase in result.run.phases.items():
        peaks, whole, first = result.shares_of_peak[name], max(1, phase.latency_ps) / 1e12, True
        for unit, seconds in result.time_by_cause_s[name].items():
            works = 1 - (seconds.get("idle", 0.0) + seconds.get("blocked", 0.0)) / whole
            if works < 0.0005:
                continue
            joules = result.energy_by_cause_j[name][unit]
            cells = (percent(works), percent(peaks[unit]) if unit in peaks else "", shares(seconds, 5), show(sum(joules.values()), "J"),
                     shares(joules, 3))
            out.add_row(name if first else "", unit, *map(glued, cells))
            first = False
        out.add_row("", "memory", "", glued(percent(peaks["memory"])), "", "", "", end_section=True)
    return out


def shares(parts: dict[str, float], most: int) -> str:
    """"row 41 %, dot_products 30 %": the largest of some parts."""
    whole = sum(parts.values())
    ordered = sorted(parts.items(), key=lambda item: -item[1])
    return bound({name.replace("_", " "): part / whole for name, part in ordered}, most) if whole else ""


def ops_screen(result: Result) -> list[Any]:
    """The table of `gemvane run --ops`: where the time of every operator goes, the operators of a phase longest first."""
    columns = ("phase", "operator", "unit", "count", "time", "share", "energy", "bound by", "where the time goes")
    out = table(*columns, right=("count", "time", "share", "energy"))
    rows = result.ops_table()
    for name in result.run.phases:
        of_phase = sorted((row for row in rows if row["phase"] == name), key=lambda row: -row["time_s"])
        whole = sum(row["time_s"] for row in of_phase)
        for row in of_phase:
            unit = f"{row['unit']} ({row['choice']})" if row["choice"] else row["unit"]
            out.add_row(name, row["name"], unit, f"{row['count']:,}", show(row["time_s"], "s"), percent(row["time_s"] / whole),
                        show(row["energy_j"], "J"), row["bound"], causes(row))
        out.add_section()
    return ["", out]


def run_detail(result: Result, seconds: float) -> list[Any]:
    """What `--verbose` adds: the policies in force, every part of the energy, what gemvane itself took."""
    kept = {name: value for name, value in policies.named(result.run.hardware).items() if value is not None}
    told = ", ".join(f"{name}={','.join(value) if isinstance(value, list | tuple) else value}" for name, value in kept.items())
    parts = sorted(result.energy_by_component_j.items(), key=lambda part: -part[1])
    energy = ", ".join(f"{name} {show(joules, 'J')}" for name, joules in parts if joules)
    rows = sum(phase.trace.rows.name.size for phase in result.run.phases.values())
    alone = sum(phase.duration_ps.shape[1] for phase in result.run.phases.values())
    took = f"{show(seconds, 's')} of gemvane's own time for {plural(rows, 'operator')}, of which {alone:,} differ"
    return ["", facts([("policies", told), ("energy", energy), ("took", took)])]


def causes(row: dict[str, Any], most: int = 3) -> str:
    """"memory 71 %, ideal 22 %, fill 4 %": where most of an operator's time goes."""
    shares = {name: row[f"{name}_s"] / row["time_s"] for name in CAUSES} if row["time_s"] else {}
    return bound(dict(sorted(shares.items(), key=lambda item: -item[1])), most)


def warning_lines(warnings: Iterable[str]) -> list[Text]:
    return [Text(f"warning: {text}", style="yellow") for text in warnings]


def _phase_row(result: Result, name: str) -> list[str]:
    phase = result.run.phases[name]
    if name == "prefill":
        label, latency = ("encode" if result.run.spec.encoder else "prefill (TTFT)"), result.ttft_s
        whole = show(latency or 0.0, "s")
        each = whole
    else:
        label = "decode  (TPOT)"
        each = f"{show(result.tpot_s or 0.0, 's')}/token"
        whole = f"{show(phase.latency_ps / 1e12, 's')} in {plural(phase.steps, 'step')}"
    units = list(result.run.hardware.spec.units)
    return [label, each, whole, show(result.energy_of(name), "J"), bound(result.bounds(name)), busy(phase, units)]


def bound(shares: dict[str, float], most: int = 2) -> str:
    """"memory 78 %, pim 18 %": what binds most of the working time."""
    named = [f"{name} {percent(share)}" for name, share in list(shares.items())[:most] if share >= 0.005]
    return ", ".join(named)


def busy(phase: Phase, units: list[str]) -> str:
    """Share of the phase in which each unit works, and in which more than one does."""
    stages = int(phase.trace.rows.stage.max()) + 1
    shares = phase.timeline.busy_ps(len(units) * stages).reshape(stages, len(units)).mean(axis=0) / max(1, phase.latency_ps)
    parts = [f"{unit} {percent(share)}" for unit, share in sorted(zip(units, shares.tolist(), strict=True), key=lambda u: -u[1]) if share]
    return ", ".join(parts)


def _units(result: Result) -> list[tuple[str, str]]:
    """A line for each phase in which units of a device work at once; one for the peaks; one for the schedule that was chosen."""
    units = list(result.run.hardware.spec.units)
    out = []
    for name, shared in result.overlap.items():
        if shared.fraction < 0.005:
            continue
        lost = {unit: ps / max(1, result.run.phases[name].latency_ps) for unit, ps in zip(units, shared.contention_ps, strict=True)}
        slowed = ", ".join(f"{unit} {percent(share)}" for unit, share in lost.items() if share >= 0.005)
        out.append((f"overlap in {name}", f"{percent(shared.fraction)} of the time"
                    + (f"; lost to other units at the memory: {slowed}" if slowed else "")))
        peaks = ", ".join(f"{unit} {percent(share)}" for unit, share in result.shares_of_peak[name].items() if share)
        out.append(("", f"of their peak: {peaks}"))
    return out + _chosen(result)


def _pim(result: Result) -> list[tuple[str, str]]:
    """How evenly PIM's channels work, and the area of a machine with PIM."""
    out = []
    for phase, units in result.channels.items():
        for unit, balance in units.items():
            if result.time_by_cause_s[phase][unit].get("idle", 0.0) > 0.995 * result.run.phases[phase].latency_ps / 1e12:
                continue
            pim = result.run.hardware.spec.units[unit]
            least = ", and no placement makes it less" if balance.least else ""
            out.append((f"channels in {phase}", f"the fullest of {getattr(pim, 'channels', 0)} of {unit} works "
                        f"{balance.fullest_over_mean:.2f} x the mean{least}"))
    whole, dram = result.area.get("chip_mm2"), result.area["dram_share"]
    parts = [f"about {whole:.0f} mm2 of arrays, lanes, SRAM and interfaces"] if whole is not None else []
    parts += [f"second row buffers add {100 * dram:.1f} % to the DRAM dies"] if dram else []
    return out + ([("area", "; ".join(parts))] if out and parts else [])


def _chosen(result: Result) -> list[tuple[str, str]]:
    """What `auto` chose, and of what."""
    tried, run = result.tried, result.run
    if not tried or run.decode is None:
        return []

    def named(sub_batches: int, placement: dict[str, str]) -> str:
        count = "one sub-batch" if sub_batches == 1 else f"{sub_batches} sub-batches"
        return ", ".join([count, *(f"{work} on {unit}" for work, unit in placement.items())])

    shown = tried if len(tried) <= MOST_TRIED else sorted(tried, key=lambda t: t["tpot_s"])[:MOST_TRIED]
    each = "; ".join(f"{named(t['sub_batches'], t['placement'])}: {show(t['tpot_s'], 's')}" for t in shown)
    more = f"; and {len(tried) - len(shown)} slower ones" if len(tried) > len(shown) else ""
    chosen = named(run.decode.sub_batches, result.placement.get("decode", {}))
    return [("schedule", f"{chosen}, the fastest of: {each}{more}"), *_why(result)]


def _why(result: Result) -> list[tuple[str, str]]:
    """Where a class of operators had a choice of units: what they take there in a step, alone."""
    out = []
    for phase, picked in result.why.items():
        for work, times in picked.items():
            on = result.placement[phase][work]
            others = " and ".join(f"{show(seconds, 's')} on {unit}" for unit, seconds in times.items() if unit != on)
            out.append(f"{phase}: {work} {show(times[on], 's')} a step on {on}, against {others}" if others else "")
    said = [text for text in out if text]
    return [("", "; ".join(said))] if said else []


def _throughput(result: Result) -> str:
    spec, scenario = result.run.spec, result.run.scenario
    what = "input tokens" if spec.input_tokens else "tokens"
    side = " in" if spec.encoder or scenario.phase == "prefill" else ""
    requests = f", {number(scenario.batch / result.latency_s)} requests/s"
    return f"{number(result.throughput_tok_s)} {what}/s{side}{requests}; the whole batch takes {show(result.latency_s, 's')}"


def _energy(result: Result) -> str:
    all_devices = "" if result.devices == 1 else f" over {result.devices} devices"
    parts: dict[str, float] = {}
    for name, joules in result.energy_by_component_j.items():
        part = "DRAM" if name.startswith("dram_") else name
        parts[part] = parts.get(part, 0.0) + joules
    largest = sorted(parts.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{name} {percent(joules / result.energy_j)}" for name, joules in largest)
    return (f"{show(result.energy_j, 'J')}{all_devices} ({shares}), {show(result.energy_per_token_j, 'J')}/token, "
            f"{show(result.average_power_w, 'W')} on average")


def _memory(result: Result) -> str:
    memory = result.run.memory
    used = memory.weights_bytes + memory.kv_cache_bytes
    share = "" if result.devices == 1 else " on each device"
    cache = f" + KV cache {show(memory.kv_cache_bytes, 'B')}" if memory.kv_cache_bytes else ""
    part = percent(used / memory.capacity_bytes)
    return f"weights {show(memory.weights_bytes, 'B')}{cache} of {show(memory.capacity_bytes, 'B')}{share} ({part})"


def band(bounds: tuple[float, float]) -> str:
    """"-21 % .. +63 %": from the simulated figure to the real one."""
    low, high = bounds
    return f"{100 * (low - 1):+.0f} % .. {100 * (high - 1):+.0f} %".replace(" ", GLUE)


def _uncertainty(result: Result) -> str:
    sure = result.confidence
    return (f"{sure.label}: real time {band(sure.band)}, real energy {band(sure.energy_band)} of these figures, "
            f"in 80 % of cases ({sure.source})")
