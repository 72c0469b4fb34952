"""A measured kernel table -> hw_configs/calibration/NAME.yaml: a handful of physical numbers, and conditions a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gemvane.sim.calibration import Conditions as Fitted
from gemvane.sim.calibration import DecodeCondition, GemmCondition, Physics, PrefillCondition, VectorCondition, XqaCondition
from gemvane.sim.devices import gpu as gpu_model
from gemvane.sim.devices import gpu_gemm
from gemvane.sim.devices.gpu_gemm import QUANTISED as QUANTISED_TYPES
from gemvane.sim.devices.gpu_machine import ResolvedGpu
from gemvane.sim.hardware import Hardware
from gemvane.sim.schema import Gpu
from gemvane.workloads.kernels import FRAMEWORKS, LAUNCHES, Conditions, conditions_from_table, rows_from_table
from gemvane.workloads.ops import DTYPES, KINDS, Rows

from . import tables

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

PHYSICS = {"floor_us": (0.5, 12.0), "tensor_factor": (0.4, 1.3), "read_factor": (0.3, 1.0), "write_factor": (0.1, 1.3),
           "l2_factor": (0.1, 4.0), "resident_share": (0.02, 3.0), "overlap": (0.1, 15.0), "epilogue_clocks": (100.0, 20000.0),
           "split_us": (0.1, 12.0), "wave_loss": (0.0, 1.0), "cap_drop": (0.0, 4.0)}
"""Parameter -> bounds. A bound of 0, or of 1 of a share that may be lost whole, is an answer; any other that is met is a failed fit."""
GEMM = {"extra_us": (-2.0, 100.0), "tensor_factor": (0.4, 1.5), "read_factor": (0.4, 1.4)}
QUANTISED = {"quant_passes": (0.0, 40.0), "epilogue_factor": (0.0, 6.0), "step_ns": (0.0, 10.0)}
DISPATCHED = {"overlap_factor": (0.05, 3.0)}
WEIGHT_ONLY = {name: bounds for name, bounds in QUANTISED.items() if name != "quant_passes"}
PREFILL = {"extra_us": (-2.0, 25.0), "other_head_us": (0.0, 12.0), "padded_head_us": (0.0, 15.0), "append_passes": (0.0, 20.0),
           "tensor_factor": (0.02, 1.6), "score_rate": (0.1, 1000.0), "block_clocks": (0.0, 30000.0), "row_share": (0.0, 1.0),
           "wide_factor": (0.3, 4.0), "tail": (0.0, 2.0), "window_keys": (0.0, 2000.0), "combine_us": (0.0, 30.0)}
DECODE = {"extra_us": (-2.0, 20.0), "padded_head_us": (0.0, 15.0), "read_factor": (0.3, 1.2), "overlap": (0.0, 20.0),
          "latency_clocks": (0.0, 20000.0), "block_clocks": (0.0, 30000.0), "block_width": (-1.0, 3.0), "tile_clocks": (0.0, 60000.0),
          "group_width": (0.0, 3.0), "combine_us": (0.0, 20.0)}
LONE = {"sm_tile_clocks": (0.0, 30000.0), "sm_wide": (0.0, 6.0)}
"""Of decode kernels with one block an SM (FlashAttention-3); other kernels have several, which hide each other's latency."""
CONVERTED = {"convert_clocks": (0.0, 5000.0)}
"""Of SGLang's Triton prefill, which converts the keys of an fp8 cache."""
XQA = {"extra_us": (-2.0, 20.0), "rope_us": (0.0, 15.0), "read_factor": (0.3, 1.3), "overlap": (0.0, 20.0),
       "latency_clocks": (0.0, 30000.0), "block_clocks": (0.0, 30000.0), "block_width": (-1.0, 3.0), "block_group": (0.0, 3.0),
       "key_clocks": (0.0, 200.0), "key_group": (0.0, 3.0), "sm_key_clocks": (0.0, 50.0), "sm_group": (0.0, 3.0),
       "combine_us": (0.0, 20.0), "part_clocks": (0.0, 5000.0), "mmha_extra_us": (-2.0, 20.0), "mmha_block_clocks": (0.0, 30000.0),
       "mmha_first_clocks": (0.0, 30000.0), "mmha_loop_clocks": (0.0, 60000.0), "mmha_split_clocks": (0.0, 30000.0),
       "mmha_width": (-1.0, 3.0), "mmha_overlap": (0.0, 20.0)}
"""Of TensorRT-LLM's decode kernels."""
VECTOR = {"extra_us": (-2.0, 200.0), "traffic_factor": (0.3, 40.0)}

OPEN_ABOVE = ("score_rate", "overlap", "mmha_overlap")
"""Rates that may be as high as they like: something else is what counts. An overlap of 20 is a whole one."""
DECODE_START = {"sm_tile_clocks": 2000.0, "tile_clocks": 500.0}
"""A block alone on its SM has two limits of a key's time, of which a fit that starts with the longer latency finds that one."""
SLOW = {"tensor_factor": 0.1, "score_rate": 5.0, "extra_us": 1.0}
"""Where a second try starts: a kernel far below the peak."""
STEP_NS = 0.8
"""Where the least time of a step starts: at 0 it counts nowhere."""
REFERENCE = ("trtllm", "sglang", "")
"""Whose bf16 matmuls the physics is fitted to, by preference: their operands are random numbers."""
GUESSED = {"resident_share": 0.2, "cap_drop": 0.3}
"""Where memory is nearly as fast as L2, matmuls do not say how much of it stays; where none runs for long, not what the power limit
does: the guess holds, within so much, until rows outweigh it."""
PRIOR_ROWS = 100
"""A guess weighs as much as one in so many rows."""
EAGER = LAUNCHES.index("eager")
"""The host's time, which says little of a GPU."""
LEAST_ROWS = 40
MOST_ROWS = 2000
PHYSICS_ROWS = 4000
SCALE = 0.1
"""Residuals in log time beyond which a row counts linearly: kernel libraries pick a poor kernel now and then."""
SEED = 20


class Rowset(NamedTuple):
    """Rows of a table with what was measured."""

    rows: Rows
    conditions: Conditions
    measured_us: Floats
    half: NDArray[np.int64]

    def where(self, mask: Any) -> Rowset:
        index = np.flatnonzero(mask)
        return Rowset(self.rows.take(index), self.conditions.take(index), self.measured_us[index], self.half[index])

    def sample(self, most: int) -> Rowset:
        """At most so many rows, the same ones every time."""
        if self.measured_us.size <= most:
            return self
        keep = np.zeros(self.measured_us.size, bool)
        keep[np.random.default_rng(SEED).permutation(keep.size)[:most]] = True
        return self.where(keep)


@dataclass(frozen=True)
class Fit:
    """Parameter -> (value, low, high): the value and its 95 % confidence interval."""

    values: dict[str, tuple[float, float, float]]

    @property
    def plain(self) -> dict[str, float]:
        return {name: value for name, (value, _, _) in self.values.items()}


def rowset(table: pd.DataFrame, salt: str = "half") -> Rowset:
    measured = table["latency_us"].to_numpy(np.float64)
    return Rowset(rows_from_table(table), conditions_from_table(table), measured, tables.half(table, salt))


def predicted_us(rows: Rowset, gpu: ResolvedGpu) -> Floats:
    """Time of each row on a GPU with the physics and conditions that it holds, launch path included."""
    parts = gpu_model.estimate(rows.rows, gpu, rows.conditions)
    kernel = parts.fixed + parts.busy
    return kernel + gpu_model.launch_us(rows.rows, rows.conditions, kernel)


def least_squares(residual: Callable[[dict[str, float]], Floats], free: dict[str, tuple[float, float]],
                  start: dict[str, float], what: str, f_scale: float = SCALE) -> Fit:
    """Bounded robust least squares (scipy, soft L1). ValueError where a parameter ends at a bound that is no answer."""
    try:
        from scipy.optimize import least_squares as solve
    except ImportError:
        raise ValueError("calibrate needs scipy. Install gemvane[calibrate].") from None
    names = list(free)
    low, high = (np.array([free[name][side] for name in names]) for side in (0, 1))
    scale = np.maximum(np.abs([start[name] for name in names]), 0.05 * (high - low))
    first = np.clip([start[name] for name in names], low + 1e-3 * (high - low), high - 1e-3 * (high - low))
    found = solve(lambda x: residual(dict(zip(names, x.tolist(), strict=True))), first, bounds=(low, high), x_scale=scale, loss="soft_l1",
                  f_scale=f_scale, diff_step=1e-3, max_nfev=60)
    for name, value, least, most in zip(names, found.x, low, high, strict=True):
        near = 1e-3 * (most - least)
        if (value - least < near and least != 0) or (most - value < near and (least, most) != (0.0, 1.0) and name not in OPEN_ABOVE):
            raise ValueError(f"{what}: {name} ran to its bound, {value:.3g} of {least:g} to {most:g}. The rows do not determine it.")
    half = 1.96 * _deviations(found.jac, found.fun)
    ends = zip(names, found.x, half, low, high, strict=True)
    return Fit({name: (float(x), float(max(x - h, a)), float(min(x + h, b))) for name, x, h, a, b in ends})


def _deviations(jacobian: Floats, residuals: Floats) -> Floats:
    """Standard deviation of each parameter from the curvature at the solution."""
    freedom = max(1, residuals.size - jacobian.shape[1])
    spread = float(residuals @ residuals) / freedom
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * spread
    out: Floats = np.sqrt(np.maximum(np.diag(covariance), 0))
    return out


@dataclass(frozen=True)
class Result:
    """Everything that a fit found."""

    physics: Fit
    conditions: dict[str, dict[str, dict[str, Fit]]]
    """Framework -> section -> key -> fit."""
    gpu: ResolvedGpu
    rows: Rowset
    left_out: tuple[str, ...]
    """One sentence for each condition that its rows do not determine."""


def calibrate(table: pd.DataFrame, hardware: Hardware, watch: Callable[[list[Any]], Iterable[Any]] = iter, *,
              whole: bool = False, salt: str = "half") -> Result:
    """Fit one GPU: its physics on 16-bit matmuls, then every framework's conditions on the rest.

    The held-out half (tables.half by `salt`) is not touched, unless the `whole` table is to be fitted.

    ValueError for rows that are too few or wrong (validate.tables), and for a physics that runs to a bound; a condition that
    does is left out.
    """
    machine = machine_of(hardware)
    measured = tables.rows_of(table, hardware)
    rows = rowset(measured, salt)
    tables.check_units(rows.measured_us, rows.rows, hardware)
    train = rows if whole else rows.where(rows.half == 0)
    physics, conditions = _physics(train, machine)
    base = machine._replace(physics=Physics(**physics.plain), conditions=())
    left_out = []
    for framework, section, key, part in watch(list(sections(train))):
        if framework in conditions and key in conditions[framework].get(section, {}):
            continue
        try:
            conditions.setdefault(framework, {}).setdefault(section, {})[key] = _condition(part, base, framework, section, key)
        except ValueError as error:
            left_out.append(str(error))
    return Result(physics, conditions, base._replace(conditions=(_models(conditions),)), rows, tuple(left_out))


def machine_of(hardware: Hardware) -> ResolvedGpu:
    """The GPU of a hardware file; ValueError where it has none."""
    for name, unit in hardware.spec.units.items():
        if isinstance(unit, Gpu):
            return gpu_model.resolve(name, unit, hardware.spec)
    raise ValueError(f"{hardware.name} has no unit of kind gpu, which is what can be calibrated.")


def _physics(train: Rowset, machine: ResolvedGpu) -> tuple[Fit, dict[str, dict[str, dict[str, Fit]]]]:
    """Physics on the 16-bit matmuls of the reference framework, and what others do differently, fitted together."""
    matmul = (train.rows.work == 0) & np.isin(train.conditions.dtype, ("bf16", "fp16")) & (train.conditions.launch == 0)
    names = [name for name in REFERENCE if (matmul & (train.conditions.framework == FRAMEWORKS.index(name))).sum() >= LEAST_ROWS][:2]
    if not names:
        raise ValueError(f"{int(matmul.sum())} rows are matmuls in bf16 or fp16 from a CUDA graph. Expected at least {LEAST_ROWS} of one "
                         "framework to fit the GPU's numbers to.")
    parts = {n: train.where(matmul & (train.conditions.framework == FRAMEWORKS.index(n))).sample(PHYSICS_ROWS) for n in names}
    free = {k: v for k, v in PHYSICS.items() if not (machine.asynchronous and k == "wave_loss")}
    second = {f"{n}.{k}": v for n in names[1:] for k, v in GEMM.items()}
    alike = GemmCondition().model_dump()
    start = Physics(floor_us=machine.physics.floor_us).model_dump() | {f"{n}.{k}": alike[k] for n in names[1:] for k in GEMM}

    def residual(x: dict[str, float]) -> Floats:
        physics = Physics(**{k: x.get(k, start[k]) for k in PHYSICS})
        out = []
        for name, part in parts.items():
            mine = GemmCondition(**{k: x[f"{name}.{k}"] for k in GEMM if f"{name}.{k}" in x})
            gpu = machine._replace(physics=physics, conditions=({name: Fitted(gemm={"bf16": mine})},))
            out.append(np.log(predicted_us(part, gpu) / part.measured_us))
        prior = sum(map(len, out)) // PRIOR_ROWS + 1
        out += [np.full(prior, SCALE * (x[name] - start[name]) / spread) for name, spread in GUESSED.items()]
        return np.concatenate(out)

    fit = least_squares(residual, free | second, start, "the GPU's numbers")
    physics = Fit({k: fit.values.get(k, (start[k],) * 3) for k in PHYSICS})
    others = {n: {"gemm": {"bf16": Fit({k: fit.values[f"{n}.{k}"] for k in GEMM})}} for n in names[1:]}
    return physics, {names[0]: {"gemm": {"bf16": Fit({})}}} | others


def sections(train: Rowset, most: int = MOST_ROWS) -> Iterator[tuple[str, str, str, Rowset]]:
    """Framework, section, key and rows of everything that has conditions of its own."""
    work = train.rows.work
    kv = np.array(DTYPES, object)[train.conditions.kv_dtype]
    act = np.array(DTYPES, object)[train.rows.act_dtype]
    gemm = np.array([gpu_model.gemm_key(d) for d in np.unique(train.conditions.dtype)], object)[
        np.unique(train.conditions.dtype, return_inverse=True)[1].reshape(-1)]
    attention = np.array([gpu_model.attention_key(str(a), str(k)) for a, k in zip(act, kv, strict=True)], object)
    for code in np.unique(train.conditions.framework).tolist():
        mine = (train.conditions.framework == code) & (train.conditions.launch != EAGER)
        for section, classes, keys in (("gemm", (0,), gemm), ("attention_prefill", (1,), attention), ("attention_decode", (2,), attention),
                                       ("vector", (3,), np.array([kind.name for kind in KINDS], object)[train.rows.kind])):
            here = mine & np.isin(work, classes)
            for key in np.unique(keys[here].astype(str)).tolist():
                part = here & (keys == key)
                if part.sum() >= LEAST_ROWS:
                    yield FRAMEWORKS[code], section, key, train.where(part).sample(most)


FREE: dict[str, tuple[Any, dict[str, tuple[float, float]]]] = {
    "gemm": (GemmCondition, GEMM), "attention_prefill": (PrefillCondition, PREFILL), "attention_decode": (DecodeCondition, DECODE),
    "vector": (VectorCondition, VECTOR)}


def _free(section: str, framework: str) -> tuple[Any, dict[str, tuple[float, float]]]:
    """The numbers of a condition and their bounds."""
    return (XqaCondition, XQA) if (section, framework) == ("attention_decode", "trtllm") else FREE[section]


def _condition(part: Rowset, base: ResolvedGpu, framework: str, section: str, key: str) -> Fit:
    model, free = _free(section, framework)
    if section == "gemm" and key != "bf16":
        free = free | (QUANTISED if key in QUANTISED_TYPES else WEIGHT_ONLY)
    lone = model is DecodeCondition and base.asynchronous
    free = free | (LONE if lone else CONVERTED if (section, framework) == ("attention_prefill", "triton") else {})
    free = {name: bounds for name, bounds in free.items() if name not in _idle(section, part)}
    start = model().model_dump()
    if section == "gemm" and gpu_gemm.dispatched(framework, key):
        free, start = free | DISPATCHED, start | {"step_ns": STEP_NS}
    start |= DECODE_START if lone else {}

    def residual(x: dict[str, float]) -> Floats:
        gpu = base._replace(conditions=(_models({framework: {section: {key: Fit({n: (v, v, v) for n, v in x.items()})}}}),))
        return np.log(predicted_us(part, gpu) / part.measured_us)

    what = f"{framework or 'no framework'}: {section} {key}".rstrip()
    try:
        return least_squares(residual, free, start, what)
    except ValueError:
        return least_squares(residual, free, start | {k: v for k, v in SLOW.items() if k in free}, what)


def _idle(section: str, part: Rowset) -> list[str]:
    """Parameters that no row of the part depends on."""
    if section not in ("attention_prefill", "attention_decode"):
        return []
    width, narrow = part.rows.head_dim, part.conditions.kv_dtype == DTYPES.index("fp8")
    groups = part.rows.heads_q > 8 * np.maximum(part.rows.heads_kv, 1)
    needed = {
        ("padded_head_us",): np.log2(np.maximum(width, 1)) % 1 > 0, ("other_head_us",): width != 128, ("sm_wide",): width > 128,
        ("wide_factor",): (width > 128) & (width.min() <= 128),
        ("block_width", "mmha_width"): width != width[0], ("group_width", "block_group", "key_group", "sm_group"): groups,
        ("window_keys",): part.rows.window > 0, ("rope_us",): (width == 64) & narrow, ("convert_clocks",): narrow}
    return [name for names, rows in needed.items() if not rows.any() for name in names]


def _models(conditions: dict[str, dict[str, dict[str, Fit]]]) -> dict[str, Fitted]:
    out = {}
    for framework, sections in conditions.items():
        made: dict[str, Any] = {section: {key: _free(section, framework)[0](**fit.plain) for key, fit in keys.items()}
                                for section, keys in sections.items()}
        out[framework] = Fitted(**made)
    return out
