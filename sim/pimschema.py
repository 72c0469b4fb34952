"""What a hardware file may say of processing in memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .quantity import Count, Dtype, PerCell, Power, PowerOfTwo, Size, Strict


class Pim(Strict):
    """Multiply-accumulate units in the DRAM; commands, timings and geometry are those of `part`."""

    kind: Literal["pim"]
    part: str
    """Memory part with PIM commands: a file under hw_configs/memory/, or a path."""
    channels: Count
    buffers: Literal["single", "dual"] = "single"
    """Row buffers of a bank."""
    level: Literal["bank", "bank-group", "buffer"] = "bank"
    """Where AttAcc's units are."""
    layout: Literal["heads", "tokens"] = "heads"
    """What a row of keys holds under Newton's commands: one token's keys of several heads, or several tokens' keys of one head."""
    whole: Literal["request", "head"] = "request"
    """What lives in one channel unless `placement` is split: a request with all its heads, or one KV head of a request."""
    placement: Literal["round-robin", "greedy", "neupims-alg1", "balance", "split"] = "greedy"
    """Which channel: in turn; heaviest first to the least loaded, weighed by cycles or by NeuPIMs' estimate; the least maximum;
    or every request's tokens over all channels."""
    operands: dict[Dtype, PerCell]
    """Multiply-adds of one lane in one step, by type of the cache; a share where it takes several steps."""
    vector_buffer: Size | None = None
    """Left out: that of the part."""
    refresh: Literal["in-turn", "together"] = "in-turn"
    """Ranks of a channel one after another, as the part says, or all at once: a tile needs every rank of its channel."""
    power_cap: Power | None = None
    """Most that dot products of all channels may draw: their steps are spaced until they stay under it. Left out: no cap."""
    levels: dict[Literal["pseudochannel", "rank", "bank_group", "bank"], PowerOfTwo] = Field(default_factory=dict)
    timings: dict[str, Count] = Field(default_factory=dict)
    """Numbers of the part that are others here."""
    capacity: Size | None = None
    """Memory of its own, beside the device's main memory; the KV cache lives there. Left out: PIM sits in main memory."""
