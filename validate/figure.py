"""Plots of the generated pages, as SVG text that is the same for the same numbers. Needs matplotlib (the extra `pages`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

# Okabe and Ito's palette, which the colour-blind can tell apart
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
STYLE: dict[str, Any] = {
    "svg.hashsalt": "gemvane",      # ids of the SVG that do not change from run to run
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "figure.constrained_layout.use": True,
}


@contextmanager
def axes(rows: int = 1, columns: int = 1, *, width: float = 7.0, height: float = 3.5) -> Iterator[tuple[Any, Any]]:
    """A matplotlib figure and its axes, (rows, columns), in the style of the pages; sizes in inches. ValueError without matplotlib."""
    try:
        from cycler import cycler
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plots need matplotlib: pip install 'gemvane[pages]'") from None
    style: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    with rc_context(style):
        figure = Figure(figsize=(width, height))
        yield figure, figure.subplots(rows, columns, squeeze=False)


def svg(figure: Any) -> str:
    """The figure as SVG text, without a date. Call it inside `axes`, whose style holds only there."""
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": "gemvane"})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"
