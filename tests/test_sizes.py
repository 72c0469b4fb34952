"""The sizes of all bundled models."""

import pytest

from gemvane.workloads.catalog import load, names

PUBLISHED = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-1b": 999_885_952,
    "phi3-mini": 3_821_079_552,
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "opt-6.7b": 6_658_473_984,
    "falcon-7b": 6_921_720_704,
    "command-r": 34_980_831_232,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v3": 671_026_419_200,  # without the MTP layer
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "vit-b16": 86_567_656,  # with 1000 classes
    "vit-l16": 304_326_632,
    "whisper-small": 241_734_912,
    "whisper-large-v3": 1_543_490_560,
    "t5-base": 222_903_552,
    "flan-t5-xl": 2_849_757_184,
    "bart-large": 406_291_456,
    "mamba-130m": 129_135_360,
    "mamba-2.8b": 2_768_345_600,
    "mamba2-130m": 128_989_632,
    "mamba2-2.7b": 2_702_599_680,
    "jamba-v0.1": 51_570_323_328,
    "qwen3-next-80b-a3b": 79_674_391_296,
    "rwkv-4-169m": 169_342_464,
    "fnet-base": 82_861_056,  # with the pooler, without the heads of its pre-training
    "swin-t": 28_288_354,
    "swin-b": 87_768_224,
    "pvt-v2-b0": 3_666_760,
    "clip-vit-b32": 151_277_313,
    "llava-1.5-7b": 7_063_427_072,
    "dit-xl-2": 675_129_632,
    "sd1.5-unet": 859_520_964,
    "wav2vec2-conformer-large": 618_559_104,
}

BILLIONS = {
    "opt-30b": 30.0,
    "v-moe-b16": 0.979,
    **{"gla-1.3b": 1.37, "delta-net-1.3b": 1.37},  # of the checkpoints
    "opt-66b": 65.7,
    "falcon-40b": 41.3,
    "gemma3-4b": 3.88,
    "gemma3-27b": 27.0,
    "gpt3-7b": 6.66,
    "gpt3-13b": 12.9,
    "gpt3-30b": 30.0,
    "gpt3-175b": 174.6,
    **{"palm-540b": 540.35, "palm-540b-padded": 558.0},  # 18 more, as Pope et al. say
}
"""Models without a published exact count here: the round number that their papers give."""


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_parameters_match_the_published_count_exactly(name: str, parameters: int) -> None:
    assert load(name).parameters == parameters


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_parameters_round_to_the_published_billions(name: str, billions: float) -> None:
    assert load(name).parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_every_bundled_model_has_its_size_checked() -> None:
    assert set(names()) == PUBLISHED.keys() | BILLIONS.keys()
