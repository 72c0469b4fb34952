"""The folder of a sweep or search: one process at a time, rows kept as they come, one table in the end.

A row is a line of a journal as soon as it is known. A line that a kill has torn is cut off, so that its point is simulated again.
When all rows are there they become a table, whole or not at all, and the journal goes.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from gemvane import __version__
from gemvane.sim.space import Space

SCHEMA = "gemvane.sweep/1"
TABLE = "sweep"
JOURNAL_SUFFIX = ".jsonl"
Rows = dict[int, dict[str, Any]]


class Folder:
    """An output folder while this process owns it (a context manager). `rows`: what is known already, by number."""

    def __init__(self, path: Path, kind: str, space: Space, shard: tuple[int, int] | None = None) -> None:
        """`kind`: sweep or search; `shard`: (1, 4) for the first of four, which may work in one folder side by side.

        ValueError where another process is at work in the folder, or it holds other results; OSError where it cannot be written.
        """
        self.path, self._kind, self._space = path, kind, space
        part = "" if shard is None else f".{shard[0]}-of-{shard[1]}"
        self._stem, self._shared = f"{TABLE}{part}", shard is not None
        path.mkdir(parents=True, exist_ok=True)
        self._locks: list[Any] = []
        self._journal: BinaryIO | None = None
        try:
            self._lock(".lock", fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX)
            if self._shared:
                self._lock(f".lock{part}", fcntl.LOCK_EX)
            self._claim()
            self.rows = self._known()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close()
        for lock in self._locks:
            lock.close()

    def record(self, rows: Iterable[dict[str, Any]]) -> None:
        """Keep rows. ValueError where there is no room; what was kept before stays."""
        rows = list(rows)
        file = self.path / f"{self._stem}{JOURNAL_SUFFIX}"
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        try:
            if self._journal is None:
                self._journal = file.open("ab", buffering=0)
            while text:
                text = text[self._journal.write(text) :]
        except OSError as error:
            raise ValueError(f"{file}: {error.strerror}. What was simulated is kept; the same command goes on.") from None
        self.rows |= {row["point"]: row for row in rows}

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write the table of these rows and drop what it replaces."""
        file = write_table(self.path / self._stem, rows)
        for part in self._parts():
            if part != file:
                part.unlink()
        return file

    def table(self) -> Path | None:
        """The finished table, if there is one and nothing beside it."""
        parts = self._parts()
        done = len(parts) == 1 and parts[0].stem == self._stem and parts[0].suffix != JOURNAL_SUFFIX
        return parts[0] if done else None

    def _lock(self, name: str, how: int) -> None:
        file = (self.path / name).open("a+")
        self._locks.append(file)
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(f"{self.path}: process {file.read().strip() or 'of another user'} is at work in this folder. "
                             "Wait until it ends, or choose another --out.") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()

    def _claim(self) -> None:
        """Make the folder this space's, or see that it is."""
        meta = self.path / "meta.json"
        mine = fingerprint(self._space)
        if meta.exists():
            there = json.loads(meta.read_text(encoding="utf-8"))
            if (there.get("kind"), there.get("space_sha256")) != (self._kind, mine):
                raise ValueError(f"{self.path}: holds the results of another space, or of hardware or model files that have changed since. "
                                 "Choose another --out.")
            return
        if any(self.path.glob(f"{TABLE}.*")):
            raise ValueError(f"{self.path}: holds results, but no meta.json that says of what. Choose another --out.")
        whole(self.path / "space.yaml", self._space.text.encode())
        versions = {"gemvane": __version__, "python": platform.python_version()} | {name: version(name) for name in ("numpy", "numba")}
        search = self._space.search
        whole(meta, (json.dumps({"schema": SCHEMA, "kind": self._kind, "space_sha256": mine, "axes": list(self._space.axes),
                                 "follow": list(self._space.follow), "models": list(self._space.models),
                                 "hardware": list(self._space.hardware), "objectives": list(search.objectives) if search else [],
                                 "versions": versions}, indent=2) + "\n").encode())

    def _known(self) -> Rows:
        rows: Rows = {}
        for part in self._parts():
            rows |= {row["point"]: row for row in (_lines if part.suffix == JOURNAL_SUFFIX else read_table)(part)}
        return rows

    def _parts(self) -> list[Path]:
        """Tables and journals: a shard's own, or all where the whole folder is ours."""
        stem = self._stem if self._shared else f"{TABLE}*"
        return sorted(file for suffix in (".parquet", ".csv", JOURNAL_SUFFIX) for file in self.path.glob(f"{stem}{suffix}"))


def fingerprint(space: Space) -> str:
    """The same for the same space over the same hardware and models."""
    under = [(name, device.tree.data) for name, device in space.hardware.items()], [repr(spec) for spec in space.models.values()]
    return hashlib.sha256(f"{space.text}\0{under}".encode()).hexdigest()


def whole(path: Path, content: bytes) -> None:
    """Write a file, all of it or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")  # shards may begin at once
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_table(stem: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as STEM.parquet, or STEM.csv where pyarrow is not installed; a column of several types is text."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    for name, values in columns.items():
        kinds = {type(value) for value in values if value is not None}
        if not (kinds <= {int, float} or len(kinds) == 1) or kinds & {list, tuple, dict}:
            columns[name] = [None if value is None else str(value) for value in values]
    temporary = stem.with_name(f"{stem.name}.partial")
    found = importlib.util.find_spec("pyarrow") is not None
    try:
        (_write_parquet if found else _write_csv)(temporary, columns)
        file = stem.with_name(stem.name + (".parquet" if found else ".csv"))
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return file


def _write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {name: pa.array([float(v) if v is not None else None for v in values] if any(isinstance(v, float) for v in values) else values)
              for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path)


def _write_csv(path: Path, columns: dict[str, list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that `write_table` made."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_table(path).to_pylist())
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: _cell(name, text) for name, text in row.items()} for row in csv.DictReader(file)]


def _cell(name: str, text: str) -> Any:
    if name == "reason" or text in ("True", "False"):
        return text == "True" if text in ("True", "False") else text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a journal; a last line without its end is cut off the file."""
    content = path.read_bytes()
    kept = content.rfind(b"\n") + 1
    if kept < len(content):
        os.truncate(path, kept)
    return [json.loads(line) for line in content[:kept].splitlines()]
