"""gemvane validate calibrate"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane import output
from gemvane.commands.validate import read_table, watched

if TYPE_CHECKING:
    from gemvane.sim.hardware import Hardware


def calibrate(table: Path, hw: str, file: Path | None, json: bool) -> None:
    """Fit a GPU's or a CPU's numbers to a measured kernel table and write its file; the old file stays where the fit fails."""
    from gemvane.sim.hardware import load
    from gemvane.validate import calibrate as fit
    from gemvane.validate import calibration_file, energy_fit

    hardware = load(hw)
    if any(unit.kind == "cpu" for unit in hardware.spec.units.values()):
        _cpu(table, hardware, file, json)
        return
    target = file or _bundled(hardware.name)
    if target.suffix != ".yaml":
        raise ValueError(f"-o {target}: a calibration is written as .yaml, not {target.suffix or 'without a suffix'!r}.")
    output.check_file(target)
    rows = read_table(table)
    try:
        tested = fit.calibrate(rows, hardware, watched)
        found = fit.calibrate(rows, hardware, watched, whole=True)
        energy = energy_fit.fit(rows, hardware)
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None
    data = calibration_file.save(found, tested, rows, hardware, target, energy)
    if json:
        output.show_json(data | {"file": str(target), "left_out": list(found.left_out)})
    else:
        _screen(data, table, target, found.left_out)


def _cpu(table: Path, hardware: Hardware, file: Path | None, json: bool) -> None:
    """A CPU's fit is a hardware file of its own, which extends the one that was given."""
    from gemvane.render import facts, percent
    from gemvane.sim.hardware import names
    from gemvane.validate import calibrate_cpu

    if file is None:
        raise ValueError(f"{hardware.name} is a CPU: name the hardware file to write with -o FILE.yaml.")
    if file.suffix != ".yaml":
        raise ValueError(f"-o {file}: a hardware file is written as .yaml, not {file.suffix or 'without a suffix'!r}.")
    output.check_file(file)
    base = Path(hardware.tree.mark(("name",))[0])
    extends = hardware.name if hardware.name in names() else os.path.relpath(base, file.parent)
    try:
        found = calibrate_cpu.calibrate(read_table(table), hardware)
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None
    calibrate_cpu.save(found, hardware, extends, file.stem, file)
    if json:
        output.show_json({"hardware": file.stem, "rows": found.rows, "train": found.train, "held_out": found.held_out, "file": str(file)})
        return
    output.show(facts([("hardware", f"{file.stem}, extends {extends}"), ("table", f"{table} ({found.rows} rows fitted)"),
                       ("error", f"{percent(found.train)} on the fitted half of the shapes, {percent(found.held_out)} on the other")]),
                "", f"-> {file}")


def _bundled(name: str) -> Path:
    """The file of that name among the bundled calibrations."""
    import gemvane.hw_configs as configs

    return Path(str(configs.__file__)).parent / "calibration" / f"{name}.yaml"


def _screen(data: dict[str, Any], table: Path, target: Path, left_out: tuple[str, ...]) -> None:
    from gemvane.render import facts
    from gemvane.render import table as new_table

    out = new_table("operator", "type", "framework", "rows", "fitted", "held out", right=("rows", "fitted", "held out"))
    for row in data["errors"]:
        out.add_row(row["op"], row["dtype"], row["framework"], f"{row['rows']:,}", f"{100 * row['train']:.1f} %",
                    f"{100 * row['held_out']:.1f} %")
    numbers = new_table("number of the GPU", "value", "95 % interval", right=("value", "95 % interval"))
    for name, fit in data["physics"].items():
        numbers.add_row(name, f"{fit['value']:g}", f"{fit['low']:g} to {fit['high']:g}")
    lost = [("left out" if i == 0 else "", text) for i, text in enumerate(left_out)]
    output.show(facts([("hardware", data["name"]), ("table", str(table)), *lost]), "", numbers, "", out, f"-> {target}")
