"""What a memory part may say: the pydantic models behind hw_configs/memory/*.yaml.

A part is data: levels, commands, named timings in clocks, and constraints whose latencies are sums of those names.
Nothing here knows ticks; sim/dram/part.py resolves the names once.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, PlainValidator, model_validator

from ..quantity import Bandwidth, Count, PinRate, Size, Source, Strict
from ..units import DIMENSIONS, parse, show

PEAK_TOLERANCE = 0.01
"""Clocks are printed to whole picoseconds (416 ps for DDR5-4800), so peaks that should be equal may differ by 1 %."""
LEVELS = {"channel": 0, "pseudochannel": 1, "rank": 2, "sid": 2, "bank_group": 3, "bank": 4}
"""Name in a file -> level of the engine; a stack ID of HBM3 and HBM4 is what a rank is on a DIMM."""
PROTOCOLS = ("single", "hbm", "hbm-half", "lpddr5")
_ALWAYS = ("PREpb", "PREab", "RD", "WR")
NEEDS = {"single": ("ACT", *_ALWAYS), "hbm": ("ACT", *_ALWAYS), "hbm-half": ("ACT", *_ALWAYS),
         "lpddr5": ("ACT1", "ACT2", *_ALWAYS, "CAS_RD", "CAS_WR")}
"""Protocol -> the commands without which its controller cannot work."""
PIM_NEEDS = {
    "newton": (("P_HEADER", "GWRITE", "G_ACT", "COMP", "READRES", "COMPS_READRES", "PIM_PRECHARGE"),
               ("nRCDRD", "nRP", "nRTP", "nFAW", "nGWR", "nSTEP", "nFILL", "nREFI", "nSTEPS", "nSTRICT", "nSINGLE")),
    "aim": (("WR_GB", "WR_BIAS", "ACT16", "MACAB", "RD_MAC"), ("nCCDL",)),
    "hbm-pim": (("MODE_AB", "MODE_SB", "WR_CRF", "WR_SRF", "ACTab", "MAC", "GRF_WB"), ("nCCDL",)),
    "attacc": (("ACTAB", "MACAB", "MACSB", "MACPB", "WRGB", "MVSB", "MVGB", "SFM"),
               ("nBL", "nRCDRD", "nRP", "nRAS", "nRTPL", "nCCDL", "nCCDAB", "nCCDSB", "nRFC", "nREFI")),
}
"""Style of PIM -> the commands and timings without which its streams cannot be made."""


def _period(text: object) -> Fraction:
    """Exact picoseconds of one clock, from a period or a frequency."""
    dimension = "frequency" if isinstance(text, str) and text.strip().endswith("Hz") else "time"
    if parse(text, dimension) == 0:
        raise ValueError(f"{text!r} is zero. Expected a clock above zero, e.g. '625 ps' or '1.6 GHz'.")
    number, unit = re.fullmatch(r"(.*?)\s*([A-Za-z]+)", str(text).strip()).groups()  # type: ignore[union-attr]
    value = Fraction(number.replace("_", "")) * DIMENSIONS[dimension].units[unit]
    return 10**12 / value if dimension == "frequency" else value


def _clocks(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is not a count of clocks. Expected a whole number, e.g. 14.")
    if value < 0:
        raise ValueError(f"{value!r} is negative. Expected a whole number of clocks.")
    return value


def _cycles(value: object) -> Fraction:
    """Clocks that a command keeps its bus."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 64 or value * 2 % 1:
        raise ValueError(f"{value!r} is no length of a command. Expected clocks in halves, e.g. 1 or 1.5.")
    return Fraction(value)


def _expression(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{value!r} is not an expression. Expected timings and whole numbers, e.g. nCL + nBL.")
    return str(value)


Period = Annotated[Fraction, PlainValidator(_period)]
Clocks = Annotated[int, PlainValidator(_clocks)]
Cycles = Annotated[Fraction, PlainValidator(_cycles)]
Expression = Annotated[str, PlainValidator(_expression)]
RowBuffer = Literal["ordinary", "pim"]
Below = Literal["pseudochannel", "rank", "sid", "bank_group", "bank"]


class Organisation(Strict):
    """One channel. Columns are counted in requests."""

    levels: dict[Below, Count]
    """How many of each level there are inside one of the level above; the channel is understood."""
    rows: Count
    columns: Count
    request: Size
    pins: Count
    """Data pins of the channel, all pseudo-channels together."""
    pin_rate: PinRate
    bandwidth: Bandwidth

    @model_validator(mode="after")
    def _pins_carry_the_bandwidth(self) -> Organisation:
        carried = self.pins * self.pin_rate / 8
        if abs(carried - self.bandwidth) > PEAK_TOLERANCE * self.bandwidth:
            raise ValueError(f"bandwidth is {show(self.bandwidth, 'B/s')} but pins x pin_rate is {show(carried, 'B/s')}")
        return self

    @model_validator(mode="after")
    def _levels_are_one_tree(self) -> Organisation:
        if "bank" not in self.levels:
            raise ValueError("levels has no bank. Expected how many banks one of the level above has.")
        if "rank" in self.levels and "sid" in self.levels:
            raise ValueError("levels has both rank and sid, which are one level. Expected one of them.")
        return self


class Clock(Strict):
    period: Period
    """The command clock CK, as a time or a frequency."""
    ticks: Literal[1, 2] = 1
    """Command slots in one clock: 2 where commands may also start on the falling edge."""


class Constraint(Strict):
    """After a `prev` to a node of `level`, a `next` to the same node comes `latency` clocks later or more."""

    level: str
    prev: Annotated[list[str], Field(min_length=1)]
    next: Annotated[list[str], Field(min_length=1)]
    latency: Expression
    window: Count = 1
    """Counted from the n-th last `prev`: 4 for tFAW."""
    sibling: bool = False
    """The rule holds for the other nodes of the level, not for the node itself."""


class Command(Strict):
    bus: Literal["row", "column", "any"]
    scope: str
    """Level of what one such command addresses."""
    cycles: Cycles = Fraction(1)
    opens: RowBuffer | None = None
    """Row buffer in which it opens a row of every bank that it addresses. The standard's own commands need not say so."""
    closes: RowBuffer | None = None
    needs: RowBuffer | None = None
    """Row buffer in which every bank that it addresses must have a row open."""
    constraints: list[Constraint] = Field(default_factory=list)
    """Joined to those of the part: a file that extends another adds a command and its rules in one place."""


class Refresh(Strict):
    command: str
    interval: Expression
    bank_interval: Expression | None = None
    """Between per-bank refreshes of one rank (stack ID), bank after bank."""


class Lpddr5(Strict):
    """What only LPDDR5 has: an activation in two halves, and a data clock that has to be woken."""

    act2_within: Expression
    """Clocks from ACT1 in which ACT2 must follow."""
    wck_read: Expression
    """Clocks from a read in which the data clock still runs."""
    wck_write: Expression


class Pim(Strict):
    """Processing in memory: the units at the banks, and what its commands obey beside the constraints of the part."""

    style: Literal["newton", "aim", "hbm-pim", "attacc"]
    """Whose commands these are: which functions turn operators into streams of them."""
    lanes: Count
    """Multipliers of a unit."""
    element: Size
    """An operand of one lane."""
    banks_per_unit: Count = 1
    accumulators: Count = 1
    """Results that a unit holds, each as wide as what it multiplies or, behind an adder tree, one."""
    vector_buffer: Size
    """What the channel (newton, aim) or each unit (hbm-pim, attacc) holds of the vector."""
    row_buffers: Annotated[list[Literal["dual", "single"]], Field(min_length=1)]
    """What a bank may have, the default first."""
    constraints: list[Constraint] = Field(default_factory=list)
    """Joined to those of the part, which a file that only adds PIM takes over from the one it extends."""


class PartSpec(Strict):
    """One memory part: a channel of it, as its controller sees it."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    standard: str
    description: str
    sources: dict[str, Source] = Field(default_factory=dict)
    organisation: Organisation
    clock: Clock
    protocol: Literal["single", "hbm", "hbm-half", "lpddr5"]
    timings: dict[str, Clocks]
    commands: dict[str, Command]
    read_latency: Expression
    """Clocks from a read to the end of its data."""
    refresh: Refresh
    lpddr5: Lpddr5 | None = None
    pim: Pim | None = None
    constraints: list[Constraint]

    @model_validator(mode="after")
    def _commands_fit_the_protocol(self) -> PartSpec:
        for name in (*NEEDS[self.protocol], self.refresh.command):
            if name not in self.commands:
                raise ValueError(f"commands has no {name}, which protocol {self.protocol} needs")
        buses = ("row", "column") if self.protocol in ("hbm", "hbm-half") else ("any",)
        for name, command in self.commands.items():
            if command.bus not in buses:
                raise ValueError(f"commands.{name}.bus is {command.bus} but protocol {self.protocol} has {' and '.join(buses)}")
            if (command.cycles * self.clock.ticks).denominator != 1:
                raise ValueError(f"commands.{name}.cycles is {float(command.cycles):g}, no whole number of ticks: "
                                 f"clock.ticks is {self.clock.ticks}")
        for name in NEEDS[self.protocol]:
            scope = self.commands[self.refresh.command].scope if name == "PREab" else "bank"
            if self.commands[name].scope != scope:
                raise ValueError(f"commands.{name}.scope is {self.commands[name].scope}. Expected {scope}"
                                 f"{', as of ' + self.refresh.command if name == 'PREab' else ''}.")
        return self

    @model_validator(mode="after")
    def _pim_has_its_commands(self) -> PartSpec:
        if self.pim:
            commands, timings = PIM_NEEDS[self.pim.style]
            for kind, missing in (("commands", [name for name in commands if name not in self.commands]),
                                  ("timings", [name for name in timings if name not in self.timings])):
                if missing:
                    raise ValueError(f"pim.style is {self.pim.style}, which needs the {kind} {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _clock_fits_the_protocol(self) -> PartSpec:
        ticks = 2 if self.protocol == "hbm-half" else 1
        if self.clock.ticks != ticks:
            raise ValueError(f"clock.ticks is {self.clock.ticks} but protocol {self.protocol} has {ticks}")
        if self.protocol == "lpddr5" and self.lpddr5 is None:
            raise ValueError("protocol lpddr5 needs the section lpddr5")
        if self.protocol != "lpddr5" and self.lpddr5 is not None:
            raise ValueError(f"lpddr5 has no meaning in protocol {self.protocol}")
        return self

    @model_validator(mode="after")
    def _bursts_fill_the_pins(self) -> PartSpec:
        """One request per pseudo-channel and burst is what the pins carry."""
        burst = self.timings.get("nBL", self.timings.get("nBL_min"))
        if not burst:
            raise ValueError("timings has no nBL (or nBL_min), the clocks that the data of one request take")
        together = self.organisation.levels.get("pseudochannel", 1) * self.organisation.request
        carried = float(together * 10**12 / (burst * self.clock.period))
        stated = self.organisation.bandwidth
        if abs(carried - stated) > PEAK_TOLERANCE * stated:
            raise ValueError(f"organisation.bandwidth is {show(stated, 'B/s')} but one request every {burst} clocks is "
                             f"{show(carried, 'B/s')}")
        return self
