"""Transforms of attention, layers, tokens, arithmetic and devices: what they refuse, and batches that fill the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

import gemvane as gv
from gemvane.sim import memory
from gemvane.sim.hardware import load as load_hardware
from gemvane.validate.claims import page, scoreboard
from gemvane.workloads import catalog
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.transforms import applied

DECODER, ENCODER = "llama3.2-1b", "bert-base"
ONE = Scenario(batch=1, prompt=256, output=3)
BAD = [
    ("window:tokens=0", DECODER, "tokens is 0. Expected at least 1"),
    ("window:full_every=-1", DECODER, "full_every"),
    ("window", "mamba-130m", "no softmax attention"),
    ("block_sparse:density=0", DECODER, "density is 0.0. Expected a share above 0"),
    ("block_sparse:stride=-1", DECODER, "stride"),
    ("block_sparse:block=0", DECODER, "block"),
    ("nearest_keys:keys=0", ENCODER, "keys"),
    ("nearest_keys:keys=64,candidates=32", ENCODER, "candidates is 32. Expected at least as many as keys, 64"),
    ("nearest_keys", DECODER, "generates tokens"),
    ("low_rank_keys:rows=0", ENCODER, "rows"),
    ("low_rank_keys", DECODER, "is causal"),
    ("linear_attention:bits=-1", ENCODER, "bits"),
    ("linear_attention:keep_every=-1", ENCODER, "keep_every"),
    ("linear_attention:bits=16", DECODER, "is causal"),
    ("state_space:keep_every=-1", DECODER, "keep_every"),
    ("state_space", ENCODER, "is an encoder"),
    ("fourier", DECODER, "is causal"),
    ("fourier:dense=1", ENCODER, "true or false"),
    ("monarch:blocks=0", ENCODER, "blocks"),
    ("monarch:blocks=7", ENCODER, "a divisor of the widths 768 and 3072"),
    ("monarch", DECODER, "is causal"),
    ("monarch", "swin-t", "differ in their tokens"),
    ("fourier:dense=true", "pvt-v2-b0", "differ in their tokens"),
    ("low_rank_keys", "pvt-v2-b0", "differ in their tokens"),
    ("all_pairs", ENCODER, "already sees every token"),
    ("unprojected:dropped=3", ENCODER, "1 or 2"),
    ("drop_attention:share=0", DECODER, "share"),
    ("drop_attention:share=0.01", DECODER, "at least one of 16 layers"),
    ("drop_attention", "falcon-7b", "one after the other"),
    ("global_local:block=1", DECODER, "block"),
    ("global_local:share=1", DECODER, "share"),
    ("global_local:prefix=0", DECODER, "prefix"),
    ("global_local:share=0.01", DECODER, "leaves global and local layers among 16"),
    ("global_local", ENCODER, "no decoder"),
    ("reduce_tokens:keep=1", ENCODER, "keep"),
    ("reduce_tokens:stages=0", ENCODER, "stages"),
    ("reduce_tokens:stages=12", ENCODER, "fewer than the 12 layers"),
    ("reduce_tokens", DECODER, "Expected an encoder"),
    ("reduce_tokens", "swin-t", "already differ"),
    ("pad:to=-1", ENCODER, "to is -1"),
    ("pad:to=8", ENCODER, "at least the longest request, 256"),
    ("pad", ENCODER, "nothing to pad"),
    ("pad", "vit-b16", "nothing to pad"),
    ("active_neurons:share=1", DECODER, "share"),
    ("active_neurons", "mixtral-8x7b", "no dense feed-forward"),
    ("lookup_tables:bits=17", ENCODER, "1 to 16"),
    ("lookup_tables:bits=5", ENCODER, "a divisor of the width 768"),
    ("lookup_tables", DECODER, "generates tokens"),
    ("shift_add:multiplied=2", ENCODER, "multiplied"),
    ("shift_add", DECODER, "is causal"),
    ("shift_add", "v-moe-b16", "already has a mixture"),
    ("low_rank:rank=0", ENCODER, "rank"),
    ("low_rank:encoder=true", ENCODER, "no encoder before it"),
    ("low_rank", "mamba-130m", "no linear layers"),
    ("rms_norm", DECODER, "no layer norm"),
    ("resize", DECODER, "no size is given"),
    ("resize:layers=-1", DECODER, "layers"),
    ("resize:heads=8,kv_heads=3", DECODER, "a divisor of heads"),
    ("resize:layers=2", "jamba-v0.1", "not all alike"),
    ("expert_parallel", DECODER, "has no experts"),
    ("expert_parallel", "mixtral-8x7b", "tp is 1. Expected a tensor-parallel group"),
    ("context:devices=1", DECODER, "at least 2"),
    ("context:attention=star", DECODER, "one of ring, tree"),
    ("context:attention=tree", DECODER, "tree attention is of decode steps"),
    ("context:attention=ring,devices=512", DECODER, "at most the shortest prompt, 256"),
    ("context:attention=ring", "gemma3-1b", "full softmax attention"),
    ("context:attention=ring", "vit-b16", "not its prompt's"),
]


@pytest.mark.parametrize(("transform", "model", "said"), BAD, ids=[f"{text} {model}" for text, model, _ in BAD])
def test_what_it_has_no_use_for_is_refused_in_one_sentence(transform: str, model: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        applied(catalog.load(model), ONE.but(transforms=(transform,)))
    assert str(caught.value).startswith(f"{transform.partition(':')[0]}: ")
    assert "\n" not in str(caught.value)


def test_experts_go_evenly_over_the_devices() -> None:
    with pytest.raises(ValueError, match=r"mixtral-8x7b has 8 experts\. Expected a multiple of tp, 3"):
        applied(catalog.load("mixtral-8x7b"), ONE.but(tp=3, transforms=("expert_parallel",)))


def test_two_attentions_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="window and block_sparse contradict each other"):
        applied(catalog.load(DECODER), ONE.but(transforms=("window", "block_sparse")))


def test_a_scenario_names_a_known_way_to_attend_over_devices() -> None:
    with pytest.raises(ValueError, match=r"context_attention is 'star'\. Expected one of ring, tree"):
        Scenario(context=2, context_attention="star")
    with pytest.raises(ValueError, match="context is 0"):
        Scenario(context=0)


def test_more_devices_than_a_link_reaches_are_said() -> None:
    result = gv.run(DECODER, "h100-sxm", prompt=4096, output=2, phase="decode", transforms=("context:devices=16",))
    assert any("h100-sxm links 8 devices; the 16 that share out a context" in warning for warning in result.warnings)


FITS = """
schema_version: 1
title: Room
papers: {{p: "nobody, nowhere"}}
claims:
  room:
    claim: as many as fit
    paper: p
    kind: claimed
    claimed: "> 1 x"
    experiments:
      one: {{hardware: a100-80g, model: {model}, scenario: {{phase: decode, batch: 1, prompt: 4096, output: 2}}}}
      most: {{hardware: a100-80g, model: {model}, scenario: {{phase: decode, batch: fits, prompt: 4096, output: 2}}}}
    value: most.kv_cache / one.kv_cache
"""


def test_a_batch_that_fits_fills_what_the_weights_leave(tmp_path: Path) -> None:
    file = tmp_path / "room.yaml"
    file.write_text(FITS.format(model="llama2-7b"))
    (row,) = scoreboard.run([page.load(file)])
    one = memory.use(catalog.load("llama2-7b"), Scenario(phase="decode", prompt=4096, output=2), load_hardware("a100-80g"))
    assert row.simulated_value == one.kv_room_bytes // one.kv_cache_bytes


def test_a_batch_that_nothing_bounds_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "room.yaml"
    file.write_text(FITS.format(model="llama3-405b"))
    with pytest.raises(ValueError, match="no room for one request"):
        scoreboard.run([page.load(file)])
