"""The screen of `gemvane compare`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from rich.table import Table

from gemvane.comparison import RANKED, Cell, Point, axis, fields, lines, varying
from gemvane.render import (
    band,
    bound,
    busy,
    dtypes,
    facts,
    glued,
    model_line,
    number,
    percent,
    plural,
    scenario_line,
    table,
    warning_lines,
)
from gemvane.results import Result
from gemvane.sim.units import show
from gemvane.workloads.lengths import is_file
from gemvane.workloads.spec import ModelSpec

PHASES = ("prefill", "decode")
PLACES = {"batch": "batch size", "prompt": "prompt length", "output": "output length"}


def screen(specs: Sequence[ModelSpec], wishes: Sequence[str], cells: Sequence[Cell]) -> list[Any]:
    """Inputs, the table, where the winner changes, how sure."""
    asked = max((cell.result.run.scenario for cell in cells if cell.result is not None), key=lambda scenario: scenario.batch)
    spec = next((spec for spec in specs if not spec.encoder), specs[0])
    inputs = facts([
        *(("model" if number == 0 else "", model_line(one, dtypes(asked))) for number, one in enumerate(specs)),
        ("scenario", scenario_line(asked, spec, *_varied(cells, asked.lengths.mean()))),
        *([("policy", f"{', '.join(wishes)}, on all hardware")] if wishes else []),
    ])
    return [inputs, "", _table(cells, all(spec.encoder for spec in specs)), "", *_changes(cells), *_certainty(cells), *_warnings(cells)]


def detail(cells: Sequence[Cell], seconds: float) -> list[Any]:
    """What `--verbose` adds: how full and how busy each device is, which schedule was taken, and what gemvane itself took."""
    columns = fields(cells)
    numbers = ("memory", "energy", "power")
    out = table(*columns, "hardware", *numbers, "units busy", "schedule", right=(*_numbers(columns), *numbers))
    for cell in cells:
        if cell.result is None:
            continue
        run, used = cell.result.run, cell.result.run.memory
        phase = run.decode or next(iter(run.phases.values()))
        places = ", ".join(f"{work} on {unit}" for units in cell.result.placement.values() for work, unit in units.items())
        chosen = plural(run.decode.sub_batches, "sub-batch").replace("batchs", "batches") if run.decode is not None else ""
        row = [*_at(cell.point, columns), cell.hardware, percent((used.weights_bytes + used.kv_cache_bytes) / used.capacity_bytes),
               show(cell.result.energy_j, "J"), show(cell.result.average_power_w, "W"), busy(phase, list(run.hardware.spec.units)),
               ", ".join(text for text in (chosen, places) if text)]
        out.add_row(*map(glued, row))
    return ["", out, "", *(f"{cell.hardware}: {cell.reason}" for cell in cells if cell.result is None),
            f"gemvane took {show(seconds, 's')} for {plural(len(cells), 'cell')}"]


def _varied(cells: Sequence[Cell], mean: float) -> tuple[str, str, str]:
    """Batch, prompt and output of the scenario line; "" where it says them itself."""
    values = {name: list(dict.fromkeys(getattr(cell.point, name) for cell in cells)) for name in PLACES}
    spans = {name: f"{min(found):,} to {max(found):,}" if len(found) > 1 else "" for name, found in values.items()}
    drawn = next((text for text in values["prompt"] if isinstance(text, str)), "")
    how = f"read from {drawn}" if is_file(drawn) else f"drawn: {drawn}"
    prompt = f"prompts {how}, mean {mean:,.0f} tokens" if drawn else spans["prompt"] and f"prompts of {spans['prompt']} tokens"
    return spans["batch"], prompt, spans["output"] and f"outputs of {spans['output']} tokens"


def _numbers(columns: Sequence[str]) -> list[str]:
    return [name for name in columns if name != "model"]


def _at(point: Point, columns: Sequence[str]) -> list[str]:
    values = [getattr(point, name) for name in columns]
    return [f"{value:,}" if isinstance(value, int) else value for value in values]


def _table(cells: Sequence[Cell], encoder: bool) -> Table:
    """A line a cell, a block a point. What binds a phase is left out where a point needs the room."""
    columns = fields(cells)
    phases = [phase for phase in PHASES if any(cell.result is not None and phase in cell.result.run.phases for cell in cells)]
    times = ["latency" if encoder else {"prefill": "TTFT", "decode": "TPOT"}[phase] for phase in phases]
    bounds = ["bound" if encoder else f"{phase} bound" for phase in phases] if len(columns) < 3 else []
    out = table(*columns, "hardware", *times, "tokens/s", "J/token", *bounds, "", right=(*_numbers(columns), *times, "tokens/s", "J/token"))
    for i in range(len(columns) + 1):
        out.columns[i].no_wrap = True
    for point in dict.fromkeys(cell.point for cell in cells):
        block = [cell for cell in cells if cell.point == point]
        for i, cell in enumerate(block):
            remark = cell.short if cell.result is None else ", ".join(_prizes(cell.result, block))
            style = "bold" if remark.startswith("fastest") else "dim" if cell.result is None else None
            where = _at(point, columns) if i == 0 else [""] * len(columns)
            row = [*where, cell.hardware, *_row(cell, phases, bool(bounds)), remark]
            out.add_row(*map(glued, row), style=style, end_section=i == len(block) - 1)
    return out


def _prizes(result: Result, block: Sequence[Cell]) -> list[str]:
    """What a result is best at among those of its point."""
    others = [cell.result for cell in block if cell.result is not None]
    prizes = []
    for text, by in RANKED.items():
        tied = sum(by(other) == by(result) for other in others) > 1
        if len(others) > 1 and by(result) == max(map(by, others)):
            prizes.append(f"{text} (tie)" if tied else text)
    return prizes


def _row(cell: Cell, phases: Sequence[str], bounds: bool) -> list[str]:
    result = cell.result
    if result is None:
        return ["-"] * (len(phases) * (1 + bounds) + 2)
    times = [_time(result, phase) for phase in phases]
    bound_by = [bound(result.bounds(phase), 1) if phase in result.run.phases else "-" for phase in phases] if bounds else []
    return [*times, number(result.throughput_tok_s), number(result.energy_per_token_j), *bound_by]


def _time(result: Result, phase: str) -> str:
    seconds = result.ttft_s if phase == "prefill" else result.tpot_s
    return "-" if seconds is None else show(seconds, "s")


def _changes(cells: Sequence[Cell]) -> list[str]:
    """Who wins, and from where on along the axis somebody else does: one line for all other choices that share it."""
    if len({cell.hardware for cell in cells}) == 1 or not varying(cells):
        return []
    others = [name for name in varying(cells) if name != axis(cells)]
    out = []
    for what, by in RANKED.items():
        told: dict[str, list[Point]] = {}
        for first, line in lines(cells, by).items():
            told.setdefault(_story(cells, line), []).append(first)
        if len(told) == 1:
            whatever = f", whatever the {' and the '.join(others)}" if others else ""
            out.append(f"{what}: {next(iter(told))}{whatever}")
        else:
            every = [point for points in told.values() for point in points]
            out += [f"{what}:", *(f"  {_where(points, every, others)}: {story}" for story, points in told.items())]
    return out


def _where(points: Sequence[Point], every: Sequence[Point], names: Sequence[str]) -> str:
    """The points among all of `every`, by those fields of which not each value is among them: "gpt2" where it is so at every prompt."""
    def at(point: Point, left_out: str) -> tuple[Any, ...]:
        return tuple(getattr(point, name) for name in names if name != left_out)

    inside = {at(point, "") for point in points}
    told = [name for name in names
            if any(at(point, "") not in inside for point in every if at(point, name) in {at(one, name) for one in points})]
    return "; ".join(dict.fromkeys(_named(point, told) for point in points))


def _named(point: Point, names: Sequence[str]) -> str:
    """"llama3-8b, prompt 2,048"."""
    texts = dict(zip(names, _at(point, names), strict=True))
    return ", ".join(text if name == "model" else f"{name} {text}" for name, text in texts.items())


def _story(cells: Sequence[Cell], line: Sequence[tuple[Point, str]]) -> str:
    """"h200 at every batch size"; "h200; from batch 64 on neupims instead of h200"."""
    along = axis(cells)
    first = line[0][1]
    if along not in varying(cells):
        return first
    turns = [f"; from {_named(point, [along])} on: {now} instead of {before}"
             for (_, before), (point, now) in pairwise(line) if before != now]
    asked = len({getattr(cell.point, along) for cell in cells})
    return first + "".join(turns) if turns else f"{first} at every {PLACES[along]}" + ("" if len(line) == asked else " that fits anywhere")


def _certainty(cells: Sequence[Cell]) -> list[str]:
    """The band of each hardware, of its first result."""
    seen: dict[str, str] = {}
    for cell in cells:
        if cell.result is not None:
            sure = cell.result.confidence
            seen.setdefault(cell.hardware, f"  {cell.hardware}: time {band(sure.band)}, energy {band(sure.energy_band)}")
    labels = sorted({cell.result.confidence.label for cell in cells if cell.result is not None})
    return [f"uncertainty ({', '.join(labels)}): 80 % of real figures lie within", *seen.values()]


def _warnings(cells: Sequence[Cell]) -> list[Any]:
    """Each warning once."""
    return warning_lines(dict.fromkeys(text for cell in cells if cell.result is not None for text in cell.result.warnings))
