"""gemvane report, and the option --report of the commands that have something to show."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane import __version__, output
from gemvane.sim import rerun
from gemvane.sim.result import Result

if TYPE_CHECKING:
    from gemvane.validate.compare import Compared


def report(folder: Path, file: Path | None) -> None:
    """Write the report of a folder of results, into it unless `file` says otherwise."""
    from gemvane.report import folder as folders
    from gemvane.report import page

    page.check_installed()
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder. Expected one that gemvane run, compare, sweep or search wrote with --out.")
    path = file or folder / folders.FILE
    output.check_file(path)
    output.show_text(f"-> {of_folder(folder, path)}\n")


def check(file: Path | None) -> None:
    """ValueError where --report cannot be met, before anything is computed."""
    if file is None:
        return
    from gemvane.report import page

    output.check_file(file, "--report")
    page.check_installed()


def command_line() -> str:
    """What was typed."""
    return shlex.join(["gemvane", *sys.argv[1:]])


def save_meta(folder: Path, kind: str) -> None:
    """Write what `gemvane report` must know of a folder beside its results."""
    meta = {"kind": kind, "command": command_line(), "versions": rerun.versions()}
    (folder / rerun.META).write_text(output.as_json(meta), encoding="utf-8")


def of_run(result: Result, file: Path) -> Path:
    """Write the report of a run; where it went."""
    from gemvane.report import page, run

    return page.write(run.page(result, command_line()), file)


def of_comparison(found: dict[str, Any], file: Path) -> Path:
    """Write the report of a comparison, of the object that its --json prints; where it went."""
    from gemvane.report import compare, page

    return page.write(compare.page(found, command_line(), __version__), file)


def of_validation(compared: Compared, found: dict[str, Any], table: Path, file: Path) -> Path:
    """Write the report of a validation; where it went."""
    from gemvane.report import page, validation

    return page.write(validation.page(compared, found, table, command_line()), file)


def of_folder(folder: Path, file: Path) -> Path:
    """Write the report of a folder of results; where it went."""
    from gemvane.report import folder as folders
    from gemvane.report import page

    return page.write(folders.page(folder), file)
