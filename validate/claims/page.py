"""A page of claims: a YAML file, checked before anything is simulated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from gemvane.sim.hardware import nearest
from gemvane.sim.quantity import Share, Strict
from gemvane.sim.yamlcheck import validated
from gemvane.sim.yamltree import Tree, dotted, read_tree

from .value import dimension, figures_of, quantity


class Experiment(Strict):
    """Something to simulate: one kernel, or a model in a scenario, on hardware."""

    hardware: str
    """A bundled name, or the path of a YAML file."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Numbers of the hardware that differ, by dotted key."""
    kernel: dict[str, Any] | None = None
    """A row of a kernel table: op, dtype and sizes."""
    model: str | None = None
    scenario: dict[str, Any] = Field(default_factory=dict)
    counted_as: str | None = None
    """Model whose parameters count in `mfu`, where the one that runs is padded."""

    @model_validator(mode="after")
    def _one_thing(self) -> Experiment:
        if (self.kernel is None) == (self.model is None):
            found = "neither is there" if self.kernel is None else "both are there"
            raise ValueError(f"{found}. Expected a kernel or a model")
        for key, there in (("scenario", self.scenario), ("counted_as", self.counted_as)):
            if there and self.model is None:
                raise ValueError(f"{key} goes with a model, and this is a kernel")
        return self


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
    claimed: str
    """The figure: "96 ms", "76 %", "3 x"."""
    experiments: dict[str, Experiment] = Field(default_factory=dict)
    value: str | None = None
    """The same figure of ours: "run.tpot", or arithmetic as in "a.tpot / b.tpot"."""
    within: Within | None = None
    assumptions: list[str] = Field(default_factory=list)
    why: str | None = None
    """Which mechanism explains a difference."""
    cannot: str | None = None
    """Why no experiment can show it."""

    @model_validator(mode="after")
    def _shows_or_says_why_not(self) -> Claim:
        if self.cannot is not None:
            for key in ("experiments", "value", "within"):
                if getattr(self, key):
                    raise ValueError(f"{key} is there although the claim cannot be expressed. Expected one or the other")
            return self
        if self.value is None or self.within is None or not self.experiments:
            missing = next(key for key in ("experiments", "value", "within") if not getattr(self, key))
            raise ValueError(f"{missing} is missing. Expected experiments, value and within, or cannot with the reason")
        known = {name: "kernel" if one.kernel is not None else "model" for name, one in self.experiments.items()}
        try:
            wanted = dimension(self.value, known)
        except ValueError as error:
            raise ValueError(f"value: {error}") from None
        try:
            quantity(self.claimed, wanted)
        except ValueError as error:
            raise ValueError(f"claimed: {error}") from None
        used = {name for name, _ in figures_of(self.value)}
        for name in self.experiments:
            if name not in used:
                raise ValueError(f"experiments.{name} is never used in value {self.value!r}")
        return self


class PageSpec(Strict):
    schema_version: Literal[1]
    title: str
    papers: dict[str, str]
    """Name -> public citation."""
    claims: dict[str, Claim]

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
def _bundled() -> dict[str, Any]:
    folder = resources.files("gemvane.validate") / "claims"
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir() if file.name.endswith(".yaml")}
