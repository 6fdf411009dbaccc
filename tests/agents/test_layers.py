"""Networks made of several."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from thp_agents.learned.layers import side_by_side
from thp_agents.learned.networks import Mlp


@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (3, 5, 4, 2)])
def test_networks_side_by_side_give_their_mean(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    shapes = [(o, i) for i, o in itertools.pairwise(sizes)]
    networks = []
    for _ in range(3):
        weights = {f"weight{k}": rng.normal(size=shape).astype(np.float32) for k, shape in enumerate(shapes)}
        weights |= {f"bias{k}": rng.normal(size=shape[0]).astype(np.float32) for k, shape in enumerate(shapes)}
        networks.append(weights)
    seen = {"x": rng.normal(size=3).astype(np.float32)}
    expected = np.mean([Mlp(weights)(seen) for weights in networks], 0)
    np.testing.assert_allclose(Mlp(side_by_side(networks))(seen), expected, rtol=1e-5)
