"""A random forest (Breiman, 2001) that predicts the worth of each action; scikit-learn grows it."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import RandomForestRegressor


def grow(observations: np.ndarray, worth: np.ndarray, trees: int, leaf: int, seed: int) -> dict[str, np.ndarray]:
    """Grow a forest, and return its nodes as `networks.Forest` takes them.

    Args:
        observations: shape (n, fields).
        worth: to be predicted, shape (n, actions).
        trees: their number.
        leaf: fewest observations at a leaf.
        seed: of the random choice of observations and fields.
    """
    model = RandomForestRegressor(trees, min_samples_leaf=leaf, max_features=0.5, random_state=seed)
    model.fit(observations, worth)
    parts: dict[str, list[np.ndarray]] = {n: [] for n in ("feature", "threshold", "left", "right", "values")}
    roots = [0]
    for tree in (estimator.tree_ for estimator in model.estimators_):
        inner, first = tree.children_left >= 0, roots[-1]
        parts["feature"].append(np.where(inner, tree.feature, -1))
        parts["threshold"].append(tree.threshold)
        parts["left"].append(np.where(inner, first + tree.children_left, 0))
        parts["right"].append(np.where(inner, first + tree.children_right, 0))
        parts["values"].append(tree.value[:, :, 0])
        roots.append(first + tree.node_count)
    weights = {name: np.concatenate(part).astype(np.float32) for name, part in parts.items()}
    weights["inputs"] = np.array([observations.shape[1]], np.float32)
    return weights | {"roots": np.array(roots[:-1], np.float32)}
