"""gemvane validate"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane import output

if TYPE_CHECKING:
    import pandas as pd

    from gemvane.validate.claims.bench import Bench
    from gemvane.validate.claims.page import Page
    from gemvane.validate.claims.scoreboard import Row

ORACLES = {"ramulator": "Ramulator 2.1", "scalesim": "SCALE-Sim v2 and v3", "neupims": "NeuPIMs", "attacc": "AttAcc", "cent": "CENT"}
SUFFIXES = (".csv", ".parquet")


def oracles(name: str, table: Path, json: bool, file: Path | None) -> None:
    """Reproduce another simulator's table and say how far off we are."""
    if name not in ORACLES:
        from gemvane.sim.hardware import nearest

        raise ValueError(f"oracle {name!r} is unknown{nearest(name, list(ORACLES))}. Expected one of {', '.join(ORACLES)}.")
    if file is not None:
        if file.suffix != ".csv":
            raise ValueError(f"-o {file}: the rows are written as .csv, not {file.suffix or 'without a suffix'!r}.")
        output.check_file(file)
    rows = read_table(table)
    compare = _compare(name)
    try:
        found: dict[str, Any] = compare(rows, watched) if "watch" in signature(compare).parameters else compare(rows)
    except ValueError as error:
        raise ValueError(f"{table}: {error}") from None
    found["by"] = _listed(found["by"])
    detail = found.pop("detail", None)
    if file is not None:
        _save(name, detail, file)
    if json:
        output.show_json(found)
    else:
        _screen(found, table, file)


def claims(pages: list[str], json: bool, file: Path | None) -> None:
    """Run published claims and show claimed and simulated figures side by side: pages in full, or without names the scoreboard of all."""
    from gemvane import render_claims
    from gemvane.validate.claims import page, plots, scoreboard
    from gemvane.validate.claims.bench import Bench

    if file is not None:
        if file.suffix != ".md":
            raise ValueError(f"-o {file}: the page is written as .md, not {file.suffix or 'without a suffix'!r}.")
        output.check_file(file)
    loaded = [page.load(name) for name in pages or page.names()]
    bench = Bench()
    if pages:
        if file is not None and any(one.spec.plots for one in loaded):
            plots.check()
        for one in loaded:
            plots.prepare(one, bench)
    rows = scoreboard.run(loaded, watched, bench)
    if file is not None and pages:
        _write_page(loaded, rows, bench, file)
    elif file is not None:
        replace(file, partial(Path.write_text, data=render_claims.scoreboard(loaded, rows), encoding="utf-8"))
    if json:
        output.show_json([row.to_dict() for row in rows])
    else:
        shown = render_claims.screen(loaded, rows) if pages else render_claims.board(rows)
        output.show(*shown, *([] if file is None else ["", f"-> {file}"]))


def _write_page(pages: list[Page], rows: list[Row], bench: Bench, file: Path) -> None:
    """The page, and beside it an .svg file for each plot, named after both."""
    from gemvane import render_claims
    from gemvane.validate.claims import plots

    known = {(one.name, name): "-".join([file.stem, *([one.name] if one.name != file.stem else []), name]) + ".svg"
             for one in pages for name in one.spec.plots}
    drawn = {known[one.name, name]: plots.draw(one, name, plots.lines(one, name, bench)) for one in pages for name in one.spec.plots}
    texts = {**drawn, file.name: render_claims.markdown(pages, rows, known)}
    for name, text in texts.items():
        replace(file.with_name(name), partial(Path.write_text, data=text, encoding="utf-8"))


def read_table(table: Path) -> pd.DataFrame:
    """The rows of a .csv or .parquet file. ValueError, one sentence, for one that cannot be read."""
    import pandas as pd

    if table.suffix not in SUFFIXES:
        raise ValueError(f"{table}: a table is read from {' or '.join(SUFFIXES)}, not {table.suffix or 'without a suffix'!r}.")
    if not table.is_file():
        raise ValueError(f"{table}: there is no such file.")
    try:
        return pd.read_csv(table) if table.suffix == ".csv" else pd.read_parquet(table)
    except (ValueError, OSError) as error:
        raise ValueError(f"{table}: cannot be read as a table ({' '.join(str(error).split())}).") from None


def _compare(name: str) -> Any:
    """The function that compares a table of this oracle."""
    module = f"gemvane.validate.oracles.{name}"
    try:
        return importlib.import_module(module).compare
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(f"oracle {name!r} is not there yet in this version of gemvane.") from None


def watched(rows: list[Any]) -> Iterable[Any]:
    """The rows; on a terminal, with a bar on stderr."""
    if not sys.stderr.isatty():
        return rows
    from rich.console import Console
    from rich.progress import track

    return track(rows, "comparing", console=Console(stderr=True), transient=True)


def _listed(by: Any) -> list[dict[str, Any]]:
    """Groups as a list, also where they come by name."""
    return by if isinstance(by, list) else [{"group": group, **errors} for group, errors in by.items()]


def _save(name: str, detail: Any, file: Path) -> None:
    """The compared rows as CSV, whole or not at all."""
    import pandas as pd

    if detail is None:
        raise ValueError(f"-o {file}: {name} has no detail by row.")
    replace(file, lambda partial: pd.DataFrame(detail).to_csv(partial, index=False))


def replace(file: Path, write: Callable[[Path], object]) -> None:
    """A file written under another name and renamed: whole or not at all."""
    partial = file.with_name(file.name + ".partial")
    try:
        write(partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _screen(found: dict[str, Any], table: Path, file: Path | None) -> None:
    from gemvane.render import facts, glued, plural
    from gemvane.render import table as new_table

    numbers = ("rows", "exact", "mean error", "max error")
    out = new_table("group", *numbers, right=numbers)
    groups = found["by"]
    for i, group in enumerate(groups):
        out.add_row(str(group["group"]), *_cells(group), end_section=i + 1 == len(groups))
    out.add_row("all", *_cells({**found, "rows": found["compared"]}), style="bold")
    reasons = Counter(str(row["reason"]) for row in found["skipped"])
    lost = [f"{plural(count, 'row')}: {reason}" for reason, count in reasons.most_common()]
    skipped = [("skipped" if i == 0 else "", text) for i, text in enumerate(lost)]
    columns = found.get("columns", {})
    parts = [f"{column} {same:,}" for column, same in columns.items()]
    equal = [("equal in", ", ".join(parts))] if parts else []
    lines = [("oracle", ORACLES[found["oracle"]]), ("table", f"{table} ({plural(found['rows'], 'row')})"), *equal, *skipped]
    wrote = [] if file is None else [glued(f"-> {file} ({plural(found['compared'], 'row')})")]
    output.show(facts(lines), "", out, *wrote)


def _cells(group: dict[str, Any]) -> list[str]:
    exact = f"{group['exact']:,}" if "exact" in group else "-"
    return [f"{group.get('rows', group.get('compared', 0)):,}", exact, _percent(group["mape"]), _percent(group["max_error"])]


def _percent(share: float | None) -> str:
    if share is None:
        return "-"
    return "0" if share == 0 else f"{100 * share:.2f} %" if share >= 5e-5 else "<0.01 %"
