"""gemvane run"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gemvane import api, output
from gemvane.sim import hardware, policies, rerun

from . import report as page


def run(model: str, hw: str, asked: dict[str, Any], wishes: list[str], ops: bool, json: bool, out: Path | None, *, verbose: bool = False,
        report: Path | None = None) -> None:
    """Simulate, write the files of --out and --report, print the screen or the JSON. `wishes` are policies as NAME=VALUE."""
    start = time.monotonic()
    if "," in hw and not Path(hw).exists():
        raise ValueError(f"--hw {hw}: `gemvane run` takes one hardware. Several are for `gemvane compare`.")
    output.check_folder(out)
    page.check(report)
    result = api.run(model, policies.with_policies(hardware.load(hw), policies.parsed(wishes)), **asked)
    text = result.to_json() + "\n" if json else ""
    paths: list[Path] = []
    if out is not None:
        with output.staged(out) as folder:
            files = [*result.save(folder), *rerun.save(result.run, folder, page.command_line())]
            paths = [out / path.name for path in files]
    if report is not None:
        paths.append(page.of_run(result, report))
    if json:
        output.show_text(text)
        return
    from gemvane.render import ops_screen, run_detail, run_screen

    more = [*(ops_screen(result) if ops or verbose else []), *(run_detail(result, time.monotonic() - start) if verbose else [])]
    output.show(*run_screen(result, ", ".join([where(hw), *wishes])), *more, *written(paths))


def where(hw: str) -> str:
    """Whether a hardware is one of ours."""
    return "built in" if hw in hardware.names() else hw


def written(paths: list[Path]) -> list[str]:
    """The line that names the files."""
    if not paths:
        return []
    folders = dict.fromkeys(path.parent for path in paths)
    named = [(folder, [path.name for path in paths if path.parent == folder]) for folder in folders]
    return [f"-> {folder / files[0]}" if len(files) == 1 else f"-> {folder}/{{{', '.join(files)}}}" for folder, files in named]
