"""NeuPIMs stage by stage: closed forms, what the NPU's operators load and store and when, and the errors reached over the table."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from gemvane.sim.dram.pimpart import PimPart, new_state, pim_part, run
from gemvane.sim.dram.pimstream import Attention, score_blocks, sent_streams, stream, value_blocks
from gemvane.sim.kernels.pimissue import RELEASE
from gemvane.validate.oracles import neupims
from gemvane.validate.oracles.neupims_npu import (
    Access,
    Begun,
    Operator,
    Step,
    accesses,
    by_rows,
    gemm,
    program,
    requests,
    softmax_cycles,
    step_ends,
)
from gemvane.validate.oracles.neupims_stages import Stage, cycles, stored_bytes

TABLE = "pim/neupims_oracle_dev.csv"
TRACE = "pim/neupims_cmdtrace_b32_s128_t512_ch0.csv"
FREE = pim_part(compat=True, refresh=False)
UNKNOWN = np.zeros(0, np.int64)
SINGLE = pim_part(buffers="single", compat=True)
SINGLE_FREE = pim_part(buffers="single", compat=True, refresh=False)


def refresh_free(requests: int, tokens: int, heads: int = 4) -> int:
    """Sum of the periods: vector load 96, key tile 197, value tile 143, and 93 more for each vector load before values."""
    chunks, tiles = -(-tokens // 512), -(-tokens // 32)
    return requests * (96 + tiles * 197 + heads * chunks * (93 + 4 * 143))


@pytest.mark.parametrize(("count", "tokens", "expected"),
                         [(1, 128, 3544), (1, 512, 5908), (2, 512, 11816), (4, 128, 14176), (1, 1024, 11720)])
def test_tiles_of_a_channel_add_up_to_the_closed_form(count: int, tokens: int, expected: int) -> None:
    op = Attention(tokens, 4, 128)
    issued = run(FREE, stream(count * score_blocks(FREE, op) + count * value_blocks(FREE, op)), new_state(FREE))
    first, last = issued.commands[[0, -1], 0]
    opened, closed, loads = 14, 5 + 32, 3 * (count - 1)     # first row of a vector; after the last dot product; a load waits 2, not 5
    assert refresh_free(count, tokens) == expected
    assert last - first == expected + opened - closed - loads


@pytest.mark.parametrize(("count", "tokens"), [(32, 128), (64, 512), (64, 1024)])
def test_attention_is_its_tiles_then_softmax_of_all_heads_one_by_one(count: int, tokens: int) -> None:
    each = count // 32
    found = cycles(Stage(0, 0, 4, tokens, count, ()), FREE)
    # as above, and the values' first load comes with the end of the pause, not a cycle after it
    assert found.pim_busy == refresh_free(each, tokens) + 14 - 37 - 3 * (each - 1)
    heads = 4 * (count - each + 1)
    softmax = heads - 1 + softmax_cycles(tokens) + (17 + 4 + 3)              # results to the core, stores, the next request
    additions = 4 * heads - 1 + 2 + 4 if tokens > 512 else 0
    assert found.stage == found.attention == 3 + found.pim_busy - 1 + softmax - 1 + 17 + additions + 3


def test_softmax_takes_two_trees_and_three_operations_of_a_length_in_bytes() -> None:
    for tokens, adds, pieces in ((64, 1, 1), (128, 2 + 1, 2), (512, 8 + 1, 8), (2048, 32 + 1, 32), (16384, 256 + 2 + 1, 256)):
        assert softmax_cycles(tokens) == 2 * adds + 3 * pieces


def test_channels_with_fewer_requests_are_busy_for_less() -> None:
    one, two = (cycles(Stage(0, 0, 4, 128, count, ()), FREE).pim_busy for count in (32, 64))
    assert cycles(Stage(0, 0, 4, 128, 16, ()), FREE).pim_busy == one / 2
    assert one < cycles(Stage(0, 0, 4, 128, 48, ()), FREE).pim_busy < two


@pytest.mark.parametrize(("part", "tokens", "keys", "values"),
                         [(FREE, 128, 21, 36), (SINGLE, 128, 149, 164), (SINGLE, 512, 593, 548), (SINGLE, 1024, 1185, 1096)])
def test_a_request_is_so_many_sent_commands(part: PimPart, tokens: int, keys: int, values: int) -> None:
    """One vector load for keys, and one for each head (and 512 tokens) of values; a header, steps and result reads for each tile."""
    op = Attention(tokens, 4, 128)
    for blocks, count in ((score_blocks(part, op), keys), (value_blocks(part, op), values)):
        one, two, three = (s.needs[:, RELEASE] for s in sent_streams(part, [stream(blocks)] * 2 + [stream([])], start=7, width=1))
        assert (one[0], one[1], two[0], three.size) == (7, 8, 7 + count, 0)
        assert (two - one == count).all()
        last = sent_streams(part, [stream(blocks)] * 2, start=7, width=4)[1].needs[:, RELEASE]
        assert (last == 7 + (two - 7) // 4).all()
        assert (sent_streams(part, [stream(blocks)] * 2, start=7, width=None)[1].needs[:, RELEASE] == 7).all()


def test_with_an_issue_width_channels_start_one_after_the_other() -> None:
    found = cycles(Stage(0, 0, 4, 128, 32, (), issue_width=1), SINGLE_FREE)
    keys = 14 + 96 + 1 + 3 * 213 + 106 + 4 * 18 - 2             # row and load of the vector, its bank closed; to the last result
    head = 14 + 14 + 96 + 32 + 3 * 159 + 106 + 2 * 9 - 2
    values = 3 * (head + 5) + head
    assert found.pim_busy == keys + 1 + values + 1
    scored = 3 + 31 * 149 + keys
    begun = scored + 17 + 3 + softmax_cycles(128) + 4 + 3
    assert found.stage == begun + 31 * 164 + values + 17 + 3
    assert cycles(Stage(0, 0, 4, 128, 32, ()), SINGLE_FREE).stage == found.stage - 31 * (149 + 164) + 31 * 4


@pytest.mark.parametrize(("start", "count", "tokens", "expected"),
                         [(2279, 32, 128, 14828), (2304, 64, 512, 90030), (3151, 128, 512, 180626)])
def test_stages_of_the_published_single_buffer_branch(start: int, count: int, tokens: int, expected: int) -> None:
    """Measured with casys-kaist/NeuPIMs e51a4af, which sends one PIM command a cycle."""
    assert cycles(Stage(start, 0, 4, tokens, count, (), issue_width=1), SINGLE).stage == expected


def test_an_issue_width_is_at_least_one_and_stands_alone() -> None:
    with pytest.raises(ValueError, match="issue width is 0; want at least one command a tick"):
        sent_streams(FREE, [], start=0, width=0)
    with pytest.raises(ValueError, match="issue width is 1 in a stage with NPU operators"):
        cycles(Stage(0, 0, 4, 128, 32, tuple(program("B", 16, 512)), issue_width=1), FREE)


def test_a_gemm_loads_each_operand_once_and_preloads_activations() -> None:
    one = gemm(32, 512, 1536)
    assert sum(one.loads) == 128 + 512 * 1536 + 32 * 512
    assert len(one.steps) == 4 * 12 and sum(step.preloads for step in one.steps) == 4
    two = gemm(200, 512, 1536)
    assert sum(two.loads) == 128 + 512 * 1536 + 200 * 512 and len(two.steps) == 2 * 4 * 12


@pytest.mark.parametrize(("tokens", "stored"), [(16, 16 * 128), (128, 128 * 128), (200, 200 * 256), (600, 512 * 512)])
def test_of_a_gemms_results_only_those_inside_the_product_are_stored(tokens: int, stored: int) -> None:
    assert sum(step.stored_elements for step in gemm(tokens, 256, 512).steps) == stored


def test_blocks_follow_each_other_and_a_preload_costs_the_height_of_the_array() -> None:
    one = gemm(32, 512, 1536)
    ends = step_ends(one, [0] * len(one.loads), 0)
    assert ends[0] == 1 + 255 + 270
    assert (np.diff(ends) == [*(11 * [16] + [128]) * 3, *11 * [16]]).all()


def test_an_empty_array_starts_anew_and_steps_stay_in_order() -> None:
    late = Operator((1, 1, 1), (Step((0,), 0, True), Step((2,), 0), Step((1,), 0)))
    assert step_ends(late, [10, 20, 5000], 0) == [10 + 255 + 270, 5000 + 270, 5000 + 16 + 270]


def test_rows_go_through_the_vector_units_one_a_cycle() -> None:
    norm = by_rows(3, 512, 5, parameters=2)
    assert norm.loads == (512,) * 5 and norm.steps[1].needs == (0, 1, 3)
    assert step_ends(norm, [50, 10, 20, 30, 40], 0) == [55, 56, 57]


def test_stages_hold_the_operators_of_the_table() -> None:
    kinds = {stage: ["norm" if one.vector_cycles > 1 else "vector" if one.vector_cycles else "gemm" for one in program(stage, 32, 512)]
             for stage in "ABCDEF"}  # fmt: skip
    rest, qkv = ["gemm", "vector", "norm", "gemm", "vector", "gemm", "vector"], ["norm", "gemm"]
    assert kinds == {"A": qkv, "B": qkv, "C": rest + qkv, "D": rest + qkv, "E": rest, "F": rest}


def test_every_line_of_a_stage_is_asked_for_once_where_the_counter_stands() -> None:
    norm, qkv = program("A", 32, 512)
    asked = requests(accesses([norm, qkv], [Begun(0, np.zeros(32, np.int64)), Begun(1, UNKNOWN)]), 0, 512)
    reads, writes = (asked.line[asked.write == write] for write in (0, 1))
    lines = (2 * 512 + 32 * 512 + 128 + 512 * 1536 + 32 * 512) // (32 * 32)
    assert lines <= len(reads) <= lines + 2 and len(set(reads.tolist())) == len(reads)
    assert 20 <= len(writes) <= 22 and len(set(writes.tolist())) == len(writes)      # 32 x 512 and 32 x 128 elements
    assert (np.diff(asked.line[(asked.operator == 1) & (asked.write == 1)]) > 0).all()
    assert requests(accesses([norm], [Begun(0, UNKNOWN)]), 1280 * 2048, 512).line[0] == 0        # the window is over
    assert requests([], 0, 512).line.size == 0


def test_what_is_stored_between_moves_the_addresses_of_what_comes_after() -> None:
    line = 32 * 32                                                  # elements, of all channels
    add = Operator((line, line), (Step((0,), line), Step((1,), line)), 1)
    known = accesses([add], [Begun(5, np.array([20, 30]))])
    attention = [Access(20, True, 3 * line), Access(6, True, line)]
    for found in (known + attention, attention + known):
        asked = requests(found, 64 * 32, 512)
        # both ends of a range are asked for: the counter goes up before it is used
        assert asked.line.tolist() == [1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 8, 9]
        assert asked.cycle.tolist() == [5] * 3 + [6] * 2 + [20] * 6 + [30] * 2
        assert asked.operator.tolist() == [0] * 3 + [-1] * 2 + [0] * 2 + [-1] * 4 + [0] * 2


def test_the_npu_asks_for_what_the_trace_reads(shared_data: object) -> None:
    trace = pd.read_csv(f"{shared_data}/{TRACE}")
    reads = trace[trace.cmd == "READ"]
    position, first, count = 0, [], 0
    for stage in ("A", "E"):
        for operator in program(stage, 32, 512):
            asked = requests(accesses([operator], [Begun(0, UNKNOWN)]), position, 512)
            position += 2 * operator.elements
            count += int((asked.write == 0).sum())
            first.append(int(asked.line[0]))
        position += stored_bytes(32, 4, 128, FREE)
    assert 0 <= count - len(reads) <= 1          # a line still in the write buffer is not read from the memory
    for clock, operator in ((18, 0), (8164, 3), (11302, 6), (15191, 8)):
        (row,) = reads[reads.clk == clock].itertuples()
        assert (row.rank * 16 + row.bankgroup * 4 + row.bank, row.row) == (first[operator] // 16 % 32, first[operator] // 512)


@pytest.fixture(scope="module")
def result(shared_data: object) -> dict[str, Any]:
    """The whole development half."""
    return neupims.compare(pd.read_csv(f"{shared_data}/{TABLE}"))


def worst(result: dict[str, Any], what: str, mode: str = "") -> list[tuple[float, str, str]]:
    """Errors, the largest first, with row and stage."""
    rows = [(abs(one["error"]), one["tag"], one["stage"]) for one in result["detail"] if one["what"] == what and mode in one["mode"]]
    return sorted(rows, reverse=True)


def test_every_stage_with_pim_or_npu_work_is_compared(result: dict[str, Any]) -> None:
    assert (result["rows"], result["compared"]) == (17, 84)
    assert {what: len(worst(result, what)) for what in ("pim_busy", "attention_stage", "npu_stage")} == {
        "pim_busy": 27, "attention_stage": 27, "npu_stage": 30}  # fmt: skip
    assert {row["reason"][0] for row in result["skipped"]} == {"N"}


def test_pim_busy_cycles_are_those_of_the_reference_runs(result: dict[str, Any]) -> None:
    assert np.mean([error for error, *_ in worst(result, "pim_busy")]) < 0.0023
    assert worst(result, "pim_busy", "dual row buffers, alone")[0][0] < 0.0105
    assert worst(result, "pim_busy", "single row buffers, alone")[0][0] < 0.001
    assert worst(result, "pim_busy", "issue width 1")[0][0] < 0.0014
    assert worst(result, "pim_busy", "beside NPU traffic")[0][0] < 0.017


def test_attention_stages_alone_are_within_a_percent(result: dict[str, Any]) -> None:
    assert worst(result, "attention_stage", "single row buffers, alone")[0][0] == 0
    narrow = worst(result, "attention_stage", "issue width 1")
    assert narrow[0][0] < 0.0001 and sum(error == 0 for error, *_ in narrow) == 2
    dual = worst(result, "attention_stage", "dual row buffers, alone")
    assert dual[0][0] < 0.01 and sum(error == 0 for error, *_ in dual) == 3


def test_attention_stages_beside_the_npu_are_within_five_percent_but_for_one(result: dict[str, Any]) -> None:
    first, *others = worst(result, "attention_stage", "beside NPU traffic")
    assert first[0] < 0.054 and others[0][0] < 0.043
    assert np.mean([error for error, *_ in (first, *others)]) < 0.013


def test_up_to_eight_writes_are_left_to_the_next_stage() -> None:
    part, operators = pim_part(compat=True), (by_rows(8, 512, 1),)
    own = cycles(Stage(0, 0, 4, 128, 0, operators), part).left
    assert own == (4, 5, 6, 7, 8)
    for before, drained in (((600, 601, 602), False), ((600, 601, 602, 603), True)):
        left = cycles(Stage(0, 0, 4, 128, 0, operators, left=before), part).left
        assert (left != before + own) is drained and set(left) <= {*before, *own}


def test_stages_of_the_npu_alone_are_two_percent_off_in_the_mean(result: dict[str, Any]) -> None:
    narrow = [error for error, *_ in worst(result, "npu_stage", "issue width 1")]
    errors = [error for mode in ("buffers, alone", "beside") for error, *_ in worst(result, "npu_stage", mode)]
    assert len(errors) + len(narrow) == 30
    assert np.mean(errors) < 0.017 and max(errors) < 0.095
    assert sum(error > 0.05 for error in errors) == 2
    assert np.mean(narrow) < 0.035 and narrow[0] < 0.095
