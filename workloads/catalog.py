"""The bundled models by name, and any other by the path of its HF config.json."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType

from .families import read_config
from .spec import ModelSpec

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""package.module:factory"""


def names() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(entry.name.removesuffix(".json") for entry in _bundled().iterdir() if entry.name.endswith(".json"))


def load(model: str, changes: Mapping[str, object] = MappingProxyType({})) -> ModelSpec:
    """The spec of a bundled model (any case), or of the HF config.json at a path, or of the directory that holds one; with some keys
    of its config.json changed."""
    name = model.lower()
    if name in names():
        entry = _bundled() / f"{name}.json"
        return _read(entry, name, f"gemvane/workloads/models/{name}.json", changes)
    path = Path(model)
    if path.is_dir():
        return _load_directory(path, changes)
    if path.is_file():
        return _read(path, path.resolve().parent.name if path.name == "config.json" else path.stem, str(path), changes)
    raise ValueError(_unknown(model))


def _bundled() -> Traversable:
    return files("gemvane.workloads") / "models"


def _load_directory(path: Path, changes: Mapping[str, object]) -> ModelSpec:
    file = path / "config.json"
    if not file.is_file():
        raise ValueError(f"{path}: this directory has no config.json")
    return _read(file, path.resolve().name, str(file), changes)


def _read(file: Traversable, name: str, where: str, changes: Mapping[str, object]) -> ModelSpec:
    try:
        config: object = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not JSON (byte {error.start} is not UTF-8 text)") from error
    if not isinstance(config, dict):
        raise ValueError(f"{where}: holds a JSON {type(config).__name__}: want a mapping, as in a HF config.json")
    return read_config({**config, **changes}, name, where)


def _unknown(model: str) -> str:
    if FACTORY.fullmatch(model):
        return f"model {model!r} is recorded, which `gemvane trace` and `gemvane run` do; here give a bundled name or a HF config.json"
    wish = "or give a path to a HF config.json"
    if model.endswith(".json"):
        return f"model {model!r}: no such file; give a bundled name, {wish}"
    bundled = names()
    nearest = difflib.get_close_matches(re.split(r"[/\\]", model.lower())[-1], bundled, n=3, cutoff=0.4)
    hint = f"nearest are {', '.join(nearest)}" if nearest else f"bundled are {', '.join(bundled)}"
    return f"unknown model {model!r}: {hint}; {wish}"
