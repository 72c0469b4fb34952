"""The report of a validation: measured kernels against simulated ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gemvane import __version__
from gemvane.render import percent, plural
from gemvane.validate.compare import Compared, kinds_of

from .page import Chart, Page, Table
from .palette import BLUE, ORANGE, SYMBOLS, colours

MOST_POINTS = 6000
"""Drawn of all rows: of each kind of operator its share, evenly from the table."""
BANDS = (0.10, 0.25)
"""Of the lines beside the diagonal."""


def page(found: Compared, report: dict[str, Any], table: Path, command: str | None) -> Page:
    """The page of `validate.compare.predict`, and of the object that `gemvane validate compare --json` prints of it."""
    overall, floor = report["overall"], report["noise_floor"]
    tiles = [("mean error", percent(overall["mape"]), plural(report["rows"], "row")), ("median error", percent(overall["median"]), ""),
             ("90 % of rows", f"under {percent(overall['p90'])}", ""),
             ("bias", f"{100 * overall['bias']:+.1f} %", "above 0: simulated too slow"),
             ("a plain roofline", percent(report["baselines"]["roofline"]["mape"]), "mean error"),
             ("roofline, fitted to this table", percent(report["baselines"]["fitted_roofline"]["mape"]), "mean error")]
    if floor is not None:
        tiles.append(("noise floor", percent(floor["mape"]), "between two measurements of one shape"))
    facts = [("hardware", f"{report['hardware']} ({report['label']})"), ("table", table.name), ("simulated by", f"gemvane {__version__}")]
    if report["coverage80"] is not None:
        facts.append(("80 % band", f"holds {percent(report['coverage80'])} of the rows"))
    title, rows = f"{report['hardware']}: measured against simulated", f"{plural(report['rows'], 'measured kernel')} of {table.name}"
    return Page(title, rows, command, facts, tiles, [_scatter(found), _errors(report)])


def _scatter(found: Compared) -> Chart:
    kinds = np.array([text.split(" ")[0] for text in kinds_of(found.measured).tolist()])
    every = max(1, -(-kinds.size // MOST_POINTS))
    ends = [float(np.minimum(found.measured_us, found.predicted_us).min()), float(np.maximum(found.measured_us, found.predicted_us).max())]
    data: list[dict[str, Any]] = [_line("equal", ends, 1.0, "ink", "solid")]
    for band, dash in zip(BANDS, ("dash", "dot"), strict=True):
        data += [_line(f"{100 * band:.0f} % off", ends, 1 + sign * band, "quiet", dash) | {"showlegend": sign > 0} for sign in (1, -1)]
    names = sorted(set(kinds.tolist()))
    for (name, colour), i in zip(colours(names).items(), range(len(names)), strict=True):
        here = np.flatnonzero(kinds == name)[::every]
        data.append({"type": "scatter", "mode": "markers", "name": name, "x": found.measured_us[here].tolist(),
                     "y": found.predicted_us[here].tolist(), "marker": {"color": colour, "size": 5, "opacity": 0.6,
                                                                       "symbol": SYMBOLS[i % len(SYMBOLS)]},
                     "hovertemplate": "measured %{x:.4g} us, simulated %{y:.4g} us<extra>" + name + "</extra>"})
    layout = {"xaxis": {"type": "log", "title": {"text": "measured, us"}}, "yaxis": {"type": "log", "title": {"text": "simulated, us"}}}
    rows = [{"operator": kind, "measured_us": float(m), "simulated_us": float(p), "roofline_us": float(r), "error": float(p / m - 1)}
            for kind, m, p, r in zip(kinds.tolist(), found.measured_us, found.predicted_us, found.roofline_us, strict=True)][::every]
    cut = f" One of {every} rows is drawn." if every > 1 else ""
    says = f"A dot is a kernel. On the line the simulation is right; above it, too slow.{cut}"
    return Chart("scatter", "Measured against simulated", says,
                 Table.of(rows), {"data": data, "layout": layout}, 560)


def _line(name: str, ends: list[float], factor: float, colour: str, dash: str) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "name": name, "x": ends, "y": [factor * end for end in ends], "hoverinfo": "name",
            "line": {"color": colour, "width": 1, "dash": dash}}


def _errors(report: dict[str, Any]) -> Chart:
    rows = report["by"]
    labels = [" ".join(str(row[key]) for key in ("op", "dtype", "framework", "regime", "bound") if row.get(key)) for row in rows]
    data = [{"type": "bar", "orientation": "h", "name": name, "y": labels, "x": [100 * row[key] for row in rows],
             "marker": {"color": colour}} for name, key, colour in (("mean error", "mape", BLUE), ("bias", "bias", ORANGE))]
    layout = {"barmode": "group", "yaxis": {"autorange": "reversed"}, "xaxis": {"title": {"text": "% of the measured time"}}}
    return Chart("errors", "Errors by operator and regime", "Mean error, and bias (above 0: simulated too slow).", Table.of(rows),
                 {"data": data, "layout": layout}, 140 + 34 * len(rows))
