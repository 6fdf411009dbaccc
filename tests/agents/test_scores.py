"""Scores by hand, and what a bootstrap must hold to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from thp_agents.scores import NEVER, ORACLE, Cost, Scores, iqm


def costs(table: dict[str, dict[tuple[str, str], list[float]]], training: int = 0) -> list[Cost]:
    """Return costs from {policy: {(family, workload): [cost of each seed]}}."""
    return [
        Cost(policy, training, family, workload, seed, value)
        for policy, of in table.items()
        for (family, workload), values in of.items()
        for seed, value in enumerate(values)
    ]


HAND = {
    NEVER: {("a", "one"): [8.0, 8.0], ("a", "two"): [4.0], ("b", "three"): [2.0]},
    ORACLE: {("a", "one"): [2.0, 4.0], ("a", "two"): [2.0], ("b", "three"): [1.0]},
    "mine": {("a", "one"): [4.0, 4.0], ("a", "two"): [4.0], ("b", "three"): [0.5]},
}


def test_scores_by_hand() -> None:
    """In powers of two: never to oracle saves 2 + 1 + 1 in a and 1 in b; mine 1 + 1 + 0 and 2."""
    s = Scores(costs(HAND))
    assert s.families == ["a", "b"]
    assert s.score("mine") == pytest.approx([2 / 4, 2.0]), "above the oracle stays above 1"
    assert s.score(NEVER) == pytest.approx([0, 0])
    assert s.score(ORACLE) == pytest.approx([1, 1])
    assert s.iqm("mine").value == pytest.approx((0.5 + 2.0) / 2), "of two values both halves count"
    assert s.ranking() == ["mine", ORACLE, NEVER]


def test_workloads_without_a_choice_stand_apart() -> None:
    table = {name: dict(of) for name, of in HAND.items()}
    table[NEVER]["c", "flat"], table[ORACLE]["c", "flat"], table["mine"]["c", "flat"] = [1.0], [0.99], [5.0]
    s = Scores(costs(table))
    assert s.apart == ["flat"]
    assert s.families == ["a", "b"]
    assert s.score("mine") == pytest.approx(Scores(costs(HAND)).score("mine"))


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=40).filter(lambda v: len(v) % 4 == 0))
def test_iqm_is_scipys_trimmed_mean_where_quarters_are_whole(values: list[float]) -> None:
    assert iqm(np.array(values)) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)


def test_iqm_counts_borders_in_part() -> None:
    # Of six values the middle three units are half of the second, the third, the fourth, half of the fifth.
    assert iqm(np.array([100.0, 2, 4, 6, 8, -100])) == pytest.approx((0.5 * 2 + 4 + 6 + 0.5 * 8) / 3)


def test_missing_and_double_runs_are_named() -> None:
    rows = costs(HAND)
    with pytest.raises(ValueError, match="no run of mine on three with seed 0"):
        Scores([c for c in rows if (c.policy, c.workload) != ("mine", "three")]).saved  # noqa: B018
    with pytest.raises(ValueError, match="two runs of mine on two"):
        Scores([*rows, next(c for c in rows if (c.policy, c.workload) == ("mine", "two"))]).saved  # noqa: B018


def noisy(shift: float, families: int = 8, seeds: int = 10, trainings: int = 3) -> Scores:
    """Return scores of a policy that saves `shift` more than another, with noise of 0.05 a run."""
    rng = np.random.default_rng(1)
    rows = []
    for f, seed in itertools.product(range(families), range(seeds)):
        base = rng.uniform(0.4, 0.6)
        rows += [Cost(NEVER, 0, f"f{f}", f"w{f}", seed, 1.0), Cost(ORACLE, 0, f"f{f}", f"w{f}", seed, np.exp(-1))]
        rows.append(Cost("plain", 0, f"f{f}", f"w{f}", seed, np.exp(-base)))
        for t in range(trainings):
            rows.append(Cost("better", t, f"f{f}", f"w{f}", seed, np.exp(-base - shift + rng.normal(0, 0.05))))
    return Scores(rows, resamples=400)


def test_a_clear_lead_is_outside_its_interval_and_none_is_inside() -> None:
    lead = noisy(0.2).difference("better", "plain")
    assert lead.value == pytest.approx(0.2, abs=0.02)
    assert 0 < lead.low < lead.value < lead.high
    none = noisy(0.0).difference("better", "plain")
    assert none.low < 0 < none.high
    assert noisy(0.2).improvement("better", "plain") > 0.99
    assert noisy(0.0).improvement("better", "plain") == pytest.approx(0.5, abs=0.12)
    assert noisy(0.0).improvement("plain", "plain") == 0.5, "ties count half"


def test_resamples_are_the_same_every_time() -> None:
    assert noisy(0.1).iqm("better") == noisy(0.1).iqm("better")


def test_performance_profile_falls_from_all_to_none() -> None:
    s = Scores(costs(HAND))
    shares = s.profile("mine", np.array([-1.0, 0.49, 0.51, 1.99, 2.01]))
    assert shares.tolist() == [1.0, 1.0, 0.5, 0.5, 0.0]


def test_one_run_has_no_interval() -> None:
    table = {name: {("a", "one"): [of["a", "one"][0]]} for name, of in HAND.items()}
    s = Scores(costs(table))
    assert str(s.iqm("mine")) == "0.50 (one run, no interval)"
    assert str(s.difference("mine", NEVER)) == "0.50 (one run, no interval)"
    several = Scores([*costs(table), *costs({"mine": {("a", "one"): [2.0]}}, training=1)])
    assert "[" in str(several.iqm("mine")), "two trainings differ"
    assert "[" in str(several.difference("mine", NEVER))
    assert "[" in str(Scores(costs(HAND)).iqm("mine"))
