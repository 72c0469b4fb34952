"""The commands that show results and say why they are what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemvane.cli_options import (
    HW,
    Batch,
    Dtype,
    Json,
    Output,
    Pp,
    Prompt,
    Tp,
)
from gemvane.completion import hardware

Folder = Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="A folder that run, compare, sweep or search wrote.")]
File = Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Where to write it. [default: DIR/report.html]", show_default=False)]
What = Annotated[str, typer.Argument(metavar="DIR|MODEL", show_default=False,
                                     help="A folder that `gemvane run --out` wrote; or a model, with --hw and its scenario.")]
Operator = Annotated[str | None, typer.Argument(metavar="[OP]", show_default=False, help="An operator, as gate_up or decode:gate_up. "
                                                "[default: the one that takes longest]")]
Machine = Annotated[str | None, typer.Option("--hw", metavar="HW", help=f"Of a model: {HW}.", show_default=False, autocompletion=hardware)]


def add(app: typer.Typer) -> None:
    """Give the program these commands."""
    app.command("report")(_report)
    app.command("explain")(_explain)


def _report(folder: Folder, file: File = None) -> None:
    """The results of a folder as one HTML file that opens offline."""
    from gemvane.commands import report as command

    command.report(folder, file)


def _explain(
    what: What, op: Operator = None, hw: Machine = None, batch: Batch = None, prompt: Prompt = "512", output: Output = 128,
    dtype: Dtype = "bf16", tp: Tp = 1, pp: Pp = 1, json: Json = False,
) -> None:
    """Why an operator takes the time it does, and what would have to change."""
    from gemvane.commands import explain as command
    from gemvane.commands import scenario

    asked = scenario.options(batch, prompt, output=output, dtype=dtype, tp=tp, pp=pp)
    command.explain(what, op, hw, asked, json)
