"""The report of a sweep or a search: its points, those that no other beats, and the configuration of the one that is clicked."""

from __future__ import annotations

import json
from typing import Any

from gemvane import __version__
from gemvane.render import number
from gemvane.sim.space import METRICS
from gemvane.sim.sweep import front, loss
from gemvane.sim.units import show

from .page import Chart, Page, Table
from .palette import BLUE, GREY, ORANGE

MOST_POINTS = 2500
"""Drawn of those that another beats: evenly chosen."""
MOST_LINES = 60
"""Points of the front in the picture of parallel axes."""
TRADE = ("tpot_s", "energy_per_token_j")
UNITS = {"tok_s": "tokens/s", "s": "s", "j": "J", "w": "W", "mm2": "mm2", "bytes": "B"}


def page(meta: dict[str, Any], rows: list[dict[str, Any]], space: str) -> Page:
    """The page of a folder's meta.json, table and space.yaml. ValueError where no point has figures."""
    known = [row for row in rows if not row["reason"]]
    if not known:
        raise ValueError(f"none of the {len(rows)} points has figures; there is nothing to draw. The first reason: {rows[0]['reason']}")
    goals = meta["objectives"] or [*(TRADE if any(row["tpot_s"] is not None for row in known) else ("ttft_s", TRADE[1]))]
    allowed = [row for row in known if row.get("feasible", True)]
    best = [allowed[i] for i in front(allowed, goals)]
    axes = [name for name in (*meta["axes"], *meta["follow"]) if len({str(row[name]) for row in known}) > 1]
    made = meta["versions"].get("gemvane")
    other = f"These points were simulated by gemvane {made}; this page was written by gemvane {__version__}."
    notices = [] if made == __version__ else [other]
    kinds = meta["kind"]
    title = f"{kinds.capitalize()} of {', '.join(meta['models'])} on {', '.join(meta['hardware'])}"
    facts = [("space", f"sha256 {meta['space_sha256']}"), ("varies", ", ".join(meta["axes"])), ("objectives", ", ".join(goals)),
             ("simulated by", ", ".join(f"{name} {version}" for name, version in meta["versions"].items()))]
    charts = [_scatter(known, best, pair, axes, line=len(goals) < 3, first=pair == _pairs(goals)[0]) for pair in _pairs(goals)]
    charts += [_parallel(best, axes, goals)] if best else []
    failed = [row for row in rows if row["reason"]]
    return Page(title, f"{len(rows):,} points, {len(known):,} with figures, {len(best):,} that no other beats", None, facts,
                _tiles(best, goals), [*charts, _front_table(best, axes, goals), *([_failures(failed)] if failed else [])], notices,
                _findings(best, goals, axes), [], [("space.yaml", "application/yaml", space)],
                {str(row["point"]): _configuration(row, goals) for row in [*best, *_drawn(known)]})


def _pairs(goals: list[str]) -> list[tuple[str, str]]:
    """What the scatters trade off: the first objective against each other one."""
    alone = "energy_per_token_j" if goals[0] != "energy_per_token_j" else "latency_s"
    return [(goals[0], other) for other in goals[1:] or [alone]]


def _drawn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[:: max(1, -(-len(rows) // MOST_POINTS))]


def _scatter(known: list[dict[str, Any]], best: list[dict[str, Any]], pair: tuple[str, str], axes: list[str], *,
             line: bool, first: bool) -> Chart:
    across, up = pair
    drawn = [row for row in _drawn(known) if row[across] is not None and row[up] is not None]
    ordered = sorted(best, key=lambda row: row[across])

    def trace(name: str, rows: list[dict[str, Any]], **style: Any) -> dict[str, Any]:
        texts = [f"point {row['point']}<br>" + "<br>".join(f"{axis}: {_text(row[axis])}" for axis in axes[:8]) for row in rows]
        where = {"x": [row[across] for row in rows], "y": [row[up] for row in rows], "customdata": [row["point"] for row in rows]}
        return {"type": "scatter", "name": name, **where, "hovertext": texts, **style,
                "hovertemplate": "%{hovertext}<br>%{x:.4g}, %{y:.4g}<extra></extra>"}

    data = [trace("beaten by another", drawn, mode="markers", marker={"color": GREY, "size": 6, "opacity": 0.55}),
            trace("no other beats", ordered, mode="lines+markers" if line else "markers", line={"color": ORANGE, "width": 1, "dash": "dot"},
                  marker={"color": ORANGE, "size": 11, "line": {"color": "ink", "width": 1}})]
    layout = {"xaxis": {"title": {"text": _titled(across)}, "exponentformat": "SI", "type": "log"},
              "yaxis": {"title": {"text": _titled(up)}, "exponentformat": "SI", "type": "log"}}
    less = [name for name in pair if METRICS[name] == "minimize"]
    better = "Down and to the left is better" if len(less) == 2 else f"{_name(up)}: {'less' if up in less else 'more'} is better"
    cut = f" {len(drawn):,} of {len(known):,} points are drawn." if len(drawn) < len(known) else ""
    unbeaten = {row["point"] for row in best}
    rows = [{"point": row["point"], across: row[across], up: row[up], "front": row["point"] in unbeaten} for row in known]
    says = f"{better}. Click a point for its configuration.{cut}"
    return Chart(f"front-{up}", f"{_name(across)} against {_name(up)}", says, Table.of(rows),
                 {"data": data, "layout": layout}, 480, "Click a point: its configuration stands here." if first else "")


def _parallel(best: list[dict[str, Any]], axes: list[str], goals: list[str]) -> Chart:
    """A line for each point of the front through what varies and what it reaches."""
    names = [*axes, *goals]
    some = sorted(best, key=lambda row: row[goals[0]])[:MOST_LINES]
    places = {name: _places([row[name] for row in some]) for name in names}
    shade = [loss(goals[0], row[goals[0]]) for row in some]
    low, high = min(shade), max(shade)
    data = []
    for row, value in zip(some, shade, strict=True):
        at = 0.0 if high == low else (value - low) / (high - low)
        data.append({"type": "scatter", "mode": "lines+markers", "x": list(range(len(names))),
                     "y": [places[name][str(row[name])] for name in names], "customdata": [row["point"]] * len(names),
                     "showlegend": False, "name": f"point {row['point']}", "opacity": 0.8, "hovertemplate": "%{hovertext}<extra></extra>",
                     "hovertext": [f"point {row['point']}<br>{name}: {_text(row[name])}" for name in names],
                     "marker": {"size": 6, "color": _mixed(at)}, "line": {"color": _mixed(at), "width": 1.6}})
    ends = [{"x": i, "y": y, "text": text, "showarrow": False, "yshift": 12 if y else -12, "font": {"size": 10, "color": "quiet"}}
            for i, name in enumerate(names) for y, text in _ends(some, name)]
    ticks = {"tickvals": list(range(len(names))), "ticktext": [name.replace(".", ".<br>") for name in names]}
    layout = {"xaxis": {**ticks, "zeroline": False}, "yaxis": {"visible": False, "range": [-0.12, 1.12]}, "annotations": ends}
    says = (f"A line is a point that no other beats, through what varies and what it reaches; blue is best in {_name(goals[0])}. "
            "Click one for its configuration.")
    return Chart("parallel", "What the best points have in common", says, _columns(some, names), {"data": data, "layout": layout}, 460)


def _places(values: list[Any]) -> dict[str, float]:
    """Where each value stands between 0 and 1: numbers to scale, words in their order."""
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if all(isinstance(value, (int, float)) for value in distinct) and distinct[-1] > distinct[0]:
        return {str(value): (value - distinct[0]) / (distinct[-1] - distinct[0]) for value in distinct}
    return {str(value): i / max(1, len(distinct) - 1) for i, value in enumerate(distinct)}


def _ends(rows: list[dict[str, Any]], name: str) -> list[tuple[float, str]]:
    """The lowest and highest value of an axis, and where they stand."""
    values = [row[name] for row in rows]
    places = _places(values)
    found = sorted({places[str(value)]: _text(value) for value in values}.items())
    return list(dict.fromkeys((found[0], found[-1])))


def _mixed(at: float) -> str:
    """Between blue (0) and orange (1)."""
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (BLUE, ORANGE)]
    return "#" + "".join(f"{round(a + at * (b - a)):02x}" for a, b in zip(*ends, strict=True))


def _front_table(best: list[dict[str, Any]], axes: list[str], goals: list[str]) -> Chart:
    others = [name for name in METRICS if name not in goals]
    table = _columns(best, [*axes, *goals, *others])
    return Chart("front", "Points that no other beats", f"The front in {', '.join(goals)}.", table, open=True)


def _failures(failed: list[dict[str, Any]]) -> Chart:
    reasons: dict[str, list[int]] = {}
    for row in failed:
        reasons.setdefault(row["reason"], []).append(row["point"])
    rows = [{"points": len(points), "the first": points[0], "reason": reason} for reason, points in reasons.items()]
    return Chart("failures", "Points without figures", f"{len(failed):,} points could not be simulated.", Table.of(rows))


def _columns(rows: list[dict[str, Any]], names: list[str]) -> Table:
    return Table(("point", *names), [tuple(row[name] for name in ("point", *names)) for row in rows])


def _tiles(best: list[dict[str, Any]], goals: list[str]) -> list[tuple[str, str, str]]:
    """The best point in each objective."""
    tiles = []
    for goal in goals if best else []:
        top = min(best, key=lambda row: loss(goal, row[goal]))
        tiles.append((f"best {_name(goal)}", _figure(goal, top[goal]), f"point {top['point']}"))
    return tiles


def _findings(best: list[dict[str, Any]], goals: list[str], axes: list[str]) -> list[str]:
    out = []
    for goal in goals if best else []:
        top = min(best, key=lambda row: loss(goal, row[goal]))
        out.append(f"Best {_name(goal)}, {_figure(goal, top[goal])}: " + ", ".join(f"{axis} {_text(top[axis])}" for axis in axes) + ".")
    same = [axis for axis in axes if len({str(row[axis]) for row in best}) == 1]
    if best and same:
        out.append("Every point of the front has " + ", ".join(f"{axis} {_text(best[0][axis])}" for axis in same) + ".")
    return out


def _configuration(row: dict[str, Any], goals: list[str]) -> dict[str, Any]:
    """What a click shows of a point."""
    made = json.loads(row["configuration"])
    facts = [(_name(goal), _figure(goal, row[goal])) for goal in goals if row[goal] is not None]
    facts += [("model", made["model"]), ("hardware", made["hardware"])]
    facts += [(key, _text(value)) for key, value in made["changes"].items()]
    facts += [(key, _text(value)) for key, value in made["scenario"].items()]
    bounds = [f"{phase} by {row[f'{phase}_bound']}" for phase in ("prefill", "decode") if row[f"{phase}_bound"]]
    sure = f"{row['confidence']}: real time {row['band_low']:.2f} to {row['band_high']:.2f} x"
    facts += [("bound", ", ".join(bounds)), ("how sure", sure)]
    return {"title": f"Point {row['point']}", "facts": facts}


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _figure(name: str, value: float) -> str:
    """A figure with its unit: 4.97 ms."""
    unit = _unit(name)
    return show(value, unit) if unit in ("s", "J", "W", "B") else f"{number(value)} {unit}"


def _name(figure: str) -> str:
    named = {"tpot_s": "TPOT", "ttft_s": "TTFT", "energy_per_token_j": "energy a token", "throughput_tok_s": "throughput"}
    return named.get(figure, figure.rsplit("_", 1)[0].replace("_", " "))


def _unit(figure: str) -> str:
    return next(unit for end, unit in UNITS.items() if figure.endswith(f"_{end}"))


def _titled(figure: str) -> str:
    return f"{_name(figure)}, {_unit(figure)}"
