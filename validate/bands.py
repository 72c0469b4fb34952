"""How far measured kernels lie from the uncalibrated models: the bands of hw_configs/calibration/spec-only.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemvane.sim.calibration import relatives
from gemvane.sim.devices import gpu as gpu_model
from gemvane.sim.devices.gpu_machine import ResolvedGpu
from gemvane.sim.estimate import estimate_rows
from gemvane.sim.hardware import Hardware, load
from gemvane.sim.schema import Gpu
from gemvane.workloads.kernels import KERNEL_KINDS, conditions_from_table, rows_from_table
from gemvane.workloads.ops import CODE, KINDS, WORK

from . import tables

if TYPE_CHECKING:
    import pandas as pd

HARDWARE = {"A100-SXM4-80GB": "a100-80g", "H100-SXM": "h100-sxm", "H200-SXM": "h200"}
"""`gpu` of a kernel table -> hardware file, of the GPUs with tables of every class of work."""
LEAST_WINDOW_S = 0.9
"""Power averaged over less shows what ran before."""
EAGER = ("LLMServingSim", "LLMCompass")
"""Sources whose rows hold framework time, or operators that eager PyTorch makes of many kernels."""
INSIDE = (0.1, 0.9)
"""Quantiles that bound 80 % of the time."""


def weighted_quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    """The value below which `share` of the weight lies."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, share * total[-1])])


def power_window_s(table: pd.DataFrame) -> NDArray[np.float64]:
    """Time over which the power of each row was averaged: replays x copies x latency (the collector's own rule)."""
    iteration = table["latency_us"].to_numpy(np.float64) * table["weight_copies"].fillna(1).to_numpy(np.float64) * 1e-6
    wanted = np.where(iteration < 1e-4, 0.3, 1.0)
    window: NDArray[np.float64] = np.minimum(3000, np.maximum(6, np.floor(wanted / iteration) + 1)) * iteration
    return window


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """Rows that a model of a single 16-bit kernel can be held against."""
    known = table["gpu"].isin(list(HARDWARE)) & table["op"].isin(list(KERNEL_KINDS)) & table["dtype"].isin(["bf16", "fp16"])
    # A vendor's collective is a library's algorithm over a machine's links, not a kernel of one GPU.
    alone = ~table["op"].isin([op for op, kind in KERNEL_KINDS.items() if KINDS[CODE[kind]].work == "collective"])
    eager = table["framework"].str.contains("|".join(EAGER), na=False)
    return table[known & alone & ~eager].reset_index(drop=True)


def energy_band(table: pd.DataFrame) -> tuple[float, float]:
    """(low, high): measured over predicted energy of a GPU, the middle 80 % of the predicted energy.

    Only rows with power whose window is at least 0.9 s: the meter averages over about 1 s, shorter ones show what ran before.
    """
    rows = usable(table[table["power_w"].notna()])
    rows = rows[power_window_s(rows) >= LEAST_WINDOW_S]
    ratio, weight = [], []
    for gpu in rows["gpu"].unique():
        part = rows[rows["gpu"] == gpu]
        predicted_uj = estimate_rows(rows_from_table(part), _uncalibrated(HARDWARE[gpu])).energy_pj / 1e6
        ratio.append((part["power_w"] * part["latency_us"]).to_numpy(np.float64) / predicted_uj)
        weight.append(predicted_uj)
    low, high = (weighted_quantile(np.concatenate(ratio), np.concatenate(weight), q) for q in INSIDE)
    return low, high


def carried_bands(table: pd.DataFrame) -> tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]]:
    """Bands of single kernels and of runs where a GPU has the parameters of another: each GPU of HARDWARE predicted with those of each
    other one, without its own. The middle 80 % of rows, and of time."""
    ratio, weight, keys, work = [], [], [], []
    rows = usable(table)
    for target in HARDWARE.values():
        part = rows[rows["gpu"].astype(str).map(HARDWARE) == target]
        if part.empty:
            continue
        operators, conditions = rows_from_table(part), conditions_from_table(part)
        for source in HARDWARE.values():
            if source == target:
                continue
            machine = carried_machine(source, target)
            parts = gpu_model.estimate(operators, machine, conditions)
            predicted = parts.fixed + parts.busy
            ratio.append(part["latency_us"].to_numpy(np.float64) / predicted)
            weight.append(predicted / predicted.sum())
            keys.append(tables.band_key(operators))
            work.append(np.array(WORK)[operators.work])
    ratios, weights, names, works = (np.concatenate(c) for c in (ratio, weight, keys, work))
    ones = np.ones(ratios.size)

    def middle(where: NDArray[np.bool_], by: NDArray[np.float64]) -> tuple[float, float]:
        low, high = (weighted_quantile(ratios[where], by[where], q) for q in INSIDE)
        return low, high

    kernels = {str(key): middle(names == key, ones) for key in np.unique(names)}
    return kernels, {str(key): middle(works == key, weights) for key in np.unique(works)}


def carried_machine(source: str, target: str) -> ResolvedGpu:
    """The GPU of `target` with the physics of `source`, and conditions of anybody but `target`."""
    hardware = load(target).replace({"units.gpu.calibration": source})
    unit = hardware.spec.units["gpu"]
    assert isinstance(unit, Gpu)
    known = tuple(c.conditions for c in relatives(source) if c.name != target)
    return gpu_model.resolve("gpu", unit, hardware.spec)._replace(conditions=known)


def _uncalibrated(name: str) -> Hardware:
    """A GPU with the numbers of its data sheet and the models' guesses."""
    return load(name).replace({"units.gpu.calibration": None})


def spec_only_bands(table: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Class of work -> (low, high): measured over predicted time of a GPU, the middle 80 % of the predicted time.

    Weighted by time, since a band is laid on the sum over a run's operators.
    """
    ratio, weight, work = [], [], []
    rows = usable(table)
    for gpu, name in HARDWARE.items():
        part = rows[rows["gpu"] == gpu]
        if part.empty:
            continue
        operators = rows_from_table(part)
        predicted_us = estimate_rows(operators, _uncalibrated(name)).latency_ps / 1e6
        ratio.append(part["latency_us"].to_numpy(np.float64) / predicted_us)
        weight.append(predicted_us)
        work.append(operators.work)
    ratios, weights, works = np.concatenate(ratio), np.concatenate(weight), np.concatenate(work)
    return {WORK[code]: tuple(weighted_quantile(ratios[works == code], weights[works == code], q) for q in INSIDE)  # type: ignore[misc]
            for code in np.unique(works).tolist()}
