"""The score of version 0.1, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from support.runs import runs_of
from thp_agents.evaluation.comparison import Comparison
from thp_agents.evaluation.scores import NEVER, ORACLE, Scores, iqm

HAND = {
    NEVER: {("a", "one"): [8.0, 8.0], ("a", "two"): [4.0], ("b", "three"): [2.0]},
    ORACLE: {("a", "one"): [2.0, 4.0], ("a", "two"): [2.0], ("b", "three"): [1.0]},
    "mine": {("a", "one"): [4.0, 4.0], ("a", "two"): [4.0], ("b", "three"): [0.5]},
}


def scores(table: dict) -> Scores:
    return Scores(Comparison(runs_of(table), NEVER))


def test_scores_by_hand() -> None:
    """In powers of two: never to oracle saves 2 + 1 + 1 in a and 1 in b; mine 1 + 1 + 0 and 2."""
    s = scores(HAND)
    assert s.score("mine") == pytest.approx({"a": 2 / 4, "b": 2.0}), "above the oracle stays above 1"
    assert s.score(NEVER) == pytest.approx({"a": 0, "b": 0})
    assert s.score(ORACLE) == pytest.approx({"a": 1, "b": 1})
    assert s.iqm("mine") == pytest.approx((0.5 + 2.0) / 2), "of two values both halves count"
    header, rows = s.table()
    assert header == ["policy", "score (IQM)", "a", "b"]
    assert [row[0] for row in rows] == ["mine", ORACLE, NEVER]


def test_workloads_without_a_choice_stand_apart() -> None:
    table = {name: dict(of) for name, of in HAND.items()}
    table[NEVER]["c", "flat"], table[ORACLE]["c", "flat"], table["mine"]["c", "flat"] = [1.0], [0.99], [5.0]
    s = scores(table)
    assert s.apart == ["flat"]
    assert s.score("mine") == pytest.approx(scores(HAND).score("mine"))


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=40).filter(lambda v: len(v) % 4 == 0))
def test_iqm_is_scipys_trimmed_mean_where_quarters_are_whole(values: list[float]) -> None:
    assert iqm(np.array(values)) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)


def test_iqm_counts_borders_in_part() -> None:
    # Of six values the middle three units are half of the second, the third, the fourth, half of the fifth.
    assert iqm(np.array([100.0, 2, 4, 6, 8, -100])) == pytest.approx((0.5 * 2 + 4 + 6 + 0.5 * 8) / 3)
