"""Savings by hand, what their intervals hold to, and other prices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.runs import runs_of
from thp_agents.evaluation.comparison import CAP, Comparison, Place
from thp_agents.evaluation.episode import Run

E = float(np.exp(0.1))
HAND = {
    "base": {("a", "one"): [1.0, 1.0], ("a", "two"): [1.0], ("b", "three"): [1.0]},
    "mine": {("a", "one"): [1 / E, 1 / E**3], ("a", "two"): [E], ("b", "three"): [0.25]},
}


def test_savings_by_hand() -> None:
    """10 and 30 on one, -10 on two: 5 in a; log 4 in b, of which log 1.5 counts."""
    c = Comparison(runs_of(HAND), "base")
    assert c.by_family("mine") == pytest.approx({"a": 5.0, "b": CAP})
    assert c.saving("mine").value == pytest.approx((5 + CAP) / 2)
    assert c.saving("mine", capped=False).value == pytest.approx((5 + 100 * np.log(4)) / 2)
    assert c.saving("base").value == 0
    assert c.worst_family("mine") == Place("a", pytest.approx(5))
    assert c.worst_workload("mine") == Place("two", pytest.approx(-10))
    assert c.cheaper("mine") == pytest.approx((0.5 + 1) / 2), "on one and not on two; on three"
    assert c.ranking() == ["mine", "base"]
    back = Comparison(runs_of(HAND), "mine")
    assert back.saving("base").value == pytest.approx(-c.saving("mine").value), "the same in both directions"


def test_families_count_alike_whatever_they_hold() -> None:
    table = {name: dict(of) for name, of in HAND.items()}
    for seed in range(20):
        table["base"]["b", f"more {seed}"], table["mine"]["b", f"more {seed}"] = [1.0], [0.25]
    assert Comparison(runs_of(table), "base").saving("mine").value == pytest.approx((5 + CAP) / 2)


def test_missing_and_double_runs_are_named() -> None:
    rows = runs_of(HAND)
    with pytest.raises(ValueError, match="no run of mine on three with seed 0"):
        Comparison([r for r in rows if (r.policy, r.workload) != ("mine", "three")], "base").saving("mine")
    with pytest.raises(ValueError, match="two runs of mine on two"):
        Comparison([*rows, next(r for r in rows if (r.policy, r.workload) == ("mine", "two"))], "base").saving("mine")
    with pytest.raises(ValueError, match="gone did not run"):
        Comparison(rows, "gone").saving("mine")


def noisy(shift: float, families: int = 8, seeds: int = 10, trainings: int = 3, spread: float = 0.05) -> Comparison:
    """Return a policy that saves `shift` more than another, with noise of `spread` a run."""
    rng = np.random.default_rng(1)
    rows = []
    for f, seed in itertools.product(range(families), range(seeds)):
        level = rng.uniform(0.4, 0.6)
        where = {("f" + str(f), "w" + str(f)): [0.0] * seed + [np.exp(-level)]}
        rows += [r for r in runs_of({"plain": where}) if r.seed == seed]
        for t in range(trainings):
            cost = np.exp(-level - shift / 100 + rng.normal(0, spread))
            rows += [r for r in runs_of({"better": {k: [0.0] * seed + [cost] for k in where}}, t) if r.seed == seed]
    return Comparison(rows, "plain")


def test_a_clear_lead_is_outside_its_interval_and_none_is_inside() -> None:
    lead = noisy(5).saving("better")
    assert lead.value == pytest.approx(5, abs=2)
    assert 0 < lead.low < lead.value < lead.high
    none = noisy(0).saving("better")
    assert none.low < 0 < none.high
    assert noisy(20).cheaper("better") > 0.99
    assert noisy(20).cheaper("plain") == 0.5, "ties count half"


def test_the_interval_is_that_of_the_families_where_nothing_else_differs() -> None:
    """One instance a family, one training: the hierarchical bootstrap is the ordinary one of a mean of 12."""
    rng = np.random.default_rng(2)
    saved = rng.normal(0, 10, 12)
    where = [(f"f{i}", f"w{i}") for i in range(12)]
    table = {"base": {key: [1.0] for key in where},
             "mine": {key: [float(np.exp(-s / 100))] for key, s in zip(where, saved, strict=True)}}  # fmt: skip
    c = Comparison(runs_of(table), "base", resamples=20_000)
    expected = np.percentile(rng.choice(saved, (20_000, 12)).mean(1), (2.5, 97.5))
    assert c.saving("mine")[1:] == pytest.approx(expected, abs=0.3)


def test_each_resample_weighs_one_in_all_on_average_as_the_mean_does() -> None:
    c = Comparison(runs_of(HAND), "base", resamples=20_000)
    assert c.drawn_weights.sum(1) == pytest.approx(np.ones(20_000))
    assert c.drawn_weights.mean(0) == pytest.approx(c.weights, abs=0.01)
    assert c.weights.sum() == pytest.approx(1)


def test_resamples_are_the_same_every_time() -> None:
    assert noisy(1).saving("better") == noisy(1).saving("better")


def test_one_run_has_no_interval() -> None:
    one = {name: {("a", "one"): [of["a", "one"][0]]} for name, of in HAND.items()}
    assert str(Comparison(runs_of(one), "base").saving("mine")) == "+10.0 (one run, no interval)"
    several = Comparison([*runs_of(one), *runs_of({"mine": {("a", "one"): [2.0]}}, training=1)], "base")
    assert "[" in str(several.saving("mine")), "two trainings differ"


def test_other_prices_charge_the_same_runs() -> None:
    """Walks cost 2 and memory 1 of 4 under one policy, nothing under the other, which costs 4, too."""
    metrics = {"reward": -4.0, "walk_cost": 2.0, "memory_cost": 0.75, "pending_memory_cost": 0.25}
    runs = [Run("mine", "w", 0, metrics, 1, "done", family="f"), *runs_of({"base": {("f", "w"): [4.0]}})]
    c = Comparison(runs, "base")
    assert c.priced(1, 1) is c
    assert c.priced(2, 1).saving("mine").value == pytest.approx(-100 * np.log(6 / 4))
    assert c.priced(0.5, 0.5).saving("mine").value == pytest.approx(CAP)
    assert c.priced(0.5, 0.5).saving("mine", capped=False).value == pytest.approx(100 * np.log(4 / 2.5))


def test_a_share_of_another_ones_saving_and_ratios() -> None:
    table = {"base": {("f", "w"): [1.0]}, "mine": {("f", "w"): [1 / E]}, "bound": {("f", "w"): [1 / E**2]}}
    runs = runs_of(table)
    for run, mib in zip(runs, (100.0, 150.0, 0.0), strict=True):
        run.metrics["resident_mib"] = mib
    c = Comparison(runs, "base")
    assert c.share_of("mine", "bound") == pytest.approx(0.5)
    assert np.isnan(c.share_of("mine", "base")), "who saves nothing has no shares"
    assert c.ratio("mine", "resident_mib") == pytest.approx(1.5)
    assert np.isnan(c.ratio("bound", "resident_mib"))
