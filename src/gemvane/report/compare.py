"""The report of a comparison: which hardware is better at which batch size, and why. Made of what `gemvane compare --json` prints."""

from __future__ import annotations

from typing import Any

from gemvane import __version__
from gemvane.render import number, percent
from gemvane.sim.units import show

from .page import Chart, Page, Table, joined
from .palette import CAUSE_GROUPS, DASHES, SYMBOLS, WAITS, colours, grouped, stacked

FIGURES = (
    ("throughput", "throughput_tok_s", "Tokens a second", "tokens/s", "more is better", "fastest"),
    ("tpot", "tpot_s", "Time per output token", "s", "less is better", ""),
    ("ttft", "ttft_s", "Time to first token", "s", "less is better", ""),
    ("energy", "energy_per_token_j", "Energy a token", "J/token", "less is better", "least energy"),
)
"""Chart, figure of a cell, title, unit, which way is better, and the name of what is won."""
POINT = ("model", "prompt", "output", "batch")
"""What says where a cell stands, beside its hardware."""
AXES = ("batch", "prompt", "output")
STACKS = {name: colour for name, (colour, _) in CAUSE_GROUPS.items()} | {"slowed by others": WAITS["slowed by others"]}
MOST_LINES = 16
"""Of a picture of curves."""

Cell = dict[str, Any]


def page(found: dict[str, Any], command: str | None, version: str | None) -> Page:
    """The page of a comparison. `version`: of the gemvane that made it."""
    cells: list[Cell] = [cell for cell in found["cells"] if "reason" not in cell]
    names, axis = list(dict.fromkeys(cell["hardware"] for cell in found["cells"])), _axis(found["cells"])
    curves = [_curve(found, cells, names, axis, *figure) for figure in FIGURES if any(cell[figure[1]] is not None for cell in cells)]
    ends = _ends(cells, axis)
    whys = [_why([cell for cell in cells if _point(cell) == point], phase) for phase in ("decode", "prefill") for point in ends
            if any(_point(cell) == point and phase in cell["time_by_cause_s"] for cell in cells)]
    made = f"gemvane {version}" if version else "an unknown version of gemvane"
    notices = [] if version == __version__ else [f"This comparison was made by {made}; this page was written by gemvane {__version__}."]
    asked = [f"{name} {', '.join(map(str, dict.fromkeys(cell[name] for cell in found['cells'])))}" for name in AXES]
    warnings = list(dict.fromkeys(f"{cell['hardware']}: {text}" for cell in cells for text in cell["warnings"]))
    facts = [("models", ", ".join(found["models"])), ("hardware", ", ".join(names)), ("scenario", "; ".join(asked)),
             ("type", str(found["scenario"]["dtype"])), ("made by", made)]
    facts += [("policies", ", ".join(f"{name} {value}" for name, value in found["policies"].items()))] if found["policies"] else []
    return Page(f"{joined(found['models'])} on {joined(names)}", "; ".join(asked), command, facts, _tiles(found, cells, ends),
                [*curves, *whys, _table(found)], notices, _findings(found, cells, ends), warnings)


def _axis(cells: list[Cell]) -> str:
    """The first of AXES that varies and is a number throughout; else the batch."""
    numbers = [name for name in AXES if all(isinstance(cell[name], int) for cell in cells)]
    return next((name for name in numbers if len({cell[name] for cell in cells}) > 1), "batch")


def _point(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in POINT)


def _ends(cells: list[Cell], axis: str) -> list[tuple[Any, ...]]:
    """The points of the first model at the ends of the axis."""
    mine = sorted((cell for cell in cells if cell["model"] == cells[0]["model"]), key=lambda cell: cell[axis])
    return list(dict.fromkeys((_point(mine[0]), _point(mine[-1]))))


def _said(cell: dict[str, Any], cells: list[Cell], axis: str) -> str:
    """What tells a cell from others beside its hardware and the axis: "llama3-8b, prompt 512"; "" where nothing does."""
    told = [name for name in POINT if name != axis and len({other[name] for other in cells}) > 1]
    return ", ".join(str(cell[name]) if name == "model" else f"{name} {cell[name]}" for name in told)


def _curve(found: dict[str, Any], cells: list[Cell], names: list[str], axis: str, chart: str, figure: str, title: str, unit: str,
           better: str, won: str) -> Chart:
    colour, known = colours(names), [cell for cell in cells if cell[figure] is not None]
    said = list(dict.fromkeys(_said(cell, found["cells"], axis) for cell in known))
    data = []
    for text in said:
        for name in names:
            mine = sorted((c for c in known if (c["hardware"], _said(c, found["cells"], axis)) == (name, text)), key=lambda c: c[axis])
            if mine:
                at = said.index(text) if len(said) > 1 else names.index(name)
                data.append({"type": "scatter", "mode": "lines+markers", "name": f"{text}: {name}" if text else name,
                             "x": [cell[axis] for cell in mine], "y": [cell[figure] for cell in mine],
                             "line": {"color": colour[name], "dash": DASHES[at % len(DASHES)], "width": 2},
                             "marker": {"size": 9, "symbol": SYMBOLS[at % len(SYMBOLS)]},
                             "hovertemplate": f"{axis} %{{x}}: %{{y:.3g}} {unit}<extra>{text}<br>{name}</extra>"})
    changes = [change for change in found["crossovers"] if change["of"] == won and change["axis"] == axis]
    marks = [{"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "quiet", "dash": "dot", "width": 1}}
             for at in dict.fromkeys(change[axis] for change in changes)]
    values = sorted({cell[axis] for cell in cells}) if axis in AXES else []
    layout = {"shapes": marks, "yaxis": {"type": "log", "dtick": "D2", "title": {"text": f"{unit} ({better})"}, "exponentformat": "SI"},
              "xaxis": {"type": "log" if len(values) > 1 else "category", "title": {"text": axis}, "tickvals": values}}
    told = [f"From {axis} {change[axis]} on, {change['now']} instead of {change['before']} (dotted line)." for change in changes[:3]]
    says = f"{better[0].upper()}{better[1:]}. {' '.join(told)}"
    cut = f" The first {MOST_LINES} of {len(data)} lines." if len(data) > MOST_LINES else ""
    rows = [{"hardware": cell["hardware"]} | {name: cell[name] for name in (*POINT, figure)} for cell in known]
    return Chart(chart, title, says + cut, Table.of(rows), {"data": data[:MOST_LINES], "layout": layout}, 420)


def _why(cells: list[Cell], phase: str) -> Chart:
    """Where the time of each unit of each hardware goes, at one point."""
    labels, times, hover, rows = [], [], [], []
    for cell in cells:
        steps = max(1, cell["output"] - (cell["scenario"]["phase"] == "both")) if phase == "decode" else 1
        for unit, causes in cell["time_by_cause_s"].get(phase, {}).items():
            work = {cause: 1000 * s / steps for cause, s in causes.items() if cause not in ("idle", "blocked")}
            if sum(work.values()) < 0.1 * sum(causes.values()) / steps:
                continue
            parts = grouped(work, CAUSE_GROUPS) | {"slowed by others": work.get("contention", 0.0)}
            labels.append(f"{cell['hardware']}: {unit}")
            times.append(parts)
            hover.append([f"{cell['hardware']}, {unit}: {show(ms / 1000, 's')}" for ms in parts.values()])
            rows.append({"hardware": cell["hardware"], "unit": unit, **{f"{name}_ms": ms for name, ms in parts.items()}})
    what, at = "a token" if phase == "decode" else "the prefill", cells[0]
    layout = {"barmode": "stack", "yaxis": {"autorange": "reversed"}, "xaxis": {"title": {"text": f"ms of work for {what}"}}}
    where = ", ".join(f"{name} {at[name]}" for name in AXES)
    figure = {"data": stacked(labels, times, STACKS, hover), "layout": layout}
    return Chart(f"why-{phase}-{'-'.join(str(at[name]) for name in AXES)}", f"Why: the {phase} at batch {at['batch']}",
                 f"{at['model']}, {where}: what each unit of each hardware does for {what}, by what its time goes to. Units of a device "
                 "may work at once.", Table.of(rows), figure, 170 + 30 * len(labels))


def _table(found: dict[str, Any]) -> Chart:
    rows = []
    for cell in found["cells"]:
        known = "reason" not in cell
        row = {name: cell[name] for name in (*POINT, "hardware")}
        row |= {key: cell[key] if known else None for key in ("ttft_s", "tpot_s", "throughput_tok_s", "energy_per_token_j",
                                                              "average_power_w")}
        for phase in ("prefill", "decode"):
            row[f"{phase} bound"] = next(iter(cell["bounds"][phase])) if known and phase in cell["bounds"] else ""
        low, high = cell["confidence"]["band"] if known else (None, None)
        rows.append(row | {"real time from": low, "to (x)": high, "how sure": cell["confidence"]["label"] if known else "",
                           "why not": cell.get("reason", "")})
    return Chart("cells", "All figures", "Every hardware at every point; where there is no figure, the reason.", Table.of(rows), open=True)


def _tiles(found: dict[str, Any], cells: list[Cell], ends: list[tuple[Any, ...]]) -> list[tuple[str, str, str]]:
    """Who wins at the ends of the axis."""
    tiles = []
    for point in ends:
        best = next(one for one in found["winners"] if _point(one) == point)
        for won, figure, unit in (("fastest", "throughput_tok_s", "tok/s"), ("least energy", "energy_per_token_j", "J/tok")):
            cell = next(c for c in cells if _point(c) == point and c["hardware"] == best[won])
            tiles.append((f"{won}, batch {cell['batch']}", best[won], f"{number(cell[figure])} {unit}"))
    return tiles


def _findings(found: dict[str, Any], cells: list[Cell], ends: list[tuple[Any, ...]]) -> list[str]:
    out = []
    for won in ("fastest", "least energy"):
        changes = [change for change in found["crossovers"] if change["of"] == won]
        first = found["winners"][0]
        out += [f"{change['model']}: from {change['axis']} {change[change['axis']]} on {change['now']} is "
                f"{'fastest' if won == 'fastest' else 'most thrifty'}, no longer {change['before']}." for change in changes]
        if not changes and len({one[won] for one in found["winners"]}) == 1:
            out.append(f"{first[won]} {'is the fastest' if won == 'fastest' else 'uses the least energy'} everywhere.")
    for cell in (c for c in cells if _point(c) == ends[-1]):
        bounds = [f"the {phase} is bound by {name} in {percent(share)} of its working time"
                  for phase, shares in cell["bounds"].items() for name, share in [next(iter(shares.items()))]]
        out.append(f"{cell['hardware']} at batch {cell['batch']}: {joined(bounds)}.")
    lacking = [cell for cell in found["cells"] if "reason" in cell]
    return out + list(dict.fromkeys(f"{cell['hardware']} cannot run batch {cell['batch']}: {cell['reason']}" for cell in lacking))[:6]
