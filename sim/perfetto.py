"""Timelines as Chrome trace JSON, which Perfetto and chrome://tracing open."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

MOST_EVENTS = 1_000_000
COLOURS = ("thread_state_running", "rail_animation", "thread_state_iowait", "rail_load", "cq_build_passed", "thread_state_runnable")
"""Names in the viewers' palette, one a sub-batch."""


def write(path: str | Path, phases: list[tuple[str, dict[str, Any]]]) -> None:
    """One event an operator: tid is the unit (or a channel of one), its colour the sub-batch, ts and dur in microseconds; in args what
    contention added to dur. At most MOST_EVENTS, the first ones."""
    path = Path(path)
    threads: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    for name, columns in phases:
        rows = zip(*(columns[c] for c in ("step", "op", "layer", "sub_batch", "unit", "alone_ps", "start_ps", "end_ps")), strict=True)
        for step, op, layer, sub_batch, unit, alone, start, end in rows:
            tid = threads.setdefault(unit, len(threads) + 1)
            if end == start or len(events) >= MOST_EVENTS:
                continue
            events.append({"name": op, "cat": name, "ph": "X", "ts": int(start) / 1e6, "dur": int(end - start) / 1e6, "pid": 1, "tid": tid,
                           "cname": COLOURS[int(sub_batch) % len(COLOURS)],
                           "args": {"layer": int(layer), "sub_batch": int(sub_batch), "step": int(step),
                                    "contention_us": int(end - start - alone) / 1e6}})
    names = [{"name": what, "ph": "M", "pid": 1, "tid": tid, "args": {key: value}} for unit, tid in threads.items()
             for what, key, value in (("thread_name", "name", unit), ("thread_sort_index", "sort_index", tid))]
    text = json.dumps({"traceEvents": names + events, "displayTimeUnit": "ns"}, separators=(",", ":")).encode()
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    temporary.replace(path)
