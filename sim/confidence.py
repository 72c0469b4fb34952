"""How sure a result is: a label, and a band taken from what is known of the models behind it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from .schema import Share, Source, Strict
from .yamltree import Tree, is_leaf, read_tree

Label = Literal["measured-calibrated", "spec-only", "extrapolated"]


class Band(Strict):
    """Real time over simulated time, less one: 80 % of cases lie between -`faster` and +`slower`."""

    faster: Share
    slower: Share


class Bands(Strict):
    schema_version: Literal[1]
    sources: dict[str, Source]
    bands: dict[str, Band]


@dataclass(frozen=True)
class Confidence:
    """`band` is (low, high): real time is expected between low x and high x the simulated one."""

    label: Label
    band: tuple[float, float]
    source: str


@lru_cache(maxsize=1)
def _bands() -> tuple[Bands, dict[str, str]]:
    file = resources.files("gemvane.hw_configs") / "calibration" / "spec-only.yaml"
    tree: Tree = read_tree(file.read_text(encoding="utf-8"), "hw_configs/calibration/spec-only.yaml")
    cites = {kind: tree.data["sources"][band["slower"]["source"]]["cite"] for kind, band in tree.data["bands"].items()}
    return Bands.model_validate(_values(tree.data)), cites


def _values(node: Any) -> Any:
    if is_leaf(node):
        return node["value"]
    return {k: _values(v) for k, v in node.items()} if isinstance(node, dict) else node


def judge(busy: dict[str, float]) -> Confidence:
    """The band of a run whose kinds of unit are busy for these times: their bands, weighted by time.

    Weighting, not adding in quadrature, takes the errors of one unit's operators to be of one sign: the careful side.
    """
    bands, cites = _bands()
    total = sum(busy.values()) or 1.0
    shares = {kind: time / total for kind, time in busy.items() if time}
    low = sum(share * (1 - bands.bands[kind].faster) for kind, share in shares.items())
    high = sum(share * (1 + bands.bands[kind].slower) for kind, share in shares.items())
    main = max(shares, key=lambda kind: shares[kind])
    return Confidence("spec-only", (round(low, 3), round(high, 3)), cites[main])
