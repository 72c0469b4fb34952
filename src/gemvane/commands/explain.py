"""gemvane explain"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gemvane import api, output
from gemvane.sim.explain import Explanation
from gemvane.sim.result import Result
from gemvane.sim.units import show

SHOWN = 5
"""Numbers of the hardware that the table names."""


def explain(what: str, op: str | None, hw: str | None, asked: dict[str, Any], json: bool) -> None:
    """Say why an operator of a run takes its time: of a folder, or of a model on `hw`."""
    from gemvane.sim import explain as reasons

    run = _result(what, hw, asked).run
    phase, name = reasons.find(run, op)
    found = reasons.explain(run, phase, name)
    if json:
        output.show_json(found.to_dict())
        return
    from gemvane.render import glued

    output.show(*map(glued, sentences(found)), *_table(found))


def _result(what: str, hw: str | None, asked: dict[str, Any]) -> Result:
    if hw is not None:
        return api.run(what, hw, **asked)
    if not Path(what).is_dir():
        raise ValueError(f"{what}: is no folder of results. A model needs --hw, as in `gemvane explain llama3-8b gate_up --hw neupims`.")
    from gemvane.report.folder import simulated

    return simulated(Path(what))


def sentences(found: Explanation) -> list[str]:
    """What binds it, what its time goes to, what binds next, and what would have to change."""
    where = "the prefill" if found.phase == "prefill" else "a decode step"
    every = f"{found.count} x {found.name}" if found.count > 1 else found.name
    out = [f"{every} on {found.unit}: {show(found.seconds, 's')} of {where} that lasts {show(found.step_s, 's')}, bound by {found.bound}."]
    parts = [f"{cause.replace('_', ' ')} {100 * s / found.seconds:.0f} %" for cause, s in list(found.causes_s.items())[:4]
             if s >= 0.005 * found.seconds]
    out.append(f"It goes to {', '.join(parts)}.")
    if found.slowed_s > 0:
        out.append(f"Others that work at once add {show(found.slowed_s, 's')}.")
    least = [] if found.peak_s is None else [f"{show(found.flops, 'OP')} take {show(found.peak_s, 's')} at the peak of {found.unit}"]
    least.append(f"{show(found.dram_bytes, 'B')} through the pins of the memory take {show(found.pins_s, 's')} at its bandwidth")
    out.append(f"Its {'; its '.join(least)}.")
    return [*out, *_next(found)]


def _next(found: Explanation) -> list[str]:
    if not found.better:
        return ["No number of the hardware file, a tenth better, makes it faster."
                + (f" It hangs on the timings of the memory part {found.part}, which are not changed here." if found.part else "")]
    last = found.better[-1]
    reached = f"{last.key} {last.value} it takes {show(last.seconds, 's')}, {found.seconds / last.seconds:.2f} times as fast"
    if last.bound != found.bound:
        return [f"The next bound is {last.bound}: at {reached}, and {last.bound} binds."]
    return [f"No other bound is near: at {reached}, and {last.bound} still binds."]


def _table(found: Explanation) -> list[Any]:
    """The numbers of the hardware that move it most."""
    effects = found.moved.ranked("operator_s", SHOWN)
    if not effects:
        return []
    from gemvane.render import table

    out = table("number", "is", "10 % less", "10 % more", right=("is", "10 % less", "10 % more"))
    for effect in effects:
        changes = ["" if change is None else f"{100 * change['operator_s']:+.1f} %" for change in (effect.less, effect.more)]
        out.add_row(effect.key, effect.said, *changes)
    return ["", out]
