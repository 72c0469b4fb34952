"""What transforms of layers share: putting another part in the place of one, and saying where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..parts import Attention, Chain, Dense, Layer, Step
from ..scenario import Scenario
from ..spec import ModelSpec

Mixer = Attention | Chain


def own_attention(layer: Layer) -> Attention | None:
    """The layer's softmax attention over its own tokens, if that is its mixer."""
    return layer.mixer if isinstance(layer.mixer, Attention) and layer.mixer.source == "self" else None


def swap_attention(name: str, spec: ModelSpec, new: Callable[[Attention, int], Mixer], chosen: Callable[[int], bool] = bool) -> ModelSpec:
    """The model with `new(attention, width)` for each self-attention that is `chosen` by its number, counted from 1.

    ValueError where the model has none.
    """
    layers, number = [], 0
    for layer in spec.layers:
        old = own_attention(layer)
        number += old is not None
        layers.append(layer if old is None or not chosen(number) else replace(layer, mixer=new(old, layer.hidden or spec.hidden)))
    if not number:
        raise ValueError(f"{name}: {spec.name} has no softmax attention over its own tokens to change.")
    return replace(spec, layers=tuple(layers))


def swap_dense(name: str, spec: ModelSpec, new: Callable[[Dense, int], Dense | Chain]) -> ModelSpec:
    """The model with `new(ffn, width)` for each dense feed-forward part. ValueError where it has none."""
    layers = [replace(layer, ffn=new(layer.ffn, layer.hidden or spec.hidden)) if isinstance(layer.ffn, Dense) else layer
              for layer in spec.layers]
    if not any(isinstance(layer.ffn, Dense) for layer in spec.layers):
        raise ValueError(f"{name}: {spec.name} has no dense feed-forward part to change.")
    return replace(spec, layers=tuple(layers))


def refuse_decoding(name: str, spec: ModelSpec, scenario: Scenario, because: str) -> None:
    """ValueError where tokens are generated one by one."""
    if not spec.encoder and scenario.phase != "prefill":
        raise ValueError(f"{name}: {spec.name} generates tokens, and {because}. Use phase prefill, or an encoder.")


def longest_prompt(name: str, spec: ModelSpec, scenario: Scenario) -> int:
    """Tokens of the longest sequence in every layer. ValueError where layers have numbers of their own."""
    if any(layer.tokens or layer.keep < 1 for layer in spec.layers):
        raise ValueError(f"{name}: the layers of {spec.name} differ in their tokens. Expected the same sequence in all of them.")
    return spec.input_tokens or int(scenario.lengths.max())


def projections(old: Attention, hidden: int) -> tuple[Step, Step]:
    """Queries, keys and values of an attention in one product, and the way out."""
    inner = old.heads_q * old.head_dim
    return (Step(name="qkv_proj", kind="gemm", n=inner + 2 * old.heads_kv * old.head_dim, k=hidden, bias=old.qkv_bias, cut="n"),
            Step(name="o_proj", kind="gemm", n=hidden, k=inner, bias=old.out_bias, cut="k"))


def dense_steps(old: Dense, hidden: int) -> tuple[Step, Step, Step]:
    """The products and the activation of a dense part."""
    gated = old.gated
    return (Step(name="up", kind="gemm", n=old.width * (2 if gated else 1), k=hidden, bias=old.bias, cut="n"),
            Step(name="activation", kind=f"{old.activation}_mul" if gated else old.activation, n=old.width, cut="n"),
            Step(name="down", kind="gemm", n=hidden, k=old.width, bias=old.bias, cut="k"))


def chain(label: str, steps: Sequence[Step]) -> Chain:
    return Chain(label=label, steps=tuple(steps))
