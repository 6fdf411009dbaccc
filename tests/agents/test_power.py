"""The power computation against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from support.runs import runs_of
from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.power import Components, components, power_table


def drawn(
    rng: np.random.Generator, deviations: Components, families: int, workloads: int, instances: int
) -> Comparison:  # fmt: skip
    """Return a policy whose savings are normal, with standard deviations at each level."""
    rows = []
    for f in range(families):
        of_family = rng.normal(0, deviations.families)
        for w in range(workloads):
            of_workload = of_family + rng.normal(0, deviations.workloads)
            saved = of_workload + rng.normal(0, deviations.instances, instances)
            key = (f"f{f}", f"f{f} w{w}")
            rows += runs_of({"base": {key: [1.0] * instances}, "mine": {key: np.exp(-saved / 100).tolist()}})
    return Comparison(rows, "base", resamples=2)


def test_variances_are_found_again() -> None:
    rng = np.random.default_rng(0)
    found = np.mean([components(drawn(rng, Components(6, 4, 3, 0), 12, 3, 4), "mine") for _ in range(60)], 0)
    assert found == pytest.approx([36, 16, 9, 0], rel=0.25, abs=1e-9)


def test_trainings_differ_by_their_overall_means() -> None:
    key = ("f", "w")
    rows = runs_of({"base": {key: [1.0]}})
    for training, saved in enumerate((2.0, 4.0, 9.0)):
        rows += runs_of({"mine": {key: [float(np.exp(-saved / 100))]}}, training)
    assert components(Comparison(rows, "base"), "mine").trainings == pytest.approx(np.var([2, 4, 9], ddof=1))


def test_power_is_how_often_an_interval_is_above_zero() -> None:
    """Means drawn by the model, and how many are above 1.96 standard errors."""
    c = Components(80, 40, 30, 4)
    rng = np.random.default_rng(1)
    error = np.sqrt(80 / 8 + 40 / 16 + 30 / 64 + 4 / 5)
    shown = (rng.normal(5, error, 200_000) > 1.96 * error).mean()
    assert c.power(5, 8, 2, 4, 5) == pytest.approx(shown, abs=0.005)
    assert c.power(5, 8, 2, 16, 5) > c.power(5, 8, 2, 4, 5)
    assert Components(0, 0, 0, 0).power(5, 1, 1, 1, 1) == 1


def test_as_many_families_as_are_needed_and_no_fewer() -> None:
    c = Components(80, 40, 30, 4)
    needed = c.families_needed(5, 2, 4, 5)
    assert needed is not None
    assert c.power(5, needed, 2, 4, 5) >= 0.8 > c.power(5, needed - 1, 2, 4, 5)
    assert Components(0, 0, 0, 100).families_needed(5, 2, 4, 1) is None, "more families make no training less random"


def test_the_table_says_more_where_more_runs() -> None:
    comparison = drawn(np.random.default_rng(3), Components(5, 3, 3, 0), 8, 2, 4)
    header, rows = power_table(comparison, "mine")
    assert header[-1] == "power with 8"
    assert float(rows[-1][-1]) >= float(rows[0][-1])
