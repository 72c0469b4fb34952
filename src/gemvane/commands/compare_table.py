"""gemvane validate compare"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemvane import output
from gemvane.commands import report as page
from gemvane.commands.validate import read_table, replace


def compare(table: Path, hw: str, json: bool, plot: Path | None = None, report: Path | None = None) -> None:
    """Measured kernels against simulated ones: errors by operator, type and regime, beside plain baselines; a plot and a report of them."""
    from gemvane.sim.hardware import load
    from gemvane.validate import compare as validation
    from gemvane.validate import scatter

    if plot is not None:
        if plot.suffix != ".svg":
            raise ValueError(f"--plot {plot}: the plot is written as .svg, not {plot.suffix or 'without a suffix'!r}.")
        output.check_file(plot)
    page.check(report)
    hardware, rows = load(hw), read_table(table)
    try:
        compared = validation.predict(rows, hardware)
        found = validation.report(compared)
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None
    if plot is not None:
        text = scatter.svg(compared)
        replace(plot, lambda partial: partial.write_text(text, encoding="utf-8"))
    if report is not None:
        page.of_validation(compared, found, table, report)
    if json:
        output.show_json(found)
    else:
        _screen(found, table, [path for path in (plot, report) if path is not None])


def _screen(found: dict[str, Any], table: Path, files: list[Path]) -> None:
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
    if found["unfused"]:
        out.add_section()
        for row in found["unfused"]["by"]:
            where = (f"{row['op']}, unfused", row["dtype"], row["framework"], row["regime"], row["bound"])
            out.add_row(*where, f"{row['rows']:,}", *_errors(row))
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
    if found["unfused"]:
        lines.append(("unfused", f"{plural(found['unfused']['rows'], 'row')} that ran as several kernels, apart below"))
    output.show(facts(lines), "", out, *(f"-> {file}" for file in files))


def _errors(row: dict[str, float]) -> list[str]:
    return [_percent(row["mape"]), _percent(row["median"]), _percent(row["p90"]), f"{100 * row['bias']:+.1f} %"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
