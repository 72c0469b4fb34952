"""The legality checker: it accepts the reference traces and all that the controller emits, and names what a wrong trace breaks."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim.dram import part, replay
from gemvane.sim.dram.check import Violation, check
from gemvane.sim.dram.pimpart import new_state, pim_part, run
from gemvane.sim.dram.pimstream import load_vector, stream, tile

GOLDEN_PARTS = {"R_HBM2": "hbm2-2000-4gb", "R_HBM3": "hbm3-6400-4gb", "R_HBM4": "hbm4-8000-32gb", "R_DDR4": "ddr4-3200-8gb",
                "R_DDR5": "ddr5-4800-16gb", "R_GDDR6": "gddr6-14000-8gb", "R_LPDDR5": "lpddr5-6400-8gb"}
GOLDEN_COLUMNS = {"clock": "tick", "PseudoChannel": "pc", "Sid": "ra", "Rank": "ra", "BankGroup": "bg", "Bank": "ba", "Row": "ro",
                  "Column": "co"}
STREAMS = ("bankconflict_rd", "hit80_rd", "onebank_seq_rd", "rand_mix", "seq_bgilv_rd", "seq_rowmajor_rd")
HBM2, HBM3, DDR4, DDR5, LPDDR5 = "hbm2-2000-4gb", "hbm3-6400-4gb", "ddr4-3200-8gb", "ddr5-4800-16gb", "lpddr5-6400-8gb"
REFRESHED_BY = {"all-bank": "REFab", "per-bank": "REFpb", "same-bank": "REFsb", "none": ""}
TWO_RANKS = {
    "two-ranks": "extends: ddr4-3200-8gb\nschema_version: 1\nname: two-ranks\norganisation: {levels: {rank: 2}}\n",
    "two-sids": "extends: hbm3-6400-4gb\nschema_version: 1\nname: two-sids\norganisation: {levels: {sid: 2}}\n",
}


def trace(*lines: str) -> pd.DataFrame:
    """Commands from lines of tick, command, pc, ra, bg, ba and ro; - is not addressed."""
    words = [line.replace(" -", " -1").split() for line in lines]
    frame = pd.DataFrame(words, columns=["tick", "command", "pc", "ra", "bg", "ba", "ro"])
    return frame.astype({name: int for name in frame.columns if name != "command"})


def requests(memory: str | Path, count: int, seed: int, rows: int = 10**9) -> pd.DataFrame:
    """Random requests, a third of them writes, over the first `rows` rows."""
    loaded = part.load(memory)
    counts = part.resolve(loaded).counts.tolist()
    limits = {"rw": 3, **dict(zip(("pc", "ra", "bg", "ba"), counts, strict=True)), "ro": min(rows, loaded.rows), "co": loaded.columns}
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({name: rng.integers(0, limit, count) for name, limit in limits.items()})
    return frame.assign(rw=frame["rw"] // 2)


def emitted(memory: str | Path, asked: pd.DataFrame, scheduler: str = "frfcfs", *, refresh: bool | str = True, **rows: Any) -> pd.DataFrame:
    """All commands that the controller issues for some requests."""
    done = replay(asked, memory, scheduler=scheduler, refresh=refresh, log_commands=20 * len(asked) + 1000, **rows)
    frame = done.commands_frame()
    assert len(frame) == sum(done.commands.values())
    assert {name for name in done.commands if name.startswith("REF")} <= {REFRESHED_BY[done.policy.refresh]}
    return frame


@pytest.fixture(params=TWO_RANKS)
def wide(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A part whose rules between ranks (stack IDs) have somebody to hold for."""
    file = tmp_path / f"{request.param}.yaml"
    file.write_text(TWO_RANKS[request.param])
    return file


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("refresh", ["on", "off"])
@pytest.mark.parametrize("config", GOLDEN_PARTS)
def test_the_reference_traces_are_legal(config: str, refresh: str, stream: str, shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "dram" / "cmdtraces" / f"{config}.{refresh}.{stream}.first3000.csv.gz")
    assert len(frame) == 3000
    assert check(frame.rename(columns=GOLDEN_COLUMNS), GOLDEN_PARTS[config]) == []


@pytest.mark.parametrize("scheduler", ["frfcfs", "frfcfs-rowhit"])
@pytest.mark.parametrize("memory", part.names())
def test_what_the_controller_emits_is_legal(memory: str, scheduler: str) -> None:
    frame = emitted(memory, requests(memory, 1800, seed=1), scheduler)
    assert "REFab" in set(frame["command"])
    assert check(frame, memory) == []
    assert check(emitted(memory, requests(memory, 400, seed=2, rows=2), scheduler, refresh=False), memory) == []


def test_what_the_controller_emits_for_two_ranks_is_legal(wide: Path) -> None:
    assert check(emitted(wide, requests(wide, 1800, seed=3)), wide) == []
    assert check(emitted(wide, requests(wide, 1000, seed=4, rows=1), "frfcfs-rowhit"), wide) == []


def possible(memory: str, refresh: str, row_policy: str) -> bool:
    commands = part.load(memory).commands
    return (refresh == "none" or REFRESHED_BY[refresh] in commands) and (row_policy == "open" or "RDA" in commands)


POLICIES = [(memory, refresh, row_policy) for memory in part.names() for refresh in REFRESHED_BY for row_policy in ("open", "closed")
            if possible(memory, refresh, row_policy)]


@pytest.mark.parametrize(("memory", "refresh", "row_policy"), [policy for policy in POLICIES if policy[1:] != ("all-bank", "open")])
def test_what_other_policies_emit_is_legal(memory: str, refresh: str, row_policy: str) -> None:
    frame = emitted(memory, requests(memory, 1000, seed=1), "frfcfs-rowhit", refresh=refresh, row_policy=row_policy)
    assert refresh in ("none", "all-bank") or REFRESHED_BY[refresh] in set(frame["command"])
    assert row_policy == "open" or {"RDA", "WRA"} <= set(frame["command"])
    assert check(frame, memory) == []


@settings(deadline=None, max_examples=100)
@given(told=st.sampled_from(POLICIES), seed=st.integers(0, 2**32), count=st.integers(1, 120), rows=st.sampled_from([1, 2, 3, 10**9]),
       scheduler=st.sampled_from(["frfcfs", "frfcfs-rowhit"]), cap=st.sampled_from([1, 2, 4]))
def test_any_requests_become_legal_commands(told: tuple[str, str, str], seed: int, count: int, rows: int, scheduler: str, cap: int) -> None:
    memory, refresh, row_policy = told
    asked = requests(memory, count, seed, rows)
    assert check(emitted(memory, asked, scheduler, refresh=refresh, row_policy=row_policy, cap=cap), memory) == []


@pytest.mark.parametrize("refresh", ["same-bank", "per-bank"])
def test_what_is_emitted_for_two_ranks_with_refreshes_of_their_own_is_legal(refresh: str, tmp_path: Path) -> None:
    file, (base, level) = tmp_path / "wide.yaml", {"same-bank": ("ddr5-4800-16gb", "rank"), "per-bank": (HBM3, "sid")}[refresh]
    file.write_text(f"extends: {base}\nschema_version: 1\nname: wide\norganisation: {{levels: {{{level}: 2}}}}\n")
    for row_policy in ("open", "closed"):
        frame = emitted(file, requests(file, 1500, seed=7), refresh=refresh, row_policy=row_policy)
        assert set(frame.loc[frame["command"] == REFRESHED_BY[refresh], "ra"]) == {0, 1}
        assert check(frame, file) == []


def pairs(frame: pd.DataFrame, memory: str) -> set[int]:
    """Rows that break a timing rule, by looking at all pairs of commands and, for windows, counting those between them."""
    loaded = part.load(memory)
    resolved = part.resolve(loaded)
    fields = frame[["pc", "ra", "bg", "ba"]].to_numpy()
    ids, ticks = [loaded.commands.index(name) for name in frame["command"]], frame["tick"].tolist()

    def meet(one: int, other: int, level: int) -> bool:
        depth = min(level, int(resolved.scope[ids[one]]), int(resolved.scope[ids[other]]))
        return bool((fields[one, :depth] == fields[other, :depth]).all())

    broken = set()
    for rule in part.rules(loaded):
        assert not rule.sibling or resolved.counts[rule.level - 1] == 1, "this look knows no siblings"
        before = [i for i, command in enumerate(ids) if command == rule.prev]
        for row in (i for i, command in enumerate(ids) if command == rule.next and not rule.sibling):
            past = [i for i in before if i < row and meet(i, row, rule.level)]
            if len(past) >= rule.window and ticks[row] - ticks[past[-rule.window]] < rule.ticks:
                broken.add(row)
    return broken


@settings(deadline=None, max_examples=40)
@given(memory=st.sampled_from(sorted(GOLDEN_PARTS.values())), seed=st.integers(0, 1000), rows=st.sampled_from([1, 2, 10**9]),
       where=st.floats(0, 1, exclude_max=True), by=st.sampled_from([1, 2, 5, 40]))
def test_a_command_that_comes_early_is_found_as_by_looking_at_all_pairs(memory: str, seed: int, rows: int, where: float, by: int) -> None:
    frame = emitted(memory, requests(memory, 60, seed, rows), refresh=False)
    row = int(where * len(frame))
    earliest = int(frame.loc[row - 1, "tick"]) if row else 0
    frame.loc[row, "tick"] = max(earliest, int(frame.loc[row, "tick"]) - by)
    timed = {fault.row for fault in check(frame, memory) if " -> " in fault.rule and "at most" not in fault.rule}
    assert timed == pairs(frame, memory)


LEGAL = ("1 ACT 0 0 0 0 5", "16 RD 0 0 0 0 5", "36 PREpb 0 0 0 0 5", "49 ACT 0 0 0 0 6")
FAULTS = [
    # one bank of HBM2: the tight distances, each a tick too short
    (HBM2, (*LEGAL[:1], "15 RD 0 0 0 0 5"), [(1, "bank: ACT -> RD wants 15 ticks", 0, 1)]),
    (HBM2, (*LEGAL[:2], "35 PREpb 0 0 0 0 5"), [(2, "bank: ACT -> PREpb wants 35 ticks", 0, 1)]),
    (HBM2, (*LEGAL[:2], "20 PREpb 0 0 0 0 5"),
     [(2, "bank: ACT -> PREpb wants 35 ticks", 0, 16), (2, "bank: RD -> PREpb wants 5 ticks", 1, 1)]),
    (HBM2, (*LEGAL[:3], "48 ACT 0 0 0 0 6"),
     [(3, "bank: ACT -> ACT wants 48 ticks", 0, 1), (3, "bank: PREpb -> ACT wants 13 ticks", 2, 1)]),
    # its rows
    (HBM2, (*LEGAL[:2], "20 RD 0 0 0 0 7"), [(2, "bank: RD of row 7 wants that row open, not row 5", 0, 0)]),
    (HBM2, ("9 WR 0 0 0 1 5",), [(0, "bank: WR wants an open row", -1, 0)]),
    (HBM2, (*LEGAL[:3], "40 RD 0 0 0 0 5"), [(3, "bank: RD wants an open row", 2, 0)]),
    (HBM2, (*LEGAL[:2], "100 ACT 0 0 0 0 6"), [(2, "bank: ACT wants a closed bank", 0, 0)]),
    (HBM2, (*LEGAL[:2], "100 REFab 0 - - - -"), [(2, "pseudochannel: REFab wants closed banks", 0, 0)]),
    (HBM2, ("1 ACT 0 0 0 0 5", "16 RDA 0 0 0 0 5", "99 RD 0 0 0 0 5"), [(2, "bank: RD wants an open row", 1, 0)]),
    # its buses: a row and a column command share a tick, two of one kind do not; two pseudo-channels share them
    (HBM2, (*LEGAL[:2], "16 ACT 1 0 0 0 5", "16 PREpb 0 0 1 0 5"),
     [(3, "channel: ACT -> PREpb wants 2 ticks", 2, 2), (3, "channel: the row bus carries one command a tick", 2, 1)]),
    (HBM2, ("1 ACT 0 0 0 0 5", "2 ACT 1 0 0 0 5"), [(1, "channel: ACT -> ACT wants 2 ticks", 0, 1)]),
    (HBM2, ("9 PREpb 0 0 0 0 5", "8 PREpb 0 0 1 0 5"), [(1, "order: ticks do not go back", 0, 1)]),
    # a window over four activations, and commands to many banks
    (HBM2, (*(f"{tick} ACT 0 0 {group} 0 5" for tick, group in ((1, 0), (5, 1), (9, 2), (13, 3))), "15 ACT 0 0 0 1 5"),
     [(4, "pseudochannel: ACT -> ACT wants 4 ticks", 3, 2), (4, "pseudochannel: ACT -> ACT wants 15 ticks from the last ACT but 3", 0, 1)]),
    (HBM2, ("1 REFab 0 - - - -", "259 ACT 0 0 3 2 5", "261 ACT 1 0 3 2 5"), [(1, "pseudochannel: REFab -> ACT wants 259 ticks", 0, 1)]),
    (HBM2, (*LEGAL[:2], "36 PREab 0 - - - -", "48 ACT 0 0 3 3 6"), [(3, "pseudochannel: PREab -> ACT wants 13 ticks", 2, 1)]),
    (DDR4, ("1 ACT 0 0 0 0 5", "2 ACT 0 0 1 0 5"), [(1, "rank: ACT -> ACT wants 4 ticks", 0, 3)]),
    (DDR4, ("5 PREpb 0 0 0 0 5", "5 PREpb 0 0 1 0 5"), [(1, "channel: the command bus carries one command a tick", 0, 1)]),
    # half-clock ticks: rising edges are odd, a precharge may use the other one unless it goes with a row command of its pseudo-channel
    (HBM3, ("2 ACT 0 0 0 0 5",), [(0, "clock: ACT starts on a rising edge, which is an odd tick", -1, 1)]),
    (HBM3, ("1 ACT 0 0 0 0 5", "4 PREpb 1 0 0 0 5", "8 PREpb 0 0 1 0 5"), []),
    (HBM3, ("1 ACT 0 0 0 0 5", "4 PREpb 0 0 1 0 5"), []),
    (HBM3, ("1 ACT 0 0 0 0 5", "4 PREab 0 - - - -"),
     [(1, "pseudochannel: ACT -> PREab wants 92 ticks", 0, 89),
      (1, "clock: PREab on the falling edge of ACT wants another pseudochannel or another single bank", 0, 1)]),
    (HBM3, ("1 REFab 0 - - - -", "2 PREpb 0 0 0 0 5"),
     [(1, "clock: PREpb on the falling edge of REFab wants another pseudochannel or another single bank", 0, 1)]),
    # refreshes of one bank, and of the same bank of every bank group; a row that an access closed
    (HBM2, ("1 ACT 0 0 0 0 5", "99 REFpb 0 0 0 0 -"), [(1, "bank: REFpb wants closed banks", 0, 0)]),
    (HBM2, ("1 REFpb 0 0 0 0 -", "99 ACT 0 0 0 0 5", "105 ACT 0 0 0 1 5"), [(1, "bank: REFpb -> ACT wants 159 ticks", 0, 61)]),
    (HBM2, ("1 ACT 0 0 0 0 5", "40 RDA 0 0 0 0 5", "58 REFpb 0 0 0 0 -"), [(2, "bank: RDA -> REFpb wants 19 ticks", 1, 1)]),
    (HBM2, ("1 ACT 0 0 0 0 5", "40 RDA 0 0 0 0 5", "57 ACT 0 0 0 0 6"), [(2, "bank: RDA -> ACT wants 18 ticks", 1, 1)]),
    (DDR5, ("1 ACT 0 0 7 2 5", "500 REFsb 0 0 - 2 -"), [(1, "bank: REFsb wants closed banks", 0, 0)]),
    (DDR5, ("1 ACT 0 0 7 1 5", "500 REFsb 0 0 - 2 -", "600 ACT 0 0 3 3 5", "811 ACT 0 0 3 2 5"),
     [(3, "bank: REFsb -> ACT wants 312 ticks", 1, 1)]),
    # activation in halves, and a data clock that sleeps
    (LPDDR5, ("1 ACT1 0 0 0 0 5", "9 ACT2 0 0 0 0 5", "16 CAS_RD 0 0 0 0 5", "17 RD 0 0 0 0 5", "21 RD 0 0 0 0 5"), []),
    (LPDDR5, ("1 ACT1 0 0 0 0 5", "10 ACT2 0 0 0 0 5"), [(1, "bank: ACT1 -> ACT2 wants 8 ticks at most", 0, -1)]),
    (LPDDR5, ("1 ACT1 0 0 0 0 5", "20 PREpb 0 0 1 0 5"), [(0, "bank: ACT1 -> ACT2 wants 8 ticks at most", -1, 0)]),
    (LPDDR5, ("1 ACT1 0 0 0 0 5", "2 ACT2 0 0 0 0 6"), [(1, "bank: ACT2 of row 6 wants that row in ACT1, not row 5", 0, 0)]),
    (LPDDR5, ("1 ACT2 0 0 0 0 5",), [(0, "bank: ACT2 wants ACT1 before it", -1, 0)]),
    (LPDDR5, ("1 ACT1 0 0 0 0 5", "5 ACT1 0 0 1 0 5", "6 ACT2 0 0 1 0 5", "7 ACT2 0 0 0 0 5"),
     [(1, "channel: ACT1 wants the ACT2 of the one before", 0, 0)]),
    (LPDDR5, ("1 ACT1 0 0 0 0 5", "2 ACT2 0 0 0 0 5", "17 RD 0 0 0 0 5"),
     [(2, "channel: RD wants CAS_RD before it, because the data clock sleeps", -1, 0)]),
]


@pytest.mark.parametrize(("memory", "lines", "wrong"), FAULTS)
def test_a_wrong_trace_names_row_rule_and_ticks(memory: str, lines: tuple[str, ...], wrong: list[tuple[int, str, int, int]]) -> None:
    found = check(trace(*lines), memory)
    assert [(fault.row, fault.rule, fault.previous, fault.early_by) for fault in found] == wrong


def test_a_rule_between_ranks_holds_for_the_other_rank_alone(wide: Path) -> None:
    level, above = {"two-ranks": ("rank", "channel"), "two-sids": ("sid", "pseudochannel")}[wide.stem]
    start = ("1 ACT 0 0 0 0 5", "99 ACT 0 1 0 0 5", "301 RD 0 0 0 0 5")
    assert check(trace(*start, "307 RD 0 1 0 0 5"), wide) == []
    rule = f"{level}: RD -> RD wants 6 ticks between two of one {above}"
    assert check(trace(*start, "305 RD 0 1 0 0 5"), wide) == [Violation(3, 305, "RD", rule, 2, 2)]


def test_a_violation_reads_as_a_sentence() -> None:
    fault = check(trace("1 ACT 0 0 0 0 5", "14 RD 0 0 0 0 5"), HBM2)[0]
    assert str(fault) == "row 1: RD at tick 14, 2 ticks early after row 0: bank: ACT -> RD wants 15 ticks"
    late = check(trace("1 ACT1 0 0 0 0 5", "10 ACT2 0 0 0 0 5"), LPDDR5)[0]
    assert str(late) == "row 1: ACT2 at tick 10, 1 tick late after row 0: bank: ACT1 -> ACT2 wants 8 ticks at most"


def test_the_tightest_commands_of_a_run_cannot_come_a_tick_earlier() -> None:
    frame = emitted(HBM2, requests(HBM2, 200, seed=5, rows=1), refresh=False)
    found = []
    for row in range(1, len(frame)):
        early = frame.copy()
        early.loc[row:, "tick"] -= 1
        found.append(any(fault.early_by == 1 and fault.row >= row for fault in check(early, HBM2)))
    assert np.mean(found) > 0.5


def test_columns_may_have_their_other_names_and_levels_that_there_is_one_of_may_be_missing() -> None:
    frame = trace("1 ACT 0 0 0 0 5", "20 RD 0 0 0 0 6")
    other = frame.rename(columns={"tick": "clock", "ro": "row"}).drop(columns="ra")
    assert check(other, HBM2) == check(frame, HBM2) != []
    assert check(frame.iloc[:0], HBM2) == []


@pytest.mark.parametrize(("change", "message"), [
    ({"command": "RED"}, "command trace: row 1: command 'RED' is unknown to hbm2-2000-4gb (did you mean 'RD'?). Expected one of ACT, "),
    ({"command": float("nan")}, "command trace: row 1: command nan is unknown to hbm2-2000-4gb."),
    ({"bg": 4}, "command trace: row 1: bg of RD is 4. Expected bg 0 to 3."),
    ({"ba": -1}, "command trace: row 1: ba of RD is -1. Expected ba 0 to 3."),
    ({"ra": 1}, "command trace: row 1: ra of RD is 1. Expected ra 0 to 0."),
    ({"ro": 16384}, "command trace: row 1: ro of RD is 16384. Expected ro 0 to 16383."),
    ({"ro": -1, "command": "ACT"}, "command trace: row 1: ro of ACT is -1. Expected ro 0 to 16383."),
    ({"tick": -3}, "command trace: row 1: tick of RD is -3. Expected 0 or more."),
    ({"tick": 2.5}, "command trace: row 1: tick is 2.5. Expected a whole number."),
    ({"tick": float("inf")}, "command trace: row 1: tick is inf. Expected a whole number."),
    ({"pc": "x"}, "command trace: row 1: pc is 'x'. Expected a whole number."),
    ({"pc": None}, "command trace: row 1: pc is None. Expected a whole number."),
    ({"tick": 2**70}, f"command trace: row 1: tick is {2**70}. Expected a whole number."),
])
def test_a_row_that_cannot_be_read_is_named(change: dict[str, object], message: str) -> None:
    frame = trace("1 ACT 0 0 0 0 5", "20 RD 0 0 0 0 5").astype(object)
    for name, value in change.items():
        frame.loc[1, name] = value
    with pytest.raises(ValueError) as error:
        check(frame, HBM2)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("column", ["tick", "command", "pc", "bg", "ba", "ro"])
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(ValueError, match=f"command trace: column '{column}' is missing. It has "):
        check(trace("1 ACT 0 0 0 0 5").drop(columns=column), HBM2)


def test_a_command_keeps_the_row_and_column_of_its_request() -> None:
    asked = requests(LPDDR5, 300, seed=6)
    frame = emitted(LPDDR5, asked)
    own = frame[frame["request"] >= 0]
    for name in ("bg", "ba", "ro", "co"):
        assert (own[name].to_numpy() == asked[name].to_numpy()[own["request"]]).all()
    assert (frame.loc[frame["request"] < 0, ["ro", "co"]] == -1).all(axis=None)


PIM = "hbm2-neupims"
PIM_COLUMNS = {"clk": "tick", "cmd": "command", "rank": "ra", "bankgroup": "bg", "bank": "ba", "row": "ro", "num_comps": "steps"}
PIM_COMMANDS = {"ACTIVATE": "ACT", "PRECHARGE": "PREpb", "REFRESH": "REFab", "READ": "RD", "WRITE": "WR"}


def switched(*, single: bool, compat: bool) -> part.Part:
    """The PIM part with one row buffer a bank or two, and with or without the liberties of the published simulator."""
    loaded = part.load(PIM)
    timings = {**loaded.spec.timings, "nSINGLE": int(single), "nSTRICT": int(not compat)}
    return replace(loaded, spec=loaded.spec.model_copy(update={"timings": timings}))


def test_the_published_pim_trace_is_legal_in_compat_and_rejected_for_its_early_precharges(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "pim" / "neupims_cmdtrace_b32_s128_t512_ch0.csv")
    frame = frame.drop(columns=["channel", "column"]).rename(columns=PIM_COLUMNS).replace({"command": PIM_COMMANDS})
    assert check(frame, switched(single=False, compat=True)) == []
    found = check(frame, PIM)
    assert Counter(fault.rule for fault in found) == {"channel: COMPS_READRES -> PIM_PRECHARGE wants 21 ticks": 208,
                                                      "channel: COMPS_READRES -> GWRITE wants 18 ticks": 2}
    assert max(fault.early_by for fault in found) == 16


def test_the_published_trace_of_a_single_row_buffer_is_legal_in_compat(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "pim" / "newton_singlebuf_cmdtrace_b32_s128_t512_ch0.csv")
    frame = frame.drop(columns=["channel", "column"]).rename(columns=PIM_COLUMNS).replace({"command": PIM_COMMANDS})
    assert check(frame, switched(single=True, compat=True)) == []
    assert {fault.rule for fault in check(frame, switched(single=True, compat=False))} == {"bank group: PREpb -> G_ACT wants 14 ticks"}


@pytest.mark.parametrize("steps", [1, 8, 32])
@pytest.mark.parametrize("buffers", ["dual", "single"])
def test_pim_commands_of_the_in_order_engine_are_legal_unless_compat(buffers: str, steps: int) -> None:
    for compat in (False, True):
        made = pim_part(buffers=buffers, compat=compat)  # type: ignore[arg-type]
        blocks = [load_vector(made), *(tile(made, row=row, dots=2, steps=steps) for row in range(1, 40))]
        commands = run(made, stream(blocks), new_state(made)).commands
        frame = pd.DataFrame(commands[:, :5], columns=["tick", "command", "bank", "ro", "steps"])
        frame = frame.assign(command=np.array(made.commands, object)[frame["command"]], ra=frame["bank"] // 16, bg=frame["bank"] // 4 % 4,
                             ba=frame["bank"] % 4)
        assert "REFab" in set(frame["command"])
        assert check(frame, switched(single=buffers == "single", compat=compat)) == []
        if compat and buffers == "dual":
            assert {fault.rule.split(" wants")[0] for fault in check(frame, PIM)} == {"channel: COMPS_READRES -> PIM_PRECHARGE"}


PIM_FAULTS = [
    (("1 ACT 0 0 0 0 5", "99 G_ACT 0 0 0 - 5"), "bank: row 5 is open in the other row buffer"),
    (("1 G_ACT 0 0 0 - 5", "99 ACT 0 0 0 1 5"), "bank: row 5 is open in the other row buffer"),
    (("1 G_ACT 0 0 0 - 5", "99 G_ACT 0 0 0 - 6"), "bank: G_ACT wants a closed PIM row buffer"),
    (("1 G_ACT 0 0 0 - 5", "99 COMP 0 - - - 5"), "bank: COMP wants a row that G_ACT has opened"),
    (("1 G_ACT 0 0 0 - 5", "99 REFab 0 0 - - -"), "rank: REFab wants closed PIM row buffers"),
    (("9 GWRITE 0 0 0 0 5",), "bank: GWRITE wants an open row"),
]


@pytest.mark.parametrize(("lines", "rule"), PIM_FAULTS)
def test_a_wrong_pim_trace_names_its_rule(lines: tuple[str, ...], rule: str) -> None:
    assert [fault.rule for fault in check(trace(*lines), PIM)] == [rule]
