"""The examples of README.md and docs/: found, run, and (with --write, of all pages or of those named) given their real output.

A ```console block holds commands after "$ " and what they print; a line "..." stands for any lines. A ```python block
is run as a script; what it prints follows in a ```text block, if there is one right behind it. Notebooks are run cell by cell.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
COLUMNS = "118"


@dataclass(frozen=True)
class Example:
    """One command or script, and the output that the page shows."""

    page: Path
    line: int
    language: str
    source: str
    shown: str


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(page: Path) -> Iterator[Example]:
    """Everything runnable of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        if block[1] == "python":
            yield Example(page, line, "python", block[2], block[3] or "")
            continue
        for part in re.split(r"^(?=\$ )", block[2], flags=re.MULTILINE):
            if part.startswith("$ "):
                command, _, shown = part.partition("\n")
                yield Example(page, line, "console", command.removeprefix("$ "), shown)


def run(example: Example, folder: Path) -> str:
    """What the example prints, standard error included."""
    environment = {**os.environ, "COLUMNS": COLUMNS, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    if example.language == "python":
        command = [sys.executable, "-c", example.source]
    else:
        command = ["bash", "-c", example.source.replace("gemvane ", f"{sys.executable} -m gemvane ", 1)]
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + ("\n" if done.stdout else "")


def runnable(example: Example) -> bool:
    """Python, and commands that only gemvane or simple reading and writing of files needs."""
    return example.language == "python" or example.source.split()[0] in ("gemvane", "cat", "ls", "sed")


def agrees(shown: str, printed: str) -> bool:
    """Whether the page shows what was printed; "..." alone on a line stands for any lines."""
    pattern = "".join(r"(?:.*\n)*?" if line.strip() == "..." else re.escape(line.rstrip()) + "\n" for line in shown.splitlines())
    return re.fullmatch(pattern, printed) is not None


def rewritten(page: Path, folder: Path) -> str:
    """The page with the real output behind its examples (console blocks with a "..." are left alone)."""

    def block(match: re.Match[str]) -> str:
        if match[1] == "python":
            printed = run(Example(page, 0, "python", match[2], ""), folder)
            return f"```python\n{match[2]}```\n" + (f"\n```text\n{printed}```\n" if printed else "")
        if re.search(r"^\.\.\.$", match[2], re.MULTILINE):
            return match[0]
        out = []
        for part in re.split(r"^(?=\$ )", match[2], flags=re.MULTILINE):
            command = part.partition("\n")[0]
            example = Example(page, 0, "console", command.removeprefix("$ "), "")
            out.append(f"{command}\n{run(example, folder)}" if part.startswith("$ ") and runnable(example) else part)
        return "```console\n" + "".join(out) + "```\n"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def notebooks() -> list[Path]:
    return sorted((ROOT / "docs").glob("*.ipynb"))


def executed(path: Path, folder: Path) -> Any:
    """The notebook with the outputs of a fresh run, without what differs from run to run."""
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    for number, cell in enumerate(notebook.cells):
        cell.metadata, cell.id = {}, f"cell-{number}"
    return notebook


if __name__ == "__main__" and "--write" in sys.argv:
    named = [Path(word).resolve() for word in sys.argv[1:] if word != "--write"]
    for path in named or [*pages(), *notebooks()]:
        with tempfile.TemporaryDirectory() as name:
            if path.suffix == ".ipynb":
                import nbformat

                nbformat.write(executed(path, Path(name)), path)
            else:
                path.write_text(rewritten(path, Path(name)), encoding="utf-8")
