"""Trace: the operators of a run as equal-length columns, who waits for whom, and the requests behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .ops import CODE, DTYPES, KINDS, PHASES, SHAPE, SPARSITIES, WORK, Int64s, Rows, derive

if TYPE_CHECKING:
    import pandas as pd


LEAST = {"layer": -1}
"""Smallest value of a column where it is not 0: layer -1 is what comes before the first."""


SINCE: dict[str, Any] = {"sparsity": "dense", "cross": 0, "in_elements": 0}
"""What the rows of an older trace have in a column that it does not know."""


class Requests(NamedTuple):
    """The requests of a trace: prompt length, and the sub-batch that each belongs to."""

    prompt: Int64s
    sub_batch: Int64s


@dataclass(frozen=True)
class Trace:
    """Operators in issue order. Row i waits for the rows preds_idx[preds_ptr[i]:preds_ptr[i + 1]].

    `rows.name` indexes `names`. Sizes are those of one device of `devices` alike (tensor parallelism).
    """

    rows: Rows
    names: tuple[str, ...]
    preds_ptr: Int64s
    preds_idx: Int64s
    requests: Requests
    devices: int = 1

    @property
    def size(self) -> int:
        return self.rows.size

    @property
    def flops(self) -> int:
        """2 for each multiply-add of matmul, convolution and attention."""
        return 2 * int(self.rows.macs.sum())

    def to_frame(self) -> pd.DataFrame:
        """One row an operator; texts for names, kinds and dtypes; `flops` = 2 x macs; `preds` as "3 7"."""
        import pandas as pd

        rows = self.rows
        texts: dict[str, Any] = {
            "name": np.array(self.names, object)[rows.name],
            "kind": np.array([k.name for k in KINDS], object)[rows.kind],
            "work": np.array(WORK, object)[rows.work],
            "phase": np.array(PHASES, object)[rows.phase],
            **{c: np.array(DTYPES, object)[getattr(rows, c)] for c in ("weight_dtype", "act_dtype", "kv_dtype")},
            "sparsity": np.array(SPARSITIES, object)[rows.sparsity],
        }
        frame = pd.DataFrame({c: texts.get(c, getattr(rows, c)) for c in Rows._fields})
        frame.insert(2, "work", texts["work"])
        frame.insert(len(frame.columns) - 8, "flops", 2 * rows.macs)
        preds = np.split(self.preds_idx, self.preds_ptr[1:-1]) if self.size else []
        frame["preds"] = [" ".join(map(str, p)) for p in preds]
        return frame

    def save(self, path: str | Path) -> None:
        """Write the frame as .parquet or .csv (under a temporary name, then renamed). The requests go beside it."""
        path = Path(path)
        frame = self.to_frame()
        frame.attrs = {"prompt": self.requests.prompt.tolist(), "sub_batch": self.requests.sub_batch.tolist(), "devices": self.devices}
        temporary = path.with_name(path.name + ".partial")
        try:
            if path.suffix == ".parquet":
                frame.to_parquet(temporary, index=False)
            elif path.suffix == ".csv":
                with temporary.open("w", encoding="utf-8") as out:
                    out.write(f"# requests prompt={frame.attrs['prompt']} sub_batch={frame.attrs['sub_batch']} devices={self.devices}\n")
                    frame.to_csv(out, index=False)
            else:
                raise ValueError(f"{path}: a trace is saved as .parquet or .csv, not {path.suffix!r}.")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def load(path: str | Path) -> Trace:
    """A trace that `Trace.save` wrote. ValueError names the file and the column that is missing or unknown."""
    import pandas as pd

    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"{path}: a trace is read from .parquet or .csv, not {path.suffix!r}.")
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            about: dict[str, Any] = {str(key): value for key, value in frame.attrs.items()}
        else:
            about = _csv_about(path)
            frame = pd.read_csv(path, skiprows=1 if about else 0, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as a trace: {error}") from None
    return from_frame(frame, about, str(path))


def from_frame(frame: pd.DataFrame, about: dict[str, Any], where: str) -> Trace:
    """A trace from its frame, whose work and bytes are computed anew. `about` has prompt, sub_batch (a list each) and devices."""
    lacking = [key for key in ("prompt", "sub_batch", "devices") if key not in about]
    if lacking:
        raise ValueError(f"{where}: has no {', '.join(lacking)}, which `Trace.save` writes in a CSV file's first line.")
    frame = frame.assign(**{column: value for column, value in SINCE.items() if column not in frame})
    missing = [c for c in (*SHAPE, "preds") if c not in frame.columns]
    if missing:
        raise ValueError(f"{where}: column {missing[0]!r} is missing. A trace has {', '.join(SHAPE)}, preds.")
    name_codes, name_texts = _factorised(frame["name"])
    names = tuple(name_texts)
    codes: dict[str, dict[str, int]] = {
        "kind": CODE, "phase": {p: i for i, p in enumerate(PHASES)},
        **{c: {d: i for i, d in enumerate(DTYPES)} for c in ("weight_dtype", "act_dtype", "kv_dtype")},
        "sparsity": {name: i for i, name in enumerate(SPARSITIES)},
    }
    shape: dict[str, Int64s] = {"name": name_codes}
    for column in SHAPE[1:]:
        if column not in codes:
            shape[column] = _whole(frame[column], column, where)
            continue
        of_row, texts = _factorised(frame[column])
        unknown = [text for text in texts if text not in codes[column]]
        if unknown:
            raise ValueError(f"{where}: {column} {unknown[0]!r} is unknown. Expected one of {', '.join(codes[column])}.")
        shape[column] = np.array([codes[column][text] for text in texts], np.int64)[of_row]
    ptr, idx = _preds(frame["preds"], where)
    requests = Requests(np.array(about.get("prompt", []), np.int64), np.array(about.get("sub_batch", []), np.int64))
    return Trace(derive(shape), names, ptr, idx, requests, int(about.get("devices", 1)))


def _factorised(values: pd.Series[Any]) -> tuple[Int64s, list[Any]]:
    """The number of each value among the different ones, and those in the order of their first appearance."""
    import pandas as pd

    numbers, texts = pd.factorize(values, use_na_sentinel=False)
    return numbers.astype(np.int64), list(texts)


def _whole(values: pd.Series[Any], column: str, where: str) -> Int64s:
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    bad = np.flatnonzero(~(numbers >= LEAST.get(column, 0)) | (numbers % 1 != 0))
    if bad.size:
        cell, least = str(values.iloc[bad[0]]), LEAST.get(column, 0)
        raise ValueError(f"{where}: row {bad[0]}: {column} is {cell!r}. Expected a whole number of at least {least}.")
    return values.to_numpy(np.int64)


def _preds(texts: pd.Series[Any], where: str) -> tuple[Int64s, Int64s]:
    words = [str(text).split() for text in texts.tolist()]
    ptr = np.concatenate([[0], np.cumsum([len(of_row) for of_row in words], dtype=np.int64)]).astype(np.int64)
    flat = [word for of_row in words for word in of_row]
    numbers = np.array([int(word) if word.isdecimal() else -1 for word in flat], np.int64)
    row = np.repeat(np.arange(ptr.size - 1), np.diff(ptr))
    bad = np.flatnonzero((numbers < 0) | (numbers >= row))
    if bad.size:
        raise ValueError(f"{where}: row {row[bad[0]]}: preds has {flat[bad[0]]!r}. Expected numbers of rows before it.")
    return ptr, numbers


def _csv_about(path: Path) -> dict[str, Any]:
    import ast
    import re

    with path.open(encoding="utf-8") as lines:
        head = lines.readline()
    found = dict(re.findall(r"(prompt|sub_batch|devices)=(\[[^\]]*\]|\d+)", head))
    return {key: ast.literal_eval(value) for key, value in found.items()}


@dataclass
class Block:
    """Rows that belong together, such as one layer of one sub-batch. Predecessor INPUT is whatever feeds the block."""

    shape: list[dict[str, int]] = field(default_factory=list)
    preds: list[tuple[int, ...]] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)

    INPUT = -1
    DEFAULTS = {column: 0 for column in SHAPE} | {"batch": 1, "peers": 1}

    def add(self, name: str, kind: str, *preds: int, **shape: int) -> int:
        """Append an operator that waits for `preds` (rows of this block); its number in the block."""
        code = self.names.setdefault(name, len(self.names))
        self.shape.append({**self.DEFAULTS, **shape, "name": code, "kind": CODE[kind]})
        self.preds.append(preds)
        return len(self.shape) - 1
