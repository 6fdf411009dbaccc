"""Forests: they foretell as scikit-learn's do, and the agent of what-ifs takes what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from thp_agents.learned.config import AgentConfig
from thp_agents.learned.forest import grow
from thp_agents.learned.networks import Forest, Tree
from thp_agents.learned.rollouts import Samples, fit

from thp_env.envs.actions import ACTIONS


def observations(n: int, fields: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, fields)).astype(np.float32)


def test_a_forest_foretells_as_scikit_learns_does() -> None:
    seen = observations(300, 4)
    worth = np.stack([seen[:, 0] * seen[:, 1], seen[:, 2] > 0.5], 1)
    forest = Forest(grow(seen, worth, trees=7, leaf=3, seed=5))
    theirs = RandomForestRegressor(7, min_samples_leaf=3, max_features=0.5, random_state=5).fit(seen, worth)
    for row in observations(50, 4):
        assert forest({"x": row}) == pytest.approx(theirs.predict(row[None])[0], abs=1e-5)


@pytest.mark.parametrize("name", ["lcb_factor", "doubt"])
def test_values_are_a_lower_confidence_bound(name: str) -> None:
    """`doubt` is what files of version 0.1 call it."""
    seen = observations(300, 4)
    weights = grow(seen, seen[:, :2], trees=7, leaf=3, seed=5)
    theirs = RandomForestRegressor(7, min_samples_leaf=3, max_features=0.5, random_state=5).fit(seen, seen[:, :2])
    forest = Forest(weights | {name: np.array([1.5], np.float32)})
    for row in observations(20, 4):
        each = np.array([tree.predict(row[None])[0] for tree in theirs.estimators_])
        assert forest({"x": row}) == pytest.approx(each.mean(0) - 1.5 * each.std(0), abs=1e-5)
    with pytest.raises(ValueError, match="do not fit"):
        Forest(weights | {name: np.zeros(2, np.float32)})


def test_a_forest_is_no_tree_and_its_trees_do_not_meet() -> None:
    weights = grow(observations(50, 3), observations(50, 2), trees=2, leaf=5, seed=0)
    with pytest.raises(ValueError, match="no tree"):
        Tree(weights)
    with pytest.raises(ValueError, match="no tree"):
        Forest(weights | {"roots": np.zeros(2, np.float32)})


def test_what_promises_no_more_than_the_margin_is_left_undone() -> None:
    seen = observations(400, 2)
    worth = np.full((400, len(ACTIONS)), np.nan, np.float32)
    worth[:, 0] = 0.0
    worth[:, ACTIONS.index("64K")] = np.where(seen[:, 0] > 0.5, 10.0, -10.0)
    worth[:, ACTIONS.index("2M")] = np.where(seen[:, 1] > 0.5, 0.5, -10.0)
    config = AgentConfig("small", "rollouts", hyperparameters={"margin": 1.0})
    forest = Forest(fit(Samples(seen, worth), config))

    def choice(*fields: float) -> str:
        return ACTIONS[int(forest({"x": np.array(fields, np.float32)}).argmax())]

    assert choice(0.9, 0.2) == "64K"
    assert choice(0.1, 0.9) == "keep", "2M saves half a percent"
    assert choice(0.1, 0.1) == "keep"
