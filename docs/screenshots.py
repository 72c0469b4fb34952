"""The pictures of docs/reports.md: a run, a comparison and a sweep as a browser shows their reports.

Run it from the repository: python docs/screenshots.py [FOLDER]. It needs Chromium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from chromium import Browser  # noqa: E402

SPACE = """\
model: llama3-8b
hardware: npu-pim-dual
scenario: {prompt: 512, output: 2, phase: decode}
vary:
  units.npu.num_arrays: [2, 4, 8, 16]
  memory.bandwidth: [512 GB/s, 1024 GB/s, 2048 GB/s]
  batch: [8, 16, 32, 64]
"""
SCENARIO = ("--batch", "64", "--prompt", "512", "--output", "128")
COMMANDS = {
    "report-run": ("run", "llama3-8b", "--hw", "npu-pim-single-interleaved", *SCENARIO),
    "report-compare": ("compare", "llama3-8b", "--hw", "h100-sxm,tpu-v5p,neupims", "--batch", "1..64"),
    "report-sweep": ("sweep", "space.yaml", "--jobs", "1"),
}
WIDTH = 1100
PARTS = {"report-run": 2450, "report-compare": 1500, "report-sweep": 1300}
"""Height of the part of each page that is shown."""


def main(folder: Path) -> None:
    """Make the reports and their pictures."""
    with tempfile.TemporaryDirectory() as where, Browser(WIDTH, 900) as browser:
        work = Path(where)
        (work / "space.yaml").write_text(SPACE, encoding="utf-8")
        for name, words in COMMANDS.items():
            subprocess.run([sys.executable, "-m", "gemvane", *words, "--report", f"{name}.html"], cwd=work, check=True,
                           stdout=subprocess.DEVNULL)
            browser.open((work / f"{name}.html").as_uri())
            if name == "report-sweep":
                browser.value("document.querySelector('.chart').emit('plotly_click', { points: [{ customdata: "
                              "document.querySelector('.chart').data[1].customdata[0] }] })")
            browser.picture(folder / f"{name}.png", height=PARTS[name])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
