"""When each operator runs: operators with durations and predecessors, on units that each run one operator at a time.

The tie rule, which every engine here keeps: at one instant, all completions come first; then units in index order, and
each idle unit takes its lowest-numbered ready operator. An operator of zero duration completes at the instant of its
start: once every unit has had its turn, completions are again processed first, then again units in index order, until
nothing changes. Units of one exclusive group never run at the same time: a unit whose group is busy is not idle.

Operators that run at the same time on units of one device may slow each other (`Interference`): when what runs has changed, after every
unit had its turn, an operator whose speed is now another goes on with what is left of its work at that speed. Work is counted in whole ps
at full speed, done work rounded down, so that no operator is ever early.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .kernels.timeline import FULL, SLOWEST, schedule_kernel

if TYPE_CHECKING:
    import simpy

Int64s = NDArray[np.int64]
_MAX_ROWS = 2**31 - 1
_MAX_PS = 2**62


class Interference(NamedTuple):
    """How fast operators go beside each other."""

    kind: ArrayLike
    """Of each column of durations: 0 for what neither slows nor is slowed."""
    rate: ArrayLike
    """[kind a, kind b] speed of a beside b in parts of kernels.timeline.FULL, from SLOWEST to FULL. Beside several: the product."""
    device_units: int
    """Units of a device, neighbours by number; only they interfere."""


NONE = Interference(np.zeros(0, np.int64), np.full((1, 1), FULL), 1)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each operator ran, and where; row r of step s is at s * rows + r of the flat columns."""

    unit: Int64s
    """Unit of each row of one step."""
    start_ps: Int64s
    end_ps: Int64s
    steps: int

    @property
    def rows(self) -> int:
        """Operators in one step."""
        return self.unit.size

    @property
    def makespan_ps(self) -> int:
        """End of the last operator."""
        return int(self.end_ps.max(initial=0))

    def busy_ps(self, unit_count: int) -> Int64s:
        """Time each of `unit_count` units spends running operators, at whatever speed."""
        busy = np.zeros(unit_count, np.int64)
        np.add.at(busy, self.unit, (self.end_ps - self.start_ps).reshape(self.steps, self.rows).sum(axis=0))
        return busy

    def intervals_ps(self, unit: int) -> tuple[Int64s, Int64s]:
        """Starts and ends of what one unit ran, in time order, without what took no time."""
        on_unit = np.tile(self.unit == unit, self.steps) & (self.end_ps > self.start_ps)
        order = np.argsort(self.start_ps[on_unit], kind="stable")
        return self.start_ps[on_unit][order], self.end_ps[on_unit][order]


@dataclass(frozen=True, slots=True)
class _Problem:
    """Checked arguments of `schedule`: C-contiguous int64 columns, predecessors as given."""

    unit: Int64s
    duration_ps: Int64s
    duration_index: Int64s
    preds_ptr: Int64s
    preds_idx: Int64s
    next_ptr: Int64s
    next_idx: Int64s
    groups: Int64s
    kind: Int64s
    rate: Int64s
    device_units: int


def schedule(
    unit: ArrayLike,
    duration_ps: ArrayLike,
    preds_ptr: ArrayLike,
    preds_idx: ArrayLike,
    *,
    groups: ArrayLike,
    duration_index: ArrayLike | None = None,
    next_preds_ptr: ArrayLike | None = None,
    next_preds_idx: ArrayLike | None = None,
    interference: Interference = NONE,
) -> Timeline:
    """Start and end of every operator, in ps, under the tie rule of this module.

    `unit[r]` runs row r once the rows `preds_idx[preds_ptr[r] : preds_ptr[r + 1]]` have ended. A 1-D `duration_ps` has one
    entry a row. A 2-D one, [steps, durations], repeats the rows for each step: row r of step s lasts
    `duration_ps[s, duration_index[r]]` (column r without an index) and also waits for the rows `next_preds_*` of step s - 1.
    `groups` has one entry a unit: the number of its exclusive group, or -1.
    """
    p = _check(unit, duration_ps, preds_ptr, preds_idx, groups, duration_index, next_preds_ptr, next_preds_idx, interference)
    steps, rows = p.duration_ps.shape[0], p.unit.size
    start_ps = np.full(steps * rows, -1, np.int64)
    end_ps = np.full(steps * rows, -1, np.int64)
    succ_ptr, succ_idx = _successors(p.preds_ptr, p.preds_idx)
    next_ptr, next_idx = _successors(p.next_ptr, p.next_idx)
    indegree, carried = np.diff(p.preds_ptr), np.diff(p.next_ptr)
    scheduled = schedule_kernel(
        p.unit, p.duration_ps, p.duration_index, succ_ptr, succ_idx, next_ptr, next_idx, indegree, carried, p.groups, p.kind, p.rate,
        p.device_units, start_ps, end_ps
    )  # fmt: skip
    if scheduled < steps * rows:
        raise ValueError(f"predecessors form a cycle: {_cycle(p, start_ps[:rows] >= 0)}")
    return Timeline(p.unit, start_ps, end_ps, steps)


def overlap_ps(timeline: Timeline, unit_a: int, unit_b: int) -> int:
    """Time during which both units are running something."""
    start_a, end_a = timeline.intervals_ps(unit_a)
    if start_a.size == 0:
        return 0
    busy_before = np.concatenate(([0], np.cumsum(end_a - start_a)[:-1]))

    def busy_until(t: Int64s) -> Int64s:
        """Time unit a has been busy from 0 to t."""
        last = np.searchsorted(start_a, t, side="right") - 1
        inside = np.minimum(t, end_a[last]) - start_a[last]
        return np.where(last < 0, 0, busy_before[last] + inside)

    start_b, end_b = timeline.intervals_ps(unit_b)
    return int((busy_until(end_b) - busy_until(start_b)).sum())


def schedule_simpy(
    unit: ArrayLike,
    duration_ps: ArrayLike,
    preds_ptr: ArrayLike,
    preds_idx: ArrayLike,
    *,
    groups: ArrayLike,
    duration_index: ArrayLike | None = None,
    next_preds_ptr: ArrayLike | None = None,
    next_preds_idx: ArrayLike | None = None,
    interference: Interference = NONE,
) -> Timeline:
    """What `schedule` returns, from a readable discrete-event model that looks at every operator at every instant: the reference."""
    p = _check(unit, duration_ps, preds_ptr, preds_idx, groups, duration_index, next_preds_ptr, next_preds_idx, interference)
    reference = _Reference(p)
    reference.run()
    if min(reference.start_ps, default=0) < 0:
        raise ValueError("predecessors form a cycle")
    columns = np.array(reference.start_ps, np.int64), np.array(reference.end_ps, np.int64)
    return Timeline(p.unit, *columns, p.duration_ps.shape[0])


class _Reference:
    """The tie rule in SimPy, on the steps written out as one plain graph."""

    def __init__(self, p: _Problem) -> None:
        import simpy  # the engine of the reference only: what simulates should not load it

        steps, rows = p.duration_ps.shape[0], p.unit.size
        self.env = simpy.Environment()
        self.unit = p.unit.tolist() * steps
        self.duration_ps = p.duration_ps[:, p.duration_index].ravel().tolist()
        self.groups = p.groups.tolist()
        self.waits_for: list[set[int]] = []
        for s in range(steps):
            for r in range(rows):
                same = {s * rows + int(i) for i in p.preds_idx[p.preds_ptr[r] : p.preds_ptr[r + 1]]}
                previous = {(s - 1) * rows + int(i) for i in p.next_idx[p.next_ptr[r] : p.next_ptr[r + 1]]}
                self.waits_for.append(same | previous if s else same)
        self.start_ps = [-1] * len(self.unit)
        self.end_ps = [-1] * len(self.unit)
        self.running: dict[int, int] = {}
        self.asked = False
        self.kind = np.resize(p.kind, p.duration_ps.shape[1])[p.duration_index].tolist() * steps
        self.rate, self.device_units = p.rate.tolist(), p.device_units
        self.speed, self.changes = [FULL] * len(self.unit), [0] * len(self.unit)
        self.since_ps, self.left_ps = [0] * len(self.unit), self.duration_ps.copy()

    def run(self) -> None:
        """Simulate until nothing is left to start."""
        self.ask_for_turns()
        self.env.run()

    def ask_for_turns(self) -> None:
        if not self.asked:
            self.asked = True
            self.env.process(self.turns())

    def turns(self) -> Generator[simpy.Event, None, None]:
        """Units in index order, each its lowest-numbered ready operator, after every completion of this instant.

        SimPy orders one instant by the running number of its events. All completions due now were scheduled earlier than
        this timeout, so they come first.
        """
        yield self.env.timeout(0)
        self.asked = False
        for u in range(len(self.groups)):
            ready = [v for v, preds in enumerate(self.waits_for) if self.unit[v] == u and not preds and self.start_ps[v] < 0]
            if ready and not self.blocked(u):
                self.running[u] = ready[0]
                self.start_ps[ready[0]] = self.since_ps[ready[0]] = int(self.env.now)
                self.env.process(self.operator(ready[0], 0, self.duration_ps[ready[0]]))
        self.keep_pace()

    def blocked(self, u: int) -> bool:
        return u in self.running or any(self.groups[u] == self.groups[other] != -1 for other in self.running)

    def keep_pace(self) -> None:
        """Everything that runs goes on at the speed that what runs beside it leaves it."""
        now = int(self.env.now)
        for u, v in self.running.items():
            beside = [w for other, w in self.running.items() if other != u and other // self.device_units == u // self.device_units]
            speed = FULL
            for w in beside:
                speed = speed * self.rate[self.kind[v]][self.kind[w]] // FULL
            speed = max(speed, SLOWEST)
            if speed != self.speed[v]:
                self.left_ps[v] -= (now - self.since_ps[v]) * self.speed[v] // FULL
                self.speed[v], self.since_ps[v] = speed, now
                self.changes[v] += 1
                self.env.process(self.operator(v, self.changes[v], -(-self.left_ps[v] * FULL // speed)))

    def operator(self, v: int, changes: int, rest_ps: int) -> Generator[simpy.Event, None, None]:
        """The end of an operator, unless its speed changes before."""
        yield self.env.timeout(rest_ps)
        if changes != self.changes[v]:
            return
        self.end_ps[v] = int(self.env.now)
        del self.running[self.unit[v]]
        for preds in self.waits_for:
            preds.discard(v)
        self.ask_for_turns()


def _check(
    unit: ArrayLike,
    duration_ps: ArrayLike,
    preds_ptr: ArrayLike,
    preds_idx: ArrayLike,
    groups: ArrayLike,
    duration_index: ArrayLike | None,
    next_preds_ptr: ArrayLike | None,
    next_preds_idx: ArrayLike | None,
    interference: Interference,
) -> _Problem:
    """The arguments as int64 columns that a kernel may index without looking, or a ValueError that names the row."""
    units = _column("unit", unit)
    rows = units.size
    group = _column("groups", groups)
    durations = np.ascontiguousarray(np.atleast_2d(_integers("duration_ps", duration_ps)))
    index = np.arange(rows) if duration_index is None else _column("duration_index", duration_index)
    if durations.ndim != 2:
        raise ValueError(f"duration_ps: want one or two dimensions, got {durations.ndim}")
    if index.size != rows:
        raise ValueError(f"duration_index has {index.size} entries for {rows} rows")
    if duration_index is None and durations.shape[1] != rows:
        raise ValueError(f"duration_ps has {durations.shape[1]} columns for {rows} rows, and there is no duration_index")
    _check_range("unit", units, group.size)
    _check_range("duration_index", index, durations.shape[1])
    _check_groups(group)
    _check_durations(durations, index)
    if (next_preds_ptr is None) != (next_preds_idx is None):
        raise ValueError("next_preds_ptr and next_preds_idx: want both or neither")
    preds = _check_preds("preds", preds_ptr, preds_idx, rows)
    if next_preds_ptr is None or next_preds_idx is None:
        carried = np.zeros(rows + 1, np.int64), np.zeros(0, np.int64)
    else:
        carried = _check_preds("next_preds", next_preds_ptr, next_preds_idx, rows)
    kind, rate = _check_interference(interference, durations, index, group.size)
    return _Problem(units, durations, index, *preds, *carried, group, kind, rate, interference.device_units)


def _integers(name: str, values: ArrayLike) -> Int64s:
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{name}: want integers, got {array.dtype}")
    return array.astype(np.int64, copy=False)


def _column(name: str, values: ArrayLike) -> Int64s:
    array = _integers(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name}: want one dimension, got {array.ndim}")
    return np.ascontiguousarray(array)


def _check_range(name: str, column: Int64s, stop: int) -> None:
    wrong = np.flatnonzero((column < 0) | (column >= stop))
    if wrong.size:
        raise ValueError(f"row {wrong[0]}: {name} = {column[wrong[0]]}, want 0 to {stop - 1}")


def _check_groups(groups: Int64s) -> None:
    wrong = np.flatnonzero((groups < -1) | (groups >= groups.size))
    if wrong.size:
        raise ValueError(f"unit {wrong[0]}: group = {groups[wrong[0]]}, want -1 (none) or 0 to {groups.size - 1}")


def _check_durations(durations: Int64s, index: Int64s) -> None:
    """Not negative, and so few and short that no sum of them leaves int64."""
    steps, rows = durations.shape[0], index.size
    if steps * rows > _MAX_ROWS:
        raise ValueError(f"{steps} steps of {rows} rows: want at most {_MAX_ROWS} operators")
    wrong = np.argwhere(durations < 0)
    if wrong.size:
        step, column = wrong[0]
        row = np.flatnonzero(index == column)[:1]
        where = f"row {row[0]}" if row.size else f"column {column}"
        raise ValueError(f"{where}, step {step}: duration_ps = {durations[step, column]}, want zero or more")
    used = np.bincount(index, minlength=durations.shape[1])
    if float((durations.astype(np.float64) @ used).sum()) > _MAX_PS:
        raise ValueError(f"durations add up to more than {_MAX_PS} ps, the longest time that can be scheduled (53 days)")


def _check_interference(interference: Interference, durations: Int64s, index: Int64s, units: int) -> tuple[Int64s, Int64s]:
    rate = np.ascontiguousarray(_integers("rate", interference.rate))
    if interference is NONE:
        return np.zeros(0, np.int64), rate
    kind = _column("kind", interference.kind)
    if rate.ndim != 2 or rate.shape[0] != rate.shape[1]:
        raise ValueError(f"rate: want as many rows as columns, got {' x '.join(map(str, rate.shape))}")
    if kind.size != durations.shape[1]:
        raise ValueError(f"kind has {kind.size} entries for {durations.shape[1]} columns of durations")
    wrong = np.flatnonzero((kind < 0) | (kind >= rate.shape[0]))
    if wrong.size:
        raise ValueError(f"column {wrong[0]}: kind = {kind[wrong[0]]}, want 0 to {rate.shape[0] - 1}")
    if rate.min() < SLOWEST or rate.max() > FULL or (rate[0] < FULL).any() or (rate[:, 0] < FULL).any():
        raise ValueError(f"rate: want {SLOWEST} to {FULL}, and {FULL} for and beside kind 0")
    if interference.device_units < 1 or units % interference.device_units:
        raise ValueError(f"device_units = {interference.device_units}: want a divisor of {units}, the number of units")
    used = np.bincount(index, minlength=durations.shape[1])
    slowest = max(SLOWEST / FULL, (float(rate.min()) / FULL) ** (interference.device_units - 1))
    if float((durations.astype(np.float64) @ used).sum()) > _MAX_PS * slowest:
        raise ValueError(f"durations add up to more than {_MAX_PS * slowest:.3g} ps, the longest time that can be scheduled where "
                         f"operators may slow each other to {slowest:.2g} of their speed")
    return kind, rate


def _check_preds(name: str, ptr: ArrayLike, idx: ArrayLike, rows: int) -> tuple[Int64s, Int64s]:
    pointers, indices = _column(f"{name}_ptr", ptr), _column(f"{name}_idx", idx)
    if pointers.size != rows + 1:
        raise ValueError(f"{name}_ptr has {pointers.size} entries, want {rows + 1}: one more than rows")
    if pointers[0] != 0 or pointers[-1] != indices.size or (np.diff(pointers) < 0).any():
        raise ValueError(f"{name}_ptr: want it to rise from 0 to {indices.size}, the length of {name}_idx")
    wrong = np.flatnonzero((indices < 0) | (indices >= rows))
    if wrong.size:
        row = np.searchsorted(pointers, wrong[0], side="right") - 1
        raise ValueError(f"row {row}: predecessor {indices[wrong[0]]} in {name}_idx, want 0 to {rows - 1}")
    return pointers, indices


def _successors(ptr: Int64s, idx: Int64s) -> tuple[Int64s, Int64s]:
    """The same edges the other way round: the rows that wait for each row, ascending."""
    rows = ptr.size - 1
    successor = np.repeat(np.arange(rows), np.diff(ptr))[np.argsort(idx, kind="stable")]
    return np.concatenate(([0], np.cumsum(np.bincount(idx, minlength=rows)))), successor


def _cycle(p: _Problem, scheduled: NDArray[np.bool_]) -> str:
    """One cycle among the rows that never became ready, as text: "row 3 waits for 5 waits for 3"."""
    path = [int(np.flatnonzero(~scheduled)[0])]
    while path[-1] not in path[:-1]:
        preds = p.preds_idx[p.preds_ptr[path[-1]] : p.preds_ptr[path[-1] + 1]]
        path.append(int(preds[~scheduled[preds]][0]))
    return "row " + " waits for ".join(str(row) for row in path[path.index(path[-1]) :])
