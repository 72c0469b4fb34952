"""Energy is counts x prices plus static power x time, and nothing goes unpriced."""

import dataclasses

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim import energy
from gemvane.sim.costs import ACTION, ACTIONS

H100 = gv.hardware("h100-sxm")


def counts(**amounts: int) -> np.ndarray:
    column = np.zeros(len(ACTIONS), np.int64)
    for action, amount in amounts.items():
        column[ACTION[action]] = amount
    return column


def test_a_mac_costs_its_price_and_a_byte_eight_times_its_price_per_bit() -> None:
    assert energy.energy_pj(counts(mac_bf16=1000)[None], H100)[0] == pytest.approx(590)
    assert energy.energy_pj(counts(link_bytes=10)[None], H100)[0] == pytest.approx(10 * 8 * 1.3)


def test_a_byte_from_hbm_pays_array_movement_tsv_and_interposer() -> None:
    parts = energy.by_component_pj(counts(**{f"dram_{p}_bytes": 1 for p in ("activate", "array", "move", "tsv", "io")}), H100)
    assert parts == pytest.approx({"dram_activate": 8 * 0.11, "dram_array": 8 * 0.44, "dram_move": 8 * 2.24, "dram_tsv": 8 * 0.5,
                                   "dram_io": 8 * 0.3})


def test_every_action_belongs_to_one_component() -> None:
    members = [action for parts in energy.COMPONENTS.values() for action in parts]
    assert sorted(members) == sorted(ACTIONS)


def test_a_count_without_a_price_is_an_error_that_names_it() -> None:
    poor = dataclasses.replace(H100)
    object.__setattr__(poor, "prices", {"mac_bf16": 0.59})
    with pytest.raises(ValueError, match=r"h100-sxm: no energy price for link_bytes. Add energy.prices.link_bytes."):
        energy.energy_pj(counts(mac_bf16=1, link_bytes=1)[None], poor)
    assert energy.energy_pj(counts(mac_bf16=1)[None], poor)[0] == 0.59


@pytest.mark.parametrize("name", ["h100-sxm", "tpu-v5p", "neupims", "attacc", "cpu-server"])
def test_a_runs_energy_is_counts_times_prices_plus_static(name: str) -> None:
    result = gv.run("llama3.2-1b", name, batch=4, prompt=100, output=5)
    total = 0.0
    for phase in result.run.phases.values():
        times = np.bincount(phase.alike, minlength=len(phase.actions))
        for action, count in zip(ACTIONS, times @ phase.actions, strict=True):
            if count:
                total += int(count) * result.run.hardware.prices[action] * (8 if action.endswith("_bytes") else 1)
        total += result.run.hardware.spec.power.static * phase.latency_ps
    assert result.energy_j == pytest.approx(total * 1e-12, rel=1e-12)
    assert result.average_power_w == pytest.approx(result.energy_j / result.latency_s)
    dynamic = sum(row["energy_j"] for row in result.ops_table())
    assert dynamic + result.energy_by_component_j["static"] == pytest.approx(result.energy_j, rel=1e-12)


def test_the_phases_share_the_energy_of_the_run() -> None:
    result = gv.run("gpt2", "t4", batch=2, prompt=64, output=4, dtype="fp16")
    assert result.energy_of("prefill") + result.energy_of("decode") == pytest.approx(result.energy_j)


def test_pim_reads_pay_no_movement_to_the_pins() -> None:
    near, far = (gv.run("gpt3-7b", h, batch=32, prompt=256, output=3).energy_by_component_j for h in ("npu-pim-blocked", "npu-hbm2"))
    assert near["dram_io"] < far["dram_io"]
    assert near["pim"] > 0
    assert "pim" not in far
