"""Any torch module, torch.export program or ONNX file -> Trace, from one pass over shapes: nothing is computed, no weights are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..scenario import Scenario
from ..trace import Requests
from .recorded import Recording

__all__ = ["Recording", "record"]

FILES = (".onnx", ".pt2")
"""Files that are recorded: ONNX graphs and saved torch.export programs."""


def record(model: Any, inputs: Any = None, scenario: Scenario | None = None, name: str | None = None) -> Recording:
    """The operators of a torch module, a torch.export program, a transformers model or config, or of such a file, run on shapes alone.

    `inputs`: what the module is called with, a tuple or a dict by name; the pass is then the prefill (where the scenario's phase is
    decode, the decode step). Of transformers' models they may be left out, and are made for the scenario; a program or a file has its
    own. The scenario's dtype stands in for the type that most parameters have. Raises ValueError with one sentence: which operator of
    which module cannot be recorded, and why.
    """
    scenario = scenario or Scenario(phase="prefill")
    check(scenario)
    if isinstance(model, (str, Path)) and Path(model).suffix == ".onnx":
        return _onnx(Path(model), scenario, name)
    try:
        from . import recording
    except ModuleNotFoundError as error:
        raise ValueError(f"recording a model needs {error.name}. Say `pip install 'gemvane[record]'`.") from None
    if isinstance(model, (str, Path)):
        return recording.record(recording.program(Path(model)), inputs, scenario, name or Path(model).stem)
    return recording.record(model, inputs, scenario, name)


def check(scenario: Scenario) -> None:
    """ValueError for what a recording cannot follow."""
    for field, plain in (("tp", 1), ("pp", 1), ("weight_sparsity", "dense")):
        if getattr(scenario, field) != plain:
            raise ValueError(f"{field} is {getattr(scenario, field)!r}: a recorded model runs on one device, with dense weights.")
    if np.unique(scenario.lengths).size > 1:
        raise ValueError("prompt has several lengths: a recorded model runs with one length for all requests.")


def _onnx(path: Path, scenario: Scenario, name: str | None) -> Recording:
    from .emit import Asked
    from .fold import fold
    from .onnxfile import read

    graph, parameters, batch, own = read(path)
    longest = max((node.reads[1].shape[-2] for node in graph.nodes if node.work == "attention"), default=1)
    asked = Asked("prefill", scenario.full_square, scenario.routing, {own: scenario.dtype}, scenario.weight_dtype, scenario.kv_dtype)
    trace = fold(graph, asked, Requests(np.full(batch, longest), np.zeros(batch, np.int64)))
    return Recording(name or path.stem, parameters, trace, None)
