"""Colours and groups that every chart shares: one meaning has one colour on all pages."""

from __future__ import annotations

from typing import Any

from gemvane.sim.costs import CAUSES

BLUE, ORANGE, GREEN, RED, SKY, PURPLE, YELLOW = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442"
"""Okabe and Ito's palette, which the colour-blind can tell apart."""
GREY = "#8C96A3"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY, YELLOW, GREY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "x", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

CAUSE_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "useful work": (BLUE, ("ideal",)),
    "tiles and pipelines": (SKY, ("edge", "fill", "preload", "drain")),
    "main memory": (ORANGE, ("memory",)),
    "vector unit": (PURPLE, ("vector",)),
    "PIM rows": (RED, ("row", "precharge", "refresh")),
    "PIM commands": (YELLOW, ("vector_load", "command")),
    "PIM imbalance": (GREEN, ("imbalance",)),
    "links": ("#7F6A00", ("link",)),
    "launch": (GREY, ("launch",)),
}
"""Where time goes, in the order of the stacks: name -> colour and the causes of costs.CAUSES that it gathers."""
WAITS = {"slowed by others": "#5B4B8A", "blocked": "#A8B0BA", "idle": "rule"}
"""What a unit's time goes to beside its own work."""
ENERGY_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "multiply-adds": (BLUE, ("mac",)),
    "vector": (PURPLE, ("vector",)),
    "SRAM and caches": (SKY, ("sram", "l2")),
    "DRAM rows": (RED, ("dram_activate",)),
    "DRAM arrays and ways": (ORANGE, ("dram_array", "dram_move", "dram_tsv")),
    "DRAM pins": (YELLOW, ("dram_io",)),
    "PIM": (GREEN, ("pim",)),
    "links": ("#7F6A00", ("link",)),
    "static": (GREY, ("static",)),
}
"""Where energy goes: name -> colour and the components of energy.COMPONENTS that it gathers."""

assert {cause for _, causes in CAUSE_GROUPS.values() for cause in causes} == set(CAUSES)


def grouped(parts: dict[str, float], groups: dict[str, tuple[str, tuple[str, ...]]]) -> dict[str, float]:
    """The sums of the groups, of parts by cause or component."""
    return {name: sum(parts.get(part, 0.0) for part in members) for name, (_, members) in groups.items()}


def colours(names: list[str]) -> dict[str, str]:
    """A colour for each of some series."""
    return {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}


def stacked(labels: list[str], shares: list[dict[str, float]], groups: dict[str, str], hover: list[list[str]]) -> list[dict[str, Any]]:
    """Horizontal bars, one a label, of parts by group; groups that are nowhere are left out. `hover`: [label][group] text."""
    out = []
    for g, (name, colour) in enumerate(groups.items()):
        lengths = [share.get(name, 0.0) for share in shares]
        if any(lengths):
            out.append({"type": "bar", "orientation": "h", "name": name, "y": labels, "x": lengths, "marker": {"color": colour},
                        "hovertext": [texts[g] for texts in hover], "hovertemplate": "%{hovertext}<extra>" + name + "</extra>"})
    return out
