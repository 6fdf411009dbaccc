"""How episodes end: the program does, memory runs out, or the time limit cuts them off."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from thp_env.envs.reward import PRICES
from thp_env.machine import Machine, Status
from thp_env.machine.batch import Snapshot
from thp_env.machine.prices import pending_cost
from thp_env.metrics import run_metrics, unfinished_cost

REASONS = {Status.DONE: "done", Status.OOM: "oom"}
"""Why an episode terminated: the program ended, or the machine ran out of memory."""

TIME_LIMIT = "time_limit"
"""The reason of an episode that was truncated."""

ENDED = np.array([status in REASONS for status in Status])
"""Whether an episode is over, by the machine's status."""


class End(NamedTuple):
    """The end of an episode, or its state at the time limit.

    Attributes:
        snapshot: of the machine, one row.
        status: of the machine; one of `REASONS` when the episode terminated.
        pending_ns: `prices.pending_cost`; 0 if the episode was truncated, because it could continue.
        unfinished_ns: `metrics.unfinished_cost` after running out of memory, else 0.
        accesses: how many the whole program stands for.
        info: of the last step.
    """

    snapshot: Snapshot
    status: Status
    pending_ns: float
    unfinished_ns: float
    accesses: float
    info: dict[str, Any]

    @property
    def terms(self) -> dict[str, float]:
        """The terms of the reward for the end alone, in ns per access."""
        terms = {"pending_cost": -self.pending_ns / self.accesses} if self.status in REASONS else {}
        if self.status == Status.OOM:
            terms["oom_cost"] = -self.unfinished_ns / self.accesses
        return terms


def summary(machine: Machine, status: Status, workload: str, accesses: float) -> dict[str, Any]:
    """Return reason, workload and metrics of an episode that ends now."""
    return {"reason": REASONS.get(status, TIME_LIMIT), "workload": workload, "metrics": run_metrics(machine, accesses)}


def end_of(
    machine: Machine, snapshot: Snapshot, status: Status, workload: str, accesses: float, longer: float = 0.0
) -> End:
    """Return the end of an episode.

    Args:
        machine: in its present state.
        snapshot: of the machine, one row.
        status: of the machine.
        workload: its name.
        accesses: how many the whole program stands for.
        longer: how often the second half is repeated until the horizon; what did not run is charged as often.
    """
    pending = pending_cost(machine.counters, machine.config.clock, PRICES) if status in REASONS else 0.0
    unfinished = unfinished_cost(machine, PRICES) * (1 + longer) if status == Status.OOM else 0.0
    return End(snapshot, status, pending, unfinished, accesses, summary(machine, status, workload, accesses))
