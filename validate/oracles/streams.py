"""The request streams of the DRAM reference runs, from their definitions (reference/dram.md, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
FIELDS = ("pc", "bg", "ba", "ro", "co")
INTERLEAVED = ("pc", "bg", "co", "ba", "ro")
SEED = 12345


class Sizes(NamedTuple):
    """How many pseudo-channels, bank groups, banks in a group, rows, and requests in a row."""

    pc: int
    bg: int
    ba: int
    ro: int
    co: int

    @property
    def total(self) -> int:
        return self.pc * self.bg * self.ba * self.ro * self.co


def stream(name: str, sizes: Sizes, n: int) -> dict[str, Int64s]:
    """`n` requests in arrival order: columns rw, pc, bg, ba, ro, co. KeyError for a name that is not in NAMES."""
    return _STREAMS[name](sizes, n)


def _requests(numbers: Int64s, order: tuple[str, ...], sizes: Sizes, rw: Int64s | int = 0) -> dict[str, Int64s]:
    """Numbers cut into address fields, the first of `order` fastest; fields that it does not name are 0."""
    rest = np.asarray(numbers, np.int64)
    out = {"rw": np.broadcast_to(np.asarray(rw, np.int64), rest.shape).copy(), **{field: np.zeros_like(rest) for field in FIELDS}}
    for field in order:
        rest, out[field] = np.divmod(rest, getattr(sizes, field))
    return out


def _bank_conflict(sizes: Sizes, n: int) -> dict[str, Int64s]:
    return _requests(np.arange(n), ("ro",), sizes)


def _random_mix(sizes: Sizes, n: int) -> dict[str, Int64s]:
    rng = np.random.default_rng(SEED + 1)
    where = rng.integers(0, sizes.total, n)
    return _requests(where, INTERLEAVED, sizes, (rng.random(n) < 1 / 3).astype(np.int64))


def _hit_80(sizes: Sizes, n: int) -> dict[str, Int64s]:
    """A random bank each; it stays in its row four times out of five, and its column goes up by one."""
    rng = np.random.default_rng(SEED + 2)
    banks = sizes.pc * sizes.bg * sizes.ba
    bank, stays, new_row = rng.integers(0, banks, n), rng.random(n) < 0.8, rng.integers(0, sizes.ro, n)
    out = _requests(bank, ("pc", "bg", "ba"), sizes)
    for b in range(banks):
        mine = np.flatnonzero(bank == b)
        opened = np.maximum.accumulate(np.where(stays[mine], -1, np.arange(mine.size)))
        out["ro"][mine] = np.where(opened < 0, 0, new_row[mine][opened])
        out["co"][mine] = np.arange(1, mine.size + 1) % sizes.co
    return out


_STREAMS: dict[str, Callable[[Sizes, int], dict[str, Int64s]]] = {
    "seq_rowmajor_rd": lambda s, n: _requests(np.arange(n), ("co", "pc", "bg", "ba", "ro"), s),
    "seq_bgilv_rd": lambda s, n: _requests(np.arange(n), INTERLEAVED, s),
    "seq_bgilv_wr": lambda s, n: _requests(np.arange(n), INTERLEAVED, s, 1),
    "stride33_rd": lambda s, n: _requests(33 * np.arange(n) % s.total, INTERLEAVED, s),
    "onebank_seq_rd": lambda s, n: _requests(np.arange(n), ("co", "ro"), s),
    "bankconflict_rd": _bank_conflict,
    "rand_rd": lambda s, n: _requests(np.random.default_rng(SEED).integers(0, s.total, n), INTERLEAVED, s),
    "rand_mix": _random_mix,
    "seq_mix16": lambda s, n: _requests(np.arange(n), INTERLEAVED, s, np.arange(n) // 16 % 2),
    "hit80_rd": _hit_80,
    "allbank_rr_rd": lambda s, n: _requests(np.arange(n), ("pc", "bg", "ba", "co", "ro"), s),
}
NAMES = tuple(_STREAMS)
