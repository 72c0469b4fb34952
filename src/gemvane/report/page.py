"""A page: facts, charts with their tables, and everything they need in one HTML text. Knows nothing of what is shown."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MOST_ROWS = 400
"""Of a table that the page shows; the file to download has all."""
DIGITS = 5
"""Of numbers in charts."""
_UNIT = re.compile(r"(?<=\d) (?=%|[A-Za-z]+/?[A-Za-z]*\b)")
"""The space between a number and what it counts: no line begins with a unit."""


@dataclass(frozen=True)
class Table:
    """Rows under named columns: numbers, texts or None."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]]) -> Table:
        """The table of rows that have the same keys."""
        return cls(tuple(rows[0]) if rows else (), [tuple(row.values()) for row in rows])

    @property
    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return text.getvalue()

    @property
    def shown(self) -> list[list[str]]:
        """The rows that the page shows, as text."""
        return [[_cell(value) for value in row] for row in self.rows[:MOST_ROWS]]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [any(_is_number(row[i]) for row in self.rows) and all(row[i] is None or _is_number(row[i]) for row in self.rows)
                for i in range(len(self.columns))]


@dataclass(frozen=True)
class Chart:
    """One picture with its table. `figure` is what plotly takes (data, layout), or None for a table alone."""

    id: str
    title: str
    says: str
    """What to read off it, in a sentence or two."""
    table: Table
    figure: dict[str, Any] | None = None
    height: int = 380
    """In CSS pixels."""
    chosen: str = ""
    """What stands where a click on a point shows its configuration; "" for charts without."""
    open: bool = False
    """Whether the table is unfolded."""

    @property
    def href(self) -> str:
        return data_link(self.table.csv, "text/csv")


@dataclass(frozen=True)
class Page:
    """Everything that one report says."""

    title: str
    subtitle: str
    command: str | None
    facts: list[tuple[str, str]]
    """Name and text of what stands in the header."""
    tiles: list[tuple[str, str, str]]
    """Name, figure and remark of what counts most."""
    charts: list[Chart]
    notices: list[str] = field(default_factory=list)
    """What must be known before anything else is read."""
    findings: list[str] = field(default_factory=list)
    """What the charts say, in sentences."""
    warnings: list[str] = field(default_factory=list)
    downloads: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, media type and text of further files."""
    points: dict[str, Any] = field(default_factory=dict)
    """Point -> its configuration, for charts that show one on a click."""


def html(page: Page) -> str:
    """The page as one HTML text, the same for the same page. ValueError where the extra `report` is missing."""
    check_installed()
    import jinja2

    folder = resources.files("gemvane.report")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["glued"] = lambda text: _UNIT.sub("\u00a0", text)
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    figures = {chart.id: _short(chart.figure) for chart in page.charts if chart.figure is not None}
    return template.render(
        page=page, most_rows=MOST_ROWS, link=data_link, plotly=_plotly(),
        style=(folder / "page.css").read_text(encoding="utf-8"), script=(folder / "page.js").read_text(encoding="utf-8"),
        figures=_embedded(figures), points=_embedded(page.points))


def write(page: Page, path: str | Path) -> Path:
    """Write the page, whole or not at all; where it went."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(html(page), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_installed() -> None:
    """ValueError where a report cannot be made, before anything is computed for it."""
    if find_spec("plotly") is None or find_spec("jinja2") is None:
        raise ValueError("reports need plotly and jinja2: pip install 'gemvane[report]'")


def data_link(text: str, media: str) -> str:
    """A link that holds a file."""
    return f"data:{media};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _plotly() -> str:
    """plotly's browser library, read without loading plotly."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def _embedded(thing: Any) -> str:
    """JSON that may stand inside a script element."""
    return json.dumps(thing, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _short(thing: Any) -> Any:
    """The figure with its numbers cut to what a chart can show."""
    if isinstance(thing, dict):
        return {key: _short(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [_short(value) for value in thing]
    if isinstance(thing, float):
        return float(f"{thing:.{DIGITS}g}") if math.isfinite(thing) else None
    return thing


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    """A cell as people read it."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}" if abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:,}" if _is_number(value) else str(value)


def joined(parts: Iterable[str]) -> str:
    """ "a, b and c"."""
    words = list(parts)
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
