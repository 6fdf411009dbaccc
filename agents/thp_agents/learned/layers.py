"""The layers of a torch network as arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import nn


def linear_layers(net: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a network, in order."""
    return [m for m in net.modules() if isinstance(m, nn.Linear)]


def layer_arrays(layers: Iterable[nn.Linear]) -> dict[str, np.ndarray]:
    """Return copies of layers as `networks.Mlp` names them: `weight0`, `bias0`, `weight1`, ..."""
    arrays: dict[str, np.ndarray] = {}
    for i, layer in enumerate(layers):
        arrays |= {f"weight{i}": layer.weight.detach().numpy().copy(), f"bias{i}": layer.bias.detach().numpy().copy()}
    return arrays
