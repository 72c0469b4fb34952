"""The Python interface: run, compare, trace, hardware, model, estimate_kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane.sim.hardware import Hardware, load
from gemvane.sim.result import Result
from gemvane.sim.simulate import simulate
from gemvane.workloads import catalog, lower
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Hardware", "Result", "Scenario", "Trace", "compare", "estimate_kernels", "hardware", "run", "trace"]


def run(model: str | ModelSpec, hardware: str | Path | Hardware, **scenario: Any) -> Result:
    """Simulate a model on hardware: run("llama3-8b", "neupims", batch=64, prompt=512, output=128).

    Keywords are the fields of `Scenario`. Raises ValueError with one sentence for anything that cannot run.
    """
    return Result(simulate(_spec(model), Scenario(**scenario), load(hardware)))


def compare(
    model: str | ModelSpec, hardware: Sequence[str | Path | Hardware], batch: Sequence[int] = (1,), **scenario: Any
) -> list[Result]:
    """Results of every hardware at every batch size that fits, batch by batch; what does not fit is left out."""
    from gemvane.comparison import sweep

    return [cell.result for cell in sweep(_spec(model), [load(h) for h in hardware], batch, **scenario) if cell.result is not None]


def trace(model: str | ModelSpec, **scenario: Any) -> Trace:
    """The operators of a model: trace("path/to/config.json", batch=1, prompt=2048, phase="prefill")."""
    return lower.lower(_spec(model), Scenario(**scenario))


def hardware(name: str | Path) -> Hardware:
    """Bundled hardware by name, or a YAML file."""
    return load(name)


def estimate_kernels(table: pd.DataFrame, hardware: str | Path | Hardware) -> pd.DataFrame:
    """A kernel table with `latency_us`, `energy_uj` and `bound` predicted for each row."""
    from gemvane.sim.estimate import estimate_kernels as estimate

    return estimate(table, load(hardware))


def _spec(model: str | ModelSpec) -> ModelSpec:
    return model if isinstance(model, ModelSpec) else catalog.load(model)
