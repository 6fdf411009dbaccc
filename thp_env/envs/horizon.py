"""How long a program is meant to run: its second half counts as often as it takes to get there.

A recording of seconds says little about memory that a server holds for a week. With a horizon, what a window costs
counts once before half of the program's own time is over, and from then on once more for each time that the second
half would be repeated. So page walks and memory of the program's later state weigh more than how it began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from thp_env.machine.batch import Batch, Snapshot
from thp_env.machine.program import Program

LONGEST = 10 * 365 * 86400.0
"""Seconds."""


def positions(programs: Iterable[Program], snapshot: Snapshot) -> np.ndarray:
    """Return how many steps of their programs the machines of a snapshot have done, float64."""
    at = zip(programs, snapshot["op"].tolist(), snapshot["step"].tolist(), strict=True)
    return np.array([float(p.starts[min(op, len(p))] + step) for p, op, step in at])


class Horizon:
    """How long programs are meant to run.

    Args:
        seconds: None: as long as they do.

    Raises:
        ValueError: when that is no time, or longer than ten years.
    """

    def __init__(self, seconds: float | None = None) -> None:
        """Check it."""
        number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if seconds is not None and not (number and 0 < seconds <= LONGEST):
            raise ValueError(f"horizon must be seconds above 0, at most ten years, not {seconds!r}")
        self.seconds = seconds

    def longer(self, program: Program) -> float:
        """Return how often the second half of a program is repeated; 0 where it does not end before the horizon."""
        if self.seconds is None:
            return 0.0
        own = float(program.own_ns.sum()) / 1e9
        return max(0.0, (self.seconds - own) / (own / 2)) if own > 0 else 0.0

    def factors(self, programs: Iterable[Program], since: np.ndarray, until: np.ndarray) -> np.ndarray:
        """Return what the costs of windows are multiplied by; where one contains half-way, in proportion to its steps.

        Args:
            programs: of the machines.
            since, until: positions of the windows' ends.
        """
        if self.seconds is None:
            return np.ones(len(since))
        half, longer = np.array([(p.half_way, self.longer(p)) for p in programs]).reshape(-1, 2).T
        steps = until - since
        later = np.where(steps > 0, (until - np.maximum(since, half)) / np.maximum(steps, 1), until > half)
        return 1 + longer * np.clip(later, 0, 1)

    def weigh(
        self, terms: Mapping[str, np.ndarray], batch: Batch, which: np.ndarray, since: Snapshot, until: Snapshot
    ) -> None:  # fmt: skip
        """Multiply the terms of some machines' windows by their factors, in place."""
        if self.seconds is None:
            return
        programs = [batch[int(i)].program for i in which]
        ends = (positions(programs, Snapshot(s.raw[which])) for s in (since, until))
        factors = self.factors(programs, *ends)
        for column in terms.values():
            column[which] *= factors
