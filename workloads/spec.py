"""ModelSpec: a transformer as a list of layers, free of any framework's key names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .parts import (
    MLA,
    NORM_PARAMETERS,
    Attention,
    Chain,
    Dense,
    Layer,
    MoE,
    Norm,
    Step,
    Sublayer,
    attention_parameters,
    cache_elements,
    idle_parameters,
    kept_elements,
    layer_parameters,
    linear_parameters,
    sublayer_parameters,
)

__all__ = [
    "MLA", "Attention", "Chain", "Decoding", "Dense", "Layer", "MoE", "ModelSpec", "Norm", "PatchEmbed", "Step", "Sublayer",
    "attention_parameters", "cache_elements", "kept_elements", "layer_parameters", "linear_parameters", "sublayer_parameters",
]


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
class Decoding:
    """What one decode step takes through the model and gives back, where that is not one token of each sequence."""

    queries: int = 1
    """Tokens of each sequence that go through the layers together: the last accepted one and those to be verified."""
    accepted: float = 1.0
    """Tokens that a step gives each sequence, in the mean."""
    heads: int = 0
    """Heads that predict later tokens, beside the model's own: a residual map of the hidden width, then the vocabulary."""
    own_vocabulary: bool = False
    """Whether each of them has a projection to the vocabulary of its own."""
    drafter: ModelSpec | None = None
    """A smaller model that proposes tokens, one a step."""
    drafts: int = 0
    """Its steps before each step of the model."""
    nested: bool = False
    """Whether the drafter's weights are among the model's own."""


ONE_TOKEN = Decoding()


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
    head: Literal["lm", "pooler", "classifier", "none"] = "lm"
    head_bias: bool = False
    """Whether a language model's head has biases of its own."""
    num_classes: int = 0
    patches: PatchEmbed | None = None
    tokens: int = 0
    """Tokens of one input where they are not the prompt's: of an image, of 30 s of speech."""
    entry: tuple[Step, ...] = ()
    """What makes tokens of the input where that is neither a table nor `patches`."""
    exit: tuple[Step, ...] = ()
    """What follows the last norm: a projection, the decoder of an image."""
    towers: tuple[ModelSpec, ...] = ()
    """Encoders that run before it in a prefill, once."""
    prefix_tokens: int = 0
    """Tokens of the towers that stand before the prompt's (LLaVA); where 0, cross-attention reads them, or nothing does (CLIP)."""
    start_tokens: int = 0
    """Tokens that a decoder starts from where the prompt goes to its tower (T5: 1)."""
    source_tokens: int = 0
    """Tokens that cross-attention reads where no tower makes them: the encoded text of an image generator."""
    encoder: bool = False
    """No decode phase: every token sees every token. Its one pass is the prefill; of an image generator, one denoising step."""
    extra_parameters: int = 0
    """Parameters outside the operators modelled here (a CLS token is)."""
    decoding: Decoding = ONE_TOKEN
    outliers: int | None = None
    """Inputs of each linear map that stay in the activations' type, while the others are quantised to that of the weights (LLM.int8());
    None: no input is quantised on its way."""

    @property
    def parameters(self) -> int:
        """Every parameter of the checkpoint, biases and norms included; tied tables count once."""
        layers = sum(layer_parameters(layer, self.hidden, self._norm_weights) for layer in self.layers)
        beside = self.towers if self.decoding.nested else self.companions
        return self._outer_parameters() + layers + sum(model.parameters for model in beside)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: all of them, less the experts that its router leaves out."""
        idle = sum(idle_parameters(part, layer.hidden or self.hidden) for layer in self.layers for part in layer.sublayers)
        return self.parameters - idle - sum(tower.parameters - tower.active_parameters for tower in self.towers)

    @property
    def companions(self) -> tuple[ModelSpec, ...]:
        """Models that run beside it: its towers, and what drafts its tokens."""
        return self.towers if self.decoding.drafter is None else (*self.towers, self.decoding.drafter)

    @property
    def kv_elements_per_token(self) -> int:
        """Cached elements of one token over all layers; an encoder caches none."""
        return 0 if self.encoder else sum(part.kv_elements for part in self.cached_parts)

    @property
    def state_elements(self) -> int:
        """Elements that each sequence keeps however long it is: states of scans and convolutions."""
        return 0 if self.encoder else sum(part.state_elements for part in self.cached_parts if isinstance(part, Chain))

    @property
    def cached_parts(self) -> tuple[Attention | MLA | Chain, ...]:
        """Every part that keeps something of the tokens before."""
        return tuple(part for layer in self.layers for part in layer.sublayers if isinstance(part, (Attention, MLA, Chain)))

    @property
    def input_tokens(self) -> int:
        """Tokens of one input where the model fixes them, else 0."""
        return self.tokens if self.patches is None else self.patches.tokens

    @property
    def attention_label(self) -> str:
        """Kind and heads of the first attention: "GQA 32/8", "MHA 32", "MQA 71/1", "MLA 128"; without one the label of the first mixer."""
        attentions = [part for part in self.cached_parts if not isinstance(part, Chain)]
        return (attentions[0] if attentions else self.layers[0].mixer).label

    def _outer_parameters(self) -> int:
        norms = (int(self.embed_norm) + int(self.final_norm)) * self._norm_weights * self.hidden
        steps = sum(step.parameters for step in (*self.entry, *self.exit))
        return self._embedding_parameters() + norms + steps + self._head_parameters() + self.extra_parameters

    @property
    def _norm_weights(self) -> int:
        """Parameters of a norm, an element of the width: a weight, and the bias of a LayerNorm that has one."""
        return NORM_PARAMETERS[self.norm] if self.norm_bias else 1

    def _embedding_parameters(self) -> int:
        width = self.embed_dim or self.hidden
        projections = 2 * width * self.hidden if width != self.hidden else 0  # into the layers, and back out
        rows = self.learned_positions + self.token_types
        patches = 0 if self.patches is None else patch_parameters(self.patches, self.hidden)
        return self.vocab * width + projections + rows * self.hidden + patches

    def _head_parameters(self) -> int:
        if self.head == "none":
            return 0
        if self.head == "lm":
            bias = self.vocab if self.head_bias else 0
            own = 0 if self.tied_embeddings else self.vocab * (self.embed_dim or self.hidden)
            return own + bias + self.decoding.heads * self._later_head_parameters()
        return linear_parameters(self.hidden, self.hidden if self.head == "pooler" else self.num_classes, bias=True)

    def _later_head_parameters(self) -> int:
        vocabulary = self.vocab * self.hidden if self.decoding.own_vocabulary else 0
        return linear_parameters(self.hidden, self.hidden, bias=True) + vocabulary


def patch_parameters(patches: PatchEmbed, hidden: int) -> int:
    """The patch convolution and its bias; the CLS token is in `extra_parameters`."""
    return linear_parameters(patches.channels * patches.patch**2, hidden, bias=True)
