"""A sweep: every point of a space, simulated once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gemvane.sim.space import Space

from .folder import Folder
from .workers import crew

Watch = Callable[[int, int], None]
"""Told how many points of how many are known."""


class Done(NamedTuple):
    """Rows in the order of their numbers, the table that holds them, and how many of them this call simulated."""

    rows: list[dict[str, Any]]
    file: Path
    simulated: int


def sweep(space: Space, out: Path, *, jobs: int = 1, dask: str | None = None, shard: tuple[int, int] = (1, 1),
          watch: Watch = lambda known, total: None) -> Done:
    """The rows of a space's points (of every n-th, for shard i/n), kept in a folder; points that the folder has are not simulated again.

    ValueError where the folder is another's or the space is empty; OSError where it cannot be written. What was kept stays.
    """
    part, parts = shard
    points = space.points()[part - 1 :: parts]
    if not points:
        raise ValueError(f"--shard {part}/{parts}: the space has fewer points than shards.")
    with Folder(out, "sweep", space, shard if parts > 1 else None) as folder:
        left = [point for point in points if point.number not in folder.rows]
        known = len(points) - len(left)
        if left:
            with crew(space, min(jobs, len(left)), dask) as workers:
                for some in workers.rows(left):
                    folder.record(some)
                    known += len(some)
                    watch(known, len(points))
        rows = [folder.rows[point.number] for point in points]
        return Done(rows, folder.table() or folder.finish(rows), len(left))
