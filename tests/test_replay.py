"""Whole results of small runs, byte for byte. A refactor leaves tests/replay alone; a change of a model writes it anew.

`python tests/test_replay.py --write` does that; show the error table of the validation before and after in the commit.
"""

import sys
from pathlib import Path

import pytest

import gemvane as gv

FOLDER = Path(__file__).with_name("replay")
RUNS = {
    "gpu-dense": ("llama3.2-1b", "h100-sxm", {"batch": 4, "prompt": 128, "output": 6}),
    "gpu-tensor-parallel": ("llama3-8b", "a100-80g", {"batch": 3, "prompt": (40, 700, 128), "output": 4, "tp": 4}),
    "gpu-moe-fp8": ("mixtral-8x7b", "h200", {"batch": 2, "prompt": 64, "output": 3, "dtype": "fp8"}),
    "gpu-encoder": ("bert-base", "t4", {"batch": 8, "prompt": 128, "dtype": "fp16"}),
    "gpu-image": ("vit-b16", "l40s", {"batch": 8}),
    "tpu-windows": ("gemma3-1b", "tpu-v5e", {"batch": 2, "prompt": 900, "output": 5}),
    "tpu-pipeline": ("gpt2-xl", "tpu-v4", {"batch": 4, "prompt": 64, "output": 4, "pp": 2}),
    "gpu-latent": ("deepseek-v2-lite", "b200", {"batch": 2, "prompt": 100, "output": 4}),
    "pim-blocked": ("gpt3-7b", "npu-pim-blocked", {"batch": 8, "prompt": 200, "output": 4}),
    "pim-interleaved": ("gpt3-7b", "neupims", {"batch": 40, "prompt": 300, "output": 3}),
    "pim-beside-gpu": ("llama3-8b", "attacc", {"batch": 4, "prompt": 256, "output": 3}),
    "cpu": ("qwen2.5-0.5b", "cpu-server", {"batch": 1, "prompt": 32, "output": 3}),
}


def replayed(name: str) -> str:
    model, hardware, scenario = RUNS[name]
    return gv.run(model, hardware, **scenario).to_json() + "\n"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_byte_for_byte_what_it_was(name: str) -> None:
    assert replayed(name) == (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def test_no_replay_file_is_left_over() -> None:
    assert {p.stem for p in FOLDER.glob("*.json")} == set(RUNS)


if __name__ == "__main__" and "--write" in sys.argv:
    for each in RUNS:
        (FOLDER / f"{each}.json").write_text(replayed(each), encoding="utf-8")
