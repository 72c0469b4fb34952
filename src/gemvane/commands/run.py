"""gemvane run"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemvane import api, output


def run(model: str, hw: str, asked: dict[str, Any], ops: bool, json: bool, out: Path | None) -> None:
    """Simulate, write the files of --out, print the screen or the JSON."""
    if "," in hw and not Path(hw).exists():
        raise ValueError(f"--hw {hw}: `gemvane run` takes one hardware. Several are for `gemvane compare`.")
    output.check_folder(out)
    result = api.run(model, hw, **asked)
    text = result.to_json() + "\n" if json else ""
    paths: list[Path] = []
    if out is not None:
        with output.staged(out) as folder:
            paths = [out / path.name for path in result.save(folder)]
    if json:
        output.show_text(text)
        return
    from gemvane.render import ops_screen, run_screen

    output.show(*run_screen(result, where(hw)), *(ops_screen(result) if ops else []), *written(paths))


def where(hw: str) -> str:
    """Whether a hardware is one of ours."""
    from gemvane.sim import hardware

    return "built in" if hw in hardware.names() else hw


def written(paths: list[Path]) -> list[str]:
    """The line that names the files."""
    if not paths:
        return []
    return [f"-> {paths[0].parent}/{{{', '.join(path.name for path in paths)}}}"]
