"""Energy of DRAM commands: the published PIM figures, linearity, what PIM reads do not pay, and sourced prices."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.sim.dram import part, pimpart, pimstream
from gemvane.sim.dram.energy import STEP, TERMS, UNITS, energy, load_prices, names, prices_of, steps
from gemvane.sim.quantity import CONFIDENCES
from gemvane.sim.units import parse

PIM = "hbm2-neupims"
PRICED = ("ACT", "PREpb", "RD", "WR", "REFab", "G_ACT", "COMP", "GWRITE", "READRES", STEP)
COUNTS = st.dictionaries(st.sampled_from(PRICED), st.integers(0, 10**6))


def only(term: str, **counts: int) -> float:
    """One term of an instant in which only these commands were issued, by IDD currents."""
    return energy(counts, 0.0, PIM, "hbm2-idd").terms_pj[term]


def test_the_idd_prices_give_the_energy_classes_of_the_neupims_run() -> None:
    read, act = 804, 828  # pJ: (390 - 55) mA x 1.2 V x 2 ns; (65 x 48 - 55 x 34 - 40 x 14) mA ns x 1.2 V
    assert only("array", STEP=2048) == pytest.approx(2048 * 4 * read) == pytest.approx(6.59e6, rel=1e-3)
    assert only("activation", G_ACT=512) == pytest.approx(512 * 4 * act) == pytest.approx(1.70e6, rel=3e-3)
    assert only("array", GWRITE=10) == pytest.approx(10 * 16 * read) == pytest.approx(0.13e6, rel=0.02)
    assert only("array", READRES=160) == pytest.approx(160 * read) == pytest.approx(0.13e6, rel=0.02)
    assert only("array", COMPS_READRES=160, STEP=0) == only("array", READRES=160)
    assert only("refresh", REFab=14) == pytest.approx(14 * (250 - 55) * 1.2 * 260) == pytest.approx(0.85e6, rel=3e-3)
    assert (only("array", WR=1), only("activation", ACT=1)) == (pytest.approx(1068), act)


def test_a_dot_product_step_is_four_reads_or_three_and_the_spread_is_told() -> None:
    four, three = (energy({STEP: 100}, 0.0, PIM, "hbm2-idd", pim_read_factor=factor) for factor in (4, 3))
    assert (four.terms_pj["array"], three.terms_pj["array"]) == (pytest.approx(100 * 3216), pytest.approx(100 * 2412))
    for result in (four, three):
        assert result.pim_read_pj == {"neupims": pytest.approx(100 * 3216), "cent": pytest.approx(100 * 2412)}
        assert result.pim_read_spread == pytest.approx(1 / 3)
        assert (sum(result.low_pj.values()), sum(result.high_pj.values())) == (pytest.approx(100 * 2412), pytest.approx(100 * 3216))
    assert energy({STEP: 100}, 0.0, PIM, "hbm2-idd") == four
    assert energy({"RD": 1}, 0.0, PIM).pim_read_spread == 0


@pytest.mark.parametrize("prices", ["hbm2", "hbm2-idd"])
@given(a=COUNTS, b=COUNTS)
def test_energy_is_linear_in_counts_and_time(prices: str, a: dict[str, int], b: dict[str, int]) -> None:
    both = energy({name: a.get(name, 0) + 2 * b.get(name, 0) for name in PRICED}, 5e-6, PIM, prices)
    first, second = energy(a, 1e-6, PIM, prices), energy(b, 2e-6, PIM, prices)
    for term in TERMS:
        assert both.terms_pj[term] == pytest.approx(first.terms_pj[term] + 2 * second.terms_pj[term])
        assert both.low_pj[term] <= both.terms_pj[term] * (1 + 1e-12) and both.terms_pj[term] <= both.high_pj[term] * (1 + 1e-12)
    assert both.total_pj == pytest.approx(sum(both.terms_pj.values()))


def test_without_commands_only_standby_is_left() -> None:
    quiet = energy({"RD": 0}, 1e-6, "hbm2-2000-4gb")
    assert {term: pj for term, pj in quiet.terms_pj.items() if pj} == {"standby": pytest.approx(0.066 * 1e6)}
    assert energy({}, 0.0, PIM).total_pj == 0


def test_a_second_row_buffer_costs_the_background_once_more() -> None:
    dual, single = (energy({}, 1e-6, PIM, buffers=buffers).terms_pj for buffers in ("dual", "single"))
    assert dual["second_row_buffer"] == dual["standby"] == single["standby"]
    assert single["second_row_buffer"] == 0


def test_pim_reads_pay_no_tsv_and_no_io_but_results_do() -> None:
    inside = energy({"COMP": 7, STEP: 9, "G_ACT": 3, "GWRITE": 2}, 0.0, PIM).terms_pj
    assert (inside["tsv"], inside["io"]) == (0, 0)
    assert inside["pim_mac"] == pytest.approx((7 + 9) * 32 * 16 * 0.32)
    assert inside["movement"] == pytest.approx(2 * 1024 * 8 * 2.24)  # of vectors into the buffer
    assert energy({"READRES": 5}, 0.0, PIM).terms_pj == energy({"RD": 5}, 0.0, PIM).terms_pj
    assert energy({"RD": 5}, 0.0, PIM).terms_pj["io"] == pytest.approx(5 * 512 * 0.3)


def test_a_read_has_its_terms_apart() -> None:
    read = energy({"RD": 1, "ACT": 1}, 0.0, "hbm2-2000-4gb").terms_pj
    assert read == {**dict.fromkeys(TERMS, 0.0), "activation": 828, "array": pytest.approx(256 * 0.44),
                    "movement": pytest.approx(256 * 2.24), "tsv": pytest.approx(256 * 0.5), "io": pytest.approx(256 * 0.3)}


def test_ddr4_has_the_factor_tck_and_says_what_it_lacks() -> None:
    used = energy({"ACT": 1, "RD": 1, "WR": 1, "REFab": 1}, 0.0, "ddr4-3200-8gb")
    devices, tck, vdd = 8, 0.63, 1.2
    assert used.terms_pj["activation"] == pytest.approx((57 * 74 - 52 * 52 - 37 * 22) * vdd * devices * tck, rel=2e-3)
    assert used.terms_pj["array"] == pytest.approx((168 - 52 + 150 - 52) * 4 * vdd * devices * tck, rel=2e-3)
    assert used.terms_pj["refresh"] == pytest.approx((250 - 52) * 560 * vdd * devices * tck, rel=2e-3)
    assert used.not_covered == ("movement", "tsv", "io")


def test_steps_of_a_stream_are_those_of_its_composite_commands() -> None:
    pim = pimpart.pim_part(PIM)
    blocks = [pimstream.load_vector(pim), pimstream.tile(pim, row=1, dots=4, steps=8), pimstream.tile(pim, row=2, dots=1, steps=32)]
    stream = pimstream.stream(blocks)
    issued = pimpart.run(pim, stream, pimpart.new_state(pim))
    assert steps(pim, stream) == 4 * 8 + 32
    used = energy(issued.counts | {STEP: steps(pim, stream)}, 1e-6, PIM, "hbm2-idd")
    assert used.terms_pj["array"] == pytest.approx(64 * 3216 + 16 * 804 + 5 * 804)
    assert used.terms_pj["activation"] == pytest.approx((1 + 2 * 32) * 828)


@pytest.mark.parametrize(
    ("counts", "memory", "prices", "said"),
    [
        ({"RFMab": 2}, "hbm3-6400-4gb", None, "RFMab: 2 issued, and no energy price for it."),
        ({"GWRITE": 0, "MACAB": 1}, "hbm2-2000-4gb", None, "MACAB: 1 issued, and no energy price for it."),
        ({"MACSB": 1}, "hbm3-attacc", "hbm2", "hbm2: no energy price group_movement for MACSB. Add prices.group_movement."),
        ({"COMP": 1}, PIM, "ddr4", "ddr4: no energy price pim_read for COMP. Add prices.pim_read."),
        ({"COMPS_READRES": 1}, PIM, None, "counts: has COMPS_READRES and no STEP. Add how many steps they take together."),
        ({"RD": -1}, PIM, None, "counts: RD is -1. Expected zero or more."),
        ({"RD": 1}, PIM, "hbm9", f"unknown DRAM prices 'hbm9' (did you mean 'hbm3'?); there are {', '.join(names())}; "
                                 "or give the path of a YAML file"),
    ],
)  # fmt: skip
def test_what_has_no_price_is_named(counts: dict[str, int], memory: str, prices: str | None, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        energy(counts, 0.0, memory, prices)
    assert str(caught.value) == said


@pytest.mark.parametrize(("seconds", "factor"), [(-1.0, None), (float("nan"), None), (0.0, 0.0), (0.0, float("nan"))])
def test_a_time_or_factor_that_is_none_is_refused(seconds: float, factor: float | None) -> None:
    with pytest.raises(ValueError, match="want a"):
        energy({}, seconds, PIM, pim_read_factor=factor)


def unpriced(folder: Path) -> Path:
    """A part of a standard that no bundled file has prices for."""
    file = folder / "odd.yaml"
    file.write_text("extends: ddr4-3200-8gb\nschema_version: 1\nname: odd\nstandard: DDR9\n")
    return file


def test_standards_without_figures_of_their_own_are_marked(tmp_path: Path) -> None:
    assert energy({}, 0.0, "hbm4-8000-32gb").stand_in and not energy({}, 0.0, "hbm2-2000-4gb").stand_in
    named = {name: found.name for name in part.names() if (found := prices_of(part.load(name)))}
    assert set(named) == set(part.names())
    assert {"hbm2-neupims": "hbm2", "hbm4-8000-32gb": "hbm3", "ddr4-3200-8gb": "ddr4", "hbm-pim-2000": "hbm-pim", "hbm3-attacc": "hbm3",
            "gddr6-aim-cent": "gddr6"}.items() <= named.items()
    with pytest.raises(ValueError, match=r"odd: no energy prices for DDR9\. Give prices: ddr4, ddr5, gddr6, .* or a YAML file\."):
        energy({"RD": 1}, 0.0, unpriced(tmp_path))


# PIM of other families

def test_an_aim_step_is_three_reads_of_a_nanosecond_as_in_the_study_or_four() -> None:
    used = energy({"MACAB": 1000, "ACT16": 10, "WR_GB": 64, "RD_MAC": 5}, 0.0, "gddr6-aim-2000")
    assert used.terms_pj["array"] == used.pim_read_pj["cent"] == pytest.approx(1000 * 3 * 438.15, rel=1e-4)
    assert used.pim_read_pj["neupims"] == pytest.approx(1000 * 4 * 438.15, rel=1e-4)
    assert used.pim_read_spread == pytest.approx(1 / 3)
    assert used.terms_pj["activation"] == pytest.approx(10 * 16 * 66.3 * 44.5, rel=1e-3)
    assert used.terms_pj["io"] == pytest.approx((64 + 5) * 256 * 5.5)
    assert energy({"EWMUL": 4}, 0.0, "gddr6-aim-2000").total_pj == pytest.approx(energy({"MACAB": 1}, 0.0, "gddr6-aim-2000").total_pj)
    assert energy({"AF": 1}, 0.0, "gddr6-aim-2000").total_pj == pytest.approx(16 * 438.15 * 1.25, rel=1e-3)


def test_attacc_pays_for_the_way_from_the_array_to_its_units() -> None:
    bits, per = 8 * 32, {}
    for name, banks in (("MACAB", 64), ("MACSB", 16), ("MACPB", 1)):
        used = energy({name: 1}, 0.0, "hbm3-attacc").terms_pj
        assert used.pop("pim_mac") == pytest.approx(banks * 16 * 0.32)
        per[name] = sum(used.values()) / banks / bits
    assert per == {"MACAB": pytest.approx(0.44), "MACSB": pytest.approx(0.44 + 1.01), "MACPB": pytest.approx(0.44 + 2.24 + 0.5)}
    assert energy({"MVSB": 1}, 0.0, "hbm3-attacc").terms_pj["io"] == 0 < energy({"WRGB": 1}, 0.0, "hbm3-attacc").terms_pj["io"]


def test_a_multiplying_unit_of_hbm_pim_serves_two_banks() -> None:
    used = energy({"MAC": 1}, 0.0, "hbm-pim-2000")
    assert used.terms_pj["pim_mac"] == pytest.approx(8 * 16 * 0.32)
    assert {name: pj / 2048 for name, pj in used.pim_read_pj.items()} == {
        "neupims": pytest.approx(0.393, rel=2e-3), "cent": pytest.approx(0.321, rel=5e-3), "attacc": pytest.approx(0.44, rel=2e-3)}
    assert energy({"GRF_WB": 1}, 0.0, "hbm-pim-2000").total_pj == pytest.approx(8 * 256 * 0.44)


@pytest.mark.parametrize(("memory", "command", "share"), [("hbm2-2000-4gb", "REFpb", 16), ("gddr6-14000-8gb", "REFpb", 16),
                                                          ("lpddr5-6400-8gb", "REFpb", 16)])
def test_refreshing_a_bank_is_its_share_of_refreshing_all(memory: str, command: str, share: int) -> None:
    assert energy({command: share}, 0.0, memory) == energy({"REFab": 1}, 0.0, memory)


@pytest.mark.parametrize("name", part.names())
def test_every_pim_command_of_a_part_has_a_price_or_is_free(name: str) -> None:
    loaded = part.load(name)
    counts = {command: 1 for command in (*loaded.commands, *([STEP] if loaded.spec.pim else [])) if not command.startswith("RFM")}
    done = energy(counts, 1e-6, loaded)
    assert done.total_pj > 0
    assert sum(done.low_pj.values()) <= done.total_pj * (1 + 1e-12) and done.total_pj <= sum(done.high_pj.values()) * (1 + 1e-12)


# Price files

def leaves(node: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(node, dict) and "value" not in node:
        return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]
    return [(path, node)]


def price_file(name: str) -> Any:
    return yaml.safe_load((resources.files("gemvane.hw_configs") / "dram-energy" / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", names())
def test_every_price_has_a_unit_a_source_a_confidence_and_its_range(name: str) -> None:
    data = price_file(name)
    if "extends" in data:
        data["sources"] = price_file(data["extends"])["sources"] | data["sources"]
    assert data["name"] == load_prices(name).name == name
    assert all(source["cite"].strip() and source["confidence"] in CONFIDENCES for source in data["sources"].values())
    for section in ("prices", "ranges"):
        for path, leaf in leaves(data.get(section, {})):
            assert leaf["source"] in data["sources"], path
            assert parse(leaf["value"], UNITS[path[0]]) > 0
    assert not set(data["prices"]) & set(data.get("not_covered", []))
    assert all(price.low <= price.value <= price.high and price.cite for price in load_prices(name).prices.values())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"4.23 nJ"', '"4.23"', "prices.activation: '4.23' has no unit."),
        ('"4.23 nJ", source: idd', '"4.23 nJ", source: idea', "prices.activation: source 'idea' is not in sources"),
        ("ranges: {}", 'ranges: {activation: {low: {value: "5 nJ", source: idd}}}', "prices.activation is 4230, outside its range"),
        ("  refresh:", "  refrsh:", "prices.refrsh: no such price (did you mean 'refresh'?)"),
        ("not_covered:", "not_coverd:", "not_coverd: unknown field (did you mean 'not_covered'?)"),
    ],
)
def test_a_fault_in_a_price_file_has_its_sentence(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (resources.files("gemvane.hw_configs") / "dram-energy" / "ddr4.yaml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(ValueError) as caught:
        energy({"RD": 1}, 0.0, "ddr4-3200-8gb", file)
    assert str(caught.value).startswith(f"{file}:") and said in str(caught.value)


def test_a_price_file_may_extend_another(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text('extends: gddr6\nname: mine\nprices: {io: {value: "8 pJ/bit", source: mine}}\n'
                    'sources: {mine: {cite: "measured by us", confidence: measured}}\n')
    mine, theirs = load_prices(file), load_prices("gddr6")
    assert (mine.prices["io"].value, mine.prices["io"].high, mine.prices["io"].confidence) == (8, 11.21, "measured")
    assert mine.prices["activation"] == theirs.prices["activation"]
    file.write_text("extends: gddr66\nname: mine\n")
    load_prices.cache_clear()
    with pytest.raises(ValueError, match=r"mine.yaml:1: extends: unknown DRAM prices 'gddr66' \(did you mean 'gddr6'\?\)"):
        load_prices(file)


# On the command line

@pytest.mark.parametrize("memory", ["hbm2-2000-4gb", "odd"])
def test_a_replay_says_its_energy_where_there_are_prices(memory: str, tmp_path: Path) -> None:
    requests = tmp_path / "requests.csv"
    pd.DataFrame({"rw": 0, "pc": 0, "bg": 0, "ba": 0, "ro": range(50), "co": 0}).to_csv(requests, index=False)
    words = ["dram", "replay", str(requests), "--memory", str(unpriced(tmp_path)) if memory == "odd" else memory]
    screen = CliRunner().invoke(app, words).stdout
    result = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    if memory == "odd":
        assert result["energy_pj"] is None
        assert "no prices for DDR9" in screen
        return
    used = energy(result["commands"], result["end_tick"] * result["tick_ps"] / 1e12, memory)
    assert result["energy_pj"] == json.loads(json.dumps(used.to_dict()))
    assert result["energy_pj"]["low"] < result["energy_pj"]["total"] < result["energy_pj"]["high"]
    assert "pJ/bit, prices of hbm2" in screen and "activation" in screen and "standby" in screen
