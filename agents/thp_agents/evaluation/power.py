"""How many programs an evaluation needs, before it is run: the chance of showing a lead of a given size.

What one policy saves against another differs between families, between the workloads of a family, between instances of
a workload and between trainings. The four variances are estimated on validation by the method of moments for nested
groups (Searle, Casella and McCulloch, "Variance Components", 1992, chapter 3). A mean over F families with W workloads
of I instances each, and T trainings, then has the variance

    between families / F + between workloads / FW + between instances / FWI + between trainings / T

and its 95 % interval is above zero with the chance that a normal variable gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thp_agents.evaluation.comparison import Comparison

LEAD = 5.0
"""100 log(cost / cost), capped: the lead that should be shown."""

POWER = 0.8
"""Chance of showing it that is enough."""

QUANTILE = 1.959963984540054
"""Of the normal distribution, of a two-sided interval of 95 %."""

MOST_FAMILIES = 200


class Components(NamedTuple):
    """Variances of a saving, in (100 log)^2: between groups of each kind."""

    families: float
    workloads: float
    instances: float
    trainings: float

    def variance(self, families: float, workloads: float, instances: float, trainings: float) -> float:
        """Return the variance of a mean over so many families, workloads of each, instances of each, trainings."""
        each = (families, families * workloads, families * workloads * instances, trainings)
        return sum(component / count for component, count in zip(self, each, strict=True))

    def power(self, lead: float, families: float, workloads: float, instances: float, trainings: float) -> float:
        """Return the chance that the interval of a mean around `lead` is above zero."""
        error = math.sqrt(self.variance(families, workloads, instances, trainings))
        return 1.0 if error == 0 else 0.5 * (1 + math.erf((lead / error - QUANTILE) / math.sqrt(2)))

    def families_needed(self, lead: float, workloads: float, instances: float, trainings: float) -> int | None:
        """Return with how many families the chance is `POWER`; None: no number up to `MOST_FAMILIES` is enough."""
        counts = range(1, MOST_FAMILIES + 1)
        return next((n for n in counts if self.power(lead, n, workloads, instances, trainings) >= POWER), None)


def components(comparison: Comparison, policy: str) -> Components:
    """Estimate the variances of a policy's savings against the reference, each pair capped."""
    savings = comparison.savings(policy)
    by_family: dict[str, dict[str, list[float]]] = {}
    for (family, workload, _), value in zip(comparison.instances, savings.mean(0).tolist(), strict=True):
        by_family.setdefault(family, {}).setdefault(workload, []).append(value)
    groups = [list(workloads.values()) for workloads in by_family.values()]
    instances = _mean([float(np.var(g, ddof=1)) for of in groups for g in of if len(g) > 1])
    of_mean = [instances * _mean([1 / len(g) for g in of]) for of in groups]  # of a workload's mean, by instances
    means = [[float(np.mean(g)) for g in of] for of in groups]
    several = [(m, noise) for m, noise in zip(means, of_mean, strict=True) if len(m) > 1]
    workloads = max(0.0, _mean([float(np.var(m, ddof=1)) - noise for m, noise in several]))
    noise = _mean([(workloads + n) / len(m) for m, n in zip(means, of_mean, strict=True)])
    overall = [float(np.mean(m)) for m in means]
    families = max(0.0, float(np.var(overall, ddof=1)) - noise) if len(overall) > 1 else 0.0
    of_training = savings @ comparison.weights
    trainings = float(np.var(of_training, ddof=1)) if len(of_training) > 1 else 0.0
    return Components(families, workloads, instances, trainings)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def power_table(comparison: Comparison, policy: str, lead: float = LEAD) -> tuple[list[str], list[list[str]]]:
    """Return, for numbers of workloads and instances, how many families show a lead with a chance of `POWER`.

    The last column is the chance with as many families as the comparison has.
    """
    variance = components(comparison, policy)
    trainings, families = len(comparison.rows_of(policy)), len(comparison.families)
    rows = []
    for workloads in (1, 2, 3):
        for instances in (1, 4, 8, 16):
            family_count = variance.families_needed(lead, workloads, instances, trainings)
            chance = variance.power(lead, families, workloads, instances, trainings)
            rows.append([str(workloads), str(instances), str(family_count or f"> {MOST_FAMILIES}"), f"{chance:.2f}"])
    return ["workloads of a family", "instances of each", f"families for {POWER:.0%}", f"power with {families}"], rows
