"""Which number of a hardware moves a result: each one changed, and everything that counts simulated again.

A generation is stood for by its prefill and its middle decode step, whose cache has its mean length: a figure that grows evenly with the
cache has its mean there, and a step takes milliseconds to simulate where a generation takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gemvane.workloads import lower
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace

from .hardware import Hardware
from .redesign import redesigned, stated
from .rerun import check_lowered
from .result import Result
from .simulate import Phase, Run, simulate

SHARE = 0.1
"""By how much a number is changed."""
LEAST = 3
"""A count above it may change by one where a tenth of it rounds to nothing."""
SECTIONS = ("memory.", "units.", "power.")
FOLLOWS = ("memory.capacity", "memory.pins", "memory.pin_rate")
"""Not changed: what must fit is asked of the whole run, and pins follow from the bandwidth."""
PEAKS = ("peak", "tensor_peak")
"""Follow from the clock and the counts that a file states beside them."""
_AMOUNT = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)(.*)", re.DOTALL)

Figures = dict[str, float]
Measure = Callable[[Run], Figures]


class Effect(NamedTuple):
    """What a number does. Figures are relative changes: 0.05 is 5 % more. None where the hardware cannot have that value."""

    key: str
    said: str
    """As the hardware file states it."""
    tried: tuple[str, str]
    """The smaller and the larger value; of a count the nearest whole ones."""
    less: Figures | None
    more: Figures | None

    def size(self, figure: str) -> float:
        """The larger of the two changes of a figure, without sign."""
        return max(abs(change[figure]) for change in (self.less, self.more) if change is not None)


@dataclass(frozen=True)
class Sensitivity:
    """The effects of all numbers that could be changed, and why the others could not."""

    effects: tuple[Effect, ...]
    left_out: dict[str, str]

    def ranked(self, figure: str, most: int = 10) -> list[Effect]:
        """The effects that move a figure at all, largest first."""
        moving = [effect for effect in self.effects if effect.size(figure) > 5e-5]
        return sorted(moving, key=lambda effect: -effect.size(figure))[:most]


class Middle:
    """Traces as `lower` makes them, but of a decode step in the middle of the generation."""

    def __init__(self, generated: int) -> None:
        self.generated = generated

    def prefill(self, spec: ModelSpec, scenario: Scenario, sub_batches: int = 1) -> Trace:
        return lower.prefill(spec, scenario, sub_batches)

    def decode_step(self, spec: ModelSpec, scenario: Scenario, generated: int = 1, sub_batches: int = 1, partition: str = "dealt",
                    channels: int = 1) -> Trace:
        return lower.decode_step(spec, scenario, self.generated, sub_batches, partition, channels)


def middle(run: Run, hardware: Hardware | None = None, phases: Sequence[str] = ("prefill", "decode")) -> Run:
    """The prefill and the middle decode step of a run (those of `phases` that it has), on its hardware or another.

    ValueError for a model that was recorded, and for what the hardware cannot run.
    """
    check_lowered(run.spec.family, run.spec.name)
    asked, steps = [name for name in run.phases if name in phases], run.decode.steps if run.decode is not None else 1
    phase = "both" if len(asked) > 1 else asked[0]
    short = run.scenario.but(phase=phase, output=2 if phase == "both" else 1)
    return simulate(run.spec, short, hardware or run.hardware, Middle((steps + 1) // 2))


def figures(run: Run) -> Figures:
    """TTFT, TPOT and energy a phase of a short run, those that there are."""
    result = Result(run)
    times = {"ttft_s": result.ttft_s, "tpot_s": result.tpot_s}
    return {name: value for name, value in times.items() if value is not None} | {
        f"{phase}_energy_j": result.energy_of(phase) for phase in run.phases}


def sensitivity(run: Run, measure: Measure = figures, phases: Sequence[str] = ("prefill", "decode")
                ) -> Sensitivity:
    """Every number of the hardware a tenth less and a tenth more, one at a time, by exact simulation of the short run.

    `measure` gives the figures of a short run; those that are zero are left out. ValueError as `middle`.
    """
    base = {name: value for name, value in measure(middle(run, phases=phases)).items() if value}
    found, left_out = [], {}
    for key, value in numbers(run.hardware).items():
        try:
            tried = [scaled(key, value, factor) for factor in (1 - SHARE, 1 + SHARE)]
        except ValueError as error:
            left_out[key] = str(error)
            continue
        changes: list[Figures | None] = []
        for new in tried:
            try:
                other = measure(middle(run, redesigned(run.hardware, {key: new}), phases))
                changes.append({name: other[name] / was - 1 for name, was in base.items()})
            except ValueError as error:
                changes.append(None)
                left_out[key] = str(error)
        if any(changes):
            left_out.pop(key, None)
            found.append(Effect(key, str(value), (str(tried[0]), str(tried[1])), *changes))
    return Sensitivity(tuple(found), left_out)


def numbers(hardware: Hardware) -> dict[str, Any]:
    """The numbers that describe silicon and follow from no other, by key, as the file states them."""
    return {key: stated(hardware, key) for key in hardware.provenance
            if key.startswith(SECTIONS) and key not in FOLLOWS and not set(key.split(".")) & set(PEAKS)}


def scaled(key: str, value: Any, factor: float) -> int | str:
    """A number times a factor as a hardware file would state it; a count above LEAST changes by one at least. ValueError where that is
    no change."""
    if isinstance(value, int):
        new = round(value * factor)
        if new == value and value > LEAST:
            new += 1 if factor > 1 else -1
        if new in (value, 0):
            raise ValueError(f"{key}: {value} is too small a count to be changed by a share.")
        return new
    match = _AMOUNT.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{key}: {value!r} is not an amount.")
    return f"{float(match[1]) * factor:.12g}{match[2]}"


def operator_s(phase: Phase, name: str) -> float:
    """Seconds that the operators of a name work in a phase, at full speed."""
    rows = np.flatnonzero(phase.trace.rows.name == phase.trace.names.index(name))
    return float(phase.duration_ps[:, phase.alike[rows]].sum()) / 1e12
