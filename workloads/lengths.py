"""Lengths of requests: distributions, chats like published ones, and what a running batch has cached. All drawn from a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import log
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from . import requests
from .ops import Int64s

POOL = 65_536
"""Pairs from which requests in flight are picked."""
LONGEST = 10**9


class Distribution(Protocol):
    def draw(self, count: int, rng: np.random.Generator) -> Int64s:
        """So many lengths, in tokens, each at least 1."""
        ...


def _at_least(name: str, value: object, least: float, *, whole: bool = True) -> None:
    kinds: Any = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= LONGEST:
        raise ValueError(f"{name} is {value!r}. Expected a {'whole ' if whole else ''}number of at least {least}.")


@dataclass(frozen=True)
class Constant:
    """Always the same."""

    tokens: int

    def __post_init__(self) -> None:
        _at_least("tokens", self.tokens, 1)

    def draw(self, count: int, rng: np.random.Generator) -> Int64s:
        return np.full(count, self.tokens, np.int64)


@dataclass(frozen=True)
class Uniform:
    """Every length from low to high, both included, is as likely."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _at_least("low", self.low, 1)
        _at_least("high", self.high, self.low)

    def draw(self, count: int, rng: np.random.Generator) -> Int64s:
        return rng.integers(self.low, self.high, count, np.int64, endpoint=True)


@dataclass(frozen=True)
class Lognormal:
    """The logarithm is normal with deviation `sigma`; `mean` is that of the lengths themselves: exp(mu + sigma^2 / 2)."""

    mean: float
    sigma: float

    def __post_init__(self) -> None:
        _at_least("mean", self.mean, 1, whole=False)
        _at_least("sigma", self.sigma, 0, whole=False)

    def draw(self, count: int, rng: np.random.Generator) -> Int64s:
        drawn = rng.lognormal(log(self.mean) - self.sigma**2 / 2, self.sigma, count)
        return np.clip(np.rint(drawn), 1, LONGEST).astype(np.int64)


@dataclass(frozen=True)
class Empirical:
    """One of these values, each as likely; `values` may be the path of a file of requests, whose prompts they are."""

    values: Any

    def __post_init__(self) -> None:
        values = requests.read(self.values).prompt.tolist() if isinstance(self.values, str | Path) else self.values
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"values is {values!r}. Expected a list of lengths, or the path of a file of requests.")
        for value in values:
            _at_least("values", value, 1)
        object.__setattr__(self, "values", tuple(values))

    def draw(self, count: int, rng: np.random.Generator) -> Int64s:
        return rng.choice(np.array(self.values, np.int64), count)


DISTRIBUTIONS: dict[str, type[Any]] = {"constant": Constant, "uniform": Uniform, "lognormal": Lognormal, "empirical": Empirical}


@dataclass(frozen=True)
class Chat:
    """Prompts and answers, drawn independently of each other."""

    prompt: Distribution
    output: Distribution

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Int64s, Int64s]:
        """Tokens of so many prompts and of their answers."""
        return self.prompt.draw(count, rng), self.output.draw(count, rng)


SIGMA = 0.65
"""Of the chats below, a guess of one spread for all: with it requests in flight of the first have about 306 cached tokens on average,
the middle of the 286 to 326 of NeuPIMs' shipped ShareGPT batches (casys-kaist/NeuPIMs f299af3)."""
CHATS = {
    "sharegpt-like": Chat(Lognormal(80, SIGMA), Lognormal(296, SIGMA)),
    "alpaca-like": Chat(Lognormal(12, SIGMA), Lognormal(56, SIGMA)),
}
"""Lognormal (a guess) around the average prompts and answers that NeuPIMs (ASPLOS'24) states for the two datasets."""


def in_flight(prompt: Int64s, output: Int64s, count: int, rng: np.random.Generator) -> Int64s:
    """Cached tokens of `count` requests of a batch that always runs full, at a random moment.

    A request is met in proportion to the steps that it stays, which are its answer's tokens (length bias of renewal processes), and any
    part of its answer is as likely to be out: prompt + floor(u x output), u uniform in [0, 1). Prompts and answers: [request].
    """
    met = rng.choice(prompt.size, count, p=output / output.sum())
    out: Int64s = prompt[met] + np.floor(rng.random(count) * output[met]).astype(np.int64)
    return out


def drawn(asked: str | Mapping[str, Any], count: int) -> Int64s:
    """`count` lengths, as a scenario's `prompt` may ask for them. ValueError with one sentence for anything else.

        "sharegpt-like"                                      prompts of a chat, seed 0
        "requests.jsonl"                                     the first prompts of a file of requests
        {"lognormal": {"mean": 512, "sigma": 0.7}}           a distribution: constant, uniform, lognormal or empirical
        {"in_flight": "sharegpt-like"}                       what a running batch has cached; of a chat or of a file's requests
        {..., "seed": 3, "most": 2048}                       another draw; none longer than a model's context
    """
    if isinstance(asked, str):
        return _recorded(asked, count) if is_file(asked) else _chat(asked).prompt.draw(count, np.random.default_rng(0))
    options = {key: value for key, value in asked.items() if key in ("seed", "most")}
    named = {key: value for key, value in asked.items() if key not in options}
    for key, least in (("seed", 0), ("most", 1)):
        _at_least(key, options.get(key, least), least)
    if len(named) != 1 or not set(named) <= {*DISTRIBUTIONS, "in_flight"}:
        raise ValueError(f"{', '.join(map(str, named)) or 'nothing'} is no distribution. Expected one of "
                         f"{', '.join(DISTRIBUTIONS)} or in_flight, and with it seed or most.")
    rng = np.random.default_rng(options.get("seed", 0))
    (name, said), = named.items()
    if name == "in_flight":
        trace = requests.read(said) if is_file(said) else None
        pairs = _chat(said).draw(POOL, rng) if trace is None else (trace.prompt, trace.output)
        lengths = in_flight(*pairs, count, rng)
    else:
        lengths = _distribution(name, said).draw(count, rng)
    return lengths.clip(max=options.get("most", LONGEST))


def is_file(asked: object) -> bool:
    """Whether a text names a file of requests: one that has such a suffix."""
    return isinstance(asked, str) and Path(asked).suffix in requests.READERS


def _recorded(path: str, count: int) -> Int64s:
    trace = requests.read(path)
    if trace.size < count:
        raise ValueError(f"{path} has {trace.size} requests, but {count} are to run. Expected at least as many.")
    return trace.prompt[:count]


def _chat(name: object) -> Chat:
    if name not in CHATS:
        raise ValueError(f"{name!r} is not known. Expected one of {', '.join(CHATS)}, or a file of requests "
                         f"({', '.join(requests.READERS)}).")
    return CHATS[str(name)]


def _distribution(name: str, said: Any) -> Distribution:
    """A distribution from its parameters by name; one that has a single parameter may be given it alone."""
    made = DISTRIBUTIONS[name]
    wanted = [field.name for field in fields(made)]
    given = said if isinstance(said, Mapping) else {wanted[0]: said} if len(wanted) == 1 else {}
    if set(given) != set(wanted):
        raise ValueError(f"{name} is {said!r}. Expected {', '.join(wanted)}.")
    try:
        distribution: Distribution = made(**given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return distribution
