"""The commands that simulate many points of a design space."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemvane.cli_options import Report

SpaceFile = Annotated[Path, typer.Argument(metavar="SPACE", help="A YAML file that says what varies (docs/sweeps.md).", show_default=False)]
Jobs = Annotated[int | None, typer.Option(metavar="N", min=1, help="Processes that simulate. [default: one a core]", show_default=False)]
Dask = Annotated[str | None, typer.Option(metavar="ADDRESS", help="The scheduler of a Dask cluster that simulates instead.",
                                          show_default=False)]
Shard = Annotated[str | None, typer.Option(metavar="I/N", help="Only every N-th point from the I-th on: N machines may share a folder.",
                                           show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", show_default=False,
                                          help="The folder of the results. [default: the name of SPACE with -sweep or -search]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def add(app: typer.Typer) -> None:
    """Give the program these commands."""
    app.command("sweep")(_sweep)
    app.command("search")(_search)


def _sweep(space: SpaceFile, jobs: Jobs = None, dask: Dask = None, shard: Shard = None, out: Out = None, json: Json = False,
           report: Report = None) -> None:
    """Every point of a design space; run it again and it goes on where it stopped."""
    from gemvane.commands import sweep as command

    command.sweep(space, jobs, dask, shard, out, json, report)


def _search(space: SpaceFile, jobs: Jobs = None, dask: Dask = None, out: Out = None, json: Json = False,
            report: Report = None) -> None:
    """The best points of a design space, for several objectives under limits."""
    from gemvane.commands import search as command

    command.search(space, jobs, dask, out, json, report)
