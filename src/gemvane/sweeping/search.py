"""A search: Optuna asks for points of a space, we simulate them, and it asks for better ones.

Points are asked for in batches, with a sampler whose seed follows from the number of the batch, and told in order. So the same file
gives the same points, whoever simulates them. After a kill, Optuna's journal is cut back to the end of the last whole batch; the batch is
asked for again, and what of it was simulated is known from the folder's own journal.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemvane import __version__
from gemvane.sim.formula import amount
from gemvane.sim.hardware import names
from gemvane.sim.space import METRICS, Point, Search, Space
from gemvane.sim.sweep import as_hardware, blank, front, violations

from .folder import Folder, whole
from .sweep import Done, Watch
from .workers import Crew, crew

if TYPE_CHECKING:
    import optuna

LOG, MARK, FRONT = "optuna.log", "optuna.mark", "front"
STUDY = "gemvane"
BATCH_SEED = 1_000_003
"""Seeds of batches lie this far apart, further than trials are many."""


def search(space: Space, out: Path, *, jobs: int = 1, dask: str | None = None, watch: Watch = lambda known, total: None) -> Done:
    """The trials of a search in order, kept in a folder, with `feasible` and `front`; a hardware file for each point of the front.

    ValueError where the space has no section search, or as `sweep` raises it.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError("a search needs optuna. Say `pip install 'gemvane[dse]'`.") from None
    asked = space.search
    if asked is None:
        raise ValueError("the space has no section search. Expected one with objectives, e.g. search: {objectives: [tpot_s, area_mm2]}.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with Folder(out, "search", space) as folder:
        if (table := folder.table()) is not None:
            return Done([folder.rows[number] for number in sorted(folder.rows)], table, 0)
        before = len(folder.rows)
        study = _study(out, asked)
        with crew(space, jobs, dask) as workers:
            while len(study.trials) < asked.trials:
                _batch(space, asked, study, folder, workers, watch)
                whole(out / MARK, str((out / LOG).stat().st_size).encode())
        points = {trial.number: _point(space, trial.number, trial.params) for trial in study.trials}
        rows = _judged(space, asked, points, folder)
        _write_front(space, out, [points[row["point"]] for row in rows if row["front"]])
        return Done(rows, folder.finish(rows), len(folder.rows) - before)


def _study(out: Path, asked: Search) -> optuna.Study:
    """The study in the folder, as it was after its last whole batch."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    log, mark = out / LOG, out / MARK
    for lock in out.glob(f"{LOG}.lock*"):
        lock.unlink()  # of a process that was killed: the folder is ours
    if log.exists():
        os.truncate(log, int(mark.read_text()) if mark.exists() else 0)
    directions = [optuna.study.StudyDirection[METRICS[name].upper()] for name in asked.objectives]
    storage = JournalStorage(JournalFileBackend(str(log)))
    return optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, directions=directions)


def _sampler(asked: Search, batch: int) -> optuna.samplers.BaseSampler:
    import optuna

    seed = (asked.seed * BATCH_SEED + batch) % 2**32
    if asked.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(population_size=asked.population, seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=asked.population)


def _distributions(space: Space) -> dict[str, Any]:
    """The place of a value on each axis: a number where the values ascend, else one of a set."""
    import optuna

    def places(values: tuple[Any, ...]) -> Any:
        numbers = [amount(value) for value in values]
        ascends = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers) and numbers == sorted(numbers)
        whole_range = optuna.distributions.IntDistribution(0, len(values) - 1)
        return whole_range if ascends else optuna.distributions.CategoricalDistribution(range(len(values)))

    return {name: places(values) for name, values in space.axes.items()}


def _point(space: Space, number: int, params: dict[str, Any]) -> Point:
    return Point(number, space.at(tuple(params[name] for name in space.axes)))


def _batch(space: Space, asked: Search, study: optuna.Study, folder: Folder, workers: Crew, watch: Watch) -> None:
    """Ask for a batch, simulate what of it is new, tell Optuna all of it in order."""
    from optuna.trial import TrialState

    known = len(study.trials)
    study.sampler = _sampler(asked, known // asked.together)
    places = _distributions(space)
    trials = [study.ask(places) for _ in range(min(asked.together, asked.trials - known))]
    points = [_point(space, trial.number, trial.params) for trial in trials]
    seen = _by_values(space, folder)
    first = {_key(point.values): point for point in reversed(points)}
    allowed = [point for key, point in first.items() if key not in seen and space.allowed(point.values)]
    count = known
    for some in workers.rows(allowed):
        folder.record({**row, "seed": asked.seed} for row in some)
        count += len(some)
        watch(count, asked.trials)
    seen = _by_values(space, folder)
    for trial, point in zip(trials, points, strict=True):
        row = seen.get(_key(point.values))
        values = None if row is None else [row[name] for name in asked.objectives]
        if row is None or values is None or None in values:
            study.tell(trial, state=TrialState.FAIL)
            continue
        for name, excess in violations(space, point, row).items():
            trial.set_constraint(name, excess)
        study.tell(trial, values)
    watch(known + len(trials), asked.trials)


def _key(values: Any) -> str:
    """Values as a journal keeps them."""
    return json.dumps(values)


def _by_values(space: Space, folder: Folder) -> dict[str, dict[str, Any]]:
    return {_key([row[name] for name in space.axes]): row for row in folder.rows.values()}


def _judged(space: Space, asked: Search, points: dict[int, Point], folder: Folder) -> list[dict[str, Any]]:
    """A row a trial. `feasible`: has every objective and keeps every limit; `front`: feasible, and no other feasible one beats it."""
    seen = _by_values(space, folder)
    missed = {"reason": "a constraint of `where` is not met", "version": __version__}
    rows = [{**seen.get(_key(point.values), blank(space, point) | missed), "point": number, "seed": asked.seed}
            for number, point in points.items()]
    for row in rows:
        whole_row = all(row[name] is not None for name in asked.objectives)
        row["feasible"] = whole_row and all(excess <= 0 for excess in violations(space, points[row["point"]], row).values())
    feasible = [row for row in rows if row["feasible"]]
    best = {feasible[i]["point"] for i in front(feasible, asked.objectives)}
    return [{**row, "front": row["point"] in best} for row in rows]


def _write_front(space: Space, out: Path, points: list[Point]) -> None:
    """A hardware file of each point, which says on top how to run it."""
    folder = out / FRONT
    folder.mkdir(exist_ok=True)
    for point in points:
        design = space.design(point.values)
        name = f"{design.base.name}-{point.number}"
        file = folder / f"{name}.yaml"
        base = design.file if design.file in names() else os.path.relpath(design.file, folder)
        said = [f"--{key.replace('_', '-')}" + ("" if value is True else f" {_option(value)}")
                for key, value in design.scenario.items() if value is not False]
        text = as_hardware(space, point, name, base, f"gemvane search, trial {point.number}")
        whole(file, f"# gemvane run {design.model.name} --hw {file} {' '.join(said)}\n{text}".encode())


def _option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
