"""torch.export programs: their graph run node by node under the recorder, with the module paths that the program remembers."""

from __future__ import annotations

from typing import Any

import torch
from torch.export.graph_signature import InputKind
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves

from .dispatch import Recorder


class Program(torch.nn.Module):
    """A program's graph as a module without weights, which is called as the program was."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.recorder: Recorder | None = None
        self._graph = program.graph_module
        self._inputs: list[str | None] = []
        """Of each placeholder: the attribute that holds it, None for an argument."""
        for i, given in enumerate(program.graph_signature.input_specs):
            tensor = program.state_dict.get(given.target or "", program.constants.get(given.target or ""))
            if given.kind == InputKind.USER_INPUT or not isinstance(tensor, torch.Tensor):
                self._inputs.append(None)
                continue
            name = f"tensor{i}"
            if given.kind == InputKind.PARAMETER:
                self.register_parameter(name, torch.nn.Parameter(tensor.to("meta"), requires_grad=False))
            else:
                self.register_buffer(name, tensor.to("meta"))
            self._inputs.append(name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = iter(tree_leaves((args, kwargs)))
        values = [next(given) if name is None else getattr(self, name) for name in self._inputs]
        return _Steps(self._graph, self.recorder).run(*values)


class _Steps(Interpreter):
    def __init__(self, graph: torch.fx.GraphModule, recorder: Recorder | None) -> None:
        super().__init__(graph)
        self._recorder = recorder

    def run_node(self, n: Node) -> Any:
        stack = n.meta.get("nn_module_stack")
        if not stack or self._recorder is None:
            return super().run_node(n)
        path, kind = list(stack.values())[-1]
        with self._recorder.inside(path, str(kind).rpartition(".")[2]):
            return super().run_node(n)
