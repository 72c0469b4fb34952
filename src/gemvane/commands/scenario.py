"""What the options say about the scenario."""

from __future__ import annotations

from typing import Any

from gemvane.workloads import lengths, requests

DRAWN = (*lengths.CHATS, *lengths.DISTRIBUTIONS, "in_flight")


def options(batch: int | None, prompt: str, **others: Any) -> dict[str, Any]:
    """Keywords of `Scenario`; `batch` is left out where neither --batch nor a list or file of prompts says it."""
    asked = {"prompt": prompt_of(prompt, batch), **others}
    if batch is None and isinstance(asked["prompt"], tuple):
        batch = len(asked["prompt"])
    return asked if batch is None else {"batch": batch, **asked}


def prompt_of(text: str, batch: int | None) -> Any:
    """--prompt as a scenario takes it: 512; 100,2000,512; requests.jsonl; sharegpt-like; lognormal:mean=512,sigma=0.7,seed=3."""
    if lengths.is_file(text):
        return tuple(requests.read(text).prompt.tolist()) if batch is None else text
    name, _, said = text.partition(":")
    if name not in DRAWN:
        tokens = [_whole(word, "--prompt", text) for word in text.split(",")]
        return tokens[0] if len(tokens) == 1 else tuple(tokens)
    words = [part.partition("=") for part in said.split(",") if part]
    given = {key: _number_or_word(value) for key, equals, value in words if equals}
    alone = [key for key, equals, _ in words if not equals]
    outside = {key: given.pop(key) for key in ("seed", "most") if key in given}
    if name in lengths.CHATS and not words:
        return name
    if len(alone) > 1 or (alone and given) or name in lengths.CHATS:
        raise ValueError(f"--prompt {text}: cannot be read. Expected something like lognormal:mean=512,sigma=0.7,seed=3 or "
                         "in_flight:sharegpt-like.")
    return {name: _number_or_word(alone[0]) if alone else given, **outside}


def _number_or_word(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            pass
    return word


def sizes(option: str, text: str) -> list[int]:
    """The numbers of --batch and its like, ascending: "64", "1,8,64", or "1..512" for the powers of two from 1 to 512, both ends
    included."""
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        low = _whole(first, option, text)
        high = _whole(last, option, text) if dots else low
        if low < 1:
            least = "a batch has at least 1 request" if option == "--batch" else "a length is at least 1 token"
            raise ValueError(f"{option} {text}: {least}.")
        if high < low:
            raise ValueError(f"{option} {text}: {low}..{high} runs backwards. Expected the smaller number first.")
        found |= {low, high} | {1 << k for k in range(high.bit_length()) if low <= 1 << k <= high}
    return sorted(found)


def prompts(text: str) -> list[Any]:
    """--prompt of a comparison: one way to draw or read lengths, or the numbers of `sizes`."""
    drawn = lengths.is_file(text) or text.partition(":")[0] in DRAWN
    return [prompt_of(text, 1)] if drawn else [*sizes("--prompt", text)]


def _whole(word: str, option: str, text: str) -> int:
    if not word.strip().isascii() or not word.strip().lstrip("-").isdigit():
        form = "512 or 100,2000,512" if option == "--prompt" else "64, 1,8,64 or 1..512"
        raise ValueError(f"{option} {text}: {word!r} is not a whole number. Expected {form}.")
    return int(word)
