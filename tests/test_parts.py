"""Memory parts: every number has a unit and a source, the resolved table is the reference's, and each fault has its sentence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gemvane.sim.dram import part
from gemvane.sim.dram.expression import evaluate
from gemvane.sim.dram.part import HISTORY, Part, ResolvedPart, load, names, resolve
from gemvane.sim.dram.partschema import LEVELS
from gemvane.sim.quantity import CONFIDENCES
from gemvane.sim.yamltree import is_leaf

ROOT = resources.files("gemvane.hw_configs") / "memory"
FILES = {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in ROOT.iterdir() if file.name.endswith(".yaml")}
REFERENCE = {"R_HBM2": "hbm2-2000-4gb", "R_HBM3": "hbm3-6400-4gb", "R_HBM4": "hbm4-8000-32gb", "R_DDR4": "ddr4-3200-8gb",
             "R_DDR5": "ddr5-4800-16gb", "R_GDDR6": "gddr6-14000-8gb", "R_LPDDR5": "lpddr5-6400-8gb"}
"""Configuration of the reference runs -> our part."""
DERIVED = {**dict.fromkeys(("R_HBM2", "R_HBM3", "R_HBM4", "R_LPDDR5"), "REFpb"), "R_DDR5": "REFsb"}  # its rules are not all the reference's
THEIR_LEVELS = {"Channel": 0, "PseudoChannel": 1, "Rank": 2, "Sid": 2, "BankGroup": 3, "Bank": 4}

Rules = dict[tuple[int, str, str, int, bool], int]


def rules(loaded: Part) -> Rules:
    """(level, previous, next, window, sibling) -> ticks, read back from the arrays."""
    resolved, commands = resolve(loaded), loaded.commands
    found: Rules = {}
    for level in range(5):
        for prev, name in enumerate(commands):
            row = level * len(commands) + prev
            for i in range(resolved.rule_ptr[row], resolved.rule_ptr[row + 1]):
                key = (level, name, commands[resolved.rule_next[i]], int(resolved.rule_window[i]), bool(resolved.rule_sibling[i]))
                assert key not in found
                found[key] = int(resolved.rule_ticks[i])
    return found


# What the tables come out as

@pytest.fixture(scope="module")
def reference(shared_data: Path) -> dict[str, Any]:
    params: dict[str, Any] = json.loads((shared_data / "dram" / "ramulator2_params.json").read_text())
    return params


@pytest.mark.parametrize("configuration", REFERENCE)
def test_every_resolved_rule_is_the_references(configuration: str, reference: dict[str, Any]) -> None:
    theirs: Rules = {}
    for rule in reference[configuration]["resolved_constraints_ticks"]:
        for prev in rule["prev"]:
            for after in rule["next"]:
                key = (THEIR_LEVELS[rule["level"]], prev, after, rule["window"], rule["sibling"])
                theirs[key] = max(rule["ticks"], theirs.get(key, 0))
    ours = rules(load(REFERENCE[configuration]))
    assert {key: ours[key] for key in theirs} == theirs
    assert all(DERIVED.get(configuration) in (prev, after) for _, prev, after, *_ in ours.keys() - theirs.keys())


@pytest.mark.parametrize("configuration", REFERENCE)
def test_timings_commands_and_sizes_are_the_references(configuration: str, reference: dict[str, Any], shared_data: Path) -> None:
    ours, theirs = load(REFERENCE[configuration]), reference[configuration]
    timings = {name: value for name, value in theirs["timing_nCK"].items() if name not in ("rate", "tCK_ps")}
    more = ("REFsb", "nRFCsb", "nREFSBRD") if configuration == "R_DDR5" else ()
    assert {name: value for name, value in ours.spec.timings.items() if name not in more} == timings
    assert [name for name in ours.commands if name not in more] == theirs["commands"]
    assert ours.spec.clock.period == theirs["timing_nCK"]["tCK_ps"]
    resolved = resolve(ours)
    assert (resolved.read_latency, resolved.ticks_per_clock) == (theirs["read_latency_ticks"], theirs["tick_multiplier"])
    assert {name for name, row in zip(ours.commands, resolved.on_row_bus, strict=True) if row} == set(theirs["row_bus"])
    sizes = json.loads((shared_data / "dram" / "orgs.json").read_text())[configuration]
    pcs, _, bank_groups, banks = resolved.counts.tolist()
    assert (pcs, bank_groups, banks, ours.rows, ours.columns) == tuple(sizes[key] for key in ("pc", "bg", "ba", "ro", "co"))


@pytest.mark.parametrize(
    ("name", "level", "prev", "after", "ticks"),
    [
        # HBM2: ACT takes two clocks and the others one, so what follows an ACT is a tick later and an ACT a tick sooner
        ("hbm2-2000-4gb", "bank", "ACT", "PREpb", 34 + 2 - 1),
        ("hbm2-2000-4gb", "bank", "PREpb", "ACT", 14 + 1 - 2),
        ("hbm2-2000-4gb", "bank", "ACT", "RD", 14 + 2 - 1),
        ("hbm2-2000-4gb", "bank", "ACT", "ACT", 48),
        ("hbm2-2000-4gb", "channel", "ACT", "PREab", 2),
        ("hbm2-2000-4gb", "pseudochannel", "RD", "WR", 14 + 2 + 2 - 5),
        # HBM3: ticks are half clocks; ACT takes 3 of them, RD and WR 2, the rest 1
        ("hbm3-6400-4gb", "bank", "ACT", "PREpb", 2 * 45 + 3 - 1),
        ("hbm3-6400-4gb", "bank", "PREpb", "ACT", 2 * 26 + 1 - 3),
        ("hbm3-6400-4gb", "bank", "ACT", "RD", 2 * 31 + 3 - 2),
        ("hbm3-6400-4gb", "pseudochannel", "REFab", "ACT", 2 * 416 + 1 - 3),
        ("hbm3-6400-4gb", "channel", "WR", "RD", 2),
        # DDR5: ACT, RD and WR take two clocks of the one bus
        ("ddr5-4800-16gb", "channel", "RD", "PREab", 2),
        ("ddr5-4800-16gb", "bank", "RD", "PREpb", 18 + 2 - 1),
    ],
)
def test_a_rule_runs_from_the_end_of_one_command_to_the_end_of_the_other(name: str, level: str, prev: str, after: str, ticks: int) -> None:
    assert rules(load(name))[LEVELS[level], prev, after, 1, False] == ticks


def test_of_two_rules_for_the_same_commands_the_longer_holds() -> None:
    table = rules(load("gddr6-14000-8gb"))  # nBL 2 and nCCDS 2, then nCCDS 4 in the AiM set
    assert table[0, "RD", "RD", 1, False] == 2
    assert rules(load("gddr6-aim-2000"))[0, "RD", "RD", 1, False] == 4


def test_a_window_and_a_sibling_stand_beside_the_plain_rule() -> None:
    hbm2, ddr4 = rules(load("hbm2-2000-4gb")), rules(load("ddr4-3200-8gb"))
    assert (hbm2[1, "ACT", "ACT", 1, False], hbm2[1, "ACT", "ACT", 4, False]) == (4, 15)
    assert (ddr4[2, "RD", "RD", 1, False], ddr4[2, "RD", "RD", 1, True]) == (4, 6)
    assert ddr4[2, "WR", "RD", 1, True] == 0  # nCWL + nBL + nCS - nCL: the write's data is out before the read's begins


def test_kernels_get_ids_levels_and_contiguous_int64() -> None:
    hbm2, resolved = load("hbm2-2000-4gb"), resolve(load("hbm2-2000-4gb"))
    ids = {name: i for i, name in enumerate(hbm2.commands)}
    assert (resolved.act, resolved.pre, resolved.preab, resolved.rd, resolved.wr, resolved.refab) == tuple(
        ids[name] for name in ("ACT", "PREpb", "PREab", "RD", "WR", "REFab"))
    assert (resolved.act2, resolved.cas_rd, resolved.cas_wr, resolved.aad, resolved.wck_read, resolved.wck_write) == (-1, -1, -1, 0, 0, 0)
    assert resolved.counts.tolist() == [2, 1, 4, 4]
    assert resolved.scope.tolist() == [1 if name in ("PREab", "REFab") else 4 for name in hbm2.commands]
    assert resolved.length.tolist() == [2 if name == "ACT" else 1 for name in hbm2.commands]
    assert (resolved.protocol, resolved.refresh_level, resolved.refresh_interval, resolved.read_latency) == (1, 1, 3900, 16)
    for field, value in resolved._asdict().items():
        if isinstance(value, np.ndarray):
            assert value.dtype == np.int64 and value.flags.c_contiguous, field
        else:
            assert type(value) is int, field


def test_lpddr5_has_two_activations_two_cas_and_a_data_clock() -> None:
    lpddr5, resolved = load("lpddr5-6400-8gb"), resolve(load("lpddr5-6400-8gb"))
    ids = (resolved.act, resolved.act2, resolved.cas_rd, resolved.cas_wr)
    assert [lpddr5.commands[i] for i in ids] == ["ACT1", "ACT2", "CAS_RD", "CAS_WR"]
    assert (resolved.aad, resolved.wck_read, resolved.wck_write, resolved.protocol) == (8, 17 + 2 + 1, 9 + 2 + 1, 3)


@pytest.mark.parametrize(
    ("name", "protocol", "refresh_level", "tick_ps"),
    [("hbm3-6400-4gb", 2, 1, Fraction(625, 2)), ("ddr4-3200-8gb", 0, 2, Fraction(625)), ("gddr6-14000-8gb", 0, 0, Fraction(570)),
     ("hbm3e-9600", 2, 1, Fraction(625, 3)), ("lpddr5x-8533", 3, 2, Fraction(1875, 2))],
)
def test_ticks_are_exact_and_refresh_has_the_level_of_its_standard(name: str, protocol: int, refresh_level: int, tick_ps: Fraction) -> None:
    resolved: ResolvedPart = resolve(load(name))
    assert (resolved.protocol, resolved.refresh_level, load(name).tick_ps) == (protocol, refresh_level, tick_ps)


@pytest.mark.parametrize("name", names())
def test_no_rule_of_a_bundled_part_is_beyond_the_engine(name: str) -> None:
    resolved = resolve(load(name))
    assert resolved.rule_ticks.min() >= 0 and resolved.rule_window.max() <= HISTORY
    assert resolved.rule_ptr[0] == 0 and resolved.rule_ptr[-1] == resolved.rule_next.size
    assert resolved.rule_ptr.size == 5 * len(load(name).commands) + 1
    assert resolved.refresh_interval > resolved.rule_ticks.max()


# Where the numbers come from

@pytest.mark.parametrize("name", names())
def test_the_peak_is_pins_times_rate_and_one_request_a_burst(name: str) -> None:
    loaded = load(name)
    org, timings = loaded.spec.organisation, loaded.spec.timings
    assert org.pins * org.pin_rate / 8 == pytest.approx(org.bandwidth, rel=0.01)
    burst_ps = timings.get("nBL", timings.get("nBL_min", 0)) * loaded.spec.clock.period
    assert org.levels.get("pseudochannel", 1) * org.request * 10**12 / burst_ps == pytest.approx(org.bandwidth, rel=0.01)


def numbers(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and not is_leaf(node):
        for key, value in node.items():
            yield from numbers(value, (*path, key))
    elif path[-1] not in ("ticks", "bus", "scope", "opens", "closes", "needs", "style", "row_buffers", "constraints"):
        yield ".".join(path), node


@pytest.mark.parametrize("name", FILES)
def test_every_number_has_a_unit_or_is_a_count_and_a_source(name: str) -> None:
    own = yaml.safe_load(FILES[name])
    family = [own]
    while "extends" in family[-1]:
        family.append(yaml.safe_load(FILES[family[-1]["extends"]]))
    sources = {key: source for data in family for key, source in data["sources"].items()}
    assert all(source["cite"].strip() and source["confidence"] in CONFIDENCES for source in sources.values())
    found = [item for section in part.SECTIONS for item in numbers(own.get(section, {}), (section,))]
    assert found
    for key, leaf in found:
        assert is_leaf(leaf) and leaf["source"] in sources, f"{key}: {leaf!r} has no source"
        if key.split(".")[-1] in ("request", "pin_rate", "bandwidth", "period", "element", "vector_buffer"):
            assert re.fullmatch(r"\d[\d.]* [A-Za-z/]+", leaf["value"]), f"{key}: {leaf['value']!r} is no number with a unit"
        else:
            assert isinstance(leaf["value"], int) or leaf["value"] % 0.5 == 0, f"{key}: {leaf['value']!r} is no count"


@pytest.mark.parametrize("name", names())
def test_every_number_of_a_loaded_part_knows_its_file_line_cite_and_confidence(name: str) -> None:
    loaded = load(name)
    assert (loaded.name, loaded.file) == (name, f"hw_configs/memory/{name}.yaml")
    for key, number in loaded.provenance.items():
        line = FILES[Path(number.file).stem].splitlines()[number.line - 1]
        assert number.text in line and f"{key.split('.')[-1]}:" in line
        assert key == "clock.ticks" or (number.cite and number.confidence in CONFIDENCES)


@pytest.mark.parametrize(
    ("name", "parent", "in_clocks"),
    [
        ("hbm2e-3200", "hbm2-2000-4gb", {"nBL", "nCCDS", "nCCDL"}),
        ("hbm3e-9600", "hbm3-6400-4gb", {"nBL", "nCCDS", "nCCDR", "nPPD"}),
        ("lpddr5x-8533", "lpddr5-6400-8gb", {"nBL_min", "nBL_max", "nCCDS", "nCCDL", "nCCDS_WR", "nCCDL_WR", "nCS", "nPPD", "nCAS", "nAAD",
                                             "nWCKPST"}),
    ],
)
def test_a_derived_part_keeps_the_nanoseconds_of_its_parent_and_says_so(name: str, parent: str, in_clocks: set[str]) -> None:
    new, old = load(name), load(parent)
    for timing, clocks in old.spec.timings.items():
        exact = clocks * old.spec.clock.period / new.spec.clock.period
        want = clocks if timing in in_clocks else math.floor(exact) if timing.startswith("nREFI") else math.ceil(exact)
        assert new.spec.timings[timing] == want, timing
        assert new.provenance[f"timings.{timing}"].confidence == ("source" if timing in in_clocks else "derived")
    assert "derived" in new.spec.description


# The language of latencies

@pytest.mark.parametrize(
    ("expression", "clocks"),
    [("nCL", 14), ("nCL + nBL + 2 - nCWL", 13), ("2 * nBL - 1", 3), ("nCL - (nBL - 1)", 13), ("max(1, nBL) + 1", 3)],
)
def test_an_expression_is_sums_products_and_max(expression: str, clocks: int) -> None:
    assert evaluate(expression, {"nCL": 14, "nBL": 2, "nCWL": 5}) == clocks


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("nCLL + nBL", "'nCLL + nBL': unknown timing 'nCLL' (did you mean 'nCL'?)."),
        ("nCL +", "'nCL +' cannot be read. Expected timings and whole numbers, e.g. nCL + nBL."),
        ("", "'' cannot be read."),
        ("(" * 200, "'((("),
        ("nCL; nBL", "'nCL; nBL' cannot be read."),
        ("1or 2", "'1or 2': '1 or 2' is no part of a latency. Expected timings, whole numbers, + - * and max(a, b)."),
        ("nCL / 2", "'nCL / 2': 'nCL / 2' is no part of a latency."),
        ("nCL ** 2", "'nCL ** 2': 'nCL ** 2' is no part of a latency."),
        ("1.5 * nCL", "'1.5 * nCL': '1.5' is no part of a latency."),
        ("True", "'True': 'True' is no part of a latency."),
        ("-nCL", "'-nCL': '-nCL' is no part of a latency."),
        ("min(nCL, 2)", "'min(nCL, 2)': 'min(nCL, 2)' is no part of a latency."),
        ("max(nCL)", "'max(nCL)': 'max(nCL)' is no part of a latency."),
        ("__import__('os').getcwd()", "\"__import__('os').getcwd()\": \"__import__('os').getcwd()\" is no part of a latency."),
        ("999999999 * nCL", "'999999999 * nCL' is over 1000000000 clocks."),
        ("nCL" + " + nCL" * 99, "'nCL + nCL + "),
    ],
)
def test_what_is_no_expression_is_named(expression: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        evaluate(expression, {"nCL": 14, "nBL": 2})
    assert str(caught.value).startswith(said)


# Bad files, one fault each

HBM2, HBM3, LPDDR5 = (FILES[name] for name in ("hbm2-2000-4gb", "hbm3-6400-4gb", "lpddr5-6400-8gb"))


def edited(old: str, new: str, text: str = HBM2) -> str:
    assert old in text
    return text.replace(old, new, 1)


def line_of(start: str, text: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith(start))


RAS = "- {level: bank, prev: [ACT], next: [PREpb], latency: nRAS"
FAULTS: dict[str, tuple[str, str, str]] = {
    # what is wrong: (the file, start of its line, what is said after "file:line: ")
    "pins": (edited('"2 Gb/s"', '"4 Gb/s"'), "bandwidth:", "organisation.bandwidth is 32.0 GB/s but pins x pin_rate is 64.0 GB/s"),
    "burst": (edited("nBL: {value: 2,", "nBL: {value: 4,"), "bandwidth:",
              "organisation.bandwidth is 32.0 GB/s but one request every 4 clocks is 16.0 GB/s"),
    "burst of a wide preset": (edited('"32 B"', '"64 B"'), "bandwidth:",
                               "organisation.bandwidth is 32.0 GB/s but one request every 2 clocks is 64.0 GB/s"),
    "no burst": (edited("  nBL:", "  nBLx:"), "timings:", "timings has no nBL (or nBL_min), the clocks that the data of one request take"),
    "no unit": (edited('"32 GB/s"', '"32"'), "bandwidth:", "organisation.bandwidth: '32' has no unit. Expected a bandwidth, "),
    "zero clock": (edited('"1000 ps"', '"0 ps"'), "period:", "clock.period: '0 ps' is zero. Expected a clock above zero, "),
    "clock in metres": (edited('"1000 ps"', '"1000 m"'), "period:", "clock.period: '1000 m' has the wrong unit 'm'. Expected a time, "),
    "clock ticks": (edited('"1000 ps", source: ramulator}', '"1000 ps", source: ramulator}\n  ticks: 2'), "ticks:",
                    "clock.ticks is 2 but protocol hbm has 1"),
    "half clock": (edited("ticks: 2", "ticks: 1", HBM3), "ACT:",
                   "commands.ACT.cycles is 1.5, no whole number of ticks: clock.ticks is 1"),
    "zero timing": (edited("nRP: {value: 14,", "nRP: {value: 0,"), "nRP:",
                    "timings.nRP is 0. Expected clocks above zero, or a note that says why there are none."),
    "zero without a word": (LPDDR5.replace(', note: "the access may follow its CAS on the next clock"', ""), "nCAS:",
                            "timings.nCAS is 0. "),
    "negative timing": (edited("nRP: {value: 14,", "nRP: {value: -14,"), "nRP:", "timings.nRP: -14 is negative. Expected a whole number "),
    "half a timing": (edited("nRP: {value: 14,", "nRP: {value: 14.5,"), "nRP:", "timings.nRP: 14.5 is not a count of clocks. Expected "),
    "missing timing": (edited("  nRAS: ", "  nSAR: "), "- {level: pseudochannel, prev: [ACT], next: [PREab]",
                       "constraints.10.latency: 'nRAS': unknown timing 'nRAS'"),
    "misspelt timing": (edited(RAS, RAS.replace("nRAS", "nRSA")), RAS[:-4],
                        "constraints.26.latency: 'nRSA': unknown timing 'nRSA' (did you mean 'nRAS'?)."),
    "negative latency": (edited(RAS, f"{RAS} - nRC"), RAS, "constraints.26.latency: 'nRAS - nRC' is -14 clocks. Expected 0 or more."),
    "negative ticks": (edited("prev: [PREpb], next: [ACT], latency: nRP", "prev: [PREpb], next: [ACT], latency: nRP - nRP"),
                       "- {level: bank, prev: [PREpb], next: [ACT]",
                       "constraints.27.latency: 'nRP - nRP' makes PREpb to ACT -1 ticks. Expected 0 or more."),
    "window": (edited("window: 4", "window: 9"), "- {level: pseudochannel, prev: [ACT], next: [ACT], latency: nFAW",
               "constraints.7.window: 9 is longer than the history of 8 commands that the engine keeps."),
    "no window": (edited("window: 4", "window: 0"), "- {level: pseudochannel, prev: [ACT], next: [ACT], latency: nFAW",
                  "constraints.7.window: 0 is not positive. "),
    "unknown command": (edited(RAS, RAS.replace("PREpb", "PREbp")), RAS.replace("PREpb", "PREbp"),
                        "constraints.26.next: no command 'PREbp' (did you mean 'PREpb'?). Expected some of ACT, PREpb, PREab, "),
    "unknown level": (edited(RAS, RAS.replace("bank", "bnak")), "- {level: bnak", "constraints.26.level: no level 'bnak' (did you mean "),
    "level of another standard": (edited(RAS, RAS.replace("bank", "sid")), "- {level: sid",
                                  "constraints.26.level: no level 'sid'. Expected one of channel, pseudochannel, bank_group, bank."),
    "unknown scope": (edited("REFpb: {bus: row, scope: bank}", "REFpb: {bus: row, scope: rank}"), "REFpb:",
                      "commands.REFpb.scope: no level 'rank' (did you mean 'bank'?). Expected one of channel, pseudochannel, "),
    "scope of a read": (edited("RD: {bus: column, scope: bank}", "RD: {bus: column, scope: bank_group}"), "RD:",
                        "commands.RD.scope is bank_group. Expected bank."),
    "scope of a precharge": (edited("PREab: {bus: row, scope: pseudochannel}", "PREab: {bus: row, scope: channel}"), "PREab:",
                             "commands.PREab.scope is channel. Expected pseudochannel, as of REFab."),
    "one bus": (edited("RD: {bus: column,", "RD: {bus: any,"), "RD:", "commands.RD.bus is any but protocol hbm has row and column"),
    "missing command": (edited("  PREab: {", "  PREba: {"), "commands:", "commands has no PREab, which protocol hbm needs"),
    "length": (edited("cycles: {value: 2,", "cycles: {value: 0.3,"), "ACT:",
               "commands.ACT.cycles: 0.3 is no length of a command. Expected clocks in halves, e.g. 1 or 1.5."),
    "unknown protocol": (edited("protocol: hbm", "protocol: hmb"), "protocol:",
                         "protocol: 'hmb' is not known here. Expected one of 'single', 'hbm', 'hbm-half' or 'lpddr5'."),
    "lpddr5 of HBM": (HBM2 + "lpddr5: {act2_within: nRC, wck_read: nCL, wck_write: nCL}\n", "lpddr5:",
                      "lpddr5 has no meaning in protocol hbm"),
    "no lpddr5": (edited("lpddr5: {", "# ", LPDDR5), "protocol:", "protocol lpddr5 needs the section lpddr5"),
    "no refresh": (edited("interval: nREFI,", "interval: nREFI - nREFI,"), "refresh:",
                   "refresh.interval: 'nREFI - nREFI' is 0 clocks. Expected 1 or more."),
    "refresh by nothing": (edited("command: REFab", "command: REF"), "commands:", "commands has no REF, which protocol hbm needs"),
    "no read latency": (edited("read_latency: nCL + nBL", "read_latency: [nCL]"), "read_latency:",
                        "read_latency: ['nCL'] is not an expression. Expected timings and whole numbers, e.g. nCL + nBL."),
    "unknown kind of level": (edited("    bank_group:", "    bank_grp:"), "bank_grp:",
                              "organisation.levels.bank_grp: 'bank_grp' is not known here. Expected one of 'pseudochannel', "),
    "no banks": (edited("    bank: {value: 4, source: ramulator}\n", ""), "levels:",
                 "organisation.levels has no bank. Expected how many banks one of the level above has."),
    "rank and stack": (edited("    sid:", "    rank: 1\n    sid:", HBM3), "levels:",
                       "organisation.levels has both rank and sid, which are one level. Expected one of them."),
    "zero rows": (edited("rows: {value: 16384,", "rows: {value: 0,"), "rows:", "organisation.rows: 0 is not positive. "),
    "misspelt key": (edited("  columns:", "  colums:"), "colums:",
                     "organisation.colums: unknown field 'colums' (did you mean 'columns'?)."),
    "misspelt rule": (edited("window: 4", "windo: 4"), "- {level: pseudochannel, prev: [ACT], next: [ACT], latency: nFAW",
                      "constraints.7.windo: unknown field 'windo' (did you mean 'window'?)."),
    "unlike any key": (edited("  rows:", "  qqq: 1\n  rows:"), "qqq:", "organisation.qqq: unknown field 'qqq'. Known fields: levels, "),
    "missing section": (edited("refresh: {", "# "), "# HBM2", "refresh is missing. Every memory part needs it."),
    "missing field": (edited("  rows:", "  #"), "organisation:", "organisation.rows is missing. Every organisation needs it."),
    "no source": (edited("nRP: {value: 14, source: ramulator}", "nRP: {value: 14, source: ramulater}"), "nRP:",
                  "timings.nRP: source 'ramulater' is not in sources."),
    "leaf key": (edited("nRP: {value: 14, source:", "nRP: {value: 14, sorce:"), "nRP:", "timings.nRP: unknown field 'sorce'. Expected "),
    "sure": (edited("nRP: {value: 14, source: ramulator", "nRP: {value: 14, source: ramulator, confidence: sure"), "nRP:",
             "timings.nRP: confidence 'sure'. Expected one of measured, "),
    "version": (edited("schema_version: 1", "schema_version: 2"), "schema_version:", "schema_version: 2 is not known here. "),
    "name": (edited("name: hbm2-2000-4gb", "name: HBM 2"), "name:", "name: 'HBM 2': string should match pattern '^[a-z0-9]"),
    "no commands": (edited(RAS, RAS.replace("[ACT]", "[]")), RAS.replace("[ACT]", "[]"),
                    "constraints.26.prev: []: list should have at least 1 item"),
    "unknown parent": ("extends: hbm2-2000-4g\nname: x\n", "extends:",
                       "extends: unknown memory part 'hbm2-2000-4g' (did you mean 'hbm2-2000-4gb'?); there are ddr4-3200-8gb, "),
    "parent is a list": ("extends: [a]\nname: x\n", "extends:", "extends: ['a'] is not text. Expected a bundled name or a path."),
    "itself": ("name: x\nextends: my.yaml\n", "extends:", "extends: 'my.yaml' extends itself (my -> my). Expected a chain that ends."),
    "nameless child": ("extends: hbm2-2000-4gb\n", "extends:", "name is missing. A file that extends another needs a name of its own."),
    "not YAML": ("name: [1, 2\nkind: }", "kind:", "is not YAML: did not find expected ',' or ']'."),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_file_line_key_and_wish(fault: str, tmp_path: Path) -> None:
    text, start, said = FAULTS[fault]
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:{line_of(start, text)}: {said}")
    assert "\n" not in str(caught.value)


def test_a_part_that_is_not_there_or_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown memory part 'hbm3-6400-4g' \(did you mean 'hbm3-6400-4gb'\?\); there are ddr4-"):
        load("hbm3-6400-4g")
    with pytest.raises(ValueError, match=r"is a folder\. Expected a memory YAML file\."):
        load(tmp_path)


def test_a_child_replaces_a_timing_and_its_rules_follow(tmp_path: Path) -> None:
    path = tmp_path / "slow.yaml"
    path.write_text("extends: hbm2-2000-4gb\nname: slow\ntimings: {nFAW: 30}\n")
    slow = load(path)
    assert (slow.name, slow.file, rules(slow)[1, "ACT", "ACT", 4, False]) == ("slow", str(path), 30)
    assert slow.provenance["timings.nFAW"].cite is None
    assert load(slow) is slow and part.load(str(path)).spec == slow.spec
