"""gemvane validate page"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from gemvane import output
from gemvane.commands.validate import read_table, replace, watched


def page(found: list[Path], file: Path) -> None:
    """Write the page of errors and its plots; tables that are bundled come last, or alone where none is given."""
    from gemvane.validate import chapters
    from gemvane.validate import page as pages
    from gemvane.validate.kerneltable import record_path

    if file.suffix != ".md":
        raise ValueError(f"-o {file}: the page is written as .md, not {file.suffix or 'without a suffix'!r}.")
    output.check_file(file)
    bundled = sorted(Path(str(resources.files("gemvane.validate") / "measured")).glob("*.csv"))
    sources = []
    for path in [*found, *bundled]:
        record = record_path(path)
        machine = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else None
        sources.append(pages.Source(path.name, read_table(path), machine))
    text, plots = pages.write(sources, chapters.ALL, watched, plots=file.stem)
    for name, svg in plots.items():
        replace(file.with_name(name), lambda partial, svg=svg: partial.write_text(svg, encoding="utf-8"))  # type: ignore[misc]
    replace(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    output.show(f"-> {file}", *(f"-> {file.with_name(name)}" for name in plots))
