"""PIM of AiM, HBM-PIM and AttAcc: matrices as command streams, complete, legal, and never faster than their units."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim.dram import attacc
from gemvane.sim.dram.check import check
from gemvane.sim.dram.gemv import (
    Gemv,
    commands,
    heads_over,
    issue,
    plan,
    scores,
    shares,
    solve,
    spread,
    tiles,
    tokens_over,
    values,
    weights_over,
)
from gemvane.sim.dram.part import load
from gemvane.sim.dram.pimpart import Issued, PimPart, new_state, pim_part, run
from gemvane.sim.dram.pimstream import line, stream, timed_block, trace

AIM = ("gddr6-aim-2000", "gddr6-aim-cent", "gddr6-aim-16000")
ALL = (*AIM, "hbm-pim-2000")
MAC = {"aim": "MACAB", "hbm-pim": "MAC"}
parts = cache(pim_part)


def width(part: PimPart) -> int:
    """Multiplications of one command."""
    return part.banks // part.pim.banks_per_unit * part.pim.lanes


def ticks_of(part: PimPart, issued: Issued, *commands: str) -> np.ndarray:
    return issued.commands[np.isin(issued.commands[:, 1], [part.id(name) for name in commands]), 0]


# The streams are complete

@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("op", [Gemv(4096, 4096), Gemv(128, 1024), Gemv(1024, 128), Gemv(1024, 64, 8), Gemv(2048, 1024, 4)])
def test_an_aligned_matrix_takes_exactly_its_multiplications(name: str, op: Gemv) -> None:
    part = parts(name)
    done = solve(part, plan(part, op))
    assert done.counts[MAC[part.pim.style]] * width(part) == op.macs


@pytest.mark.parametrize("name", ["gddr6-aim-2000", "hbm-pim-2000"])
@settings(deadline=None, max_examples=30)
@given(op=st.builds(Gemv, st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 12)), held=st.sampled_from([None, 1, 3, 8]))
def test_any_matrix_takes_at_least_its_multiplications_and_less_than_a_command_a_row_or_column_more(name: str, op: Gemv,
                                                                                                   held: int | None) -> None:
    part = parts(name)
    work = plan(part, op, held=held)
    done = solve(part, work)
    issued = done.counts[MAC[part.pim.style]] * width(part)
    lanes, outputs = (part.pim.lanes, part.banks) if part.pim.style == "aim" else (1, width(part))
    assert op.macs <= issued <= -(-op.rows // outputs) * outputs * (op.cols + (lanes - 1) * (1 + op.cols // 16)) * op.vectors
    brute = run(part, commands(work), new_state(part), record=False)
    assert (done.end, done.counts, done.refreshes) == (brute.end, brute.counts, brute.refreshes)


def test_every_aim_result_is_read_once_for_each_piece_and_every_buffer_column_written_before_it_is_used() -> None:
    part = parts("gddr6-aim-2000")
    counts = solve(part, plan(part, Gemv(100, 2500))).counts       # 7 tiles of 16 rows, pieces of 1024, 1024 and 452 elements
    assert (counts["ACT16"], counts["RD_MAC"], counts["WR_BIAS"], counts["PREab"]) == (21, 21, 21, 21)
    assert counts["WR_GB"] == 64 + 64 + 29
    assert counts["MACAB"] == 7 * (64 + 64 + 29)


def test_short_rows_share_a_row_of_the_bank() -> None:
    part = parts("gddr6-aim-2000")
    counts = solve(part, plan(part, scores(tokens=1000, head_dim=128))).counts      # eight keys of 128 in a row of 1024
    assert (counts["ACT16"], counts["RD_MAC"], counts["WR_GB"]) == (8, 63, 8)
    assert counts["MACAB"] == 63 * 8


def test_hbm_pim_sends_a_scalar_once_for_eight_accumulators_and_reads_every_result_once() -> None:
    part = parts("hbm-pim-2000")
    counts = solve(part, plan(part, Gemv(1024, 512))).counts
    assert counts["WR_SRF"] == 512 / 8
    assert counts["ACTab"] == 512 / 8 + 1                           # a row of every bank has four inputs, even and odd
    assert counts["GRF_WB"] == 8
    assert counts["RD"] == 1024 * 2 / 32


# Several vectors

@pytest.mark.parametrize(("name", "opens", "one_opens", "four_open"),
                         [("gddr6-aim-2000", "ACT16", 8, 8), ("hbm-pim-2000", "ACTab", 17, 20)])
def test_vectors_held_together_share_an_open_row(name: str, opens: str, one_opens: int, four_open: int) -> None:
    """HBM-PIM: four vectors split the accumulators, so there are four tiles of four rows, and a row of results for each tile.

    Its scalars, written for every vector, turn the bus around, which costs more than the rows that it saves.
    """
    part, free = parts(name), pim_part(name, refresh=False)         # a refresh makes open rows be opened again
    assert [solve(free, plan(free, Gemv(1024, 128, n), held=n)).counts[opens] for n in (1, 4)] == [one_opens, four_open]
    one, four = (solve(part, plan(part, Gemv(1024, 128, 4), held=held)) for held in (1, 4))
    assert (four.end < one.end) is (part.pim.style == "aim")
    assert four.states > 0                                          # no block is too long for the memo


def test_a_buffer_that_holds_one_vector_loads_the_others_while_the_row_is_open() -> None:
    part = pim_part("gddr6-aim-2000", refresh=False)
    op = Gemv(160, 1024, 4)                                         # ten rows of every bank
    together, swapped = (solve(part, plan(part, op, held=held)) for held in (4, 1))
    assert (together.counts["ACT16"], swapped.counts["ACT16"]) == (4 * 10, 10)
    assert (together.counts["WR_GB"], swapped.counts["WR_GB"]) == (4 * 64, 64 + 10 * 3 * 64)
    assert together.counts["MACAB"] == swapped.counts["MACAB"] == 4 * 640
    assert together.end < swapped.end                               # 64 writes cost more than opening the row again


def test_a_piece_of_the_vector_never_reaches_over_the_end_of_a_row() -> None:
    part = pim_part("gddr6-aim-2000", refresh=False)                # three vectors: 341 elements each, in whole columns 336
    counts = solve(part, plan(part, Gemv(16, 2048, 3))).counts
    assert counts["ACT16"] == 2 * 4                                 # 336, 336, 336 and 16 of each row of 1024
    assert counts["MACAB"] == counts["WR_GB"] == 3 * 128
    packed = solve(part, plan(part, Gemv(320, 500, 4))).counts      # two rows of 500 in a row of 1024, a buffer of 256 for each vector
    assert (packed["ACT16"], packed["RD_MAC"], packed["MACAB"]) == (2 * 10, 2 * 20 * 4, 20 * 32 * 4)


# The streams are legal and never too fast

WORKS = [Gemv(200, 2500), Gemv(1024, 128, 8), Gemv(40, 3000, 3), Gemv(6000, 96)]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("op", WORKS)
def test_the_checker_accepts_every_stream(name: str, op: Gemv) -> None:
    part = parts(name)
    for held in (None, 1):
        issued = issue(part, plan(part, op, held=held))
        assert issued.refreshes > 0
        assert check(trace(part, issued), name) == []


@pytest.mark.parametrize("name", ALL)
def test_the_checker_finds_a_command_that_comes_a_tick_early_and_a_row_that_is_missing(name: str) -> None:
    part = parts(name)
    good = trace(part, issue(part, plan(part, Gemv(64, 600))))
    multiply, opens = MAC[part.pim.style], "ACT16" if part.pim.style == "aim" else "ACTab"
    second = good.index[good["command"] == multiply][1]
    early = good.copy()
    early.loc[second, "tick"] -= 1
    assert any(fault.row == second and multiply in fault.rule and fault.early_by == 1 for fault in check(early, name))
    unopened = good.drop(good.index[good["command"] == opens][0]).reset_index(drop=True)
    assert f"bank: {multiply} wants an open row" in {fault.rule for fault in check(unopened, name)}
    twice = pd.concat([good[good["command"] == opens].head(1), good.assign(tick=good["tick"] + 500)], ignore_index=True)
    assert f"bank: {opens} wants a closed bank" in {fault.rule for fault in check(twice, name)}


PEAK = {"gddr6-aim-2000": (0.80, 0.82), "gddr6-aim-cent": (0.83, 0.85), "gddr6-aim-16000": (0.49, 0.51), "hbm-pim-2000": (0.78, 0.80)}
"""Share of a MAC every nCCDL, 4096 x 4096 on one channel: rows opened and closed, and refresh, take the rest."""


@pytest.mark.parametrize("name", ALL)
def test_no_two_steps_come_closer_than_the_column_path_allows_and_long_rows_come_near(name: str) -> None:
    part = parts(name)
    work = plan(part, Gemv(4096, 4096))
    done = solve(part, work)
    multiply = MAC[part.pim.style]
    share = done.counts[multiply] * part.timings["nCCDL"] / done.end
    low, high = PEAK[name]
    assert low < share < high
    assert np.diff(ticks_of(part, issue(part, plan(part, Gemv(64, 4096))), multiply)).min() == part.timings["nCCDL"]
    tile = max(tiles(part, work), key=lambda one: one.times)
    free = tile.counts[multiply] * part.timings["nCCDL"] / tile.ticks
    refreshed = part.timings.get("nRFCab", part.timings.get("nRFC", 0)) / part.timings["nREFI"]
    assert share < free * (1 - refreshed)


@pytest.mark.parametrize(("name", "period"), [
    ("gddr6-aim-2000", 26 + 63 * 6 + 4 + 26),         # nRCDRDMAC, 63 spacings, nRTP, nRP
    ("gddr6-aim-16000", 56 + 63 * 2 + 12 + 32),
    ("hbm-pim-2000", 14 + 63 * 4 + 5 + 14),           # the write of the scalars hides behind the opening of the row
])
def test_the_period_of_a_full_row_is_opening_steps_and_closing(name: str, period: int) -> None:
    part = parts(name)
    tile = max(tiles(part, plan(part, Gemv(4096, 4096))), key=lambda one: one.times)
    assert (tile.ticks, tile.counts[MAC[part.pim.style]]) == (period, 64)


def test_a_chip_of_two_channels_has_the_published_tera_of_operations_only_at_sixteen_gigabits() -> None:
    flops = {}
    for name in AIM:
        part = parts(name)
        flops[name] = 2 * 2 * width(part) / (part.timings["nCCDL"] * float(part.tick_ps) * 1e-12)
    assert flops["gddr6-aim-16000"] == pytest.approx(1.024e12)
    assert flops["gddr6-aim-cent"] < flops["gddr6-aim-2000"] < 0.31e12


@pytest.mark.parametrize("columns", [33, 48, 64])
def test_a_row_of_steps_lasts_what_cent_counts_for_it(columns: int) -> None:
    """CENT 8c79786, aim_sim.py: 49 ns and one for each column for MAC_ABK, beside the cycle simulator whose timings the part has."""
    part = parts("gddr6-aim-16000")
    tile = max(tiles(part, plan(part, Gemv(1600, 16 * columns))), key=lambda one: one.times)
    assert tile.counts["MACAB"] == columns
    assert tile.ticks * float(part.tick_ps) / 1000 == 49 + columns


def test_hbm_pim_reads_four_times_what_its_pins_carry() -> None:
    part = parts("hbm-pim-2000")
    inside = part.banks // 2 * part.request_bytes / (part.timings["nCCDL"] * float(part.tick_ps) * 1e-12)
    assert inside == pytest.approx(4 * load("hbm-pim-2000").spec.organisation.bandwidth)


# Commands that no matrix uses

def test_element_wise_products_activation_functions_and_copies_are_issued_and_legal() -> None:
    part = parts("gddr6-aim-2000")
    copies = [line(part, name, 1, row=3) for name in ("ACT", "COPY_BKGB", "COPY_BKGB", "COPY_GBBK", "PREpb")]
    groups = [line(part, "ACT4", 4 * group, row=3) for group in range(4)] + [line(part, "EWMUL")] * 4 + [line(part, "PREab")]
    functions = [line(part, "ACT16", row=3), line(part, "AF"), line(part, "RD_AF"), line(part, "PREab")]
    issued = run(part, stream([timed_block(part, lines) for lines in (copies, groups, functions)] * 20), new_state(part))
    assert issued.refreshes > 0
    assert check(trace(part, issued), "gddr6-aim-2000") == []
    assert np.diff(ticks_of(part, issued, "ACT4"))[:3].tolist() == [7, 7, 7]        # nRRDS, and no four-activate window
    assert np.diff(ticks_of(part, issued, "EWMUL"))[:3].tolist() == [6, 6, 6]


# Over channels

def test_heads_go_to_channels_in_turn_and_the_last_channel_ends_the_operator() -> None:
    part = parts("gddr6-aim-2000")
    done = spread(part, heads_over(scores(500, 128), heads=10, channels=4))
    assert [total.counts["RD_MAC"] for total in done.channels] == [3 * 32, 3 * 32, 2 * 32, 2 * 32]
    assert done.ticks == done.channels[0].end > done.channels[3].end
    assert done.counts["RD_MAC"] == 10 * 32


@pytest.mark.parametrize("name", ["gddr6-aim-2000", "hbm-pim-2000"])
def test_a_long_request_is_divided_over_channels_by_its_tokens(name: str) -> None:
    part, heads, dim = parts(name), 8, 128
    multiply, width_of = MAC[part.pim.style], width(part)
    whole = solve(part, plan(part, *[scores(8192, dim)] * heads))
    keys, vals = tokens_over(shares(8192, 8), dim, heads)
    for ops, alone in ((keys, whole), (vals, solve(part, plan(part, *[values(8192, dim)] * heads)))):
        done = spread(part, ops)
        assert done.counts[multiply] * width_of == heads * 8192 * dim == alone.counts[multiply] * width_of
        assert 0.99 * alone.end / 8 < done.ticks < alone.end / 5    # each channel loads vectors and reads results of its own
    ragged, _ = tokens_over([3000, 100, 0, 5092], dim, heads)
    done = spread(part, ragged)
    assert done.channels[2].end == 0 and done.ticks == done.channels[3].end
    assert done.counts[multiply] * width_of >= heads * 8192 * dim


def test_weights_are_divided_by_their_outputs() -> None:
    part = parts("gddr6-aim-16000")
    ops = weights_over(Gemv(4096, 4096), 32)
    assert [op.rows for (op,) in ops] == [128] * 32
    assert [len(ops) for ops in weights_over(Gemv(3, 64), 4)] == [1, 1, 1, 0]
    one, all_of = solve(part, plan(part, Gemv(128, 4096))), spread(part, ops)
    assert all_of.ticks == one.end
    assert all_of.counts["MACAB"] == 32 * one.counts["MACAB"] == 4096 * 4096 // 256


@pytest.mark.parametrize("name", ALL)
def test_operators_of_one_channel_share_their_blocks_and_not_their_rows(name: str) -> None:
    part, op = pim_part(name, refresh=False), Gemv(64, 2048)
    once, twice = plan(part, op), plan(part, op, op)
    assert len(twice.blocks) == len(once.blocks)
    one, two = solve(part, once).counts, solve(part, twice).counts
    entering = {"TMOD", "WR_CRF"} & set(part.commands)
    opens = "ACT16" if part.pim.style == "aim" else "ACTab"
    assert {command: two[command] for command in (*entering, MAC[part.pim.style], opens)} == {
        command: one[command] * (1 if command in entering else 2) for command in (*entering, MAC[part.pim.style], opens)}
    opened = [row for _, command, _, row, *_ in issue(part, twice).commands.tolist() if command == part.id(opens)]
    assert len(set(opened)) == len(opened)


# AttAcc

@pytest.mark.parametrize("name", ["hbm3-attacc", "hbm3-attacc-npc"])
@pytest.mark.parametrize(("tokens", "head_dim", "element_bytes"), [(2048, 128, 2), (1000, 128, 2), (3000, 128, 1), (2048, 160, 1)])
def test_the_sections_of_attacc_last_as_long_as_their_commands(name: str, tokens: int, head_dim: int, element_bytes: int) -> None:
    part, one = pim_part(name, refresh=False), attacc.shape(tokens, head_dim, element_bytes, "BA")
    of_sections = attacc.steady_clocks(one, attacc.clocks("BA", limited=name == "hbm3-attacc"))
    for sections, clocks, rel in zip((attacc.pair(one), attacc.alone(one)), of_sections, (0.004, 0.015), strict=True):
        ends = [run(part, stream(attacc.bank_blocks(part, [sections] * n)), new_state(part), record=False).end for n in (1, 2)]
        assert ends[1] - ends[0] == pytest.approx(clocks, rel=rel)


def test_attacc_commands_are_legal_and_complete() -> None:
    part = pim_part("hbm3-attacc")
    one = attacc.shape(1000, 128, 2, "BA")
    issued = run(part, stream(attacc.bank_blocks(part, [attacc.pair(one)] * 4 + [attacc.alone(one)])), new_state(part))
    assert issued.refreshes > 0
    assert check(trace(part, issued), "hbm3-attacc") == []
    mac, softmax, *_ = attacc.counts(one, heads=16 * 9)
    assert issued.counts["SFM"] * 16 == softmax
    assert issued.counts["MACAB"] * 16 == mac - 16                  # the generator's one that opens the first row of each channel
    assert np.diff(ticks_of(part, issued, "MACAB")).min() == 6


def test_the_engine_is_as_near_to_the_published_cycles_as_the_sections(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "pim" / "attacc_pim_cycles.csv")
    table = table[table["pim_type"] == "BA"].iloc[::500]
    errors = []
    for row in table.to_dict("records"):
        part = parts("hbm3-attacc" if row["power_constraint"] else "hbm3-attacc-npc")
        one, rounds = attacc.shape(row["L"], row["dhead"], row["dbyte"], "BA"), -(-row["nhead"] // 16)
        blocks = attacc.bank_blocks(part, [attacc.pair(one)] * (rounds // 2) + [attacc.alone(one)] * (rounds % 2))
        errors.append(abs(run(part, stream(blocks), new_state(part), record=False).end / row["cycle"] - 1))
    assert len(errors) > 30
    assert np.mean(errors) < 0.015 and max(errors) < 0.05


# What cannot be

@pytest.mark.parametrize(
    ("name", "op", "held", "said"),
    [
        ("gddr6-aim-2000", Gemv(0, 5), None, r"Gemv\(rows=0, cols=5, vectors=1\): want at least one row, column and vector"),
        ("gddr6-aim-2000", Gemv(5, 5), 65, "held = 65: gddr6-aim-2000 holds 1 to 64 vectors at a time"),
        ("hbm-pim-2000", Gemv(5, 5), 0, "held = 0: hbm-pim-2000 holds 1 to 8 vectors at a time"),
        ("hbm2-neupims", Gemv(5, 5), None, "memory part hbm2-neupims has PIM commands of style newton; want aim or hbm-pim"),
        ("gddr6-aim-2000", Gemv(2**20, 2**10), None, "takes 65536 rows of every bank from row 0 on; gddr6-aim-2000 has 16384"),
    ],
)
def test_a_bad_operator_is_named(name: str, op: Gemv, held: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(parts(name), op, held=held)


def test_other_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="0 over 4 channels: want at least one of each"):
        shares(0, 4)
    with pytest.raises(ValueError, match=r"tokens \[0, 0\]: want zero or more in every channel, and some"):
        tokens_over([0, 0], 128, 8)
    with pytest.raises(ValueError, match="memory part gddr6-aim-2000 has PIM commands of style aim; want attacc"):
        attacc.bank_blocks(parts("gddr6-aim-2000"), [])
    with pytest.raises(ValueError, match="elements of 3 bytes do not divide a column of 32 bytes"):
        attacc.shape(100, 128, 3, "BA")
    with pytest.raises(ValueError, match="buffers = 'dual': want single, which gddr6-aim-2000 has"):
        pim_part("gddr6-aim-2000", buffers="dual")
    with pytest.raises(ValueError, match="compat = True: gddr6-aim-2000 has one timing"):
        pim_part("gddr6-aim-2000", compat=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pim: {style: newton}", "pim.style is newton, which needs the commands P_HEADER, GWRITE, G_ACT, COMP, READRES, COMPS_READRES, "
                                 "PIM_PRECHARGE"),
        ("pim: {style: tree}", "pim.style: 'tree' is not known here. Expected one of 'newton', 'aim', 'hbm-pim' or 'attacc'."),
        ("pim: {lane: 16}", "pim.lane: unknown field 'lane' (did you mean 'lanes'?)."),
        ("pim: {constraints: [{level: bank, prev: [ACT16], next: [MACAT], latency: 3}]}",
         "pim.constraints.0.next: no command 'MACAT' (did you mean 'MACAB'?)."),
        ("commands: {AF: {constraints: [{level: channel, prev: [AF], next: [AF], latency: nAFF}]}}",
         "commands.AF.constraints.0.latency: 'nAFF': unknown timing 'nAFF'."),
        ("commands: {ACT4: {opens: buffer}}", "commands.ACT4.opens: 'buffer' is not known here. Expected one of 'ordinary' or 'pim'."),
    ],
)
def test_a_fault_in_the_pim_section_has_its_sentence(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: gddr6-aim-2000\nname: mine\n{text}\n")
    with pytest.raises(ValueError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}:") and said in str(caught.value)
