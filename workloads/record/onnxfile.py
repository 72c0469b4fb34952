"""ONNX files: the nodes of a graph with the shapes that the file gives or that follow from them. Needs onnx, not torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .graph import BOOKKEEPING, DTYPES, Graph, Node, Tensor

ALIAS = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Flatten", "Identity", "Dropout")
PART = ("Slice", "Split")
SHAPES = ("Shape", "Size")
"""Known before the run, whatever they are asked of."""
MOVE = {"Concat": "cat", "Gather": "index", "GatherND": "index", "GatherElements": "gather", "Cast": "_to_copy", "Pad": "constant_pad_nd",
        "Tile": "repeat", "ScatterND": "index_put", "ScatterElements": "scatter", "Where": "where", "DepthToSpace": "pixel_shuffle",
        "SpaceToDepth": "pixel_unshuffle", "Trilu": "tril"}
VECTOR = {
    "LayerNormalization": "native_layer_norm", "GroupNormalization": "native_group_norm", "InstanceNormalization": "native_group_norm",
    "BatchNormalization": "native_batch_norm", "RMSNormalization": "rms_norm", "SimplifiedLayerNormalization": "rms_norm",
    "Softmax": "softmax", "LogSoftmax": "_log_softmax", "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "amax", "ReduceMin": "amin",
    "ReduceL2": "norm", "TopK": "topk", "ArgMax": "argmax", "Swish": "silu", "QuickGelu": "silu", "HardSwish": "hardswish",
    "CumSum": "cumsum", **{name: name.lower() for name in (
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Erf", "Sigmoid", "Tanh", "Relu", "Gelu", "Neg", "Abs",
        "Sin", "Cos", "Min", "Max", "Clip", "Softplus", "Elu", "LeakyRelu", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual",
        "Not", "And", "Or", "Floor", "Ceil", "Round", "Mod", "Sign", "IsNaN")},
}
POOL = ("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")
DEQUANTIZE = "DequantizeLinear"


class Read(NamedTuple):
    """What a file holds."""

    graph: Graph
    parameters: int
    batch: int
    """First dimension of the first input."""
    dtype: str
    """Of most parameters."""


def read(path: Path) -> Read:
    """The graph of a file. ValueError for a
    tensor without a shape, or an operator that has no row here: with file, node and name."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise ValueError(f"{path}: reading ONNX needs onnx. Say `pip install 'gemvane[onnx]'`.") from None
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as an ONNX file ({type(error).__name__}).") from error
    try:
        model = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError as error:
        raise ValueError(f"{path}: the shapes do not follow from the graph: {str(error).splitlines()[0]}") from error
    return _Reader(model, path, onnx).read()


class _Reader:
    def __init__(self, model: Any, path: Path, onnx: Any) -> None:
        self.graph, self.path, self.onnx = model.graph, path, onnx
        self.types = {value.name: value.type.tensor_type for values in (self.graph.input, self.graph.value_info, self.graph.output)
                      for value in values}
        self.seen: dict[str, Tensor] = {}
        self.nodes: list[Node] = []

    def read(self) -> Read:
        parameters: Counter[str] = Counter()
        for weight in self.graph.initializer:
            made = Tensor(len(self.seen), -1, tuple(weight.dims), self._dtype(weight.data_type), True)
            self.seen[weight.name] = made
            parameters[made.dtype] += made.size if made.dtype not in BOOKKEEPING else 0
        inputs = [value.name for value in self.graph.input if value.name not in self.seen]
        for name in inputs:
            self._new(name, -1, False, "the graph's input")
        for node in self.graph.node:
            self._add(node)
        results = frozenset(self.seen[value.name].source for value in self.graph.output)
        batch = next((self.seen[name].shape[0] for name in inputs if self.seen[name].shape), 1)
        most = max(parameters, key=parameters.__getitem__, default="fp32")
        return Read(Graph(self.nodes, results), parameters.total(), batch, most)

    def _dtype(self, code: int) -> str:
        name = str(self.onnx.TensorProto.DataType.Name(code)).lower()
        plain = {"float": "float32", "double": "float64", "float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}.get(name, name)
        return DTYPES.get(plain, plain)

    def _new(self, name: str, source: int, static: bool, what: str) -> Tensor:
        kind = self.types.get(name)
        if kind is None or not kind.HasField("shape"):
            raise ValueError(f"{self.path}: {name!r}, {what}, has no shape. Export the model with fixed shapes, or infer them first.")
        for dim in kind.shape.dim:
            if not dim.HasField("dim_value"):
                raise ValueError(f"{self.path}: {name!r}, {what}, has a dimension {dim.dim_param or '?'!r} without a number. "
                                 "Export the model with fixed shapes.")
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        self.seen[name] = Tensor(len(self.seen), source, shape, self._dtype(kind.elem_type), static)
        return self.seen[name]

    def _add(self, node: Any) -> None:
        op, where = node.op_type, f"what {node.op_type} {node.name!r} writes"
        reads = tuple(self.seen[name] for name in node.input if name in self.seen)
        outputs = [name for name in node.output if name]
        if op in SHAPES or (all(t.static for t in reads) and op not in ("RandomNormal", "RandomUniform")):
            for name in outputs:
                self._constant(name, node, reads)
            return
        if op in ALIAS or op in PART:
            for name in outputs[: 1 if op in ALIAS else None]:
                view = self._new(name, reads[0].source, False, where)
                if view.size == reads[0].size:
                    self.seen[name] = view._replace(id=reads[0].id)
            return
        made = next(self._made(node, reads), None)
        if made is None:
            raise ValueError(f"{self.path}: operator {op} ({node.name or 'without a name'}) is none that is known here.")
        work, name, facts = made
        writes = tuple(self._new(out, len(self.nodes), False, where) for out in outputs)
        parts = [part for part in node.name.split("/") if part][:-1]
        self.nodes.append(Node(work, name, ".".join(parts), parts[-1] if parts else "", reads, writes, (len(self.nodes),), facts))

    def _constant(self, name: str, node: Any, reads: tuple[Tensor, ...]) -> None:
        """A tensor that is known before the run; its shape may be unknown, as it costs nothing unless a product reads it."""
        if name in self.types and self.types[name].HasField("shape"):
            made = self._new(name, -1, True, f"what {node.op_type} {node.name!r} writes")
            if node.op_type == DEQUANTIZE:
                self.seen[name] = made._replace(dtype=reads[0].dtype)
            return
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        shape, kind = (tuple(value.dims), self._dtype(value.data_type)) if value is not None else ((), "int64")
        self.seen[name] = Tensor(len(self.seen), -1, shape, kind, True)

    def _made(self, node: Any, reads: tuple[Tensor, ...]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Class, name and facts of a node, as the recorder has them."""
        op = node.op_type
        facts = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        if op in ("MatMul", "Gemm"):
            yield "product", op, {"operands": self._operands(op, facts, reads)}
        if op in ("Conv", "ConvTranspose"):
            yield "conv", op, {"groups": facts.get("group", 1), "transposed": op == "ConvTranspose"}
        if op == "Attention" and len(reads) >= 3 and len(reads[0].shape) == 4:
            yield "attention", op, {"causal": bool(facts.get("is_causal", 0)), "window": 0}
        if op in POOL:
            yield "pool", op, {}
        if op == "Gather" and reads[0].static and len(reads[0].shape) == 2:
            yield "embedding", op, {}
        if op in MOVE:
            yield "move", MOVE[op], {}
        if op in VECTOR:
            yield "vector", VECTOR[op], {}

    def _operands(self, op: str, facts: dict[str, Any], reads: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Both factors as [.., m, k] and [.., k, n]; a weight that all of a batch share makes one product of it."""
        x, w = reads[0], reads[1]
        if op == "Gemm":
            x = x._replace(shape=x.shape[::-1]) if facts.get("transA") else x
            w = w._replace(shape=w.shape[::-1]) if facts.get("transB") else w
        if len(w.shape) == 2 and len(x.shape) > 2:
            x = x._replace(shape=(x.rows, x.width))
        return x, w
