"""How sure a result is: a label, and a band taken from what is known of the models behind it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from . import calibration
from .calibration import Calibration, FitBand
from .hardware import Hardware
from .quantity import Source, Strict
from .schema import Gpu, WorkClass
from .units import parse
from .yamltree import is_leaf, read_tree

Label = Literal["measured-calibrated", "spec-only", "extrapolated"]


def _sourced(leaf: Any) -> tuple[float, str]:
    if not is_leaf(leaf):
        raise ValueError(f"{leaf!r} has no source. Expected {{value: '118 %', source: ...}}.")
    return float(parse(leaf["value"], "fraction")), str(leaf["source"])


Factor = Annotated[tuple[float, str], BeforeValidator(_sourced)]


class Band(Strict):
    """Real time over simulated time: 80 % of cases lie between `low` and `high`, each (factor, source)."""

    low: Factor
    high: Factor

    @model_validator(mode="after")
    def _ordered(self) -> Band:
        if self.low[0] > self.high[0]:
            raise ValueError("low is above high")
        return self


class Bands(Strict):
    """The calibration file of models without calibration."""

    schema_version: Literal[1]
    sources: dict[str, Source]
    bands: dict[str, dict[WorkClass, Band]]
    """Time, by kind of unit and class of work."""
    energy: dict[str, Band]
    """Energy, by kind of unit."""


class Carried(Strict):
    """What is known of parameters that were carried from one GPU to another: hw_configs/calibration/extrapolated.yaml."""

    schema_version: Literal[1]
    sources: dict[str, Source]
    bands: dict[str, FitBand]
    run_bands: dict[str, FitBand]


@dataclass(frozen=True)
class Confidence:
    """Bands are (low, high): real time (energy) is expected between low x and high x the simulated one."""

    label: Label
    band: tuple[float, float]
    energy_band: tuple[float, float]
    source: str


@lru_cache(maxsize=1)
def spec_only() -> Bands:
    """Bands of the uncalibrated models."""
    file = resources.files("gemvane.hw_configs") / "calibration" / "spec-only.yaml"
    return Bands.model_validate(read_tree(file.read_text(encoding="utf-8"), "hw_configs/calibration/spec-only.yaml").data)


@lru_cache(maxsize=1)
def carried() -> Carried:
    """Bands of GPUs that borrow a relative's parameters."""
    file = resources.files("gemvane.hw_configs") / "calibration" / "extrapolated.yaml"
    return Carried.model_validate(read_tree(file.read_text(encoding="utf-8"), "hw_configs/calibration/extrapolated.yaml").data)


def label_of(hardware: Hardware) -> tuple[Label, Calibration | None]:
    """How far a hardware's GPU is known: measured itself, by a relative (or changed since), or by its data sheet alone."""
    unit = next((u for u in hardware.spec.units.values() if isinstance(u, Gpu)), None)
    known = calibration.load(unit.calibration) if unit is not None and unit.calibration else None
    if unit is None or known is None:
        return "spec-only", None
    here = (unit.num_sms, max(unit.tensor_peak.values()), hardware.spec.memory.bandwidth)
    there = (known.machine.num_sms, known.machine.peak, known.machine.bandwidth)
    return ("measured-calibrated" if here == there else "extrapolated"), known


def kernel_bands(hardware: Hardware) -> tuple[Label, dict[str, tuple[float, float]]]:
    """The label, and by class of work (and regime) between which factors of a single kernel's simulated time 80 % of real ones lie."""
    label, known = label_of(hardware)
    if label == "spec-only" or known is None:
        unit = next((u.kind for u in hardware.spec.units.values()), "gpu")
        return label, {work: (band.low[0], band.high[0]) for work, band in spec_only().bands.get(unit, {}).items()}
    bands = known.bands if label == "measured-calibrated" else carried().bands
    return label, {key: (band.low, band.high) for key, band in bands.items()}


LABELS: tuple[Label, ...] = ("measured-calibrated", "extrapolated", "spec-only")
"""From sure to unsure."""
COUNTS = 0.05
"""Share of a run's time from which on a unit's uncertainty names the whole."""


def judge(busy: dict[tuple[str, WorkClass], float], hardware: Hardware | None = None) -> Confidence:
    """The band of a run from the time that it spends in each (kind of unit, class of work): their bands, weighted by time.

    Weighting, not adding in quadrature, takes the errors of operators alike to be of one sign: the careful side.
    The source named is that of the largest share; the label the least sure one of those that count.
    """
    known = spec_only()
    total = sum(busy.values())
    shares = {key: time / total for key, time in busy.items() if time > 0}
    label, fitted = ("spec-only", None) if hardware is None else label_of(hardware)
    labels, time, sources = {}, {}, {}
    for key in shares:
        band = known.bands[key[0]][key[1]]
        labels[key], time[key], sources[key] = "spec-only", (band.low[0], band.high[0]), known.sources[band.high[1]].cite
        found = None if fitted is None or key[0] != "gpu" else _run_band(label, fitted, key[1])
        if found is not None:
            labels[key], time[key], sources[key] = label, (found[0].low, found[0].high), found[1]
    energy = {key: (known.energy[key[0]].low[0], known.energy[key[0]].high[0]) for key in shares}
    if label == "measured-calibrated" and fitted is not None and fitted.energy is not None:
        energy |= {key: (fitted.energy.band.low, fitted.energy.band.high) for key in shares if key[0] == "gpu"}
    largest = max(shares, key=lambda key: shares[key])
    least = max(LABELS.index(labels[key]) for key in shares if shares[key] >= COUNTS or key == largest)
    return Confidence(LABELS[least], _mean(shares, time), _mean(shares, energy), sources[largest])


def _run_band(label: Label, fitted: Calibration, work: str) -> tuple[FitBand, str] | None:
    """Band of a class of work on a GPU with parameters, and where it comes from."""
    of = fitted if label == "measured-calibrated" else carried()
    return None if work not in of.run_bands else (of.run_bands[work], next(iter(of.sources.values())).cite)


def _mean(shares: dict[tuple[str, WorkClass], float], bands: dict[tuple[str, WorkClass], tuple[float, float]]) -> tuple[float, float]:
    low = sum(share * bands[key][0] for key, share in shares.items())
    high = sum(share * bands[key][1] for key, share in shares.items())
    return round(low, 3), round(high, 3)
