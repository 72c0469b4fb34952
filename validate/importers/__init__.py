"""Public measured tables as kernel tables: the path of a clone in, rows of our schema out."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from gemvane.sim.hardware import nearest

from .. import kerneltable
from .common import checked

if TYPE_CHECKING:
    import pandas as pd

SOURCES = {
    "aiconfigurator": ("ai-dynamo/aiconfigurator", "Apache-2.0"), "vidur": ("microsoft/vidur", "MIT"),
    "llmcompass": ("PrincetonUniversity/LLMCompass", "BSD-3-Clause"), "neusight": ("sitar-lab/NeuSight", "MIT"),
    "llmservingsim": ("casys-kaist/LLMServingSim", "MIT"), "splitwise": ("Mutinifni/splitwise-sim", "MIT"),
}
"""Name -> the repository on GitHub and the licence that it had when its format was read (2026)."""


def read(name: str, folder: Path) -> pd.DataFrame:
    """The kernel table of a clone; `attrs["left_out"]` counts the rows that it does not have, by reason.

    Raises ValueError for an unknown name, a folder without the source's files, a file without a column that is needed, a
    latency that is not above zero, or latencies ten times off the roofline of their GPU.
    """
    import pandas as pd

    if name not in SOURCES:
        raise ValueError(f"importer {name!r} is unknown{nearest(name, list(SOURCES))}. Expected one of {', '.join(SOURCES)}.")
    if not folder.is_dir():
        raise ValueError(f"{folder}: is no folder. Expected a clone of {SOURCES[name][0]}.")
    module = importlib.import_module(f"gemvane.validate.importers.{name}")
    left_out: Counter[str] = Counter()
    parts = [checked(part) for part in module.parts(folder, left_out)]
    if not parts:
        raise ValueError(f"{folder}: has no {module.FILES}. Expected a clone of {SOURCES[name][0]}.")
    repository, licence = SOURCES[name]
    table = pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True)
    table = table.assign(source_repo=repository, licence=licence).reindex(columns=[*kerneltable.COLUMNS, "launch", "cache"])
    kerneltable.check(table, str(folder))
    table.attrs["left_out"] = {reason: count for reason, count in left_out.items() if count}
    return table
