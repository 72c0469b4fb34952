"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gemvane.completion import hardware, models, parts

MODEL = "A bundled model (`gemvane models list`) or the path of a Hugging Face config.json."
HW = "bundled hardware (`gemvane hw list`) or the path of a YAML file"

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False, autocompletion=models)]
Hw = Annotated[str, typer.Argument(metavar="HW", help=f"{HW[0].upper()}{HW[1:]}.", show_default=False, autocompletion=hardware)]
Batch = Annotated[int | None, typer.Option(metavar="N", help="Requests that run together. [default: as many as --prompt has lengths]")]
Prompt = Annotated[str, typer.Option(metavar="TOKENS", help="Prompt length; or one a request, as in 100,2000,512; or drawn, as in "
                                     "sharegpt-like or lognormal:mean=512,sigma=0.7; or a file of requests.")]
Output = Annotated[int, typer.Option(metavar="TOKENS", help="Tokens generated for each request, the first one included.")]
Dtype = Annotated[str, typer.Option(metavar="TYPE", help="Number type: fp32, bf16, fp16, fp8, int8, fp4 ...")]
OtherDtype = Annotated[str | None, typer.Option(metavar="TYPE", help="The same for this alone, where it differs from --dtype.")]
Sparsity = Annotated[str, typer.Option("--weight-sparsity", metavar="N:M",
                                      help="Linear weights keep N of each M values, as in 2:4; or dense.")]
Phase = Annotated[str, typer.Option(metavar="PHASE", help="prefill, decode or both.")]
Tp = Annotated[int, typer.Option(metavar="N", help="Tensor parallelism: devices that share every layer.")]
Pp = Annotated[int, typer.Option(metavar="N", help="Pipeline parallelism: devices one after another.")]
Spread = Annotated[str, typer.Option("--attention-parallel", metavar="WHAT",
                                    help="What --tp shares out of the attention over the cache: heads or batch.")]
Routing = Annotated[str, typer.Option(metavar="NAME", help="How tokens choose experts: uniform, balanced or zipf.")]
FullSquare = Annotated[bool, typer.Option("--full-square", help="Count every query-key pair of causal attention, as most papers do.")]
Transforms = Annotated[list[str] | None, typer.Option("--transform", metavar="NAME:KEY=VALUE,...", show_default=False,
                                                      help="Change the workload, as in kv_evict:keep=0.1; may be said again.")]
AllLogits = Annotated[bool, typer.Option("--all-logits", help="Compute the logits of every prompt position, as most papers count.")]
Policy = Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", show_default=False, help="Change a policy of the hardware, as "
                                                  "in sub_batches=2 or ffn=auto; may be said again.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show more: policies, operators, what gemvane itself took.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Memory = Annotated[str, typer.Option(metavar="PART", show_default=False, autocompletion=parts,
                                     help="The memory: a bundled part (`gemvane dram parts`) or the path of a YAML file.")]
Report = Annotated[Path | None, typer.Option("--report", metavar="FILE", help="Write a report as this .html file.", show_default=False)]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write the results into this folder.", show_default=False)]
