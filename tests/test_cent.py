"""CENT's system on our command engine: published rows, what the mapping counts, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from gemvane.cli import app
from gemvane.sim.dram.pimpart import pim_part
from gemvane.validate.oracles import cent
from gemvane.validate.oracles.cent import MODELS, Latency, accelerator_ms, compare, cxl_ms, latency, system
from gemvane.validate.oracles.cent_block import BANKS, Channel, Llama, Place, block_ticks, linear, scores, values

PART = pim_part("gddr6-aim-16000", refresh=False)
SMALL = Llama(1024, 2048, 8, 8, 4)
HEADS = ("Model", "Device number", "Pipeline parallelism", "Tensor parallelism", "Channels per device", "Channels per block",
         "Sequence length", *cent.COLUMNS)
PUBLISHED = [  # Yufeng98/CENT 8c79786 (MIT), cent_simulation/simulation_results.csv
    ("Llama2-7B", 8, 1, 8, 32, 32, 128, 0.0189785, 0.0042958331044514, 0.00233, 0.0256043331, 0.0112625, 0.9806011593424478,
     1019.7826001659638),
    ("Llama2-13B", 20, 1, 20, 32, 32, 512, 0.026613, 0.0094062218148367, 0.00455525, 0.0405744718148367, 0.010106, 1.7830848725934711,
     560.8257999214106),
    ("Llama2-13B", 20, 40, 1, 32, 16, 4096, 0.2729445, 0.0006398072596958, 0.0399105, 0.3134948072, 0.1499815, 12.839773790387836,
     3115.3196818735983),
    ("Llama2-70B", 32, 80, 1, 32, 10, 30976, 2.719773, 0.0014614998626708985, 0.646101, 3.3673354998, 0.382388, 269.9192279890136,
     296.384961516177),
    ("Llama2-70B", 32, 4, 8, 32, 32, 1024, 0.0671965, 0.0227236024475097, 0.0094469999999999, 0.0993671024, 0.0192475, 8.11861569580078,
     492.69483245387926),
]  # fmt: skip


def row(**changes: object) -> dict[str, object]:
    return {**dict(zip(HEADS, PUBLISHED[0], strict=True)), **changes}


@pytest.mark.parametrize("published", PUBLISHED)
def test_published_rows_within_a_percent_and_their_closed_forms_exactly(published: tuple[Any, ...]) -> None:
    name, devices, stages, shared, _, channels, tokens, *theirs = published
    ours = latency(MODELS[name], system(MODELS[name], devices, stages, shared, channels), tokens)
    assert (ours.cxl, ours.accelerator) == pytest.approx(theirs[1:3], rel=1e-9)
    assert ours == pytest.approx(theirs, rel=0.008)
    assert ours.token == pytest.approx(theirs[5], rel=0.005)


def test_a_latency_is_the_sum_of_its_parts() -> None:
    model = MODELS["Llama2-7B"]
    one = latency(model, system(model, 8, 8, 1, 32), 512)
    assert one.block == one.pim + one.cxl + one.accelerator
    assert one.token == pytest.approx(32 * one.block + one.embedding + 0.15)
    assert one.throughput * one.token == pytest.approx(8 * 1000)


def test_every_eighth_row_of_the_shipped_results(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "pim" / "cent_simulation_results.csv").iloc[::8]
    found = compare(table)
    assert (found["compared"], found["skipped"]) == (len(table), [])
    assert found["exact"] == found["columns"]["CXL latency"] == found["columns"]["Acc latency"] == len(table)
    assert found["mape"] < 0.002 and found["max_error"] < 0.008
    assert found["token"]["mape"] < 0.0015 and found["token"]["max_error"] < 0.005


@pytest.mark.parametrize(("inputs", "outputs", "rows"), [(1024, 512, 1), (4096, 1024, 8), (11008, 512, 11), (2048, 40 * 512, 80)])
def test_a_matrix_takes_a_step_for_sixteen_weights_of_a_bank(inputs: int, outputs: int, rows: int) -> None:
    channel = Channel(PART)
    linear(channel, inputs, outputs, 512)
    counts = channel.issued().counts
    assert counts["MACAB"] * 16 * 512 == inputs * outputs
    assert counts["ACT16"] == rows == -(-outputs // 512) * -(-inputs // 1024)
    assert counts["WR_GB"] * 16 == inputs
    assert counts["WR_BIAS"] == counts["RD_MAC"] == rows


def test_one_more_row_of_weights_takes_its_opening_its_steps_and_its_result() -> None:
    """Precharge 32, activation to MAC 56, 64 MACs 2 apart, 12 to the next precharge; a bias of 2; a result read of 3."""
    two, three = Channel(PART), Channel(PART)
    linear(two, 1024, 2 * 512, 512)
    linear(three, 1024, 3 * 512, 512)
    assert three.ticks() - two.ticks() == 32 + 56 + 2 * 63 + 12 + 2 + 3


def test_more_results_than_accumulators_are_read_in_sets() -> None:
    """33 rows a bank are two sets, between which the chip changes from its rows to its registers and back."""
    ticks, modes = [], []
    for columns in (32, 33):
        channel = Channel(PART)
        linear(channel, 1024, columns * BANKS, BANKS)
        ticks.append(channel.ticks())
        modes.append(channel.issued().counts["TMOD"])
    assert modes == [1 + 2, 1 + 4]
    assert ticks[1] - ticks[0] > 32 + 56 + 2 * 63 + 2 * 32


def test_an_activation_function_is_applied_result_by_result() -> None:
    channel = Channel(PART)
    linear(channel, 2048, 3 * 512, 512, activation=True)
    counts = channel.issued().counts
    assert (counts["AF"], counts["RD_AF"]) == (3, 3)
    assert counts["TMOD"] == 3 + 1 + 5  # to and from the rows of the first piece, to those of the second, then AF and RD_AF in turns


@pytest.mark.parametrize(("tokens", "turns"), [(1, 1), (512, 1), (513, 2), (1024, 2)])
def test_keys_lie_token_over_token_in_the_banks(tokens: int, turns: int) -> None:
    """8 heads of 128 fill a row: a row each for as many tokens as there are banks, 8 dot products of 8 steps."""
    channel = Channel(PART)
    scores(channel, SMALL, Place(32), tokens)
    counts = channel.issued().counts
    assert (counts["ACT16"], counts["RD_MAC"], counts["MACAB"]) == (turns, 8 * turns, 64 * turns)


def test_the_queries_of_a_group_share_an_open_row() -> None:
    one, four = Channel(PART), Channel(PART)
    scores(one, SMALL, Place(32), 512)
    scores(four, SMALL._replace(heads=32), Place(32), 512)
    assert four.issued().counts["ACT16"] == one.issued().counts["ACT16"]
    assert four.issued().counts["MACAB"] == 4 * one.issued().counts["MACAB"]


@pytest.mark.parametrize(("channels", "heads"), [(32, 1), (8, 1), (4, 2), (3, 3)])
def test_values_lie_a_head_a_channel(channels: int, heads: int) -> None:
    """128 dimensions, 16 at a time; 1,500 tokens are a full row and a part of 30 steps."""
    channel = Channel(PART)
    values(channel, SMALL, Place(channels), 1500)
    counts = channel.issued().counts
    assert (counts["ACT16"], counts["MACAB"]) == (heads * 8 * 2, heads * 8 * (64 + 30))


def test_blocks_on_one_device_wait_for_its_controller() -> None:
    """Four blocks on eight channels each: element-wise operands come one a clock for all four."""
    model = MODELS["Llama2-7B"]
    near, far = (block_ticks(PART, model, Place(8), tokens) for tokens in (1024, 2048))
    accesses = 6 * 4 * 32 * 1024 // 16
    assert far - near > accesses


@pytest.mark.parametrize("name", MODELS)
def test_more_devices_are_faster_and_more_tokens_slower(name: str) -> None:
    model = MODELS[name]
    by_devices = [block_ticks(PART, model, Place(32, devices), 512) for devices in (1, 2, 4, 8)]
    by_tokens = [block_ticks(PART, model, Place(32), tokens) for tokens in (1, 500, 1000, 5000)]
    assert by_devices == sorted(by_devices, reverse=True)
    assert by_tokens == sorted(by_tokens)


def test_links_carry_whole_flits_and_cost_a_hop() -> None:
    """18 lanes of 4 GiB/s; 8,192 B are 43 flits of 256 B."""
    model = MODELS["Llama2-7B"]
    assert cxl_ms(model, system(model, 8, 32, 1, 8)) == pytest.approx(180e-6 + 43 * 256 / (18 * 4 * 2**30) * 1e3)
    alone = cxl_ms(model, system(model, 8, 8, 1, 32))
    assert alone == pytest.approx(12 * 180e-6 + (5 * 43 + 115) * 256 / (18 * 4 * 2**30) * 1e3)


def test_the_accelerator_grows_with_tokens_and_heads_alone() -> None:
    model = MODELS["Llama2-7B"]
    step = accelerator_ms(model, 1512) - accelerator_ms(model, 1000)
    assert step == pytest.approx(512 * 32 / 16 / 32 * (44 + 66) / 2e9 * 1e3)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Model": "GPT3-175B"}, "Model is 'GPT3-175B', not Llama2-7B, Llama2-13B, Llama2-70B"),
        ({"Channels per device": 16}, "Channels per device is 16, not 32"),
        ({"Channels per block": 33}, "33 channels of a block. Expected 1 to 32, those of a device."),
        ({"Tensor parallelism": 4}, "1 stages of 4 devices with 32 channels. Expected all 32 of 8 devices."),
        ({"Pipeline parallelism": 32}, "a stage for each of 32 layers shared by 8 devices. Expected 1."),
        ({"Device number": 200, "Tensor parallelism": 200}, "200 devices. Expected at most 144, one for each lane of the switch."),
        ({"Sequence length": 0}, "Sequence length is 0, not a whole number of at least 1"),
        ({"PIM latency": "n/a"}, "PIM latency is 'n/a', not a number"),
    ],
)
def test_a_row_that_is_not_reproduced_says_why(changes: dict[str, object], reason: str) -> None:
    found = compare(pd.DataFrame([row(**changes)]))
    assert found["skipped"] == [{"row": 0, "reason": reason}]
    assert (found["compared"], found["mape"], found["median_error"], found["token"]["mape"]) == (0, None, None, None)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="column 'CXL latency' is missing"):
        compare(pd.DataFrame([row()]).drop(columns="CXL latency"))


def test_only_an_aim_part_has_these_commands() -> None:
    with pytest.raises(ValueError, match="has PIM commands of style newton; want aim"):
        Channel(pim_part("hbm2-neupims"))


def test_the_command_knows_the_oracle(tmp_path: Path) -> None:
    pd.DataFrame([row()]).to_csv(tmp_path / "rows.csv", index=False)
    done = CliRunner().invoke(app, ["validate", "oracles", "cent", str(tmp_path / "rows.csv"), "--json", "-o", str(tmp_path / "out.csv")])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["oracle"], found["compared"], found["exact"]) == ("cent", 1, 1)
    assert found["by"][0]["group"] == "Llama2-7B, PP 1, TP 8"
    assert {f"{name}_ms" for name in Latency._fields if name != "throughput"} <= set(pd.read_csv(tmp_path / "out.csv").columns)


SEQUENCE = ("Model", "Device number", "Seqlen", "Pipeline parallelism", "Tensor parallelism", "Phase", *cent.TOTALS)
SEQUENCES = [  # Yufeng98/CENT 8c79786 (MIT), the results of whole sequences
    ("Llama2-7B", 8, 4096, 1, 8, "prefill", 0.5339428655833333, 960.8080889203944),
    ("Llama2-7B", 8, 4096, 1, 8, "decoding", 6.262046779083334, 598.4995371934427),
    ("Llama2-7B", 8, 4096, 32, 1, "end2end", 45.36905090644445, 3005.0137438295624),
]


def test_whole_sequences_are_within_a_percent() -> None:
    found = compare(pd.DataFrame(SEQUENCES, columns=SEQUENCE))
    assert (found["compared"], found["skipped"]) == (3, [])
    assert found["max_error"] < 0.01
    assert max(abs(row["throughput_error"]) for row in found["detail"]) < 0.01


def test_a_prefill_and_its_decode_are_the_whole_sequence() -> None:
    rows = [("Llama2-7B", 8, 1024, 8, 1, phase, 1.0, 1.0) for phase in cent.PHASES]
    prefill, decode, whole = (row["ours"] for row in compare(pd.DataFrame(rows, columns=SEQUENCE))["detail"])
    assert prefill + decode == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("column", "value", "reason"), [
    ("Phase", "warm-up", "Phase is 'warm-up', not prefill, decoding, end2end"),
    ("Seqlen", 700, "Seqlen is 700. Expected a multiple of 128 above 512"),
    ("Model", "Llama9", "Model is 'Llama9', not Llama2-7B, Llama2-13B, Llama2-70B"),
    ("Total Latency (s)", "", "Total Latency (s) is '', not a number"),
])
def test_a_sequence_that_cannot_be_compared_says_why(column: str, value: object, reason: str) -> None:
    row = {**dict(zip(SEQUENCE, SEQUENCES[0], strict=True)), column: value}
    assert compare(pd.DataFrame([row]))["skipped"] == [{"row": 0, "reason": reason}]


def test_every_whole_sequence_of_the_published_table(shared_data: Path) -> None:
    found = compare(pd.read_csv(shared_data / "pim" / "cent_processed_results.csv"))
    assert (found["compared"], found["skipped"]) == (57, [])
    assert found["mape"] < 0.0015
    assert found["max_error"] < 0.005
