"""CENT: a GPU-free system of CXL devices with GDDR6-AiM (Gu et al., ASPLOS'25), against the results in Yufeng98/CENT 8c79786.

The PIM part is our command engine's (cent_block.py). Links and accelerators are closed forms there, and so here. No number is fitted.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import pandas as pd

from gemvane.sim.dram.pimpart import PimPart, pim_part

from .cent_block import CHANNELS, Llama, Place, block_ticks, embedding_ticks
from .report import Compared, SkipError, Watch, need, number, walk, whole

PART = "gddr6-aim-16000"
MODELS = {"Llama2-7B": Llama(4096, 11008, 32, 32, 32), "Llama2-13B": Llama(5120, 13824, 40, 40, 40),
          "Llama2-70B": Llama(8192, 28672, 64, 8, 80)}
COLUMNS = ("PIM latency", "CXL latency", "Acc latency", "TransformerBlock latency", "Embedding latency", "Token latency (ms)",
           "Throughput (tokens/s)")
CLOSED = ("CXL latency", "Acc latency")
"""Columns that are closed forms there too: a row is exact in them."""
SAME = 1e-9
"""Figures that differ by less have the same formula."""

HOST_MS = 0.15
"""Sampling on the host, for each token."""
LANES = 144
"""PCIe lanes of the switch, shared out evenly."""
LANE_BYTES_PER_S = 4 * 2**30
"""Half of a lane's 8 GiB/s, which multicast leaves."""
HOP_S = 180e-9
"""To another device and back: four CXL ports of 25 ns, two PCIe crossings of 30 ns, a switch of 20 ns."""
FLIT_BYTES, FLIT_DATA_BYTES, ELEMENT_BYTES = 256, 192, 2

STEP, PROMPT = 128, 512
"""Tokens that a published sum over a sequence takes for alike, and those of its prefill: each is one token's latency at the end of a step,
times the step; its throughput is the mean of the steps' (it follows from its rows: they are such sums of the other table's, exactly)."""
PHASES = {"prefill": (0, PROMPT), "decoding": (PROMPT, None), "end2end": (0, None)}
"""First and last token of each phase; None is the end of the sequence."""
TOTALS = ("Total Latency (s)", "Throughput (tokens/s)")

CLOCK_HZ = 2e9
"""Of the accelerators."""
LANES_SIMD = 16
"""Elements of an operand of the accelerators: one access of a channel."""
VECTOR_CLOCKS, EXP_CLOCKS = 66, 44
"""One pass of 32 units that share a buffer: two operands each, the addition, the result; one operand each, 11 of pipeline, the result."""
REDUCE_CLOCKS, NORM_CLOCKS, SCALE_CLOCKS, ROTARY_CLOCKS = 1, 26, 17.25, 0.375
"""A sum; the root of a norm; the inverse of a head's sum and its 16 copies; one element of a rotary embedding (3 on one of 8 cores)."""


class System(NamedTuple):
    """How a model is cut: `stages` of a pipeline, each of them `shared` devices."""

    devices: int
    stages: int
    shared: int
    place: Place
    whole_blocks: bool
    """Every layer is a stage of its own, on some channels of one device."""


class Latency(NamedTuple):
    """Milliseconds of one block; of the embedding, the head and sampling; of a token; and tokens a second of a full pipeline."""

    pim: float
    cxl: float
    accelerator: float
    block: float
    embedding: float
    token: float
    throughput: float


def latency(model: Llama, system: System, tokens: int) -> Latency:
    """Of one decoded token that sees `tokens` tokens. PIM without refresh, as there."""
    pim, embedding = _pim_ms(model, system.place, tokens), _embedding_ms(model, system.place)
    cxl, accelerator = cxl_ms(model, system), accelerator_ms(model, tokens) * system.place.blocks
    block = pim + cxl + accelerator
    token = block * model.layers + embedding + HOST_MS
    return Latency(pim, cxl, accelerator, block, embedding, token, system.stages * 1e3 / token)


def cxl_ms(model: Llama, system: System) -> float:
    """Messages of one block: the vector to the next device; or, where devices share a layer, each vector to all and its parts back."""
    per_s = LANES // system.devices * LANE_BYTES_PER_S

    def message(elements: float, copies: int = 1) -> float:
        flits = -(-elements * ELEMENT_BYTES // FLIT_DATA_BYTES) * copies
        return HOP_S + flits * FLIT_BYTES / per_s

    if system.whole_blocks:
        return 1e3 * message(model.hidden)
    others = system.shared - 1
    spread = 5 * message(model.hidden) + message(model.ffn)
    gather = 5 * message(model.hidden / system.shared, others) + message(model.ffn / system.shared, others)  # a part from each
    return 1e3 * (spread + gather)


def accelerator_ms(model: Llama, tokens: int) -> float:
    """Sums, exponentials and scalars of one block beside the memory: two norms, softmax, rotary embedding."""
    passes = 1 / LANES_SIMD / CHANNELS
    norm = model.hidden / LANES_SIMD * passes * VECTOR_CLOCKS + 3 * REDUCE_CLOCKS + NORM_CLOCKS
    softmax = tokens * model.heads * passes * (EXP_CLOCKS + VECTOR_CLOCKS) + model.heads * (REDUCE_CLOCKS + SCALE_CLOCKS)
    rotary = (1 + model.heads_kv / model.heads) * model.hidden * ROTARY_CLOCKS
    return 1e3 * (2 * norm + softmax + rotary) / CLOCK_HZ


def system(model: Llama, devices: int, stages: int, shared: int, channels: int) -> System:
    """ValueError for a cut that the mapping has not."""
    whole_blocks = stages == model.layers
    if not 1 <= channels <= CHANNELS:
        raise ValueError(f"{channels} channels of a block. Expected 1 to {CHANNELS}, those of a device.")
    if whole_blocks and shared != 1:
        raise ValueError(f"a stage for each of {model.layers} layers shared by {shared} devices. Expected 1.")
    if not whole_blocks and (stages * shared != devices or channels != CHANNELS):
        raise ValueError(f"{stages} stages of {shared} devices with {channels} channels. Expected all {CHANNELS} of {devices} devices.")
    if devices > LANES:
        raise ValueError(f"{devices} devices. Expected at most {LANES}, one for each lane of the switch.")
    return System(devices, stages, shared, Place(channels, shared), whole_blocks)


@cache
def _part() -> PimPart:
    return pim_part(PART, refresh=False)


def _ms(ticks: int) -> float:
    return ticks * float(_part().tick_ps) / 1e9


@cache
def _pim_ms(model: Llama, place: Place, tokens: int) -> float:
    return _ms(block_ticks(_part(), model, place, tokens))


@cache
def _embedding_ms(model: Llama, place: Place) -> float:
    return _ms(embedding_ticks(_part(), model, place))


def compare(table: pd.DataFrame, watch: Watch | None = None) -> dict[str, Any]:
    """Rows like those of cent_simulation_results.csv. The errors are of the PIM latency; those of the token stand in `token`, and in
    each group as token_mape and token_max_error. `exact` counts rows with the same link and accelerator latency.

    A table with phases is one of whole sequences, like cent_processed_results.csv: the errors are of the latency in all.
    """
    if "Phase" in table:
        need(table, ("Model", "Device number", "Seqlen", "Pipeline parallelism", "Tensor parallelism", *TOTALS))
        return walk("cent", table, _sequence_row, watch)
    need(table, ("Model", "Device number", "Pipeline parallelism", "Tensor parallelism", "Channels per device", "Channels per block",
                 "Sequence length", *COLUMNS))  # fmt: skip
    result = walk("cent", table, _row, watch)
    detail = pd.DataFrame(result["detail"], columns=["group", "error", "token_error"])
    errors = detail[["error", "token_error"]].abs()
    for group in result["by"]:
        token = errors.loc[detail["group"] == group["group"], "token_error"]
        group |= {"token_mape": float(token.mean()), "token_max_error": float(token.max())}
    token = errors["token_error"]
    summary = {"mape": token.mean(), "median_error": token.median(), "max_error": token.max()}
    return {**result, "median_error": _figure(errors["error"].median()), "token": {key: _figure(value) for key, value in summary.items()}}


def _figure(value: float) -> float | None:
    """None where there is no row."""
    return None if pd.isna(value) else float(value)


def _cut(row: dict[str, Any], channels: int | None = None) -> tuple[Llama, System]:
    """Model and system of a row, by default with as many channels for a block as its device has left. SkipError for a cut that is none."""
    name = str(row["Model"])
    if name not in MODELS:
        raise SkipError(f"Model is {name!r}, not {', '.join(MODELS)}")
    model, devices = MODELS[name], whole(row, "Device number")
    stages, shared = whole(row, "Pipeline parallelism"), whole(row, "Tensor parallelism")
    if channels is None:
        channels = CHANNELS // -(-model.layers // devices) if stages == model.layers else CHANNELS
    try:
        return model, system(model, devices, stages, shared, channels)
    except ValueError as error:
        raise SkipError(str(error)) from None


def _sequence_row(at: int, row: dict[str, Any]) -> Compared:
    if row["Phase"] not in PHASES:
        raise SkipError(f"Phase is {row['Phase']!r}, not {', '.join(PHASES)}")
    model, cut = _cut(row)
    first, last = PHASES[row["Phase"]]
    length = whole(row, "Seqlen")
    if length % STEP or length <= PROMPT:
        raise SkipError(f"Seqlen is {length}. Expected a multiple of {STEP} above {PROMPT}")
    found = [latency(model, cut, tokens) for tokens in range(first + STEP, (last or length) + 1, STEP)]
    seconds, throughput = sum(one.token for one in found) * STEP / 1e3, sum(one.throughput for one in found) / len(found)
    theirs, rate = (number(row, column) for column in TOTALS)
    equal = {TOTALS[0]: abs(seconds / theirs - 1) <= SAME}
    values = {"tokens": length, "total_s": seconds, "throughput_tok_s": throughput, "throughput_error": throughput / rate - 1}
    return Compared(at, f"{row['Model']}, {row['Phase']}", theirs, seconds, equal, all(equal.values()), values)


def _row(at: int, row: dict[str, Any]) -> Compared:
    if whole(row, "Channels per device") != CHANNELS:
        raise SkipError(f"Channels per device is {row['Channels per device']!r}, not {CHANNELS}")
    model, cut = _cut(row, whole(row, "Channels per block"))
    theirs = [number(row, column) for column in COLUMNS]
    ours = latency(model, cut, whole(row, "Sequence length"))
    equal = {column: abs(a - b) <= SAME * abs(b) for column, a, b in zip(COLUMNS, ours, theirs, strict=True) if column in CLOSED}
    ms = {f"{field}_ms": value for field, value in ours._asdict().items() if field != "throughput"}
    values = {"tokens": whole(row, "Sequence length"), **ms, "throughput_tok_s": ours.throughput,
              "token_error": ours.token / theirs[COLUMNS.index("Token latency (ms)")] - 1}
    return Compared(at, f"{row['Model']}, PP {cut.stages}, TP {cut.shared}", theirs[0], ours.pim, equal, all(equal.values()), values)
