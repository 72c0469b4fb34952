"""Text with a unit to a number and back: the only unit parser of the project.

Time is a whole number of picoseconds, sizes are whole bytes, rates whole bytes (or bits, or operations) a second,
clocks whole hertz. Energy (pJ), power (W), area (mm2) and fractions are floats. GB is 10**9 bytes and GiB is 2**30.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_NUMBER = re.compile(r"^([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?)\s*(.*)$", re.ASCII)
_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SMALL = {"f": Fraction(1, 10**15), "p": Fraction(1, 10**12), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6),
          "m": Fraction(1, 10**3), "": Fraction(1)}


def _scaled(prefixes: dict[str, int], *units: str, times: Fraction = Fraction(1)) -> dict[str, Fraction]:
    return {prefix + unit: factor * times for unit in units for prefix, factor in prefixes.items()}


def _small(unit: str, canonical: Fraction) -> dict[str, Fraction]:
    return {prefix + unit: factor / canonical for prefix, factor in _SMALL.items()}


@dataclass(frozen=True)
class Dimension:
    """A physical quantity: what its number means inside, and the units in which people may write it."""

    name: str
    inside: str
    units: dict[str, Fraction]
    example: str
    whole: bool = True


_PICO = Fraction(1, 10**12)
_MOST_SECONDS = (2**63 - 1) // 10**12
DIMENSIONS = {
    d.name: d
    for d in (
        Dimension("size", "bytes", _scaled(_DECIMAL | _BINARY, "B"), "80 GB"),
        Dimension("bandwidth", "bytes per second",
                  _scaled(_DECIMAL | _BINARY, "B/s") | _scaled(_DECIMAL, "bit/s", "b/s", times=Fraction(1, 8)), "3.35 TB/s"),
        Dimension("pin rate", "bits per second", _scaled(_DECIMAL, "bit/s", "b/s"), "6.4 Gb/s"),
        Dimension("frequency", "hertz", _scaled(_DECIMAL, "Hz"), "1.05 GHz"),
        Dimension("time", "picoseconds", _small("s", _PICO), "14 ns"),
        Dimension("compute rate", "operations per second", _scaled(_DECIMAL, "FLOP/s", "FLOPS", "OP/s", "OPS"), "989.4 TFLOP/s"),
        Dimension("energy", "picojoules", _small("J", _PICO), "0.44 pJ", whole=False),
        Dimension("energy per bit", "picojoules per bit",
                  _small("J/bit", _PICO) | _small("J/b", _PICO)
                  | {unit: factor / 8 for unit, factor in (_small("J/B", _PICO) | _small("J/byte", _PICO)).items()},
                  "0.44 pJ/bit", whole=False),
        Dimension("power", "watts", {"mW": Fraction(1, 1000), "W": Fraction(1), "kW": Fraction(1000)}, "700 W", whole=False),
        Dimension("voltage", "volts", {"mV": Fraction(1, 1000), "V": Fraction(1)}, "0.75 V", whole=False),
        Dimension("area", "square millimetres", {"mm2": Fraction(1), "um2": Fraction(1, 10**6)}, "814 mm2", whole=False),
        Dimension("length", "nanometres", {"nm": Fraction(1), "um": Fraction(1000)}, "7 nm", whole=False),
        Dimension("fraction", "parts of one", {"%": Fraction(1, 100)}, "88 %", whole=False),
        Dimension("ratio", "times", {"x": Fraction(1), "%": Fraction(1, 100)}, "3 x", whole=False),
        Dimension("token rate", "tokens per second", _scaled(_DECIMAL, "tok/s"), "2.9 ktok/s", whole=False),
        Dimension("work", "operations", _scaled(_DECIMAL, "FLOP", "OP"), "2.4 GFLOP"),
        Dimension("parameter count", "parameters", _scaled(_DECIMAL, "params"), "110 Mparams"),
    )
}


def parse(text: object, dimension: str) -> int | float:
    """The number behind `text` in the dimension's inside unit: an int where the dimension is whole, else a float.

    Raises ValueError for anything but text, a missing or foreign unit, a negative number, or less than one whole unit.
    """
    want = DIMENSIONS[dimension]
    hint = f"Expected {'an' if want.name[0] in 'aeiou' else 'a'} {want.name}, e.g. '{want.example}'."
    if not isinstance(text, str):
        raise ValueError(f"{text!r} has no unit. {hint}")
    match = _NUMBER.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} does not start with a number. {hint}")
    number, unit = match.group(1), match.group(2).strip()
    if not unit:
        raise ValueError(f"{text!r} has no unit. {hint}")
    if unit not in want.units:
        raise ValueError(f"{text!r} has the wrong unit {unit!r}. {hint}")
    value = Fraction(number.replace("_", "")) * want.units[unit]
    if value < 0:
        raise ValueError(f"{text!r} is negative. {hint}")
    if not want.whole:
        return float(value)
    whole = round(value)
    if whole == 0 and value > 0:
        one = re.sub(r"s\b", "", want.inside, count=1)
        raise ValueError(f"{text!r} is under one {one}. {hint}")
    return whole


def cycles_to_ps(cycles: int, freq_hz: int) -> int:
    """Picoseconds that `cycles` of a clock take, rounded up once. Plain ints, so nothing overflows."""
    return -(-int(cycles) * 10**12 // freq_hz)


def cycles_to_ps_all(cycles: NDArray[np.int64], freq_hz: int) -> NDArray[np.int64]:
    """`cycles_to_ps` of a column, exact: 10**12 is multiplied in two halves, so that nothing overflows below 9e12 Hz.

    Raises OverflowError for more than the 106 days that int64 picoseconds hold.
    """
    seconds, rest = np.divmod(cycles, freq_hz)
    if seconds.size and seconds.max() >= _MOST_SECONDS:
        raise OverflowError(f"{cycles.max()} cycles at {freq_hz} Hz are more than the 106 days that int64 picoseconds hold.")
    micros, rest = np.divmod(rest * 10**6, freq_hz)
    ps: NDArray[np.int64] = seconds * 10**12 + micros * 10**6 - (-rest * 10**6 // freq_hz)
    return ps


def ps_to_s(ps: int) -> float:
    """Seconds, for reports only."""
    return ps / 1e12


_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))


def show(value: float, unit: str, digits: int = 3) -> str:
    """`value` of an SI unit for people: show(0.0123, "s") is "12.3 ms"."""
    if value == 0:
        return f"0 {unit}"
    rounded = float(f"{value:.{digits - 1}e}")
    factor, prefix = next((p for p in _PREFIXES if abs(rounded) >= p[0]), _PREFIXES[-1])
    scaled = rounded / factor
    whole_digits = len(str(int(abs(scaled))))
    return f"{scaled:.{max(0, digits - whole_digits)}f} {prefix}{unit}"
