"""Claims and what became of them: the screen of `gemvane validate claims`, and its page in markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemvane.render import facts, glued, plural, table
from gemvane.validate.claims.page import Page
from gemvane.validate.claims.question import said
from gemvane.validate.claims.scoreboard import Row

NUMBERS = ("claimed", "simulated", "ratio")
VERDICTS = ("agrees", "differs", "cannot be expressed")


def screen(pages: Sequence[Page], rows: Sequence[Row]) -> list[Any]:
    """The table, the count of each verdict, what holds for whole pages, then what lies behind each claim."""
    out = table("claim", *NUMBERS, "verdict", right=NUMBERS)
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].page != row.page
        style = {"agrees": None, "differs": "bold", "cannot be expressed": "dim"}[row.verdict]
        out.add_row(glued(f"{row.page}/{row.id}: {row.claim}"), *_figures(row), row.verdict, style=style, end_section=last)
    common = [facts([(page.name, ""), *_common(page)]) for page in pages if _common(page)]
    return [out, "", tally(rows), *(part for lines in (*common, *map(_behind, rows)) for part in ("", lines))]


def tally(rows: Sequence[Row]) -> str:
    """ "12 claims: 5 agree, ..." in a line."""
    counts = [sum(row.verdict == verdict for row in rows) for verdict in VERDICTS]
    words = ("agree" if counts[0] != 1 else "agrees", "differ" if counts[1] != 1 else "differs", "cannot be expressed")
    return f"{plural(len(rows), 'claim')}: " + ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True) if count)


def _figures(row: Row) -> list[str]:
    return [row.claimed, row.simulated or "-", "-" if row.ratio is None else f"{row.ratio:.2f}"]


def details(row: Row) -> list[tuple[str, str]]:
    """What lies behind a claim: name and text of each line."""
    reason = "because" if row.verdict == "cannot be expressed" else "agreement"
    assumed = [("assumed" if i == 0 else "", text) for i, text in enumerate(row.assumptions)]
    known = (("setting", row.setting), ("spread", row.spread), (reason, row.reason))
    return [("paper", f"{row.paper} ({row.kind})"), *((name, text) for name, text in known if text), *assumed,
            *([("why", row.why)] if row.why else [])]


def _common(page: Page) -> list[tuple[str, str]]:
    """What holds for every claim of a page that is run."""
    return [*((axis, ", ".join(labels)) for axis, labels in page.spec.axes.items()),
            *(("assumed", text) for text in page.spec.assumptions),
            *(("left out", f"{said(one.settings)}: {one.because}")
              for one in page.spec.without)]


def _behind(row: Row) -> Any:
    return facts([(f"{row.id}", row.verdict), *details(row)])


def markdown(pages: Sequence[Page], rows: Sequence[Row], plots: Mapping[tuple[str, str], str]) -> str:
    """The same as a page for the docs; `plots` has the file of each plot, by the names of its page and of itself."""
    parts = ["# Published claims", "", "Written by `gemvane validate claims -o`. " + tally(rows) + "."]
    for page in pages:
        own = [row for row in rows if row.page == page.name]
        where = ["setting"] if any(row.setting for row in own) else []
        columns = ["claim", *NUMBERS, *where, "verdict"]
        rules = ["---:" if column in NUMBERS else "---" for column in columns]
        parts += ["", f"## {page.spec.title}", "", f"| {' | '.join(columns)} |", f"| {' | '.join(rules)} |"]
        for row in own:
            cells = (row.claim, *_figures(row), *([row.setting or "-"] if where else []), row.verdict)
            parts.append("| " + " | ".join(_cell(text) for text in cells) + " |")
        for name, text in _common(page):
            parts += [*([""] if (name, text) == _common(page)[0] else []), f"- {name}: {text}"]
        for name, plot in page.spec.plots.items():
            parts += ["", f"![{plot.title}]({plots[page.name, name]})"]
        for row in own:
            parts += ["", f"**{row.claim}.** {row.paper} ({row.kind})."]
            parts += [f"- {name or 'assumed'}: {text}" for name, text in details(row)[1:]]
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
