"""Image generators by their diffusers config: DiT and the U-Net of Stable Diffusion. One pass (the prefill) is one denoising step."""

from __future__ import annotations

from ..spec import Attention, Chain, Dense, Layer, ModelSpec, Step
from .config import Config, Reader
from .windows import counts

DIT = ("num_layers", "num_attention_heads", "attention_head_dim", "sample_size", "patch_size", "in_channels")
UNET = ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim")
FREQUENCIES = 256
"""Width of DiT's sinusoidal embedding of the time (arXiv 2212.09748, section 3.2)."""
TIME_WIDTHS = 4
"""Width of the U-Net's time embedding over its first width."""
CHUNKS = 6
"""Shifts, scales and gates of DiT's two residual parts."""


def time_embedding(inputs: int, width: int) -> tuple[Step, ...]:
    return (Step(name="time_1", kind="gemm", n=width, k=inputs, bias=True, each="sequence"),
            Step(name="time_silu", kind="silu", n=width, each="sequence"),
            Step(name="time_2", kind="gemm", n=width, k=width, bias=True, each="sequence"))


def dit(config: Config) -> ModelSpec:
    """A transformer over latent patches whose norms are scaled, shifted and gated by time and class (adaLN-Zero)."""
    heads, head_dim, patch = (config.count(key) for key in ("num_attention_heads", "attention_head_dim", "patch_size"))
    channels, hidden, sample = config.count("in_channels"), heads * head_dim, config.count("sample_size")
    if sample % patch:
        raise config.wrong("sample_size", sample, f"a multiple of patch_size = {patch}")
    tokens, outputs = (sample // patch) ** 2, config.count("out_channels", default=2 * channels)
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=head_dim, qkv_bias=True, out_bias=True, rope=False, causal=False)
    ffn = Dense(width=4 * hidden, gated=False, activation="gelu", bias=True)
    layer = Layer(mixer=mixer, ffn=ffn, norm_parameters=False, modulation=CHUNKS)
    return ModelSpec(
        name=config.name, family=config.family, hidden=hidden, layers=(layer,) * config.count("num_layers"), vocab=0, norm="layernorm",
        final_norm=False, tokens=tokens, head="none", encoder=True,
        entry=(Step(name="patch_embed", kind="conv", n=hidden, k=channels * patch * patch, bias=True),
               *time_embedding(FREQUENCIES, hidden)),
        exit=(Step(name="final_modulation", kind="gemm", n=2 * hidden, k=hidden, bias=True, each="sequence"),
              Step(name="final_norm", kind="layernorm", n=hidden, affine=False),
              Step(name="final_modulate", kind="modulate", n=hidden),
              Step(name="patches_out", kind="gemm", n=patch * patch * outputs, k=hidden, bias=True),
              Step(name="unpatchify", kind="permute", n=patch * patch * outputs)),
        # The table of classes, with one for none, and the table of positions.
        extra_parameters=(config.count("num_embeds_ada_norm", default=1000) + 1 + tokens) * hidden,
    )


def conv3(name: str, inputs: int, outputs: int, stride: int = 1) -> Step:
    """A convolution of 3 x 3 neighbours; the layer's tokens are its outputs."""
    return Step(name=name, kind="conv", n=outputs, k=9 * inputs, reads=inputs * stride * stride, bias=True)


def resnet(inputs: int, width: int, time: int) -> Chain:
    shortcut = (Step(name="shortcut", kind="gemm", n=width, k=inputs, bias=True),) if inputs != width else ()
    return Chain(label=f"residual block {inputs} to {width}", steps=(
        Step(name="norm1", kind="groupnorm", n=inputs), Step(name="silu1", kind="silu", n=inputs), conv3("conv1", inputs, width),
        Step(name="time_silu", kind="silu", n=time, each="sequence"),
        Step(name="time_proj", kind="gemm", n=width, k=time, bias=True, each="sequence"),
        Step(name="time_add", kind="modulate", n=width),
        Step(name="norm2", kind="groupnorm", n=width), Step(name="silu2", kind="silu", n=width), conv3("conv2", width, width), *shortcut))


def straight(label: str, *steps: Step) -> Chain:
    return Chain(label=label, steps=steps, residual=False)


class _Unet:
    """The layers of a U-Net as they are read off its config, from the highest resolution down and up again."""

    def __init__(self, config: Config) -> None:
        self.side, self.frames = config.count("sample_size"), config.count("num_frames", default=1)
        self.heads, self.text = config.count("attention_head_dim"), config.count("cross_attention_dim")
        self.layers: list[Layer] = []
        self.time = 0

    def add(self, width: int, *chains: Chain) -> None:
        for chain in chains:
            self.layers.append(Layer(mixer=chain, ffn=None, norms=0, hidden=width, tokens=self.tokens))

    @property
    def tokens(self) -> int:
        return self.side * self.side * self.frames

    def transformer(self, width: int) -> None:
        """Attention of an image to itself and to the text; of a video then of each place over the frames."""
        if width % self.heads:
            raise ValueError(f"a width of {width} of the U-Net is no multiple of attention_head_dim = {self.heads}, its number of heads.")
        one = {"heads_q": self.heads, "heads_kv": self.heads, "head_dim": width // self.heads, "out_bias": True, "rope": False,
               "causal": False}
        several = self.frames > 1
        own = Attention(block=self.side * self.side if several else 0, **one)  # type: ignore[arg-type]
        text = Attention(source="cross", source_hidden=self.text, **one)  # type: ignore[arg-type]
        ffn = Dense(width=4 * width, gated=True, activation="gelu", bias=True)
        self.add(width, straight("projection in", Step(name="norm", kind="groupnorm", n=width),
                                 Step(name="proj_in", kind="gemm", n=width, k=width, bias=True)))
        self.layers.append(Layer(mixer=own, between=(text,), ffn=ffn, norms=3, hidden=width, tokens=self.tokens))
        if several:
            over_time = Attention(block=self.frames, **one)  # type: ignore[arg-type]
            self.layers.append(Layer(mixer=over_time, ffn=ffn, hidden=width, tokens=self.tokens))
        self.add(width, Chain(label="projection out", steps=(Step(name="proj_out", kind="gemm", n=width, k=width, bias=True),)))


def unet(config: Config) -> ModelSpec:
    """Stable Diffusion's U-Net (arXiv 2112.10752). `attention_head_dim` is, as in its files, the number of heads. The text comes encoded.

    `num_frames`, a key of ours: above 1 each transformer has attention over the frames after it.
    """
    widths, each, made = counts(config, "block_out_channels"), config.count("layers_per_block"), _Unet(config)
    first, last, made.time = widths[0], len(widths) - 1, TIME_WIDTHS * widths[0]
    if made.side % 2**last:
        raise config.wrong("sample_size", made.side, f"a multiple of {2**last}, for {last} halvings")
    tokens, skips, width = made.tokens, [first], first
    for level, target in enumerate(widths):
        for _ in range(each):
            made.add(target, resnet(width, target, made.time))
            width = target
            if level < last:
                made.transformer(width)
            skips.append(width)
        if level < last:
            made.side //= 2
            made.add(width, straight("downsampling", conv3("downsample", width, width, stride=2)))
            skips.append(width)
    made.add(width, resnet(width, width, made.time))
    made.transformer(width)
    made.add(width, resnet(width, width, made.time))
    for level in range(last, -1, -1):
        for _ in range(each + 1):
            joined, target = width + skips.pop(), widths[level]
            made.add(target, straight("concatenation", Step(name="concat", kind="window", n=joined)), resnet(joined, target, made.time))
            width = target
            if level < last:
                made.transformer(width)
        if level:
            made.side *= 2
            made.add(width, straight("upsampling", Step(name="upsample", kind="interpolate", n=width, reads=width // 4),
                                     conv3("upsample_conv", width, width)))
    channels = config.count("in_channels")
    return ModelSpec(
        name=config.name, family=config.family, hidden=first, layers=tuple(made.layers), vocab=0, norm="layernorm", final_norm=False,
        tokens=tokens, source_tokens=config.count("text_tokens", default=77), head="none", encoder=True,
        entry=(conv3("conv_in", channels, first), *time_embedding(first, made.time)),
        exit=(Step(name="norm_out", kind="groupnorm", n=first), Step(name="silu_out", kind="silu", n=first),
              conv3("conv_out", first, config.count("out_channels"))),
    )


READERS = {"dit": Reader(dit, DIT), "unet2d_condition": Reader(unet, UNET)}
