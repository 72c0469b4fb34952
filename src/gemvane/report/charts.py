"""The charts of one run: each takes a Result and gives a Chart with its table."""

from __future__ import annotations

from typing import Any

from gemvane.sim.confidence import kernel_bands
from gemvane.sim.result import Result
from gemvane.sim.sensitivity import Sensitivity
from gemvane.sim.units import show

from . import measure
from .page import Chart, Table
from .palette import BLUE, CAUSE_GROUPS, ENERGY_GROUPS, GREY, ORANGE, RED, SYMBOLS, WAITS, colours, grouped, stacked

MOST_OPERATORS = 12
MOST_NUMBERS = 10
LOG = {"type": "log", "exponentformat": "SI", "dtick": 1}
STACKS = {name: colour for name, (colour, _) in CAUSE_GROUPS.items()} | {"slowed by others": WAITS["slowed by others"]}


def roofline(result: Result) -> Chart:
    """Operations a second over operations a byte: a dot an operator, under the ceilings of units and memories."""
    run = result.run
    found, tops = measure.operators(run), measure.ceilings(run.hardware, run.scenario.dtype)
    intensity = [operator.flops / max(operator.bytes, 1) for operator in found] or [1.0]
    low, high = min(intensity) / 4, max([*intensity, *(c.top / c.rate for c in tops if c.kind == "bandwidth")]) * 4
    data = [_ceiling(top, low, high) for top in tops]
    whole = {phase: sum(o.seconds for o in found if o.phase == phase) for phase in run.phases}
    units = colours(list(run.hardware.spec.units))
    for phase, symbol in zip(run.phases, SYMBOLS, strict=False):
        for unit, colour in units.items():
            here = [o for o in found if (o.phase, o.unit) == (phase, unit)]
            if here:
                data.append(_dots(f"{unit}, {phase}", here, whole[phase], colour, symbol))
    rows = [{"phase": o.phase, "operator": o.name, "unit": o.unit, "share of phase": o.seconds / whole[o.phase], "time_s": o.seconds,
             "flop": o.flops, "bytes": o.bytes, "flop/byte": o.flops / max(o.bytes, 1), "flop/s": o.flops / o.seconds} for o in found]
    layout = {"xaxis": {**LOG, "title": {"text": "operations a byte of operands"}}, "margin": {"t": 10, "b": 45},
              "yaxis": {**LOG, "title": {"text": "operations a second"}}}
    return Chart("roofline", "Roofline", "Each dot is an operator, all layers together, in the prefill or a step of mean length; its area "
                 "is its share of the phase. Lines are what the hardware could do at most. A dot over the line of the main memory has "
                 "operands that were on the chip, or in the DRAM beside its units.", Table.of(rows), {"data": data, "layout": layout}, 560)


def _ceiling(ceiling: measure.Ceiling, low: float, high: float) -> dict[str, Any]:
    slope = ceiling.kind == "bandwidth"
    xs = [low, ceiling.top / ceiling.rate] if slope else [low, high]
    xs = [min(xs), max(xs)]
    ys = [min(ceiling.rate * x, ceiling.top) for x in xs] if slope else [ceiling.rate, ceiling.rate]
    text = f"{ceiling.name}: {show(ceiling.rate, 'B/s' if slope else 'OP/s')}"
    main = ceiling.name.endswith("main memory")
    return {"type": "scatter", "mode": "lines", "name": text, "x": xs, "y": ys, "hoverinfo": "name",
            "line": {"color": "ink" if main else GREY, "width": 2.5 if main else 1.5, "dash": "solid" if slope else "dash"}}


def _dots(name: str, found: list[measure.Operator], whole: float, colour: str, symbol: str) -> dict[str, Any]:
    texts = [f"{o.name}: {show(o.seconds, 's')}, {100 * o.seconds / whole:.1f} % of the {o.phase}<br>"
             f"{show(o.flops / o.seconds, 'OP/s')} at {o.flops / max(o.bytes, 1):.3g} OP/B" for o in found]
    return {"type": "scatter", "mode": "markers", "name": name, "x": [o.flops / max(o.bytes, 1) for o in found],
            "y": [o.flops / o.seconds for o in found], "hovertext": texts, "hovertemplate": "%{hovertext}<extra>" + name + "</extra>",
            "marker": {"color": colour, "symbol": symbol, "opacity": 0.8, "line": {"width": 1, "color": "paper"}, "sizemode": "area",
                       "sizemin": 3, "sizeref": 1 / 900, "size": [o.seconds / whole for o in found]}}


def layer_chart(result: Result) -> Chart:
    """Time of the layers, those that are alike in one bar, stacked by cause."""
    found = measure.layers(result.run)
    whole: dict[str, float] = {}
    for one in found:
        whole[one.phase] = whole.get(one.phase, 0.0) + one.times * sum(one.causes_s.values())
    labels, shares, hover, rows = [], [], [], []
    for one in found:
        parts = grouped(one.causes_s, CAUSE_GROUPS) | {"slowed by others": one.causes_s["contention"]}
        labels.append(f"{one.phase}<br>{one.label}")
        shares.append({name: 100 * one.times * s / whole[one.phase] for name, s in parts.items()})
        hover.append([f"{one.label}: {show(parts[name], 's')} each" for name in STACKS])
        rows.append({"phase": one.phase, "layers": one.label, "count": one.times, "time_s of one": sum(one.causes_s.values()),
                     **{f"{cause}_s": s for cause, s in one.causes_s.items()}})
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "% of the working time of the phase"}}, "yaxis": {"autorange": "reversed"}}
    return Chart("layers", "Time by layer", "Working time of the layers, by what it goes to; layers that take the same time for the same "
                 "reasons share a bar. Where units work at once, their times add up to more than the phase lasts.",
                 Table.of(rows), {"data": stacked(labels, shares, STACKS, hover), "layout": layout}, 170 + 55 * len(labels))


def operator_charts(result: Result) -> list[Chart]:
    """For each phase: its longest operators, stacked by cause."""
    every = result.ops_table()
    return [_operators(phase, sorted((row for row in every if row["phase"] == phase), key=lambda row: -row["time_s"]))
            for phase in result.run.phases]


def _operators(phase: str, rows: list[dict[str, Any]]) -> Chart:
    whole = sum(row["time_s"] for row in rows)
    top = rows[:MOST_OPERATORS]
    shares, hover = [], []
    for row in top:
        parts = grouped({key.removesuffix("_s"): value for key, value in row.items() if key.endswith("_s")}, CAUSE_GROUPS)
        shares.append({name: 100 * s / whole for name, s in parts.items()})
        hover.append([f"{row['name']} on {row['unit']}: {show(s, 's')}" for s in parts.values()])
    groups = {name: colour for name, (colour, _) in CAUSE_GROUPS.items()}
    labels = [f"{row['name']} ({row['unit']})" for row in top]
    layout = {"barmode": "stack", "yaxis": {"autorange": "reversed"}, "xaxis": {"title": {"text": f"% of the working time of the {phase}"}}}
    longest = top[0]
    share = 100 * longest["time_s"] / whole
    says = (f"The longest is {longest['name']} on {longest['unit']}: {share:.0f} % of the {phase}'s working time, "
            f"mostly bound by {longest['bound']}. `gemvane explain` says why any of them takes its time.")
    return Chart(f"operators-{phase}", f"Operators of the {phase}", says, Table.of(rows),
                 {"data": stacked(labels, shares, groups, hover), "layout": layout}, 170 + 26 * len(top))


def unit_chart(result: Result) -> Chart:
    """What each unit does all the time of a phase: work by cause, and waits."""
    labels, shares, hover, rows = [], [], [], []
    names = STACKS | {"blocked": WAITS["blocked"], "idle": WAITS["idle"]}
    for phase, units in result.time_by_cause_s.items():
        for unit, causes in units.items():
            whole = sum(causes.values())
            if causes.get("idle", 0.0) > 0.9995 * whole:
                continue
            parts = grouped(causes, CAUSE_GROUPS) | {"slowed by others": causes.get("contention", 0.0)}
            parts |= {wait: causes.get(wait, 0.0) for wait in ("blocked", "idle")}
            labels.append(f"{phase}: {unit}")
            shares.append({name: 100 * s / whole for name, s in parts.items()})
            hover.append([f"{unit}: {show(parts[name], 's')}" for name in names])
            rows.append({"phase": phase, "unit": unit, **{f"{name}_s": s for name, s in parts.items()}})
    said = [f"{100 * shared.fraction:.0f} % of the {phase}" for phase, shared in result.overlap.items()]
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "% of the phase"}, "range": [0, 100]}, "yaxis": {"autorange": "reversed"}}
    return Chart("units", "What each unit does", f"Work, and waiting, of every unit that works. At least two units work at once in "
                 f"{' and '.join(said)}.", Table.of(rows), {"data": stacked(labels, shares, names, hover), "layout": layout},
                 170 + 34 * len(labels))


def energy_chart(result: Result) -> Chart:
    """Joules of each phase by component."""
    found = measure.energy_by_phase_j(result.run)
    parts = {phase: grouped(components, ENERGY_GROUPS) for phase, components in found.items()}
    hover = [[f"{phase}: {show(joules, 'J')}" for joules in each.values()] for phase, each in parts.items()]
    groups = {name: colour for name, (colour, _) in ENERGY_GROUPS.items()}
    labels = [f"{phase}<br>{show(sum(each.values()), 'J')}" for phase, each in found.items()]
    rows = [{"phase": phase, "component": name, "energy_j": joules} for phase, each in found.items() for name, joules in each.items()]
    layout = {"barmode": "stack", "xaxis": {"title": {"text": "J, all devices"}}, "yaxis": {"autorange": "reversed"}}
    figure = {"data": stacked(labels, list(parts.values()), groups, hover), "layout": layout}
    return Chart("energy", "Energy", "Joules of each phase by what uses them: counts of actions times their prices, and static power times "
                 "the length of the phase.", Table.of(rows), figure, 190 + 55 * len(labels))


def memory_chart(result: Result) -> Chart:
    """Weights and cache on one device against what it has, while tokens are generated."""
    run, used = result.run, result.run.memory
    line = measure.cache_line(run)
    tokens, cache = [count for count, _ in line], [size / 1e9 for _, size in line]
    weights = used.weights_bytes / 1e9
    apart = used.capacity_bytes > used.weights_room_bytes
    full = (used.kv_room_bytes if apart else used.capacity_bytes) / 1e9
    area = {"type": "scatter", "mode": "lines", "stackgroup": "one", "hovertemplate": "%{y:.3g} GB after %{x} tokens"}
    data: list[dict[str, Any]] = [] if apart else [
        {**area, "name": "weights", "x": tokens, "y": [weights] * len(tokens), "line": {"color": GREY, "width": 0}}]
    data += [{**area, "name": "KV cache", "x": tokens, "y": cache, "line": {"color": ORANGE, "width": 1}},
             {"type": "scatter", "mode": "lines", "name": f"{'memory of the cache' if apart else 'capacity'}: {show(full * 1e9, 'B')}",
              "x": [tokens[0], tokens[-1]], "y": [full, full], "line": {"color": RED, "width": 2, "dash": "dash"}, "hoverinfo": "name"},
             {"type": "scatter", "mode": "lines", "name": f"asked for: {run.scenario.output:,} tokens", "x": [run.scenario.output] * 2,
              "y": [0, full], "line": {"color": "quiet", "width": 1.5, "dash": "dot"}, "hoverinfo": "name"}]
    rows = [{"generated tokens": count, "weights_bytes": used.weights_bytes, "kv_cache_bytes": size,
             "capacity_bytes": used.capacity_bytes} for count, size in line]
    layout = {"xaxis": {"title": {"text": "generated tokens of each request"}},
              "yaxis": {"title": {"text": "GB on a device"}, "rangemode": "tozero"}}
    says = (f"{show(used.weights_bytes, 'B')} of weights and, in the end, {show(used.kv_cache_bytes, 'B')} of cache, of "
            f"{show(used.capacity_bytes, 'B')} on each device." + (" The cache has a memory of its own." if apart else ""))
    return Chart("memory", "Memory and KV cache", says, Table.of(rows), {"data": data, "layout": layout}, 380)


FIGURES = {"tpot_s": "TPOT", "ttft_s": "TTFT", "decode_energy_j": "decode energy", "prefill_energy_j": "prefill energy"}


def sensitivity_charts(result: Result, found: Sensitivity) -> list[Chart]:
    """Which numbers of the hardware move TPOT, and TTFT, most."""
    return [_tornado(found, name) for name, phase in (("tpot_s", "decode"), ("ttft_s", "prefill")) if phase in result.run.phases]


def _tornado(found: Sensitivity, name: str) -> Chart:
    effects, text = found.ranked(name, MOST_NUMBERS), FIGURES[name]
    rows = [{"number": e.key, "value": e.said, "less": e.tried[0], "more": e.tried[1]}
            | {f"{FIGURES[figure]}, {way}": None if change is None else change.get(figure)
               for figure in FIGURES for way, change in (("less", e.less), ("more", e.more))} for e in found.effects]
    labels = [f"{effect.key}<br>{effect.said}" for effect in effects]
    data = [{"type": "bar", "orientation": "h", "name": way, "y": labels, "marker": {"color": colour},
             "x": [None if change is None else 100 * change[name] for change in changes],
             "hovertemplate": "%{x:.2f} %<extra>%{y}</extra>"}
            for way, changes, colour in (("10 % less", [e.less for e in effects], ORANGE), ("10 % more", [e.more for e in effects], BLUE))]
    layout = {"barmode": "overlay", "yaxis": {"autorange": "reversed"},
              "xaxis": {"title": {"text": f"change of the {text}, %"}, "zeroline": True, "zerolinecolor": "ink"}}
    most = f"{effects[0].key} moves it most." if effects else "None moves it."
    figure = {"data": data, "layout": layout} if effects else None
    says = (f"{most} Each number of the hardware 10 % less and 10 % more, one at a time, simulated again (prefill and middle decode "
            "step). Counts change to the nearest whole number; what cannot change by 10 % is left out.")
    return Chart(f"sensitivity-{text.lower()}", f"What moves the {text}", says, Table.of(rows), figure, 120 + 34 * len(labels))


def trust_chart(result: Result) -> Chart:
    """How far real kernels are expected from simulated ones, by class of work."""
    label, bands = kernel_bands(result.run.hardware)
    rows: list[dict[str, Any]] = [{"kernels": name, "low": low, "high": high} for name, (low, high) in sorted(bands.items())]
    low, high = result.confidence.band
    rows.append({"kernels": "this run", "low": low, "high": high})
    capped = 4.0
    data = [{"type": "scatter", "mode": "lines+markers", "name": row["kernels"], "x": [row["low"], min(row["high"], capped)],
             "y": [row["kernels"]] * 2, "showlegend": False, "hovertemplate": "%{x:.3g} x<extra>%{y}</extra>",
             "line": {"color": RED if row["kernels"] == "this run" else BLUE, "width": 6}, "marker": {"size": 9}} for row in rows]
    data.append({"type": "scatter", "mode": "lines", "name": "simulated", "x": [1, 1], "y": [rows[0]["kernels"], "this run"],
                 "line": {"color": "ink", "width": 1, "dash": "dot"}, "hoverinfo": "name", "showlegend": False})
    layout = {"xaxis": {"title": {"text": "real time over simulated time, in 80 % of cases"}, "rangemode": "tozero"},
              "margin": {"t": 10, "b": 45}}
    return Chart("trust", "How sure", f"{label}. {_first_up(result.confidence.source)}.", Table.of(rows), {"data": data, "layout": layout},
                 120 + 30 * len(rows))


def _first_up(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".")


def provenance(result: Result) -> Chart:
    """Every number of the hardware and where it comes from, without a picture."""
    rows = measure.hardware_rows(result.run.hardware)
    unsure = [row["number"] for row in rows if row["how it is known"] in ("guess", "memory", "")]
    says = (f"{len(unsure)} of {len(rows)} numbers are guessed, from memory or without a source: {', '.join(unsure)}."
            if unsure else f"All {len(rows)} numbers have a source.")
    return Chart("hardware", "Where the hardware's numbers come from", says, Table.of(rows))
