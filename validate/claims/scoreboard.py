"""Claims run: claimed and simulated figures side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .bench import Bench
from .page import Page
from .question import Question, ask
from .value import UNITS, bound, figures_of, quantity, unchanged, written

VERDICTS = ("reproduced", "right direction", "not reproduced", "not modelled")
FIGURES = {
    "ttft": "latency", "tpot": "latency", "latency": "latency", "energy": "energy", "energy_per_token": "energy",
    "compute_energy": "energy", "weights": "memory", "kv_cache": "memory", "memory": "memory", "result": "memory", "flops": "FLOPs",
    "mfu": "utilisation", "share": "share of time",
}
"""Figures of an experiment that are written otherwise as a kind of figure; the others go by their name."""


@dataclass(frozen=True)
class Row:
    """One claim, run. Where it is not modelled there is the claimed text, but no simulated figure, ratio or number."""

    page: str
    id: str
    claim: str
    paper: str
    kind: str
    claimed: str
    simulated: str | None
    ratio: float | None
    """Simulated over claimed."""
    verdict: str
    """One of VERDICTS."""
    reason: str
    """What counts as agreement and why; or why it is not modelled."""
    why: str | None
    """What explains a difference."""
    assumptions: list[str]
    """Of this claim; those of its page come beside."""
    setting: str | None = None
    """Labels of the axes over which the figure is taken; in brackets how many settings that makes."""
    spread: str | None = None
    """The least and greatest of the settings."""
    unit: str | None = None
    """SI unit of the two numbers; empty for a ratio."""
    claimed_value: float | None = None
    simulated_value: float | None = None
    figure: str | None = None
    """Kind of figure: latency, memory, energy ..."""
    priority: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(pages: Sequence[Page], watch: Callable[[list[Any]], Iterable[Any]] = iter, bench: Bench | None = None) -> list[Row]:
    """Every claim of the pages, in order. `watch` passes the claims on and may show how far it is.

    Everything is loaded and checked before the first is simulated: ValueError with file, line and key.
    """
    bench = Bench() if bench is None else bench
    todo = [(page, name, _question(page, name)) for page in pages for name in page.spec.claims]
    for _, _, question in todo:
        if question is not None:
            question.prepare(bench)
    return [_row(page, name, question, bench) for page, name, question in watch(todo)]


def _question(page: Page, name: str) -> Question | None:
    """What a claim asks for; None where it cannot be expressed."""
    claim, path = page.spec.claims[name], ("claims", name)
    if claim.value is None:
        return None
    question = ask(page, path, (*path, "value"), claim.value, claim.over, claim.experiments)
    if not question.settings:
        raise page.fault((*path, "over"), "every setting of it is left out.")
    if not figures_of(claim.value):
        raise page.fault((*path, "value"), f"{claim.value!r} has no figure in it. Expected one of an experiment.")
    try:
        quantity(claim.claimed, question.unit)
    except ValueError as error:
        raise page.fault((*path, "claimed"), error) from None
    return question


def verdict(simulated: float, claimed: float, within: float | None, side: str | None, nothing: float | None) -> str:
    """The word for a simulated figure.

    Reproduced: as near the claimed figure as `within`, a share of it; or, of a bound, on its `side` ("below" or "above"). Right direction:
    not so, but on the claimed side of `nothing`, the figure of no change; None where the claim compares nothing.
    """
    met = simulated < claimed if side == "below" else simulated > claimed
    if met if within is None else abs(simulated / claimed - 1) <= within:
        return "reproduced"
    toward_claim = nothing is not None and (simulated - nothing) * (claimed - nothing) > 0
    return "right direction" if toward_claim else "not reproduced"


def _row(page: Page, name: str, question: Question | None, bench: Bench) -> Row:
    claim = page.spec.claims[name]
    head, tail = (page.name, name, claim.claim, page.spec.papers[claim.paper], claim.kind, claim.claimed), (claim.why, claim.assumptions)
    if question is None:
        return Row(*head, None, None, "not modelled", str(claim.cannot), *tail, figure=claim.figure, priority=claim.priority)
    simulated, claimed, side = question.answer(bench), quantity(claim.claimed, question.unit), bound(claim.claimed)
    within = None if claim.within is None else claim.within.share
    reason = f"any figure {side} it" if claim.within is None else f"within {100 * claim.within.share:.3g} %: {claim.within.because}"
    found = verdict(simulated, claimed, within, side, unchanged(question.value, question.unit, claim.claimed))
    return Row(*head, written(simulated, question.unit, claim.claimed), simulated / claimed, found, reason, *tail,
               setting=_setting(question), spread=question.spread(bench, claim.claimed), unit=UNITS[question.unit][0],
               claimed_value=claimed, simulated_value=simulated, figure=_kind_of_figure(question), priority=claim.priority)


def _kind_of_figure(question: Question) -> str:
    """What a value is a figure of: by the first that it names."""
    head = figures_of(question.value)[0][1].partition(".")[0]
    return FIGURES.get(head, head)


def _setting(question: Question) -> str | None:
    """ "every batch; model 7B; lengths ShareGPT (5)": labels of each axis, and how many settings there are."""
    count = len(question.settings)
    axes = {axis: list(dict.fromkeys(one[axis] for one in question.settings)) for axis in question.settings[0]}
    whole = [axis for axis, labels in axes.items() if labels == list(question.page.spec.axes[axis])]
    parts = [*([f"every {', '.join(whole)}"] if whole else []),
             *(f"{axis} {', '.join(labels)}" for axis, labels in axes.items() if axis not in whole)]
    return "; ".join(parts) + (f" ({count})" if count > 1 else "") or None
