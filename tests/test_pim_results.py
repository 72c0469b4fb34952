"""What an architect reads of a machine with PIM: time and energy by unit and cause, channels, area, and the timeline's lanes."""

import gzip
import json
from collections import defaultdict
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import gemvane as gv
from gemvane.cli import app
from gemvane.render import run_screen
from gemvane.sim import breakdown, devices, energy
from gemvane.sim.costs import ACTIONS, CAUSES
from gemvane.sim.devices import pim
from gemvane.sim.perfetto import COLOURS
from gemvane.sim.policies import with_policies
from gemvane.sim.result import Result

PROMPTS = (100, 900, 300, 400, 512, 64, 700, 200)
MACHINES = ("neupims", "npu-pim-blocked", "attacc", "cent", "gddr6-aim", "hbm-pim")


def run(hardware: str, **setting: object) -> Result:
    chosen = {"batch": 8, "prompt": PROMPTS, "output": 3, "tp": 2} | setting
    return gv.run("llama3.2-1b", hardware, **chosen)


@pytest.fixture(scope="module")
def interleaved() -> Result:
    """Two sub-batches at a time on each of two devices of a pipeline, whose units work at once."""
    return gv.run("llama3.2-1b", with_policies(gv.hardware("neupims"), {"sub_batches": 2}), batch=16, prompt=2 * PROMPTS, output=3, pp=2)


@pytest.mark.parametrize("name", [*MACHINES, "h100-sxm", "npu-hbm2"])
def test_the_time_of_a_unit_is_its_work_by_cause_and_its_waits(name: str) -> None:
    result = run(name)
    for phase, units in result.time_by_cause_s.items():
        length = result.run.phases[phase].latency_ps / 1e12
        assert set(units) == set(result.run.hardware.spec.units)
        for unit, parts in units.items():
            assert set(parts) <= {*CAUSES, *breakdown.WAITS}
            assert sum(parts.values()) == pytest.approx(length, rel=1e-6), unit
            assert min(parts.values()) > -1e-9


def test_two_units_that_share_the_memory_lose_time_to_each_other(interleaved: Result) -> None:
    parts = interleaved.time_by_cause_s["decode"]
    assert parts["npu"]["contention"] > 0
    assert parts["pim"]["imbalance"] > parts["pim"]["refresh"] > 0
    assert parts["pim"].keys() >= {"ideal", "edge", "row", "precharge", "vector_load", "command", "refresh", "imbalance"}


@pytest.mark.parametrize("name", [*MACHINES, "h100-sxm", "npu-hbm2"])
def test_energy_by_cause_and_static_energy_are_all_there_is(name: str) -> None:
    result = run(name)
    dynamic = sum(joules for units in result.energy_by_cause_j.values() for parts in units.values() for joules in parts.values())
    assert dynamic + result.energy_by_component_j["static"] == pytest.approx(result.energy_j, rel=1e-9)


def test_every_action_of_a_pim_has_one_cause_as_every_action_of_the_others() -> None:
    for of_pim, foreign in ((False, {"pim_mac", "pim_buffer_bytes"}), (True, {"l2_bytes", "link_bytes"})):
        known = [a for actions in breakdown.ENERGY_CAUSES[of_pim].values() for a in actions]
        assert len(known) == len(set(known))
        assert not foreign & set(known)
    assert set(ACTIONS) == {a for causes in breakdown.ENERGY_CAUSES.values() for actions in causes.values() for a in actions}


def test_energy_of_pim_is_counts_times_prices() -> None:
    result = run("neupims", phase="decode", output=1, tp=1)
    phase, prices = result.run.phases["decode"], result.run.hardware.prices
    mine = phase.unit == list(result.run.hardware.spec.units).index("pim")
    counts = dict(zip(ACTIONS, phase.actions[phase.alike[mine]].sum(axis=0).tolist(), strict=True))
    parts = result.energy_by_cause_j["decode"]["pim"]
    assert parts["row"] == pytest.approx(counts["dram_activate_bytes"] * 8 * prices["dram_activate_bytes"] * 1e-12)
    assert parts["dot_products"] == pytest.approx((counts["pim_mac"] * prices["pim_mac"]
                                                   + counts["dram_array_bytes"] * 8 * prices["dram_array_bytes"]) * 1e-12)
    assert parts["vector_load"] == pytest.approx(counts["pim_buffer_bytes"] * 8 * prices["pim_buffer_bytes"] * 1e-12)
    assert set(energy.COMPONENTS["pim"]) == {"pim_mac", "pim_buffer_bytes"}


def test_the_fullest_channel_over_the_mean_is_told_and_whether_it_could_be_less() -> None:
    skewed = {"batch": 33, "prompt": (1000, *([100] * 32)), "output": 1, "phase": "decode", "tp": 1}
    found = {policy: gv.run("llama3.2-1b", with_policies(gv.hardware("neupims"), {"channels": policy, "sub_batches": 1}),
                            **skewed).channels["decode"]["pim"] for policy in ("greedy", "round-robin", "split")}
    assert found["greedy"].least, "no channel has more than the long request alone"
    assert not found["round-robin"].least, "the long request shares its channel with a short one"
    assert found["split"].least
    assert found["round-robin"].fullest_over_mean > found["greedy"].fullest_over_mean > found["split"].fullest_over_mean >= 1


@pytest.mark.parametrize("name", MACHINES)
def test_channels_add_up_to_what_the_unit_says(name: str) -> None:
    """The fullest channel is the unit's time; the mean is its time without imbalance."""
    result = run(name)
    index = list(result.run.hardware.spec.units).index("pim")
    for phase in result.run.phases.values():
        machine = devices.resolve(result.run.hardware.spec)["pim"]
        rows = phase.trace.rows.take(np.unique(np.flatnonzero(phase.unit == index))[:12])
        cycles, _ = pim.channel_cycles(rows, machine, phase.trace.requests)
        costs = pim.cost(rows, machine, phase.trace.requests)
        added = costs.cycles[:, CAUSES.index("vector")]  # partial results, on another unit
        np.testing.assert_array_equal(cycles.max(axis=1), costs.total_cycles - added)
        mean = cycles.mean(axis=1)
        without = costs.total_cycles - added - costs.cycles[:, CAUSES.index("imbalance")]
        assert np.abs(mean - without).max() <= len(CAUSES) * 4, "means by cause are rounded down"


def test_the_timeline_has_a_lane_a_channel_and_colours_sub_batches(interleaved: Result, tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    interleaved.to_perfetto(path)
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    for stage in (0, 1):
        assert {f"pim.{stage} channel {c}" for c in range(32)} <= set(lanes.values())
        assert {f"npu.{stage}", f"vector.{stage}", f"pim.{stage}"} <= set(lanes.values())
    assert "link.0" in lanes.values()
    worked = [e for e in events if e["ph"] == "X"]
    assert {e["cname"] for e in worked if e["cat"] == "decode"} == set(COLOURS[:4])
    busy: defaultdict[str, float] = defaultdict(float)
    for e in worked:
        if e["cat"] == "decode":
            busy[lanes[e["tid"]]] += e["dur"]
    of_channels = [busy[f"pim.0 channel {c}"] for c in range(32)]
    assert max(of_channels) <= busy["pim.0"] * (1 + 1e-9)
    assert sum(of_channels) / 32 < busy["pim.0"] / 4, "eight requests, of two sub-batches, on 32 channels"
    whole = [(e["ts"], e["ts"] + e["dur"]) for e in worked if lanes[e["tid"]] == "pim.0"]
    inside = [e for e in worked if lanes[e["tid"]].startswith("pim.0 channel")]
    starts = {start: end for start, end in whole}
    assert all(e["ts"] in starts and e["ts"] + e["dur"] <= starts[e["ts"]] + 1e-6 for e in inside)


def test_the_json_has_what_the_screen_says() -> None:
    result = run("neupims")
    told = json.loads(result.to_json())
    assert told["time_by_cause_s"] == result.time_by_cause_s
    assert told["energy_by_cause_j"] == result.energy_by_cause_j
    assert told["channels"]["decode"]["pim"] == result.channels["decode"]["pim"]._asdict()
    assert told["policies"]["row_buffers"] == "dual"
    assert told["policies"]["attention_decode"] == ["pim"]
    assert told["area"]["dram_share"] == 0.0311
    assert told["area"]["chip_low_mm2"] < told["area"]["chip_mm2"] < told["area"]["chip_high_mm2"]
    assert gv.run("gpt2", "h100-sxm", output=2).area == {"dram_share": 0.0}


def test_the_screen_of_a_machine_with_pim_says_where_time_and_energy_go() -> None:
    result = gv.run("llama3.2-1b", with_policies(gv.hardware("gddr6-aim"), {}), batch=1, prompt=100, output=3)
    screen = Console(width=400, record=True, file=StringIO())
    for part in run_screen(result, "here"):
        screen.print(part)
    text = " ".join(screen.export_text().replace("\ue000", " ").split())
    assert "where its time goes energy where its energy goes" in text
    assert "channels in decode the fullest of 8 of pim works" in text
    assert "decode: projection" in text
    assert "a step on pim, against" in text
    assert "and 2 slower ones" in text, "six of eight placements are named"
    for part in run_screen(gv.run("gpt2", "h100-sxm", output=2), "here"):
        screen.print(part)
    assert "where its time goes" not in screen.export_text(), "a machine without PIM has the screen that it had"


def test_the_command_line_changes_policies_and_says_which() -> None:
    words = ["run", "gpt2", "--hw", "neupims", "--batch", "4", "--output", "2", "--phase", "decode", "--policy", "sub_batches=2",
             "--policy", "refresh=together"]
    told = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (told["policies"]["sub_batches"], told["policies"]["refresh"], told["scenario"]["sub_batches"]) == (2, "together", 2)
    assert "neupims (built in, sub_batches=2, refresh=together)" in " ".join(CliRunner().invoke(app, words).stdout.split())
