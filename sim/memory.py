"""Does it fit: weights and cache against the memory of one device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gemvane.workloads import lower
from gemvane.workloads.lower import prompt_lengths, source_lengths
from gemvane.workloads.ops import DTYPE_BITS
from gemvane.workloads.scenario import Scenario
from gemvane.workloads.sparsity import weight_bits
from gemvane.workloads.spec import MLA, Attention, ModelSpec, cache_elements, kept_elements

from .devices.pim_place import place
from .hardware import Hardware
from .pimschema import Pim
from .units import show

MOST_DOUBLINGS = 10
"""The search for enough devices stops at 1024 times those asked for."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device of a tensor- and pipeline-parallel group, at the end of the generation."""

    weights_bytes: int
    kv_cache_bytes: int
    capacity_bytes: int
    """All memory of one device, a PIM memory of its own included."""
    weights_room_bytes: int
    kv_room_bytes: int
    """Room for the cache: the PIM memory where the cache has one of its own, else what the weights leave."""
    channels: int = 1
    """PIM channels over which the cache is spread."""
    channel_bytes: int = 0
    """Cache of the fullest channel where a request, or a KV head of one, lives in one channel as a whole; 0 elsewhere."""

    @property
    def fits(self) -> bool:
        return (self.weights_bytes <= self.weights_room_bytes and self.kv_cache_bytes <= self.kv_room_bytes
                and self.channel_bytes <= self.kv_room_bytes // self.channels)


def weights_bytes(spec: ModelSpec, scenario: Scenario) -> int:
    """Weights of one device: an even share of all parameters, rounded up."""
    return -(-weight_bits(spec, scenario) // (8 * scenario.tp * scenario.pp))


def kv_cache_bytes(spec: ModelSpec, scenario: Scenario) -> int:
    """Cache of the fullest device when every request has all its tokens; a window keeps no more than its length. States of scans and
    keys and values of encoded tokens count too, and so do drafted tokens and the cache of what drafts them."""
    if spec.encoder:
        return 0
    prompts = prompt_lengths(spec, scenario)
    generated = 0 if scenario.phase == "prefill" else lower.most_generated(spec, scenario.decode_steps)
    final = prompts[scenario.held(prompts)] + generated
    shared_by = 1 if scenario.by_request else scenario.tp
    stages = np.zeros(scenario.pp, object)
    source = source_lengths(spec, scenario)[scenario.held(prompts)]
    for number, layer in enumerate(spec.layers):
        for part in layer.sublayers:
            reach = part.reach if isinstance(part, (Attention, MLA)) else None
            made = -(-final // layer.every)
            kept = int(made.sum() if reach is None else np.minimum(made, reach).sum())
            fixed = int(kept_elements(part, shared_by, source).sum())
            stages[number * scenario.pp // len(spec.layers)] += kept * cache_elements(part, shared_by) + fixed
    drafted = 0 if spec.decoding.drafter is None else kv_cache_bytes(spec.decoding.drafter, scenario)
    return int(-(-max(stages) * DTYPE_BITS[scenario.kv] // 8)) + drafted


def use(spec: ModelSpec, scenario: Scenario, hardware: Hardware) -> Memory:
    """What the run needs and what one device has."""
    weights, kv = weights_bytes(spec, scenario), kv_cache_bytes(spec, scenario)
    main = hardware.spec.memory.capacity
    pims = [u for u in hardware.spec.units.values() if isinstance(u, Pim)]
    own = next((pim.capacity for pim in pims if pim.capacity), None)
    room = own if own is not None else max(0, main - weights)
    pim = _cache_in(hardware)
    if pim is None or spec.encoder:
        return Memory(weights, kv, main + (own or 0), main, room)
    fullest = 0 if pim.placement == "split" else _fullest_channel(spec, scenario, pim, kv)
    return Memory(weights, kv, main + (own or 0), main, room, pim.channels, fullest)


def _cache_in(hardware: Hardware) -> Pim | None:
    """The PIM unit that may read keys or values, and so must hold the cache."""
    spec = hardware.spec
    readers = [spec.units[name] for work in ("attention_decode", "attention_score", "attention_value") for name in spec.units_for(work)]
    return next((unit for unit in readers if isinstance(unit, Pim)), None)


def _fullest_channel(spec: ModelSpec, scenario: Scenario, pim: Pim, kv_bytes: int) -> int:
    """Cache bytes of the fullest channel, longest request first to the emptiest: policies that weigh by time come close to it."""
    prompts = prompt_lengths(spec, scenario)
    final = prompts[scenario.held(prompts)] + (0 if scenario.phase == "prefill" else scenario.decode_steps)
    heads = 1
    if pim.whole == "head":
        shared_by = 1 if scenario.by_request else scenario.tp
        heads = min(max(1, part.heads_kv // shared_by) if isinstance(part, Attention) else 1 for part in spec.cached_parts)
    items = np.repeat(final, heads)
    channel = place("greedy", items, pim.channels).channel
    return -(-kv_bytes * int(np.bincount(channel, items, pim.channels).max()) // int(items.sum()))


def check(spec: ModelSpec, scenario: Scenario, hardware: Hardware) -> Memory:
    """The memory use. ValueError where it does not fit, with what is needed, what there is, and ways out; and for a type of the cache
    that the units which read it do not multiply."""
    memory, pim = use(spec, scenario, hardware), _cache_in(hardware)
    if pim is not None and scenario.kv not in pim.operands and not spec.encoder:
        raise ValueError(f"{hardware.name}: the PIM unit's operands have no {scenario.kv}, the type of the cache. "
                         f"Use --kv-dtype {_either(list(pim.operands))}.")
    if memory.fits:
        return memory
    need = f"{show(memory.weights_bytes, 'B')} of weights + {show(memory.kv_cache_bytes, 'B')} of KV cache"
    share = "" if scenario.devices == 1 else " on each device"
    have = show(memory.weights_room_bytes, "B")
    if memory.capacity_bytes > memory.weights_room_bytes:
        have += f" + {show(memory.kv_room_bytes, 'B')} for the cache"
    ways = _ways_out(spec, scenario, hardware)
    if memory.channel_bytes and memory.kv_cache_bytes <= memory.kv_room_bytes and memory.weights_bytes <= memory.weights_room_bytes:
        room = memory.kv_room_bytes // memory.channels
        have += (f", but each of its {memory.channels} PIM channels only {show(room, 'B')}, and the fullest would get "
                 f"{show(memory.channel_bytes, 'B')}")
        ways.insert(0, "placement: split for the PIM unit (--policy channels=split)")
    raise ValueError(f"{spec.name} needs {need}{share}, {hardware.name} has {have}: use {_either(ways)}.")


def _either(ways: list[str]) -> str:
    return ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"


def _ways_out(spec: ModelSpec, scenario: Scenario, hardware: Hardware) -> list[str]:
    def fits(**changes: int) -> bool:
        asked = scenario.but(**changes)
        try:
            lower.check(spec, asked)
        except ValueError:
            return False
        return use(spec, asked, hardware).fits

    ways = []
    for flag, devices in (("tp", scenario.tp), ("pp", scenario.pp)):
        enough = next((n for n in (devices * 2**i for i in range(1, MOST_DOUBLINGS + 1)) if fits(**{flag: n})), None)
        if enough is not None:
            ways.append(f"--{flag} {enough}")
    smaller = next((d for d in ("fp8", "fp4") if DTYPE_BITS[d] < DTYPE_BITS[scenario.weights]
                    and use(spec, scenario.but(dtype=d, weight_dtype=None, kv_dtype=None), hardware).fits), None)
    if smaller:
        ways.append(f"--dtype {smaller}")
    most = most_requests(spec, scenario, hardware)
    if 0 < most < scenario.batch:
        ways.append(f"--batch {most} or less")
    return ways or ["more devices (--pp), a smaller --dtype, or hardware with more memory"]


def most_requests(spec: ModelSpec, scenario: Scenario, hardware: Hardware) -> int:
    """Largest batch of the longest prompt that fits; 0 where not even one does."""
    one = scenario.but(batch=1, prompt=int(scenario.lengths.max()))
    memory = use(spec, one, hardware)
    if not memory.fits or memory.kv_cache_bytes == 0:
        return 0
    whole = memory.kv_room_bytes // memory.kv_cache_bytes
    if memory.channel_bytes == memory.kv_cache_bytes:  # whole requests in channels
        whole = memory.kv_room_bytes // memory.channels // memory.channel_bytes * memory.channels
    return whole * (scenario.tp if scenario.by_request else 1)
