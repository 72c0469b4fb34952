"""A sweep on a Dask cluster: a real scheduler and two real worker processes on this machine."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gemvane.sim.space import parse
from gemvane.sweeping.sweep import sweep

pytest.importorskip("distributed")

SPACE = """\
model: gpt2
hardware: npu-pim-dual
scenario: {prompt: 64, output: 2, phase: decode}
vary:
  units.pim.channels: [16, 32, 24]
  batch: {low: 1, high: 100, by: 1}
"""
PATIENCE_S = 60


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler, and its two workers."""
    where = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"]
    scheduler = subprocess.Popen([*dask, "--scheduler-file", str(where)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(where), "--nthreads", "1", "--no-dashboard",
              "--no-nanny", "--host", "127.0.0.1", "--local-directory", str(tmp_path)]
    until = time.monotonic() + PATIENCE_S
    while not where.exists() and time.monotonic() < until:
        time.sleep(0.05)
    workers = [subprocess.Popen(worker, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        import json

        yield json.loads(where.read_text())["address"], workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_dies_loses_no_point(cluster: tuple[str, list[subprocess.Popen[bytes]]], tmp_path: Path) -> None:
    from distributed import Client

    address, workers = cluster
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=PATIENCE_S)
    killed: list[int] = []

    def watch(known: int, total: int) -> None:
        if known > total // 4 and not killed:
            workers[0].kill()
            killed.append(known)

    space = parse(SPACE, "space.yaml")
    done = sweep(space, tmp_path / "dask", dask=address, watch=watch)
    assert killed
    assert done.rows == sweep(space, tmp_path / "here").rows


def test_no_scheduler_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemvane.sweeping.workers.CONNECT_S", 0.5)
    with pytest.raises(ValueError, match=r"--dask tcp://127\.0\.0\.1:9: no Dask scheduler answers there"):
        sweep(parse(SPACE, "space.yaml"), tmp_path, dask="tcp://127.0.0.1:9")
