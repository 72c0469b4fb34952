"""How sure a result is: a label, and a band taken from what is known of the models behind it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from .quantity import Source, Strict
from .schema import WorkClass
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


def judge(busy: dict[tuple[str, WorkClass], float]) -> Confidence:
    """The band of a run from the time that it spends in each (kind of unit, class of work): their bands, weighted by time.

    Weighting, not adding in quadrature, takes the errors of operators alike to be of one sign: the careful side.
    The source named is that of the largest share.
    """
    known = spec_only()
    total = sum(busy.values())
    shares = {key: time / total for key, time in busy.items() if time > 0}
    time = {key: known.bands[key[0]][key[1]] for key in shares}
    energy = {key: known.energy[key[0]] for key in shares}
    largest = max(shares, key=lambda key: shares[key])
    return Confidence("spec-only", _mean(shares, time), _mean(shares, energy), known.sources[time[largest].high[1]].cite)


def _mean(shares: dict[tuple[str, WorkClass], float], bands: dict[tuple[str, WorkClass], Band]) -> tuple[float, float]:
    low = sum(share * bands[key].low[0] for key, share in shares.items())
    high = sum(share * bands[key].high[0] for key, share in shares.items())
    return round(low, 3), round(high, 3)
