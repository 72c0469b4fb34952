"""What a claim or a point of a plot asks for: a value on experiments, in the settings that its axes span."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from gemvane.sim.hardware import nearest

from .bench import Bench
from .page import Experiment, Over, Page, joined
from .value import dimension, each, evaluate, figures_of, written

Setting = dict[str, str]
"""Axis -> label."""
Path = tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """A checked value, and where in its page it stands."""

    page: Page
    path: Path
    """Of the claim or plot."""
    at: Path
    """Of the value."""
    value: str
    experiments: Mapping[str, Experiment]
    settings: list[Setting]
    unit: str
    """Dimension of the value."""

    def prepare(self, bench: Bench) -> None:
        """Load and check all that it runs. ValueError with file, line and key."""
        for setting in self.settings:
            for name, figure in figures_of(self.value):
                if said := bench.absent(self._experiment(name, setting), figure, self._at(name, setting)):
                    raise self.page.fault(self.at, f"{name}.{figure}: {said}")

    def answer(self, bench: Bench) -> float:
        """The value, simulated."""
        try:
            return evaluate(self.value, self._reader(bench), self.settings)
        except ZeroDivisionError:
            raise self.page.fault(self.at, f"{self.value!r} divides by zero.") from None

    def spread(self, bench: Bench, like: str) -> str | None:
        """The least and the greatest of what a value averages over, and where they stand; shown as the claimed text."""
        found = each(self.value, self._reader(bench), self.settings)
        if len(set(found)) < 2:
            return None
        varied = [axis for axis in self.settings[0] if len({setting[axis] for setting in self.settings}) > 1]
        ends = [(found[i], {axis: self.settings[i][axis] for axis in varied}) for i in (found.index(min(found)), found.index(max(found)))]
        return " to ".join(f"{written(value, self.unit, like)} ({said(setting)})" for value, setting in ends)

    def _reader(self, bench: Bench) -> Any:
        return lambda name, figure, setting: bench.figure(self._experiment(name, setting), figure, self._at(name, setting))

    def _experiment(self, name: str, setting: Setting) -> Experiment:
        return _experiment(self.page, self.experiments[name], setting)

    def _at(self, name: str, setting: Setting) -> Any:
        """Makes an error of an experiment: (key of the experiment, what is wrong) -> ValueError."""
        home = self.path if name not in self.page.spec.experiments else ()

        def fault(key: str, error: object) -> ValueError:
            written_there = key in self.experiments[name].model_fields_set
            where = (*home, "experiments", name, *([key] if written_there else []))
            return self.page.fault(where, f"{said(setting)}: {error}" if setting else error)

        return fault


def ask(page: Page, path: Path, at: Path, value: str, over: Over, own: Mapping[str, Experiment]) -> Question:
    """The question of a claim or plot, at a path of the page; its value stands at another. ValueError with file, line and key.

    A question has no settings where all that it spans are left out.
    """
    experiments = {**page.spec.experiments, **own}
    chosen = settings(page, path, over)
    used = list(dict.fromkeys(name for name, _ in _parsed(page, at, value)))
    kinds = dict.fromkeys(experiments, "model")
    for name in used:
        for setting in chosen if name in experiments else []:
            home = path if name in own else ()
            kinds[name] = _kind(page, (*home, "experiments", name), _experiment(page, experiments[name], setting))
    try:
        unit = dimension(value, kinds, len(chosen))
    except ValueError as error:
        raise page.fault(at, error) from None
    for name in own:
        if name not in used:
            raise page.fault((*path, "experiments", name), f"is never used in value {value!r}.")
    return Question(page, path, at, value, experiments, chosen, unit)


def settings(page: Page, path: Path, over: Over) -> list[Setting]:
    """Every combination of the labels, the last axis fastest, but for those that the page leaves out; one that is empty for no axes."""
    chosen: dict[str, list[str]] = {}
    for axis, labels in over.items():
        if axis not in page.spec.axes:
            raise page.fault((*path, "over", axis), f"no such axis{nearest(axis, list(page.spec.axes))}. "
                                                    f"Expected one of {', '.join(page.spec.axes)}.")
        known = page.spec.axes[axis]
        chosen[axis] = list(known) if labels == "all" else list(labels)
        for label in chosen[axis]:
            if label not in known:
                raise page.fault((*path, "over", axis), f"{label!r} is not on it{nearest(label, list(known))}. "
                                                        f"Expected some of {', '.join(known)}, or all.")
    every = [dict(zip(chosen, picked, strict=True)) for picked in product(*chosen.values())]
    return [setting for setting in every if not any(out.settings.items() <= setting.items() for out in page.spec.without)]


def said(setting: Setting) -> str:
    """ "model 7B, batch 64"."""
    return ", ".join(f"{axis} {label}" for axis, label in setting.items())


def _parsed(page: Page, at: Path, value: str) -> list[tuple[str, str]]:
    try:
        return figures_of(value)
    except ValueError as error:
        raise page.fault(at, error) from None


def _experiment(page: Page, base: Experiment, setting: Setting) -> Experiment:
    return joined([base, *(page.spec.axes[axis][label] for axis, label in setting.items())])


def _kind(page: Page, path: Path, experiment: Experiment) -> str:
    """ "kernel" or "model"; ValueError for an experiment that says too little or too much."""
    if experiment.hardware is None:
        raise page.fault(path, "hardware is missing. Expected it here or on an axis.")
    if (experiment.kernel is None) == (experiment.model is None):
        found = "neither is there" if experiment.kernel is None else "both are there"
        raise page.fault(path, f"{found}. Expected a kernel or a model.")
    for key in ("config", "mixer", "scenario", "counted_as"):
        if getattr(experiment, key) and experiment.model is None:
            raise page.fault((*path, key), "goes with a model, and this is a kernel.")
    return "kernel" if experiment.model is None else "model"
