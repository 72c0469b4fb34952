"""When each unit works: a step of each phase, with the channels of PIM."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gemvane.sim import breakdown
from gemvane.sim.costs import Int64s
from gemvane.sim.pimschema import Pim
from gemvane.sim.result import Result
from gemvane.sim.simulate import Phase

from .page import Chart, Table
from .palette import SERIES

MOST_OPERATORS = 1500
"""Shown of a step: the first ones."""
MOST_BARS = 1200
"""Of channels: the first operators of PIM that stay below."""
LAYERS = 3
"""Layers that are in sight at first; the rest is there to be scrolled or zoomed to."""

LEAST_SHARE = 0.02
"""Of a phase that PIM must work before its channels are shown."""


class Shown(NamedTuple):
    """The operators of a step that a chart shows, by their start."""

    step: int
    rows: Int64s
    start_us: Any
    end_us: Any


def timelines(result: Result) -> list[Chart]:
    """A chart for each phase."""
    return [_timeline(result, name, phase) for name, phase in result.run.phases.items()]


def _timeline(result: Result, name: str, phase: Phase) -> Chart:
    shown = _shown(phase)
    names = list(result.run.hardware.spec.units)
    stage, unit = phase.trace.rows.stage[shown.rows], phase.unit[shown.rows]
    several = int(phase.trace.rows.stage.max()) > 0
    lanes = np.array([f"{names[u]}.{s}" if several else names[u] for u, s in zip(unit.tolist(), stage.tolist(), strict=True)], object)
    used = list(dict.fromkeys(sorted(lanes.tolist(), key=lambda lane: (names.index(lane.split(".")[0]), lane))))
    data = [_bars(phase, shown, lanes, s) for s in range(phase.sub_batches)]
    channels = _channels(result, phase, shown)
    first = np.isin(phase.trace.rows.layer[shown.rows], np.arange(LAYERS))
    sight = float(shown.end_us[first].max()) if first.any() else float(shown.end_us.max())
    layout: dict[str, Any] = {
        "barmode": "overlay", "bargap": 0.15, "xaxis": {"title": {"text": "us"}, "range": [0, sight], "anchor": "y2" if channels else "y"},
        "yaxis": {"categoryorder": "array", "categoryarray": used[::-1], "domain": [0.62, 1] if channels else [0, 1]}}
    if channels:
        layout["yaxis2"] = {"title": {"text": "PIM channel"}, "domain": [0, 0.56], "autorange": "reversed", "dtick": 8}
    trace = phase.trace
    columns = (shown.rows.tolist(), lanes.tolist(), shown.start_us.tolist(), shown.end_us.tolist())
    rows = [{"step": shown.step, "operator": trace.names[trace.rows.name[row]], "layer": int(trace.rows.layer[row]), "unit": lane,
             "sub-batch": int(trace.rows.sub_batch[row]), "start_us": start, "end_us": end}
            for row, lane, start, end in zip(*columns, strict=True)]
    fraction = result.overlap[name].fraction
    what = "The prefill" if name == "prefill" else f"Decode step {shown.step + 1} of {phase.steps}"
    parts = f"; a colour is one of {phase.sub_batches} sub-batches" if phase.sub_batches > 1 else ""
    cut = f" The first {shown.rows.size} of {trace.size} operators." if shown.rows.size < trace.size else ""
    says = (f"{what}{parts}. At least two units work at once in {100 * fraction:.0f} % of the {name}. The first {LAYERS} layers are in "
            f"sight; double-click for the whole.{cut} trace.json.gz in the folder of the run shows more in ui.perfetto.dev.")
    return Chart(f"timeline-{name}", f"Timeline of the {name}", says, Table.of(rows), {"data": data + channels, "layout": layout},
                 150 + 40 * len(used) + (300 if channels else 0))


def _shown(phase: Phase) -> Shown:
    """The first operators of the second step (the first where there is one), from when the step begins."""
    step, size = min(1, phase.steps - 1), phase.trace.size
    whole = slice(step * size, (step + 1) * size)
    start, end = phase.timeline.start_ps[whole], phase.timeline.end_ps[whole]
    rows = np.argsort(start, kind="stable")[:MOST_OPERATORS]
    began = int(start.min())
    return Shown(step, rows, (start[rows] - began) / 1e6, (end[rows] - began) / 1e6)


def _bars(phase: Phase, shown: Shown, lanes: Any, sub_batch: int) -> dict[str, Any]:
    trace = phase.trace
    here = np.flatnonzero((trace.rows.sub_batch[shown.rows] == sub_batch) & (shown.end_us > shown.start_us))
    rows = shown.rows[here]
    texts = [f"{trace.names[name]}, layer {layer}"
             for name, layer in zip(trace.rows.name[rows].tolist(), trace.rows.layer[rows].tolist(), strict=True)]
    label = f"sub-batch {sub_batch + 1}" if phase.sub_batches > 1 else "operators"
    return {"type": "bar", "orientation": "h", "name": label, "y": lanes[here].tolist(), "base": shown.start_us[here].tolist(),
            "x": (shown.end_us - shown.start_us)[here].tolist(), "hovertext": texts,
            "hovertemplate": "%{hovertext}: %{x:.3g} us<extra></extra>", "showlegend": phase.sub_batches > 1,
            "marker": {"color": SERIES[sub_batch % len(SERIES)], "line": {"width": 0.5, "color": "paper"}}}


def _channels(result: Result, phase: Phase, shown: Shown) -> list[dict[str, Any]]:
    """How long each channel of a PIM unit works of the operators that it shares."""
    out = []
    for u, unit in enumerate(result.run.hardware.spec.units.values()):
        if not isinstance(unit, Pim) or _share(phase, u) < LEAST_SHARE:
            continue
        of_step, shares = breakdown.channel_shares(phase, result.run.hardware, u, shown.step + 1)
        place = {row: at for at, row in enumerate(of_step.tolist())}
        for sub_batch in range(phase.sub_batches):
            base: list[float] = []
            length: list[float] = []
            lane: list[int] = []
            for row, start, end in zip(shown.rows.tolist(), shown.start_us.tolist(), shown.end_us.tolist(), strict=True):
                if row not in place or phase.trace.rows.sub_batch[row] != sub_batch or len(base) >= MOST_BARS // phase.sub_batches:
                    continue
                worked = shares[shown.step, place[row]] * (end - start)
                busy = np.flatnonzero(worked)
                base += [start] * busy.size
                length += worked[busy].tolist()
                lane += busy.tolist()
            out.append({"type": "bar", "orientation": "h", "y": lane, "base": base, "x": length, "yaxis": "y2", "width": 0.9,
                        "marker": {"color": SERIES[sub_batch % len(SERIES)]}, "showlegend": False, "name": f"sub-batch {sub_batch + 1}",
                        "hovertemplate": "channel %{y}: %{x:.3g} us<extra></extra>"})
    return out


def _share(phase: Phase, unit: int) -> float:
    """Part of a phase in which a unit works."""
    return float(phase.alone_ps[np.tile(phase.unit == unit, phase.steps)].sum()) / max(1, phase.latency_ps)
