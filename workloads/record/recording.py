"""A model through the recorder, once for each phase."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..scenario import Scenario
from ..trace import Requests, Trace
from . import attention, inputs, mixers
from .dispatch import Attention, Recorder, RecordingError, attend, sentence
from .emit import Asked
from .export import Program
from .fold import fold
from .graph import DTYPES, Graph
from .recorded import Recording

Call = tuple[tuple[Any, ...], dict[str, Any]]


def record(model: Any, example: Any, scenario: Scenario, name: str | None = None) -> Recording:
    """The traces of a module, of a torch.export program, or of a transformers model or config, run on shapes alone."""
    with torch.no_grad():
        if isinstance(model, torch.export.ExportedProgram):
            args, kwargs = model.example_inputs
            return _one_pass(Program(model), (_meta(args), _meta(kwargs)), scenario, name or "program")
        if hasattr(model, "model_type") and not isinstance(model, torch.nn.Module):
            model = inputs.build(model)
        if not isinstance(model, torch.nn.Module):
            raise ValueError(f"a {type(model).__name__} cannot be recorded. Expected a torch.nn.Module, a torch.export program, "
                             "or a transformers model or config.")
        name = name or type(model).__name__
        if example is None and not hasattr(model, "main_input_name"):
            raise ValueError(f"{name} needs example inputs: a tuple of what it is called with, or a dict by name.")
        return _phases(model, scenario, name) if example is None else _one_pass(model, _call(example), scenario, name)


def program(path: Path) -> torch.export.ExportedProgram:
    """A saved torch.export program."""
    try:
        return torch.export.load(str(path))
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a torch.export program: {sentence(error)}") from error


def _call(example: Any) -> Call:
    """Example inputs as arguments, on the meta device."""
    if isinstance(example, Mapping):
        return (), {str(key): _meta(value) for key, value in example.items()}
    return tuple(_meta(value) for value in (example if isinstance(example, (tuple, list)) else (example,))), {}


def _meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to("meta")
    if isinstance(value, (tuple, list)):
        return type(value)(_meta(v) for v in value)
    return {key: _meta(v) for key, v in value.items()} if isinstance(value, dict) else value


def _one_pass(model: torch.nn.Module, call: Call, scenario: Scenario, name: str) -> Recording:
    phase = "decode" if scenario.phase == "decode" else "prefill"
    graph, _ = _run(model, call)
    first = next((t for t in _flat(call) if t.dim()), None)
    batch = 1 if first is None else int(first.shape[0])
    trace = fold(graph, _asked(model, scenario, phase), _requests(graph, batch, phase))
    parameters = sum(p.numel() for p in model.parameters())
    return Recording(name, parameters, trace if phase == "prefill" else None, trace if phase == "decode" else None)


def _requests(graph: Graph, batch: int, phase: str) -> Requests:
    """Of a model with inputs of its own: as long as what its attention sees; of a decode step, before it."""
    seen = [node.reads[1].shape[-2] - (node.reads[0].shape[-2] if phase == "decode" else 0) for node in graph.nodes
            if node.work == "attention"]
    return Requests(np.full(batch, max(1, *seen, 1), np.int64), np.zeros(batch, np.int64))


def _phases(model: Any, scenario: Scenario, name: str) -> Recording:
    """Prefill, and a decode step on the cache that it filled."""
    requests = Requests(scenario.lengths, np.zeros(scenario.batch, np.int64))
    traces: dict[str, Trace] = {}
    with inputs.ours(model):
        try:
            given = inputs.prefill_inputs(model, scenario)
        except (AttributeError, TypeError, KeyError) as error:
            raise RecordingError(f"{name}: no inputs can be made for it; give some beside the model: {sentence(error)}") from error
        graph, out = _run(model, ((), given))
        if scenario.phase != "decode":
            traces["prefill"] = fold(graph, _asked(model, scenario, "prefill"), requests)
        if scenario.phase != "prefill" and inputs.decodes(model):
            graph, _ = _run(model, ((), inputs.decode_inputs(model, given, scenario, out)))
            traces["decode"] = fold(graph, _asked(model, scenario, "decode"), requests)
    if not traces:
        raise ValueError(f"{name} is no decoder and has no decode phase. Use --phase prefill.")
    return Recording(name, sum(p.numel() for p in model.parameters()), traces.get("prefill"), traces.get("decode"))


def _asked(model: torch.nn.Module, scenario: Scenario, phase: str) -> Asked:
    floats = [p.dtype for p in model.parameters() if p.dtype.is_floating_point]
    own = DTYPES.get(str(max(set(floats), key=floats.count)).removeprefix("torch."), "fp32") if floats else scenario.dtype
    return Asked(phase, scenario.full_square, scenario.routing, {own: scenario.dtype}, scenario.weight_dtype, scenario.kv_dtype)


def _run(model: torch.nn.Module, call: Call) -> tuple[Graph, Any]:
    """One forward pass under the recorder."""
    args, kwargs = call
    tensors = {name: t.to("meta") for name, t in (*model.named_parameters(), *model.named_buffers())}
    elsewhere = any(t.device.type != "meta" for t in (*model.parameters(), *model.buffers()))
    forward: Callable[..., Any] = model
    if elsewhere:
        def forward(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(model, tensors, args, kwargs)
    training = model.training
    recorder = Recorder(type(model).__name__, list(tensors.values()))
    recorder.given(_flat(call))
    if isinstance(model, Program):
        model.recorder = recorder
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(model.train, training)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        model.eval()
        # a function mode sees no calls made inside torch's own functions, as multi_head_attention_forward's of this one
        stack.callback(setattr, functional, "scaled_dot_product_attention", functional.scaled_dot_product_attention)
        functional.scaled_dot_product_attention = attend
        torch.backends.mha.set_fastpath_enabled(False)  # else nn.TransformerEncoderLayer is one operator without a meta form
        for context in (mixers.replaced(model), recorder.hooked(model), attention.appended(recorder, kwargs.get("past_key_values"))):
            stack.enter_context(context)
        try:
            with Attention(), recorder:
                out = forward(*args, **kwargs)
        except RecordingError:
            raise
        except Exception as error:
            raise RecordingError(f"{recorder.place} does not run on shapes alone: {sentence(error)}") from error
    return recorder.graph(_flat(out)), out


def _flat(value: Any) -> list[torch.Tensor]:
    """Every tensor in tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [t for part in value.values() for t in _flat(part)]
    return [t for part in value for t in _flat(part)] if isinstance(value, (tuple, list)) else []
