"""What the options say about the scenario."""

from __future__ import annotations

from typing import Any


def options(batch: int | None, prompt: str, **others: Any) -> dict[str, Any]:
    """Keywords of `Scenario`; `batch` is left out where neither --batch nor a list of prompts says it."""
    lengths = [_whole(word, "--prompt", prompt) for word in prompt.split(",")]
    asked = {"prompt": lengths[0] if len(lengths) == 1 else tuple(lengths), **others}
    if batch is None and len(lengths) > 1:
        batch = len(lengths)
    return asked if batch is None else {"batch": batch, **asked}


def batches(text: str | None, asked: dict[str, Any]) -> list[int]:
    """The batch sizes of --batch, ascending: "64", "1,8,64", or "1..512" for the powers of two from 1 to 512, both ends included."""
    if text is None:
        return [asked.get("batch", 1)]
    sizes: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        low = _whole(first, "--batch", text)
        high = _whole(last, "--batch", text) if dots else low
        if low < 1:
            raise ValueError(f"--batch {text}: a batch has at least 1 request.")
        if high < low:
            raise ValueError(f"--batch {text}: {low}..{high} runs backwards. Expected the smaller size first.")
        sizes |= {low, high} | {1 << k for k in range(high.bit_length()) if low <= 1 << k <= high}
    return sorted(sizes)


def _whole(word: str, option: str, text: str) -> int:
    if not word.strip().isascii() or not word.strip().lstrip("-").isdigit():
        form = "64, 1,8,64 or 1..512" if option == "--batch" else "512 or 100,2000,512"
        raise ValueError(f"{option} {text}: {word!r} is not a whole number. Expected {form}.")
    return int(word)
