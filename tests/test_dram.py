"""The DRAM controller: golden ticks of the reference, closed forms, and what holds for every stream."""

from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemvane.sim import dram
from gemvane.sim.dram import engine, part
from gemvane.sim.dram.policy import CAP, REFRESHES, ROW_POLICIES, Policy, policy
from gemvane.sim.dram.replay import COLUMNS
from gemvane.sim.kernels import dram as k

HBM2 = part.load("hbm2-2000-4gb")
TIMINGS = HBM2.spec.timings
Columns = dict[str, np.ndarray]


def stream(count: int, **columns: object) -> Columns:
    """Requests that differ in the given columns only; all reads of bank 0 otherwise."""
    table = {c: np.zeros(count, np.int64) for c in COLUMNS}
    for name, values in columns.items():
        table[name][:] = values
    return table


def conflicts(count: int) -> Columns:
    return stream(count, ro=np.arange(count) % HBM2.rows)


def interleaved(count: int) -> Columns:
    """Sequential reads, pseudochannels fastest, then bank groups, columns, banks: the map for streams."""
    i = np.arange(count)
    return stream(count, pc=i % 2, bg=i // 2 % 4, co=i // 8 % 32, ba=i // 256 % 4, ro=i // 1024)


GOLDEN = [
    # part, refresh, requests, last RD/WR tick: measured with Ramulator 2.1 c5b1c3a, FRFCFS (bank conflicts, 20,000 reads)
    ("hbm2-2000-4gb", 1028348),
    ("hbm3-6400-4gb", 3085425),
    ("hbm4-8000-32gb", 4011101),
    ("ddr4-3200-8gb", 1551373),
    ("ddr5-4800-16gb", 2444524),
    ("gddr6-14000-8gb", 1707845),
    ("lpddr5-6400-8gb", 1035576),
]


@pytest.mark.parametrize(("memory", "tick"), GOLDEN)
def test_a_bank_conflict_on_every_request_takes_what_the_reference_takes(memory: str, tick: int) -> None:
    rows = part.load(memory).rows
    requests = stream(20_000, ro=np.arange(20_000) % rows)
    assert dram.replay(requests, memory, scheduler="frfcfs").last_command_tick == tick


def test_commands_are_those_of_the_golden_traces_one_by_one(shared_data: Path) -> None:
    names = {"R_HBM2": "hbm2-2000-4gb", "R_HBM3": "hbm3-6400-4gb", "R_HBM4": "hbm4-8000-32gb", "R_DDR4": "ddr4-3200-8gb",
             "R_DDR5": "ddr5-4800-16gb", "R_GDDR6": "gddr6-14000-8gb", "R_LPDDR5": "lpddr5-6400-8gb"}
    files = sorted((shared_data / "dram" / "cmdtraces").glob("*.csv.gz"))
    assert len(files) == 84
    for file in files:
        config, refresh, name = file.name.split(".")[:3]
        with np.load(shared_data / "dram" / "traces" / f"{config}.npz") as streams:
            requests = {c: streams[f"{name}__{c}"] for c in COLUMNS}
        golden = pd.read_csv(file)
        ours = dram.replay(requests, names[config], scheduler="frfcfs", refresh=refresh == "on", log_commands=len(golden)).commands_frame()
        assert (ours.tick == golden.clock).all(), file.name
        assert (ours.command == golden.command).all(), file.name
        for mine, theirs in (("bg", "BankGroup"), ("ba", "Bank")):
            assert (ours[mine] == golden[theirs]).all(), file.name


def test_without_refresh_a_conflict_costs_one_row_cycle() -> None:
    done = dram.replay(conflicts(500), HBM2, refresh=False)
    assert done.last_command_tick == TIMINGS["nRC"] * 499 + 16  # the first read waits for its activation: 1 + nRCDRD + 1 for two-tick ACTs
    assert done.row_conflicts == 499
    assert done.commands == {"ACT": 500, "PREpb": 499, "RD": 500}


def test_a_stream_over_all_bank_groups_runs_at_the_peak_less_the_refresh() -> None:
    free, refreshed = (dram.replay(interleaved(20_000), HBM2, refresh=r) for r in (False, True))
    assert free.bandwidth_bytes_per_s == pytest.approx(free.peak_bytes_per_s, rel=0.002)
    assert refreshed.bandwidth_bytes_per_s < free.bandwidth_bytes_per_s * (1 - 0.9 * 260 / 3900)


def test_a_lone_read_waits_for_its_activation_and_its_data() -> None:
    done = dram.replay(stream(1), HBM2)
    assert done.last_command_tick == 1 + 15  # ACT at 1, RD nRCDRD later, counted from the end of a two-tick ACT
    assert done.latency_ticks.tolist() == [16 + TIMINGS["nCL"] + TIMINGS["nBL"]]


def test_reads_of_one_row_are_a_column_delay_apart() -> None:
    done = dram.replay(stream(9, co=np.arange(9)), HBM2, refresh=False, log_commands=20)
    reads = done.log[done.log[:, 1] == HBM2.commands.index("RD"), 0]
    assert (np.diff(reads) == TIMINGS["nCCDL"]).all()


def random_requests(seed: int, count: int, rows: int, writes: float) -> Columns:
    rng = np.random.default_rng(seed)
    counts = part.resolve(HBM2).counts
    return stream(count, rw=rng.random(count) < writes, pc=rng.integers(0, counts[0], count), bg=rng.integers(0, counts[2], count),
                  ba=rng.integers(0, counts[3], count), ro=rng.integers(0, rows, count), co=rng.integers(0, 32, count))


def raw(requests: Columns, memory: str, told: Policy, *, every_tick: bool = False, python: bool = False) -> list[object]:
    """Everything the kernel leaves behind, but what held the channel."""
    loaded = part.load(memory)
    counts = loaded.resolved.counts
    bank = ((requests["pc"] % counts[0] * counts[1]) * counts[2] + requests["bg"] % counts[2]) * counts[3] + requests["ba"] % counts[3]
    rows = engine.request_columns(requests["rw"], bank, requests["ro"])
    kernel = k.replay_kernel.py_func if python else k.replay_kernel
    done = engine.run(engine.channel(loaded, told, every_tick=every_tick), rows, 10_000, kernel=kernel)
    return [done.log.tolist(), rows[:, k.LATENCY].tolist(), int(done.state[k.LAST_RW]), done.commands.tolist(), done.rows.tolist()]


few_rows, write_shares = st.sampled_from([1, 2, 5, 1000]), st.sampled_from([0.0, 0.3, 1.0])
some = st.builds(random_requests, st.integers(0, 10**6), st.integers(1, 300), few_rows, write_shares)
memories = st.sampled_from([name for name, _ in GOLDEN])
schedulers = st.sampled_from(["frfcfs", "frfcfs-rowhit"])
policies = st.builds(policy, scheduler=schedulers, row_policy=st.sampled_from(ROW_POLICIES), cap=st.sampled_from([1, 2, CAP, 100]),
                     refresh=st.sampled_from(REFRESHES))


def possible(memory: str, told: Policy) -> Policy:
    """The policy, with all-bank refresh where the part has no command for another."""
    needs = {"per-bank": "REFpb", "same-bank": "REFsb"}.get(told.refresh)
    return told if needs is None or needs in part.load(memory).commands else told._replace(refresh="all-bank")


@given(some, memories, policies)
@settings(max_examples=100, deadline=None)
def test_jumping_equals_ticking(requests: Columns, memory: str, told: Policy) -> None:
    told = possible(memory, told)
    assert raw(requests, memory, told) == raw(requests, memory, told, every_tick=True)


@given(some, memories, policies)
@settings(max_examples=12, deadline=None)
def test_the_compiled_kernel_is_its_python(requests: Columns, memory: str, told: Policy) -> None:
    few, told = {c: v[:40] for c, v in requests.items()}, possible(memory, told)
    assert raw(few, memory, told) == raw(few, memory, told, python=True)


@given(some, schedulers, st.booleans())
@settings(max_examples=40, deadline=None)
def test_nothing_is_lost(requests: Columns, scheduler: str, refresh: bool) -> None:
    done = dram.replay(requests, HBM2, scheduler=scheduler, refresh=refresh)
    writes = int(requests["rw"].sum())
    assert done.commands.get("WR", 0) == writes
    assert done.commands.get("RD", 0) == requests["rw"].size - writes
    assert done.row_hits + done.row_misses + done.row_conflicts == done.requests
    assert (done.latency_ticks > 0).all()
    assert sum(done.blocked_ticks.values()) <= done.end_tick


@given(some)
@settings(max_examples=30, deadline=None)
def test_renaming_rows_changes_nothing(requests: Columns) -> None:
    renamed = requests | {"ro": HBM2.rows - 1 - requests["ro"]}
    first, second = (dram.replay(r, HBM2).to_dict() for r in (requests, renamed))
    assert first == second


@given(some)
@settings(max_examples=30, deadline=None)
def test_refresh_never_helps_a_lone_bank(requests: Columns) -> None:
    lone = requests | {c: np.zeros_like(requests[c]) for c in ("pc", "bg", "ba", "rw")}
    with_it, without = (dram.replay(lone, HBM2, scheduler="frfcfs", refresh=r).last_command_tick for r in (True, False))
    assert with_it >= without


def test_the_histogram_names_the_row_cycle_for_conflicts() -> None:
    done = dram.replay(conflicts(2000), HBM2, refresh=False)
    read, row, cycle, data = 14 * 2000, (35 - 15 - 1) * 1999, (48 - 35 - 1) * 1999, TIMINGS["nCL"] + TIMINGS["nBL"] - 1
    assert done.blocked_ticks == {"bank: ACT -> PREpb, 35 ticks": row, "bank: ACT -> RD, 15 ticks": read,
                                  "bank: ACT -> ACT, 48 ticks": cycle, "other": data}


def test_the_histogram_names_the_bank_group_for_hits_of_one_row() -> None:
    done = dram.replay(stream(30, co=np.arange(30)), HBM2, refresh=False)
    assert done.blocked_ticks["bank_group: RD -> RD, 4 ticks"] == 29 * 3
    assert "pseudochannel: RD -> RD, 2 ticks" not in done.blocked_ticks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bg": 4}, r"request table: row 2: bg is 4, but hbm2-2000-4gb has bg 0 to 3."),
        ({"ro": -1}, r"request table: row 2: ro is -1, but hbm2-2000-4gb has ro 0 to 16383."),
        ({"rw": 2}, r"row 2: rw is 2, but hbm2-2000-4gb has rw 0 to 1."),
    ],
)
def test_a_request_outside_the_part_is_named(change: dict[str, int], message: str) -> None:
    requests = stream(5)
    for column, value in change.items():
        requests[column][2] = value
    with pytest.raises(ValueError, match=message):
        dram.replay(requests, HBM2)


def test_a_table_that_is_no_request_table_is_named() -> None:
    requests = stream(3)
    with pytest.raises(ValueError, match=r"column 'pc' is missing. It has rw"):
        dram.replay({"rw": requests["rw"]}, HBM2)
    with pytest.raises(ValueError, match=r"column 'co' is float64. Expected whole numbers."):
        dram.replay(requests | {"co": requests["co"] * 1.5}, HBM2)
    with pytest.raises(ValueError, match=r"scheduler 'fifo' is unknown. Expected one of frfcfs, frfcfs-rowhit."):
        dram.replay(requests, HBM2, scheduler="fifo")
    with pytest.raises(ValueError, match="hbm2-2000-4gb"):
        dram.replay(requests, "hbm2-2000")


def test_times_and_rules_fit_into_one_number() -> None:
    assert all(len(part.load(name).rules) < k.LABEL for name in part.names())


@pytest.mark.parametrize("line", ["{level: bank_group, prev: [ACT], next: [ACT], latency: nFAW, window: 4}",
                                  "{level: bank_group, prev: [RD], next: [RD], latency: nCCDS, sibling: true}"])
def test_a_rule_that_the_controller_does_not_do_is_refused(line: str, tmp_path: Path) -> None:
    text = (resources.files("gemvane.hw_configs") / "memory" / "ddr4-3200-8gb.yaml").read_text()
    file = tmp_path / "own.yaml"
    file.write_text(f"{text}  - {line}\n")
    with pytest.raises(ValueError, match="below ranks has a window or is for siblings, which the controller does not do"):
        dram.replay(stream(1), file)
