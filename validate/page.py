"""docs/validation.md: how far predictions lie from measurements, from the tables given; with its plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemvane.sim.confidence import kernel_bands, label_of
from gemvane.sim.devices.gpu import attention_key
from gemvane.sim.hardware import Hardware, load, names
from gemvane.workloads.kernels import KERNEL_KINDS

from . import calibrate_cpu, machine, scatter, tables
from .bands import EAGER
from .compare import Compared, coverage, fitted_roofline, noise_floor, predict, statistics

if TYPE_CHECKING:
    import pandas as pd

COMMAND = "gemvane validate page TABLE... -o docs/validation.md"
OWN = "gemvane validate measure"
"""`source_repo` of tables that were measured with this project."""
PLOTTED = ("gemm", "attention_prefill", "attention_decode")
MAIN_ROWS = 200
"""Of a group that is shown by size; fewer say little."""


class Source(NamedTuple):
    """A measured kernel table, what to call it, and the record of its machine where it has one."""

    name: str
    table: pd.DataFrame
    record: dict[str, Any] | None = None


class Machine(NamedTuple):
    """What was measured on one machine, beside its predictions."""

    gpu: str
    """As the tables name it."""
    found: Compared
    cpu_fit: calibrate_cpu.CpuFit | None
    """Of a CPU: its numbers fitted to half of the shapes."""


class Evaluation(NamedTuple):
    """All tables, all machines that have a hardware file."""

    sources: list[Source]
    machines: list[Machine]


Chapter = Callable[[Evaluation], list[str]]
"""Lines of markdown; none where there is nothing to say."""


def write(sources: Sequence[Source], extra: Sequence[Chapter] = (), watch: Callable[[list[Any]], Iterable[Any]] = iter, *,
          plots: str = "validation") -> tuple[str, dict[str, str]]:
    """The page as markdown, and its plots: file name (`plots`-NAME.svg) -> SVG text. `extra` chapters stand before the sources.

    ValueError for a table that is none (validate.tables), for tables of which no row has a hardware file, and without matplotlib.
    """
    todo = [(source, gpu, hardware) for source in sources for gpu, hardware in _machines(source)]
    if not todo:
        raise ValueError("no row was measured on a machine that has a hardware file. Expected one of "
                         f"{', '.join(tables.HARDWARE)}, or a table with the record of its CPU beside it.")
    machines = sorted((_evaluated(*one) for one in watch(todo)), key=lambda one: -one.found.rows.size)
    evaluation = Evaluation(list(sources), machines)
    pictures = {f"{plots}-{one.found.hardware.name}.svg": scatter.grid(_panels(one.found), "framework") for one in _gpus(evaluation)}
    own = (_head, _errors, lambda found: _pictures(found, list(pictures)), _regimes, _bands, _cpus)
    chapters: tuple[Chapter, ...] = (*own, *extra, _measured_by, _missing)
    lines = [line for chapter in chapters for line in (*chapter(evaluation), "")]
    return "\n".join(_single_blanks(lines)) + "\n", pictures


def _machines(source: Source) -> list[tuple[str, Hardware]]:
    """The machines of a table that can be predicted."""
    if source.record is not None:
        return [(str(source.record.get("name", source.name)), machine.cpu_hardware(source.record, source.name))]
    known = np.unique(np.asarray(source.table["gpu"]).astype(str)).tolist() if "gpu" in source.table else []
    return [(gpu, load(tables.HARDWARE[gpu])) for gpu in known if tables.HARDWARE.get(gpu) in names()]


def _evaluated(source: Source, gpu: str, hardware: Hardware) -> Machine:
    table = source.table
    if source.record is None:
        table = table[(table["gpu"].astype(str) == gpu).to_numpy()]
    try:
        return Machine(gpu, predict(table, hardware), calibrate_cpu.calibrate(table, hardware) if source.record is not None else None)
    except ValueError as error:
        raise ValueError(f"{source.name}: {gpu}: {error}") from None


def _single_blanks(lines: list[str]) -> list[str]:
    kept = [line for i, line in enumerate(lines) if line or (i and lines[i - 1])]
    return kept[:-1] if kept and not kept[-1] else kept


class Group(NamedTuple):
    """Rows of one operator, type and framework; of one regime and bound where asked."""

    op: str
    dtype: str
    """Of an attention with a cache of another type, both."""
    framework: str
    regime: str
    where: NDArray[np.int64]
    """Which rows."""


def groups(found: Compared, regimes: bool = False) -> list[Group]:
    """The rows by operator, type and framework, and by regime and bound where asked."""
    keys = _keys(found.measured)
    if regimes:
        bound = np.where(tables.memory_bound(found.rows, found.hardware), "memory", "compute")
        keys = np.char.add(keys, np.char.add(np.char.add(np.array(tables.REGIMES)[tables.regime(found.rows)], ", "), bound))
    distinct, inverse = np.unique(keys, return_inverse=True)
    order = np.argsort(inverse.reshape(-1), kind="stable")
    ends = np.searchsorted(inverse.reshape(-1)[order], np.arange(distinct.size + 1))
    out = []
    for key, start, end in zip(distinct.tolist(), ends, ends[1:], strict=False):
        op, dtype, framework, regime = key.split("|")
        out.append(Group(op, dtype, framework, regime, order[start:end]))
    return out


def _keys(measured: pd.DataFrame) -> NDArray[Any]:
    """`op|dtype|framework|` of each row, as the calibration files name them."""
    columns = [np.asarray(measured[name]).astype(str) if name in measured else np.full(len(measured), "")
               for name in ("op", "dtype", "kv_dtype", "framework", "kernel")]
    joined = np.array(["|".join(cells) for cells in zip(*columns, strict=True)])
    distinct, inverse = np.unique(joined, return_inverse=True)
    named = []
    for op, dtype, kv, framework, kernel in (text.split("|", 4) for text in distinct.tolist()):
        attention = op.startswith("attention") and kv not in ("", "None", "nan")
        runs = "triton" if kernel == "triton" else (framework.lower().split(" ") or [""])[0]
        named.append(f"{op}|{attention_key(dtype, kv) if attention else dtype}|{runs}|")
    return np.array(named)[inverse.reshape(-1)]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def table_row(*cells: object) -> str:
    """A row of a markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def table_head(left: Sequence[str], right: Sequence[str]) -> list[str]:
    """The head of a markdown table: columns to the left, and numbers to the right."""
    return [table_row(*left, *right), table_row(*("---" for _ in left), *("---:" for _ in right))]


def _head(evaluation: Evaluation) -> list[str]:
    total = sum(one.found.rows.size for one in evaluation.machines)
    return [
        "# How far off", "",
        f"Written by `{COMMAND}` from the tables that are listed below:",
        f"{total:,} measured kernels. Errors are percentages of the measured time: the mean of their sizes, unless a column says",
        "otherwise. *Held out* is the error on shapes that a fit has not seen (of each operator half of the shapes, chosen by a hash, are",
        "fitted and the others judged; of an attention, half of the pairs of query heads and KV heads; the figure stands in the",
        "calibration file). *Shipped* is that of the numbers that gemvane comes with, which are fitted to both halves. Beside them, on",
        "the same rows: a roofline (peak and nominal bandwidth), and a roofline with three numbers fitted to each operator and type.",
    ]


def _errors(evaluation: Evaluation) -> list[str]:
    out = ["## Errors by operator, type and framework"]
    for one in _gpus(evaluation):
        label, known = label_of(one.found.hardware)
        held = {} if known is None or label != "measured-calibrated" else {(e.op, e.dtype, e.framework): e.held_out for e in known.errors}
        fitted = fitted_roofline(one.found)
        out += ["", f"### {one.gpu} ({label})", "", *table_head(("operator", "type", "framework"), (
            "rows", "held out", "shipped", "median", "90 % below", "bias", "roofline", "fitted roofline"))]
        for group in groups(one.found):
            here, measured = group.where, one.found.measured_us[group.where]
            shipped = statistics(one.found.predicted_us[here], measured)
            out.append(table_row(group.op, group.dtype, group.framework or "-", f"{here.size:,}", _percent(held.get(group[:3])),
                                 *(_percent(shipped[name]) for name in ("mape", "median", "p90")), f"{100 * shipped['bias']:+.1f}",
                                 _percent(statistics(one.found.roofline_us[here], measured)["mape"]),
                                 _percent(statistics(fitted[here], measured)["mape"])))
        floor = noise_floor(one.found.measured)
        if floor is not None:
            out += ["", f"Noise floor: two measurements of one 16-bit matmul lie {_percent(floor['mape'])} % apart "
                        f"(median {_percent(floor['median'])} %, {floor['rows']:,} rows of several frameworks)."]
    return out


def _gpus(evaluation: Evaluation) -> list[Machine]:
    return [one for one in evaluation.machines if one.cpu_fit is None]


def _panels(found: Compared) -> list[tuple[str, Compared]]:
    """One of each large operator, one of all others."""
    operators = np.asarray(found.measured["op"]).astype(str)
    panels = [(op, np.flatnonzero(operators == op)) for op in PLOTTED]
    panels.append(("others", np.flatnonzero(~np.isin(operators, PLOTTED))))
    return [(title, found.where(index)) for title, index in panels if index.size]


def _pictures(evaluation: Evaluation, pictures: Sequence[str]) -> list[str]:
    out = ["## Measured against predicted", "", "Black: equal; dotted: 0.8 and 1.25 times. Shipped numbers."]
    for one, file in zip(_gpus(evaluation), pictures, strict=True):
        out += ["", f"![{one.gpu}: measured against predicted time, by operator and framework]({file})"]
    return out


def _regimes(evaluation: Evaluation) -> list[str]:
    out = ["## Errors by size", "", f"Rows of a matmul, queries of an attention; and what bounds the roofline. Groups of {MAIN_ROWS} rows "
           "or more."]
    columns = [f"{regime}, {bound}" for regime in tables.REGIMES for bound in ("memory", "compute")]
    for one in _gpus(evaluation):
        cells: dict[tuple[str, str, str], dict[str, str]] = {}
        for group in groups(one.found, regimes=True):
            if group.op in PLOTTED and group.where.size >= MAIN_ROWS:
                mape = statistics(one.found.predicted_us[group.where], one.found.measured_us[group.where])["mape"]
                cells.setdefault((group.op, group.dtype, group.framework), {})[group.regime] = _percent(mape)
        if cells:
            out += ["", f"### {one.gpu}", "", *table_head(("operator", "type", "framework"), columns)]
            out += [table_row(*key[:2], key[2] or "-", *(found.get(column, "") for column in columns)) for key, found in cells.items()]
    return out


def _bands(evaluation: Evaluation) -> list[str]:
    out = ["## Bands", "", "A prediction comes with a band that is meant to hold 80 % of measurements.", "",
           *table_head(("machine", "bands from"), ("rows", "inside, %"))]
    for one in evaluation.machines:
        share = coverage(one.found)
        if share is not None:
            out.append(table_row(one.gpu, kernel_bands(one.found.hardware)[0], f"{one.found.rows.size:,}", _percent(share)))
    return out


def _cpus(evaluation: Evaluation) -> list[str]:
    out = []
    for one in evaluation.machines:
        if one.cpu_fit is None:
            continue
        fused, fit = np.flatnonzero(~one.found.unfused), one.cpu_fit
        plain, several = statistics(one.found.predicted_us[fused], one.found.measured_us[fused]), one.found.rows.size - fused.size
        out += ["", f"### {one.gpu}", "",
                f"{fused.size:,} kernels (and {several} operators that ran as several). With numbers fitted to half of the shapes:",
                f"{_percent(fit.train)} % on them, {_percent(fit.held_out)} % held out. With the machine's record alone:",
                f"{_percent(plain['mape'])} % (bias {100 * plain['bias']:+.1f} %)."]
    return ["## CPUs", *out] if out else []


def _measured_by(evaluation: Evaluation) -> list[str]:
    out = ["## Who measured what", "", *table_head(("table", "source", "licence", "machines", "operators"), ("rows", "compared"))]
    for source in evaluation.sources:
        table = source.table
        cells = [np.asarray(table[name]).astype(str) if name in table else np.full(len(table), "-")
                 for name in ("source_repo", "licence", "gpu", "op")]
        compared = np.isin(cells[3], list(KERNEL_KINDS)) & ~np.isin(cells[3], tables.COLLECTIVES)
        if source.record is None:
            compared &= np.isin(cells[2], [one.gpu for one in evaluation.machines])
        for repo in np.unique(cells[0]).tolist():
            here = cells[0] == repo
            said = f"this project (`{repo}`)" if repo == OWN else repo
            said_of = (", ".join(np.unique(column[here]).tolist()) for column in cells[1:])
            out.append(table_row(source.name, said, *said_of, f"{here.sum():,}", f"{(here & compared).sum():,}"))
    return [*out, "", "Rows that are not compared are collectives, whole models, operators without a kernel model (MoE, MLA), or of a",
            f"machine without a hardware file. Rows of {' and '.join(EAGER)} hold the host's time as well."]


def _missing(evaluation: Evaluation) -> list[str]:
    own = sorted({source.name for source in evaluation.sources if OWN in np.asarray(source.table.get("source_repo", "")).astype(str)})
    measured = {one.found.hardware.name for one in evaluation.machines}
    others = [name for name in names() if name not in measured and load(name).spec.kind == "gpu"]
    return ["## What was not measured", "",
            f"- By this project: all but {', '.join(own) or 'nothing'}. Every other row is public work of others, under its own conditions",
            "  (clocks, operands, what the clock covers), which are part of the predictions as named conditions.",
            f"- By anybody on this page: {', '.join(others) or 'no GPU'}. They borrow a relative's numbers or have their data sheet",
            "  alone, and say so.",
            "- Held out means other shapes on the same machine, run by the same framework at the same time. It does not show another",
            "  framework, library version, clock or power limit.",
            "- TPUs, NPUs and PIM are not on this page: they are held against published simulators and figures, not against kernels.",
            *([] if any(OWN in np.asarray(one.found.measured.get("source_repo", "")).astype(str) for one in _gpus(evaluation)) else
              ["- No GPU has been available to this project."])]
