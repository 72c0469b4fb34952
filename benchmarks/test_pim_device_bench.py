"""Speed of the PIM device: decode steps of mixed lengths, cold (nothing solved yet) and warm."""

from typing import Any

import numpy as np
import pytest

import gemvane as gv
from gemvane.sim.devices import pim_channel

LENGTHS = tuple(int(n) for n in np.random.default_rng(1).integers(20, 900, 256))
ROOMY = gv.hardware("neupims").replace({"memory.capacity": "512 GB"})


def step() -> object:
    return gv.run("gpt3-7b", ROOMY, batch=256, prompt=LENGTHS, output=1, phase="decode").tpot_s


def steps() -> object:
    return gv.run("gpt3-7b", ROOMY, batch=64, prompt=LENGTHS[:64], output=127, phase="decode").tpot_s


@pytest.mark.parametrize("what", [step, steps], ids=["one step of 256", "127 steps of 64"])
@pytest.mark.parametrize("state", ["cold", "warm"])
def test_decode(benchmark: Any, what: Any, state: str) -> None:
    what()
    benchmark.pedantic(what, setup=pim_channel.channel.cache_clear if state == "cold" else None, rounds=3)
