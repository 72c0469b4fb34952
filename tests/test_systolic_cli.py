"""gemvane systolic: SCALE-Sim's files read, its reports written, both timings shown, and what is said of bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.scalesim_files import read_config, read_topology
from gemvane.sim.devices.scalesim import Convolution, Gemm, run
from gemvane.sim.devices.systolic import gemm_cycles
from gemvane.sim.kernels import scalesim as kernels

CFG = """[general]
run_name = small

[architecture_presets]
ArrayHeight:    32
ArrayWidth:     32
IfmapSramSzkB:   64
FilterSramSzkB:  64
OfmapSramSzkB:   64
IfmapOffset:    0
FilterOffset:   10000000
OfmapOffset:    20000000
Bandwidth : 10
Dataflow : ws
MemoryBanks:   1

[run_presets]
InterfaceBandwidth: CALC
"""
LAYOUT = """
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
"""
ALEXNET = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
Conv1, 224, 224, 11, 11, 3, 96, 4,
"""
GEMMS = "Layer, M, N, K,\nfirst, 17, 33, 65,\nsecond, 8, 128, 128,\n"
GOLDEN = {
    # test/golden_trace of scale-sim-v2 22f88b1: AlexNet's first layer, 32 x 32 weight-stationary, 64 kB each, CALC
    "COMPUTE_REPORT.csv": """LayerID, Total Cycles, Stall Cycles, Overall Util %, Mapping Efficiency %, Compute Util %,
0, 112283, 0, 91.68309650614964, 94.53125, 90.78000992063492,
""",
    "BANDWIDTH_REPORT.csv": "LayerID, Avg IFMAP SRAM BW, Avg FILTER SRAM BW, Avg OFMAP SRAM BW, Avg IFMAP DRAM BW, Avg FILTER DRAM BW, "
    """Avg OFMAP DRAM BW,
0, 29.338590881967885, 0.31035864734643714, 31.035864734643713, 15.686576632947475, 0.3280954308794592, 31.243441697000126,
""",
    "DETAILED_ACCESS_REPORT.csv": "LayerID, SRAM IFMAP Start Cycle, SRAM IFMAP Stop Cycle, SRAM IFMAP Reads, SRAM Filter Start Cycle, "
    "SRAM Filter Stop Cycle, SRAM Filter Reads, SRAM OFMAP Start Cycle, SRAM OFMAP Stop Cycle, SRAM OFMAP Writes, DRAM IFMAP Start Cycle, "
    "DRAM IFMAP Stop Cycle, DRAM IFMAP Reads, DRAM Filter Start Cycle, DRAM Filter Stop Cycle, DRAM Filter Reads, DRAM OFMAP Start Cycle, "
    "DRAM OFMAP Stop Cycle, DRAM OFMAP Writes,\n0, 33.0, 112176.0, 3294225, 1.0, 109197.0, 34848, 63.0, 112283.0, 3484800, -3243.0, "
    "111824.0, 1805023, -3275.0, 102937.0, 34848, 1102.0, 112639.0, 3484831,\n",
}


def gemvane(*words: str) -> str:
    """What a command prints on stdout when it succeeds."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: str) -> str:
    """The one line on stderr of a command that ends with status 2 and prints nothing else."""
    done = CliRunner().invoke(app, list(words))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the examples above."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("a.cfg", CFG), ("alexnet.csv", ALEXNET), ("gemms.csv", GEMMS)):
        Path(name).write_text(text)
    return tmp_path


def layers_of(*words: str) -> list[dict[str, Any]]:
    return list(json.loads(gemvane("systolic", *words, "--json"))["layers"])


# SCALE-Sim's numbers

def test_the_reports_of_a_convolution_are_those_that_scalesim_ships() -> None:
    gemvane("systolic", "alexnet.csv", "--cfg", "a.cfg", "-o", "out")
    for name, text in GOLDEN.items():
        assert Path("out", name).read_text() == text


def test_version_3_has_the_column_of_prefetching() -> None:
    # test/general/golden_trace_calc of SCALE-Sim 1d62b68
    Path("v3.cfg").write_text(CFG + "UseRamulatorTrace: False\n" + LAYOUT)
    (layer,) = layers_of("alexnet.csv", "--cfg", "v3.cfg")
    assert list(layer["scalesim"])[:3] == ["Total Cycles (incl. prefetch)", "Total Cycles", "Stall Cycles"]
    assert (layer["scalesim"]["Total Cycles (incl. prefetch)"], layer["scalesim"]["Total Cycles"]) == (116210, 112283)
    assert layer["scalesim"]["DRAM OFMAP Stop Cycle"] == 112935.0


RUNS = [
    # Run in SCALE-Sim (v2 22f88b1, v3 3.0.0) on 4 x 4, SRAMs of 1 kB: shape, dataflow, words a cycle of ifmap, filter and ofmap (None:
    # CALC), version; total and stall cycles, DRAM reads and writes; last cycles of DRAM ifmap, filter and ofmap
    (Convolution(12, 11, 3, 3, 4, 10, 1, 1), "ws", None, 2, (2699, 0, 2900, 360, 8103), (2492, -1, 2804)),
    (Convolution(12, 11, 3, 3, 4, 10, 1, 1), "os", (3, 3, 3), 2, (4311, 1414, 13338, 432, 900), (4299, -1, 4439)),
    (Convolution(13, 12, 3, 4, 5, 9, 2, 1), "is", (2, 2, 2), 2, (56031, 52042, 6656, 112128, 7291), (3083, 56025, 56092)),
    (Convolution(13, 12, 4, 3, 5, 9, 2, 2), "ws", (5, 5, 5), 2, (2069, 0, 6180, 1030, 4860), (1143, 103, 2117)),
    (Convolution(20, 9, 2, 2, 3, 7, 5, 5), "os", None, 2, (143, 0, 96, 84, 105), (-1, -1, 169)),
    (Convolution(14, 14, 5, 5, 3, 30, 1, 1), "is", None, 2, (18999, 0, 752, 56250, 57003), (15122, 18906, 19041)),
    (Convolution(13, 12, 3, 4, 5, 9, 2, 2), "is", (2, 2, 2), 3, (30461, 28182, 3584, 60928, 4051), (1541, 30325, 30694)),
    (Convolution(13, 12, 4, 3, 5, 9, 2, 2), "ws", (2, 4, 5), 3, (2969, 900, 6144, 1024, 4860), (2826, 128, 3017)),
    (Convolution(14, 14, 5, 5, 3, 30, 1, 1), "is", None, 3, (18999, 0, 752, 56250, 57003), (15122, 18906, 19073)),
]


@pytest.mark.parametrize(("shape", "flow", "words", "version", "memory", "last"), RUNS)
def test_windows_that_overlap_share_their_pixels(shape: Gemm | Convolution, flow: str, words: tuple[int, int, int] | None, version: int,
                                                 memory: tuple[int, ...], last: tuple[int, ...]) -> None:
    done = run(shape, rows=4, cols=4, dataflow=flow, ifmap_bytes=1024, filter_bytes=1024, ofmap_bytes=1024, words_per_cycle=words,
               version=version)
    assert tuple(done.memory) == memory
    assert tuple(span[1] for span in done.spans[3:]) == last


def test_python_and_compiled_kernels_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    for flow in ("ws", "os", "is"):
        for shape in (Convolution(9, 8, 3, 2, 5, 9, 2, 1), Gemm(12, 9, 30)):
            for words in (None, (2, 3, 2)):
                sizes = {"rows": 4, "cols": 3, "ifmap_bytes": 200, "filter_bytes": 300, "ofmap_bytes": 100, "version": 3}
                compiled = run(shape, dataflow=flow, words_per_cycle=words, **sizes)
                with monkeypatch.context() as patch:
                    for kernel in ("memory_kernel", "flushing_reads_kernel", "fetch_sets_kernel"):
                        patch.setattr(kernels, kernel, getattr(kernels, kernel).py_func)
                    assert run(shape, dataflow=flow, words_per_cycle=words, **sizes) == compiled


def test_cycles_of_dram_accesses_equal_every_measured_row(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "systolic" / "scalesim_dev.csv")
    for row in table[::5].itertuples():
        words = None if row.bw_mode == "CALC" else (int(row.bw_words_per_cycle),) * 3
        done = run(Gemm(row.M, row.N, row.K), rows=row.array_rows, cols=row.array_cols, dataflow=row.dataflow, words_per_cycle=words,
                   ifmap_bytes=1024 * row.ifmap_sram_kb, filter_bytes=1024 * row.filter_sram_kb, ofmap_bytes=1024 * row.ofmap_sram_kb,
                   version=int(row.scalesim_version[1]))
        expected = [(getattr(row, f"dram_{name}_start"), getattr(row, f"dram_{name}_stop")) for name in ("ifmap", "filter", "ofmap")]
        assert list(done.spans[3:]) == expected


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_addresses_are_those_of_sliding_a_window(more_h: int, more_w: int, fh: int, fw: int, channels: int, sh: int, sw: int) -> None:
    shape = Convolution(fh + more_h - 1, fw + more_w - 1, fh, fw, channels, 2, sh, sw)
    image = np.arange(shape.height * shape.width * channels).reshape(shape.height, shape.width, channels)
    padded = np.pad(image, ((0, sh), (0, sw), (0, 0)), constant_values=-1)
    # as many windows as begin before the last full one, and one more where a stride does not end there
    downs, acrosses = (list(range(0, more - 1 + step, step)) for more, step in ((more_h, sh), (more_w, sw)))
    windows = [padded[y : y + fh, x : x + fw].ravel() for y in downs for x in acrosses]
    np.testing.assert_array_equal(shape.addresses(), windows)
    assert (shape.m, shape.n, shape.k) == (len(windows), 2, fh * fw * channels)


def test_a_convolution_of_one_pixel_windows_is_its_gemm() -> None:
    sizes = {"rows": 4, "cols": 4, "ifmap_bytes": 1024, "filter_bytes": 1024, "ofmap_bytes": 1024}
    for flow in ("ws", "os", "is"):
        for words in (None, (3, 3, 3)):
            done = [run(shape, dataflow=flow, words_per_cycle=words, **sizes)
                    for shape in (Convolution(9, 7, 1, 1, 30, 20, 1, 1), Gemm(63, 20, 30))]
            assert done[0] == done[1]


# Both timings

def test_losses_add_up_to_the_pipelined_cycles() -> None:
    for layer in layers_of("gemms.csv", "--cfg", "a.cfg"):
        of = layer["pipelined"]
        assert of["cycles"] == gemm_cycles(layer["m"], layer["n"], layer["k"], rows=32, cols=32)
        assert sum(of[cause] for cause in ("ideal", "edge", "preload", "fill", "drain")) == pytest.approx(of["cycles"], abs=1e-6)
        assert of["util_percent"] == pytest.approx(100 * of["ideal"] / of["cycles"])


def test_the_screen_shows_both_and_the_sum() -> None:
    lines = gemvane("systolic", "gemms.csv", "--cfg", "a.cfg").splitlines()
    rows = {line.split()[0]: " ".join(line.split()) for line in lines if line}
    # 17 x 33 x 65 has tiles of 32, 32 and 1 rows twice: streams of 17 begin at 32, 64, 81, 113, 145 and 162; the last sum leaves at 210
    assert rows["first"] == "first 17x33x65 665 0 5.4 % 210 17.0 % 36 66 45 32 31"
    assert rows["second"] == "second 8x128x128 1,631 0 7.8 % 582 22.0 % 128 0 360 32 62"
    assert rows["all"] == "all 2,296 0 7.1 % 792 20.7 % 164 66 405 64 93"
    assert "small: 32 x 32, weight-stationary" in lines[0] and "v2, 64 / 64 / 64 kB" in lines[2]


def test_pipelined_mode_runs_no_memory() -> None:
    Path("huge.csv").write_text("Layer, M, N, K,\nhuge, 2147483648, 2147483648, 1,\n")
    words = ("systolic", "huge.csv", "--cfg", "a.cfg", "--mode", "pipelined")
    found = json.loads(gemvane(*words, "-o", "out", "--json"))
    assert "scalesim" not in found["layers"][0] and "scalesim_cycles" not in found["total"]
    # 2^26 tiles of one row: each streams 2^31 vectors; filled in 1 cycle, drained in 62
    assert found["total"]["pipelined_cycles"] == 2**26 * 2**31 + 1 + 62
    assert found["paths"] == ["out/PIPELINED_REPORT.csv"] and [path.name for path in Path("out").iterdir()] == ["PIPELINED_REPORT.csv"]
    assert "SCALE-Sim" not in gemvane(*words)


def test_shapes_of_2_to_the_31_do_not_overflow() -> None:
    side = 2**31
    Path("huge.csv").write_text(f"Layer, M, N, K,\nhuge, {side}, {side}, {side},\n")
    assert refused("systolic", "huge.csv", "--cfg", "a.cfg", "--mode", "pipelined") == (
        "huge.csv:2: layer huge: 2147483648 x 2147483648 x 2147483648 makes 9.9e+27 multiply-adds or cycles. Expected fewer than 2^63 "
        "(9.2e+18).")
    Path("large.csv").write_text(f"Layer, M, N, K,\nlarge, {side}, 64, {side // 128},\n")
    (layer,) = layers_of("large.csv", "--cfg", "a.cfg", "--mode", "pipelined")
    assert layer["pipelined"]["cycles"] == 2 * (side // 128 // 32) * side + 32 + 62
    assert refused("systolic", "large.csv", "--cfg", "a.cfg") == (
        "large.csv:2: layer large: 2147483648 x 64 x 16777216 has more than 1,000,000,000 elements in one operand, too many to run "
        "request by request. `--mode pipelined` needs no memory.")


def test_a_run_that_would_never_end_is_refused() -> None:
    Path("slow.csv").write_text("Layer, M, N, K,\nslow, 30000, 30000, 30000,\n")
    assert "slow.csv:2: layer slow: 30000 x 30000 x 30000 on a 32 x 32 array makes " in refused("systolic", "slow.csv", "--cfg", "a.cfg")


# Input files

def test_every_form_of_a_topology_is_read() -> None:
    head = "\ufeffLayer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides, Sparsity,\r\n"
    Path("t.csv").write_text(head + "\r\na, 9, 8, 3, 2, 4, 5, 1, 1:1,\r\n , ,\r\nDPb, 9, 8, 3, 2, 2, 5, 2,\nc, 9,8,3,2,4,5,2,3")
    layers = read_topology(Path("t.csv"))
    assert [layer.name for layer in layers] == ["a", "DPbChannel_0", "DPbChannel_1", "c"]
    assert [layer.where for layer in layers] == ["t.csv:3", "t.csv:5", "t.csv:5", "t.csv:6"]
    assert [tuple(layer.shape) for layer in layers] == [(9, 8, 3, 2, 4, 5, 1, 1), *[(9, 8, 3, 2, 1, 5, 2, 2)] * 2, (9, 8, 3, 2, 4, 5, 2, 3)]
    Path("t.csv").write_text("L,M,N,K,\nx, 1, 2, 3")
    assert [(layer.name, layer.shape) for layer in read_topology(Path("t.csv"))] == [("x", Gemm(1, 2, 3))]


def test_a_configuration_is_read_as_scalesim_reads_it() -> None:
    text = CFG.replace("CALC", "USER").replace("Bandwidth : 10", "Bandwidth = 4, 5").replace("ArrayHeight", "arrayheight")
    Path("b.cfg").write_text("# mine\n" + text)
    config = read_config(Path("b.cfg"))
    assert config == ("small", 2, 32, 32, "ws", 64, 64, 64, (4, 4, 4), ())
    Path("b.cfg").write_text(CFG.replace("CALC", "USER").replace("Bandwidth : 10", "Bandwidth : 3") + LAYOUT)
    assert read_config(Path("b.cfg"))._replace(name="") == ("", 3, 32, 32, "ws", 64, 64, 64, (10, 10, 3), ())


def test_a_key_that_is_unknown_is_named_and_not_used() -> None:
    Path("b.cfg").write_text(CFG + "InterfaceBandwith: USER\n")
    done = CliRunner().invoke(app, ["systolic", "gemms.csv", "--cfg", "b.cfg"])
    assert done.exit_code == 0
    assert done.stderr == "note: b.cfg:19: key 'InterfaceBandwith' is unknown and was not used (did you mean 'InterfaceBandwidth'?).\n"


@pytest.mark.parametrize(("old", "new", "message"), [
    ("ArrayHeight:    32\n", "", "b.cfg: key 'ArrayHeight' of section [architecture_presets] is missing."),
    ("ArrayHeight", "ArayHeight", "b.cfg: key 'ArrayHeight' of section [architecture_presets] is missing (is it 'ArayHeight'?)."),
    ("ArrayHeight:    32", "ArrayHeight: 0", "b.cfg:5: ArrayHeight is '0'. Expected a whole number from 1 to 65,536."),
    ("ArrayHeight:    32", "ArrayHeight: 65537", "b.cfg:5: ArrayHeight is '65537'. Expected a whole number from 1 to 65,536."),
    ("ArrayWidth:     32", "ArrayWidth: -4", "b.cfg:6: ArrayWidth is '-4'. Expected a whole number from 1 to 65,536."),
    ("ArrayWidth:     32", "ArrayWidth: 3.5", "b.cfg:6: ArrayWidth is '3.5'. Expected a whole number from 1 to 65,536."),
    ("IfmapSramSzkB:   64", "IfmapSramSzkB: 0", "b.cfg:7: IfmapSramSzkB is '0'. Expected a whole number from 1 to 2,147,483,648."),
    ("Dataflow : ws", "Dataflow : rs", "b.cfg:14: Dataflow is 'rs'. Expected one of ws, os, is."),
    ("CALC", "AUTO", "b.cfg:18: InterfaceBandwidth is 'AUTO'. Expected CALC or USER."),
    ("CALC", "USER\nUseRamulatorTrace: True", "b.cfg:19: UseRamulatorTrace is on, which is not modelled. Expected False."),
    ("CALC", "CALC\n[sparsity]\nSparsitySupport : true", "b.cfg:20: SparsitySupport is on, which is not modelled. Expected False."),
    ("CALC", "USER\n[layout]", "b.cfg: key 'IfmapSRAMBankBandwidth' of section [layout] is missing."),
    ("Bandwidth : 10", "Bandwidth : ", "b.cfg:13: Bandwidth is ''. Expected a whole number from 1 to 2,147,483,648."),
    ("MemoryBanks:   1", "ArrayWidth: 1", "b.cfg:15: key 'ArrayWidth' stands here a second time."),
    ("MemoryBanks:   1", "MemoryBanks", "b.cfg:15: 'MemoryBanks' is no entry. Expected `key = value` or `key: value`."),
    ("[general]", "", "b.cfg:2: 'run_name = small' is no entry. Expected a [section] first."),
])
def test_a_configuration_that_is_wrong(old: str, new: str, message: str) -> None:
    assert old in CFG
    Path("b.cfg").write_text(CFG.replace(old, new).replace("CALC", "USER" if "Bandwidth" in old else "CALC"))
    assert refused("systolic", "gemms.csv", "--cfg", "b.cfg", "-o", "out") == message
    assert not Path("out").exists()


@pytest.mark.parametrize(("text", "message"), [
    ("", "t.csv: is empty. Expected a table of layers."),
    (",,\n", "t.csv: is empty. Expected a table of layers."),
    ("Layer, M, N, K,\n", "t.csv: has no layers below its header."),
    ("Layer, M, K, N,\na, 1, 2, 3,\n", "t.csv:1: the columns are Layer, M, K, N. Expected 4 columns (layer, M, N, K), or 8 columns (layer, "
     "IFMAP height, IFMAP width, filter height, filter width, channels, num filter, strides)."),
    ("Layer, M, N, K,\na, 1, 2,\n", "t.csv:2: has 3 columns. Expected 4 columns (layer, M, N, K)."),
    ("Layer, M, N, K,\na, 1, 2, 3, 4,\n", "t.csv:2: has 5 columns. Expected 4 columns (layer, M, N, K)."),
    ("Layer, M, N, K,\n\na, 1, 0, 3,\n", "t.csv:3: layer a: N is '0'. Expected a whole number above zero."),
    ("Layer, M, N, K,\na, -1, 2, 3,\n", "t.csv:2: layer a: M is '-1'. Expected a whole number above zero."),
    ("Layer, M, N, K,\na, 1, 2, x,\n", "t.csv:2: layer a: K is 'x'. Expected a whole number above zero."),
    ("Layer, M, N, K,\na, 1, 2, 1e3,\n", "t.csv:2: layer a: K is '1e3'. Expected a whole number above zero."),
    (ALEXNET.replace("11, 11", "225, 11"), "t.csv:2: layer Conv1: filter height is 225. Expected at most the IFMAP height of 224."),
    (ALEXNET.replace("11, 11", "11, 225"), "t.csv:2: layer Conv1: filter width is 225. Expected at most the IFMAP width of 224."),
    (ALEXNET.replace("96, 4", "96, 0"), "t.csv:2: layer Conv1: strides is '0'. Expected a whole number above zero."),
    (ALEXNET.replace("96, 4", "96, 4, 4, 4"), "t.csv:2: has 10 columns. Expected 8 columns (layer, IFMAP height, IFMAP width, filter "
     "height, filter width, channels, num filter, strides)."),
    (ALEXNET.replace("96, 4", "96, 4, ?"), "t.csv:2: layer Conv1: column 9 is '?'. Expected a whole number above zero."),
    (ALEXNET.replace("Strides", "Strides, Batch Size").replace("96, 4", "96, 4, 2"),
     "t.csv:2: layer Conv1: batch size is 2, which is not modelled. Expected 1."),
    (ALEXNET.replace("Conv1, 224, 224, 11, 11, 3", "DP, 224, 224, 11, 11, 100001"),
     "t.csv:2: layer DP: 100001 channels make as many layers. Expected at most 100,000."),
    (ALEXNET.replace("224, 224, 11, 11, 3, 96, 4", "20000, 20000, 1, 1, 1, 4, 100"),
     "t.csv:2: layer Conv1: image or windows have more than 100,000,000 elements, too many to run request by request."),
])
def test_a_topology_that_is_wrong(text: str, message: str) -> None:
    Path("t.csv").write_text(text)
    assert refused("systolic", "t.csv", "--cfg", "a.cfg", "-o", "out").startswith(message)
    assert not Path("out").exists()


@pytest.mark.parametrize(("words", "message"), [
    ("none.csv --cfg a.cfg", "none.csv: there is no such file."),
    ("gemms.csv --cfg none.cfg", "none.cfg: there is no such file."),
    ("folder --cfg a.cfg", "folder: is a folder. Expected a file."),
    ("bytes --cfg a.cfg", "bytes: is no text."),
    ("gemms.csv --cfg a.cfg --mode exact", "--mode exact: no such mode. Expected one of scalesim, pipelined."),
    ("gemms.csv --cfg a.cfg -o bytes", "--out bytes: "),
    ("gemms.csv", "missing option '--cfg'"),
])
def test_words_that_are_wrong(words: str, message: str) -> None:
    Path("folder").mkdir()
    Path("bytes").write_bytes(b"\xff\xfe\x00\x01")
    assert refused("systolic", *words.split()).startswith(message)
