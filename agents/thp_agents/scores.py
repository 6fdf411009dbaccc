"""What runs say together: normalised scores, interquartile means with intervals, and who beats whom.

A family's score is the sum of log(cost of never / cost) over that of log(cost of never / cost of the static oracle),
over its workloads and seeds: 0 is 4K everywhere, 1 the oracle; more than 1 is possible, since a policy may change its
mind. Workloads whose two ends differ by less than `APART` tell policies apart by noise, and are left out of it.
Aggregates follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

NOTHING = 1e-12
"""ns per access that a run without any cost counts as."""
APART = 0.02
"""Share by which 4K everywhere and the oracle differ at least on a workload that counts."""

NEVER, ORACLE = "never", "static_oracle"
"""The policies at 0 and 1."""


class Cost(NamedTuple):
    """What one run cost.

    Attributes:
        policy: its name.
        training: seed of its training; 0 for heuristics.
        family, workload, seed: what ran.
        cost: anything positive, the same unit for all.
    """

    policy: str
    training: int
    family: str
    workload: str
    seed: int
    cost: float


class Interval(NamedTuple):
    """A figure with the interval in which 95 % of its bootstrap resamples lie; NaN where there is one run only."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The figure and its interval, two digits."""
        if np.isnan(self.low):
            return f"{self.value:.2f} (one run, no interval)"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def iqm(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis; values at its borders count in part."""
    ordered = np.sort(values, -1)
    n = ordered.shape[-1]
    edges = np.arange(n + 1) / n
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return ordered @ (weight / weight.sum())


@dataclass(frozen=True)
class Scores:
    """Scores of policies over families.

    Args:
        costs: one a run; every policy, with every training seed it has, must have run the same workloads and seeds as
            `NEVER` and `ORACLE`.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: naming a run that is missing or stands twice.
    """

    costs: Sequence[Cost]
    resamples: int = 2000
    seed: int = 0

    @cached_property
    def rows(self) -> list[tuple[str, int]]:
        """(policy, training seed) of each row of the tables below."""
        return sorted({(c.policy, c.training) for c in self.costs})

    @cached_property
    def policies(self) -> list[str]:
        """Names of the policies."""
        return sorted({c.policy for c in self.costs})

    @cached_property
    def instances(self) -> list[tuple[str, str, int]]:
        """(family, workload, seed) of each column, sorted."""
        return sorted({(c.family, c.workload, c.seed) for c in self.costs})

    @cached_property
    def saved(self) -> np.ndarray:
        """log(cost of never / cost), shape (rows, instances)."""
        row = {key: i for i, key in enumerate(self.rows)}
        column = {key: i for i, key in enumerate(self.instances)}
        table = np.full((len(row), len(column)), np.nan)
        for c in self.costs:
            at = row[c.policy, c.training], column[c.family, c.workload, c.seed]
            if not np.isnan(table[at]):
                raise ValueError(f"two runs of {c.policy} on {c.workload} with seed {c.seed}")
            table[at] = np.log(max(c.cost, NOTHING))
        if np.isnan(table).any():
            i, j = np.argwhere(np.isnan(table))[0]
            raise ValueError(f"no run of {self.rows[i][0]} on {self.instances[j][1]} with seed {self.instances[j][2]}")
        return table[row[NEVER, 0]] - table

    @cached_property
    def _oracle(self) -> np.ndarray:
        return self.saved[self.rows.index((ORACLE, 0))]

    @cached_property
    def apart(self) -> list[str]:
        """Workloads whose two ends differ too little."""
        names = sorted({w for _, w, _ in self.instances})
        means = {name: self._oracle[[i[1] == name for i in self.instances]].mean() for name in names}
        return [name for name, mean in means.items() if mean < np.log1p(APART)]

    @cached_property
    def _columns(self) -> dict[str, list[np.ndarray]]:
        """Columns of each family that counts, one array a workload."""
        found: dict[str, dict[str, list[int]]] = {}
        for i, (family, workload, _) in enumerate(self.instances):
            if workload not in self.apart:
                found.setdefault(family, {}).setdefault(workload, []).append(i)
        return {family: [np.array(c) for c in parts.values()] for family, parts in found.items()}

    @property
    def families(self) -> list[str]:
        """Families that count."""
        return list(self._columns)

    @cached_property
    def by_family(self) -> np.ndarray:
        """Scores, shape (rows, families)."""
        parts = [np.concatenate(columns) for columns in self._columns.values()]
        if not parts:
            return np.zeros((len(self.rows), 0))
        return np.stack([self.saved[:, c].sum(1) / self._oracle[c].sum() for c in parts], 1)

    def score(self, policy: str) -> np.ndarray:
        """Return a policy's score in each family, the mean over its training seeds."""
        return self.by_family[self.rows_of(policy)].mean(0)

    def rows_of(self, policy: str) -> list[int]:
        """Return the rows of a policy, one for each training seed."""
        return [i for i, (name, _) in enumerate(self.rows) if name == policy]

    @cached_property
    def _resampled(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores of all rows in families drawn again, shape (resamples, rows, families), and training seeds drawn."""
        rng = np.random.default_rng(self.seed)
        groups = list(self._columns.values())
        drawn = np.empty((self.resamples, len(self.rows), len(groups)))
        for r in range(self.resamples):
            for f, g in enumerate(rng.integers(len(groups), size=len(groups))):
                c = np.concatenate([columns[rng.integers(len(columns), size=len(columns))] for columns in groups[g]])
                drawn[r, :, f] = self.saved[:, c].sum(1) / self._oracle[c].sum()
        seeds = {}
        for policy in self.policies:
            rows = np.array(self.rows_of(policy))
            seeds[policy] = rows[rng.integers(len(rows), size=(self.resamples, len(rows)))]
        return drawn, seeds

    def _iqms(self, policy: str) -> np.ndarray:
        drawn, seeds = self._resampled
        chosen = drawn[np.arange(self.resamples)[:, None], seeds[policy]]
        return iqm(chosen.reshape(self.resamples, -1))

    def iqm(self, policy: str) -> Interval:
        """Return the interquartile mean of a policy's scores over families and training seeds; NaN without a family.

        The interval resamples families, then training seeds, then workload seeds.
        """
        if not self.families:
            return Interval(*[float("nan")] * 3)
        return self._interval(self._value(policy), self._iqms(policy), policy)

    def _interval(self, value: float, resampled: np.ndarray, *policies: str) -> Interval:
        if len(self.instances) == 1 and all(len(self.rows_of(policy)) == 1 for policy in policies):
            return Interval(value, np.nan, np.nan)
        return Interval(value, *np.percentile(resampled, (2.5, 97.5)).tolist())

    def _value(self, policy: str) -> float:
        if not self.families:
            return float("nan")
        return float(iqm(self.by_family[self.rows_of(policy)].reshape(-1)))

    def difference(self, policy: str, other: str) -> Interval:
        """Return by how much one interquartile mean is above another's, on the same resamples."""
        value = self._value(policy) - self._value(other)
        return self._interval(value, self._iqms(policy) - self._iqms(other), policy, other)

    def improvement(self, policy: str, other: str) -> float:
        """Return the probability that a run of one policy is cheaper than the other's, the mean over families."""
        mine, theirs = np.array(self.rows_of(policy)), np.array(self.rows_of(other))
        shares = []
        for columns in self._columns.values():
            c = np.concatenate(columns)
            gap = self.saved[np.ix_(mine, c)][:, None] - self.saved[np.ix_(theirs, c)][None]
            shares.append(np.mean((gap > 1e-12) + 0.5 * (np.abs(gap) <= 1e-12)))
        return float(np.mean(shares))

    def profile(self, policy: str, thresholds: np.ndarray) -> np.ndarray:
        """Return the share of (family, training seed) whose score is above each threshold."""
        scores = self.by_family[self.rows_of(policy)].reshape(-1)
        return (scores[:, None] > thresholds).mean(0)

    def ranking(self) -> list[str]:
        """Return the policies, highest interquartile mean first, equal ones by name, as all are without a family."""
        if not self.families:
            return self.policies
        return sorted(self.policies, key=lambda policy: (-self._value(policy), policy))
