"""Area of a chip's parts, and what another technology node changes."""

import math
from itertools import pairwise

import pytest

from gemvane.sim import area
from gemvane.sim.hardware import LOGIC, load, price_table
from gemvane.sim.nodes import area_factor, energy_factor, node


def test_the_parts_of_tpu_v4i_are_those_of_its_paper() -> None:
    """44 to 100 mm2 of arrays and 112 mm2 of CMEM, of a die under 400 mm2 (Jouppi et al., ISCA'21, as quoted)."""
    parts = area.parts(load("tpu-v4i"))
    assert parts["mxu"].low == pytest.approx(44, rel=0.01) and parts["mxu"].high == pytest.approx(100, rel=0.01)
    assert parts["mxu SRAM"].mm2 * 128 / 144 == pytest.approx(112, rel=0.01)
    whole = area.total(load("tpu-v4i"))
    assert whole is not None and whole.mm2 < 400
    assert whole.mm2 == pytest.approx(sum(part.mm2 for part in parts.values()))


def test_a_cell_is_as_large_as_its_widest_use() -> None:
    """Twice the int8 rate takes two int8 multipliers where bf16 takes one: the larger of 1,010 and 2 x 760 um2."""
    assert area.parts(load("tpu-v5e"))["mxu"].mm2 == pytest.approx(4 * 128 * 128 * max(1010, 2 * 760, 4 * 480) / 1e6)


def test_hardware_without_arrays_has_no_area() -> None:
    assert area.parts(load("h100-sxm")) == {} and area.total(load("h100-sxm")) is None
    assert area.dram_share(load("neupims")) == 0.0311 and area.dram_share(load("npu-pim-blocked")) == 0


def test_an_older_node_takes_more_of_both() -> None:
    names = [130.0, 90.0, 65.0, 45.0, 32.0, 20.0, 16.0, 14.0, 10.0, 7.0]
    for older, newer in pairwise(names):
        assert area_factor(newer, older) > 1 and energy_factor(newer, older) > 1
    assert energy_factor(7, 7) == area_factor(7, 7) == 1
    assert area_factor(7, 45) == 17
    assert math.isclose(energy_factor(7, 16), (0.2958 * 0.64 - 0.1241 * 0.8 + 0.03024) / (0.1776 * 0.49 - 0.09097 * 0.7 + 0.02447))


def test_a_node_scales_logic_and_leaves_memory_and_own_prices() -> None:
    device, prices = load("tpu-v2"), price_table("7nm").prices
    for action, price in device.prices.items():
        assert price == pytest.approx(prices[action] * (energy_factor(7, 16) if action.startswith(LOGIC) else 1)), action
    dear = device.replace({"energy.prices.mac_bf16": "1 pJ"})
    assert dear.prices["mac_bf16"] == 1


def test_a_node_that_is_not_in_the_table_is_named() -> None:
    with pytest.raises(ValueError, match=r"energy.node: there is no node of 28 nm in the table. Expected one of 130 nm, "):
        load("tpu-v2").replace({"energy.node": "28 nm"})
    with pytest.raises(ValueError, match="3 nm"):
        node(3)
