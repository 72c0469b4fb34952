"""Closed rows, refreshes of single banks, several channels: closed forms, and what holds for every stream."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim import dram
from gemvane.sim.dram import part
from gemvane.sim.dram.channels import replay_channels
from gemvane.sim.dram.policy import policy, refreshes

HBM2, GDDR6, DDR5, DDR4, NEUPIMS = "hbm2-2000-4gb", "gddr6-14000-8gb", "ddr5-4800-16gb", "ddr4-3200-8gb", "hbm2-neupims"
PER_BANK = ("hbm2-2000-4gb", "hbm2e-3200", "hbm3-6400-4gb", "hbm3e-9600", "hbm4-8000-32gb", GDDR6, "lpddr5-6400-8gb", "lpddr5x-8533")
Columns = dict[str, np.ndarray]


def stream(count: int, **columns: object) -> Columns:
    """Reads of bank 0, row 0, but for the given columns."""
    table = {name: np.zeros(count, np.int64) for name in ("rw", "pc", "bg", "ba", "ro", "co")}
    for name, values in columns.items():
        table[name] = table.get(name, np.zeros(count, np.int64)) + np.asarray(values, np.int64)
    return table


def anywhere(memory: str, count: int, seed: int, rows: int = 10**9, writes: float = 0.3) -> Columns:
    loaded, rng = part.load(memory), np.random.default_rng(seed)
    counts = loaded.resolved.counts.tolist()
    limits = {**dict(zip(("pc", "ra", "bg", "ba"), counts, strict=True)), "ro": min(rows, loaded.rows), "co": loaded.columns}
    return {"rw": (rng.random(count) < writes).astype(np.int64), **{name: rng.integers(0, limit, count) for name, limit in limits.items()}}


def rule(memory: str, prev: str, after: str, level: int = 4) -> int:
    loaded = part.load(memory)
    ids = [loaded.commands.index(name) for name in (prev, after)]
    return next(r.ticks for r in loaded.rules if [r.prev, r.next] == ids and r.level == level and not r.sibling and r.window == 1)


# Closed rows

@given(st.sampled_from([HBM2, "hbm3-6400-4gb", GDDR6, DDR5, "lpddr5-6400-8gb"]), st.integers(0, 10**6), st.sampled_from([1, 3, 10**9]),
       st.booleans(), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_closed_after_each_access_nothing_conflicts(memory: str, seed: int, rows: int, refresh: bool, writes: float) -> None:
    done = dram.replay(anywhere(memory, 200, seed, rows, writes), memory, row_policy="closed", cap=1, refresh=refresh)
    opened = done.commands.get("ACT", done.commands.get("ACT1", 0))
    assert (done.row_misses, done.row_conflicts) == (opened, 0)
    assert done.commands.get("RDA", 0) + done.commands.get("WRA", 0) == opened
    assert not {"PREpb", "PREab"} & done.commands.keys()
    if not writes:  # a write may use a row that is open for a read, because nRCDWR is shorter
        assert opened == 200


def test_one_bank_closed_after_each_access_takes_a_row_cycle_a_request() -> None:
    done = dram.replay(stream(300, ro=np.arange(300)), HBM2, row_policy="closed", cap=1, refresh="none")
    assert done.last_command_tick == part.load(HBM2).spec.timings["nRC"] * 299 + 16


@pytest.mark.parametrize("cap", [1, 3, 4, 20, 100])
def test_a_row_is_opened_anew_after_cap_accesses(cap: int) -> None:
    done = dram.replay(stream(20, co=np.arange(20)), HBM2, row_policy="closed", cap=cap, refresh="none")
    opened = -(-20 // cap)
    assert done.commands == {name: count for name, count in (("ACT", opened), ("RD", 20 - opened), ("RDA", opened)) if count}


def test_the_last_request_of_a_row_closes_it_and_a_queued_one_keeps_it_open() -> None:
    done = dram.replay(stream(3, ro=[5, 6, 5]), HBM2, row_policy="closed", cap=100, refresh="none", log_commands=99)
    names = done.commands_frame()
    assert names["command"].tolist() == ["ACT", "RD", "RDA", "ACT", "RDA"]
    assert names["request"].tolist() == [0, 0, 2, 1, 1]


def test_random_reads_gain_from_closed_rows_and_hits_do_not() -> None:
    asked = anywhere(HBM2, 3000, seed=1, writes=0)
    opened, closed = (dram.replay(asked, HBM2, row_policy=rows) for rows in ("open", "closed"))
    assert closed.row_conflicts < 0.01 * opened.row_conflicts
    assert closed.latency_ticks.mean() < opened.latency_ticks.mean()
    hits = stream(2000, co=np.arange(2000) % 32)
    assert dram.replay(hits, HBM2).last_command_tick < dram.replay(hits, HBM2, row_policy="closed").last_command_tick


# Refreshes

@pytest.mark.parametrize(("memory", "kind", "command", "cost"), [
    (HBM2, "per-bank", "REFpb", "nRFCpb"), ("hbm3-6400-4gb", "per-bank", "REFpb", "nRFCpb"), (DDR5, "same-bank", "REFsb", "nRFCsb"),
    (HBM2, "all-bank", "REFab", "nRFC"),
])
def test_a_refresh_costs_a_busy_bank_its_duration(memory: str, kind: str, command: str, cost: str) -> None:
    loaded = part.load(memory)
    asked = stream(1500, ro=np.arange(1500))
    done = dram.replay(asked, memory, scheduler="frfcfs", refresh=kind, log_commands=10**5)
    free = dram.replay(asked, memory, scheduler="frfcfs", refresh="none")
    frame = done.commands_frame()
    due = frame[(frame["command"] == command) & (frame["tick"] < done.last_command_tick) & (frame["pc"] == 0)]
    own = int(((due["ba"] <= 0) & (due["bg"] <= 0)).sum())
    duration = own * loaded.spec.timings[cost] * loaded.spec.clock.ticks
    between = max(rule(memory, command, "ACT", level=2 if memory == DDR5 else 1), 0) if kind != "all-bank" else 2
    assert own > 3
    assert duration <= done.last_command_tick - free.last_command_tick <= duration + (len(due) - own) * between + 4 * own


@pytest.mark.parametrize(("memory", "kind"), [*((memory, "per-bank") for memory in PER_BANK), (DDR5, "same-bank"), (DDR4, "all-bank")])
def test_refreshes_come_on_time_and_in_turn(memory: str, kind: str) -> None:
    loaded = part.load(memory)
    due = refreshes(loaded, policy(refresh=kind))
    done = dram.replay(anywhere(memory, 4000, seed=2), loaded, refresh=kind, log_commands=10**5)
    log = done.log[done.log[:, 1] == due.command]
    ticks, banks = log[:, 0], log[:, 2]
    for unit in range(due.asked):
        mine = banks // due.ask_step == unit
        asked = (1 + np.arange(mine.sum())) * due.interval
        assert mine.sum() >= max(1, done.end_tick // due.interval - 2)
        assert (ticks[mine] >= asked).all() and (ticks[mine] < asked + 4 * due.interval + 500).all()
        assert (banks[mine] % due.ask_step == np.arange(mine.sum()) % due.turns).all()


@pytest.mark.parametrize("memory", PER_BANK)
def test_each_bank_is_refreshed_about_once_in_the_interval_of_all(memory: str) -> None:
    loaded = part.load(memory)
    all_bank, per_bank = (refreshes(loaded, policy(refresh=kind)) for kind in ("all-bank", "per-bank"))
    share = per_bank.interval * per_bank.turns / all_bank.interval
    assert share == pytest.approx(2 if loaded.spec.standard.startswith("LPDDR5") else 1, rel=0.02)  # LPDDR5 refreshes banks in pairs


def test_other_banks_go_on_during_the_refresh_of_one() -> None:
    i = np.arange(20_000)
    asked = stream(20_000, pc=i % 2, bg=i // 2 % 4, co=i // 8 % 32, ba=i // 256 % 4, ro=i // 1024)
    free, one, every = (dram.replay(asked, HBM2, refresh=kind).last_command_tick for kind in ("none", "per-bank", "all-bank"))
    assert free < every and one < free * 1.25
    log, commands = dram.replay(asked, HBM2, refresh="per-bank", log_commands=10**5).log, part.load(HBM2).commands
    columns, refreshed = (log[log[:, 1] == commands.index(name), 0] for name in ("RD", "REFpb"))
    during = [int(((columns > tick) & (columns < tick + 160)).sum()) for tick in refreshed[:50]]
    assert min(during) > 30


@pytest.mark.parametrize(("memory", "told", "message"), [
    (DDR4, {"refresh": "per-bank"}, "refresh per-bank needs the command REFpb, which ddr4-3200-8gb has not. Expected one of all-bank, "
                                    "none."),
    (DDR5, {"refresh": "per-bank"}, "refresh per-bank needs the command REFpb, which ddr5-4800-16gb has not. Expected one of all-bank, "
                                    "same-bank, none."),
    (HBM2, {"refresh": "same-bank"}, "refresh same-bank needs the command REFsb, which hbm2-2000-4gb has not. Expected one of all-bank, "
                                     "per-bank, none."),
    (NEUPIMS, {"row_policy": "closed"}, "row policy closed needs the commands RDA and WRA, which hbm2-neupims has not. Expected row "
                                        "policy open."),
    (HBM2, {"refresh": "some"}, "refresh 'some' is unknown. Expected one of all-bank, per-bank, same-bank, none."),
    (HBM2, {"row_policy": "shut"}, "row policy 'shut' is unknown. Expected one of open, closed."),
    (HBM2, {"cap": 0}, "cap 0 is no count of column commands. Expected a whole number, 1 or more."),
    (HBM2, {"cap": 1.5}, "cap 1.5 is no count of column commands. Expected a whole number, 1 or more."),
])
def test_a_policy_that_the_part_cannot_do_is_one_sentence(memory: str, told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        dram.replay(stream(1), memory, **told)
    assert str(error.value) == message


@pytest.mark.parametrize(("base", "timings", "refresh", "message"), [
    (HBM2, "nREFI: 250", "all-bank", "REFab comes every 250 ticks, but ACT waits for 259 ticks after it. Expected a longer interval."),
    (HBM2, "nREFI: 307", "all-bank", "REFab comes every 307 ticks, but from one to the next, with a row opened and closed between them, "
                                     "are 308. Expected a longer interval."),
    (HBM2, "nREFIpb: 4", "per-bank", "REFpb comes every 8 ticks, but REFpb waits for 8 ticks after it. Expected a longer interval."),
    (DDR5, "nREFI: 312", "same-bank", "REFsb comes every 312 ticks, but ACT waits for 312 ticks after it. Expected a longer interval."),
])
def test_an_interval_that_leaves_no_time_is_refused(base: str, timings: str, refresh: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "fast.yaml"
    file.write_text(f"extends: {base}\nschema_version: 1\nname: fast\ntimings: {{{timings}}}\n")
    with pytest.raises(ValueError) as error:
        dram.replay(stream(1), file, refresh=refresh)
    assert str(error.value) == f"{file}: {message}"


# Several channels

@given(st.integers(0, 10**6), st.integers(1, 300), st.permutations(range(4)), st.sampled_from([HBM2, DDR5]))
@settings(max_examples=25, deadline=None)
def test_permuting_channels_changes_nothing_but_their_numbers(seed: int, count: int, names: list[int], memory: str) -> None:
    asked = anywhere(memory, count, seed, rows=5)
    ch = np.random.default_rng(seed).integers(0, 4, count)
    one = replay_channels(asked | {"ch": ch}, memory, channels=4, log_commands=2000)
    other = replay_channels(asked | {"ch": np.array(names)[ch]}, memory, channels=4, log_commands=2000)
    assert [one.replays[i].to_dict() for i in range(4)] == [other.replays[names[i]].to_dict() for i in range(4)]
    assert (one.latency_ticks == other.latency_ticks).all()
    totals = [{key: value for key, value in done.to_dict().items() if key != "channels"} for done in (one, other)]
    assert totals[0] == totals[1]


@given(st.integers(0, 10**6), st.integers(1, 300), st.sampled_from(["open", "closed"]), st.sampled_from(["all-bank", "per-bank"]))
@settings(max_examples=25, deadline=None)
def test_a_channel_among_others_is_the_channel_alone(seed: int, count: int, rows: str, refresh: str) -> None:
    asked = anywhere(HBM2, count, seed, rows=5)
    ch = np.random.default_rng(seed).integers(0, 3, count)
    together = replay_channels(pd.DataFrame(asked | {"ch": ch}), HBM2, channels=3, row_policy=rows, refresh=refresh, log_commands=3000)
    assert together.requests == count
    for number in range(3):
        mine = {name: values[ch == number] for name, values in asked.items()}
        alone = dram.replay(mine, HBM2, row_policy=rows, refresh=refresh, log_commands=3000)
        assert together.replays[number].to_dict() == alone.to_dict()
        assert (together.latency_ticks[ch == number] == alone.latency_ticks).all()
        frame = together.commands_frame()
        own = frame[frame["ch"] == number].drop(columns="ch").reset_index(drop=True)
        assert own.drop(columns="request").to_dict("list") == alone.commands_frame().drop(columns="request").to_dict("list")
        asks = own[own["request"] >= 0]
        assert (asked["ro"][asks["request"]] == asks["ro"]).all() and (ch[asks["request"]] == number).all()


def test_totals_of_channels() -> None:
    done = replay_channels(stream(4, ch=[2, 0, 2, 2], co=[0, 0, 1, 2]), HBM2)
    assert [one.requests for one in done.replays] == [1, 0, 3]
    assert (done.commands, done.end_tick) == ({"ACT": 2, "RD": 4}, done.replays[2].end_tick)
    facts = done.to_dict()
    assert facts["peak_bytes_per_s"] == 3 * 32_000_000_000
    assert facts["bandwidth_bytes_per_s"] == pytest.approx(4 * 32 / (done.last_command_tick * 1e-9))
    assert (facts["channels"][1]["bandwidth_bytes_per_s"], facts["channels"][1]["latency_ticks"]["mean"]) == (0, 0)
    assert len(replay_channels(stream(2), HBM2).replays) == 1


@pytest.mark.parametrize(("ch", "channels", "message"), [
    ([0, 3], 3, "request table: row 1: ch is 3, but this replay has ch 0 to 2."),
    ([0, -1], None, "request table: row 1: ch is -1, but this replay has ch 0 to 4095."),
    ([0, 1], 0, "channels 0 is no number of channels. Expected a whole number, 1 to 4096."),
])
def test_a_channel_that_is_not_there_is_named(ch: list[int], channels: int | None, message: str) -> None:
    with pytest.raises(ValueError) as error:
        replay_channels(stream(2, ch=ch), HBM2, channels=channels)
    assert str(error.value) == message


def test_one_channel_is_not_several() -> None:
    with pytest.raises(ValueError, match=r"request table: row 1: ch is 1, but this replay has ch 0 to 0\."):
        dram.replay(stream(2, ch=[0, 1]), HBM2)
