"""Result: every figure that is reported, derived from one Run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gemvane.workloads.ops import KINDS, WORK

from . import area, breakdown, energy, interop, perfetto, policies
from .confidence import Confidence, judge
from .costs import BOUNDS, CAUSES, CHOICES, Floats, Int64s
from .mapping import CLASSES, choices, classes
from .overlap import Overlap, overlap, seconds, shares_of_peak
from .pimschema import Pim
from .simulate import Phase, Run
from .units import ps_to_s

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "gemvane.result/1"
PJ = 1e-12


@dataclass(frozen=True, repr=False)
class Result:
    """What a run says. Times in seconds, energy in joules over all devices, definitions as vLLM's.

    TTFT: the prefill, first token included. TPOT: (end to end - TTFT) / (output - 1), where a step may give several tokens. None where
    the phase did not run.
    """

    run: Run

    @property
    def ttft_s(self) -> float | None:
        return None if self.run.prefill is None else ps_to_s(self.run.prefill.latency_ps)

    @property
    def tpot_s(self) -> float | None:
        return None if self.run.decode is None else ps_to_s(self.run.decode.latency_ps) / self.run.decode.tokens

    @property
    def latency_ps(self) -> int:
        return sum(phase.latency_ps for phase in self.run.phases.values())

    @property
    def latency_s(self) -> float:
        return ps_to_s(self.latency_ps)

    @property
    def tokens(self) -> int:
        """Tokens that came out; of an encoder or a prefill alone, tokens that went in."""
        scenario = self.run.scenario
        if self.run.decode is None and self.run.prefill is not None and (self.run.spec.encoder or scenario.phase == "prefill"):
            return int(self.run.prefill.trace.requests.prompt.sum())
        first = scenario.output - scenario.decode_steps if scenario.phase == "both" else 0
        return round(scenario.batch * (first + (0 if self.run.decode is None else self.run.decode.tokens)))

    @property
    def throughput_tok_s(self) -> float:
        return self.tokens / self.latency_s

    @property
    def placement(self) -> dict[str, dict[str, str]]:
        """Phase -> class of work or of operators -> unit, where the hardware leaves a choice of units."""
        open_to = [work for work, units in choices(self.run.hardware).items() if len(units) > 1]
        met = {name: set(classes(phase.trace, self.run.hardware).tolist()) for name, phase in self.run.phases.items()}
        picked = {name: {work: phase.placement[work] for work in open_to if CLASSES.index(work) in met[name]}
                  for name, phase in self.run.phases.items()}
        return {name: units for name, units in picked.items() if units}

    @property
    def why(self) -> dict[str, dict[str, dict[str, float]]]:
        """Phase -> class that had a choice -> unit -> seconds of a step that its operators take there at full speed, one after another:
        the least that any schedule tried on that unit asks for."""
        out: dict[str, dict[str, dict[str, float]]] = {}
        for name, picked in self.placement.items():
            for work in picked:
                times: dict[str, list[int]] = {}
                for tried in self.run.tried[name]:
                    if work in tried.alone_ps:
                        times.setdefault(tried.placement[work], []).append(tried.alone_ps[work])
                out.setdefault(name, {})[work] = {unit: ps_to_s(min(found)) for unit, found in times.items()}
        return out

    @property
    def devices(self) -> int:
        return self.run.scenario.devices

    @cached_property
    def energy_by_component_j(self) -> dict[str, float]:
        """Dynamic energy by part of the machine, and static."""
        counts = sum(_actions(phase) for phase in self.run.phases.values())
        assert isinstance(counts, np.ndarray)
        parts = energy.by_component_pj(counts * self.run.scenario.alike, self.run.hardware)
        static = energy.static_pj(self.run.hardware, self.latency_ps, self.devices)
        return {name: pj * PJ for name, pj in parts.items()} | {"static": static * PJ}

    @property
    def energy_j(self) -> float:
        return sum(self.energy_by_component_j.values())

    @property
    def energy_per_token_j(self) -> float:
        return self.energy_j / self.tokens

    @property
    def average_power_w(self) -> float:
        return self.energy_j / self.latency_s

    @cached_property
    def utilisation(self) -> dict[str, float]:
        """Share of the whole time in which each unit works (the mean over pipeline stages)."""
        busy = sum(_busy_ps(phase, len(self.run.hardware.spec.units)) for phase in self.run.phases.values())
        shares = np.asarray(busy) / max(1, self.latency_ps)
        return dict(zip(self.run.hardware.spec.units, shares.tolist(), strict=True))

    @cached_property
    def overlap(self) -> dict[str, Overlap]:
        """Phase -> how its units shared the time."""
        return {name: overlap(phase, self.run.hardware) for name, phase in self.run.phases.items()}

    @cached_property
    def shares_of_peak(self) -> dict[str, dict[str, float]]:
        """Phase -> unit (and "memory") -> its useful work over what it could do in the time."""
        return {name: shares_of_peak(phase, self.run.hardware) for name, phase in self.run.phases.items()}

    @cached_property
    def time_by_cause_s(self) -> dict[str, dict[str, dict[str, float]]]:
        """Phase -> unit -> cause -> seconds, the waits included: together the length of the phase."""
        return {name: breakdown.time_s(phase, self.run.hardware) for name, phase in self.run.phases.items()}

    @cached_property
    def energy_by_cause_j(self) -> dict[str, dict[str, dict[str, float]]]:
        """Phase -> unit -> cause -> joules of dynamic energy over all devices; with the static energy, all there is."""
        alike = self.run.scenario.alike
        each = {name: breakdown.energy_j(phase, self.run.hardware) for name, phase in self.run.phases.items()}
        return {name: {unit: {cause: joules * alike for cause, joules in causes.items()} for unit, causes in units.items()}
                for name, units in each.items()}

    @cached_property
    def channels(self) -> dict[str, dict[str, breakdown.Balance]]:
        """Phase -> PIM unit -> how evenly its channels work."""
        found = {name: breakdown.balance(phase, self.run.hardware) for name, phase in self.run.phases.items()}
        return {name: units for name, units in found.items() if units}

    @property
    def area(self) -> dict[str, Any]:
        """Square millimetres of a chip with arrays (`chip_mm2` with its range), and what second row buffers add to the DRAM dies."""
        whole = area.total(self.run.hardware)
        chip = {} if whole is None else {"chip_mm2": whole.mm2, "chip_low_mm2": whole.low, "chip_high_mm2": whole.high}
        return chip | {"dram_share": area.dram_share(self.run.hardware)}

    @property
    def tried(self) -> list[dict[str, Any]]:
        """The schedules of the decode steps among which `auto` or a list of units chose the fastest; empty without a choice."""
        tokens = self.run.decode.tokens if self.run.decode is not None else 1
        open_to = [work for work, units in choices(self.run.hardware).items() if len(units) > 1]
        out = [{"sub_batches": t.sub_batches, "placement": {work: t.placement[work] for work in open_to if work in t.alone_ps},
                "tpot_s": ps_to_s(t.latency_ps) / tokens} for t in self.run.tried.get("decode", ())]
        return out if len(out) > 1 else []

    def bounds(self, phase: str) -> dict[str, float]:
        """Share of a phase's working time by what binds it, largest first."""
        run = self.run.phases[phase]
        time = np.zeros(len(BOUNDS))
        times = np.bincount(run.alike, minlength=run.duration_ps.shape[1])
        np.add.at(time, run.bound, run.duration_ps * times)
        shares = {name: float(t / time.sum()) for name, t in zip(BOUNDS, time, strict=True) if t}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))

    def energy_of(self, phase: str) -> float:
        """Joules of one phase, static included."""
        run = self.run.phases[phase]
        dynamic = sum(energy.by_component_pj(_actions(run) * self.run.scenario.alike, self.run.hardware).values())
        return (dynamic + energy.static_pj(self.run.hardware, run.latency_ps, self.devices)) * PJ

    @cached_property
    def confidence(self) -> Confidence:
        """How sure: a label, and the band in which the real time is expected."""
        busy: dict[Any, float] = {}
        kinds = [unit.kind for unit in self.run.hardware.spec.units.values()]
        for phase in self.run.phases.values():
            time = phase.duration_ps.sum(axis=0)[phase.alike]
            for unit, work, ps in zip(phase.unit.tolist(), phase.trace.rows.work.tolist(), time.tolist(), strict=True):
                key = (kinds[unit], WORK[work])
                busy[key] = busy.get(key, 0.0) + ps
        return judge(busy, self.run.hardware)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        tdp = self.run.hardware.spec.power.tdp
        hot: tuple[str, ...] = ()
        if tdp is not None and self.average_power_w > tdp * self.devices:
            hot = (f"average power {self.average_power_w:.0f} W is over the {tdp * self.devices:.0f} W that the hardware may draw: "
                   "a real device would slow down.",)
        return self.run.warnings + hot

    def ops_table(self) -> list[dict[str, Any]]:
        """One row for each operator name of a phase: count, busy time, dynamic energy, what binds most of its time, time by cause."""
        return [row for name, phase in self.run.phases.items() for row in _ops(name, phase, self.run)]

    @property
    def ops(self) -> pd.DataFrame:
        """`ops_table` as a frame."""
        import pandas as pd

        return pd.DataFrame(self.ops_table())

    @property
    def timeline(self) -> pd.DataFrame:
        """Every operator with its unit, start and end in ps; decode starts where the prefill ends."""
        import pandas as pd

        return pd.concat([pd.DataFrame(_intervals(name, phase, self.run, start)) for name, phase, start in self._starts()],
                         ignore_index=True)

    def _starts(self) -> list[tuple[str, Phase, int]]:
        out, start = [], 0
        for name, phase in self.run.phases.items():
            out.append((name, phase, start))
            start += phase.latency_ps
        return out

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `gemvane run --json`; floats in SI units."""
        run, memory = self.run, self.run.memory
        scenario = {k: (list(v) if isinstance(v, tuple) else v) for k, v in asdict(run.scenario).items()}
        if run.decode is not None:
            scenario["sub_batches"] = run.decode.sub_batches
        scenario["transforms"] = [str(transform) for transform in run.transforms]
        return {
            "schema": SCHEMA,
            "model": run.spec.name,
            "hardware": run.hardware.name,
            "scenario": scenario,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "latency_s": self.latency_s,
            "throughput_tok_s": self.throughput_tok_s,
            "energy_j": self.energy_j,
            "energy_per_token_j": self.energy_per_token_j,
            "energy_by_component_j": self.energy_by_component_j,
            "average_power_w": self.average_power_w,
            "devices": self.devices,
            "memory": {"weights_bytes": memory.weights_bytes, "kv_cache_bytes": memory.kv_cache_bytes,
                       "capacity_bytes": memory.capacity_bytes},
            "utilisation": self.utilisation,
            "bounds": {phase: self.bounds(phase) for phase in run.phases},
            "shares_of_peak": self.shares_of_peak,
            "overlap": {phase: shared.to_dict(list(run.hardware.spec.units)) for phase, shared in self.overlap.items()},
            "time_by_cause_s": self.time_by_cause_s,
            "energy_by_cause_j": self.energy_by_cause_j,
            "channels": {phase: {unit: one._asdict() for unit, one in units.items()} for phase, units in self.channels.items()},
            "area": self.area,
            "policies": policies.named(run.hardware),
            "placement": self.placement,
            "why": self.why,
            "tried": self.tried,
            "ops": self.ops_table(),
            "confidence": {"label": self.confidence.label, "band": list(self.confidence.band),
                           "energy_band": list(self.confidence.energy_band), "source": self.confidence.source},
            "assumptions": [f"{one.NAME}: {one.assumes}" for one in run.transforms if one.assumes],
            "warnings": list(self.warnings),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def metrics(self) -> dict[str, float]:
        """The figures by vLLM's names, in seconds and tokens: {"vllm:time_to_first_token_seconds": ...}; see `interop.vllm`."""
        asked, prefill = self.run.scenario, self.run.prefill
        out = 0 if self.run.spec.encoder or asked.phase == "prefill" else asked.output
        return interop.vllm(requests=asked.batch, prompt_tokens=int(prefill.trace.requests.prompt.sum()) if prefill else 0,
                            generation_tokens=asked.batch * out, ttft_s=self.ttft_s, tpot_s=self.tpot_s, latency_s=self.latency_s)

    def __repr__(self) -> str:
        return f"<Result: {', '.join(f'{name} {text}' for name, text in interop.told(self).items())}>"

    def to_perfetto(self, path: str | Path, steps: int = 2) -> None:
        """Write a Chrome trace (Perfetto opens it; .gz compresses): the prefill and the first `steps` decode steps."""
        perfetto.write(path, [(name, columns) for name, phase, start in self._starts()
                              for columns in _lanes(name, phase, self.run, start, min(steps, phase.steps))])

    def save(self, folder: str | Path) -> list[Path]:
        """Write result.json, ops.csv and trace.json.gz into `folder`, each whole or not at all."""
        import csv
        import io

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.ops_table()
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        paths = [folder / "result.json", folder / "ops.csv", folder / "trace.json.gz"]
        for path, content in ((paths[0], self.to_json() + "\n"), (paths[1], text.getvalue())):
            temporary = path.with_name(path.name + ".partial")
            temporary.write_text(content, encoding="utf-8")
            temporary.replace(path)
        self.to_perfetto(paths[2])
        return paths


def _repeats(phase: Phase) -> Int64s:
    return np.bincount(phase.alike, minlength=phase.duration_ps.shape[1])


def _actions(phase: Phase) -> Int64s:
    """Action counts of a phase: [action]."""
    counts: Int64s = _repeats(phase) @ phase.actions
    return counts


def _busy_ps(phase: Phase, units: int) -> Floats:
    """Working time of each unit, the mean over pipeline stages."""
    stages = int(phase.trace.rows.stage.max()) + 1
    mean: Floats = phase.timeline.busy_ps(units * stages).reshape(stages, units).mean(axis=0)
    return mean


def _ops(name: str, phase: Phase, run: Run) -> list[dict[str, Any]]:
    units = list(run.hardware.spec.units)
    rows = phase.trace.rows
    dynamic = energy.energy_pj(phase.actions, run.hardware) * PJ * run.scenario.alike
    by_cause = seconds(phase, run.hardware)
    out = []
    for code in dict.fromkeys(rows.name.tolist()):
        index = np.flatnonzero(rows.name == code)
        entries = phase.alike[index]
        times = phase.duration_ps[:, entries]
        by_bound = np.bincount(phase.bound[:, entries].ravel(), weights=times.ravel(), minlength=len(BOUNDS))
        out.append({
            "name": phase.trace.names[code], "kind": KINDS[rows.kind[index[0]]].name, "phase": name, "unit": units[phase.unit[index[0]]],
            "count": int(index.size * phase.steps), "time_s": ps_to_s(int(times.sum())), "energy_j": float(dynamic[entries].sum()),
            "bound": BOUNDS[int(np.argmax(by_bound))], "choice": CHOICES[phase.choice[entries[0]]],
            **{f"{cause}_s": float(s) for cause, s in zip(CAUSES, by_cause[entries].sum(axis=0), strict=True)},
        })
    return out


def _intervals(name: str, phase: Phase, run: Run, start_ps: int, steps: int | None = None) -> dict[str, Any]:
    """Columns of the timeline of a phase's first `steps` steps (all where None)."""
    units, rows = list(run.hardware.spec.units), phase.trace.rows
    steps = phase.steps if steps is None else min(steps, phase.steps)
    count = rows.size * steps
    labels = np.array([f"{unit}" if int(rows.stage.max()) == 0 else f"{unit}.{stage}"
                       for stage in range(int(rows.stage.max()) + 1) for unit in units], object)
    return {
        "phase": name,
        "step": np.repeat(np.arange(steps), rows.size),
        "op": np.tile(np.array(phase.trace.names, object)[rows.name], steps),
        "layer": np.tile(rows.layer, steps),
        "sub_batch": np.tile(rows.sub_batch, steps),
        "unit": np.tile(labels[rows.stage * len(units) + phase.unit], steps),
        "alone_ps": phase.alone_ps[:count],
        "start_ps": phase.timeline.start_ps[:count] + start_ps,
        "end_ps": phase.timeline.end_ps[:count] + start_ps,
    }


def _lanes(name: str, phase: Phase, run: Run, start_ps: int, steps: int) -> Iterator[dict[str, Any]]:
    """Timelines of the units, then of each channel of a PIM unit: how long it works for an operator that lasts as long as on the fullest.

    Where others slow the operator, its channels are taken to be slowed alike.
    """
    units = _intervals(name, phase, run, start_ps, steps)
    yield units
    for u, unit in enumerate(run.hardware.spec.units.values()):
        if not isinstance(unit, Pim) or not (phase.unit == u).any():
            continue
        rows, shares = breakdown.channel_shares(phase, run.hardware, u, steps)
        at = (np.arange(steps)[:, None] * phase.trace.size + rows).ravel()
        mine: dict[str, Any] = {column: values if isinstance(values, str) else values[at] for column, values in units.items()}
        for c in range(unit.channels):
            share = shares[:, :, c].ravel()
            lasted = np.round((mine["end_ps"] - mine["start_ps"]) * share).astype(np.int64)
            labels = np.array([f"{label} channel {c}" for label in mine["unit"]], object)
            yield {**mine, "unit": labels, "end_ps": mine["start_ps"] + lasted, "alone_ps": np.round(mine["alone_ps"] * share)}


def causes_s(result: Result, phase: str) -> dict[str, float]:
    """Seconds of work of a phase by cause (see costs.CAUSES), summed over operators and units."""
    run = result.run.phases[phase]
    return dict(zip(CAUSES, (_repeats(run) @ seconds(run, result.run.hardware)).tolist(), strict=True))
