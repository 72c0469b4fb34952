"""Attention of transformers' models as one operator with its true heads and type, and their caches as appends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .dispatch import Recorder

NAME = "gemvane"
"""Our attention's name among transformers' implementations."""


def register() -> None:
    """Make the implementation known to transformers; its masks are None, so that none is built."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _no_mask)


@contextmanager
def unmasked() -> Iterator[None]:
    """Models that call torch's own attention get no mask either while this lasts, and say themselves that they are causal."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = _no_mask
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


def _attention(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
               is_causal: bool | None = None, sliding_window: int | None = None, **kwargs: Any) -> tuple[torch.Tensor, None]:
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    out: torch.Tensor = torch.ops.gemvane.attention(query, key, value, bool(causal), sliding_window or 0)
    return out.transpose(1, 2), None


@contextmanager
def appended(recorder: Recorder, cache: Any) -> Iterator[None]:
    """Updates of this cache are recorded as appends while this lasts, not as the copies that they are made of."""
    with ExitStack() as stack:
        for name in ("self_attention_cache", "cross_attention_cache"):
            if hasattr(cache, name):
                stack.enter_context(_watched(recorder, getattr(cache, name)))
        if not hasattr(cache, "self_attention_cache") and hasattr(cache, "update"):
            stack.enter_context(_watched(recorder, cache))
        yield


@contextmanager
def _watched(recorder: Recorder, cache: Any) -> Iterator[None]:
    plain = cache.update

    def update(keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        torch.ops.gemvane.append(keys, values)
        recorder.paused = True
        try:
            kept: tuple[torch.Tensor, torch.Tensor] = plain(keys, values, *args, **kwargs)
        finally:
            recorder.paused = False
        recorder.cached(*kept)
        return kept

    cache.update = update
    try:
        yield
    finally:
        del cache.update
