"""gemvane trace"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gemvane import output
from gemvane.workloads import catalog, chakra, lower
from gemvane.workloads.ops import KINDS, PHASES
from gemvane.workloads.record.factory import is_recorded, recorded
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace
from gemvane.workloads.transforms import applied

SUFFIXES = (".parquet", ".csv", ".et")
SUMS = ("vector_ops", "weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes", "link_bytes")


def trace(model: str, file: Path | None, asked: dict[str, Any], json: bool) -> None:
    """Lower or record the model, write the operators, print the sums."""
    if file is not None:
        _check(file)
    scenario = Scenario(**asked)
    if is_recorded(model):
        recording = recorded(model, None, scenario)
        spec, made, warnings = recording.spec, recording.trace(scenario), []
        scenario = recording.scenario(scenario)
    else:
        spec, scenario, _ = applied(catalog.load(model), scenario)
        warnings = lower.check(spec, scenario)
        made = lower.lower(spec, scenario)
    if file is not None:
        _save(made, file)
    by = summary(made)
    if json:
        output.show_json(as_dict(spec, scenario, made, by, file, warnings))
    else:
        _screen(spec, scenario, made, by, file, warnings)


def _check(file: Path) -> None:
    if file.suffix not in SUFFIXES:
        raise ValueError(f"-o {file}: a trace is written as {', '.join(SUFFIXES)}, not {file.suffix or 'without a suffix'!r}.")
    output.check_file(file)
    if file.suffix == ".parquet":
        from importlib.util import find_spec

        if find_spec("pyarrow") is None:
            raise ValueError(f"-o {file}: parquet needs pyarrow. Say `pip install 'gemvane[parquet]'`, or write a .csv file.")


def _save(made: Trace, file: Path) -> None:
    partial = file.with_name(file.name + ".partial")
    try:
        if file.suffix == ".et":
            chakra.write(file, made)
        else:
            made.save(file)
    finally:
        partial.unlink(missing_ok=True)


def summary(made: Trace) -> list[dict[str, Any]]:
    """Sums by phase and kind of operator, in order of first appearance."""
    rows = made.rows
    columns = {name: getattr(rows, name) for name in SUMS if name != "activation_bytes"}
    columns["activation_bytes"] = rows.input_bytes + rows.output_bytes
    out = []
    for phase, kind in dict.fromkeys(zip(rows.phase.tolist(), rows.kind.tolist(), strict=True)):
        here = np.flatnonzero((rows.phase == phase) & (rows.kind == kind))
        out.append({"phase": PHASES[phase], "kind": KINDS[kind].name, "rows": int(here.size), "flops": 2 * int(rows.macs[here].sum()),
                    **{name: int(columns[name][here].sum()) for name in SUMS}})
    return sorted(out, key=lambda row: (PHASES.index(row["phase"]), -row["flops"]))


def as_dict(spec: ModelSpec, scenario: Scenario, made: Trace, by: list[dict[str, Any]], file: Path | None,
            warnings: list[str]) -> dict[str, Any]:
    """The JSON object of `gemvane trace --json`."""
    from dataclasses import asdict

    asked = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(scenario).items()}
    return {"schema": "gemvane.trace-summary/1", "model": spec.name, "scenario": asked, "devices": made.devices, **total(by), "by": by,
            "path": None if file is None else str(file), "warnings": warnings}


def total(by: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(row[name] for row in by) for name in ("rows", "flops", *SUMS)}


def _screen(spec: ModelSpec, scenario: Scenario, made: Trace, by: list[dict[str, Any]], file: Path | None, warnings: list[str]) -> None:
    from gemvane.render import dtypes, facts, glued, model_line, scenario_line, table, warning_lines
    from gemvane.sim.units import show

    used = [name for name in SUMS if name.endswith("_bytes") and any(row[name] for row in by)]
    heads = [name.removesuffix("_bytes").replace("kv_", "KV ").replace("_", " ") for name in used]
    numbers = ["rows", "TFLOP", "vector ops", *heads]
    out = table("phase", "kind", *numbers, right=numbers)
    phases = list(dict.fromkeys(row["phase"] for row in by))
    lines = [line for phase in phases for line in _lines(phase, [row for row in by if row["phase"] == phase])]
    if len(phases) > 1:
        lines.append({"phase": "all", "kind": "", **total(by)})
    for i, line in enumerate(lines):
        cells = [f"{line['rows']:,}", _tera(line["flops"]), show(line["vector_ops"], "").strip() if line["vector_ops"] else "-"]
        cells += [show(line[name], "B") if line[name] else "-" for name in used]
        last = line["kind"] == "total" or (i + 1 < len(lines) and lines[i + 1]["kind"] == "total")
        style = "bold" if line["kind"] in ("total", "") else None
        out.add_row(line["phase"], line["kind"], *map(glued, cells), end_section=last, style=style)
    inputs = facts([("model", model_line(spec, dtypes(scenario))), ("scenario", scenario_line(scenario, spec))])
    steps = {"prefill": "prefill", "decode": "one decode step", "both": f"prefill and {scenario.decode_steps} decode steps"}
    what = "prefill" if spec.encoder else steps[scenario.phase]
    share = "" if made.devices == 1 else f"; work and bytes are those of one of the {made.devices} devices"
    wrote = [] if file is None else [f"-> {file} ({made.size:,} operators)"]
    output.show(inputs, "", f"{what}{share}", "", out, *warning_lines(warnings), *wrote)


def _lines(phase: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a phase, named once, and their sum."""
    named = [{**row, "phase": phase if i == 0 else ""} for i, row in enumerate(rows)]
    return [*named, {"phase": "", "kind": "total", **total(rows)}]


def _tera(flops: int) -> str:
    if flops == 0:
        return "-"
    return f"{flops / 1e12:,.4f}" if flops >= 5e7 else "<0.0001"
