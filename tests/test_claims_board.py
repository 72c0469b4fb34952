"""The scoreboard of all bundled pages, and the pages in docs: what stands there is what the command writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gemvane import render_claims
from gemvane.cli import app
from gemvane.validate.claims import page, scoreboard
from gemvane.validate.claims.bench import Bench

RUNNER = CliRunner()
DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {name: page.load(name) for name in page.names()}
SLOW = ("neupims",)
QUICK = [name for name in PAGES if name not in SLOW]


@pytest.fixture(scope="module")
def board() -> dict[str, list[scoreboard.Row]]:
    """Every row of every quick page, run once."""
    rows = scoreboard.run([PAGES[name] for name in QUICK], bench=Bench())
    return {name: [row for row in rows if row.page == name] for name in QUICK}


@pytest.mark.parametrize("name", QUICK)
def test_every_claim_that_is_not_reproduced_is_explained(board: dict[str, list[scoreboard.Row]], name: str) -> None:
    for row in board[name]:
        assert row.why or row.verdict in ("reproduced", "not modelled"), row.id


@pytest.mark.parametrize("name", PAGES)
def test_every_claim_that_is_run_says_what_it_assumes(name: str) -> None:
    spec = PAGES[name].spec
    for one, claim in spec.claims.items():
        assert claim.assumptions or spec.assumptions or claim.cannot, one


def test_a_paper_stands_on_one_page() -> None:
    homes: dict[str, set[str]] = {}
    for name, one in PAGES.items():
        for citation in one.spec.papers.values():
            for number in re.findall(r"arXiv (\d{4}\.\d{5})", citation):
                homes.setdefault(number, set()).add(name)
    assert {number: sorted(names) for number, names in homes.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", PAGES)
def test_every_paper_of_a_page_is_claimed(name: str) -> None:
    spec = PAGES[name].spec
    assert set(spec.papers) == {claim.paper for claim in spec.claims.values()}


@pytest.mark.parametrize("name", QUICK)
def test_the_pages_in_docs_are_what_the_command_writes(board: dict[str, list[scoreboard.Row]], name: str) -> None:
    file = DOCS / PAGES[name].file
    plots = {(name, plot): f"{file.stem}-{name}-{plot}.svg" for plot in PAGES[name].spec.plots}
    assert file.read_text(encoding="utf-8") == render_claims.markdown([PAGES[name]], board[name], plots)
    assert all((DOCS / svg).is_file() for svg in plots.values())


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_scoreboard_in_docs_has_every_claim_as_it_comes_out_now(board: dict[str, list[scoreboard.Row]]) -> None:
    lines = [cells(line) for line in (DOCS / "claims.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    for rows in board.values():
        for row in rows:
            ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
            wanted = [row.priority or "-", row.figure or "-", row.claimed, row.simulated or "-", ratio, row.verdict]
            escaped = (row.claim.replace("|", "\\|"), row.paper.replace("|", "\\|"))
            assert wanted in [line[2:8] for line in lines if tuple(line[:2]) == escaped], f"{row.page}/{row.id}"


def test_the_totals_of_the_scoreboard_are_sums_of_its_rows() -> None:
    lines = [cells(line) for line in (DOCS / "claims.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    header, totals = lines[0], [line for line in lines if len(line) == len(lines[0]) and not set("".join(line)) <= set("-: ")][1:]
    claims = [line for line in lines if len(line) == 9 and line[0] != "claim" and not set("".join(line)) <= set("-: ")]
    for first, *counts in totals:
        own = [line for line in claims if first == "all" or line[2] == (first[0] if ":" in first else "-")]
        verdicts = [sum(line[7] == word for line in own) for word in header[4:]]
        papers, run = {line[1] for line in own}, {line[1] for line in own if line[7] != "not modelled"}
        assert counts == [str(count) for count in (len(papers), len(run), len(own), *verdicts)], first
    assert len(claims) == sum(len(one.spec.claims) for one in PAGES.values())


def test_every_heading_of_the_scoreboard_links_to_the_page_in_full() -> None:
    text = (DOCS / "claims.md").read_text(encoding="utf-8")
    links = re.findall(r"^## \[(.+)\]\((.+)\)$", text, re.MULTILINE)
    assert links == [(one.spec.title, one.file) for one in PAGES.values()]
    for title, file in links:
        assert f"## {title}\n" in (DOCS / file).read_text(encoding="utf-8")


def test_the_command_without_names_writes_the_scoreboard_of_all_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "names", lambda: ["compression", "tpu"])
    file = tmp_path / "claims.md"
    done = RUNNER.invoke(app, ["validate", "claims", "-o", str(file)])
    assert done.exit_code == 0, done.stderr
    rows = scoreboard.run([PAGES["compression"], PAGES["tpu"]])
    assert file.read_text(encoding="utf-8") == render_claims.scoreboard([PAGES["compression"], PAGES["tpu"]], rows)
    assert render_claims.tally(rows) in done.stdout and "agreement" not in done.stdout


@pytest.mark.slow
def test_the_scoreboard_in_docs_is_what_the_command_writes(tmp_path: Path) -> None:
    file = tmp_path / "claims.md"
    assert RUNNER.invoke(app, ["validate", "claims", "-o", str(file)]).exit_code == 0
    assert file.read_text(encoding="utf-8") == (DOCS / "claims.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in PAGES.items() if one.spec.plots])
def test_the_plots_in_docs_are_what_the_command_writes(name: str, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["validate", "claims", name, "-o", str(tmp_path / PAGES[name].file)])
    assert done.exit_code == 0, done.stderr
    made = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert len(made) == 1 + len(PAGES[name].spec.plots)
    for part, text in made.items():
        assert text == (DOCS / part).read_text(encoding="utf-8"), part


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_claim_of_a_slow_page_that_is_not_reproduced_is_explained(name: str) -> None:
    for row in scoreboard.run([PAGES[name]]):
        assert row.why or row.verdict in ("reproduced", "not modelled"), row.id
