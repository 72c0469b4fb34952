"""The PIM device against the command-level engine that it takes its times from, its presets, and what it refuses."""

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim.costs import ACTION, CAUSES, Costs
from gemvane.sim.devices import pim, pim_append, pim_channel, resolve
from gemvane.sim.devices.pim import ResolvedPim
from gemvane.sim.devices.pim_channel import Channel, Shape, Stack
from gemvane.sim.dram import attacc, gemv
from gemvane.sim.dram.pimpart import new_state, pim_part, run
from gemvane.sim.dram.pimstream import Attention, load_vector, score_blocks, stream, tile, value_blocks
from gemvane.sim.dram.steady import Steady, join
from gemvane.sim.hardware import Hardware
from gemvane.workloads.ops import CODE, DTYPES, SHAPE, Rows, derive
from gemvane.workloads.trace import Requests

PIM_MACHINES = ("npu-pim-blocked", "npu-pim-single-interleaved", "npu-pim-dual", "neupims", "attacc", "attacc-npc", "attacc-bg",
                "attacc-buffer", "gddr6-aim", "hbm-pim", "cent")  # fmt: skip


def machine(hardware: Hardware | str, **changes: object) -> ResolvedPim:
    spec = gv.hardware(hardware).replace({f"units.pim.{key}": value for key, value in changes.items()}).spec
    resolved = resolve(spec)["pim"]
    assert isinstance(resolved, ResolvedPim)
    return resolved


def row(kind: str, tokens: list[int], *, heads_q: int = 8, heads_kv: int = 8, head_dim: int = 128, kv: str = "bf16", **other: int) -> Rows:
    """One operator of a decode step of requests with so many cached tokens."""
    values = {"kind": CODE[kind], "phase": 1, "batch": len(tokens), "m": len(tokens), "n": sum(tokens), "pairs": sum(tokens),
              "kv_len": max(tokens), "heads_q": heads_q, "heads_kv": heads_kv, "head_dim": head_dim, "value_dim": head_dim, "q_len": 1,
              "kv_width": 2 * heads_kv * head_dim, "kv_dtype": DTYPES.index(kv), "act_dtype": DTYPES.index("bf16"),
              "weight_dtype": DTYPES.index("bf16"), "peers": 1} | other  # fmt: skip
    return derive({column: np.array([values.get(column, 0)], np.int64) for column in SHAPE})


def costs(rows: Rows, of: ResolvedPim, tokens: list[int]) -> Costs:
    requests = Requests(np.array(tokens, np.int64), np.zeros(len(tokens), np.int64))
    return pim.cost(rows, of, requests)


# The engine's times

@pytest.mark.parametrize("buffers", ["dual", "single"])
@pytest.mark.parametrize(("tokens", "shape"), [([700, 300, 17], (8, 1, 128)), ([1024], (2, 4, 80)), ([33, 1], (1, 3, 576))])
def test_a_newton_channel_takes_what_its_commands_take_one_by_one(buffers: str, tokens: list[int], shape: tuple[int, int, int]) -> None:
    heads, group, dim = shape
    part = pim_part("hbm2-neupims", buffers=buffers)  # type: ignore[arg-type]
    key = machine("neupims", buffers=buffers).key
    start = int(part.setup[0]) // 2
    for kind, blocks in (("attention_score", score_blocks), ("attention_value", value_blocks)):
        one = pim_channel.channel(key, Shape(kind, heads, group, dim))
        assert isinstance(one, Channel)
        issued = run(part, stream([b for n in tokens for b in blocks(part, Attention(n, heads, dim, group))]), new_state(part, start=start))
        items = tuple(-(-n // one.granule) * one.granule for n in tokens)
        assert one.load(items).cycles == issued.end + 1 - start + sum(one.tail(one.sequence(items).last))


@pytest.mark.parametrize("name", ["hbm2-neupims", "gddr6-aim-16000"])
def test_remembered_blocks_say_what_the_time_went_to_as_single_commands_do(name: str) -> None:
    part = pim_part(name)
    if part.pim.style == "newton":
        blocks = [load_vector(part), tile(part, row=1, dots=4, steps=8), tile(part, row=1, dots=1, steps=32)]
        order = np.array(([0] + [1] * 10 + [0, 2, 2]) * 20)
    else:
        work = gemv.plan(part, gemv.Gemv(3000, 700, 3))
        blocks, order = list(work.blocks), work.order
    total = Steady(part, blocks).run(order, start=975)
    assert sum(total.ticks.values()) == total.end + 1 - 975
    issued = run(part, join([stream([block]) for block in blocks], order), new_state(part, start=975))
    after = np.bincount(np.concatenate([issued.commands[:1, 1], issued.commands[:-1, 1]]),
                        np.diff(np.concatenate([[974], issued.commands[:, 0]])), len(part.commands))
    refresh = part.id("REFab")
    assert total.ticks["REFab"] >= after[refresh]  # and the waits before it and behind commands that it held up
    others = [i for i in range(len(part.commands)) if i != refresh]
    assert all(total.ticks[part.commands[i]] <= after[i] for i in others)


@pytest.mark.parametrize("name", ["gddr6-aim", "hbm-pim"])
def test_an_aim_or_hbm_pim_channel_takes_what_its_commands_take_one_by_one(name: str) -> None:
    key = machine(name).key
    part = pim_channel.engine_part(key)
    start = int(part.setup[0]) // 2
    for kind, make in (("attention_score", gemv.scores), ("attention_value", gemv.values)):
        one = pim_channel.channel(key, Shape(kind, 2, 4, 128))
        ops = [make(n, 128, 4) for n in (300, 300, 70, 70)]
        items = tuple(-(-n // one.granule) * one.granule for n in (300, 70))
        issued = run(part, gemv.commands(gemv.plan(part, *ops)), new_state(part, start=start))
        assert one.load(items).cycles == issued.end + 1 - start


@pytest.mark.parametrize(("name", "level", "limited"), [("attacc", "BA", True), ("attacc-npc", "BA", False), ("attacc-bg", "BG", True),
                                                         ("attacc-buffer", "BUFFER", True)])  # fmt: skip
def test_alike_heads_of_an_attacc_channel_take_what_the_published_rounds_take(name: str, level: attacc.Level, limited: bool) -> None:
    one = pim_channel.channel(machine(name).key, Shape("attention_decode", 1, 1, 128))
    assert isinstance(one, Stack)
    heads = 6
    published = attacc.cycles(attacc.shape(2048, 128, 2, level), heads * attacc.CHANNELS, limited=limited)
    assert 0 <= one.load((2048,) * heads).cycles - published <= attacc.clocks(level, limited=limited).refresh  # half an interval earlier


@pytest.mark.parametrize(("name", "kind"), [
    ("neupims", "attention_score"), ("neupims", "attention_value"), ("npu-pim-blocked", "attention_score"),
    ("gddr6-aim", "attention_value"), ("hbm-pim", "attention_score"), ("attacc", "attention_decode"),
])  # fmt: skip
def test_causes_add_up_and_no_row_beats_the_peak(name: str, kind: str) -> None:
    of, tokens = machine(name), [900, 40, 333, 333, 1200] * 9
    rows = row(kind, tokens)
    total = int(costs(rows, of, tokens).total_cycles[0])
    by_cause = dict(zip(CAUSES, costs(rows, of, tokens).cycles[0].tolist(), strict=True))
    assert min(by_cause.values()) >= 0
    assert sum(by_cause.values()) == total
    assert total >= rows.macs[0] / of.peak_macs_per_cycle
    assert by_cause["ideal"] > 0
    assert by_cause["imbalance"] > 0
    assert by_cause["refresh"] > 0


def test_work_is_conserved_over_channels_and_placements() -> None:
    """Round robin, greedy and balance do the same dot products; only the fullest channel differs."""
    tokens = [64 * (1 + i * i % 37) for i in range(40)]
    rows, counts, times = row("attention_score", tokens), [], []
    for policy in ("round-robin", "greedy", "balance"):
        done = costs(rows, machine("neupims", placement=policy), tokens)
        counts.append(done.actions[0, ACTION["dram_array_bytes"]] - done.actions[0, ACTION["pim_buffer_bytes"]])
        times.append(int(done.total_cycles[0]))
    steps = sum(-(-n // 32) for n in tokens) * 2 * 4 * 8  # tiles, chunks of four heads, heads, steps of 16 lanes
    assert counts == [steps * 32 * 16 * 2] * 3
    assert times[2] <= times[1] <= times[0]


def test_a_split_request_ends_sooner_and_pays_for_adding_its_parts() -> None:
    tokens = [4096]
    for kind in ("attention_score", "attention_value"):
        whole, split = (costs(row(kind, tokens), machine("neupims", placement=p), tokens) for p in ("greedy", "split"))
        assert split.total_cycles[0] < whole.total_cycles[0] / 4
        assert (split.actions[0, ACTION["vector_op"]] > 0) == (kind == "attention_value")  # 31 sums of 8 heads x 128
    assert split.actions[0, ACTION["vector_op"]] == 31 * 8 * 128


def test_permuted_requests_cost_the_same() -> None:
    tokens = [300, 301, 17, 960, 33, 302]
    for name in ("neupims", "attacc", "gddr6-aim"):
        of = machine(name)
        kind = "attention_decode" if name == "attacc" else "attention_value"
        first, second = (costs(row(kind, t), of, t) for t in (tokens, tokens[::-1]))
        assert (first.cycles == second.cycles).all()
        assert (first.actions == second.actions).all()


# Energy counts

def test_energy_counts_are_those_of_the_commands() -> None:
    """pim.md's count of one request of 512 tokens, 4 heads: 256 G_ACT of four rows, 1,024 steps and 80 results, 5 vector loads."""
    tokens = [512]
    done = [costs(row(kind, tokens, heads_q=4, heads_kv=4), machine("neupims"), tokens) for kind in ("attention_score", "attention_value")]
    count = {name: sum(int(one.actions[0, ACTION[name]]) for one in done) for name in ACTION}
    assert count["pim_buffer_bytes"] == (1 + 4) * 1024
    assert count["dram_array_bytes"] == 1024 * 32 * 16 * 2 + 5 * 1024
    assert 256 * 4 * 1024 <= count["dram_activate_bytes"] <= 256 * 4 * 1024 + 5 * 4 * 1024  # and the rows of vectors
    inputs = sum(int(row(kind, tokens, heads_q=4, heads_kv=4).input_bytes[0]) for kind in ("attention_score", "attention_value"))
    assert count["dram_io_bytes"] == (64 + 16) * 64 + inputs


def test_turning_the_second_row_buffer_off_leaves_the_dot_products() -> None:
    tokens = [700, 100]
    dual, single = (costs(row("attention_score", tokens), machine(name), tokens) for name in ("npu-pim-dual", "npu-pim-blocked"))
    for action in ("dram_array_bytes", "pim_buffer_bytes", "pim_mac"):
        assert dual.actions[0, ACTION[action]] == single.actions[0, ACTION[action]]


# Types, groups, appends

def test_narrow_caches_take_fewer_rows_and_wide_ones_more() -> None:
    tokens = [2048, 700]
    of = machine("neupims")
    times = [costs(row("attention_value", tokens, kv=kv), of, tokens).total_cycles[0] for kv in ("int4", "int8", "bf16", "fp32")]
    assert times == sorted(times)
    assert times[0] < times[3] / 3


def test_a_latent_cache_is_one_head_of_many_queries() -> None:
    tokens = [200, 90]
    for kind, dim in (("attention_score", 576), ("attention_value", 512)):
        rows = row(kind, tokens, heads_q=16, heads_kv=1, head_dim=dim)
        for name in ("neupims", "npu-pim-blocked", "gddr6-aim", "hbm-pim"):
            of = machine(name)
            assert costs(rows, of, tokens).total_cycles[0] >= rows.macs[0] / of.peak_macs_per_cycle


def test_a_window_bounds_the_work() -> None:
    tokens = [5000]
    of = machine("neupims")
    windowed, short = row("attention_score", tokens, window=512, n=512, pairs=512), row("attention_score", [512])
    assert (costs(windowed, of, tokens).cycles == costs(short, of, [512]).cycles).all()


def test_values_of_one_token_open_a_row_each_and_keys_one_a_chunk() -> None:
    part = pim_part("hbm2-neupims")
    keys, values = pim_append.written(part, np.array([1]), 1024, 16)
    assert (keys.rows[0], keys.writes[0], keys.banks[0]) == (2, 16, 1)  # two rows of 512 elements
    assert (values.rows[0], values.writes[0], values.banks[0]) == (1024, 1, 32)
    assert pim_append.append_cycles(part, values)[0] == 1024 * 30 // (4 * 2)  # four rows of a rank every nFAW
    assert pim_append.append_cycles(part, keys)[0] == 2 * (14 + 15 * 2 + 4 + 2 + 16 + 14)  # nRCDWR, 15 nCCDL, nCWL, burst, nWR, nRP


def test_a_prompt_is_appended_cheaper_than_its_tokens_one_by_one() -> None:
    for name in ("neupims", "gddr6-aim", "hbm-pim"):
        part = pim_channel.engine_part(machine(name).key)
        appended = [pim_append.written(part, np.array([n]), 1024, 16) for n in (512, 1)]
        whole, single = (sum(pim_append.append_cycles(part, w)[0] for w in parts) for parts in appended)
        assert whole < 512 * single / 4


# Whole machines

@pytest.mark.parametrize("name", PIM_MACHINES)
def test_appends_and_attention_run_in_the_memory_of_every_preset(name: str) -> None:
    timeline = gv.run("llama3.2-1b", name, batch=3, prompt=(20, 300, 40), output=3).timeline
    names = set(timeline[timeline.unit == "pim"].op)
    assert "kv_append" in names
    assert {"attention"} <= names if name.startswith("attacc") else {"attention_score", "attention_value"} <= names


def test_the_four_corners_differ_in_two_policies_alone() -> None:
    corners = {name: gv.hardware(name).spec for name in ("npu-pim-blocked", "npu-pim-single-interleaved", "npu-pim-dual", "neupims")}
    alike = [spec.model_dump(exclude={"name", "description", "schedule", "power"}) for spec in corners.values()]
    for one in alike:
        one["units"]["pim"].pop("buffers")
        one.pop("sources")
    assert all(one == alike[0] for one in alike)
    found = {name: (spec.units["pim"].buffers, spec.schedule.sub_batches) for name, spec in corners.items()}  # type: ignore[union-attr]
    assert found == {"npu-pim-blocked": ("single", 1), "npu-pim-single-interleaved": ("single", 2), "npu-pim-dual": ("dual", 1),
                     "neupims": ("dual", "auto")}  # fmt: skip


def test_a_power_limit_and_a_longer_way_cost_time() -> None:
    tokens = [1500] * 20
    times = {name: costs(row("attention_decode", tokens), machine(name), tokens).total_cycles[0]
             for name in ("attacc-npc", "attacc", "attacc-bg", "attacc-buffer")}  # fmt: skip
    assert list(times.values()) == sorted(times.values())


def test_published_internal_bandwidths_are_reached_at_peak() -> None:
    wanted = {"neupims": 16.4e12, "gddr6-aim": 4.096e12, "hbm-pim": 4.92e12, "attacc-npc": 53.2e12}
    for name, bandwidth in wanted.items():
        of = machine(name)
        assert of.peak_macs_per_cycle * of.freq_hz * 2 == pytest.approx(bandwidth, rel=0.01)


def test_small_decodes_multiply_their_weights_in_aim_and_prompts_in_the_npu() -> None:
    result = gv.run("gpt2", "gddr6-aim", batch=1, prompt=64, output=3)
    small, large = {"projection": "pim", "ffn": "pim", "lm_head": "pim"}, {"projection": "npu", "ffn": "npu"}
    assert result.placement == {"prefill": {**large, "lm_head": "pim"}, "decode": small}, "one position of a prompt has logits"


def test_a_prompt_on_pim_alone_is_its_tokens_one_by_one() -> None:
    of, tokens = machine("cent"), [48]
    rows = row("attention_prefill", tokens, m=48, n=48, q_len=48, pairs=48 * 49 // 2)
    stepwise = sum(costs(row(kind, [n]), of, [n]).cycles[0, CAUSES.index("edge")] for kind in ("attention_score", "attention_value")
                   for n in range(1, 49))  # fmt: skip
    done = costs(rows, of, tokens)
    assert done.cycles[0, CAUSES.index("edge")] == pytest.approx(stepwise, rel=0.05)  # rounding of means over the channels
    assert done.cycles[0, CAUSES.index("vector")] > 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("neupims", {"part": "hbm2-2000-4gb"}, "neupims: units.pim: part is 'hbm2-2000-4gb', a memory part without PIM commands"),
        ("gddr6-aim", {"buffers": "dual"}, "buffers is 'dual', but memory part gddr6-aim-16000 has single row buffers"),
        ("neupims", {"channels": 24}, "units.pim.channels is 24, into which the memory's 4096 pins do not divide"),
        ("neupims", {"timings": {"nFAV": 16}}, "timings.nFAV is 16, but memory part hbm2-neupims has only"),
        ("neupims", {"level": "buffer"}, "level is 'buffer', but the units of memory part hbm2-neupims are at the banks"),
        ("attacc", {"layout": "tokens"}, "layout is 'tokens', but memory part hbm3-attacc has one layout"),
        ("neupims", {"placement": "best"}, "units.pim.placement: 'best' is not known here"),
    ],
)
def test_a_unit_that_its_part_cannot_be_is_refused(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        machine(name, **changes)


def test_what_does_not_fit_into_channels_is_refused_with_ways_out() -> None:
    with pytest.raises(ValueError, match=r"each of its 32 PIM channels only .* and the fullest would get 1.07 GB: use placement: split"):
        gv.run("gpt3-7b", "neupims", batch=2, prompt=2040, output=2)
    assert gv.run("gpt3-7b", gv.hardware("neupims").replace({"units.pim.placement": "split"}), batch=2, prompt=2040, output=2).latency_s > 0
    with pytest.raises(ValueError, match="or --batch 32 or less"):
        gv.run("gpt3-7b", "neupims", batch=40, prompt=1000, output=2)


def test_a_cache_of_a_type_that_the_lanes_do_not_take_is_refused() -> None:
    with pytest.raises(ValueError, match=r"operands have no int4, the type of the cache. Use --kv-dtype fp16, bf16, fp8, int8 or fp32"):
        gv.run("llama3.2-1b", "attacc", batch=2, prompt=20, output=2, kv_dtype="int4")
    with pytest.raises(ValueError, match=r"mapping.matmul names unit 'vector', a vector, which runs only vector, move, attention_decode"):
        gv.hardware("cent").replace({"mapping.matmul": "vector"})
