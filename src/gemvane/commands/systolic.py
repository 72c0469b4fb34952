"""gemvane systolic"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gemvane import output
from gemvane.commands.run import written
from gemvane.scalesim_files import Config, Layer, read_config, read_topology
from gemvane.sim.devices import scalesim
from gemvane.sim.devices.scalesim import Convolution, Gemm, Memory, Spans
from gemvane.sim.devices.systolic import fold, pipelined_parts

if TYPE_CHECKING:
    from rich.table import Table

MODES = ("scalesim", "pipelined")
MOST = 2**63
OPERANDS = (("IFMAP", "Reads"), ("Filter", "Reads"), ("OFMAP", "Writes"))
LOSSES = ("ideal", "edge", "preload", "fill", "drain")


class Pipelined(NamedTuple):
    """Cycles of an array that loads each tile behind the stream of the one before, and what they went into; they add up."""

    cycles: int
    ideal: float
    edge: float
    preload: int
    fill: int
    drain: int


class Scalesim(NamedTuple):
    """A layer in SCALE-Sim: closed forms by name, and what its memory made of it."""

    counts: dict[str, float]
    memory: Memory
    spans: Spans


class Result(NamedTuple):
    """A layer in both modes; `scalesim` is None where only the other was asked for."""

    layer: Layer
    pipelined: Pipelined
    scalesim: Scalesim | None


def systolic(topology: Path, cfg: Path, mode: str, out: Path | None, json: bool) -> None:
    """Run SCALE-Sim's input files; write its reports, print them beside the cycles of a pipelined array."""
    if mode not in MODES:
        raise ValueError(f"--mode {mode}: no such mode. Expected one of {', '.join(MODES)}.")
    output.check_folder(out)
    config, layers = read_config(cfg), read_topology(topology)
    for layer in layers:
        _check_size(layer, config)
    results = _results(layers, config, mode)
    paths = []
    if out is not None:
        with output.staged(out) as folder:
            for name, text in _reports(results, config).items():
                (folder / name).write_text(text, encoding="utf-8")
                paths.append(out / name)
    for line in config.unknown:
        output.note(f"note: {line}.")
    if json:
        output.show_json(_facts(results, config, topology, mode, paths))
    else:
        _screen(results, config, topology, paths)


def _check_size(layer: Layer, config: Config) -> None:
    """ValueError where a count would pass 2^63: no number here is ever wrapped or rounded."""
    m, n, k = layer.shape.m, layer.shape.n, layer.shape.k
    folds, t = {"ws": ((k, n), m), "is": ((k, m), n), "os": ((m, n), k)}[config.dataflow]
    tiles = -(-folds[0] // config.rows) * -(-folds[1] // config.cols)
    most = max(m * n * k, tiles * (3 * config.rows + 2 * config.cols + t), tiles * config.rows * config.cols)
    if most >= MOST:
        raise ValueError(f"{layer.where}: layer {layer.name}: {m} x {n} x {k} makes {most:.2g} multiply-adds or cycles. Expected fewer "
                         f"than 2^63 ({MOST:.2g}).")


def _results(layers: Iterable[Layer], config: Config, mode: str) -> list[Result]:
    """Every layer in order; shapes that come again are run once."""
    known = cache(lambda shape: in_scalesim(shape, config))
    results = []
    for layer in layers:
        try:
            done = known(layer.shape) if mode == "scalesim" else None
        except ValueError as error:
            raise ValueError(f"{layer.where}: layer {layer.name}: {error} `--mode pipelined` needs no memory.") from None
        results.append(Result(layer, pipelined(layer.shape, config), done))
    return results


def in_scalesim(shape: Gemm | Convolution, config: Config) -> Scalesim:
    """One layer as SCALE-Sim runs it."""
    run = scalesim.run(shape, rows=config.rows, cols=config.cols, dataflow=config.dataflow, ifmap_bytes=1024 * config.ifmap_kb,
                       filter_bytes=1024 * config.filter_kb, ofmap_bytes=1024 * config.ofmap_kb,
                       words_per_cycle=config.words_per_cycle, version=config.version)
    counts = scalesim.counts(shape.m, shape.n, shape.k, rows=config.rows, cols=config.cols, dataflow=config.dataflow)
    return Scalesim({name: column.item() for name, column in counts._asdict().items()}, run.memory, run.spans)


def pipelined(shape: Gemm | Convolution, config: Config) -> Pipelined:
    """Cycles of one layer by cause: multiplying, edges of tiles, waiting for the next tile, filling and draining the array."""
    m, n, k = scalesim.columns(shape.m, shape.n, shape.k)
    f = fold(m, n, k, config.rows, config.cols, config.dataflow)
    fill, issue, drain = (int(x[0]) for x in pipelined_parts(f, config.rows, config.cols, config.dataflow, True))
    streaming = int((f.row_folds * f.col_folds * f.streamed)[0])
    ideal = shape.m * shape.n * shape.k / (config.rows * config.cols)
    return Pipelined(fill + issue + drain, ideal, streaming - ideal, issue - streaming, fill, drain)


def _compute(shape: Gemm | Convolution, of: Scalesim, config: Config) -> dict[str, float]:
    """The columns of COMPUTE_REPORT.csv."""
    total = of.memory.total_cycles
    prefetch = {"Total Cycles (incl. prefetch)": of.spans.dram_ofmap[1] - min(of.spans.dram_ifmap[0], of.spans.dram_filter[0])}
    util = scalesim.overall_util(shape.m, shape.n, shape.k, rows=config.rows, cols=config.cols, total_cycles=total)
    return (prefetch if config.version == 3 else {}) | {
        "Total Cycles": total, "Stall Cycles": of.memory.stall_cycles, "Overall Util %": util,
        "Mapping Efficiency %": of.counts["mapping_efficiency"], "Compute Util %": of.counts["compute_util"]}


def _accesses(of: Scalesim) -> dict[str, float]:
    """The columns of DETAILED_ACCESS_REPORT.csv; SCALE-Sim writes cycles as 33.0."""
    counts, spans = of.counts | of.memory._asdict(), of.spans._asdict()
    out: dict[str, float] = {}
    for place in ("SRAM", "DRAM"):
        for operand, verb in OPERANDS:
            name = f"{place} {operand}"
            port = name.lower().replace(" ", "_")
            out[f"{name} Start Cycle"], out[f"{name} Stop Cycle"] = map(float, spans[port])
            out[f"{name} {verb}"] = counts[f"{port}_{verb.lower()}"]
    return out


def _bandwidths(of: Scalesim) -> dict[str, float]:
    """The columns of BANDWIDTH_REPORT.csv, words a cycle: of SRAM over all cycles, of DRAM from its first to its last access."""
    words, total, spans = _accesses(of), of.memory.total_cycles, of.spans._asdict()
    sram = {f"Avg {operand.upper()} SRAM BW": words[f"SRAM {operand} {verb}"] / total if total else 0.0 for operand, verb in OPERANDS}
    cycles = {operand: spans[f"dram_{operand.lower()}"][1] - spans[f"dram_{operand.lower()}"][0] + 1 for operand, _ in OPERANDS}
    return sram | {f"Avg {operand.upper()} DRAM BW": words[f"DRAM {operand} {verb}"] / cycles[operand] for operand, verb in OPERANDS}


def _losses(result: Result) -> dict[str, str | float]:
    """The columns of PIPELINED_REPORT.csv."""
    shape, of = result.layer.shape, result.pipelined
    return {"Layer": result.layer.name, "M": shape.m, "N": shape.n, "K": shape.k, "Total Cycles": of.cycles,
            **{f"{cause.capitalize()} Cycles": getattr(of, cause) for cause in LOSSES}, "Overall Util %": 100 * of.ideal / of.cycles}


def _reports(results: list[Result], config: Config) -> dict[str, str]:
    """The text of each report file by its name, in SCALE-Sim's form: a row a layer, comma and space between, a comma at the end."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for r in results:
        if r.scalesim is not None:
            tables.setdefault("COMPUTE_REPORT.csv", []).append(_compute(r.layer.shape, r.scalesim, config))
            tables.setdefault("BANDWIDTH_REPORT.csv", []).append(_bandwidths(r.scalesim))
            tables.setdefault("DETAILED_ACCESS_REPORT.csv", []).append(_accesses(r.scalesim))
        tables.setdefault("PIPELINED_REPORT.csv", []).append(_losses(r))
    lines = {name: [["LayerID", *rows[0]], *([i, *row.values()] for i, row in enumerate(rows))] for name, rows in tables.items()}
    return {name: "".join(", ".join(map(str, cells)) + ",\n" for cells in table) for name, table in lines.items()}


def _facts(results: list[Result], config: Config, topology: Path, mode: str, paths: list[Path]) -> dict[str, Any]:
    layers: list[dict[str, Any]] = []
    for layer, ours, theirs in results:
        of = {"name": layer.name, "m": layer.shape.m, "n": layer.shape.n, "k": layer.shape.k,
              "pipelined": {**ours._asdict(), "util_percent": 100 * ours.ideal / ours.cycles}}
        columns = theirs and _compute(layer.shape, theirs, config) | _bandwidths(theirs) | _accesses(theirs)
        layers.append(of | ({"scalesim": columns} if columns else {}))
    total = {"pipelined_cycles": sum(r.pipelined.cycles for r in results)}
    if mode == "scalesim":
        total["scalesim_cycles"] = sum(r.scalesim.memory.total_cycles for r in results if r.scalesim)
    return {"schema": "gemvane.systolic/1", "topology": str(topology), "mode": mode, "config": config._asdict(), "layers": layers,
            "total": total, "paths": [str(path) for path in paths]}


def _screen(results: list[Result], config: Config, topology: Path, paths: list[Path]) -> None:
    from gemvane.render import facts, plural

    flow = {"ws": "weight", "os": "output", "is": "input"}[config.dataflow]
    ports = "no stalls (CALC)" if config.words_per_cycle is None else "{} / {} / {} words a cycle (USER)".format(*config.words_per_cycle)
    lines = [("array", f"{config.name}: {config.rows} x {config.cols}, {flow}-stationary"),
             ("topology", f"{topology} ({plural(len(results), 'layer')})")]
    if results[0].scalesim is not None:
        sizes = f"{config.ifmap_kb} / {config.filter_kb} / {config.ofmap_kb} kB of ifmap, filter and ofmap SRAM"
        lines.append(("SCALE-Sim", f"v{config.version}, {sizes}, {ports}: tiles one at a time"))
    lines.append(("pipelined", "the next tile loads behind the stream of this one; no memory"))
    output.show(facts(lines), "", _table(results, config), *written(paths))


def _table(results: list[Result], config: Config) -> Table:
    from gemvane.render import table

    both = results[0].scalesim is not None
    ours = ("pipelined", "busy", *LOSSES)
    numbers = (*(("SCALE-Sim", "stalls", "used") if both else ()), *ours)
    out = table("layer", "MxNxK", *numbers, right=("MxNxK", *numbers))
    sums = dict.fromkeys(("scalesim", "stalls", "cycles", *LOSSES), 0.0)
    for i, r in enumerate(results):
        theirs = r.scalesim and {"scalesim": r.scalesim.memory.total_cycles, "stalls": r.scalesim.memory.stall_cycles}
        of = r.pipelined._asdict() | (theirs or {})
        sums = {name: total + of.get(name, 0) for name, total in sums.items()}
        out.add_row(r.layer.name, f"{r.layer.shape.m}x{r.layer.shape.n}x{r.layer.shape.k}", *_cells(of, both),
                    end_section=i + 1 == len(results))
    out.add_row("all", "", *_cells(sums, both), style="bold")
    return out


def _cells(of: dict[str, float], both: bool) -> list[str]:
    """Cycles and percent; used and busy are shares of the array's multiply-adds."""
    theirs = [f"{of['scalesim']:,.0f}", f"{of['stalls']:,.0f}", _share(of["ideal"], of["scalesim"])] if both else []
    return [*theirs, f"{of['cycles']:,.0f}", _share(of["ideal"], of["cycles"]), *(f"{of[cause]:,.0f}" for cause in LOSSES)]


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
