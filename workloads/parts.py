"""The parts of a layer: attention, latent attention, chains of operators, feed-forward parts; and how many parameters each has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .kinds import BY_NAME

Norm = Literal["rmsnorm", "layernorm", "groupnorm"]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention of one layer: multi-head, grouped or multi-query, with or without a window."""

    heads_q: int
    heads_kv: int
    head_dim: int
    window: int | None = None
    """Tokens that a query may look back, itself included; None is all."""
    qkv_bias: bool = False
    k_bias: bool = True
    """Whether `qkv_bias` includes the keys (Whisper's have none)."""
    out_bias: bool = False
    qk_norm: bool = False
    """RMS norm of each head's query and key (qwen3, gemma3)."""
    qk_norm_shared: bool = True
    """One head's norm weights serve all heads; False is one weight a head and element (olmo2)."""
    rope: bool = True
    sinks: bool = False
    """One learned logit a head (gpt-oss)."""
    causal: bool = True
    gate: bool = False
    """A sigmoid of a further projection of the input multiplies the output (qwen3-next)."""
    source: Literal["self", "cross", "shared"] = "self"
    """Whose keys and values are read: the layer's own, those of an encoder's output, or those that an earlier layer has cached."""
    source_hidden: int = 0
    """Width of the encoder's output where it is not that of the layer."""
    block: int = 0
    """Tokens of the windows that cut the sequence into pieces, each of which sees itself alone (Swin); 0 is one piece."""
    reduce: int = 1
    """Tokens that a convolution of the keys' and values' input makes into one (PVT)."""
    relative: bool = False
    """Scores of each query with projected relative positions are added (Transformer-XL, arXiv 1901.02860, section 3.3)."""
    extra: int = 0
    """Parameters beside: a table of position biases."""
    density: float = 1.0
    """Share of the visible (query, key) pairs of a prefill that are computed: of blocks that a mask keeps."""
    prepare: tuple[Step, ...] = ()
    """What runs on the projections before the attention: scores of blocks, an index of the keys."""
    rank: int = 0
    """Rank of the two factors of each projection; 0 where it is one matrix."""
    given: int = 0
    """Of values, keys and queries, in this order, how many have no projection: they are the input itself, or what `prepare` makes of it."""
    budget: int | None = None
    """Tokens that stay in the cache of each sequence, those with the highest scores; None is all. A prefill still sees all."""
    key_rank: int = 0
    """Dimensions of a key by which a decode step picks the `top` tokens that its attention then reads (Loki); 0: it reads all."""
    top: int = 0

    @property
    def reach(self) -> int | None:
        """Cached tokens that a decode step sees at most; None is all."""
        return min((limit for limit in (self.window, self.budget) if limit is not None), default=None)

    @property
    def projected(self) -> tuple[int, int]:
        """Query heads that a projection makes, and KV heads of keys and values together."""
        return self.heads_q * (self.given < 3), self.heads_kv * max(0, 2 - self.given)

    @property
    def kv_elements(self) -> int:
        """Elements that one token adds to the cache: K and V of every KV head."""
        return 2 * self.heads_kv * self.head_dim if self.source == "self" else 0

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
    def reach(self) -> int | None:
        """Cached tokens that a decode step sees at most; None is all."""
        return self.window

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
    rank: int = 0
    """Rank of the two factors of each matrix; 0 where it is one."""
    active: float = 1.0
    """Share of the neurons that a token makes other than zero; what goes down from the others is not computed."""


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
class Step:
    """One operator of a chain: a kind of ops.KINDS and its sizes. Rows are the layer's tokens, `times` each, or `rows` a sequence."""

    name: str
    kind: str
    n: int = 0
    k: int = 0
    """Inputs of a matmul, taps of a stencil or gather, tokens of a chunk of a scan."""
    batch: int = 1
    """Products of [k, n] that share the input out among them: groups of a convolution, blocks of a block-diagonal weight."""
    bias: bool = False
    times: int = 1
    rows: int = 0
    each: Literal["token", "sequence"] = "token"
    """Whether there is a row for each token or only one a sequence."""
    along: Literal["width", "tokens", "pieces"] = "width"
    """Whether it runs along the n elements of each row; along the tokens of a sequence, for each of n channels (a weight: `times` rows of
    that length); or is one of every piece of `stride` tokens with every other, `times` in all (heads)."""
    reads: int = 0
    """Elements of the input that one row of the output stands for, where they are fewer than k: of a convolution stride x channels."""
    heads: int = 0
    key_heads: int = 0
    key_dim: int = 0
    """Of a scan; of a selective scan the states of a channel."""
    value_dim: int = 0
    state: int = 0
    """Elements of a causal convolution's state: the inputs of its last taps."""
    cut: Literal["", "n", "k", "heads", "batch"] = ""
    """What tensor parallelism shares out."""
    extra: int = 0
    """Parameters beside those of the operator's own shape."""
    affine: bool = True
    """Whether a norm has parameters."""
    prefill_only: bool = False
    stride: int = 1
    """Along "pieces": tokens that make one row."""
    share: float = 1.0
    """Of the layer's tokens, those that come here; along "pieces", of those that each piece could meet."""

    @property
    def matmul(self) -> bool:
        """Whether it multiplies by a weight."""
        return BY_NAME[self.kind].work == "matmul" and BY_NAME[self.kind].weights

    @property
    def parameters(self) -> int:
        kind = BY_NAME[self.kind]
        bias = self.batch * self.n if self.bias else 0
        if self.matmul:
            return self.batch * self.n * self.k + bias + self.extra
        if self.kind in NORM_PARAMETERS:
            return (NORM_PARAMETERS[self.kind] * self.n if self.affine else 0) + self.extra
        if kind.form == "stencil" and kind.weights and kind.macs:
            return self.n * self.k + bias + self.extra
        return self.extra

    @property
    def state_elements(self) -> int:
        """Elements that a sequence keeps from one token to the next."""
        if BY_NAME[self.kind].form == "channels":
            return self.n * self.key_dim
        return self.heads * self.key_dim * self.value_dim + self.state


NORM_PARAMETERS = {"rmsnorm": 1, "layernorm": 2, "groupnorm": 2, "batchnorm": 2}
"""Parameters an element of a norm."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Operators one after another: state-space mixers, linear attention, convolutions, Fourier and Monarch mixers."""

    label: str
    steps: tuple[Step, ...]
    residual: bool = True
    window: None = None

    @property
    def kv_elements(self) -> int:
        """0: what it keeps does not grow with the tokens."""
        return 0

    @property
    def state_elements(self) -> int:
        """Elements that a sequence keeps from one token to the next."""
        return sum(step.state_elements for step in self.steps)


Sublayer = Attention | MLA | Chain | Dense | MoE


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Residual parts in the order before, mixer, between, ffn; `norms` of the hidden width in all."""

    mixer: Attention | MLA | Chain
    ffn: Dense | MoE | Chain | None
    norms: int = 2
    """Norms of the hidden width in this layer (gemma2 has 4, falcon-7b 1)."""
    parallel: bool = False
    """Mixer and FFN read the same input (falcon, GPT-J)."""
    before: tuple[Sublayer, ...] = ()
    between: tuple[Sublayer, ...] = ()
    """Cross-attention of a decoder, the convolution of a conformer."""
    norm_parameters: bool = True
    """Whether the norms have weights (DiT's have none)."""
    modulation: int = 0
    """Vectors of the hidden width that a linear map makes from a sequence's condition, to scale, shift and gate (DiT: 6)."""
    hidden: int = 0
    """Width where it is not the model's."""
    tokens: int = 0
    """Tokens of a sequence where they are not those that enter the model."""
    keep: float = 1.0
    """Share of the entering tokens that this layer still has."""
    last_token: bool = False
    """In a prefill only the last token of each prompt goes through it; it reads what is cached of the others (YOCO)."""
    idle: bool = False
    """Tokens have left before it in a mean decode step, which only makes its keys and values (early exit)."""
    every: int = 1
    """Tokens that make one of this layer, which runs once they are there (Block Transformer)."""

    @property
    def sublayers(self) -> tuple[Sublayer, ...]:
        ffn = () if self.ffn is None else (self.ffn,)
        return (*self.before, self.mixer, *self.between, *ffn)


def linear_parameters(inputs: int, outputs: int, *, bias: bool) -> int:
    return inputs * outputs + (outputs if bias else 0)


def attention_parameters(mixer: Attention, hidden: int) -> int:
    query, key = mixer.heads_q * mixer.head_dim, mixer.heads_kv * mixer.head_dim
    source = mixer.source_hidden or hidden
    positions = hidden * query + 2 * query if mixer.relative else 0
    prepared = sum(step.parameters for step in mixer.prepare)
    if mixer.rank:
        projected = sum(mixer.projected) * mixer.head_dim
        bias = (projected if mixer.qkv_bias else 0) + (hidden if mixer.out_bias else 0)
        return mixer.rank * (hidden + projected + query + hidden) + bias + positions + prepared + mixer.extra
    gates = mixer.heads_q if mixer.gate else 0
    queries = linear_parameters(hidden, (mixer.projected[0] + gates) * mixer.head_dim, bias=mixer.qkv_bias)
    keys = 0 if mixer.source == "shared" else (linear_parameters(source, mixer.projected[1] * mixer.head_dim, bias=mixer.qkv_bias)
                                                   - (key if mixer.qkv_bias and not mixer.k_bias else 0))
    reduction = linear_parameters(mixer.reduce * hidden, hidden, bias=True) + 2 * hidden if mixer.reduce > 1 else 0
    out = linear_parameters(query, hidden, bias=mixer.out_bias)
    qk_norm = 2 * mixer.head_dim if mixer.qk_norm_shared else query + key
    beside = (qk_norm if mixer.qk_norm else 0) + (mixer.heads_q if mixer.sinks else 0)
    rotation = mixer.heads_kv * mixer.head_dim**2 if mixer.key_rank else 0
    return queries + keys + reduction + out + beside + positions + prepared + rotation + mixer.extra


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
    if ffn.rank:
        bias = inward * ffn.width + hidden if ffn.bias else 0
        return ffn.rank * (hidden + inward * ffn.width + ffn.width + hidden) + bias
    return inward * linear_parameters(hidden, ffn.width, bias=ffn.bias) + linear_parameters(ffn.width, hidden, bias=ffn.bias)


def expert_parameters(ffn: MoE, hidden: int) -> int:
    """Parameters of one routed expert."""
    return dense_parameters(Dense(width=ffn.width, gated=ffn.gated, activation=ffn.activation, bias=ffn.bias), hidden)


def moe_parameters(ffn: MoE, hidden: int) -> int:
    """All experts, the router and the shared expert."""
    router = linear_parameters(hidden, ffn.experts, bias=ffn.router_bias) + (ffn.experts if ffn.router_correction else 0)
    shared = 0 if ffn.shared is None else dense_parameters(ffn.shared, hidden)
    return ffn.experts * expert_parameters(ffn, hidden) + router + shared + (hidden if ffn.shared_gate else 0)


def chain_parameters(chain: Chain, _hidden: int) -> int:
    return sum(step.parameters for step in chain.steps)


_PARAMETERS: dict[type, Callable[..., int]] = {
    Attention: attention_parameters, MLA: mla_parameters, Dense: dense_parameters, MoE: moe_parameters, Chain: chain_parameters,
}


def sublayer_parameters(part: Sublayer, hidden: int) -> int:
    """Parameters of one part of a layer, without the norm before it."""
    return _PARAMETERS[type(part)](part, hidden)


def idle_parameters(part: Sublayer, hidden: int) -> int:
    """Parameters of the experts that one token does not use."""
    return (part.experts - part.top_k) * expert_parameters(part, hidden) if isinstance(part, MoE) else 0


def layer_parameters(layer: Layer, hidden: int, norm_weights: int) -> int:
    """Parameters of one layer; `norm_weights` are those of a norm, an element of the hidden width."""
    hidden = layer.hidden or hidden
    norms = layer.norms * norm_weights * hidden if layer.norm_parameters else 0
    modulation = linear_parameters(hidden, layer.modulation * hidden, bias=True) if layer.modulation else 0
    return norms + modulation + sum(sublayer_parameters(part, hidden) for part in layer.sublayers)


def cache_elements(part: Sublayer, devices: int) -> int:
    """Elements that one token adds to the cache of each of `devices` that share the heads out (a KV head is never cut)."""
    if isinstance(part, Attention):
        return 2 * max(1, part.heads_kv // devices) * part.head_dim if part.source == "self" else 0
    return part.kv_elements if isinstance(part, MLA) else 0


def kept_elements(part: Sublayer, devices: int, source: NDArray[np.int64]) -> NDArray[np.int64]:
    """Elements that each device keeps of every sequence however long: states, and keys and values of its `source` encoded tokens."""
    if isinstance(part, Chain):
        return np.full_like(source, -(-part.state_elements // devices))
    if isinstance(part, Attention) and part.source == "cross":
        return 2 * max(1, part.heads_kv // devices) * part.head_dim * source
    return np.zeros_like(source)
