"""ONNX files, made here node by node: the rows that they become, and what is wrong with one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemvane as gv

onnx = pytest.importorskip("onnx", reason="these files are made with onnx")
helper, FLOAT, INT64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def weight(name: str, *shape: int) -> Any:
    return helper.make_tensor(name, FLOAT, shape, np.zeros(shape, np.float32))


def numbers(name: str, *values: int) -> Any:
    return helper.make_tensor(name, INT64, [len(values)], values)


def save(path: Path, nodes: list[Any], weights: list[Any], batch: Any = 2) -> str:
    """A model that maps ids [batch, 16] to z [batch, 16, 64]."""
    ids, z = (helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (("ids", INT64, [batch, 16]),
                                                                                       ("z", FLOAT, [batch, 16, 64])))
    graph = helper.make_graph(nodes, "graph", [ids], [z], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    return str(path)


def layer() -> tuple[list[Any], list[Any]]:
    """Attention of 4 heads with a residual, as an exporter writes it."""
    weights = [weight("table", 100, 64), *(weight(f"w{p}", 64, 64) for p in "qkvo"), numbers("heads", 2, 16, 4, 16),
               numbers("flat", 2, 16, 64)]
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"], name="/embed/Gather")]
    for p in "qkv":
        nodes += [helper.make_node("MatMul", ["x", f"w{p}"], [p], name=f"/layers.0/attn/{p}_proj/MatMul"),
                  helper.make_node("Reshape", [p, "heads"], [f"{p}h"], name=f"/layers.0/attn/Reshape_{p}"),
                  helper.make_node("Transpose", [f"{p}h"], [f"{p}t"], perm=[0, 2, 3, 1] if p == "k" else [0, 2, 1, 3],
                                   name=f"/layers.0/attn/Transpose_{p}")]
    nodes += [helper.make_node("MatMul", ["qt", "kt"], ["s"], name="/layers.0/attn/MatMul"),
              helper.make_node("Softmax", ["s"], ["p"], name="/layers.0/attn/Softmax"),
              helper.make_node("MatMul", ["p", "vt"], ["o"], name="/layers.0/attn/MatMul_1"),
              helper.make_node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3], name="/layers.0/attn/Transpose"),
              helper.make_node("Reshape", ["ot", "flat"], ["of"], name="/layers.0/attn/Reshape"),
              helper.make_node("MatMul", ["of", "wo"], ["y"], name="/layers.0/attn/o_proj/MatMul"),
              helper.make_node("Add", ["y", "x"], ["z"], name="/layers.0/Add")]
    return nodes, weights


def test_a_layer_of_attention(tmp_path: Path) -> None:
    file = save(tmp_path / "layer.onnx", *layer())
    trace = gv.trace(file, phase="prefill", dtype="fp16")
    assert list(trace.to_frame()[["name", "kind", "batch", "m", "n", "k"]].itertuples(index=False, name=None)) == [
        ("embed", "embedding", 1, 32, 64, 0),
        ("layers.*.attn.q_proj+k_proj+v_proj", "gemm", 1, 32, 192, 64),
        ("layers.*.attn", "bmm", 8, 16, 16, 16),
        ("layers.*.attn.softmax", "softmax", 1, 8 * 16, 16, 0),
        ("layers.*.attn", "bmm", 8, 16, 16, 16),
        ("layers.*.attn.o_proj", "gemm", 1, 32, 64, 64),
        ("layers.*.add", "add", 1, 32, 64, 0),
    ]
    assert set(trace.to_frame().act_dtype) == {"fp16"}
    assert gv.record(file).parameters == 100 * 64 + 4 * 64 * 64
    assert gv.run(file, "a100-80g").run.scenario.batch == 2


def test_a_product_whose_second_factor_is_turned(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"], name="/embed/Gather"),
             helper.make_node("Reshape", ["x", "flat"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["g"], transB=1, name="/fc/Gemm"),
             helper.make_node("Reshape", ["g", "shape"], ["z"])]
    weights = [weight("table", 100, 32), weight("w", 64, 32), weight("b", 64), numbers("flat", 32, 32), numbers("shape", 2, 16, 64)]
    row = gv.trace(save(tmp_path / "gemm.onnx", nodes, weights), phase="prefill").to_frame().iloc[1]
    assert (row["name"], row.kind, row.m, row.n, row.k) == ("fc", "gemm", 32, 64, 32)


def test_a_dimension_without_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"open\.onnx: 'ids', the graph's input, has a dimension 'batch' without a number\. Export "):
        gv.record(save(tmp_path / "open.onnx", *layer(), batch="batch"))


def test_a_tensor_without_a_shape(tmp_path: Path) -> None:
    nodes, weights = layer()
    nodes[-1:] = [helper.make_node("Reshape", ["y", "ids"], ["r"], name="/layers.0/Reshape"), helper.make_node("Relu", ["r"], ["z"])]
    with pytest.raises(ValueError, match=r"shapeless\.onnx: 'r', what Reshape '/layers\.0/Reshape' writes, has no shape\. Export "):
        gv.record(save(tmp_path / "shapeless.onnx", nodes, weights))


def test_an_operator_that_is_unknown(tmp_path: Path) -> None:
    nodes, weights = layer()
    nodes[-1:] = [helper.make_node("Mystery", ["y", "x"], ["m"], domain="my.domain", name="/layers.0/Mystery"),
                  helper.make_node("Relu", ["m"], ["z"])]
    with pytest.raises(ValueError, match=r"mystery\.onnx: the shapes do not follow from the graph: .*optype Mystery"):
        gv.record(save(tmp_path / "mystery.onnx", nodes, weights))
    nodes[-2:] = [helper.make_node("NonZero", ["y"], ["m"], name="/layers.0/NonZero"), helper.make_node("Cast", ["m"], ["z"], to=FLOAT)]
    with pytest.raises(ValueError, match=r"operator NonZero \(/layers\.0/NonZero\) is none that is known here"):
        gv.record(save(tmp_path / "nonzero.onnx", nodes, weights))


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("nothing")
    with pytest.raises(ValueError, match=r"x\.onnx: cannot be read as an ONNX file"):
        gv.record(tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"none\.onnx: cannot be read as an ONNX file"):
        gv.record(tmp_path / "none.onnx")
