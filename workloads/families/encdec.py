"""Encoders with a decoder that reads them by cross-attention: T5, BART, Whisper. Keys and values of the encoder's output are made once.

The prompt goes to the encoder of T5 and BART, whose decoder starts from one token. Whisper's encoder hears 30 s of speech, and the prompt
is the decoder's.
"""

from __future__ import annotations

from dataclasses import replace

from ..spec import Attention, Dense, Layer, ModelSpec, Step
from .config import Config, Reader

T5 = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size")
BART = ("d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads", "encoder_ffn_dim",
        "decoder_ffn_dim", "vocab_size", "max_position_embeddings")
WHISPER = (*BART[:-1], "num_mel_bins")
BART_OFFSET = 2
"""Rows in front of BART's position tables."""
FRAMES_PER_TOKEN = 2
"""Whisper's second convolution has a stride of 2."""


def decoder_layer(own: Attention, ffn: Dense) -> Layer:
    """Causal attention over what was said, then attention over what was heard or read."""
    return Layer(mixer=replace(own, causal=True), between=(replace(own, source="cross", causal=False, rope=False),), ffn=ffn, norms=3)


def t5(config: Config) -> ModelSpec:
    heads, hidden = config.count("num_heads"), config.count("d_model")
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=config.count("d_kv"), rope=False, causal=False)
    activation = config.values.get("feed_forward_proj", "relu")
    if activation not in ("relu", "gated-gelu", "gated-silu"):
        raise config.wrong("feed_forward_proj", activation, "relu, gated-gelu or gated-silu")
    ffn = Dense(width=config.count("d_ff"), gated=activation != "relu", activation=str(activation).removeprefix("gated-"))
    table = config.count("relative_attention_num_buckets", default=32) * heads  # of the first layer of each stack
    layers = config.count("num_layers")
    encoder = ModelSpec(name=f"{config.name} encoder", family=config.family, hidden=hidden, layers=(Layer(mixer=mixer, ffn=ffn),) * layers,
                        vocab=0, norm="rmsnorm", head="none", encoder=True, extra_parameters=table)
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=hidden,
        layers=(decoder_layer(mixer, ffn),) * config.count("num_decoder_layers", default=layers),
        vocab=config.count("vocab_size"),
        norm="rmsnorm",
        tied_embeddings=config.flag("tie_word_embeddings", True),
        towers=(encoder,),
        start_tokens=1,
        extra_parameters=table,
    )


def stack(config: Config, side: str, k_bias: bool = True) -> tuple[Attention, Dense, int]:
    """Attention, FFN and layers of the encoder or the decoder; biases everywhere but, in Whisper, in the keys."""
    heads, hidden = config.count(f"{side}_attention_heads"), config.count("d_model")
    if hidden % heads:
        raise config.wrong("d_model", hidden, f"a multiple of {side}_attention_heads = {heads}")
    mixer = Attention(heads_q=heads, heads_kv=heads, head_dim=hidden // heads, qkv_bias=True, k_bias=k_bias, out_bias=True, rope=False,
                      causal=False)
    ffn = Dense(width=config.count(f"{side}_ffn_dim"), gated=False, activation=config.activation("gelu"), bias=True)
    return mixer, ffn, config.count(f"{side}_layers")


def bart(config: Config) -> ModelSpec:
    hidden, positions = config.count("d_model"), config.count("max_position_embeddings")
    mixer, ffn, layers = stack(config, "encoder")
    common = {"family": config.family, "hidden": hidden, "learned_positions": positions + BART_OFFSET, "positions": positions}
    encoder = ModelSpec(name=f"{config.name} encoder", layers=(Layer(mixer=mixer, ffn=ffn),) * layers, vocab=0, norm="layernorm",
                        embed_norm=True, final_norm=False, head="none", encoder=True, **common)  # type: ignore[arg-type]
    mixer, ffn, layers = stack(config, "decoder")
    return ModelSpec(name=config.name, layers=(decoder_layer(mixer, ffn),) * layers, vocab=config.count("vocab_size"), norm="layernorm",
                     embed_norm=True, final_norm=False, tied_embeddings=config.flag("tie_word_embeddings", True), towers=(encoder,),
                     start_tokens=1, **common)  # type: ignore[arg-type]


def whisper(config: Config) -> ModelSpec:
    """Two convolutions over the mel spectrum make 1500 tokens of 30 s."""
    hidden, bins = config.count("d_model"), config.count("num_mel_bins")
    heard = config.count("max_source_positions", default=1500)
    positions = config.count("max_target_positions", default=448)
    mixer, ffn, layers = stack(config, "encoder", k_bias=False)
    entry = (
        Step(name="conv1", kind="conv", n=hidden, k=3 * bins, reads=bins, times=FRAMES_PER_TOKEN, bias=True),
        Step(name="conv1_gelu", kind="gelu", n=hidden, times=FRAMES_PER_TOKEN),
        Step(name="conv2", kind="conv", n=hidden, k=3 * hidden, reads=FRAMES_PER_TOKEN * hidden, bias=True),
        Step(name="conv2_gelu", kind="gelu", n=hidden),
    )
    encoder = ModelSpec(name=f"{config.name} encoder", family=config.family, hidden=hidden, layers=(Layer(mixer=mixer, ffn=ffn),) * layers,
                        vocab=0, norm="layernorm", learned_positions=heard, tokens=heard, entry=entry, head="none", encoder=True)
    mixer, ffn, layers = stack(config, "decoder", k_bias=False)
    return ModelSpec(
        name=config.name,
        family=config.family,
        hidden=hidden,
        layers=(decoder_layer(mixer, ffn),) * layers,
        vocab=config.count("vocab_size"),
        norm="layernorm",
        tied_embeddings=config.flag("tie_word_embeddings", True),
        positions=positions,
        learned_positions=positions,
        towers=(encoder,),
    )


READERS = {"t5": Reader(t5, T5), "bart": Reader(bart, BART), "whisper": Reader(whisper, WHISPER)}
