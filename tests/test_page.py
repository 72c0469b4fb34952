"""docs/validation.md: its figures are those of the tables given, and it says what nobody measured."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.validate import chapters, page

pytest.importorskip("matplotlib")
ATTENTION = {"op": "attention_decode", "dtype": "bf16", "kv_dtype": "fp8", "heads_q": 32, "heads_kv": 8, "head_dim": 128, "q_len": 1}


def table() -> pd.DataFrame:
    """300 matmuls a tenth faster than predicted, 40 attentions as fast as predicted, two kernels nobody models."""
    matmuls = pd.DataFrame([{"op": "gemm", "dtype": "bf16", "M": m, "N": 4096, "K": 4096} for m in range(300, 600)])
    attention = pd.DataFrame([ATTENTION | {"batch": batch, "kv_len": 4096} for batch in range(1, 41)])
    same = {"gpu": "H100-SXM", "framework": "trtllm 1.3", "source_repo": "a/b@1", "licence": "MIT"}
    rows = pd.concat([matmuls, attention], ignore_index=True).assign(**same)
    rows["latency_us"] = gv.estimate_kernels(rows, "h100-sxm").latency_us / np.where(rows["op"] == "gemm", 1.1, 1.0)
    other = pd.DataFrame([{"op": "moe_ffn", "dtype": "bf16", "gpu": gpu, "latency_us": 1.0, "source_repo": "c/d@2", "licence": "BSD"}
                          for gpu in ("H100-SXM", "A30")])
    return pd.concat([rows, other], ignore_index=True)


def test_the_page_says_how_far_off_and_who_measured() -> None:
    text, plots = page.write([page.Source("own.csv", table())])
    lines = text.splitlines()
    matmul = next(line for line in lines if line.startswith("| gemm | bf16 | trtllm | 300 |")).split(" | ")
    held_out, shipped, median, tail, bias = matmul[4:9]
    assert (shipped, median, tail, bias) == ("10.0", "10.0", "10.0", "+10.0")
    assert 0 < float(held_out) < 10
    assert any(line.startswith("| attention_decode | bf16-fp8 | trtllm | 40 |") for line in lines)
    assert "| gemm | bf16 | trtllm |  |  |  |  |  | 10.0 |" in lines
    assert "| own.csv | a/b@1 | MIT | H100-SXM | attention_decode, gemm | 340 | 340 |" in lines
    assert "| own.csv | c/d@2 | BSD | A30, H100-SXM | moe_ffn | 2 | 0 |" in lines
    assert "- No GPU has been available to this project." in lines
    assert not any(line.startswith("## Energy") for line in lines)
    assert list(plots) == ["validation-h100-sxm.svg"]
    assert "![H100-SXM: measured against predicted time, by operator and framework](validation-h100-sxm.svg)" in lines
    assert ">trtllm<" in plots["validation-h100-sxm.svg"]


def test_further_chapters_stand_before_the_sources() -> None:
    seen = []

    def chapter(evaluation: page.Evaluation) -> list[str]:
        seen.append(evaluation.machines[0].found.rows.size)
        return ["## Another", "", "text"]

    text, _ = page.write([page.Source("own.csv", table())], [chapter])
    assert seen == [340]
    assert text.index("## Bands") < text.index("## Another\n\ntext\n\n## Who measured what")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_chapters_of_what_a_fit_has_not_seen() -> None:
    matmuls = pd.DataFrame([{"op": "gemm", "dtype": "bf16", "M": m, "N": 4096, "K": 4096} for m in range(300, 450)])
    parts = []
    for gpu, name, framework in (("H100-SXM", "h100-sxm", "trtllm 1"), ("H100-SXM", "h100-sxm", "sglang 1"),
                                 ("H200-SXM", "h200", "trtllm 1")):
        rows = matmuls.assign(gpu=gpu, framework=framework)
        parts.append(rows.assign(latency_us=gv.estimate_kernels(rows, name).latency_us))
    lines = page.write([page.Source("own.csv", pd.concat(parts, ignore_index=True))], chapters.ALL)[0].splitlines()
    start = lines.index("## Numbers carried to another GPU")
    head, row = (cells(next(line for line in lines[start:] if line.startswith(key))) for key in ("| operator", "| gemm | bf16"))
    near = float(row[head.index("h100-sxm -> h200")])
    assert 0 < near < 8
    assert "a100-80g -> h100-sxm" in head
    own, left_out = cells(next(line for line in lines if line.startswith("| trtllm | gemm | bf16 | 150 |")))[-2:]
    assert own == "0.0"
    assert 0 < float(left_out) < 10
    assert not any(line.startswith("## Energy") for line in lines)


def test_the_command_writes_the_page_with_what_is_bundled(tmp_path: Path) -> None:
    source, file = tmp_path / "own.csv", tmp_path / "errors.md"
    table().to_csv(source, index=False)
    said = CliRunner().invoke(app, ["validate", "page", str(source), "-o", str(file)])
    assert said.exit_code == 0, said.output
    text = file.read_text()
    assert "(errors-h100-sxm.svg)" in text
    assert (tmp_path / "errors-h100-sxm.svg").read_text().startswith("<?xml")
    measured = Path(page.__file__).parent / "measured"
    if not measured.is_dir():
        pytest.skip("an installed gemvane has no measured tables of its own")
    assert "- By this project: all but cpu-xeon-amx-1core.csv." in text
    assert "## CPUs" in text
    assert "held out. With the machine's record alone" in text
    own = json.loads((measured / "cpu-xeon-amx-1core.machine.json").read_text())
    assert f"### {own['name']}" in text


@pytest.mark.parametrize(("columns", "wish"), [
    ({"gpu": "A30"}, "no row was measured on a machine that has a hardware file"),
    ({"gpu": "H100-SXM", "latency_us": -1.0}, "own.csv: H100-SXM: .*latency_us is -1"),
])
def test_a_table_that_says_nothing_is_refused(columns: dict[str, object], wish: str) -> None:
    with pytest.raises(ValueError, match=wish):
        page.write([page.Source("own.csv", table().assign(**columns))])


def test_a_page_is_markdown(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["validate", "page", "-o", str(tmp_path / "a.html")])
    assert said.exit_code == 2
    assert "written as .md" in said.stderr
