"""What a folder of results keeps of a run, so that it can be simulated again: hardware.yaml, and everything else in meta.json."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from gemvane.workloads import specfile, transforms
from gemvane.workloads.scenario import Scenario

from . import hardware
from .hardware import Hardware
from .simulate import Run, simulate

SCHEMA = "gemvane.inputs/1"
META, HARDWARE = "meta.json", "hardware.yaml"
RECORDED = "recorded"
"""The family of a model that was recorded from code."""


def versions() -> dict[str, str]:
    """Of gemvane and of what its numbers depend on."""
    return {"gemvane": version("gemvane"), "python": platform.python_version(), "numpy": version("numpy"), "numba": version("numba")}


def hardware_text(hardware: Hardware) -> str:
    """The hardware as one YAML file that extends no other."""
    return str(yaml.safe_dump(hardware.tree.data, sort_keys=False, allow_unicode=True, width=140))


def inputs(run: Run) -> dict[str, Any]:
    """Model and scenario as plain data, as they were after the transforms."""
    return {"model": specfile.to_data(run.spec), "scenario": asdict(run.scenario), "transforms": [str(one) for one in run.transforms]}


def digest(run: Run) -> str:
    """SHA-256 of model, scenario and hardware: two runs with the same one, of one version, have the same result."""
    text = json.dumps(inputs(run), sort_keys=True) + hardware_text(run.hardware)
    return hashlib.sha256(text.encode()).hexdigest()


def save(run: Run, folder: Path, command: str | None = None) -> list[Path]:
    """Write hardware.yaml and meta.json into `folder`. `command`: what was typed, where something was."""
    meta = {"schema": SCHEMA, "kind": "run", "command": command, "versions": versions(), "configuration_sha256": digest(run)} | inputs(run)
    paths = [folder / HARDWARE, folder / META]
    paths[0].write_text(hardware_text(run.hardware), encoding="utf-8")
    paths[1].write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return paths


def again(folder: Path) -> Run:
    """The run of a folder, simulated by this version. ValueError where that cannot be."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        spec, scenario = specfile.from_data(meta["model"]), Scenario(**meta["scenario"])
        known = tuple(transforms.parse(text) for text in meta["transforms"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / META}: {error}") from None
    check_lowered(spec.family, spec.name)
    return replace(simulate(spec, scenario, hardware.load(folder / HARDWARE)), transforms=known)


def check_lowered(family: str, name: str) -> None:
    """ValueError for a model that only its code can give again."""
    if family == RECORDED:
        raise ValueError(f"{name} was recorded from code, and only its recording can be simulated again. Use `gemvane run` with --report.")
