"""A page of claims: a YAML file, checked before anything is simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gemvane.sim.hardware import nearest
from gemvane.sim.quantity import Share, Strict
from gemvane.sim.yamlcheck import validated
from gemvane.sim.yamltree import Tree, dotted, read_tree

from .value import bound

Label = Annotated[str, BeforeValidator(lambda label: str(label) if isinstance(label, int) else label)]
Over = dict[str, Literal["all"] | list[Label]]
"""Axis -> which of its labels."""


class Experiment(Strict):
    """Something to simulate: one kernel, or a model in a scenario, on hardware. A label of an axis says a part of that."""

    hardware: str | None = None
    """A bundled name, or the path of a YAML file."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Numbers of the hardware that differ, by dotted key."""
    kernel: dict[str, Any] | None = None
    """A row of a kernel table: op, dtype and sizes."""
    model: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """Keys of the model's config.json that differ."""
    mixer: list[dict[str, Any]] = Field(default_factory=list)
    """Steps of a chain (workloads/parts.py) that stands in the place of every attention."""
    scenario: dict[str, Any] = Field(default_factory=dict)
    counted_as: str | None = None
    """Model whose parameters count in `mfu`, where the one that runs is padded."""


def joined(parts: Sequence[Experiment]) -> Experiment:
    """One experiment: what a later part says holds, and mappings are joined key by key."""
    out: dict[str, Any] = {}
    for part in parts:
        for key, value in part.model_dump(exclude_unset=True).items():
            out[key] = {**out.get(key, {}), **value} if isinstance(value, dict) else value
    return Experiment(**out)


class Within(Strict):
    """What counts as agreement: the simulated figure so near the claimed one, and why so near."""

    share: Share
    because: str


class Claim(Strict):
    claim: str
    paper: str
    """Key of the page's `papers`."""
    kind: Literal["measured", "modelled", "claimed"]
    """Measured on a machine, from a model or simulator of the paper's own, or said without either."""
    priority: Literal["A", "B"] | None = None
    """A: what the paper needs is a feature of the hardware or its schedule. B: it changes the workload. None for other papers."""
    claimed: str
    """The figure: "96 ms", "76 %", "3 x"; or a bound, "> 1 x"."""
    experiments: dict[str, Experiment] = Field(default_factory=dict)
    """Beside those of the page."""
    over: Over = Field(default_factory=dict)
    """The settings: every combination of these labels."""
    value: str | None = None
    """The same figure of ours: "run.tpot", or arithmetic as in "a.tpot / b.tpot"; in several settings, "mean(a.tpot / b.tpot)"."""
    within: Within | None = None
    """Left out with a bound."""
    assumptions: list[str] = Field(default_factory=list)
    """Beside those of the page."""
    why: str | None = None
    """Which mechanism explains a difference."""
    cannot: str | None = None
    """Why no experiment can show it."""
    figure: str | None = None
    """Kind of figure (latency, parameters, accuracy ...) of a claim that no experiment shows; of others the value says it."""

    @model_validator(mode="after")
    def _shows_or_says_why_not(self) -> Claim:
        if self.cannot is not None:
            for key in ("experiments", "over", "value", "within"):
                if getattr(self, key):
                    raise ValueError(f"{key} is there although the claim cannot be expressed. Expected one or the other")
            return self
        if self.value is None:
            raise ValueError("value is missing. Expected experiments, value and within, or cannot with the reason")
        if (self.within is None) != (bound(self.claimed) is not None):
            found = "missing" if self.within is None else f"there although {self.claimed!r} is a bound"
            raise ValueError(f"within is {found}. Expected it with a figure, and not with a bound")
        return self


class Plot(Strict):
    title: str
    x: str
    """Axis whose labels stand on the x axis."""
    y: str
    """What stands on the y axis, without its unit."""
    unit: str
    """"%", "x", "ms" ..."""
    series: dict[str, str]
    """Label -> value, as a claim's; over all settings that a point stands for."""
    over: Over
    by: str | None = None
    """Axis with one line a label."""
    panels: str | None = None
    """Axis with one panel a label."""
    claimed: dict[str, str] = Field(default_factory=dict)
    """Label of a series -> the claimed figure."""

    @model_validator(mode="after")
    def _names_are_there(self) -> Plot:
        for key in ("x", "by", "panels"):
            axis = getattr(self, key)
            if axis is not None and axis not in self.over:
                raise ValueError(f"{key}: {axis!r} is not in over. Expected one of {', '.join(self.over)}")
        for label in self.claimed:
            if label not in self.series:
                raise ValueError(f"claimed: {label!r} is no series. Expected one of {', '.join(self.series)}")
        return self


class LeftOut(Strict):
    """Settings that do not run, and why."""

    settings: dict[str, Label]
    because: str


class PageSpec(Strict):
    schema_version: Literal[1]
    title: str
    papers: dict[str, str]
    """Name -> public citation."""
    assumptions: list[str] = Field(default_factory=list)
    """Of every claim here that is run."""
    experiments: dict[str, Experiment] = Field(default_factory=dict)
    """For every claim and plot here."""
    docs: str | None = None
    """File of docs that has the page, where that is not claims-NAME.md."""
    axes: dict[str, dict[Label, Experiment]] = Field(default_factory=dict)
    """Axis -> label -> what it changes in an experiment."""
    without: list[LeftOut] = Field(default_factory=list)
    claims: dict[str, Claim]
    plots: dict[str, Plot] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _papers_are_cited(self) -> PageSpec:
        for name, claim in self.claims.items():
            if claim.paper not in self.papers:
                near = nearest(claim.paper, list(self.papers))
                raise ValueError(f"claims.{name}.paper: {claim.paper!r} is not in papers{near}. Expected one of {', '.join(self.papers)}")
        return self


@dataclass(frozen=True)
class Page:
    """One file: its checked claims, and where in it each stands."""

    name: str
    spec: PageSpec
    tree: Tree

    @property
    def file(self) -> str:
        """The file of docs that has it in full."""
        return self.spec.docs or f"claims-{self.name}.md"

    def fault(self, path: tuple[Any, ...], said: object) -> ValueError:
        """What is wrong at a path of keys, with file and line."""
        return ValueError(f"{self.tree.at(path)}: {dotted(path)}: {said}")


def names() -> list[str]:
    """Bundled pages, sorted."""
    return sorted(_bundled())


def load(page: str | Path) -> Page:
    """The page of a bundled name or of a YAML file.

    Raises ValueError with file, line, key, value and wish for anything wrong in it.
    """
    where = str(page)
    if where in _bundled():
        text, file = _bundled()[where].read_text(encoding="utf-8"), f"validate/claims/{where}.yaml"
    else:
        path = Path(where)
        if not path.is_file():
            raise ValueError(f"unknown page of claims {where!r}{nearest(where, names())}; there are {', '.join(names())}; "
                             "or give the path of a YAML file.")
        try:
            text, file = path.read_text(encoding="utf-8"), where
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where}: cannot be read: {error}") from None
    tree = read_tree(text, file)
    return Page(Path(where).stem, validated(PageSpec, tree, tree.data, "page of claims", ""), tree)


@lru_cache(maxsize=1)
def _bundled() -> Mapping[str, Any]:
    folder = resources.files("gemvane.validate") / "claims"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}
