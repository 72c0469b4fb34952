"""What a DRAM controller may be told to do: its scheduler, when it closes rows, and how it refreshes; each checked against the part."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from .part import Part

SCHEDULERS = ("frfcfs", "frfcfs-rowhit")
ROW_POLICIES = ("open", "closed")
REFRESHES = ("all-bank", "per-bank", "same-bank", "none")
CAP = 4
"""Column commands after which a closed-row controller closes a row; Ramulator 2.1's ClosedCAP has the same default."""
NEVER = 2**61
BANK = 4
"""The level."""


class Policy(NamedTuple):
    """Checked names: `policy` makes it."""

    scheduler: str
    row_policy: str
    cap: int
    refresh: str


class Refreshes(NamedTuple):
    """How a part is refreshed: `asked` refreshes every `interval` ticks, `ask_step` banks apart, one bank further each time.

    A refresh is for `banks` banks, each `step` after the other; its rows are closed by `close`. After `turns` it begins anew.
    """

    command: int
    close: int
    banks: int
    step: int
    asked: int
    ask_step: int
    turns: int
    stops_all: bool
    """While one is due, no request is taken from the queues; else only those of its banks wait."""
    interval: int


def policy(*, scheduler: str = "frfcfs-rowhit", row_policy: str = "open", cap: int = CAP, refresh: bool | str = "all-bank") -> Policy:
    """A policy; `refresh` True is all-bank, False none. ValueError for a name that is unknown and for a cap below 1."""
    kind = refresh if isinstance(refresh, str) else "all-bank" if refresh else "none"
    for key, value, known in (("scheduler", scheduler, SCHEDULERS), ("row policy", row_policy, ROW_POLICIES), ("refresh", kind, REFRESHES)):
        if value not in known:
            raise ValueError(f"{key} {value!r} is unknown. Expected one of {', '.join(known)}.")
    if isinstance(cap, bool) or not isinstance(cap, int) or cap < 1:
        raise ValueError(f"cap {cap!r} is no count of column commands. Expected a whole number, 1 or more.")
    return Policy(scheduler, row_policy, cap, kind)


def refreshes(part: Part, told: Policy) -> Refreshes:
    """How the part is refreshed under a policy. ValueError where it lacks a command, or comes due before it can be done."""
    resolved = part.resolved
    ranks, groups, banks = int(resolved.counts[0] * resolved.counts[1]), int(resolved.counts[2]), int(resolved.counts[3])
    rank = groups * banks
    if told.refresh in ("all-bank", "none"):
        nodes = int(resolved.counts[: resolved.refresh_level].prod())
        due = Refreshes(resolved.refab, resolved.preab, ranks * rank // nodes, 1, nodes, ranks * rank // nodes, 1, True,
                        resolved.refresh_interval if told.refresh == "all-bank" else NEVER)
    elif told.refresh == "per-bank":
        due = Refreshes(_command(part, "REFpb", told), resolved.pre, 1, 1, ranks, rank, rank, False,
                        resolved.bank_refresh_interval or resolved.refresh_interval // rank)
    else:
        due = Refreshes(_command(part, "REFsb", told), resolved.pre, groups, banks, ranks, rank, banks, False,
                        resolved.refresh_interval // banks)
    for rule in part.rules:
        every = due.interval * (due.turns if rule.level == BANK else 1)
        if rule.prev == due.command and rule.next in (resolved.act, due.command) and rule.window == 1 and rule.ticks >= every:
            raise ValueError(f"{part.file}: {part.commands[rule.prev]} comes every {every} ticks, but {part.commands[rule.next]} waits for "
                             f"{rule.ticks} ticks after it. Expected a longer interval.")
    least = sum(_wait(part, *pair) for pair in pairwise((due.command, resolved.act, resolved.pre, due.command)))
    if due.stops_all and least >= due.interval:
        raise ValueError(f"{part.file}: {part.commands[due.command]} comes every {due.interval} ticks, but from one to the next, with a "
                         f"row opened and closed between them, are {least}. Expected a longer interval.")
    return due


def check_pim(part: Part) -> None:
    """ValueError where `refreshes` raises it, and where some banks are refreshed at all times: PIM commands need all banks at once."""
    due = refreshes(part, policy())
    each = _wait(part, due.command, part.resolved.act)
    if due.asked * each >= due.interval:
        raise ValueError(f"{part.file}: {due.asked} refreshes of {each} ticks come every {due.interval} ticks, so that some banks are "
                         "refreshed at all times, and PIM needs all of them. Expected a longer interval.")


def _wait(part: Part, before: int, after: int) -> int:
    """Ticks from one command to another."""
    return max((rule.ticks for rule in part.rules if (rule.prev, rule.next, rule.window) == (before, after, 1)), default=0)


def _command(part: Part, name: str, told: Policy) -> int:
    if name not in part.commands:
        raise ValueError(f"refresh {told.refresh} needs the command {name}, which {part.name} has not. Expected one of "
                         f"{', '.join(kind for kind, needs in WANTS.items() if needs in (None, *part.commands))}.")
    return part.commands.index(name)


WANTS = {"all-bank": None, "per-bank": "REFpb", "same-bank": "REFsb", "none": None}
"""Refresh -> the command that only some parts have."""
