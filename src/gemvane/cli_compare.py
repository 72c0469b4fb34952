"""The command that lays results side by side."""

from __future__ import annotations

from typing import Annotated

import typer

from gemvane.cli_options import (
    HW,
    AllLogits,
    Dtype,
    FullSquare,
    Json,
    OtherDtype,
    Out,
    Phase,
    Policy,
    Pp,
    Report,
    Routing,
    Sparsity,
    Spread,
    Tp,
    Transforms,
    Verbose,
)
from gemvane.completion import hardware, models

Models = Annotated[str, typer.Argument(metavar="MODEL[,MODEL...]", show_default=False, autocompletion=models,
                                       help="Bundled models (`gemvane models list`) or paths of Hugging Face config.json, separated by "
                                       "commas.")]
Machines = Annotated[str, typer.Option("--hw", metavar="A,B,C", help=f"The hardware, separated by commas, each {HW}.", show_default=False,
                                       autocompletion=hardware)]
Sizes = Annotated[str | None, typer.Option(metavar="SIZES", help="Batch sizes: one, a list as in 1,8,64, or powers of two as in 1..512. "
                                           "[default: 1, or the requests of a file]")]
Prompts = Annotated[str, typer.Option(metavar="TOKENS", help="Prompt lengths, written as --batch is; or one way to draw them, as in "
                                      "sharegpt-like or lognormal:mean=512,sigma=0.7; or a file of requests.")]
Outputs = Annotated[str, typer.Option(metavar="TOKENS", help="Tokens generated for each request, written as --batch is.")]


def add(app: typer.Typer) -> None:
    """Give the program this command."""
    app.command("compare")(_compare)


def _compare(
    model: Models, hw: Machines, batch: Sizes = None, prompt: Prompts = "512", output: Outputs = "128",
    dtype: Dtype = "bf16", kv_dtype: OtherDtype = None, weight_dtype: OtherDtype = None, sparsity: Sparsity = "dense",
    phase: Phase = "both", tp: Tp = 1, pp: Pp = 1, spread: Spread = "heads", routing: Routing = "uniform",
    full_square: FullSquare = False, all_logits: AllLogits = False, transform: Transforms = None, policy: Policy = None,
    verbose: Verbose = False, json: Json = False, out: Out = None, report: Report = None,
) -> None:
    """Models on several machines: which one wins, and where that changes."""
    from gemvane.commands import compare as command

    asked = {"dtype": dtype, "kv_dtype": kv_dtype, "weight_dtype": weight_dtype, "weight_sparsity": sparsity, "phase": phase, "tp": tp,
             "pp": pp, "attention_parallel": spread, "routing": routing, "full_square": full_square, "all_logits": all_logits,
             "transforms": transform or ()}
    command.compare(model, hw, command.sizes(batch, prompt, output), policy or [], asked, verbose, json, out, report)
