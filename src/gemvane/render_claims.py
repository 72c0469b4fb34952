"""Claims and what became of them: the screen of `gemvane validate claims`, and its page in markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gemvane.render import facts, glued, plural, table
from gemvane.validate.claims.page import Page
from gemvane.validate.claims.question import said
from gemvane.validate.claims.scoreboard import VERDICTS, Row

NUMBERS = ("claimed", "simulated", "ratio")
STYLES = {"not reproduced": "bold", "not modelled": "dim"}
PRIORITIES = {"A": "a feature of the hardware or its schedule", "B": "a change of the workload", None: "other papers"}


def screen(pages: Sequence[Page], rows: Sequence[Row]) -> list[Any]:
    """The table, the count of each verdict, what holds for whole pages, then what lies behind each claim."""
    common = [facts([(page.name, ""), *_common(page)]) for page in pages if _common(page)]
    return [*board(rows), *(part for lines in (*common, *map(_behind, rows)) for part in ("", lines))]


def board(rows: Sequence[Row]) -> list[Any]:
    """The table and the count of each verdict alone."""
    out = table("claim", *NUMBERS, "verdict", right=NUMBERS)
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].page != row.page
        cells = (glued(f"{row.page}/{row.id}: {row.claim}"), *_figures(row), row.verdict)
        out.add_row(*cells, style=STYLES.get(row.verdict), end_section=last)
    return [out, "", tally(rows)]


def tally(rows: Sequence[Row]) -> str:
    """ "12 claims: 5 reproduced, ..." in a line."""
    counts = ((verdict, sum(row.verdict == verdict for row in rows)) for verdict in VERDICTS)
    return f"{plural(len(rows), 'claim')}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts if count)


def _figures(row: Row) -> list[str]:
    return [row.claimed, row.simulated or "-", "-" if row.ratio is None else f"{row.ratio:.2f}"]


def details(row: Row) -> list[tuple[str, str]]:
    """What lies behind a claim: name and text of each line."""
    reason = "because" if row.simulated is None else "agreement"
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


def scoreboard(pages: Sequence[Page], rows: Sequence[Row]) -> str:
    """Every claim of every page in a row each, counts first, as a page for the docs."""
    counted = ["priority", "papers", "with a figure", "claims", *VERDICTS]
    parts = [
        "# Published claims", "", "Written by `gemvane validate claims -o`: what papers claim, and what gemvane simulates in that setting.",
        "Reproduced: as near as the page asks, or on the side of a bound. Right direction: on the claimed side of no change, but not",
        "as near. Not modelled: no experiment can show it, for the reason that stands beside. The pages behind the headings say what was",
        "assumed, what counts as near enough, and what explains a difference. No model has a number from a claim.",
        "", *_header(counted, counted[1:]),
        *(_line([PRIORITIES[priority] if priority is None else f"{priority}: {PRIORITIES[priority]}", *_counts(rows, priority)])
          for priority in PRIORITIES if any(row.priority == priority for row in rows)),
        _line(["all", *_counts(rows)]),
    ]
    for page in pages:
        own = [row for row in rows if row.page == page.name]
        columns = ["claim", "paper", "priority", "figure", *NUMBERS, "verdict", "setting or reason"]
        parts += ["", f"## [{page.spec.title}]({page.file})", "", *_header(columns, NUMBERS)]
        parts += [_line([row.claim, row.paper, row.priority or "-", row.figure or "-", *_figures(row), row.verdict, _reason(row)])
                  for row in own]
    return "\n".join(parts) + "\n"


def _counts(rows: Sequence[Row], *priority: str | None) -> list[str]:
    """Papers, those with a simulated figure, claims, and claims of each verdict, of one priority or of all."""
    own = [row for row in rows if not priority or row.priority in priority]
    papers, run = {row.paper for row in own}, {row.paper for row in own if row.simulated is not None}
    return [str(count) for count in (len(papers), len(run), len(own), *(sum(row.verdict == word for row in own) for word in VERDICTS))]


def _reason(row: Row) -> str:
    return row.reason if row.simulated is None else row.setting or "-"


def _header(columns: Sequence[str], right: Sequence[str]) -> list[str]:
    return [_line(columns), _line(["---:" if column in right else "---" for column in columns])]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def markdown(pages: Sequence[Page], rows: Sequence[Row], plots: Mapping[tuple[str, str], str]) -> str:
    """Pages in full for the docs; `plots` has the file of each plot, by the names of its page and of itself."""
    parts = ["# Published claims", "", "Written by `gemvane validate claims -o`. " + tally(rows) + "."]
    for page in pages:
        own = [row for row in rows if row.page == page.name]
        where = ["setting"] if any(row.setting for row in own) else []
        parts += ["", f"## {page.spec.title}", "", *_header(["claim", *NUMBERS, *where, "verdict"], NUMBERS)]
        parts += [_line([row.claim, *_figures(row), *([row.setting or "-"] if where else []), row.verdict]) for row in own]
        for name, text in _common(page):
            parts += [*([""] if (name, text) == _common(page)[0] else []), f"- {name}: {text}"]
        for name, plot in page.spec.plots.items():
            parts += ["", f"![{plot.title}]({plots[page.name, name]})"]
        for row in own:
            parts += ["", f"**{row.claim}.** {row.paper} ({row.kind})."]
            parts += [f"- {name or 'assumed'}: {text}" for name, text in details(row)[1:]]
    return "\n".join(parts) + "\n"
