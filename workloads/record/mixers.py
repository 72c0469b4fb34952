"""State-space and linear-attention mixers as rows of their own: their Python fallbacks are not what a kernel does.

A mixer is known by its parts, whatever its class: projections in and out, a causal convolution, and the sizes of its state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

DELTA_CHUNK = 64
"""Tokens of a chunk of the gated delta rule, as transformers' and flash-linear-attention's kernels have it by default."""
Forward = Callable[..., torch.Tensor]


@contextmanager
def replaced(model: torch.nn.Module) -> Iterator[None]:
    """The mixers of this model run as projections, one convolution and one scan each while this lasts."""
    with ExitStack() as stack:
        for module in model.modules():
            for parts, make in KNOWN:
                if all(hasattr(module, part) for part in parts):
                    module.forward = make(module)
                    stack.callback(module.__dict__.pop, "forward", None)
                    break
        yield


def _inside(x: torch.Tensor, kind: str, numbers: list[int], width: int) -> torch.Tensor:
    out: torch.Tensor = torch.ops.gemvane.mixer(x, kind, numbers, width)
    return out


def _convolved(mixer: Any, x: torch.Tensor) -> torch.Tensor:
    channels, taps = mixer.conv1d.in_channels, mixer.conv1d.kernel_size[0]
    return _inside(x, "dwconv", [taps], channels)


def _selective(mixer: Any) -> Forward:
    """Mamba (arXiv 2312.00752): step, B and C from the convolved input, then the selective scan with its gate."""
    channels, states, rank = mixer.intermediate_size, mixer.ssm_state_size, mixer.time_step_rank

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        x = _convolved(mixer, mixer.in_proj(hidden_states)[..., :channels])
        step = mixer.dt_proj(mixer.x_proj(x)[..., :rank])
        out: torch.Tensor = mixer.out_proj(_inside(step, "selective_scan", [states], channels))
        return out

    return forward


def _duality(mixer: Any) -> Forward:
    """Mamba-2 (arXiv 2405.21060): one projection in, a chunked scan of heads, a gated norm."""
    inner = mixer.num_heads * mixer.head_dim
    sizes = [mixer.num_heads, mixer.n_groups, mixer.ssm_state_size, mixer.head_dim, mixer.chunk_size]

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        projected = mixer.in_proj(hidden_states)
        x = _inside(_convolved(mixer, projected[..., : mixer.conv1d.in_channels]), "scan", sizes, inner)
        if hasattr(mixer, "norm"):
            x = mixer.norm(x, projected[..., :inner])
        out: torch.Tensor = mixer.out_proj(x)
        return out

    return forward


def _delta(mixer: Any) -> Forward:
    """Gated delta rule (arXiv 2412.06464): projections, one convolution of queries, keys and values, the scan, a gated norm."""
    heads, inner = mixer.num_v_heads, mixer.num_v_heads * mixer.head_v_dim
    sizes = [heads, mixer.num_k_heads, mixer.head_k_dim, mixer.head_v_dim, DELTA_CHUNK]
    inward = [child for name, child in mixer.named_children() if name.startswith("in_proj")]

    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        projected = torch.cat([linear(hidden_states) for linear in inward], -1)
        x = _inside(_convolved(mixer, projected[..., : mixer.conv1d.in_channels]), "delta_scan", sizes, inner)
        per_head = (*x.shape[:-1], heads, mixer.head_v_dim)
        normed = mixer.norm(x.view(per_head), projected[..., :inner].reshape(per_head))
        out: torch.Tensor = mixer.out_proj(normed.view(x.shape))
        return out

    return forward


def _rwkv(mixer: Any) -> Callable[..., tuple[torch.Tensor, Any]]:
    """RWKV-4 (arXiv 2305.13048): receptance, keys and values of the shifted input, then the recurrence."""

    def forward(hidden: torch.Tensor, state: Any = None, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any]:
        received = torch.sigmoid(mixer.receptance(hidden))
        key, value = mixer.key(hidden), mixer.value(hidden)
        return mixer.output(received * _inside(key + value, "wkv", [1], key.shape[-1])), state

    return forward


KNOWN: tuple[tuple[tuple[str, ...], Callable[[Any], Callable[..., Any]]], ...] = (
    (("in_proj", "x_proj", "dt_proj", "conv1d", "out_proj", "ssm_state_size", "intermediate_size", "time_step_rank"), _selective),
    (("in_proj", "conv1d", "out_proj", "ssm_state_size", "num_heads", "head_dim", "n_groups", "chunk_size"), _duality),
    (("conv1d", "out_proj", "norm", "num_v_heads", "num_k_heads", "head_k_dim", "head_v_dim"), _delta),
    (("time_decay", "time_first", "receptance", "key", "value", "output"), _rwkv),
)
"""What a mixer has, and how it is run."""
