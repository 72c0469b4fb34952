"""PIM commands: tile periods, golden traces of NeuPIMs, legality of the default timing, refresh, and the memo against brute force."""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim.dram.part import load
from gemvane.sim.dram.pimpart import Issued, PimPart, State, new_state, pim_part, run
from gemvane.sim.dram.pimstream import Attention, Block, attend, load_vector, score_blocks, stream, tile, value_blocks
from gemvane.sim.dram.steady import Steady, join
from gemvane.sim.kernels.pimissue import issue_kernel
from gemvane.validate.oracles import attacc

GOLDEN_NAMES = {"ACTIVATE": "ACT", "PRECHARGE": "PREpb", "REFRESH": "REFab"}
T512 = Attention(tokens=128, heads=4, head_dim=128)
KEY = {"row": 7, "dots": 4, "steps": 8}
VALUE_8 = {"row": 8, "dots": 1, "steps": 8}
VALUE_32 = {"row": 9, "dots": 1, "steps": 32}


def issue(part: PimPart, *blocks: Block, start: int = 0) -> Issued:
    return run(part, stream(list(blocks)), new_state(part, start=start))


def ticks(part: PimPart, issued: Issued, command: str) -> list[int]:
    return issued.commands[issued.commands[:, 1] == part.id(command), 0].tolist()


@pytest.mark.parametrize(
    ("buffers", "compat", "shape", "period"),
    [
        ("dual", True, KEY, 197), ("dual", True, VALUE_8, 143), ("dual", True, VALUE_32, 143),
        ("single", True, KEY, 213), ("single", True, VALUE_8, 159),
        ("dual", False, KEY, 213), ("dual", False, VALUE_32, 207), ("dual", False, VALUE_8, 159),
        ("single", False, KEY, 213), ("single", False, VALUE_32, 207), ("single", False, VALUE_8, 159),
    ],
)  # fmt: skip
def test_a_tile_has_the_period_of_the_golden_traces_and_of_the_closed_form(buffers, compat, shape, period) -> None:  # type: ignore[no-untyped-def]
    part = pim_part(buffers=buffers, compat=compat, refresh=False)
    headers = ticks(part, issue(part, *[tile(part, **shape)] * 4), "P_HEADER")
    assert np.diff(headers).tolist() == [period] * 3
    if not compat:
        dots, k = shape["dots"], shape["steps"]
        assert period == 106 + dots * 2 * (k + 1) + 3 + 32


@pytest.mark.parametrize(("compat", "period"), [(True, 106 + 2 + 96 + 32), (False, 106 + 2 * 33 + 96 + 32)], ids=["compat", "legal"])
def test_a_vector_load_between_tiles_waits_for_the_vector_buffer_unless_compat(compat: bool, period: int) -> None:
    part = pim_part(compat=compat, refresh=False)
    issued = issue(part, load_vector(part), tile(part, **VALUE_32), load_vector(part), tile(part, **VALUE_32))
    assert np.diff(ticks(part, issued, "P_HEADER")).tolist() == [period]


def test_group_activations_come_in_pairs_one_four_activate_window_apart() -> None:
    part = pim_part(refresh=False)
    issued = issue(part, tile(part, **KEY), start=1000)
    (header,) = ticks(part, issued, "P_HEADER")
    assert [t - header for t in ticks(part, issued, "G_ACT")] == [1, 2, 31, 32, 61, 62, 91, 92]
    assert [t - header for t in ticks(part, issued, "COMPS_READRES")] == [106, 124, 142, 160]


def test_a_dot_product_shorter_than_the_pipeline_takes_as_long_as_its_fill() -> None:
    for buffers in ("dual", "single"):
        part = pim_part(buffers=buffers, refresh=False)  # type: ignore[arg-type]
        periods = [np.diff(ticks(part, issue(part, *[tile(part, row=1, dots=4, steps=k)] * 2), "P_HEADER"))[0] for k in (1, 4, 6, 7)]
        assert periods[:3] == [106 + 4 * 2 * 7 + 3 + 32] * 3
        assert periods[3] == periods[2] + 4 * 2


def golden(path: Path, first: int, last: int) -> list[tuple[int, str, int, int, int]]:
    table = pd.read_csv(path)
    table = table[table.clk.between(first, last) & ~table.cmd.isin(["READ", "WRITE"])]
    columns = zip(table.clk, table.cmd.replace(GOLDEN_NAMES), table["rank"], table.bankgroup, table.bank, strict=True)
    return [(int(t), name, *((-1, -1, -1) if name == "P_HEADER" else (int(r), int(g), int(b)))) for t, name, r, g, b in columns]


def ours(part: PimPart, issued: Issued) -> list[tuple[int, str, int, int, int]]:
    """Commands with the address parts that the golden traces have."""
    lines = []
    for tick, command, bank, *_ in issued.commands.tolist():
        rank, group, inner = bank // 16, bank // 4 % 4, bank % 4
        place = {0: (-1, -1, -1), 2: (rank, -1, -1), 3: (rank, group, 0), 4: (rank, group, inner)}[int(part.scope[command])]
        lines.append((tick, part.commands[command], *place))
    return lines


def attention_like_the_trace(part: PimPart, value_arrival: int) -> list[tuple[int, str, int, int, int]]:
    """The stage from its first command at clock 2282 on; the layers before it left the 16 banks of rank 1 open."""
    state = new_state(part, start=2282)
    state.rows[0, 16:] = 99999
    keys = run(part, stream(score_blocks(part, T512, first_row=513), release=2282), state)
    values = run(part, stream(value_blocks(part, T512, first_row=517), release=value_arrival), state)
    return ours(part, keys) + ours(part, values)


def test_every_command_of_the_dual_buffer_trace_comes_at_its_clock(shared_data: Path) -> None:
    part = pim_part(compat=True)
    expected = golden(shared_data / "pim" / "neupims_cmdtrace_b32_s128_t512_ch0.csv", 2282, 6937)
    assert len(expected) == 846
    assert attention_like_the_trace(part, value_arrival=3306) == expected


def test_the_single_buffer_trace_differs_only_where_the_npu_writes_into_it(shared_data: Path) -> None:
    part = pim_part(buffers="single", compat=True)
    expected = golden(shared_data / "pim" / "newton_singlebuf_cmdtrace_b32_s128_t512_ch0.csv", 2282, 12109)
    issued = attention_like_the_trace(part, value_arrival=8306)
    # clock 6328 opens a row for nine ordinary writes; the next refresh of that rank closes it and so comes 14 later
    npu = {(6328, "ACT", 1, 0, 3), (7800, "PREpb", 1, 0, 3)}
    assert set(expected) - set(issued) == npu | {(7814, "REFab", 1, -1, -1)}
    assert set(issued) - set(expected) == {(7800, "REFab", 1, -1, -1)}


def test_attacc_command_counts_are_exact_and_cycles_within_a_percent(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "pim" / "attacc_pim_cycles.csv").iloc[::20]
    result = attacc.compare(table)
    assert result["exact"] == result["compared"] == len(table)
    assert result["median_error"] < 0.01
    groups = {group["group"]: group["mape"] for group in result["by"]}
    assert set(groups) == {f"{level}, {limit}" for level in ("BA", "BG", "BUFFER") for limit in ("no limit", "power-limited")}
    assert max(groups.values()) < 0.025


def test_the_power_limit_costs_a_third_at_bank_level_and_nothing_on_the_buffer_die() -> None:
    def cost(level: attacc.Level) -> float:
        one = attacc.shape(tokens=2048, head_dim=128, element_bytes=2, level=level)
        return attacc.cycles(one, heads=160, limited=True) / attacc.cycles(one, heads=160, limited=False)

    assert 1.33 < cost("BA") < 1.40         # less than 6 / 4: rows are opened at the same pace
    assert 1.47 < cost("BG") < 1.51
    assert cost("BUFFER") == 1


@cache
def long_run(buffers: str, compat: bool) -> tuple[PimPart, Issued]:
    part = pim_part(buffers=buffers, compat=compat)  # type: ignore[arg-type]
    state = new_state(part)
    blocks = [block for _ in range(3) for block in (*score_blocks(part, T512), *value_blocks(part, Attention(1000, 4, 128)))]
    return part, run(part, stream(blocks), state)


EVERY = [("dual", False), ("single", False), ("dual", True), ("single", True)]


@pytest.mark.parametrize(("buffers", "compat"), EVERY)
def test_one_command_a_tick_and_one_refresh_an_interval(buffers: str, compat: bool) -> None:
    part, issued = long_run(buffers, compat)
    assert (np.diff(issued.commands[:, 0]) > 0).all()
    refreshes = issued.commands[issued.commands[:, 1] == part.id("REFab")]
    due = 1950 * (1 + np.arange(len(refreshes)))
    assert ((refreshes[:, 0] >= due) & (refreshes[:, 0] <= due + 45)).all()
    assert (refreshes[:, 2] // 16 == np.arange(len(refreshes)) % 2).all()
    assert issued.refreshes == len(refreshes) == issued.end // 1950


def faults(part: PimPart, issued: Issued) -> set[str]:
    """Written for the test alone: what a trace does that a real part cannot."""
    found = set()
    opened: dict[tuple[str, int], tuple[int, int]] = {}      # buffer and bank -> row and tick
    closed: dict[tuple[str, int], int] = {}
    dots_end, results_end, activated, refreshed = -99, -99, {0: -99, 1: -99}, {0: -999, 1: -999}
    pim = "pim" if part.buffers == "dual" else "row"
    for tick, command, bank, row, steps, _ in issued.commands.tolist():
        name, rank = part.commands[command], bank // 16
        if name in ("ACT", "G_ACT"):
            buffer, banks = ("row", [bank]) if name == "ACT" else (pim, list(range(bank, bank + 4)))
            found |= {"tFAW"} if tick < activated[rank] + 30 else set()      # a G_ACT is four activations
            found |= {"tRFC"} if tick < refreshed[rank] + 260 else set()
            activated[rank] = tick if name == "G_ACT" else activated[rank]
            for b in banks:
                found |= {"tRP"} if tick < closed.get((buffer, b), -99) + 14 else set()
                found |= {"open twice"} if (buffer, b) in opened else set()
                found |= {"one row in both buffers"} if opened.get(("row", b), (-1, 0))[0] == row and name == "G_ACT" else set()
                opened[buffer, b] = row, tick
        elif name in ("PREpb", "PIM_PRECHARGE"):
            buffer = "pim" if name == "PIM_PRECHARGE" else "row"
            _, since = opened.pop((buffer, bank))
            found |= {"tRAS"} if tick < since + 34 else set()
            found |= {"precharge in a dot product"} if buffer == pim and tick < dots_end + 5 else set()
            closed[buffer, bank] = tick
        elif name in ("COMPS_READRES", "COMP"):
            found |= {"dot product on a closed bank"} if any((pim, b) not in opened for b in range(32)) else set()
            found |= {"tRCD"} if tick < max(since for (buffer, _), (_, since) in opened.items() if buffer == pim) + 14 else set()
            found |= {"dot products overlap"} if tick < results_end else set()
            dots_end, results_end = (tick + 2 * steps, tick + 2 * (steps + 1)) if name == "COMPS_READRES" else (tick, tick + 2)
        elif name == "GWRITE":
            found |= {"vector overwritten"} if tick < results_end else set()
        elif name == "REFab":
            found |= {"refresh with an open row"} if any(b // 16 == rank for _, b in opened) else set()
            refreshed[rank] = tick
    return found


@pytest.mark.parametrize("buffers", ["dual", "single"])
def test_the_default_timing_is_physically_legal(buffers: str) -> None:
    assert faults(*long_run(buffers, False)) == set()


def test_compat_timing_cuts_dot_products_short_and_overwrites_their_vector() -> None:
    assert faults(*long_run("dual", True)) == {"precharge in a dot product", "vector overwritten"}


def test_a_row_open_in_the_ordinary_buffer_is_closed_before_the_pim_opens_it() -> None:
    part = pim_part(refresh=False)
    state = new_state(part)
    state.rows[0, 5], state.rows[0, 6] = 7, 70
    issued = run(part, stream([tile(part, **KEY)]), state)
    assert ours(part, issued)[0][1:] == ("PREpb", 0, 1, 1)
    assert issued.counts["PREpb"] == 1


def test_a_tile_that_just_fits_before_a_refresh_is_issued_and_one_cycle_later_it_is_held() -> None:
    part = pim_part()
    closable = 106 + 3 * 18 + 2 * 8 + 5        # from its header: the last step of its last dot product has read the row
    for start, held in ((1950 - closable, False), (1950 - closable + 1, True)):
        issued = issue(part, tile(part, **KEY), load_vector(part), start=start)
        assert (ticks(part, issued, "P_HEADER")[0] > 1950) is held, start
        assert ticks(part, issued, "PIM_PRECHARGE")[:1] == ([] if held else [1950])


def test_a_tile_longer_than_the_refresh_interval_is_not_held_for_ever() -> None:
    part = pim_part()
    issued = issue(part, *[tile(part, row=1, dots=60, steps=32)] * 2)
    assert issued.counts["COMPS_READRES"] == 120
    assert issued.refreshes == issued.times[1, 0] // 1950       # what came due in the first follows it


@pytest.mark.parametrize("kernel", [issue_kernel, issue_kernel.py_func], ids=["njit", "python"])
def test_compiled_and_plain_kernel_issue_alike(kernel, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("gemvane.sim.dram.pimpart.issue_kernel", kernel)
    part = pim_part(compat=True)
    issued = attend(part, [T512], start=2282, softmax_cycles=162)
    assert (issued.score.end, issued.value.end, issued.busy_cycles) == (3143, 6937, 4494)


def state_of(buffers: str, compat: bool) -> tuple[PimPart, list[Block], Steady]:
    part = pim_part(buffers=buffers, compat=compat)  # type: ignore[arg-type]
    blocks = [tile(part, **KEY), tile(part, **VALUE_32), load_vector(part), tile(part, row=3, dots=1, steps=5), load_vector(part, row=4)]
    return part, blocks, Steady(part, blocks)


MEMOS = {key: state_of(*key) for key in EVERY}


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(EVERY), st.lists(st.integers(0, 4), max_size=150), st.integers(0, 5000))
def test_the_memo_ends_where_brute_force_ends(key: tuple[str, bool], sequence: list[int], start: int) -> None:
    part, blocks, memo = MEMOS[key]
    order = np.array(sequence, np.int64)
    fast = memo.run(order, start=start)
    state: State = new_state(part, start=start)
    brute = run(part, join([stream([block]) for block in blocks], order), state, record=False)
    assert (fast.end, fast.counts, fast.refreshes) == (brute.end, brute.counts, brute.refreshes)


def test_a_regular_stream_has_few_states() -> None:
    part = pim_part()
    total = Steady(part, [tile(part, **KEY)]).run(np.zeros(20000, np.int64))
    assert total.states < 20
    assert total.counts["P_HEADER"] == 20000
    assert total.refreshes == total.end // 1950


def test_issued_counts_are_those_of_the_layout() -> None:
    part = pim_part()
    issued = attend(part, [Attention(tokens=1000, heads=8, head_dim=128)])
    tiles_k, tiles_v = 32 * 2, 8 * 2 * 4                     # 1000 tokens in 32 banks, two rows of 4 heads; two rows of 512 tokens
    assert (issued.score.counts["P_HEADER"], issued.value.counts["P_HEADER"]) == (tiles_k, tiles_v)
    assert issued.score.counts["COMPS_READRES"] == tiles_k * 4
    assert issued.value.counts["GWRITE"] == 8 * 2


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="buffers = 'triple': want dual or single"):
        pim_part(buffers="triple")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory part hbm2-2000-4gb has no section pim; want a part with PIM commands"):
        pim_part(load("hbm2-2000-4gb"))
    part = pim_part()
    with pytest.raises(ValueError, match="tile of 0 dot products"):
        tile(part, row=1, dots=0, steps=8)
    wrong = stream([load_vector(part)])
    wrong.lines[1, 1] = 32
    with pytest.raises(ValueError, match=r"command 1 of the stream: bank 32 is not in 0\.\.31"):
        run(part, wrong, new_state(part))
    with pytest.raises(ValueError, match=r"a block of the sequence is not in 0\.\.0"):
        Steady(part, [load_vector(part)]).run(np.array([1]))
