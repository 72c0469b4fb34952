"""gemvane validate compare"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemvane import output
from gemvane.commands.validate import _read as read_table


def compare(table: Path, hw: str, json: bool) -> None:
    """Measured kernels against simulated ones: errors by operator, type and regime, beside plain baselines."""
    from gemvane.sim.hardware import load
    from gemvane.validate import compare as validation

    hardware, rows = load(hw), read_table(table)
    try:
        found = validation.compare(rows, hardware)
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None
    if json:
        output.show_json(found)
    else:
        _screen(found, table)


def _screen(found: dict[str, Any], table: Path) -> None:
    from gemvane.render import facts, plural
    from gemvane.render import table as new_table

    numbers = ("rows", "mean", "median", "90 % of rows", "bias")
    out = new_table("operator", "type", "framework", "regime", "bound", *numbers, right=numbers)
    for row in found["by"]:
        out.add_row(row["op"], row["dtype"], row["framework"], row["regime"], row["bound"], f"{row['rows']:,}", *_errors(row))
    out.add_section()
    out.add_row("all", "", "", "", "", f"{found['rows']:,}", *_errors(found["overall"]), style="bold")
    for name, errors in found["baselines"].items():
        out.add_row(name.replace("_", " "), "", "", "", "", f"{found['rows']:,}", *_errors(errors))
    lines = [("hardware", f"{found['hardware']} ({found['label']})"), ("table", f"{table} ({plural(found['rows'], 'row')})")]
    if found["noise_floor"]:
        floor = found["noise_floor"]
        lines.append(("noise floor", f"{_percent(floor['mape'])} between two measurements of one shape ({plural(floor['rows'], 'row')})"))
    if found["coverage80"] is not None:
        lines.append(("80 % band", f"holds {_percent(found['coverage80'])} of the rows"))
    if "energy" in found:
        energy = found["energy"]
        lines.append(("energy", f"{_percent(energy['mape'])} mean error, power {_percent(energy['power']['mape'])}, constant power "
                                f"{_percent(energy['constant_power']['mape'])} ({plural(energy['rows'], 'row')})"))
    output.show(facts(lines), "", out)


def _errors(row: dict[str, float]) -> list[str]:
    return [_percent(row["mape"]), _percent(row["median"]), _percent(row["p90"]), f"{100 * row['bias']:+.1f} %"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
