"""Attention whose keys are shared out over devices by their place in the sequence: round a ring, or reduced over a tree."""

from __future__ import annotations

from .emit import Emit
from .spec import Attention


def over_devices(emit: Emit, mixer: Attention, x: int, heads_q: int, heads_kv: int) -> int:
    """Attention of this device's queries to the keys of all `context` devices.

    Tree, a decode step (Shyam et al., arXiv 2408.04093, algorithm 3): own keys; the largest score over all devices; numerators and
    denominators summed. Ring: as many rounds as devices, in each an attention to the keys that are here while they go on to the next
    device; results of rounds are merged. A causal prefill deals the pieces out so that every round sees half of its pairs everywhere
    (striped attention, arXiv 2311.09431), which is what a device's own causal piece has.
    """
    scenario, part, d = emit.part.scenario, emit.part, mixer.head_dim
    devices, kv_width = scenario.context, 2 * heads_kv * d
    if scenario.context_attention == "tree":
        x = emit.attention(x, mixer, heads_q, heads_kv, d, d, kv_width)
        x = emit.collective("reduce_max", "allreduce", x, heads_q, devices)
        x = emit.vector("rescale", "mul", x, n=heads_q * d)
        x = emit.collective("reduce_sums", "allreduce", x, heads_q * (d + 1), devices)
        return emit.vector("divide", "mul", x, n=heads_q * d)
    keys = int(part.held.sum()) + part.held.size * part.generated if part.decoding else part.tokens
    arrived = x
    done: tuple[int, ...] = ()
    for number in range(devices):
        here = emit.attention(arrived, mixer, heads_q, heads_kv, d, d, kv_width)
        if number + 1 < devices:
            arrived = emit.collective("send_keys", "send", arrived, kv_width, 2, keys)
        done = (emit.vector("merge", "merge", here, *done, n=heads_q * d),)
    return done[0]
