"""Every bundled model on four kinds of machine, and every bundled machine with a share of the models."""

import pytest

import gemvane as gv
from gemvane.sim import hardware, memory
from gemvane.workloads import catalog
from gemvane.workloads.scenario import Scenario

SCENARIO = {"batch": 2, "prompt": 100, "output": 3}
ALL = ("h100-sxm", "tpu-v4", "neupims", "cpu-server")
"""Machines that run every model: a GPU, a TPU, an NPU with PIM, a CPU."""
SHARE = 6
"""The others run each sixth model, neighbours different ones."""


@pytest.mark.parametrize("name", hardware.names())
def test_every_model_runs_or_is_told_that_it_does_not_fit(name: str) -> None:
    device = gv.hardware(name)
    models = catalog.names() if name in ALL else catalog.names()[hardware.names().index(name) % SHARE :: SHARE]
    for model in models:
        spec = catalog.load(model)
        if not memory.use(spec, Scenario(**SCENARIO), device).fits:
            with pytest.raises(ValueError, match=r"needs .* of weights"):
                gv.run(spec, device, **SCENARIO)
            continue
        result = gv.run(spec, device, **SCENARIO).to_dict()
        assert result["latency_s"] > 0
        assert result["energy_j"] > 0
        assert all(0 <= share <= 1 + 1e-9 for share in result["utilisation"].values())


def test_at_least_seventy_models_are_bundled() -> None:
    assert len(catalog.names()) >= 70


def test_the_named_machines_are_bundled() -> None:
    wanted = {
        *("v100", "t4", "a100-40g", "a100-80g", "h100-pcie", "h100-sxm", "h200", "b200", "l4", "l40s", "rtx4090", "mi300x"),
        *(f"tpu-{version}" for version in ("v1", "v2", "v3", "v4i", "v4", "v5e", "v5p", "v6e")),
        *("npu-hbm2", "npu-pim-blocked", "neupims", "attacc", "hbm-pim", "gddr6-aim"),
    }
    assert wanted < set(hardware.names())
