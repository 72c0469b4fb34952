"""What the shell offers when a name is begun: bundled models, hardware and memory parts. Reads names of files, nothing else."""

from __future__ import annotations

from importlib.resources import files

DEVICES = ("gpu", "tpu", "npu", "pim", "cpu")


def models(incomplete: str) -> list[str]:
    """Bundled models; of a list with commas, those that may stand at its end."""
    return _ended(incomplete, _stems("gemvane.workloads", "models", ".json"))


def hardware(incomplete: str) -> list[str]:
    """Bundled hardware, likewise."""
    return _ended(incomplete, [name for folder in DEVICES for name in _stems("gemvane.hw_configs", folder, ".yaml")])


def parts(incomplete: str) -> list[str]:
    """Bundled memory parts."""
    return _ended(incomplete, _stems("gemvane.hw_configs", "memory", ".yaml"))


def _stems(package: str, folder: str, suffix: str) -> list[str]:
    return [entry.name.removesuffix(suffix) for entry in (files(package) / folder).iterdir() if entry.name.endswith(suffix)]


def _ended(incomplete: str, names: list[str]) -> list[str]:
    before, comma, begun = incomplete.rpartition(",")
    return sorted(f"{before}{comma}{name}" for name in names if name.startswith(begun))
