"""When the ranks of a PIM channel are refreshed: as the part says, in turn, or all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..dram.part import Part
from ..dram.partschema import LEVELS, Constraint

FREE = ("channel", "pseudochannel")
"""Levels above the ranks."""


def refreshed_together(part: Part) -> Part:
    """The part whose refresh command is for all ranks of the channel: the commands to its ranks, a clock apart, are taken for one.

    A tile of Newton's needs all banks of the channel, so ranks that are refreshed in turn keep it from working twice as often.
    ValueError where there is only one rank, or all are refreshed together already.
    """
    spec, name = part.spec, part.spec.refresh.command
    ranks = [count for level, count in spec.organisation.levels.items() if LEVELS[level] == LEVELS["rank"]]
    if spec.commands[name].scope in FREE or ranks in ([], [1]):
        raise ValueError(f"refresh is 'together', but memory part {part.name} has no ranks that take turns: leave it out.")
    commands = {**spec.commands, name: spec.commands[name].model_copy(update={"scope": "channel"})}
    changed: dict[str, Any] = {"commands": commands, "constraints": list(_lifted(spec.constraints, name))}
    if spec.pim is not None:
        changed["pim"] = spec.pim.model_copy(update={"constraints": list(_lifted(spec.pim.constraints, name))})
    return replace(part, spec=spec.model_copy(update=changed))


def _lifted(rules: list[Constraint], refresh: str) -> Iterator[Constraint]:
    """The rules, those of the refresh command at the level of the channel."""
    for rule in rules:
        for before in _parted(rule.prev, refresh):
            for after in _parted(rule.next, refresh):
                level = "channel" if refresh in (*before, *after) else rule.level
                yield rule.model_copy(update={"prev": before, "next": after, "level": level})


def _parted(names: list[str], refresh: str) -> list[list[str]]:
    """Without the refresh command, and it alone; what is empty is left out."""
    return [part for part in ([name for name in names if name != refresh], [name for name in names if name == refresh]) if part]
