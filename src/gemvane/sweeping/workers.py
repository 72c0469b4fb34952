"""Who simulates points: this process, processes of this machine, or a Dask cluster. Points may come back in any order, each once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from gemvane import __version__
from gemvane.sim.space import Point, Space
from gemvane.sim.sweep import blank, evaluate

PIECE_S = 0.2
"""Points are handed out in pieces of about this long, so that a kill loses little and the hand-over costs little."""
MOST_POINTS = 256
DEATHS = 2
"""A point during which so many workers died is given up."""
CONNECT_S = 10
Rows = list[dict[str, Any]]


class Crew(Protocol):
    """Whoever simulates points."""

    def rows(self, points: Sequence[Point]) -> Iterator[Rows]:
        """The rows of the points, some at a time, in any order."""


@contextlib.contextmanager
def crew(space: Space, jobs: int, dask: str | None = None) -> Iterator[Crew]:
    """Workers that know a space, until the block ends: `jobs` processes of this machine (1: this process), or the cluster at an address."""
    made: Here | Processes | Cluster = Cluster(space, dask) if dask is not None else Here(space) if jobs == 1 else Processes(space, jobs)
    try:
        yield made
    finally:
        made.close()


def simulated(space: Space, points: Sequence[Point]) -> Rows:
    """The rows of points, with the version that made them."""
    return [{**evaluate(space, point), "version": __version__} for point in points]


def given_up(space: Space, point: Point) -> dict[str, Any]:
    """The row of a point that no worker survived."""
    reason = f"{DEATHS} processes died while they simulated it (out of memory?)"
    return {**blank(space, point), "reason": reason, "version": __version__}


class Here:
    """This process."""

    def __init__(self, space: Space) -> None:
        self._space = space

    def rows(self, points: Sequence[Point]) -> Iterator[Rows]:
        for point in points:
            yield simulated(self._space, [point])

    def close(self) -> None:
        pass


def _work(space: Space, pipe: Connection) -> None:
    """A worker: pieces in, rows out, until whoever asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the asking process ends the work
    try:
        pipe.send(None)
        while True:
            pipe.send(simulated(space, pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


class _Worker:
    """A process of its own, one piece at a time."""

    def __init__(self, space: Space) -> None:
        context = multiprocessing.get_context("spawn")  # nothing inherited: neither threads nor the folder's lock
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(space, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.piece: list[Point] = []
        self.since, self.ready = 0.0, False

    def give(self, piece: list[Point]) -> None:
        self.piece, self.since = piece, time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead, which its pipe will say
            self.pipe.send(piece)

    def stop(self) -> None:
        self.pipe.close()
        self.process.kill()
        self.process.join()


class Processes:
    """Processes of this machine, started once. One that dies is replaced, and its points simulated again."""

    def __init__(self, space: Space, jobs: int) -> None:
        self._space = space
        self._workers = [_Worker(space) for _ in range(jobs)]
        self._false_starts = 0

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()

    def rows(self, points: Sequence[Point]) -> Iterator[Rows]:
        left, size, deaths = deque(points), 1, dict.fromkeys((point.number for point in points), 0)
        while left or any(worker.piece for worker in self._workers):
            for worker in self._workers:
                if worker.ready and left and not worker.piece:
                    fair = -(-len(left) // len(self._workers))
                    worker.give([left.popleft() for _ in range(min(size, fair))])
            for pipe in wait([worker.pipe for worker in self._workers]):
                worker = next(w for w in self._workers if w.pipe is pipe)
                try:
                    done = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    yield from self._replaced(worker, left, deaths)
                    size = 1
                    continue
                if not worker.ready:
                    worker.ready = True
                    continue
                took = max(time.monotonic() - worker.since, 1e-6)
                size = max(1, min(MOST_POINTS, int(len(worker.piece) * PIECE_S / took)))
                worker.piece = []
                yield done

    def _replaced(self, worker: _Worker, left: deque[Point], deaths: dict[int, int]) -> Iterator[Rows]:
        """A new worker for a dead one. ValueError where several died before they could work."""
        worker.process.join()
        self._false_starts += not worker.ready
        if self._false_starts > DEATHS:
            raise ValueError(f"worker processes cannot start (exit status {worker.process.exitcode}). In a script of your own, call it "
                             "under `if __name__ == '__main__':`, or use one job.")
        self._workers[self._workers.index(worker)] = _Worker(self._space)
        worker.pipe.close()
        alone = len(worker.piece) == 1
        for point in worker.piece:
            deaths[point.number] += alone
            if deaths[point.number] >= DEATHS:
                yield [given_up(self._space, point)]
            else:
                left.appendleft(point)


class Cluster:
    """A Dask cluster. It hands the points of a worker that dies to another."""

    def __init__(self, space: Space, address: str) -> None:
        """ValueError where there is no scheduler at the address."""
        try:
            from distributed import Client
        except ImportError:
            raise ValueError("--dask needs Dask. Say `pip install 'gemvane[dask]'`.") from None
        try:
            self._client = Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"--dask {address}: no Dask scheduler answers there ({error}). Expected an address such as tcp://10.0.0.1:8786."
                             ) from None
        self._space = space

    def close(self) -> None:
        self._client.close()

    def rows(self, points: Sequence[Point]) -> Iterator[Rows]:
        from distributed import KilledWorker, as_completed

        threads = max(1, sum(self._client.nthreads().values()))
        size = max(1, min(MOST_POINTS // 8, len(points) // (8 * threads)))
        left = deque(list(points[i : i + size]) for i in range(0, len(points), size))
        given: dict[Any, list[Point]] = {}

        def give() -> Any:
            piece = left.popleft()
            future = self._client.submit(simulated, self._space, piece, pure=False)
            given[future.key] = piece
            return future

        running = as_completed([give() for _ in range(min(len(left), 4 * threads))], loop=self._client.loop)
        for future in running:
            piece = given.pop(future.key)
            try:
                yield future.result()
            except KilledWorker:
                if len(piece) == 1:
                    yield [given_up(self._space, piece[0])]
                left.extend([point] for point in piece if len(piece) > 1)
            if left:
                running.add(give())
