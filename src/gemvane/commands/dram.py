"""gemvane dram"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane import output
from gemvane.sim.dram import part as parts_of
from gemvane.sim.dram.part import Part

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from gemvane.sim.dram.channels import Channels
    from gemvane.sim.dram.energy import DramEnergy
    from gemvane.sim.dram.replay import Replay

SUFFIXES = (".csv", ".parquet")
SHOWN_RULES, SHOWN_FAULTS = 8, 10
NO_RULE = "no timing rule (empty queues, clock edges, refresh in wait)"
LEVELS = {"pseudochannel": "pseudo-channel", "sid": "stack ID", "bank_group": "bank group"}


def replay(requests: Path, memory: str, scheduler: str, refresh: bool | str, commands: Path | None, json: bool, *,
           row_policy: str = "open", cap: int = 4, channels: int | None = None) -> None:
    """Serve a file of requests on one channel, or on as many as `channels` or its column ch says; print what it took."""
    from gemvane.sim.dram import check as checker
    from gemvane.sim.dram.channels import replay_channels
    from gemvane.sim.dram.replay import COLUMNS, OPTIONAL
    from gemvane.sim.dram.replay import replay as served

    if commands is not None:
        if commands.suffix != ".csv":
            raise ValueError(f"--commands {commands}: commands are written as .csv, {_unlike(commands)}.")
        output.check_file(commands, "--commands")
    part = parts_of.load(memory)
    frame = _table(requests)
    for name in frame.columns.intersection([*COLUMNS, *OPTIONAL]):
        frame[name] = checker.whole_numbers(frame[name], "request table", name)
    if frame.empty and set(COLUMNS) <= set(frame.columns):
        raise ValueError(f"{requests}: has no rows. Expected one a request.")
    several = channels is not None or "ch" in frame.columns
    serve = partial(replay_channels, channels=channels) if several else served
    serve = partial(serve, frame, part, scheduler=scheduler, row_policy=row_policy, cap=cap, refresh=refresh)
    done: Replay | Channels = serve()
    if commands is not None:  # a second time, now that their number is known
        done = serve(log_commands=sum(done.commands.values()))
        _save(done.commands_frame(), commands)
    if json:
        used = _energy(done)
        output.show_json(done.to_dict() | {"energy_pj": used and used.to_dict(),
                                             "path": None if commands is None else str(commands)})
    else:
        _screen(done, commands)


def _energy(done: Replay | Channels) -> DramEnergy | None:
    """Energy up to the end of the last request; None where there are no prices for the part's standard."""
    from gemvane.sim.dram.energy import energy, prices_of
    from gemvane.sim.dram.replay import time_s

    prices = prices_of(done.part)
    return None if prices is None else energy(_priced(done), len(_each(done)) * time_s(done.part, done.end_tick), done.part, prices)


def _each(done: Replay | Channels) -> tuple[Replay, ...]:
    from gemvane.sim.dram.replay import Replay

    return (done,) if isinstance(done, Replay) else done.replays


def _priced(done: Replay | Channels) -> dict[str, Any]:
    """Command counts in which refreshes of single banks are shares of an all-bank refresh, the only one that has a price."""
    resolved, counts = done.part.resolved, dict[str, Any](done.commands)
    whole = int(resolved.counts[resolved.refresh_level :].prod())
    for name, banks in (("REFpb", 1), ("REFsb", int(resolved.counts[2]))):
        if name in counts:
            all_bank = done.part.spec.refresh.command
            counts[all_bank] = counts.get(all_bank, 0) + counts.pop(name) * banks / whole
    return counts


def _energy_rows(done: Replay | Channels) -> list[tuple[str, str]]:
    from gemvane.sim.units import show

    used = _energy(done)
    if used is None:
        return [("energy", f"no prices for {done.part.spec.standard}")]
    low, high = (show(sum(terms.values()) / 1e12, "J") for terms in (used.low_pj, used.high_pj))
    per_bit = used.total_pj / (8 * done.requests * done.part.request_bytes)
    span = "" if low == high else f" (sources: {low} to {high})"
    total = f"{show(used.total_pj / 1e12, 'J')}{span}, {per_bit:.2f} pJ/bit, prices of {used.prices}{' stand in' if used.stand_in else ''}"
    terms = ", ".join(f"{name} {show(pj / 1e12, 'J')}" for name, pj in used.terms_pj.items() if pj)
    lacks = f"; no figure for {', '.join(used.not_covered)}" if used.not_covered else ""
    return [("energy", total), ("of which", terms + lacks)]


def _table(file: Path) -> pd.DataFrame:
    """A table of a .csv or .parquet file. ValueError where it cannot be read."""
    import pandas as pd

    if file.suffix not in SUFFIXES:
        raise ValueError(f"{file}: a table is read from {' or '.join(SUFFIXES)}, {_unlike(file)}.")
    if file.is_dir():
        raise ValueError(f"{file}: is a folder. Expected a {file.suffix} file.")
    if not file.exists():
        raise ValueError(f"{file}: there is no such file.")
    try:
        return pd.read_csv(file, skipinitialspace=True) if file.suffix == ".csv" else pd.read_parquet(file)
    except ImportError:
        raise ValueError(f"{file}: parquet needs pyarrow. Say `pip install 'gemvane[parquet]'`, or use a .csv file.") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: cannot be read as {file.suffix}: {' '.join(str(error).split()).rstrip('.')}.") from None


def _unlike(file: Path) -> str:
    return f"not {file.suffix!r}" if file.suffix else f"but {file.name} has no suffix"


def _save(frame: pd.DataFrame, file: Path) -> None:
    """Write a .csv file whole, or not at all."""
    partial = file.with_name(file.name + ".partial")
    try:
        frame.to_csv(partial, index=False)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _screen(done: Replay | Channels, commands: Path | None) -> None:
    from gemvane.render import facts, percent, plural
    from gemvane.sim.dram.replay import time_s
    from gemvane.sim.units import show

    said, part, each = done.to_dict(), done.part, _each(done)
    latency = {name: f"{ticks:,.0f} ticks ({show(float(ticks * part.tick_ps) / 1e12, 's')})"
               for name, ticks in said["latency_ticks"].items()}
    share = percent(said["bandwidth_bytes_per_s"] / said["peak_bytes_per_s"])
    rows = "open rows" if said["cap"] is None else f"rows closed after {plural(said['cap'], 'column')} at most"
    lines = [
        ("memory", f"{part.name}: {part.spec.description}" + (f", {len(each)} times" if len(each) > 1 else "")),
        ("scheduler", f"{said['scheduler']}, {rows}, {said['refresh'].replace('none', 'no')} refresh"),
        ("requests", f"{plural(done.requests, 'request')} of {show(part.request_bytes, 'B')}"),
        ("time", f"{show(said['seconds'], 's')} to the last column command, {show(time_s(part, done.end_tick), 's')} to the end "
                 f"({done.end_tick:,} ticks)"),
        ("bandwidth", f"{show(said['bandwidth_bytes_per_s'], 'B/s')}, {share} of the peak of {show(said['peak_bytes_per_s'], 'B/s')}"),
        ("rows", f"{said['row_hits']:,} hits, {said['row_misses']:,} misses, {said['row_conflicts']:,} conflicts"),
        ("commands", ", ".join(f"{count:,} {name}" for name, count in done.commands.items())),
        ("latency", ", ".join(f"{name} {text}" for name, text in latency.items())),
        *_energy_rows(done),
    ]
    wrote = [] if commands is None else [f"-> {commands} ({sum(done.commands.values()):,} commands)"]
    output.show(facts(lines), "", _held(each[0]) if len(each) == 1 else _by_channel(each), *wrote)


def _held(done: Replay) -> Table:
    from gemvane.render import glued, percent, plural, table

    held = table("what held the channel", "ticks", "of all", right=("ticks", "of all"))
    for i, (rule, ticks) in enumerate(done.blocked_ticks.items()):
        if i < SHOWN_RULES:
            held.add_row(glued(NO_RULE if rule == "other" else rule), f"{ticks:,}", percent(ticks / done.end_tick))
    rest = list(done.blocked_ticks.values())[SHOWN_RULES:]
    if rest:
        held.add_row(plural(len(rest), "other rule"), f"{sum(rest):,}", percent(sum(rest) / done.end_tick))
    return held


def _by_channel(each: tuple[Replay, ...]) -> Table:
    from gemvane.render import table
    from gemvane.sim.units import show

    names = ("channel", "requests", "end, ticks", "bandwidth", "hits", "misses", "conflicts", "held longest by")
    out = table(*names, right=names[:-1])
    for number, one in enumerate(each):
        counts = (f"{n:,}" for n in (one.row_hits, one.row_misses, one.row_conflicts))
        out.add_row(str(number), f"{one.requests:,}", f"{one.end_tick:,}", show(one.bandwidth_bytes_per_s, "B/s"), *counts,
                    next(iter(one.blocked_ticks), "-"))
    return out


def check(commands: Path, memory: str, json: bool, *, compat: bool = False) -> None:
    """Say that a command trace is legal, or which rules it breaks; `compat`: under the liberties of the published simulator."""
    from gemvane.sim.dram import check as checker

    part = parts_of.load(memory)
    if compat:
        part = _compat(part)
    frame = _table(commands)
    found = checker.check(frame, part)
    if json:
        output.show_json({"schema": "gemvane.dram-check/1", "memory": part.name, "commands": len(frame), "ok": not found,
                          "violations": [fault._asdict() for fault in found]})
    if found:
        lines = [str(fault) for fault in found[:SHOWN_FAULTS]]
        if len(found) > SHOWN_FAULTS:
            lines.append(f"{len(found) - SHOWN_FAULTS:,} more like this; --json lists them all")
        raise ValueError("\nerror: ".join(lines))
    if not json:
        output.show_text(f"ok: {len(frame):,} command{'' if len(frame) == 1 else 's'} break{'s' if len(frame) == 1 else ''} no rule\n")


def _compat(part: Part) -> Part:
    """The part with its switch nSTRICT off."""
    if "nSTRICT" not in part.spec.timings:
        raise ValueError(f"--compat: {part.name} has no timing nSTRICT, whose 0 is the compatible mode. Expected a part with PIM commands, "
                         "e.g. hbm2-neupims.")
    return replace(part, spec=part.spec.model_copy(update={"timings": {**part.spec.timings, "nSTRICT": 0}}))


def parts(json: bool) -> None:
    """Every bundled memory part."""
    loaded = [parts_of.load(name) for name in parts_of.names()]
    if json:
        output.show_json({"parts": [_facts(part) for part in loaded]})
        return
    from gemvane.render import glued, table
    from gemvane.sim.units import show

    out = table("name", "standard", "bandwidth", "organisation of one channel", "description", right=("bandwidth",))
    out.columns[0].no_wrap = True
    for part in loaded:
        cells = (part.name, part.spec.standard, show(part.spec.organisation.bandwidth, "B/s"), _organisation(part), part.spec.description)
        out.add_row(*map(glued, cells))
    output.show(out)


def _facts(part: Part) -> dict[str, Any]:
    spec = part.spec
    return {"name": part.name, "standard": spec.standard, "description": spec.description,
            "bandwidth_bytes_per_s": spec.organisation.bandwidth, "tick_ps": float(part.tick_ps), "levels": dict(spec.organisation.levels),
            "rows": part.rows, "columns": part.columns, "request_bytes": part.request_bytes}


def _organisation(part: Part) -> str:
    """ "2 pseudo-channels x 4 bank groups x 4 banks, 16,384 rows of 1,024 B"."""
    from gemvane.render import plural

    levels = part.spec.organisation.levels.items()
    tree = " x ".join(plural(count, LEVELS.get(level, level)) for level, count in levels if count > 1)
    return f"{tree}, {plural(part.rows, 'row')} of {part.columns * part.request_bytes:,} B"
