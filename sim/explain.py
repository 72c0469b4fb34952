"""Why an operator takes the time it does: what its time goes to, which number of the hardware it hangs on, and where the next bound is.

All by exact simulation of the prefill or the middle decode step (see sensitivity.middle): of the run as it is, with each number changed
by a tenth, and with the number that matters most made better until something else binds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .costs import ACTION, BOUNDS, CAUSES, Int64s
from .overlap import seconds
from .redesign import redesigned
from .schema import Cpu, Gpu, Systolic
from .sensitivity import Figures, Sensitivity, middle, numbers, operator_s, scaled, sensitivity
from .simulate import Phase, Run

FACTORS = (1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0)
"""By which the number that matters most is made better, one after the other."""


class Better(NamedTuple):
    """The operator where one number of the hardware is better."""

    key: str
    value: str
    seconds: float
    bound: str


@dataclass(frozen=True)
class Explanation:
    """What `gemvane explain` says of the operators of one name, all layers together, in one step."""

    name: str
    phase: str
    unit: str
    count: int
    """Operators of that name in the step."""
    step_s: float
    """Length of the step."""
    seconds: float
    """Their working time at full speed, together."""
    slowed_s: float
    """What others that work at once add to it."""
    causes_s: dict[str, float]
    """Where it goes, by costs.CAUSES, largest first."""
    bound: str
    flops: float
    dram_bytes: float
    """That cross the pins of the main memory."""
    peak_s: float | None
    """What its arithmetic would take at the peak of its unit; None where the unit has no such number."""
    part: str | None
    """The memory part whose timings a PIM unit works with; they are not among the numbers that are changed."""
    pins_s: float
    """What its bytes would take at the bandwidth of the main memory."""
    moved: Sensitivity
    """Of the figure "operator_s"."""
    better: tuple[Better, ...]
    """The number that matters most made better, up to where something else binds."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `gemvane explain --json`."""
        said = {name: getattr(self, name) for name in ("name", "phase", "unit", "count", "step_s", "seconds", "slowed_s", "causes_s",
                                                       "bound", "flops", "dram_bytes", "peak_s", "part", "pins_s")}
        effects = [{"key": e.key, "value": e.said, "less": e.tried[0], "more": e.tried[1],
                    "less_changes_by": None if e.less is None else e.less["operator_s"],
                    "more_changes_by": None if e.more is None else e.more["operator_s"]} for e in self.moved.ranked("operator_s")]
        return said | {"sensitivity": effects, "better": [one._asdict() for one in self.better]}


def operators(run: Run) -> dict[str, list[str]]:
    """Phase -> names of its operators, longest first."""
    out = {}
    for phase, found in run.phases.items():
        names = dict.fromkeys(found.trace.names[code] for code in found.trace.rows.name.tolist())
        times = {name: operator_s(found, name) for name in names}
        out[phase] = sorted(times, key=lambda name: -times[name])
    return out


def find(run: Run, wish: str | None) -> tuple[str, str]:
    """Phase and operator of "gate_up" or "decode:gate_up": where the phase is not said, the one in which it takes longest; None: the
    longest of all. ValueError for one that is not there."""
    known = operators(run)
    phase, colon, name = (wish or "").rpartition(":")
    if colon and phase not in known:
        raise ValueError(f"operator {wish!r}: there is no phase {phase!r}. Expected one of {', '.join(known)}.")
    open_to = {phase: known[phase]} if colon else known
    choices = [(operator_s(run.phases[p], n), p, n) for p, names in open_to.items() for n in names if wish is None or n == name]
    if not choices:
        every = dict.fromkeys(n for names in open_to.values() for n in names)
        raise ValueError(f"operator {wish!r} is not there. Expected one of {', '.join(every)}.")
    _, phase, name = max(choices)
    return phase, name


def explain(run: Run, phase: str, name: str) -> Explanation:
    """Why the operators of a name take their time in a phase. ValueError for a model that was recorded."""
    step = middle(run, phases=[phase])
    found = step.phases[phase]

    def measure(other: Run) -> Figures:
        return {"operator_s": operator_s(other.phases[phase], name)}

    moved = sensitivity(run, measure, [phase])
    return _described(step, found, phase, name, moved, _better(run, phase, name, moved))


def _described(step: Run, found: Phase, phase: str, name: str, moved: Sensitivity, better: tuple[Better, ...]) -> Explanation:
    rows, index = found.trace.rows, _rows(found, name)
    entries, unit = found.alike[index], int(found.unit[index[0]])
    causes = dict(zip(CAUSES, seconds(found, step.hardware)[entries].sum(axis=0).tolist(), strict=True))
    flops = float((2 * rows.useful_macs + rows.vector_ops)[index].sum())
    crossed = float(found.actions[entries, ACTION["dram_io_bytes"]].sum())
    lasted = (found.timeline.end_ps - found.timeline.start_ps)[index].sum() / 1e12
    work = operator_s(found, name)
    one = list(step.hardware.spec.units.values())[unit]
    peak = _peak(one, step.scenario.dtype)
    return Explanation(
        name, phase, list(step.hardware.spec.units)[unit], index.size, found.latency_ps / 1e12, work, float(lasted) - work,
        {cause: s for cause, s in sorted(causes.items(), key=lambda item: -item[1]) if s}, _bound(found, name), flops, crossed,
        None if peak is None else flops / peak, getattr(one, "part", None), crossed / step.hardware.spec.memory.bandwidth, moved, better)


def _rows(phase: Phase, name: str) -> Int64s:
    """The operators of a name in a step."""
    return np.flatnonzero(phase.trace.rows.name == phase.trace.names.index(name))


def _bound(phase: Phase, name: str) -> str:
    """What binds most of the operators' time."""
    entries = phase.alike[_rows(phase, name)]
    time = np.bincount(phase.bound[:, entries].ravel(), phase.duration_ps[:, entries].ravel(), len(BOUNDS))
    return BOUNDS[int(np.argmax(time))]


def _better(run: Run, phase: str, name: str, moved: Sensitivity) -> tuple[Better, ...]:
    """The number that helps most, better and better, until something else binds or it helps no more."""
    helped = [(change["operator_s"], effect.key, way) for effect in moved.effects
              for change, way in ((effect.more, 1), (effect.less, -1)) if change is not None and change["operator_s"] < -5e-5]
    if not helped:
        return ()
    _, key, way = min(helped)
    value_of = numbers(run.hardware)
    first = _bound(middle(run, phases=[phase]).phases[phase], name)
    out: list[Better] = []
    for factor in FACTORS:
        try:
            value = scaled(key, value_of[key], factor if way > 0 else 1 / factor)
            found = middle(run, redesigned(run.hardware, {key: value}), [phase]).phases[phase]
        except ValueError:  # beyond what the hardware can have
            break
        out.append(Better(key, str(value), operator_s(found, name), _bound(found, name)))
        if out[-1].bound != first:
            break
    return tuple(out)


def _peak(one: Any, dtype: str) -> float | None:
    """Operations a second of a unit in a type of operands; None where it states none."""
    if not isinstance(one, (Gpu, Systolic, Cpu)):
        return None
    known = {str(key): rate for key, rate in (one.tensor_peak if isinstance(one, Gpu) else one.peak).items()}
    return float(known.get(dtype, max(known.values())))
