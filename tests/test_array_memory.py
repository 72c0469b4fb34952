"""Arrays over their memory: residency, the choice of dataflow and unit, where the time goes, and what a file may not say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gemvane as gv
from gemvane.sim import devices, hardware
from gemvane.sim.costs import ACTION, CAUSES, CHOICES, Costs
from gemvane.sim.dram.stream import bytes_per_s, stream_share
from gemvane.sim.hardware import Hardware
from gemvane.sim.mapping import choices
from gemvane.workloads.ops import CODE, SHAPE, Rows, derive
from gemvane.workloads.trace import Requests

NOBODY = Requests(np.empty(0, np.int64), np.empty(0, np.int64))


def gemm(m: int, n: int, k: int, kind: str = "gemm") -> Rows:
    shape = {c: np.zeros(1, np.int64) for c in SHAPE} | {c: np.array([v]) for c, v in (("m", m), ("n", n), ("k", k), ("batch", 1))}
    shape |= {c: np.array([2]) for c in ("weight_dtype", "act_dtype", "kv_dtype")}  # bf16
    return derive(shape | {"kind": np.array([CODE[kind]])})


def on(device: Hardware, rows: Rows, unit: str = "mxu") -> Costs:
    return devices.cost("systolic", rows, devices.resolve(device.spec)[unit], NOBODY)


def tpu(**change: str) -> Hardware:
    return hardware.load("tpu-v5e").replace({f"units.mxu.{key}": value for key, value in change.items()})


def dram_bytes(costs: Costs) -> int:
    return int(costs.actions[0, ACTION["dram_io_bytes"]])


def test_activations_that_fit_stay_on_the_chip() -> None:
    """2,048 x 4,096 x 2 bytes in and as many out are 32 MiB: under half of 128 MiB, over half of 32 MiB."""
    rows = gemm(2048, 4096, 4096)
    weights, activations = 2 * 4096 * 4096, 2 * 2 * 2048 * 4096
    assert dram_bytes(on(tpu(), rows)) == weights
    assert dram_bytes(on(tpu(sram="32 MiB"), rows)) == weights + activations


def test_a_small_memory_fetches_again() -> None:
    rows = gemm(2048, 4096, 4096)
    least = 2 * (4096 * 4096 + 2 * 2048 * 4096)
    assert dram_bytes(on(tpu(sram="1 MiB"), rows)) > 2 * least


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 5000), st.integers(1, 5000), st.integers(18, 24), st.integers(0, 2))
def test_more_memory_is_never_slower(m: int, n: int, k: int, log_bytes: int, more: int) -> None:
    rows = gemm(m, n, k)
    small, large = (on(tpu(sram=f"{size} B"), rows).total_cycles[0] for size in (2**log_bytes, 2 ** (log_bytes + more)))
    assert large <= small + 2, "rounding of causes"


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 5000), st.integers(1, 5000), st.integers(200, 2000))
def test_more_bandwidth_is_never_slower(m: int, n: int, k: int, gbytes: int) -> None:
    slow, fast = (on(tpu(sram="2 MiB").replace({"memory.bandwidth": f"{b} GB/s"}), gemm(m, n, k)).total_cycles[0]
                  for b in (gbytes, gbytes + 50))
    assert fast <= slow + 2, "rounding of causes"


def test_one_token_is_bound_by_memory_on_a_tpu_v5e() -> None:
    """M = 1, K = N = 4,096: 33,023 cycles on four arrays are 22 us, 33.55 MB at 819 GB/s 41 us."""
    costs = on(tpu().replace({"memory.sustained": "100 %"}), gemm(1, 4096, 4096))
    cycles = dict(zip(CAUSES, costs.cycles[0].tolist(), strict=True))
    assert sum(cycles[c] for c in ("ideal", "edge", "preload", "drain")) + 128 == pytest.approx(33_023, abs=3)
    assert sum(cycles.values()) - cycles["launch"] == pytest.approx(2 * 4096 * 4096 / 819e9 * 1.5e9, rel=0.001)
    assert cycles["memory"] > 0 and cycles["preload"] > 20 * cycles["ideal"]


def test_an_array_that_may_choose_says_what_it_chose() -> None:
    flows = {flow: on(tpu(dataflow=flow), gemm(40, 300, 700)).total_cycles[0] for flow in ("ws", "os", "is")}
    costs = on(tpu(dataflow="auto"), gemm(40, 300, 700))
    assert costs.total_cycles[0] == min(flows.values())
    assert flows[CHOICES[costs.choice[0]]] == min(flows.values())


def test_attention_over_the_cache_goes_where_it_is_done_first() -> None:
    """One query a key: loading a key into an array takes as long as 128 queries, so lanes do better. 16 latent heads share a key."""
    assert choices(hardware.load("tpu-v5e"))["attention_decode"] == ["mxu", "vpu"]
    alone = gv.run("llama2-7b", "tpu-v5e", batch=8, prompt=512, output=4)
    shared = gv.run("deepseek-v2-lite", "tpu-v5p", batch=8, prompt=1000, output=4)
    assert alone.placement == {"decode": {"attention_decode": "vpu"}}
    assert shared.placement == {"decode": {"attention_decode": "mxu"}}
    for unit in ("mxu", "vpu"):
        fixed = hardware.load("tpu-v5e").replace({"mapping.attention_decode": unit})
        assert gv.run("llama2-7b", fixed, batch=8, prompt=512, output=4).latency_s >= alone.latency_s


def test_the_causes_of_an_operator_add_up_to_its_time() -> None:
    result = gv.run("llama2-7b", "tpu-v5e", batch=2, prompt=300, output=4)
    for row in result.ops_table():
        assert sum(row[f"{cause}_s"] for cause in CAUSES) == pytest.approx(row["time_s"], abs=row["count"] * 1e-12)


@pytest.mark.parametrize(("change", "said"), [
    ({"units.mxu.sram": "64 KiB"}, r"units.mxu.sram is 65536 B. The least that works under 128 x 128 cells is 134\d+ B"),
    ({"units.mxu.accumulators": "0 B"}, "zero"),
    ({"units.mxu.dataflow": "rs"}, "dataflow"),
    ({"mapping.attention_decode": "tpu"}, "names unit 'tpu'"),
])
def test_a_machine_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        hardware.load("tpu-v5e").replace(change)


def test_buffers_of_operands_are_checked(tmp_path: Any) -> None:
    def file(buffers: str) -> str:
        path = tmp_path / "chip.yaml"
        path.write_text(f"extends: tpu-v5e\nname: chip\nunits:\n  mxu:\n    buffers: {buffers}\n", encoding="utf-8")
        return str(path)

    fits = hardware.load(file("{input: 8 MiB, weight: 8 MiB, output: 8 MiB}"))
    rows = gemm(4096, 4096, 4096)
    assert on(fits, rows).total_cycles[0] >= on(tpu(), rows).total_cycles[0]
    with pytest.raises(ValueError, match=r"buffers.weight is 1.02 kB but two tiles of it are 65.5 kB"):
        hardware.load(file("{input: 8 MiB, weight: 1 KiB, output: 8 MiB}"))
    with pytest.raises(ValueError, match="buffers add up to"):
        hardware.load(file("{input: 80 MiB, weight: 80 MiB, output: 8 MiB}"))


def test_a_stated_share_of_a_part_is_what_its_replay_reaches() -> None:
    """Files state the share, so that a run need not replay it; without it, the part decides."""
    stated = [memory for memory in (hardware.load(name).spec.memory for name in hardware.names()) if memory.part and memory.sustained]
    assert len(stated) >= 5
    for memory in stated:
        assert memory.sustained == pytest.approx(stream_share(str(memory.part)), abs=0.002), memory
    open_to = stated[0].model_copy(update={"sustained": None})
    assert bytes_per_s(open_to) == pytest.approx(bytes_per_s(stated[0]), rel=0.003)
