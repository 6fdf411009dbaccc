"""Comparison of policies: the savings of one against another, paired by instance, with intervals.

A saving is 100 log(cost of the reference / cost) on one instance: about percent, and the same in both directions. The
mean runs over instances, then workloads, then families, so that each family has the same weight. In the capped
mean, no instance counts more than `CAP`, so a few programs on which a policy is many times cheaper or dearer do not
decide alone. Intervals come from a hierarchical bootstrap: trainings, families, workloads and instances are drawn
again with replacement, the same for all policies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from thp_agents.evaluation.episode import Run

CAP = 100 * float(np.log(1.5))
"""What a saving counts at most, either way: half as dear again, or two thirds."""

NOTHING = 1e-12
"""ns per access that a run without any cost counts as."""

FACTORS = (0.5, 1.0, 2.0)
"""On the price of page walks, and on that of memory."""


class Interval(NamedTuple):
    """A figure with the interval in which 95 % of its bootstrap resamples lie; NaN where there is one run only."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """The figure and its interval, one digit."""
        if np.isnan(self.low):
            return f"{self.value:+.1f} (one run, no interval)"
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


class Place(NamedTuple):
    """A family or a workload, and the mean saving there."""

    name: str
    saving: float


def cost(run: Run, walk: float = 1.0, memory: float = 1.0) -> float:
    """Return the cost of a run in ns per access, with other prices of page walks and memory.

    The charge for running out of memory keeps the usual prices.
    """
    m = run.metrics
    if walk == memory == 1:
        return -m["reward"]
    dearer = (walk - 1) * m["walk_cost"] + (memory - 1) * (m["memory_cost"] + m["pending_memory_cost"])
    return -m["reward"] + dearer


@dataclass(frozen=True)
class Comparison:
    """Policies held against one of them.

    Args:
        runs: of every policy, with each of its trainings, on the same cases.
        reference: name of the policy that savings count from.
        kinds: "heuristic", "learned" or "reference", by name.
        walk, memory: factors on the prices at which the runs are charged.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: naming a run that is missing or stands twice, or a reference that did not run.
    """

    runs: Sequence[Run]
    reference: str
    kinds: Mapping[str, str] = field(default_factory=dict)
    walk: float = 1.0
    memory: float = 1.0
    resamples: int = 2000
    seed: int = 0

    # -- costs -------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> list[tuple[str, int]]:
        """(policy, training seed) of each row of `costs`."""
        return sorted({(r.policy, r.training) for r in self.runs})

    @cached_property
    def policies(self) -> list[str]:
        """Names of the policies."""
        return sorted({r.policy for r in self.runs})

    @cached_property
    def instances(self) -> list[tuple[str, str, int]]:
        """(family, workload, seed) of each column of `costs`, sorted."""
        return sorted({(r.family, r.workload, r.seed) for r in self.runs})

    @cached_property
    def costs(self) -> np.ndarray:
        """Cost in ns per access, shape (rows, instances)."""
        return self._figures(lambda run: max(cost(run, self.walk, self.memory), NOTHING))

    def _figures(self, figure: Callable[[Run], float]) -> np.ndarray:
        row = {key: i for i, key in enumerate(self.rows)}
        column = {key: i for i, key in enumerate(self.instances)}
        table = np.full((len(row), len(column)), np.nan)
        for r in self.runs:
            at = row[r.policy, r.training], column[r.family, r.workload, r.seed]
            if not np.isnan(table[at]):
                raise ValueError(f"two runs of {r.policy} on {r.workload} with seed {r.seed}")
            table[at] = figure(r)
        if np.isnan(table).any():
            i, j = np.argwhere(np.isnan(table))[0]
            raise ValueError(f"no run of {self.rows[i][0]} on {self.instances[j][1]} with seed {self.instances[j][2]}")
        return table

    def rows_of(self, policy: str) -> list[int]:
        """Return the rows of a policy, one for each training seed.

        Raises:
            ValueError: when it did not run.
        """
        rows = [i for i, (name, _) in enumerate(self.rows) if name == policy]
        if not rows:
            raise ValueError(f"{policy} did not run")
        return rows

    def savings(self, policy: str, capped: bool = True, against: str = "") -> np.ndarray:
        """Return the savings of a policy, paired by instance.

        Args:
            policy: its name.
            capped: whether `CAP` bounds each.
            against: another policy; "": the reference. If it has several trainings, their mean log cost counts.

        Returns:
            100 log(cost of the other / cost), shape (trainings, instances).
        """
        logs = np.log(self.costs)
        other = logs[self.rows_of(against or self.reference)].mean(0)
        log_savings = 100 * (other - logs[self.rows_of(policy)])
        return log_savings.clip(-CAP, CAP) if capped else log_savings

    # -- means -------------------------------------------------------------------------------------

    @cached_property
    def _nested(self) -> dict[str, dict[str, list[int]]]:
        """Columns by family and workload."""
        nested: dict[str, dict[str, list[int]]] = {}
        for i, (family, workload, _) in enumerate(self.instances):
            nested.setdefault(family, {}).setdefault(workload, []).append(i)
        return nested

    @property
    def families(self) -> list[str]:
        """Names of the families."""
        return list(self._nested)

    @cached_property
    def weights(self) -> np.ndarray:
        """The weight of each instance in a mean over instances, workloads and families."""
        weights = np.zeros(len(self.instances))
        for workloads in self._nested.values():
            for columns in workloads.values():
                weights[columns] = 1 / len(self._nested) / len(workloads) / len(columns)
        return weights

    @cached_property
    def drawn_weights(self) -> np.ndarray:
        """The same of families, workloads and instances drawn again, shape (resamples, instances)."""
        rng = np.random.default_rng(self.seed)
        weights = np.zeros((self.resamples, len(self.instances)))
        count = len(self._nested)
        families = rng.multinomial(count, np.full(count, 1 / count), self.resamples)
        for f, workloads in enumerate(self._nested.values()):
            w = len(workloads)
            times = rng.multinomial(families[:, f] * w, np.full(w, 1 / w))
            for k, columns in enumerate(workloads.values()):
                n = len(columns)
                weights[:, columns] = rng.multinomial(times[:, k] * n, np.full(n, 1 / n)) / (count * w * n)
        return weights

    def _drawn_trainings(self, policy: str) -> np.ndarray:
        """How often each training of a policy is drawn, as a share, shape (resamples, trainings)."""
        count = len(self.rows_of(policy))
        rng = np.random.default_rng([self.seed, *policy.encode()])
        return rng.multinomial(count, np.full(count, 1 / count), self.resamples) / count

    def saving(self, policy: str, capped: bool = True, against: str = "") -> Interval:
        """Return the mean of `savings` over trainings, instances, workloads and families."""
        savings = self.savings(policy, capped, against)
        value = float((savings @ self.weights).mean())
        rows = len(self.rows_of(policy)) + len(self.rows_of(against or self.reference))
        if len(self.instances) == 1 and rows == 2:
            return Interval(value, np.nan, np.nan)
        resampled = self.drawn_weights @ savings.T  # (resamples, trainings)
        low, high = np.percentile((resampled * self._drawn_trainings(policy)).sum(1), (2.5, 97.5)).tolist()
        return Interval(value, low, high)

    def by_family(self, policy: str, capped: bool = True) -> dict[str, float]:
        """Return the mean saving in each family."""
        savings = self.savings(policy, capped).mean(0)
        return {
            family: float(np.mean([savings[columns].mean() for columns in workloads.values()]))
            for family, workloads in self._nested.items()
        }

    def by_workload(self, policy: str, capped: bool = False, against: str = "") -> dict[str, float]:
        """Return the mean saving of each workload."""
        savings = self.savings(policy, capped, against).mean(0)
        return {w: float(savings[c].mean()) for workloads in self._nested.values() for w, c in workloads.items()}

    def worst_family(self, policy: str) -> Place:
        """Return the family in which a policy saves least, capped."""
        return min((Place(*item) for item in self.by_family(policy).items()), key=lambda p: (p.saving, p.name))

    def worst_workload(self, policy: str, against: str = "") -> Place:
        """Return the workload on which a policy saves least, uncapped."""
        savings = self.by_workload(policy, against=against)
        return min((Place(*item) for item in savings.items()), key=lambda p: (p.saving, p.name))

    def cheaper(self, policy: str) -> float:
        """Return the share of paired instances on which a policy is cheaper than the reference; ties count half."""
        savings = self.savings(policy, capped=False)
        wins = (savings > 1e-9) + 0.5 * (np.abs(savings) <= 1e-9)
        return float((wins @ self.weights).mean())

    def ratio(self, policy: str, metric: str) -> float:
        """Return the geometric mean of a metric divided by the reference's, as means of savings go; NaN without any."""
        figures = self._figures(lambda run: run.metrics.get(metric, 0.0))
        of_policy, of_reference = figures[self.rows_of(policy)].mean(0), figures[self.rows_of(self.reference)].mean(0)
        both = (of_policy > 0) & (of_reference > 0)
        if not both.any():
            return float("nan")
        weights = self.weights[both]
        return float(np.exp(np.log(of_policy[both] / of_reference[both]) @ weights / weights.sum()))

    def share_of(self, policy: str, bound: str) -> float:
        """Return which share of another's saving a policy reaches; NaN where the other saves less than 1."""
        most = self.saving(bound).value
        return self.saving(policy).value / most if most >= 1 else float("nan")

    def ranking(self) -> list[str]:
        """Return the policies, the greatest capped saving first, equal ones by name."""
        means = {name: float((self.savings(name) @ self.weights).mean()) for name in self.policies}
        return sorted(self.policies, key=lambda name: (-means[name], name))

    def best(self, kind: str) -> str | None:
        """Return the policy of a kind that saves most; None when there is none."""
        return next((name for name in self.ranking() if self.kinds.get(name) == kind), None)

    # -- other prices ------------------------------------------------------------------------------

    def priced(self, walk: float, memory: float) -> Comparison:
        """Return the comparison at other prices; the policies decided at the usual ones."""
        if (walk, memory) == (self.walk, self.memory):
            return self
        return Comparison(self.runs, self.reference, self.kinds, walk, memory, self.resamples, self.seed)
