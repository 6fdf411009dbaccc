"""The layers of a torch network as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
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


def side_by_side(networks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return one network whose output is the mean of several of the same shape."""
    layers = len(networks[0]) // 2
    weights: dict[str, np.ndarray] = {}
    for i in range(layers):
        parts, biases = [n[f"weight{i}"] for n in networks], [n[f"bias{i}"] for n in networks]
        if i < layers - 1:
            inner = torch.block_diag(*map(torch.as_tensor, parts)).numpy()
            weights[f"weight{i}"] = inner if i else np.concatenate(parts)
            weights[f"bias{i}"] = np.concatenate(biases)
        else:
            weights[f"weight{i}"] = np.concatenate(parts, 1) / len(parts) if i else np.stack(parts).mean(0)
            weights[f"bias{i}"] = np.stack(biases).mean(0)
    return weights
