"""The Python interface: run, compare, frame, sweep, search, record, trace, hardware, estimate_kernel, estimate_kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane.results import Result
from gemvane.sim.hardware import Hardware, load
from gemvane.sim.policies import with_policies
from gemvane.sim.simulate import simulate
from gemvane.workloads import catalog, lower
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.spec import ModelSpec
from gemvane.workloads.trace import Trace
from gemvane.workloads.transforms import applied

if TYPE_CHECKING:
    import pandas as pd

    from gemvane.sim.estimate import Kernel
    from gemvane.sim.space import Space
    from gemvane.workloads.record import Recording

__all__ = ["Hardware", "Result", "Scenario", "Trace", "compare", "estimate_kernel", "estimate_kernels", "frame", "hardware", "record",
           "run", "search", "sweep", "trace"]


def run(model: Any, hardware: str | Path | Hardware, inputs: Any = None, **scenario: Any) -> Result:
    """Simulate a model on hardware: run("llama3-8b", "neupims", batch=64, prompt=512, output=128).

    The model is a name, a path, a ModelSpec, or anything that `record` takes, with its example `inputs`. Keywords are the fields of
    `Scenario`. Raises ValueError with one sentence for anything that cannot run.
    """
    asked, machine = Scenario(**scenario), load(hardware)
    if _is_recorded(model):
        recording = record(model, inputs, **scenario)
        return Result(simulate(recording.spec, recording.scenario(asked), machine, recording))
    return Result(simulate(_spec(model), asked, machine))


def compare(model: Any, hardware: Any, batch: Any = 1, prompt: Any = 512, output: Any = 128, **scenario: Any) -> list[Result]:
    """Results of every model on every hardware at every batch size and length, in this order; what does not fit is left out.

    Each of the five is one or a list: compare("llama3-8b", ["h100-sxm", "neupims"], batch=[1, 64], prompt=[128, "sharegpt-like"]). A
    hardware is a name, a path or what `hardware` returns. Raises ValueError where a scenario makes no sense.
    """
    from gemvane.comparison import cells

    found = cells([_spec(one) for one in _several(model)], [load(one) for one in _several(hardware)], batch=_several(batch),
                  prompt=_several(prompt), output=_several(output), **scenario)
    return [cell.result for cell in found if cell.result is not None]


def frame(results: Sequence[Result]) -> pd.DataFrame:
    """A row for each result: what was asked, and the figures in SI units; empty where a phase did not run."""
    import pandas as pd

    from gemvane.comparison import told
    from gemvane.sim.sweep import figures

    return pd.DataFrame([{"model": result.run.spec.name, "hardware": result.run.hardware.name, "batch": result.run.scenario.batch,
                          "prompt": told(result.run.scenario.prompt), "output": result.run.scenario.output,
                          "dtype": result.run.scenario.dtype, **figures(result)} for result in results])


def trace(model: Any, inputs: Any = None, **scenario: Any) -> Trace:
    """The operators of a model: trace("path/to/config.json", batch=1, prompt=2048, phase="prefill"); of anything that `record` takes
    too."""
    asked = Scenario(**scenario)
    return record(model, inputs, **scenario).trace(asked) if _is_recorded(model) else lower.lower(*applied(_spec(model), asked)[:2])


def record(model: Any, inputs: Any = None, **scenario: Any) -> Recording:
    """What a model does, run on shapes alone, without weights: a torch.nn.Module, a torch.export program, a transformers model or
    config, "package.module:factory", or a .onnx or .pt2 file.

    `inputs`: what a module is called with, a tuple or a dict by name; transformers' models get theirs from the scenario. Raises
    ValueError with one sentence that names the operator and the module that cannot be recorded. See docs/recording.md.
    """
    from gemvane.workloads.record.factory import recorded

    return recorded(model, inputs, Scenario(**scenario))


def hardware(name: str | Path | Hardware, **policies: Any) -> Hardware:
    """Bundled hardware by name, or a YAML file; with some policies changed, as in hardware("neupims", sub_batches=2, row_buffers="single").

    Raises ValueError with file, line and key for a faulty file, and for a policy that the hardware does not have.
    """
    return with_policies(load(name), policies)


def sweep(space: str | Path | dict[str, Any] | Space, out: str | Path | None = None, *, jobs: int = 1, dask: str | None = None
          ) -> pd.DataFrame:
    """Every point of a design space as a row: the file of a space, or what it would say. See docs/sweeps.md.

    `out`: a folder that keeps the rows, from which the same call goes on; without it nothing is kept. More than one job, or the address
    of a Dask scheduler, needs the call to stand under `if __name__ == "__main__":` in a script. Raises ValueError as `gemvane sweep` does.
    """
    from gemvane.sweeping.sweep import sweep as run_sweep

    return _frame(run_sweep, _space(space), out, jobs=jobs, dask=dask)


def search(space: str | Path | dict[str, Any] | Space, out: str | Path | None = None, *, jobs: int = 1, dask: str | None = None
           ) -> pd.DataFrame:
    """The trials of a search as rows, with `feasible` and `front`; otherwise as `sweep`."""
    from gemvane.sweeping.search import search as run_search

    return _frame(run_search, _space(space), out, jobs=jobs, dask=dask)


def estimate_kernel(hardware: str | Path | Hardware, **columns: Any) -> Kernel:
    """Latency in us, energy in uJ and bound of one kernel: estimate_kernel("h100-sxm", op="gemm", dtype="bf16", M=1, N=4096, K=4096).

    Keywords are columns of a kernel table. Raises ValueError as `estimate_kernels` does.
    """
    from gemvane.sim.estimate import estimate_kernel as estimate

    return estimate(load(hardware), **columns)


def estimate_kernels(table: pd.DataFrame, hardware: str | Path | Hardware) -> pd.DataFrame:
    """A kernel table with `latency_us`, `energy_uj` and `bound` predicted for each row."""
    from gemvane.sim.estimate import estimate_kernels as estimate

    return estimate(table, load(hardware))


def _is_recorded(model: Any) -> bool:
    from gemvane.workloads.record.factory import is_recorded

    return not isinstance(model, ModelSpec) and is_recorded(model)


def _several(asked: Any) -> list[Any]:
    """What was asked, as a list."""
    return list(asked) if isinstance(asked, list | tuple | range) else [asked]


def _spec(model: str | ModelSpec) -> ModelSpec:
    return model if isinstance(model, ModelSpec) else catalog.load(model)


def _space(space: str | Path | dict[str, Any] | Space) -> Space:
    from gemvane.sim import space as spaces

    if isinstance(space, dict):
        import yaml

        return spaces.parse(yaml.safe_dump(space, sort_keys=False), "space")
    return spaces.read(space) if isinstance(space, (str, Path)) else space


def _frame(run: Callable[..., Any], space: Space, out: str | Path | None, **how: Any) -> pd.DataFrame:
    import tempfile

    import pandas as pd

    with tempfile.TemporaryDirectory(prefix="gemvane-") as nowhere:
        return pd.DataFrame(run(space, Path(out or nowhere), **how).rows)
