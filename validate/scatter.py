"""Measured kernels against predicted ones as a plot: both in us on logarithmic axes, one colour a kind of operator or a framework."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import figure
from .compare import Compared

POINTS = 20_000
"""Shown of each colour in a panel, evenly from the table."""
DPI = 110
"""Of the points, which are drawn as one picture: as shapes they would be megabytes."""
FACTORS = (0.8, 1.25)
"""Dotted lines beside the diagonal."""


def svg(found: Compared) -> str:
    """The rows of one comparison as SVG text, one colour an operator. ValueError where matplotlib is missing."""
    return grid([(found.hardware.name, found)], "op")


def grid(panels: Sequence[tuple[str, Compared]], by: str) -> str:
    """Several comparisons side by side, as SVG text: (title, rows) each, one colour a first word of the table's column `by`.

    ValueError where matplotlib is missing.
    """
    with figure.axes(1, len(panels), width=max(4.2, 3.2 * len(panels)), height=3.6) as (drawn, axes):
        drawn.set_dpi(DPI)
        labels = sorted({label for _, found in panels for label in _labels(found, by).tolist()})
        colours = {label: figure.COLOURS[i % len(figure.COLOURS)] for i, label in enumerate(labels)}
        for axis, (title, found) in zip(axes[0], panels, strict=True):
            _panel(axis, title, found, _labels(found, by), colours)
        axes[0][0].set_ylabel("predicted, us")
        handles = [axes[0][0].scatter([], [], s=14, color=colour, label=label) for label, colour in colours.items()]
        drawn.legend(handles=handles, loc="outside lower center", ncols=min(6, len(labels)), frameon=False)
        return figure.svg(drawn)


def _labels(found: Compared, by: str) -> NDArray[Any]:
    if by not in found.measured:
        return np.full(found.rows.size, "")
    distinct, inverse = np.unique(np.asarray(found.measured[by]).astype(str), return_inverse=True)
    return np.array([text.split(" ")[0] for text in distinct.tolist()])[inverse.reshape(-1)]


def _panel(axis: Any, title: str, found: Compared, labels: NDArray[Any], colours: dict[str, str]) -> None:
    here = {label: np.flatnonzero(labels == label) for label in colours}
    # Few points of one colour would vanish under many of another.
    for label, rows in sorted(here.items(), key=lambda item: -item[1].size):
        shown = rows[:: max(1, -(-rows.size // POINTS))]
        axis.scatter(found.measured_us[shown], found.predicted_us[shown], s=1.5, alpha=0.25, linewidths=0, color=colours[label],
                     rasterized=True)
    both = np.concatenate([found.measured_us, found.predicted_us])
    ends = np.array([both.min(), both.max()])
    axis.plot(ends, ends, color="black", linewidth=0.8)
    for factor in FACTORS:
        axis.plot(ends, factor * ends, color="black", linewidth=0.6, linestyle=":")
    axis.set(xscale="log", yscale="log", title=title, xlabel="measured, us")
