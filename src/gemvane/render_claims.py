"""Claims and what became of them: the screen of `gemvane validate claims`, and its page in markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gemvane.render import facts, glued, plural, table
from gemvane.validate.claims.scoreboard import Row

NUMBERS = ("claimed", "simulated", "ratio")
VERDICTS = ("agrees", "differs", "cannot be expressed")


def screen(rows: Sequence[Row]) -> list[Any]:
    """The table, the count of each verdict, then what lies behind each claim."""
    out = table("claim", *NUMBERS, "verdict", right=NUMBERS)
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].page != row.page
        style = {"agrees": None, "differs": "bold", "cannot be expressed": "dim"}[row.verdict]
        out.add_row(glued(f"{row.page}/{row.id}: {row.claim}"), *_figures(row), row.verdict, style=style, end_section=last)
    return [out, "", tally(rows), *(part for row in rows for part in ("", _behind(row)))]


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
    return [("paper", f"{row.paper} ({row.kind})"), (reason, row.reason), *assumed, *([("why", row.why)] if row.why else [])]


def _behind(row: Row) -> Any:
    return facts([(f"{row.id}", row.verdict), *details(row)])


def markdown(titles: dict[str, str], rows: Sequence[Row]) -> str:
    """The same as a page for the docs; `titles` names each page of claims."""
    parts = ["# Published claims", "", "Written by `gemvane validate claims -o`. " + tally(rows) + "."]
    for page, title in titles.items():
        own = [row for row in rows if row.page == page]
        parts += ["", f"## {title}", "", "| claim | claimed | simulated | ratio | verdict |", "| --- | ---: | ---: | ---: | --- |"]
        parts += ["| " + " | ".join(_cell(text) for text in (row.claim, *_figures(row), row.verdict)) + " |" for row in own]
        for row in own:
            parts += ["", f"**{row.claim}.** {row.paper} ({row.kind})."]
            parts += [f"- {name or 'assumed'}: {text}" for name, text in details(row)[1:]]
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
