"""SCALE-Sim's input files: the .cfg of an array and its memory, the topology CSV of layers (v2 and v3)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from gemvane.sim.devices.scalesim import Convolution, Gemm
from gemvane.sim.devices.tiling import DATAFLOWS
from gemvane.sim.hardware import nearest

ARRAY, RUN, LAYOUT, SPARSITY, GENERAL = "architecture_presets", "run_presets", "layout", "sparsity", "general"
KEYS = {
    GENERAL: ("run_name",),
    ARRAY: ("ArrayHeight", "ArrayWidth", "IfmapSramSzkB", "FilterSramSzkB", "OfmapSramSzkB", "IfmapOffset", "FilterOffset", "OfmapOffset",
            "Dataflow", "Bandwidth", "MemoryBanks", "ReadRequestBuffer", "WriteRequestBuffer", "OnChipMemoryBanks",
            "OnChipMemoryBankPorts"),
    RUN: ("InterfaceBandwidth", "UseRamulatorTrace"),
    LAYOUT: tuple(operand + key for operand in ("Ifmap", "Filter")
                  for key in ("CustomLayout", "SRAMBankBandwidth", "SRAMBankNum", "SRAMBankPort")),
    SPARSITY: ("SparsitySupport", "SparseRep", "OptimizedMapping", "BlockSize", "RandomNumberGeneratorSeed"),
    "network_presets": ("TopologyCsvLoc",),
}
"""What SCALE-Sim reads. Offsets, banks and request buffers do not change any number of its reports."""
SWITCHES = ((RUN, "UseRamulatorTrace"), (LAYOUT, "IfmapCustomLayout"), (LAYOUT, "FilterCustomLayout"), (SPARSITY, "SparsitySupport"))
"""Features of v3 that are read, and refused where they are on."""
MOST = {"ArrayHeight": 65_536, "ArrayWidth": 65_536}
MOST_OTHERWISE = 2**31
MOST_CHANNELS = 100_000
GEMM_COLUMNS = ("M", "N", "K")
CONVOLUTION_COLUMNS = ("IFMAP height", "IFMAP width", "filter height", "filter width", "channels", "num filter", "strides")
_HEADS = ("ifmap", "ifmap", "filter", "filter", "channel", "filter", "stride")


class Config(NamedTuple):
    """What a .cfg says. `words_per_cycle` of ifmap, filter and ofmap; None where SCALE-Sim is to find the bandwidth (CALC)."""

    name: str
    version: int
    rows: int
    cols: int
    dataflow: str
    ifmap_kb: int
    filter_kb: int
    ofmap_kb: int
    words_per_cycle: tuple[int, int, int] | None
    unknown: tuple[str, ...]


class Layer(NamedTuple):
    """A row of a topology: where it stands (file:line), its name, its shape."""

    where: str
    name: str
    shape: Gemm | Convolution


def read_config(file: Path) -> Config:
    """The array and memory of a .cfg; v3 where it has v3's [layout] section or Ramulator switch.

    Keys that SCALE-Sim does not know either are listed in `unknown`. ValueError with file, line and key for what is missing or
    wrong, and for features of v3 that are on and not modelled.
    """
    entries = _Entries(file)
    for section, key in SWITCHES:
        if entries.text(section, key, "false").lower() == "true":
            raise ValueError(f"{entries.where(section, key)}: {key} is on, which is not modelled. Expected False.")
    version = 3 if LAYOUT in entries.sections or entries.has(RUN, "UseRamulatorTrace") else 2
    mode = entries.text(RUN, "InterfaceBandwidth")
    if mode not in ("CALC", "USER"):
        raise ValueError(f"{entries.where(RUN, 'InterfaceBandwidth')}: InterfaceBandwidth is {mode!r}. Expected CALC or USER.")
    dataflow = entries.text(ARRAY, "Dataflow")
    if dataflow not in DATAFLOWS:
        raise ValueError(f"{entries.where(ARRAY, 'Dataflow')}: Dataflow is {dataflow!r}. Expected one of {', '.join(DATAFLOWS)}.")
    words = None
    if mode == "USER":
        written = entries.whole(ARRAY, "Bandwidth")
        read = [entries.whole(LAYOUT, f"{operand}SRAMBankBandwidth") if version == 3 else written for operand in ("Ifmap", "Filter")]
        words = (read[0], read[1], written)
    return Config(
        name=entries.text(GENERAL, "run_name", file.stem),
        version=version,
        rows=entries.whole(ARRAY, "ArrayHeight"),
        cols=entries.whole(ARRAY, "ArrayWidth"),
        dataflow=dataflow,
        ifmap_kb=entries.whole(ARRAY, "IfmapSramSzkB"),
        filter_kb=entries.whole(ARRAY, "FilterSramSzkB"),
        ofmap_kb=entries.whole(ARRAY, "OfmapSramSzkB"),
        words_per_cycle=words,
        unknown=entries.unknown(),
    )


class _Entries:
    """The lines of a .cfg: sections in brackets, `key = value` or `key: value`, comments after # or ; at the start of a line."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sections: set[str] = set()
        self._found: dict[tuple[str, str], tuple[str, str, int]] = {}
        section = None
        for line, written in enumerate(_lines(file), 1):
            text = written.strip()
            if not text or text[0] in "#;":
                continue
            if text[0] == "[" and text[-1] == "]":
                section = text[1:-1].strip()
                self.sections.add(section)
                continue
            cut = min((text.index(mark) for mark in ":=" if mark in text), default=0)
            if section is None or cut == 0:
                wish = "a [section] first" if section is None else "`key = value` or `key: value`"
                raise ValueError(f"{file}:{line}: {text!r} is no entry. Expected {wish}.")
            key, value = text[:cut].strip(), text[cut + 1:].strip()
            if (section, key.lower()) in self._found:
                raise ValueError(f"{file}:{line}: key {key!r} stands here a second time.")
            self._found[section, key.lower()] = key, value, line

    def has(self, section: str, key: str) -> bool:
        return (section, key.lower()) in self._found

    def where(self, section: str, key: str) -> str:
        return f"{self.file}:{self._found[section, key.lower()][2]}"

    def text(self, section: str, key: str, default: str | None = None) -> str:
        if not self.has(section, key):
            if default is not None:
                return default
            known = {name.lower() for name in KEYS[section]}
            guess = nearest(key, [name for (of, lower), (name, _, _) in self._found.items() if of == section and lower not in known])
            raise ValueError(f"{self.file}: key '{key}' of section [{section}] is missing{guess.replace('did you mean', 'is it')}.")
        return self._found[section, key.lower()][1]

    def whole(self, section: str, key: str) -> int:
        """A whole number above zero; of a list, the first, as SCALE-Sim takes it."""
        text, most = self.text(section, key), MOST.get(key, MOST_OTHERWISE)
        first = text.split(",")[0].strip()
        if not first.isdecimal() or not 1 <= int(first) <= most:
            raise ValueError(f"{self.where(section, key)}: {key} is {text!r}. Expected a whole number from 1 to {most:,}.")
        return int(first)

    def unknown(self) -> tuple[str, ...]:
        known = {(section, key.lower()) for section, keys in KEYS.items() for key in keys}
        return tuple(f"{self.file}:{line}: key {name!r} is unknown and was not used{nearest(name, KEYS.get(section, ()))}"
                     for (section, key), (name, _, line) in self._found.items() if (section, key) not in known)


def read_topology(file: Path) -> list[Layer]:
    """The layers of a GEMM (Layer, M, N, K) or convolution table; a `DP` in a convolution's name makes one layer of each channel.

    ValueError with file, line and column for what is no topology.
    """
    lines = [(number, _cells(text)) for number, text in enumerate(_lines(file), 1) if text.strip(" ,\t")]
    if not lines:
        raise ValueError(f"{file}: is empty. Expected a table of layers.")
    (first, head), *rows = lines
    names = [name.lower() for name in head[1:]]
    gemm = names[:3] == ["m", "n", "k"]
    convolution = len(names) >= len(_HEADS) and all(part in name for part, name in zip(_HEADS, names, strict=False))
    if not gemm and not convolution:
        raise ValueError(f"{file}:{first}: the columns are {', '.join(head)}. Expected {_expected(GEMM_COLUMNS)}, or "
                         f"{_expected(CONVOLUTION_COLUMNS)}.")
    if not rows:
        raise ValueError(f"{file}: has no layers below its header.")
    return [layer for number, cells in rows for layer in _layers(f"{file}:{number}", cells, names, gemm)]


def _layers(where: str, cells: list[str], names: list[str], gemm: bool) -> list[Layer]:
    columns = GEMM_COLUMNS if gemm else CONVOLUTION_COLUMNS
    name, values = cells[0], cells[1:]
    if len(values) < len(columns):
        raise ValueError(f"{where}: has {len(cells)} columns. Expected {_expected(columns)}.")
    numbers = [_whole(where, name, column, value) for column, value in zip(columns, values, strict=False)]
    stride_width = None if gemm else numbers[6]
    for at in range(len(columns), len(values)):
        column, value = names[at] if at < len(names) else "", values[at]
        if ":" in value:
            continue        # N:M sparsity, which SCALE-Sim does not look at either while its SparsitySupport is off
        extra = _whole(where, name, column or f"column {at + 2}", value)
        if "batch" in column:
            if extra != 1:
                raise ValueError(f"{where}: layer {name}: {column} is {extra}, which is not modelled. Expected 1.")
        elif stride_width is not None and at == len(columns):
            stride_width = extra
        else:
            raise ValueError(f"{where}: has {len(cells)} columns. Expected {_expected(columns)}.")
    if stride_width is None:
        return [Layer(where, name, Gemm._make(numbers))]
    shape = Convolution._make([*numbers, stride_width])
    for side in ("height", "width"):
        window, image = getattr(shape, f"filter_{side}"), getattr(shape, side)
        if window > image:
            raise ValueError(f"{where}: layer {name}: filter {side} is {window}. Expected at most the IFMAP {side} of {image}.")
    if "DP" in name:
        if shape.channels > MOST_CHANNELS:
            raise ValueError(f"{where}: layer {name}: {shape.channels} channels make as many layers. Expected at most {MOST_CHANNELS:,}.")
        return [Layer(where, f"{name}Channel_{channel}", shape._replace(channels=1)) for channel in range(shape.channels)]
    return [Layer(where, name, shape)]


def _whole(where: str, layer: str, column: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{where}: layer {layer}: {column} is {text!r}. Expected a whole number above zero.")
    return int(text)


def _expected(columns: tuple[str, ...]) -> str:
    return f"{len(columns) + 1} columns (layer, {', '.join(columns)})"


def _cells(text: str) -> list[str]:
    """The cells of a row; SCALE-Sim ends every row with a comma."""
    cells = [cell.strip() for cell in text.split(",")]
    while len(cells) > 1 and not cells[-1]:
        cells.pop()
    return cells


def _lines(file: Path) -> list[str]:
    if file.is_dir():
        raise ValueError(f"{file}: is a folder. Expected a file.")
    if not file.exists():
        raise ValueError(f"{file}: there is no such file.")
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file}: is no text.") from None
