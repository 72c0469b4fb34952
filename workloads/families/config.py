"""One HF config.json, read key by key: old and new names, defaults, and errors that name the file and the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..spec import ModelSpec

ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "num_kv_heads": ("num_key_value_heads", "n_head_kv"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions",),
    "num_local_experts": ("num_experts",),
    "num_experts": ("num_local_experts",),
    "hidden_act": ("hidden_activation", "activation_function", "activation"),
    "attention_bias": ("qkv_bias",),
    "sliding_window_pattern": ("_sliding_window_pattern",),
}
"""Other names of a key, in the order in which they are tried."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu",
    "gelu_fast": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "gelu",
}
"""HF's activation names, and the one of silu, gelu and relu that each is a form of."""

LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The keys of one config.json; `where` names the file and `needs` the keys that the family cannot do without."""

    values: Mapping[str, object]
    name: str
    where: str
    family: str
    needs: tuple[str, ...]

    def find(self, key: str) -> tuple[str, object]:
        """The first name of `key` that has a value, and the value; null is the same as absent."""
        for name in (key, *ALIASES.get(key, ())):
            if self.values.get(name) is not None:
                return name, self.values[name]
        return key, None

    def has(self, key: str) -> bool:
        return self.find(key)[1] is not None

    def missing(self, key: str) -> ValueError:
        return ValueError(f"{self.where}: key {key!r} is missing (family {self.family} needs {', '.join(self.needs)})")

    def wrong(self, key: str, value: object, wish: str) -> ValueError:
        return ValueError(f"{self.where}: key {key!r} = {value!r}: want {wish}")

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number, `least` or more."""
        name, value = self.find(key)
        if value is None and default is None:
            raise self.missing(key)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(name, value, "a positive whole number" if least == 1 else f"a whole number, {least} or more")
        return value

    def optional(self, key: str) -> int | None:
        """A positive whole number, or None where the key is absent or null."""
        return self.count(key) if self.has(key) else None

    def flag(self, key: str, default: bool) -> bool:
        name, value = self.find(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value

    def items(self, key: str) -> Sequence[object] | None:
        name, value = self.find(key)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(name, value, "a list")
        return value

    def activation(self, default: str) -> str:
        """silu, gelu or relu; `default` where the file names none."""
        name, value = self.find("hidden_act")
        if value is None:
            return default
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise self.wrong(name, value, f"one of {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def refuse(self, key: str, why: str) -> None:
        """Raise where the file switches on something that the family's reader does not know."""
        if self.flag(key, False):
            raise self.wrong(key, True, f"false ({why})")

    def heads(self, kv_key: str = "num_key_value_heads", kv_default: int | None = None) -> tuple[int, int]:
        """Query heads and KV heads; without a key of their own there are as many KV heads as query heads."""
        heads_q = self.count("num_attention_heads")
        heads_kv = self.count(kv_key, default=kv_default or heads_q)
        if heads_q % heads_kv:
            raise self.wrong(kv_key, heads_kv, f"a divisor of num_attention_heads = {heads_q}")
        return heads_q, heads_kv

    def head_dim(self, default: int | None = None) -> int:
        """The explicit head_dim, else `default`, else hidden_size / num_attention_heads."""
        if default is not None or self.has("head_dim"):
            return self.count("head_dim", default=default)
        hidden, heads_q = self.count("hidden_size"), self.count("num_attention_heads")
        if hidden % heads_q:
            raise self.wrong("hidden_size", hidden, f"a multiple of num_attention_heads = {heads_q}, or an explicit head_dim")
        return hidden // heads_q

    def windows(self, slides: Callable[[int], bool], default: int | None = None) -> tuple[int | None, ...]:
        """The window of each layer: as `layer_types` says, else `slides(layer)`; `default` is the family's sliding_window."""
        layers = self.count("num_hidden_layers")
        types = self.items("layer_types")
        sliding = [slides(layer) for layer in range(layers)] if types is None else [self._slides(kind) for kind in types]
        if len(sliding) != layers:
            raise self.wrong("layer_types", f"{len(sliding)} entries", f"num_hidden_layers = {layers} entries")
        window = self.count("sliding_window", default=default) if any(sliding) else None
        return tuple(window if slide else None for slide in sliding)

    def _slides(self, kind: object) -> bool:
        if kind not in LAYER_TYPES:
            raise self.wrong("layer_types", kind, f"only {' and '.join(LAYER_TYPES)}")
        return kind == "sliding_attention"


@dataclass(frozen=True)
class Reader:
    """How a family's config becomes a ModelSpec, and the keys that must be there."""

    read: Callable[[Config], ModelSpec]
    needs: tuple[str, ...]
    whole: bool = False
    """Whether it reads `text_config` itself: of a model of images and text in which both parts run."""


def always(_layer: int) -> bool:
    return True


def never(_layer: int) -> bool:
    return False
