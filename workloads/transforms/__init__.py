"""Techniques that change a workload, one file each: a ModelSpec and a Scenario in, changed ones out."""

from __future__ import annotations

from difflib import get_close_matches

from ..scenario import Scenario
from ..spec import ModelSpec
from .base import Transform
from .quantise import Quantise

__all__ = ["TRANSFORMS", "Transform", "applied", "parse"]

TRANSFORMS: dict[str, type[Transform]] = {kind.NAME: kind for kind in (Quantise,)}
"""By the name that is written in scenarios and on the command line."""


def parse(text: str) -> Transform:
    """A transform from NAME or NAME:KEY=VALUE,KEY=VALUE. ValueError names what is unknown and what was wanted."""
    name, _, arguments = text.partition(":")
    if name not in TRANSFORMS:
        close = get_close_matches(name, TRANSFORMS, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"transform {name!r} is unknown. Expected one of {', '.join(TRANSFORMS)}.{hint}")
    return TRANSFORMS[name].parse(arguments)


def applied(spec: ModelSpec, scenario: Scenario) -> tuple[ModelSpec, Scenario, tuple[Transform, ...]]:
    """The workload after the scenario's transforms, one after another in their order, without them in its scenario; and the transforms.

    ValueError for an unknown transform, for two that contradict each other, and for one that the workload has no use for.
    """
    transforms = tuple(parse(text) for text in scenario.transforms)
    groups: dict[str, str] = {}
    for transform in transforms:
        group = transform.GROUP or transform.NAME
        if group in groups:
            raise ValueError(f"transforms {groups[group]} and {transform.NAME} contradict each other. Expected one of the two.")
        groups[group] = transform.NAME
    scenario = scenario.but(transforms=())
    for transform in transforms:
        spec, scenario = transform.apply(spec, scenario)
    return spec, scenario, transforms
