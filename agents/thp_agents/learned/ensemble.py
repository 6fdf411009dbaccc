"""Several trainings of one agent as one policy: the action that they value most together.

The mean of networks' logits is, up to a constant, the log of the product of their distributions; a mistake that one
training makes alone is outvoted (Wiering and van Hasselt, "Ensemble Algorithms in Reinforcement Learning", 2008).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import thp_env
from thp_agents.learned.networks import Mlp
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.policy import PolicyError
from thp_env.machine.behaviour import BEHAVIOUR


def ensemble(members: Sequence[LearnedPolicy], name: str, seed: int = 0, command: str = "") -> LearnedPolicy:
    """Return a policy whose values are the means of its members'.

    Args:
        members: trainings of one agent, all with perceptrons of as many layers.
        name: of the policy.
        seed: number of the ensemble.
        command: how it was made, kept with the policy.

    Raises:
        PolicyError: when the members do not see or choose the same, or have other networks.
    """
    if not members:
        raise PolicyError("an ensemble has members: name files of trainings")
    first = members[0]
    networks = [member.network for member in members]
    for member, network in zip(members, networks, strict=True):
        if member.signature != first.signature:
            raise PolicyError(f"{member.name} sees or chooses something else than {first.name}")
        if not isinstance(network, Mlp) or not isinstance(first.network, Mlp):
            raise PolicyError(f"{member.name} is no perceptron, and an ensemble is of perceptrons")
        if len(network.layers) != len(first.network.layers) or network.activation != first.network.activation:
            raise PolicyError(f"{member.name} has other layers than {first.name}")
    layers = list(zip(*(network.layers for network in networks if isinstance(network, Mlp)), strict=True))
    weights: dict[str, np.ndarray] = {}
    for i, parts in enumerate(layers):
        matrices, biases = [w for w, _ in parts], [b for _, b in parts]
        weights[f"weight{i}"] = np.concatenate(matrices) if i == 0 else _side_by_side(matrices)
        weights[f"bias{i}"] = np.concatenate(biases)
    last, outputs = len(layers) - 1, first.network.shape[1]
    weights[f"weight{last}"] = weights[f"weight{last}"].reshape(len(members), outputs, -1).mean(0)
    weights[f"bias{last}"] = weights[f"bias{last}"].reshape(len(members), outputs).mean(0)
    meta = {
        "name": name, "command": command, "version": thp_env.__version__, "seed": seed,
        "behaviour": min(int(member.meta.get("behaviour", BEHAVIOUR)) for member in members),
        "decisions": sum(int(member.meta.get("decisions", 0)) for member in members),
        "members": [f"{member.name}#{member.meta.get('seed', 0)}" for member in members],
        "config": first.meta.get("config", {}),
    }  # fmt: skip
    return LearnedPolicy(Mlp(weights, first.network.activation), dict(first.signature), meta)


def _side_by_side(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return a block diagonal matrix: each member goes on from its own layer before."""
    rows, columns = (np.cumsum([0, *(m.shape[axis] for m in matrices)]) for axis in (0, 1))
    whole = np.zeros((rows[-1], columns[-1]), np.float32)
    for i, matrix in enumerate(matrices):
        whole[rows[i] : rows[i + 1], columns[i] : columns[i + 1]] = matrix
    return whole
