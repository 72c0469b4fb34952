"""ModelSpec: a transformer as a list of layers, free of any framework's key names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Norm = Literal["rmsnorm", "layernorm"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention of one layer: multi-head, grouped or multi-query, with or without a window."""

    heads_q: int
    heads_kv: int
    head_dim: int
    window: int | None = None
    """Tokens that a query may look back, itself included; None is all."""
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    """RMS norm of each head's query and key (qwen3, gemma3)."""
    qk_norm_shared: bool = True
    """One head's norm weights serve all heads; False is one weight a head and element (olmo2)."""
    rope: bool = True
    sinks: bool = False
    """One learned logit a head (gpt-oss)."""
    causal: bool = True

    @property
    def kv_elements(self) -> int:
        """Cached elements of one token: K and V of every KV head."""
        return 2 * self.heads_kv * self.head_dim

    @property
    def label(self) -> str:
        """The field's name of this head sharing: "MHA 32", "GQA 32/8" or "MQA 71/1"."""
        if self.heads_kv == self.heads_q:
            return f"MHA {self.heads_q}"
        return f"{'MQA' if self.heads_kv == 1 else 'GQA'} {self.heads_q}/{self.heads_kv}"


@dataclass(frozen=True, kw_only=True)
class MLA:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1). The cache holds one latent a token."""

    heads_q: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    causal: bool = True
    window: int | None = None

    @property
    def kv_elements(self) -> int:
        """Cached elements of one token: the latent and the shared rotary key."""
        return self.kv_lora_rank + self.rope_dim

    @property
    def label(self) -> str:
        """ "MLA 128": the query heads."""
        return f"MLA {self.heads_q}"


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A feed-forward layer: gated (gate, up, down) or plain (up, down)."""

    width: int
    gated: bool
    activation: str
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class MoE:
    """A mixture of experts: `top_k` of `experts` run for each token, and `shared` ones (a dense layer) for all."""

    experts: int
    top_k: int
    width: int
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    router_bias: bool = False
    router_correction: bool = False
    """One learned score correction an expert (DeepSeek-V3)."""
    shared: Dense | None = None
    shared_gate: bool = False
    """A sigmoid gate of width 1 on the shared expert (qwen2-moe)."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    mixer: Attention | MLA
    ffn: Dense | MoE
    norms: int = 2
    """Norms of the hidden width in this layer (gemma2 has 4, falcon-7b 1)."""
    parallel: bool = False
    """Mixer and FFN read the same input (falcon, GPT-J)."""


@dataclass(frozen=True, kw_only=True)
class PatchEmbed:
    """The convolution that turns an image into tokens (ViT): kernel = stride = `patch`."""

    image: int
    patch: int
    channels: int

    @property
    def tokens(self) -> int:
        """Tokens of one image, the CLS token included."""
        return (self.image // self.patch) ** 2 + 1


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model: its layers, its embeddings and its head. Sizes are elements; what a dtype makes of them is the scenario's."""

    name: str
    family: str
    hidden: int
    layers: tuple[Layer, ...]
    vocab: int
    norm: Norm
    norm_bias: bool = True
    """Whether a LayerNorm has biases (those of PaLM and Cohere have none)."""
    tied_embeddings: bool = False
    positions: int | None = None
    """Longest sequence that the model was made for."""
    learned_positions: int = 0
    """Rows of a learned position table, 0 for none."""
    token_types: int = 0
    embed_dim: int | None = None
    """Width of the token embedding where it differs from `hidden` (opt-350m)."""
    embed_norm: bool = False
    final_norm: bool = True
    head: Literal["lm", "pooler", "classifier"] = "lm"
    num_classes: int = 0
    patches: PatchEmbed | None = None
    encoder: bool = False
    """No decode phase: every token sees every token."""
    extra_parameters: int = 0
    """Parameters outside the operators modelled here (a vision tower of a text run is not counted; a CLS token is)."""

    @property
    def parameters(self) -> int:
        """Every parameter of the checkpoint, biases and norms included; tied tables count once."""
        return self._outer_parameters() + sum(layer_parameters(layer, self.hidden, self._norm_parameters) for layer in self.layers)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: all of them, less the experts that its router leaves out."""
        return self.parameters - sum(idle_parameters(layer.ffn, self.hidden) for layer in self.layers)

    @property
    def kv_elements_per_token(self) -> int:
        """Cached elements of one token over all layers; an encoder caches none."""
        return 0 if self.encoder else sum(layer.mixer.kv_elements for layer in self.layers)

    @property
    def attention_label(self) -> str:
        """Kind and heads of the first layer's attention: "GQA 32/8", "MHA 32", "MQA 71/1", "MLA 128"."""
        return self.layers[0].mixer.label

    def _outer_parameters(self) -> int:
        norms = int(self.embed_norm) + int(self.final_norm)
        return self._embedding_parameters() + norms * self._norm_parameters + self._head_parameters() + self.extra_parameters

    @property
    def _norm_parameters(self) -> int:
        """Weights of one norm of the hidden width, and the biases of a LayerNorm that has them."""
        return 2 * self.hidden if self.norm == "layernorm" and self.norm_bias else self.hidden

    def _embedding_parameters(self) -> int:
        width = self.embed_dim or self.hidden
        projections = 2 * width * self.hidden if width != self.hidden else 0  # into the layers, and back out
        rows = self.learned_positions + self.token_types
        patches = 0 if self.patches is None else patch_parameters(self.patches, self.hidden)
        return self.vocab * width + projections + rows * self.hidden + patches

    def _head_parameters(self) -> int:
        if self.head == "lm":
            return 0 if self.tied_embeddings else self.vocab * (self.embed_dim or self.hidden)
        if self.head == "pooler":
            return linear_parameters(self.hidden, self.hidden, bias=True)
        return linear_parameters(self.hidden, self.num_classes, bias=True)


def linear_parameters(inputs: int, outputs: int, *, bias: bool) -> int:
    return inputs * outputs + (outputs if bias else 0)


def patch_parameters(patches: PatchEmbed, hidden: int) -> int:
    """The patch convolution and its bias; the CLS token is in `extra_parameters`."""
    return linear_parameters(patches.channels * patches.patch**2, hidden, bias=True)


def mixer_parameters(mixer: Attention | MLA, hidden: int) -> int:
    """Parameters of one layer's attention, without the norm before it."""
    return attention_parameters(mixer, hidden) if isinstance(mixer, Attention) else mla_parameters(mixer, hidden)


def attention_parameters(mixer: Attention, hidden: int) -> int:
    query, key = mixer.heads_q * mixer.head_dim, mixer.heads_kv * mixer.head_dim
    qkv = linear_parameters(hidden, query + 2 * key, bias=mixer.qkv_bias)
    out = linear_parameters(query, hidden, bias=mixer.out_bias)
    qk_norm = 2 * mixer.head_dim if mixer.qk_norm_shared else query + key
    return qkv + out + (qk_norm if mixer.qk_norm else 0) + (mixer.heads_q if mixer.sinks else 0)


def mla_parameters(mixer: MLA, hidden: int) -> int:
    """Projections down to the latents and up from them, and the RMS norm of each latent."""
    query = mixer.heads_q * (mixer.nope_dim + mixer.rope_dim)
    rank = mixer.q_lora_rank
    q = hidden * query if rank is None else hidden * rank + rank + rank * query
    kv_down = hidden * (mixer.kv_lora_rank + mixer.rope_dim) + mixer.kv_lora_rank
    kv_up = mixer.kv_lora_rank * mixer.heads_q * (mixer.nope_dim + mixer.value_dim)
    return q + kv_down + kv_up + mixer.heads_q * mixer.value_dim * hidden


def dense_parameters(ffn: Dense, hidden: int) -> int:
    inward = 2 if ffn.gated else 1
    return inward * linear_parameters(hidden, ffn.width, bias=ffn.bias) + linear_parameters(ffn.width, hidden, bias=ffn.bias)


def expert_parameters(ffn: MoE, hidden: int) -> int:
    """Parameters of one routed expert."""
    return dense_parameters(Dense(width=ffn.width, gated=ffn.gated, activation=ffn.activation, bias=ffn.bias), hidden)


def ffn_parameters(ffn: Dense | MoE, hidden: int) -> int:
    """Parameters of one layer's feed-forward part: all experts, the router and the shared expert."""
    if isinstance(ffn, Dense):
        return dense_parameters(ffn, hidden)
    router = linear_parameters(hidden, ffn.experts, bias=ffn.router_bias) + (ffn.experts if ffn.router_correction else 0)
    shared = 0 if ffn.shared is None else dense_parameters(ffn.shared, hidden)
    return ffn.experts * expert_parameters(ffn, hidden) + router + shared + (hidden if ffn.shared_gate else 0)


def idle_parameters(ffn: Dense | MoE, hidden: int) -> int:
    """Parameters of the experts that one token does not use."""
    return 0 if isinstance(ffn, Dense) else (ffn.experts - ffn.top_k) * expert_parameters(ffn, hidden)


def layer_parameters(layer: Layer, hidden: int, norm_parameters: int) -> int:
    """Parameters of one layer; `norm_parameters` are those of one norm."""
    return layer.norms * norm_parameters + mixer_parameters(layer.mixer, hidden) + ffn_parameters(layer.ffn, hidden)
