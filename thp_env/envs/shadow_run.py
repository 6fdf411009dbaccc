"""Shadow runs: the cost of a program with a fixed setting, up to any of its points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thp_env.envs.credit import vma_costs
from thp_env.envs.horizon import Horizon
from thp_env.machine import Machine, Status, layout
from thp_env.machine.batch import Batch, NotedRun
from thp_env.machine.prices import Prices, cost_terms, pending_cost
from thp_env.machine.sizes import orders_of
from thp_env.metrics import unfinished_cost
from thp_env.traces import Program


class VmaCosts(NamedTuple):
    """Costs of VMAs between two points of a run: arrays with one row for each VMA of each piece.

    Attributes:
        piece: number of the piece, which ends at point `piece + 1`.
        mm: of the VMA.
        start, end: its addresses.
        ns: its cost in the piece.
    """

    piece: np.ndarray
    mm: np.ndarray
    start: np.ndarray
    end: np.ndarray
    ns: np.ndarray


class ShadowRun(NamedTuple):
    """The cost of a program with a fixed setting.

    Attributes:
        program: that ran.
        positions: points in the program.
        costs: in ns, up to those points.
        pending: costs that it leaves after its end, in ns.
        vmas: costs of its VMAs, if the machine recorded them (`MachineConfig.time_by_vma`).
    """

    program: Program
    positions: np.ndarray
    costs: np.ndarray
    pending: float
    vmas: VmaCosts | None = None

    @property
    def total(self) -> float:
        """The whole cost in ns."""
        return max(1.0, float(self.costs[-1]) + self.pending)

    @property
    def half_cost(self) -> float:
        """The cost up to half-way, in ns."""
        return float(np.interp(self.program.half_way, self.positions, self.costs))

    def position(self, op: int, step: int) -> float:
        """Return how far a program has come."""
        return float(self.program.starts[op] + step)

    def cost_at(self, op: int, step: int) -> float:
        """Return the cost up to a position, in ns."""
        return float(np.interp(self.position(op, step), self.positions, self.costs))

    def range_cost(self, mm: int, start: int, end: int, since: float, until: float) -> float:
        """Return the cost of the VMAs in an address range between two positions, in ns.

        A VMA, or a piece of the run, that lies partly inside counts in proportion.
        """
        v = self.vmas
        assert v is not None
        first, last = self.positions[:-1], self.positions[1:]
        within = np.clip(np.minimum(last, until) - np.maximum(first, since), 0, None) / np.maximum(last - first, 1e-9)
        inside = np.clip(np.minimum(v.end, end) - np.maximum(v.start, start), 0, None) / (v.end - v.start)
        return float((v.ns * within[v.piece] * inside)[v.mm == mm].sum())


class Curves:
    """Costs of several shadow runs up to the positions of their machines, found all at once.

    Args:
        machines: how many.
        points: that a run has at most.

    Attributes:
        total: the whole cost of each over the horizon, float64.
        half_way: the position at which half of each program is over; with a horizon.
        longer: how often its second half is repeated then; with a horizon.
    """

    def __init__(self, machines: int, points: int) -> None:
        """Make room."""
        self._positions, self._costs = np.full((machines, points), np.inf), np.zeros((machines, points))
        self._starts: list[np.ndarray] = [np.zeros(1)] * machines
        self.half_way, self.longer, self._halves = (np.zeros(machines) for _ in range(3))
        self.total = np.ones(machines)

    def put(self, i: int, run: ShadowRun, horizon: Horizon) -> None:
        """Take a run in a machine's place."""
        n = len(run.positions)
        self._positions[i, :n], self._positions[i, n:] = run.positions, np.inf
        self._costs[i, :n], self._costs[i, n:] = run.costs, run.costs[-1]
        self._starts[i] = run.program.starts
        self.total[i] = run.total
        if horizon.seconds is not None:
            half, longer = run.half_cost, horizon.longer(run.program)
            self.half_way[i], self._halves[i], self.longer[i] = run.program.half_way, half, longer
            self.total[i] = max(1.0, run.total + longer * (float(run.costs[-1]) - half))

    def positions(self, ops: np.ndarray, steps: np.ndarray, which: np.ndarray | slice) -> np.ndarray:
        """Return how far the program of each machine has come."""
        machines = range(len(self._starts))[which] if isinstance(which, slice) else which.tolist()
        firsts = [float(self._starts[i][min(op, len(self._starts[i]) - 1)])
                  for i, op in zip(machines, ops.tolist(), strict=True)]  # fmt: skip
        return np.array(firsts) + steps

    def over_horizon(
        self, costs: np.ndarray, ops: np.ndarray, steps: np.ndarray, which: np.ndarray | slice
    ) -> np.ndarray:  # fmt: skip
        """Return costs of `at` with what came after half-way as often as the second half is repeated."""
        later = np.where(self.positions(ops, steps, which) > self.half_way[which], costs - self._halves[which], 0.0)
        return costs + self.longer[which] * later

    def at(self, ops: np.ndarray, steps: np.ndarray, which: np.ndarray | slice) -> np.ndarray:
        """Return the cost up to a position of each machine, as `ShadowRun.cost_at`; 0 without a run."""
        at, positions, costs = self.positions(ops, steps, which), self._positions[which], self._costs[which]
        rows = np.arange(len(at))
        after = (positions <= at[:, None]).sum(1)
        before, after = np.maximum(after - 1, 0), np.minimum(after, positions.shape[1] - 1)
        x0, x1, y0, y1 = positions[rows, before], positions[rows, after], costs[rows, before], costs[rows, after]
        between = np.isfinite(x1) & (x1 > x0) & (at > x0)
        return np.where(between, y0 + (y1 - y0) * (at - x0) / np.where(between, x1 - x0, 1.0), y0)


def shadow_runs(
    batch: Batch, machines: Sequence[Machine], setting: str, slices: int = 128, prices: Prices | None = None
) -> list[ShadowRun]:
    """Run copies of machines to the end of their programs, with a fixed setting, on the threads of a batch.

    A run that runs out of memory is repeated with 4K. If that does not fit either, the rest of the program is charged
    as for an agent.

    Args:
        batch: with the threads.
        machines: the beginning of the runs; they do not change.
        setting: name of the sizes of all VMAs.
        slices: points at which the cost is recorded, at most.
        prices: what counters cost.
    """
    prices = prices or Prices()
    shadows = [_shadow(machine, setting) for machine in machines]
    recordings = batch.note(shadows, slices, vmas=any(machine.config.time_by_vma for machine in machines))
    full = [i for i, run in enumerate(recordings) if run.status == Status.OOM and orders_of(setting) != 1]
    fallbacks = dict(zip(full, shadow_runs(batch, [machines[i] for i in full], "4K", slices, prices) if full else (),
                         strict=True))  # fmt: skip
    return [fallbacks[i] if i in fallbacks else _run(shadow, run, prices)
            for i, (shadow, run) in enumerate(zip(shadows, recordings, strict=True))]  # fmt: skip


def _shadow(machine: Machine, setting: str) -> Machine:
    shadow = machine.clone()
    shadow.ask_orders("none")  # FaultOrder-v0's machines wait for an order at every fault
    for order in layout.ORDERS:
        shadow.set_thp(order, "always")
    shadow.set_default_orders(orders_of(setting))
    return shadow


def _run(shadow: Machine, recording: NotedRun, prices: Prices) -> ShadowRun:
    starts = shadow.program.starts
    positions = (starts[recording.snapshot["op"]] + recording.snapshot["step"]).astype(float)
    costs = np.sum(list(cost_terms(recording.snapshot.counters, prices).values()), axis=0)
    if recording.status == Status.OOM:
        positions = np.append(positions, float(starts[-1]))
        costs = np.append(costs, costs[-1] + unfinished_cost(shadow, prices))
    pending = pending_cost(shadow.counters, shadow.config.clock, prices)
    vmas = _vma_costs(recording, prices) if len(recording.vmas_at) else None
    return ShadowRun(shadow.program, positions, costs, pending, vmas)


def _vma_costs(recording: NotedRun, prices: Prices) -> VmaCosts:
    """Return what each VMA cost in each piece at whose end it is there; one that is new began with nothing."""
    rows, at = recording.vmas, np.repeat(np.arange(len(recording.vmas_at)), recording.vmas_at)
    before = np.zeros_like(rows)
    last: dict[int, int] = {}
    for i in range(len(rows)):
        if (j := last.get(int(rows["id"][i]), -1)) >= 0 and at[j] == at[i] - 1:
            before[i] = rows[j]
        last[int(rows["id"][i])] = i
    has_time = at > 0
    clock = recording.snapshot["clock"]
    elapsed_us = (clock[at] - clock[np.maximum(at - 1, 0)]) / 1000
    ns = np.sum(list(vma_costs(before, rows, elapsed_us, prices).values()), axis=0)
    start, end = rows["vm_start"].astype(float), rows["vm_end"].astype(float)
    return VmaCosts(at[has_time] - 1, rows["mm"][has_time], start[has_time], end[has_time], ns[has_time])
