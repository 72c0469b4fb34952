"""gemvane validate import"""

from __future__ import annotations

from pathlib import Path

from gemvane import output
from gemvane.validate import importers, kerneltable
from gemvane.validate import measure as measuring


def import_table(name: str, folder: Path, file: Path, json: bool) -> None:
    """A public measured table as a kernel table."""
    measuring.check_output(file)
    table = importers.read(name, folder)
    left_out: dict[str, int] = table.attrs.pop("left_out")
    kerneltable.write(table, file, {})
    counts = {str(op): int(count) for op, count in table["op"].value_counts().items()}
    if json:
        output.show_json({"table": str(file), "rows": len(table), "by_op": counts, "left_out": left_out})
        return
    from gemvane.render import facts, glued, plural

    repository, licence = importers.SOURCES[name]
    lost = [("left out" if i == 0 else "", f"{count:,} x {reason}") for i, (reason, count) in enumerate(left_out.items())]
    ops = ", ".join(f"{op} {count:,}" for op, count in counts.items())
    wrote = glued(f"-> {file} ({plural(len(table), 'row')})")
    output.show(facts([("source", f"{repository}, {licence}"), ("rows", ops), *lost]), "", wrote)
