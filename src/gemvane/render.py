"""Results as tables for people. Every number has its unit, in its cell or in the head of its column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from gemvane.sim.costs import CAUSES
from gemvane.sim.hardware import Hardware
from gemvane.sim.units import show
from gemvane.workloads.spec import ModelSpec

if TYPE_CHECKING:
    from gemvane.sim.result import Result
    from gemvane.sim.simulate import Phase

TRUST = (
    ("measured or from data sheets", ("measured", "datasheet")),
    ("from papers or other tools", ("paper", "source", "second-hand")),
    ("derived", ("derived",)),
    ("guessed or from memory", ("guess", "memory")),
    ("chosen", ("policy",)),
    ("without a source", (None,)),
)
"""How the confidences of hardware files are told in one line."""


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


def scenario_line(scenario: Any, spec: ModelSpec, batch: str | None = None) -> str:
    """What is asked of the model, in one line."""
    lengths = scenario.lengths
    if spec.patches is not None:
        prompt = f"one image of {spec.patches.tokens} tokens a request"
    elif lengths.min() == lengths.max():
        prompt = f"prompt {lengths[0]:,} tokens"
    else:
        prompt = f"prompts of {lengths.min():,} to {lengths.max():,} tokens ({lengths.sum():,} in all)"
    output = "" if spec.encoder or scenario.phase == "prefill" else f", output {plural(scenario.output, 'token')}"
    devices = scenario.tp * scenario.pp
    ways = [f"{kind} parallel {count}" for kind, count in (("tensor", scenario.tp), ("pipeline", scenario.pp)) if count > 1]
    spread = f", on {devices} devices ({', '.join(ways)})" if ways else ""
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
    ])
    phases = table("", "latency", "whole phase", "energy", "bound by", "units busy", right=("latency", "whole phase", "energy"))
    for name in run.phases:
        phases.add_row(*map(glued, _phase_row(result, name)))
    totals = facts([*_units(result), ("throughput", _throughput(result)), ("energy", _energy(result)), ("memory", _memory(result)),
                    ("uncertainty", _uncertainty(result))])
    return [inputs, "", phases, "", totals, *warning_lines(result.warnings)]


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


def _chosen(result: Result) -> list[tuple[str, str]]:
    """What `auto` chose, and of what."""
    tried, run = result.tried, result.run
    if not tried or run.decode is None:
        return []

    def named(sub_batches: int, placement: dict[str, str]) -> str:
        count = "one sub-batch" if sub_batches == 1 else f"{sub_batches} sub-batches"
        return ", ".join([count, *(f"{work} on {unit}" for work, unit in placement.items())])

    each = "; ".join(f"{named(t['sub_batches'], t['placement'])}: {show(t['tpot_s'], 's')}" for t in tried)
    return [("schedule", f"{named(run.decode.sub_batches, result.placement.get('decode', {}))}, the fastest of: {each}")]


def _throughput(result: Result) -> str:
    spec, scenario = result.run.spec, result.run.scenario
    what = "image tokens" if spec.patches is not None else "tokens"
    side = " in" if spec.encoder or scenario.phase == "prefill" else ""
    requests = f", {number(scenario.batch / result.latency_s)} {'images' if spec.patches is not None else 'requests'}/s"
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
