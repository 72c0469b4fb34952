"""The screens of `gemvane sweep` and `gemvane search`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from gemvane.render import facts, glued, number, plural, table
from gemvane.sim.space import Space
from gemvane.sim.units import show
from gemvane.sweeping.sweep import Done

MOST_ROWS = 15
MOST_REASONS = 3
TITLES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "latency_s": "latency", "throughput_tok_s": "tokens/s", "energy_j": "energy",
          "energy_per_token_j": "J/token", "average_power_w": "power", "area_mm2": "mm2", "memory_bytes": "memory"}  # fmt: skip
UNITS = {"ttft_s": "s", "tpot_s": "s", "latency_s": "s", "energy_j": "J", "average_power_w": "W", "memory_bytes": "B"}


def sweep_screen(space: Space, done: Done, thing: dict[str, Any]) -> list[Any]:
    """Inputs, what failed and why, the points that no other beats."""
    points = f"{plural(thing['points'], 'point')}, {thing['simulated_now']:,} simulated now"
    return [*_head(space, points, thing), _front(space, thing), "", f"-> {thing['table']}"]


def search_screen(space: Space, done: Done, thing: dict[str, Any]) -> list[Any]:
    """The same for the trials of a search, of which some keep the limits."""
    trials = f"{plural(thing['trials'], 'trial')}, {thing['feasible']:,} within the limits, {thing['simulated_now']:,} simulated now"
    files = [f"-> {row['file']}" for row in thing["front"][:1]] + (["   ..."] if len(thing["front"]) > 1 else [])
    return [*_head(space, trials, thing), _front(space, thing), "", f"-> {thing['table']}", *files]


def _head(space: Space, points: str, thing: dict[str, Any]) -> list[Any]:
    asked = [("model", ", ".join(space.models)), ("hardware", ", ".join(space.hardware)),
             ("varies", ", ".join(f"{name} ({len(values)})" for name, values in space.axes.items())), ("points", points)]
    failed = []
    if thing["failed"]:
        failed = [f"{plural(thing['failed'], 'point')} without figures:"]
        failed += [f"  {count:,} x {reason}" for reason, count in list(thing["reasons"].items())[:MOST_REASONS]]
    return [facts(asked), "", *failed, *([""] if failed else [])]


def _front(space: Space, thing: dict[str, Any]) -> Table | str:
    rows: Sequence[dict[str, Any]] = thing["front"]
    if not rows:
        return "No point has these figures within the limits."
    figures = thing["objectives"]
    out = table("point", *space.axes, *(TITLES[name] for name in figures), right=("point", *(TITLES[name] for name in figures)))
    for row in _spread(rows):
        out.add_row(str(row["point"]), *(str(row[name]) for name in space.axes), *(glued(figure(name, row[name])) for name in figures))
    shown = min(len(rows), MOST_ROWS)
    out.caption = f"{shown} of the {len(rows)} points that no other beats" if shown < len(rows) else "points that no other beats"
    return out


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MOST_ROWS of the rows, evenly, with both ends."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (MOST_ROWS - 1))] for i in range(MOST_ROWS)]


def figure(name: str, value: float) -> str:
    """A figure for people, with its unit where the title has none."""
    return show(value, UNITS[name]) if name in UNITS else number(value)
