"""Plots of a page of claims: series of values along an axis, beside the claimed figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan, prod
from typing import Any

from ..figure import COLOURS, axes, svg
from .bench import Bench
from .page import Page, Plot
from .question import Question, ask
from .value import quantity

MARKERS = "osD^vPX*"
BAR = 0.8
"""Share of a place on the x axis that its bars fill."""


@dataclass(frozen=True)
class Line:
    """One line of a panel: its label, the claimed figure, and a value (nan where there is none) for each label of the x axis."""

    panel: str
    label: str
    claimed: float | None
    values: list[float]


def check() -> None:
    """ValueError where nothing can be drawn."""
    with axes():
        pass


def prepare(page: Page, bench: Bench) -> None:
    """Load and check all that the plots of a page run. ValueError with file, line and key."""
    for name, plot in page.spec.plots.items():
        for *_, series, points in _asked(page, name):
            for point in points:
                point.prepare(bench)
                _scaled(page, name, plot.claimed.get(series, 0.0), point.unit)


def lines(page: Page, name: str, bench: Bench) -> list[Line]:
    """The lines of a plot, simulated, in the plot's unit. A point of which the page leaves out settings has no value: its mean would be
    that of other settings than its neighbours'."""
    plot = page.spec.plots[name]
    claimed, whole = plot.claimed, prod(len(_labels(page, plot, axis)) for axis in plot.over if axis not in (plot.x, plot.by, plot.panels))
    return [Line(panel, label, _scaled(page, name, claimed[series], points[0].unit) if series in claimed else None,
                 [_scaled(page, name, point.answer(bench), point.unit) if len(point.settings) == whole else nan for point in points])
            for panel, label, series, points in _asked(page, name)]


def _asked(page: Page, name: str) -> list[tuple[str, str, str, list[Question]]]:
    """Panel, label and series of each line, and what each of its points asks for."""
    plot = page.spec.plots[name]
    return [(panel, label, series, [_point(page, name, series, fixed, x) for x in _labels(page, plot, plot.x)])
            for panel in _labels(page, plot, plot.panels) for series in plot.series for label, fixed in _lines(plot, series, panel, page)]


def _labels(page: Page, plot: Plot, axis: str | None) -> list[str]:
    """The labels of an axis that the plot shows; one empty label for no axis."""
    if axis is None:
        return [""]
    chosen = plot.over[axis]
    return list(page.spec.axes.get(axis, {})) if chosen == "all" else list(chosen)


def _lines(plot: Plot, series: str, panel: str, page: Page) -> list[tuple[str, dict[str, str]]]:
    """Label of each line of a series, and the labels of the axes that it stands for."""
    fixed = {plot.panels: panel} if plot.panels else {}
    many = len(plot.series) > 1
    return [(", ".join(word for word in (series if many or plot.by is None else "", f"{plot.by} {label}" if plot.by else "") if word),
             fixed | ({plot.by: label} if plot.by else {})) for label in _labels(page, plot, plot.by)]


def _point(page: Page, name: str, series: str, fixed: dict[str, str], x: str) -> Question:
    plot, path = page.spec.plots[name], ("plots", name)
    over = {**plot.over, **{axis: [label] for axis, label in (fixed | {plot.x: x}).items()}}
    return ask(page, path, (*path, "series", series), plot.series[series], over, {})


def _scaled(page: Page, name: str, value: float | str, unit: str) -> float:
    """A value in SI units, or the text of a claimed one, in the unit of the plot."""
    plot = page.spec.plots[name]
    key = "unit"
    try:
        one = quantity(f"1 {plot.unit}", unit)
        key = "claimed"
        return (quantity(value, unit) if isinstance(value, str) else value) / one
    except ValueError as error:
        raise page.fault(("plots", name, key), error) from None


def draw(page: Page, name: str, found: Sequence[Line]) -> str:
    """The plot as SVG: lines where the x axis is of numbers, else bars; claimed figures dashed, in the colour of their line."""
    plot = page.spec.plots[name]
    places, panels = _labels(page, plot, plot.x), list(dict.fromkeys(line.panel for line in found))
    numbers = all(label.isdigit() for label in places)
    with axes(1, len(panels), width=max(5.0, 3.8 * len(panels)), height=3.8) as (figure, grid):
        for panel, here in zip(panels, grid[0], strict=True):
            mine = [line for line in found if line.panel == panel]
            for i, line in enumerate(mine):
                (_draw_line if numbers else _draw_bars)(here, line, i, len(mine))
                if line.claimed is not None:
                    here.axhline(line.claimed, color=COLOURS[i % len(COLOURS)], linestyle="--", linewidth=1, zorder=1)
            here.set_xticks(range(len(places)), places)
            here.set_xlim(-0.6, len(places) - 0.4)
            here.set_xlabel(plot.x)
            here.set_title(f"{plot.panels} {panel}" if panel else "", fontsize=9)
            shown = [0.0, *(v for line in found for v in (*line.values, line.claimed or 0.0) if not isnan(v))]
            here.set_ylim(1.08 * min(shown), 1.08 * max(shown))
        grid[0][0].set_ylabel(f"{plot.y} ({plot.unit})")
        handles, labels = grid[0][0].get_legend_handles_labels()
        if any(line.claimed is not None for line in found):
            handles.append(grid[0][0].plot([], [], color="0.4", linestyle="--", linewidth=1)[0])
            labels.append("claimed")
        figure.legend(handles, labels, loc="outside lower center", ncols=min(2 * len(panels), len(labels)), frameon=False)
        figure.suptitle(plot.title, fontsize=10)
        return svg(figure)


def _draw_line(here: Any, line: Line, i: int, count: int) -> None:
    here.plot(range(len(line.values)), line.values, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], markersize=4,
              label=line.label)


def _draw_bars(here: Any, line: Line, i: int, count: int) -> None:
    width = BAR / count
    here.bar([place + (i - (count - 1) / 2) * width for place in range(len(line.values))], line.values, width,
             color=COLOURS[i % len(COLOURS)], label=line.label)
