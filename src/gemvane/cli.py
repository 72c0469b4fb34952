"""The command line. Everything heavy is imported inside the commands, so that `gemvane --help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemvane import __version__, cli_compare, cli_report, cli_sweep
from gemvane.cli_options import (
    HW,
    AllLogits,
    Batch,
    Dtype,
    FullSquare,
    Hw,
    Json,
    Memory,
    Model,
    OtherDtype,
    Out,
    Output,
    Phase,
    Policy,
    Pp,
    Prompt,
    Report,
    Routing,
    Sparsity,
    Spread,
    Tp,
    Transforms,
    Verbose,
)
from gemvane.completion import hardware
from gemvane.face import Face

HELP = "Latency and energy of transformer inference on hardware that exists, or does not exist yet."


def _app(text: str, completion: bool = False) -> typer.Typer:
    return typer.Typer(cls=Face, help=text, add_completion=completion, rich_markup_mode=None, pretty_exceptions_enable=False,
                       context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})


app = _app(HELP, completion=True)
models_app = _app("The bundled models, and what a config.json says.")
hw_app = _app("The bundled hardware, and hardware files of your own.")
dram_app = _app("Memory channels, command by command: replay requests, check commands.")
app.add_typer(models_app, name="models")
app.add_typer(hw_app, name="hw")
app.add_typer(dram_app, name="dram")
validate_app = _app("Measured numbers and other simulators' results against ours.")
app.add_typer(validate_app, name="validate")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gemvane {__version__}")
        raise typer.Exit


@app.callback()
def _gemvane(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. GEMVANE_DEBUG=1 does the same.")] = False,
) -> None:
    pass


@app.command()
def run(
    model: Model, hw: Annotated[str, typer.Option(metavar="HW", help=f"The hardware: {HW}.", show_default=False, autocompletion=hardware)],
    batch: Batch = None, prompt: Prompt = "512", output: Output = 128,
    dtype: Dtype = "bf16", kv_dtype: OtherDtype = None, weight_dtype: OtherDtype = None, sparsity: Sparsity = "dense",
    phase: Phase = "both", tp: Tp = 1, pp: Pp = 1, spread: Spread = "heads", routing: Routing = "uniform",
    full_square: FullSquare = False, all_logits: AllLogits = False, transform: Transforms = None,
    policy: Policy = None,
    ops: Annotated[bool, typer.Option("--ops", help="Show every operator: its time, what binds it, where the time goes.")] = False,
    verbose: Verbose = False, json: Json = False, out: Out = None, report: Report = None,
) -> None:
    """One model on one machine: time, energy, what bounds it."""
    from gemvane.commands import run as command
    from gemvane.commands import scenario

    asked = scenario.options(batch, prompt, output=output, dtype=dtype, kv_dtype=kv_dtype, weight_dtype=weight_dtype,
                             weight_sparsity=sparsity, phase=phase, tp=tp, pp=pp, attention_parallel=spread, routing=routing,
                             full_square=full_square, all_logits=all_logits, transforms=transform or ())
    command.run(model, hw, asked, policy or [], ops, json, out, verbose=verbose, report=report)


cli_compare.add(app)
cli_sweep.add(app)
cli_report.add(app)


@app.command()
def trace(
    model: Model,
    file: Annotated[Path | None, typer.Option("-o", metavar="FILE", show_default=False,
                                              help="Write every operator into this .parquet or .csv file.")] = None,
    batch: Batch = None, prompt: Prompt = "512", output: Output = 128,
    dtype: Dtype = "bf16", kv_dtype: OtherDtype = None, weight_dtype: OtherDtype = None, sparsity: Sparsity = "dense",
    phase: Phase = "both", tp: Tp = 1, pp: Pp = 1, spread: Spread = "heads", routing: Routing = "uniform",
    full_square: FullSquare = False, all_logits: AllLogits = False, transform: Transforms = None,
    json: Json = False,
) -> None:
    """The operators of a model: what they compute and move."""
    from gemvane.commands import scenario
    from gemvane.commands import trace as command

    asked = scenario.options(batch, prompt, output=output, dtype=dtype, kv_dtype=kv_dtype, weight_dtype=weight_dtype,
                             weight_sparsity=sparsity, phase=phase, tp=tp, pp=pp, attention_parallel=spread, routing=routing,
                             full_square=full_square, all_logits=all_logits, transforms=transform or ())
    command.trace(model, file, asked, json)


@app.command()
def systolic(
    topology: Annotated[Path, typer.Argument(metavar="TOPOLOGY", show_default=False,
                                             help="A SCALE-Sim topology: a .csv table of GEMMs (Layer, M, N, K) or of convolutions.")],
    cfg: Annotated[Path, typer.Option(metavar="FILE", help="A SCALE-Sim .cfg: the array, its SRAMs, the bandwidth.", show_default=False)],
    mode: Annotated[str, typer.Option(metavar="MODE", help="scalesim, which shows both timings; or pipelined alone.")] = "scalesim",
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="DIR", help="Write the reports into this folder.",
                                             show_default=False)] = None,
    json: Json = False,
) -> None:
    """SCALE-Sim's input files: its reports, beside the cycles of a pipelined array."""
    from gemvane.commands import systolic as command

    command.systolic(topology, cfg, mode, out, json)


@app.command()
def doctor(warm: Annotated[bool, typer.Option("--warm", help="Compile everything now, so that the next run is fast.")] = False,
           json: Json = False) -> None:
    """What is installed, and whether it works."""
    from gemvane.commands import doctor as command

    command.doctor(warm, json)


@models_app.command("list")
def models_list(dtype: Dtype = "bf16", json: Json = False) -> None:
    """Every bundled model: size, attention, cache."""
    from gemvane.commands import models

    models.list_all(dtype, json)


@models_app.command("show")
def models_show(model: Model, dtype: Dtype = "bf16", json: Json = False) -> None:
    """One model: parameters, bytes of its weights and of its cache, layers."""
    from gemvane.commands import models

    models.show(model, dtype, json)


@hw_app.command("list")
def hw_list(json: Json = False) -> None:
    """Every bundled hardware: peak, memory, power."""
    from gemvane.commands import hw

    hw.list_all(json)


@hw_app.command("show")
def hw_show(hardware: Hw, json: Json = False) -> None:
    """Every number with its source, and how far to trust it."""
    from gemvane.commands import hw

    hw.show(hardware, json)


@hw_app.command("check")
def hw_check(file: Annotated[str, typer.Argument(metavar="FILE", help="A hardware YAML file.", show_default=False)],
             json: Json = False) -> None:
    """List everything that is wrong with a hardware file."""
    from gemvane.commands import hw

    hw.check(file, json)


@hw_app.command("schema")
def hw_schema() -> None:
    """The JSON schema of hardware files, for editors."""
    from gemvane.commands import hwschema

    hwschema.schema()


@hw_app.command("diff")
def hw_diff(first: Annotated[str, typer.Argument(metavar="A", show_default=False)],
            second: Annotated[str, typer.Argument(metavar="B", show_default=False)], json: Json = False) -> None:
    """What differs between two machines."""
    from gemvane.commands import hw

    hw.diff(first, second, json)


@hw_app.command("new")
def hw_new(name: Annotated[str, typer.Argument(metavar="NAME", help="Small letters, digits and dashes.", show_default=False)],
           base: Annotated[str, typer.Option("--from", metavar="HW", help=f"What it starts from: {HW}.", show_default=False)],
           file: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Where to write it. [default: NAME.yaml]",
                                                     show_default=False)] = None) -> None:
    """Start a file of your own that changes numbers of another."""
    from gemvane.commands import hw

    hw.new(name, base, file)


@dram_app.command("replay")
def dram_replay(
    requests: Annotated[Path, typer.Argument(metavar="REQUESTS", show_default=False,
                                             help="A .csv or .parquet table in order of arrival: rw (1 write), pc, bg, ba, ro, co; "
                                             "ra (rank) and ch (channel) where there are several.")],
    memory: Memory,
    scheduler: Annotated[str, typer.Option(metavar="NAME", help="frfcfs, or frfcfs-rowhit, which closes no row that is still wanted."
                                           )] = "frfcfs-rowhit",
    row_policy: Annotated[str, typer.Option(metavar="NAME", help="open, or closed: the last access that is wanted closes a row.")] = "open",
    cap: Annotated[int, typer.Option(metavar="N", help="Columns after which a row is closed, with --row-policy closed.")] = 4,
    refresh: Annotated[str, typer.Option(metavar="NAME", help="all-bank, per-bank, same-bank or none.")] = "all-bank",
    channels: Annotated[int | None, typer.Option(metavar="N", help="Independent channels; else as many as the column ch asks for.",
                                                 show_default=False)] = None,
    commands: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every command into this .csv file.",
                                                  show_default=False)] = None,
    json: Json = False,
) -> None:
    """Serve requests on one channel or several: time, bandwidth, what held them up."""
    from gemvane.commands import dram

    dram.replay(requests, memory, scheduler, refresh, commands, json, row_policy=row_policy, cap=cap, channels=channels)


@dram_app.command("check")
def dram_check(
    commands: Annotated[Path, typer.Argument(metavar="COMMANDS", show_default=False, help="A .csv or .parquet table of the commands of one "
                                             "channel: tick, command, pc, ra, bg, ba, ro; -1 where one addresses no such level.")],
    memory: Memory, json: Json = False,
    compat: Annotated[bool, typer.Option("--compat", help="Allow what the published NeuPIMs simulator does (nSTRICT is 0).")] = False,
) -> None:
    """Which rules of the memory a command trace breaks, where, and by how many ticks."""
    from gemvane.commands import dram

    dram.check(commands, memory, json, compat=compat)


@dram_app.command("parts")
def dram_parts(json: Json = False) -> None:
    """Every bundled memory part: standard, bandwidth, organisation."""
    from gemvane.commands import dram

    dram.parts(json)


@validate_app.command("claims")
def validate_claims(
    pages: Annotated[list[str] | None, typer.Argument(metavar="[PAGE]...", show_default=False,
                                                      help="Bundled pages of claims, or YAML files. [default: all bundled]")] = None,
    json: Json = False,
    file: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write the page as this .md file.", show_default=False)] = None,
) -> None:
    """Published claims, run: claimed and simulated figures side by side."""
    from gemvane.commands import validate

    validate.claims(pages or [], json, file)


@validate_app.command("oracles")
def validate_oracles(
    name: Annotated[str, typer.Argument(metavar="NAME", help="ramulator, scalesim, neupims, attacc or cent.", show_default=False)],
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Its results, .csv or .parquet.", show_default=False)],
    json: Json = False,
    file: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write every compared row into this .csv file.",
                                              show_default=False)] = None,
) -> None:
    """Another simulator's results, row by row against ours."""
    from gemvane.commands import validate

    validate.oracles(name, table, json, file)


@validate_app.command("measure")
def validate_measure(
    file: Annotated[Path, typer.Option("-o", metavar="TABLE", show_default=False,
                                       help="The kernel table, .csv or .parquet; rows that are there already are kept.")],
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    suite: Annotated[str | None, typer.Option(metavar="NAME", help="Which shapes: quick, serving or full. [default: quick]",
                                              show_default=False)] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", show_default=False, help="The shapes of this model, not a suite.")] = None,
    dtype: Dtype = "bf16",
    seconds: Annotated[float, typer.Option("--seconds-per-row", metavar="SECONDS", help="Time spent on each row.")] = 0.3,
    window: Annotated[float, typer.Option("--energy-window", metavar="SECONDS", help="Time over which energy is read; 0: never.")] = 2.0,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Of a CPU: threads that share a kernel. [default: one a core]",
                                                show_default=False)] = None,
    hw: Annotated[str | None, typer.Option(metavar="HW", help="Hardware whose roofline no row should beat. [default: found by name]",
                                           show_default=False)] = None,
    json: Json = False,
) -> None:
    """Run real kernels on this machine and write how long they take."""
    from gemvane.commands import measure as command

    command.measure(device, suite, model, dtype, file, seconds, window, threads, hw, json)


@validate_app.command("machine")
def validate_machine(
    file: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write the CPU as a hardware file.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Its name. [default: the file's]", show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", show_default=False, help="Cores that share a kernel. [default: all]")] = None,
    json: Json = False,
) -> None:
    """What this machine's CPU is, and a hardware file of it."""
    from gemvane.commands import measure as command

    command.show_machine(file, name, threads, json)


@validate_app.command("calibrate")
def validate_calibrate(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A measured kernel table, .csv or .parquet.", show_default=False)],
    hw: Annotated[str, typer.Option(metavar="HW", help=f"The GPU that was measured: {HW}.", show_default=False)],
    file: Annotated[Path | None, typer.Option("-o", metavar="FILE", show_default=False,
                                              help="Where to write the calibration. [default: the bundled one of that name]")] = None,
    json: Json = False,
) -> None:
    """Fit a GPU's numbers to measured kernels."""
    from gemvane.commands import calibrate as command

    command.calibrate(table, hw, file, json)


@validate_app.command("compare")
def validate_compare(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A measured kernel table, .csv or .parquet.", show_default=False)],
    hw: Annotated[str, typer.Option(metavar="HW", help=f"The hardware that was measured: {HW}.", show_default=False)],
    json: Json = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="Plot measured against predicted (.svg).")] = None,
    report: Report = None,
) -> None:
    """Measured kernels against simulated ones: how far off, and where."""
    from gemvane.commands import compare_table as command

    command.compare(table, hw, json, plot, report)


@validate_app.command("page")
def validate_page(
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The page, .md; its plots are written beside it.", show_default=False)],
    found: Annotated[list[Path] | None, typer.Argument(metavar="[TABLE]...", show_default=False,
                                                       help="Measured kernels, .csv or .parquet. [default: those bundled]")] = None,
) -> None:
    """Write the page that says how far the models are off: measured tables against simulated ones."""
    from gemvane.commands import page

    page.page(found or [], file)


@validate_app.command("import")
def validate_import(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False,
                                        help="aiconfigurator, vidur, llmcompass, neusight, llmservingsim or splitwise.")],
    folder: Annotated[Path, typer.Argument(metavar="PATH", help="A clone of its repository.", show_default=False)],
    file: Annotated[Path, typer.Option("-o", metavar="TABLE", help="The kernel table, .csv or .parquet.", show_default=False)],
    json: Json = False,
) -> None:
    """Another project's measured kernels as a kernel table."""
    from gemvane.commands import import_table as command

    command.import_table(name, folder, file, json)


def main() -> None:
    """The `gemvane` command."""
    app()
