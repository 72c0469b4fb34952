"""Requests over time: Mooncake's JSONL, which is the native format, and readers of Azure's, BurstGPT's and plain lengths.

    .jsonl  Mooncake: timestamp (ms), input_length, output_length, hash_ids (of 512-token blocks; may be missing). Other keys are not read.
    .csv    Azure LLM inference traces: TIMESTAMP (date and time), ContextTokens, GeneratedTokens
    .csv    BurstGPT: Timestamp (s), Request tokens, Response tokens
    .csv    lengths alone: prompt, output
    .json   lengths alone, of ShareGPT say: a list of [prompt, output] or of {"prompt": .., "output": ..}

Requests of which no token came out are left out: BurstGPT logs failures so.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .ops import Int64s

NS_PER_MS, NS_PER_S = 10**6, 10**9
LATEST_NS = 2**62


@dataclass(frozen=True)
class RequestTrace:
    """Requests in order of arrival, as equal-length columns."""

    arrival_ns: Int64s
    """Since the trace began: where a file has dates, since its first request; 0 where it says nothing about time."""
    prompt: Int64s
    """Tokens that come in."""
    output: Int64s
    """Tokens that go out."""
    hash_ids: tuple[tuple[int, ...], ...] = ()
    """Of each request the hashes of its prompt's blocks: equal prefixes have equal hashes. Empty where the file has none."""

    @property
    def size(self) -> int:
        return self.prompt.size


class _Row(NamedTuple):
    arrival_ns: int
    prompt: int
    output: int
    hash_ids: tuple[int, ...] = ()


class _Table(NamedTuple):
    """Columns of a kind of CSV file; `when` is None where it has no time."""

    when: str | None
    prompt: str
    output: str
    arrival_ns: Callable[[str], int] = lambda _: 0
    wish: str = ""
    """What its time should be."""
    dated: bool = False
    """Its time is not one since the trace began."""

    @property
    def columns(self) -> list[str]:
        return [column for column in (self.when, self.prompt, self.output) if column]


def _date_ns(text: str) -> int:
    """Nanoseconds since 1970 of a date and time; a zone is taken for UTC."""
    return int(np.datetime64(text.strip().removesuffix("Z").removesuffix("+00:00"), "ns").astype(np.int64))


def _scaled_ns(text: str, unit_ns: int) -> int:
    value = Decimal(text.strip()) * unit_ns
    if not value.is_finite() or not 0 <= value < LATEST_NS:
        raise ValueError(text)
    return int(value)


TABLES = {
    "azure": _Table("TIMESTAMP", "ContextTokens", "GeneratedTokens", _date_ns, "a date and time, e.g. 2024-05-10 00:00:00.009930",
                    dated=True),
    "burstgpt": _Table("Timestamp", "Request tokens", "Response tokens", lambda text: _scaled_ns(text, NS_PER_S), "seconds from 0 on"),
    "lengths": _Table(None, "prompt", "output"),
}


def read(path: str | Path) -> RequestTrace:
    """The requests of a file, by its suffix and header (see above), in order of arrival.

    ValueError, one sentence with file, line (of JSON: number of the request) and field, for anything that does not fit.
    """
    file = Path(path)
    if file.suffix not in READERS:
        raise ValueError(f"{path}: requests are read from {', '.join(READERS)}, not {file.suffix or 'without a suffix'!r}.")
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows: Iterable[_Row] = READERS[file.suffix](lines, str(path))
            rows = sorted((row for row in rows if row.output > 0), key=lambda row: row.arrival_ns)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    if not rows:
        raise ValueError(f"{path}: there is no request with an output in it.")
    arrival_ns, prompt, output = np.array([row[:3] for row in rows], np.int64).T
    hash_ids = tuple(row.hash_ids for row in rows) if any(row.hash_ids for row in rows) else ()
    return RequestTrace(arrival_ns, prompt, output, hash_ids)


def write(trace: RequestTrace, path: str | Path) -> None:
    """Write Mooncake's JSONL, whole or not at all; `read` gives the same requests back. ValueError for another suffix than .jsonl."""
    file = Path(path)
    if file.suffix != ".jsonl":
        raise ValueError(f"{path}: requests are written as .jsonl, not {file.suffix or 'without a suffix'!r}.")
    hashes = trace.hash_ids or ((),) * trace.size
    columns = (trace.arrival_ns.tolist(), trace.prompt.tolist(), trace.output.tolist(), hashes)
    text = "".join(
        f'{{"timestamp": {_milliseconds(when)}, "input_length": {prompt}, "output_length": {output}, "hash_ids": {json.dumps(blocks)}}}\n'
        for when, prompt, output, blocks in zip(*columns, strict=True)
    )
    partial = file.with_name(file.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _milliseconds(ns: int) -> str:
    """Exact, in decimals."""
    whole, rest = divmod(ns, NS_PER_MS)
    return f"{whole}.{rest:06}".rstrip("0") if rest else f"{whole}"


def _mooncake(lines: Iterable[str], file: str) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            entry = json.loads(line, parse_float=Decimal)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: is no JSON: {error.msg} at column {error.colno}.") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: {entry!r} is no request. Expected an object with timestamp, input_length and output_length.")
        blocks = entry.get("hash_ids") or []
        if not isinstance(blocks, list) or not all(isinstance(block, int) for block in blocks):
            raise ValueError(f"{where}: hash_ids is {blocks!r}. Expected a list of whole numbers.")
        when = _field(entry, "timestamp", where)
        if isinstance(when, bool) or not isinstance(when, int | Decimal) or not 0 <= when < LATEST_NS // NS_PER_MS:
            raise ValueError(f"{where}: timestamp is {_shown(when)}. Expected milliseconds from 0 on.")
        yield _Row(int(when * NS_PER_MS), *_tokens(entry, "input_length", "output_length", where), tuple(blocks))


def _table(lines: Iterable[str], file: str) -> list[_Row]:
    reader = csv.reader(lines)
    header = [name.strip().removeprefix("\ufeff") for name in next(reader, [])]
    known = [table for table in TABLES.values() if set(table.columns) <= set(header)]
    if not known:
        kinds = "; or ".join(f"{', '.join(table.columns)} ({name})" for name, table in TABLES.items())
        raise ValueError(f"{file}:1: the columns are {', '.join(header) or 'none'}. Expected {kinds}.")
    table = known[0]
    places = [(column, header.index(column)) for column in table.columns]
    rows = []
    for cells in reader:
        if not cells:
            continue
        where = f"{file}:{reader.line_num}"
        if len(cells) != len(header):
            raise ValueError(f"{where}: has {len(cells)} fields. Expected {len(header)}, as many as the header.")
        row = {column: cells[place] for column, place in places}
        when = 0
        if table.when is not None:
            try:
                when = table.arrival_ns(row[table.when])
            except (ValueError, InvalidOperation):
                raise ValueError(f"{where}: {table.when} is {row[table.when]!r}. Expected {table.wish}.") from None
        rows.append(_Row(when, *_tokens(row, table.prompt, table.output, where)))
    start = min((row.arrival_ns for row in rows), default=0) if table.dated else 0
    return [row._replace(arrival_ns=row.arrival_ns - start) for row in rows]


def _pairs(lines: Iterable[str], file: str) -> Iterator[_Row]:
    try:
        entries = json.loads("".join(lines))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: is no JSON: {error.msg} at column {error.colno}.") from None
    if not isinstance(entries, list):
        raise ValueError(f"{file}: is no list. Expected one of [prompt, output] or of objects with prompt and output.")
    for number, entry in enumerate(entries, 1):
        where = f"{file}: request {number}"
        named = dict(zip(("prompt", "output"), entry, strict=True)) if isinstance(entry, list) and len(entry) == 2 else entry
        if not isinstance(named, dict):
            raise ValueError(f"{where}: is {entry!r}. Expected [prompt, output] or an object with prompt and output.")
        yield _Row(0, *_tokens(named, "prompt", "output", where))


READERS: dict[str, Callable[[Iterable[str], str], Iterable[_Row]]] = {".jsonl": _mooncake, ".csv": _table, ".json": _pairs}
"""By suffix."""


def _field(entry: dict[str, Any], key: str, where: str) -> Any:
    if key not in entry:
        raise ValueError(f"{where}: {key} is missing. Every request needs it.")
    return entry[key]


def _tokens(entry: dict[str, Any], prompt: str, output: str, where: str) -> tuple[int, int]:
    """Tokens of a request, from fields of these names."""
    return _whole(_field(entry, prompt, where), prompt, where, 1), _whole(_field(entry, output, where), output, where, 0)


def _whole(value: Any, field: str, where: str, least: int) -> int:
    """A count of tokens, of JSON or of a cell."""
    digits = value.strip() if isinstance(value, str) else ""
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else value
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number < 10**15:
        raise ValueError(f"{where}: {field} is {_shown(value)}. Expected a whole number of at least {least}.")
    return number


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Decimal) else repr(value)
