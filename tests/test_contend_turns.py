"""Service `in-turn`: a queue for each bank, which take turns, and a direction that is kept."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gemvane.sim.dram.check import check
from gemvane.sim.dram.contend import Contended, contend
from gemvane.sim.dram.part import load
from gemvane.sim.dram.pimpart import PimPart, pim_part
from gemvane.sim.dram.pimstream import Attention, score_blocks, stream, value_blocks
from gemvane.sim.kernels import contend as kernels

PART = pim_part(compat=True, refresh=False)


def serve(banks: list[int], *, write: list[int] | int = 0, arrival: list[int] | int = 0, part: PimPart = PART, **more: Any) -> Contended:
    bank = np.array(banks)
    table = pd.DataFrame({"rw": write, "ra": bank // 16, "bg": bank // 4 % 4, "ba": bank % 4, "ro": 0, "arrival": arrival})
    return contend(part, stream([]), table, policy="pim-first", record=True, **more)


def order(done: Contended, part: PimPart = PART) -> list[tuple[str, int]]:
    """Reads and writes as they were issued, each with its bank."""
    return [(part.commands[command], bank) for _, command, bank, *_ in done.commands.tolist() if part.commands[command] in ("RD", "WR")]


def test_banks_take_turns_where_the_other_service_finishes_one_after_the_other() -> None:
    banks = [0] * 20 + [5] * 20 + [9] * 20
    turns = [bank for _, bank in order(serve(banks, service="in-turn"))]
    assert turns[30:48] == [0, 5, 9] * 6
    assert sorted(turns) == banks
    assert [bank for _, bank in order(serve(banks))] == banks


def test_a_rank_is_left_when_nothing_in_it_waits() -> None:
    ranks = [bank // 16 for _, bank in order(serve([0, 16] * 30 + [1, 17] * 30, service="in-turn"))]
    assert np.count_nonzero(np.diff(ranks)) == 1


def test_few_writes_wait_until_a_ninth_comes() -> None:
    reads, late = [0] * 40, [1] * 9
    for count in (8, 9):
        done = serve(reads + late[:count] + [2] * 40, write=[0] * 40 + [1] * count + [0] * 40,
                     arrival=[0] * (40 + count) + [400] * 40, service="in-turn")  # fmt: skip
        names = [name for name, _ in order(done)]
        assert names == (["RD"] * 40 + ["WR"] * 9 + ["RD"] * 40 if count == 9 else ["RD"] * 80 + ["WR"] * 8)


def test_writes_that_have_begun_go_on_while_reads_wait() -> None:
    for count in (8, 9):
        done = serve([1] * count + [0] * 60, write=[1] * count + [0] * 60, arrival=[0] * count + [30] * 60, service="in-turn")
        names = [name for name, _ in order(done)]
        assert names == (["WR"] * 9 + ["RD"] * 60 if count == 9 else ["RD"] * 60 + ["WR"] * 8)


@pytest.mark.parametrize("refresh", [False, True])
def test_every_request_is_served_once(refresh: bool) -> None:
    part = pim_part(compat=True, refresh=refresh)
    rng = np.random.default_rng(3)
    banks, write = rng.integers(0, 32, 3000).tolist(), rng.integers(0, 2, 3000).tolist()
    done = serve(banks, write=write, arrival=np.sort(rng.integers(0, 9000, 3000)).tolist(), part=part, service="in-turn")
    assert sorted(order(done, part)) == sorted((("RD", "WR")[one], bank) for one, bank in zip(write, banks, strict=True))
    assert (done.latency_ticks > 0).all()


def test_commands_beside_pim_are_legal_and_plain_python_issues_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    part, op = pim_part(), Attention(64, 4, 128)
    blocks = stream([*score_blocks(part, op), *value_blocks(part, op)])
    bank = np.arange(300) // 16 % 32
    table = {"rw": np.arange(300) // 40 % 2, "ra": bank // 16, "bg": bank // 4 % 4, "ba": bank % 4, "ro": 5000 + np.arange(300) // 100,
             "arrival": 3 * np.arange(300)}  # fmt: skip
    done = contend(part, blocks, table, policy="pim-first", service="in-turn", record=True)
    frame = pd.DataFrame(done.commands[:, :5], columns=["tick", "command", "bank", "ro", "steps"])
    frame = frame.assign(command=np.array(part.commands, object)[frame["command"]], ra=frame["bank"] // 16, bg=frame["bank"] // 4 % 4,
                         ba=frame["bank"] % 4)  # fmt: skip
    loaded = load(part.name)
    assert check(frame, replace(loaded, spec=loaded.spec.model_copy(update={"timings": part.timings}))) == []
    monkeypatch.setattr(kernels, "contend_kernel", kernels.contend_kernel.py_func)
    plain = contend(part, blocks, table, policy="pim-first", service="in-turn", record=True)
    assert np.array_equal(plain.commands, done.commands) and np.array_equal(plain.latency_ticks, done.latency_ticks)


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(ValueError, match=r"service 'in-trun' is unknown \(did you mean 'in-turn'\?\)\. Expected one of first-ready"):
        serve([0], service="in-trun")
