"""Modules of one's own, torch.export programs and ONNX files: the rows they become, and the sentence where they cannot."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gemvane as gv
from gemvane.commands import trace as command
from gemvane.workloads import chakra
from gemvane.workloads.ops import CODE
from gemvane.workloads.record import record
from gemvane.workloads.record.emit import pairs
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.trace import Trace

torch = pytest.importorskip("torch", reason="recording needs torch")
F = torch.nn.functional

FP32 = Scenario(phase="prefill", dtype="fp32")


class Block(torch.nn.Module):
    """Attention with a fused projection, as many people write it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = torch.nn.RMSNorm(width)
        self.qkv = torch.nn.Linear(width, 3 * width, bias=False)
        self.out = torch.nn.Linear(width, width, bias=False)

    def forward(self, x: Any) -> Any:
        b, s, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, s, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(b, s, w))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(64, 4) for _ in range(2))
        self.head = torch.nn.Linear(64, 1000)

    def forward(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, -1])


class Cached(torch.nn.Module):
    """A decode step on a cache that comes in and goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = torch.nn.Linear(64, 128, bias=False)

    def forward(self, x: Any, past: Any) -> Any:
        k, v = self.kv(x).view(x.shape[0], 1, 2, 4, 16).permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        return F.scaled_dot_product_attention(k, keys, values), (keys, values)


class Written(Cached):
    """The same with a cache that is written in place."""

    def forward(self, x: Any, past: Any) -> Any:
        k, v = self.kv(x).view(x.shape[0], 1, 2, 4, 16).permute(2, 0, 3, 1, 4)
        past[0][:, :, -1:] = k
        past[1][:, :, -1:] = v
        return F.scaled_dot_product_attention(k, *past)


class Picky(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return x[x > 0]


class Strange(torch.nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.linalg.det(x)


def rows(trace: Trace | None) -> list[tuple[str, str, int, int, int, int]]:
    assert trace is not None
    return list(trace.to_frame()[["name", "kind", "batch", "m", "n", "k"]].itertuples(index=False, name=None))


def kinds(module: Any, *inputs: Any) -> list[str]:
    recording = record(module, inputs, FP32)
    assert recording.first is not None
    return recording.first.to_frame().kind.tolist()


BLOCK = [("norm", "rmsnorm", 1, 48, 64, 0), ("qkv", "gemm", 1, 48, 192, 64), ("attention", "attention_prefill", 3, 48, 48, 0),
         ("out", "gemm", 1, 48, 64, 64), ("add", "add", 1, 48, 64, 0)]


def test_a_module_of_ones_own() -> None:
    module = Net()
    trace = record(module, (torch.zeros(3, 16, 64),), FP32).first
    assert rows(trace) == [*((f"blocks.*.{name}", *sizes) for name, *sizes in BLOCK * 2), ("head", "gemm", 1, 3, 1000, 64)]
    assert trace is not None
    assert trace.rows.layer.tolist() == [0] * 5 + [1] * 5 + [2]
    assert np.split(trace.preds_idx, trace.preds_ptr[1:-1])[9].tolist() == [4, 8]  # the residual and the projection
    assert module.head.weight.device.type == "cpu"


def test_a_number_type_stands_in_for_that_of_most_parameters() -> None:
    trace = record(Net(), (torch.zeros(3, 16, 64),), Scenario(phase="prefill", dtype="fp8", weight_dtype="int4")).first
    assert trace is not None
    frame = trace.to_frame()
    assert set(frame.act_dtype) == {"fp8"}
    assert frame[frame.kind == "gemm"].weight_bytes.tolist() == [64 * 192 // 2, 64 * 64 // 2] * 2 + [64 * 1000 // 2]


def test_types_that_are_asked_for_are_those_of_the_scenario() -> None:
    step = record(Cached().bfloat16(), {"x": torch.zeros(2, 1, 64).bfloat16(), "past": torch.zeros(2, 2, 4, 9, 16).bfloat16().unbind()},
                  Scenario(phase="decode", dtype="fp8", kv_dtype="bf16")).step
    assert step is not None
    frame = step.to_frame()
    assert frame.kv_dtype[frame.kind.isin(["kv_append", "attention_decode"])].tolist() == ["bf16", "bf16"]
    assert set(frame.act_dtype) == {"fp8"}


@pytest.mark.parametrize("module", [Cached, Written])
def test_a_token_added_to_a_cache_is_an_append(module: Any) -> None:
    cache = torch.zeros(2, 2, 4, 99 if module is Cached else 100, 16)
    step = record(module(), {"x": torch.zeros(2, 1, 64), "past": (cache[0], cache[1])}, Scenario(phase="decode", dtype="fp32")).step
    assert step is not None
    frame = step.to_frame()
    assert frame[frame.kind == "kv_append"].kv_write_bytes.sum() == 2 * 2 * 4 * 16 * 4
    assert frame[frame.kind == "attention_decode"].n.tolist() == [200]
    assert step.requests.prompt.tolist() == [99, 99]


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (torch.nn.Conv2d(3, 8, 4, stride=4), (2, 3, 32, 32), ["conv"]),
        (torch.nn.Conv1d(8, 8, 3, padding=1, groups=8), (2, 8, 32), ["dwconv"]),
        (torch.nn.ConvTranspose2d(4, 8, 2, stride=2), (2, 4, 8, 8), ["conv"]),
        (torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8)), (2, 5, 8), ["gemm", "gelu", "gemm"]),
        (torch.nn.AvgPool2d(2), (2, 3, 8, 8), ["pool"]),
        (torch.nn.Upsample(scale_factor=2), (2, 3, 8, 8), ["interpolate"]),
        (torch.nn.GroupNorm(2, 8), (2, 8, 16), ["groupnorm"]),
        (torch.nn.BatchNorm2d(8), (2, 8, 4, 4), ["batchnorm"]),
        (torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16),
         ["gemm", "attention_prefill", "gemm", "add", "layernorm", "gemm", "relu", "gemm", "add", "layernorm"]),
        (torch.nn.Softmax(-1), (2, 5), ["softmax"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_modules_of_torch(module: Any, shape: tuple[int, ...], expected: list[str]) -> None:
    assert kinds(module, torch.zeros(shape)) == expected


def test_a_convolution_is_a_product_of_its_taps() -> None:
    trace = record(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), (torch.zeros(2, 3, 32, 32),), FP32).first
    assert rows(trace) == [("Conv2d", "conv", 1, 2 * 16 * 16, 8, 27)]
    assert trace is not None
    assert trace.rows.in_elements.tolist() == [2 * 3 * 32 * 32]


def test_a_fourier_mixer_transforms_both_dimensions() -> None:
    class Fourier(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.fft.fft2(x).real

    trace = record(Fourier(), (torch.zeros(2, 128, 64),), FP32).first
    assert trace is not None
    assert [row[1:] for row in rows(trace)] == [("fft", 1, 2, 128 * 64, 0)]


@pytest.mark.parametrize(
    ("q", "kv", "window", "causal", "seen"),
    [
        (4, 4, 0, True, 1 + 2 + 3 + 4),
        (4, 4, 0, False, 16),
        (4, 4, 2, True, 1 + 2 + 2 + 2),
        (1, 7, 0, True, 7),
        (3, 7, 0, True, 5 + 6 + 7),
        (3, 7, 6, True, 5 + 6 + 6),
        (4, 9, 3, False, 12),
    ],
)
def test_pairs_that_see_each_other(q: int, kv: int, window: int, causal: bool, seen: int) -> None:
    assert pairs(q, kv, window, causal) == seen


@pytest.mark.parametrize(
    ("module", "shape", "complaint"),
    [
        (torch.nn.Sequential(torch.nn.Linear(4, 4), Picky()), (3, 4),
         r"operator aten\.index in 1 \(Picky\) does not run on shapes alone"),
        (torch.nn.Sequential(torch.nn.Identity(), Strange()), (4, 4),
         r"operator aten\._linalg_det in 1 \(Strange\) is none that the"),
        (torch.nn.Linear(4, 4), (3, 5), r"operator aten\.addmm in Linear does not run on shapes alone: RuntimeError: "),
    ],
)
def test_what_cannot_be_recorded_is_named_with_its_place(module: Any, shape: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        record(module, (torch.zeros(shape),), FP32)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (3, "a int cannot be recorded. Expected a torch.nn.Module"),
        (torch.nn.Linear(4, 4), "Linear needs example inputs: a tuple of what it is called with, or a dict by name."),
    ],
)
def test_what_is_no_model_or_has_no_inputs(model: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        record(model, None, FP32)


def test_an_exported_program_has_the_rows_of_its_module(tmp_path: Path) -> None:
    module, inputs = Net().eval(), (torch.zeros(3, 16, 64),)
    program = torch.export.export(module, inputs)
    expected = record(module, inputs, FP32)
    assert rows(record(program, None, FP32).first) == rows(expected.first)
    assert record(program, None, FP32).parameters == expected.parameters
    torch.export.save(program, tmp_path / "net.pt2")
    assert rows(gv.record(str(tmp_path / "net.pt2"), phase="prefill", dtype="fp32").first) == rows(expected.first)


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "x.pt2").write_text("nothing")
    with pytest.raises(ValueError, match=r"x\.pt2: cannot be read as a torch\.export program"):
        gv.record(tmp_path / "x.pt2")


FACTORY = """
import torch

def net():
    return torch.nn.Linear(64, 8), (torch.zeros(4, 64),)

def broken():
    raise KeyError("weights")

value = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "mine_for_tests.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("mine_for_tests", None)


def test_a_factory_by_its_name(here: Path) -> None:
    assert rows(gv.trace("mine_for_tests:net", phase="prefill")) == [("Linear", "gemm", 1, 4, 8, 64)]
    result = gv.run("mine_for_tests:net", "a100-80g", phase="prefill")
    assert result.run.spec.parameters == 64 * 8 + 8
    assert result.run.scenario.batch == 4


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("mine_for_tests:broken", r"broken\(\) fails: KeyError: 'weights'\."),
        ("mine_for_tests:missing", "mine_for_tests has no function missing."),
        ("mine_for_tests:value", "mine_for_tests has no function value."),
        ("no_such_module_here:x", "there is no module no_such_module_here, neither installed nor in "),
    ],
)
def test_a_factory_that_fails(here: Path, model: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        gv.record(model)


def test_the_command_traces_a_factory(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.trace("mine_for_tests:net", here / "t.et", {"phase": "prefill"}, json=True)
    said = json.loads(capsys.readouterr().out)
    assert (said["flops"], said["scenario"]["batch"]) == (2 * 4 * 8 * 64, 4)
    assert len(messages((here / "t.et").read_bytes())) == 2  # what the file is, and one operator


def test_a_chakra_trace_read_back_field_by_field(tmp_path: Path) -> None:
    trace = gv.trace("llama3-8b", phase="prefill", prompt=16, tp=2)
    chakra.write(tmp_path / "t.et", trace, np.full(trace.size, 2_500_000), np.full(trace.size, 1_500_000))
    head, *nodes = messages((tmp_path / "t.et").read_bytes())
    assert fields(head)[1] == [b"0.0.4"]
    assert len(nodes) == trace.size
    for i in (0, 5, trace.size - 1, int(np.flatnonzero(trace.rows.kind == CODE["allreduce"])[0])):
        node = fields(nodes[i])
        attributes = {found[1][0].decode(): found.get(9, found.get(27, [0]))[0] for found in map(fields, node[10])}
        assert node.get(1, [0]) == [i]
        assert node[2] == [trace.names[trace.rows.name[i]].encode()]
        assert (node[6], node[7]) == ([2], [2])  # microseconds: 2.5 rounded down, 1.5 rounded up
        assert varints(node.get(5, [b""])[0]) == trace.preds_idx[trace.preds_ptr[i] : trace.preds_ptr[i + 1]].tolist()
        if trace.rows.kind[i] == CODE["allreduce"]:
            assert (node[3], attributes["comm_size"], attributes["comm_type"]) == ([7], trace.rows.link_bytes[i], 0)
        else:
            assert node[3] == [4]
            assert attributes["num_ops"] == 2 * trace.rows.macs[i] + trace.rows.vector_ops[i]


def varints(data: bytes) -> list[int]:
    out, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            out.append(value)
            value, shift = 0, 0
    return out


def one_varint(data: bytes, at: int) -> tuple[int, int]:
    end = next(i for i in range(at, len(data)) if data[i] < 0x80) + 1
    return varints(data[at:end])[0], end


def messages(data: bytes) -> list[bytes]:
    out, at = [], 0
    while at < len(data):
        size, at = one_varint(data, at)
        out.append(data[at : at + size])
        at += size
    return out


def fields(data: bytes) -> dict[int, list[Any]]:
    out: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        key, at = one_varint(data, at)
        value: Any
        value, at = one_varint(data, at)
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        out.setdefault(key >> 3, []).append(value)
    return out
