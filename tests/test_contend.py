"""A PIM stream and ordinary requests in one channel: legal, complete, refreshed; who goes first under each policy; peaks and bounds."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim.dram import gemv
from gemvane.sim.dram.check import check
from gemvane.sim.dram.contend import POLICIES, Contended, contend
from gemvane.sim.dram.part import load
from gemvane.sim.dram.pimpart import Buffers, PimPart, Stream, new_state, pim_part, run
from gemvane.sim.dram.pimstream import Attention, load_vector, score_blocks, stream, tile, value_blocks
from gemvane.sim.kernels.pimissue import ALWAYS

NOTHING: dict[str, list[int]] = {"rw": [], "bg": [], "ba": [], "ro": [], "arrival": []}
NO_BLOCKS = stream([])
BUFFERS: tuple[Buffers, ...] = ("dual", "single")
PARTS = {(buffers, refresh): pim_part(buffers=buffers, refresh=refresh) for buffers in BUFFERS for refresh in (True, False)}
BOTH = pytest.mark.parametrize("buffers", BUFFERS)
EVERY = pytest.mark.parametrize("policy", POLICIES)


def walk(count: int, *, row: int = 100, write: int = 0, arrival: int = 0, every: int = 0, skip: int = 0) -> pd.DataFrame:
    """Requests that go through row after row of bank after bank, past the first `skip` banks of each turn."""
    i = np.arange(count)
    bank = i // 16 % (32 - skip) + skip
    return pd.DataFrame({"rw": write, "ra": bank // 16, "bg": bank // 4 % 4, "ba": bank % 4, "ro": row + i // (16 * (32 - skip)),
                         "co": i % 16, "arrival": arrival + every * i})  # fmt: skip


def anything(seed: int, count: int, gap: int, banks: int) -> pd.DataFrame:
    """Requests to the first banks, of one direction or both, to one row or many."""
    rng = np.random.default_rng(seed)
    bank = rng.integers(0, banks, count)
    return pd.DataFrame({"rw": (rng.random(count) < rng.choice([0.0, 0.3, 1.0])).astype(int), "ra": bank // 16, "bg": bank // 4 % 4,
                         "ba": bank % 4, "ro": rng.integers(0, rng.choice([1, 12]), count),
                         "arrival": np.sort(rng.integers(0, count * gap + 1, count))})  # fmt: skip


def attention(part: PimPart) -> Stream:
    op = Attention(tokens=256, heads=4, head_dim=128)
    return stream([*score_blocks(part, op), *value_blocks(part, op)])


def faults(part: PimPart, done: Contended) -> list[str]:
    """What the checker of command traces says."""
    loaded = load(part.name)
    rules = replace(loaded, spec=loaded.spec.model_copy(update={"timings": part.timings}))
    frame = pd.DataFrame(done.commands[:, :5], columns=["tick", "command", "bank", "ro", "steps"])
    inner = part.group_banks
    frame = frame.assign(command=np.array(part.commands, object)[frame["command"]], ra=frame["bank"] // (inner * part.groups),
                         bg=frame["bank"] // inner % part.groups, ba=frame["bank"] % inner)  # fmt: skip
    return [str(fault) for fault in check(frame, rules)]


@EVERY
@BOTH
@pytest.mark.parametrize("compat", [False, True], ids=["legal", "compat"])
def test_without_requests_the_commands_are_those_of_the_stream_alone(policy: str, buffers: Buffers, compat: bool) -> None:
    part = pim_part(buffers=buffers, compat=compat)
    alone, together = new_state(part, start=700), new_state(part, start=700)
    expected = run(part, attention(part), alone)
    done = contend(part, attention(part), NOTHING, policy=policy, state=together, record=True)
    assert (done.commands == expected.commands).all()
    assert (done.times == expected.times).all()
    assert (done.pim_end, done.counts, done.refreshes) == (expected.end, expected.counts, expected.refreshes)
    assert set(done.pim_waits.values()) == set(done.request_waits.values()) == {0}
    for one, other in zip(alone[:4], together[:4], strict=True):
        assert (one == other).all()
    assert (alone.clock[:5] == together.clock[:5]).all()


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(POLICIES)), st.sampled_from(sorted(PARTS)), st.integers(0, 2**32), st.integers(0, 250),
       st.sampled_from([0, 3, 20]), st.sampled_from([1, 4, 32]), st.lists(st.integers(0, 3), max_size=12))  # fmt: skip
def test_commands_are_legal_complete_and_refreshed(policy: str, key: tuple[Buffers, bool], seed: int, count: int, gap: int, banks: int,
                                                   which: list[int]) -> None:  # fmt: skip
    part = PARTS[key]
    pool = [tile(part, row=7, dots=4, steps=8), load_vector(part), tile(part, row=9, dots=1, steps=32), load_vector(part, row=4, bank=5)]
    asked = anything(seed, count, gap, banks)
    done = contend(part, stream([pool[i] for i in which]), asked, policy=policy, record=True)
    assert faults(part, done) == []
    writes = int(asked["rw"].sum())
    dots = which.count(0) * 4 + which.count(2)
    expected = {"RD": count - writes, "WR": writes, "P_HEADER": which.count(0) + which.count(2), "GWRITE": which.count(1) + which.count(3),
                "COMPS_READRES" if part.buffers == "dual" else "READRES": dots}  # fmt: skip
    assert {name: done.counts[name] for name in expected} == expected
    assert sum(done.counts.values()) == len(done.commands)
    refreshes = done.commands[done.commands[:, 1] == part.id("REFab"), 0]
    due = 1950 * (1 + np.arange(len(refreshes)))
    came_due = int(done.commands[:, 0].max(initial=0)) // 1950 if key[1] else 0
    assert done.refreshes == len(refreshes)
    assert came_due - done.refreshes in (0, 1)     # the last may have come due after the last start
    assert ((refreshes >= due) & (refreshes <= due + 350)).all()


@EVERY
@pytest.mark.parametrize("memory", ["gddr6-aim-2000", "hbm-pim-2000"])
def test_pim_whose_tiles_go_on_over_several_blocks_finds_its_rows_again(memory: str, policy: str) -> None:
    """AiM and HBM-PIM keep a row open from block to block, and do not close rows that they have not opened."""
    part = pim_part(memory)
    blocks = gemv.commands(gemv.plan(part, gemv.Gemv(256, 1024)))
    alone = run(part, blocks, new_state(part))
    for seed, gap in ((1, 0), (2, 3), (3, 30)):
        asked = anything(seed, 300, gap, part.banks)
        done = contend(part, blocks, asked, policy=policy, record=True)
        assert faults(part, done) == []
        assert set(done.commands[done.commands[:, 5] <= -2, 5]) == set(range(-301, -1))
        lines = done.commands[done.commands[:, 5] >= 0]
        always = np.isin(alone.commands[:, 5], np.flatnonzero(blocks.lines[:, 4] == ALWAYS))
        assert set(alone.commands[always, 5]) <= set(lines[:, 5])
    assert (contend(part, blocks, NOTHING, policy=policy, record=True).commands == alone.commands).all()


@BOTH
@EVERY
def test_requests_alone_come_near_the_peak_and_never_above(policy: str, buffers: Buffers) -> None:
    peak = 64 / 2e-9
    gone = (260 + 14 + 16 + 14) / 1950               # tRFC, and closing and opening the rows of a rank, once an interval
    for refresh, least in ((False, 0.99), (True, 1 - gone)):
        part = PARTS[buffers, refresh]
        done = contend(part, NO_BLOCKS, walk(8192), policy=policy)
        assert least * peak < done.bandwidth_bytes_per_s <= peak
        assert done.requests_end >= 2 * 8191 + 14
        assert set(done.request_waits.values()) == {0}


def test_a_lone_read_takes_an_activation_and_its_latency() -> None:
    part = PARTS["dual", True]
    done = contend(part, NO_BLOCKS, walk(1, arrival=100), policy="pim-first", record=True)
    assert done.commands[:, 0].tolist() == [100, 114]
    assert done.latency_ticks.tolist() == [14 + 16]


@EVERY
@pytest.mark.parametrize("vectors", [1, 4])
def test_tiles_that_change_their_vector_keep_its_bank_to_themselves(policy: str, vectors: int) -> None:
    part = PARTS["dual", True]
    blocks = stream(score_blocks(part, Attention(200, 3, 128, group=8), vectors=vectors))
    done = contend(part, blocks, anything(9, 1000, 6, 32), policy=policy, record=True)
    assert faults(part, done) == []
    assert done.counts["GWRITE"] == run(part, blocks, new_state(part)).counts["GWRITE"]


@EVERY
@settings(deadline=None, max_examples=25)
@given(count=st.integers(0, 500), every=st.integers(0, 6), write=st.integers(0, 1), dots=st.integers(1, 4))
def test_without_refresh_requests_never_speed_pim_up_nor_pim_requests(policy: str, count: int, every: int, write: int, dots: int) -> None:
    """Where no request opens a row that PIM wants (bank 0 is left alone) and the walk opens each row once, every rule only adds a wait
    to an order that is fixed. Not so with refresh, whose phase shifts, nor for requests that a scheduler may reorder for the better."""
    part = PARTS["dual", False]
    tiles = [tile(part, row=7, dots=dots, steps=8)] * 4
    blocks = stream([load_vector(part), *tiles, load_vector(part, row=3), tile(part, row=8, dots=1, steps=32)])
    asked = walk(count, every=every, write=write, skip=1)
    done = contend(part, blocks, asked, policy=policy)
    assert done.pim_end >= run(part, blocks, new_state(part), record=False).end
    assert done.requests_end >= contend(part, NO_BLOCKS, asked, policy=policy).requests_end


def ends(policy: str, buffers: Buffers = "dual") -> tuple[int, int]:
    part = PARTS[buffers, True]
    done = contend(part, attention(part), walk(6000), policy=policy)
    return done.pim_end, done.requests_end


def test_who_goes_first_ends_first() -> None:
    first, last, fair = ends("pim-first"), ends("requests-first"), ends("oldest-first")
    assert first[0] <= fair[0] <= last[0]
    assert first[0] < last[0]
    assert last[1] < first[1]
    single = {policy: ends(policy, "single") for policy in POLICIES}
    assert single["requests-first"][1] < min(single["blocked"][1], single["pim-first"][1])
    assert single["pim-first"][0] < single["blocked"][0] < single["requests-first"][0]


def test_two_row_buffers_let_requests_through_beside_pim() -> None:
    assert ends("pim-first")[1] < ends("pim-first", "single")[1]


@pytest.mark.parametrize(("policy", "buffers"), [("blocked", "dual"), *((policy, "single") for policy in POLICIES)])
def test_a_block_that_excludes_requests_has_none_inside(policy: str, buffers: Buffers) -> None:
    part = PARTS[buffers, True]
    done = contend(part, attention(part), walk(2000, every=3), policy=policy, record=True)
    ticks = done.commands[done.commands[:, 5] <= -2, 0]
    for first, last, _ in done.times.tolist():
        assert not ((ticks >= first) & (ticks <= last)).any()
    assert ticks.min() < done.times[-1, 1]


def test_blocked_serves_what_is_in_the_queue_when_a_block_comes_up_and_no_more() -> None:
    part = PARTS["dual", False]
    blocks = stream([tile(part, row=7, dots=1, steps=8)] * 3)
    asked = walk(120, arrival=10)                  # all there when the second tile's turn comes
    done = contend(part, blocks, asked, policy="blocked", record=True)
    served = np.flatnonzero(done.commands[:, 1] == part.id("RD"))
    between = np.searchsorted(done.commands[served, 0], done.times[:, 0])
    assert between.tolist() == [0, 32, 64]


def test_pim_first_lets_no_request_delay_a_command_that_is_ready() -> None:
    part = PARTS["dual", False]
    done = contend(part, attention(part), walk(3000), policy="pim-first")
    assert done.pim_waits["turn"] == 0
    assert done.pim_waits["power"] > 0             # an activation takes part of the group activations' window
    assert done.request_waits["turn"] > 0
    late = contend(part, attention(part), walk(3000), policy="requests-first")
    assert late.pim_waits["turn"] > 0


def test_a_block_with_no_cycles_to_spare_before_a_refresh_is_left_alone() -> None:
    part = PARTS["dual", True]
    closable = 106 + 3 * 18 + 2 * 8 + 5
    for spare, served in ((0, False), (200, True)):
        start = 1950 - closable - spare
        done = contend(part, stream([tile(part, row=7, dots=4, steps=8)]), walk(64, arrival=start), policy="requests-first",
                       state=new_state(part, start=start), record=True)  # fmt: skip
        inside = (done.commands[:, 5] <= -2) & (done.commands[:, 0] <= done.times[0, 1])
        assert inside.any() == served


def test_a_request_for_a_tile_s_row_waits_for_the_tile_and_closes_its_pim_buffer() -> None:
    part = PARTS["dual", False]
    done = contend(part, stream([tile(part, row=100, dots=1, steps=8)]), walk(1, arrival=5), policy="requests-first", record=True)
    names = [part.commands[command] for command in done.commands[:, 1]]
    assert names[-3:] == ["PIM_PRECHARGE", "ACT", "RD"]
    assert (done.commands[-3:, 0] > done.times[0, 1]).all()


def test_recording_changes_nothing_whatever_its_room() -> None:
    part = PARTS["dual", True]
    late = walk(1, arrival=4_000_000).drop(columns="co")      # more refreshes until then than the record first has room for
    asked = pd.concat([anything(5, 300, 4, 32), late])
    short = contend(part, attention(part), asked, policy="oldest-first")
    full = contend(part, attention(part), asked, policy="oldest-first", record=True)
    assert short.commands.shape == (0, 6)
    assert full.refreshes > 2000
    assert len(full.commands) == sum(full.counts.values())
    assert (np.diff(full.commands[:, 0]) > 0).all()
    assert (short.counts, short.pim_waits, short.request_waits) == (full.counts, full.pim_waits, full.request_waits)
    assert (short.pim_end, short.requests_end) == (full.pim_end, full.requests_end)


BAD: list[tuple[Mapping[str, Any], str]] = [
    ({"rw": [0], "bg": [0], "ba": [0], "ro": [0]}, "column 'arrival' is missing"),
    ({**NOTHING, "bank": []}, "column 'bank' is unknown"),
    ({"rw": [0, 2], "bg": [0, 0], "ba": [0, 0], "ro": [0, 0], "arrival": [0, 0]}, "row 1: rw is 2, but hbm2-neupims has rw 0 to 1"),
    ({"rw": [0], "ra": [2], "bg": [0], "ba": [0], "ro": [0], "arrival": [0]}, "row 0: ra is 2, but hbm2-neupims has ra 0 to 1"),
    ({"rw": [0], "bg": [0], "ba": [0], "ro": [32768], "arrival": [0]}, "row 0: ro is 32768"),
    ({"rw": [0], "bg": [0], "ba": [0], "ro": [0], "co": [16], "arrival": [0]}, "row 0: co is 16"),
    ({"rw": [0], "bg": [0], "ba": [0], "ro": [0.5], "arrival": [0]}, "row 0: ro is 0.5. Expected a whole number"),
    ({"rw": [0], "bg": [0], "ba": [0, 1], "ro": [0], "arrival": [0]}, "column 'ba' has 2 entries but 'rw' has 1"),
    ({"rw": [0], "bg": [0], "ba": [0], "ro": [0], "arrival": [-1]}, "row 0: arrival is -1"),
    ({"rw": [0, 0], "bg": [0, 0], "ba": [0, 0], "ro": [0, 0], "arrival": [9, 8]}, "row 1: arrival is 8, before 9 of the row before"),
]


@pytest.mark.parametrize(("asked", "said"), BAD)
def test_a_bad_request_table_is_named(asked: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"request table: {said}"):
        contend(PARTS["dual", True], NO_BLOCKS, asked, policy="pim-first")


def test_an_unknown_policy_and_a_bad_stream_are_named() -> None:
    part = PARTS["dual", True]
    with pytest.raises(ValueError, match=r"policy 'pim_first' is unknown.*Expected one of pim-first"):
        contend(part, NO_BLOCKS, NOTHING, policy="pim_first")
    lines = attention(part).lines.copy()
    lines[3, 1] = 32
    with pytest.raises(ValueError, match=r"command 3 of the stream: bank 32 is not in 0\.\.31"):
        contend(part, attention(part)._replace(lines=lines), NOTHING, policy="pim-first")
