"""The score of version 0.1, an appendix of reports: 0 is 4K everywhere, 1 the static oracle.

A family's score is the sum of log(cost of never / cost) over that of log(cost of never / cost of the static oracle),
over its workloads and seeds; more than 1 is possible, because a policy may change sizes during a run. Workloads on
which the two differ by less than `APART` distinguish policies only by noise, and are left out. The interquartile mean
over families and trainings (Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
2021) trims the families with the largest gains; therefore savings (`comparison`) have replaced it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from thp_agents.evaluation.comparison import Comparison

APART = 0.02
"""Share by which 4K everywhere and the oracle differ at least on a workload that counts."""

NEVER, ORACLE = "never", "static_oracle"
"""The policies at 0 and 1."""


def iqm(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis; values at its borders count in part."""
    ascending = np.sort(values, -1)
    n = ascending.shape[-1]
    edges = np.arange(n + 1) / n
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return ascending @ (weight / weight.sum())


@dataclass(frozen=True)
class Scores:
    """Scores of policies over families.

    Args:
        comparison: in which `NEVER` and `ORACLE` took part.
    """

    comparison: Comparison

    @cached_property
    def saved(self) -> np.ndarray:
        """log(cost of never / cost), shape (rows, instances)."""
        logs = np.log(self.comparison.costs)
        return logs[self.comparison.rows_of(NEVER)].mean(0) - logs

    @cached_property
    def _oracle(self) -> np.ndarray:
        return self.saved[self.comparison.rows_of(ORACLE)[0]]

    @cached_property
    def apart(self) -> list[str]:
        """Workloads on which never and the static oracle differ too little."""
        instances = self.comparison.instances
        names = sorted({w for _, w, _ in instances})
        means = {name: self._oracle[[i[1] == name for i in instances]].mean() for name in names}
        return [name for name, mean in means.items() if mean < np.log1p(APART)]

    @cached_property
    def by_family(self) -> dict[str, np.ndarray]:
        """Score of each row, shape (rows,), by family that counts."""
        columns: dict[str, list[int]] = {}
        for i, (family, workload, _) in enumerate(self.comparison.instances):
            if workload not in self.apart:
                columns.setdefault(family, []).append(i)
        return {family: self.saved[:, c].sum(1) / self._oracle[c].sum() for family, c in columns.items()}

    def score(self, policy: str) -> dict[str, float]:
        """Return a policy's score in each family, the mean over its training seeds."""
        rows = self.comparison.rows_of(policy)
        return {family: float(scores[rows].mean()) for family, scores in self.by_family.items()}

    def iqm(self, policy: str) -> float:
        """Return the interquartile mean of a policy's scores over families and trainings; NaN without a family."""
        rows = self.comparison.rows_of(policy)
        values = [scores[rows] for scores in self.by_family.values()]
        return float(iqm(np.concatenate(values))) if values else float("nan")

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows: one policy each, the highest interquartile mean first."""
        names = self.comparison.policies
        if self.by_family:
            names = sorted(names, key=lambda name: (-self.iqm(name), name))
        rows = [[n, f"{self.iqm(n):.2f}", *(f"{v:.2f}" for v in self.score(n).values())] for n in names]
        return ["policy", "score (IQM)", *self.by_family], rows
