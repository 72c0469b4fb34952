"""Query heads that share a key row in PIM: closed forms of tiles against the commands that the engine issues."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import ceil
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from gemvane.sim.dram.check import check
from gemvane.sim.dram.part import load
from gemvane.sim.dram.pimpart import Issued, PimPart, new_state, pim_part, run
from gemvane.sim.dram.pimstream import Attention, Block, Swap, score_blocks, stream, tile, value_blocks

Layout = Callable[..., list[Block]]
DEVICE: dict[str, Layout] = {"score": score_blocks, "value": value_blocks}
OPEN, CLOSE, LOAD, STEP, FILL = 106, 35, 96, 2, 6
BANKS, ROW, LANES = 32, 512, 16


class Tiles(NamedTuple):
    """An operator by its geometry, with a vector buffer for the whole group."""

    tiles: int
    passes_cycles: int
    gwrites: int

    @property
    def cycles(self) -> int:
        """Without refresh."""
        return self.tiles * (OPEN + CLOSE) + self.passes_cycles + self.gwrites * LOAD


def closed(kind: str, op: Attention) -> Tiles:
    """Keys: tokens over banks, neighbouring heads in a row, long keys in pieces. Values: dimensions over banks, tokens along a row."""
    tokens, heads, dim, group = op
    if kind == "score":
        pieces, row_heads = -(-dim // ROW), max(1, ROW // dim)
        rows, steps = pieces * -(-heads // row_heads), max(-(-ceil(dim / pieces) // LANES), FILL)
        tiles = -(-tokens // BANKS)
        return Tiles(tiles * rows, tiles * heads * pieces * group * STEP * (steps + 1), rows * group)
    chunks = [min(ROW, tokens - first) for first in range(0, tokens, ROW)]
    tiles, steps = -(-dim // BANKS), sum(max(-(-chunk // LANES), FILL) + 1 for chunk in chunks)
    return Tiles(heads * len(chunks) * tiles, heads * tiles * group * STEP * steps, heads * len(chunks) * group)


def issue(part: PimPart, kind: str, op: Attention, *, vectors: int, record: bool = False) -> Issued:
    return run(part, stream(DEVICE[kind](part, op, vectors=vectors)), new_state(part), record=record)


def ticks(part: PimPart, issued: Issued, command: str) -> list[int]:
    return issued.commands[issued.commands[:, 1] == part.id(command), 0].tolist()


@pytest.mark.parametrize("group", [1, 4, 8])
@pytest.mark.parametrize("heads", range(1, 9))
def test_the_period_of_a_key_tile_is_that_of_the_closed_form(group: int, heads: int) -> None:
    part, dim = pim_part(refresh=False), 64  # eight heads fill a row
    steps = max(dim // 16, 6)
    t = closed("score", Attention(32, heads, dim, group))
    period = t.cycles - group * LOAD
    assert period == OPEN + group * heads * STEP * (steps + 1) + CLOSE
    for vectors, loads in ((group, 0), (1, group - 1)):
        issued = issue(part, "score", Attention(4 * 32, heads, dim, group), vectors=vectors, record=True)
        assert np.diff(ticks(part, issued, "P_HEADER"))[1:].tolist() == [period + loads * LOAD] * 2
        assert issued.counts["GWRITE"] == group + 3 * loads


@pytest.mark.parametrize("group", [1, 4, 8])
@pytest.mark.parametrize("tokens", [16, 128, 512])
def test_the_period_of_a_value_tile_is_that_of_the_closed_form(group: int, tokens: int) -> None:
    part = pim_part(refresh=False)
    t = closed("value", Attention(tokens, 1, 32, group))
    period = t.cycles - group * LOAD
    assert period == OPEN + group * STEP * (max(tokens // 16, 6) + 1) + CLOSE
    for vectors, loads in ((group, 0), (1, group - 1)):
        issued = issue(part, "value", Attention(tokens, 1, 4 * 32, group), vectors=vectors, record=True)
        assert np.diff(ticks(part, issued, "P_HEADER"))[1:].tolist() == [period + loads * LOAD] * 2


GRID = list(product((100, 512, 1000, 2048), (1, 3, 8), (64, 80, 128, 256), (1, 4, 8)))


@pytest.mark.parametrize("kind", DEVICE)
def test_a_whole_operator_without_refresh_takes_its_tiles_but_for_its_ends(kind: str) -> None:
    """To the cycle: the first vector's row is opened (14, and its own command), the last tile ends with the issue of its last dot product,
    and a load between two tiles does not wait the three cycles that a precharge waits for the end of the last step."""
    part = pim_part(refresh=False)
    for op in [Attention(*one) for one in GRID] + [Attention(100, 2, 576, 4)]:
        t = closed(kind, op)
        issued = issue(part, kind, op, vectors=op.group)
        assert issued.counts["P_HEADER"] == t.tiles
        assert issued.counts["GWRITE"] == t.gwrites
        tokens_left = op.tokens - (op.tokens - 1) // 512 * 512
        last = max(-(-(op.head_dim // -(-op.head_dim // 512) if kind == "score" else tokens_left) // 16), 6)
        ends = 14 + 1 - (STEP * (last + 1) + CLOSE) - 3 * (t.gwrites // op.group - 1)
        assert issued.end + 1 == t.cycles + ends, op


def test_a_vector_buffer_for_one_vector_loads_it_again_in_every_row() -> None:
    part, op = pim_part(refresh=False), Attention(2048, 1, 128, 8)
    t = closed("score", op)
    loads = {vectors: issue(part, "score", op, vectors=vectors).counts["GWRITE"] for vectors in (1, 2, 3, 4, 8, 100)}
    assert loads == {1: 64 * 7 + 1, 2: 64 * 6 + 2, 3: loads[3], 4: 64 * 4 + 4, 8: t.gwrites, 100: 8}
    assert loads[4] < loads[3] < loads[2]
    late = 11  # the second vector's row is opened once, under the first tile's tFAW
    ends = {vectors: issue(part, "score", op, vectors=vectors).end for vectors in (1, 8)}
    assert ends[1] - ends[8] == (64 - 1) * 7 * LOAD + late


def test_a_single_row_buffer_opens_every_row_once_for_each_set_of_vectors() -> None:
    part, op = pim_part(buffers="single", refresh=False), Attention(256, 4, 128, 4)
    headers = [issue(part, "score", op, vectors=vectors).counts["P_HEADER"] for vectors in (1, 2, 3, 4)]
    assert headers == [4 * 8, 2 * 8, 2 * 8, 8]


@pytest.mark.parametrize("buffers", ["dual", "single"])
@pytest.mark.parametrize("vectors", [1, 3, 8])
def test_the_commands_are_legal_complete_and_refreshed(buffers: str, vectors: int) -> None:
    part = pim_part(buffers=buffers)  # type: ignore[arg-type]
    loaded = load("hbm2-neupims")
    timings = {**loaded.spec.timings, "nSINGLE": int(buffers == "single")}
    rules = replace(loaded, spec=loaded.spec.model_copy(update={"timings": timings}))
    result = "COMPS_READRES" if buffers == "dual" else "READRES"
    for kind, op, results in (
        ("score", Attention(1000, 3, 128, 8), 32 * 3 * 8),
        ("value", Attention(300, 2, 128, 8), 2 * 4 * 8),
        ("value", Attention(300, 1, 64, 40), 2 * 40),
    ):
        issued = issue(part, kind, op, vectors=vectors, record=True)
        frame = pd.DataFrame(issued.commands[:, :5], columns=["tick", "command", "bank", "ro", "steps"])
        frame = frame.assign(command=np.array(part.commands, object)[frame["command"]], ra=frame["bank"] // 16,
                             bg=frame["bank"] // 4 % 4, ba=frame["bank"] % 4)  # fmt: skip
        assert check(frame, rules) == []
        assert issued.counts[result] == results
        assert issued.refreshes == issued.counts["REFab"] > 0


@pytest.mark.parametrize("buffers", ["dual", "single"])
@pytest.mark.parametrize(("group", "vectors"), [(1, 1), (8, 1), (8, 4), (8, 8), (40, 1), (64, 32)])
def test_every_row_meets_every_vector_that_is_then_in_the_buffer(buffers: str, group: int, vectors: int) -> None:
    part = pim_part(buffers=buffers, refresh=False)  # type: ignore[arg-type]
    issued = issue(part, "score", Attention(5 * 32, 3, 128, group), vectors=vectors, record=True)
    held: list[tuple[int, int]] = []
    open_row, results, met = -1, 0, Counter[tuple[int, tuple[int, int]]]()
    for _, command, bank, row, *_ in issued.commands.tolist():
        name = part.commands[command]
        if name == "GWRITE":
            held, results = [*held, (bank, row)][-vectors:], 0
        elif name == "G_ACT":
            open_row, results = row, results if row == open_row else 0
        elif name == ("COMPS_READRES" if buffers == "dual" else "READRES"):
            met[open_row, held[results // 3]] += 1  # three heads a row
            results += 1
    assert len(met) == 5 * group
    assert set(met.values()) == {3}


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="group of 0 query heads, vector buffer for 1 vectors"):
        score_blocks(pim_part(), Attention(32, 1, 128, 0))
    with pytest.raises(ValueError, match="cannot change its vector where a bank has a single row buffer"):
        tile(pim_part(buffers="single"), row=1, dots=1, steps=8, swaps=[Swap(((0, 0),), 1)])
