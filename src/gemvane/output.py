"""What leaves the program: one JSON object or tables on stdout, notes on stderr, files whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 120
"""Columns of what is piped or saved; a terminal has its own."""


def show(*parts: RenderableType) -> None:
    """Print tables and lines on stdout, all or nothing."""
    from rich.console import Console

    from gemvane.render import GLUE

    width = None if sys.stdout.isatty() else max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    lines = captured.get().replace(GLUE, " ").splitlines()
    show_text("".join(f"{line.rstrip(' ')}\n" for line in lines))


def show_json(thing: dict[str, Any] | list[Any]) -> None:
    """Print one JSON object, or one list of them, on stdout."""
    show_text(as_json(thing))


def show_text(text: str) -> None:
    """Print finished text on stdout."""
    sys.stdout.write(text)


def as_json(thing: dict[str, Any] | list[Any]) -> str:
    return json.dumps(thing, indent=2, allow_nan=False) + "\n"


def note(text: str) -> None:
    """A line on stderr that is no error."""
    sys.stderr.write(text + "\n")


def check_folder(folder: Path | None) -> None:
    """ValueError where --out cannot become a folder, before anything is computed."""
    if folder is not None and _nearest(folder).is_file():
        raise ValueError(f"--out {folder}: {_nearest(folder)} is a file. Expected a folder, which is made if it is not there.")


def check_file(path: Path, option: str = "-o") -> None:
    """ValueError where a file cannot be written at `path`, before anything is computed."""
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder. Expected the name of a file.")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}.")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block ends well, and vanish when it does not."""
    temporary = Path(tempfile.mkdtemp(prefix=".gemvane-", dir=_nearest(folder)))
    try:
        yield temporary
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(temporary.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _nearest(path: Path) -> Path:
    """The path, or the first folder above it that exists."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.exists())
