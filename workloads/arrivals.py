"""When requests arrive: Poisson, and gamma for burstier or steadier ones. All drawn from a seed."""

from __future__ import annotations

import numpy as np

from .lengths import Chat
from .ops import Int64s
from .requests import NS_PER_S, RequestTrace


def poisson(rate_per_s: float, count: int, rng: np.random.Generator) -> Int64s:
    """Arrival times in ns of so many independent requests, `rate_per_s` of them a second on average; the first is at 0."""
    return gamma(rate_per_s, 1.0, count, rng)


def gamma(rate_per_s: float, cv: float, count: int, rng: np.random.Generator) -> Int64s:
    """As `poisson`, but the times between two requests have a coefficient of variation `cv`: above 1 bursts, below 1 a steady flow.

    They are gamma distributed with shape 1 / cv^2 and mean 1 / rate.
    """
    for name, value in (("rate_per_s", rate_per_s), ("cv", cv)):
        if not 0 < value < 1e9:
            raise ValueError(f"{name} is {value!r}. Expected a number above 0.")
    if count < 1:
        raise ValueError(f"count is {count!r}. Expected at least 1 request.")
    between = rng.gamma(1 / cv**2, cv**2 / rate_per_s, count - 1) * NS_PER_S
    return np.concatenate([np.zeros(1, np.int64), np.rint(np.cumsum(between)).astype(np.int64)])


def chat(kind: Chat, count: int, rate_per_s: float, *, cv: float = 1.0, seed: int) -> RequestTrace:
    """So many requests with the lengths of a chat, arriving as `gamma` says (cv 1: Poisson)."""
    rng = np.random.default_rng(seed)
    arrival_ns = gamma(rate_per_s, cv, count, rng)
    return RequestTrace(arrival_ns, *kind.draw(count, rng))
