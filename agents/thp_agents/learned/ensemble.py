"""Several trainings of one agent as one policy, which takes the action with the highest mean value.

The mean of networks' logits is, up to a constant, the log of the product of their distributions; a mistake of a
single training is outvoted (Wiering and van Hasselt, "Ensemble Algorithms in Reinforcement Learning", 2008).
Forests become one forest of all their trees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import thp_env
from thp_agents.learned.networks import Forest, Mlp, Network
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.policy import PolicyError
from thp_env.machine.behaviour import BEHAVIOUR


def ensemble(
    members: Sequence[LearnedPolicy], name: str, seed: int = 0, command: str = "", lcb_factor: float | None = None,
    margin: float = 0.0,
) -> LearnedPolicy:  # fmt: skip
    """Return a policy whose values are those of its members together.

    Args:
        members: trainings of one agent: all perceptrons of as many layers, or all forests.
        name: of the policy.
        seed: number of the ensemble.
        command: how it was made, kept with the policy.
        lcb_factor: of a forest (`networks.Forest`); None: that of the members. Trees of several trainings differ more.
        margin: added to the value of the first action, which does nothing; others are taken if they are worth more. Of
            a perceptron it is in logs of chances.

    Raises:
        PolicyError: when the members do not see or choose the same, or their networks do not go together.
    """
    if not members:
        raise PolicyError("an ensemble has members: name files of trainings")
    first = members[0]
    for member in members:
        if member.signature != first.signature:
            raise PolicyError(f"{member.name} sees or chooses something else than {first.name}")
        if _make(member.network) != _make(first.network):
            raise PolicyError(f"{member.name} has another network than {first.name}")
    networks = [member.network for member in members]
    perceptrons = [network for network in networks if isinstance(network, Mlp)]
    forests = [network for network in networks if isinstance(network, Forest)]
    if not perceptrons and not forests:
        raise PolicyError(f"{first.name} is no perceptron and no forest, and an ensemble is of these")
    meta = {
        "name": name, "command": command, "version": thp_env.__version__, "seed": seed,
        "behaviour": min(int(member.meta.get("behaviour", BEHAVIOUR)) for member in members),
        "decisions": sum(int(member.meta.get("decisions", 0)) for member in members),
        "margin": margin, "members": [f"{member.name}#{member.meta.get('seed', 0)}" for member in members],
        "config": first.meta.get("config", {}),
    }  # fmt: skip
    if perceptrons and lcb_factor is not None:
        raise PolicyError(f"{first.name} is no forest: only forests have an lcb_factor")
    together: Network = _mean(perceptrons) if perceptrons else _all_trees(forests, lcb_factor)
    if margin:
        values = "values" if forests else f"bias{len(perceptrons[0].layers) - 1}"
        together.weights[values][..., 0] += margin
    return LearnedPolicy(together, dict(first.signature), meta)


def _make(network: Network) -> tuple[object, ...]:
    """Return what networks have in common that go together."""
    if isinstance(network, Mlp):
        return network.kind, network.activation, len(network.layers)
    return network.kind, network.weights["lcb_factor"].tolist() if "lcb_factor" in network.weights else []


def _mean(networks: Sequence[Mlp]) -> Mlp:
    """Return the perceptron whose values are the means of others'."""
    weights: dict[str, np.ndarray] = {}
    for i, parts in enumerate(zip(*(network.layers for network in networks), strict=True)):
        matrices = [weight for weight, _ in parts]
        weights[f"weight{i}"] = np.concatenate(matrices) if i == 0 else _side_by_side(matrices)
        weights[f"bias{i}"] = np.concatenate([bias for _, bias in parts])
    last, outputs = len(networks[0].layers) - 1, networks[0].shape[1]
    weights[f"weight{last}"] = weights[f"weight{last}"].reshape(len(networks), outputs, -1).mean(0)
    weights[f"bias{last}"] = weights[f"bias{last}"].reshape(len(networks), outputs).mean(0)
    return Mlp(weights, networks[0].activation)


def _side_by_side(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Return a block diagonal matrix: each member goes on from its own layer before."""
    rows, columns = (np.cumsum([0, *(m.shape[axis] for m in matrices)]) for axis in (0, 1))
    whole = np.zeros((rows[-1], columns[-1]), np.float32)
    for i, matrix in enumerate(matrices):
        whole[rows[i] : rows[i + 1], columns[i] : columns[i + 1]] = matrix
    return whole


def _all_trees(forests: Sequence[Forest], lcb_factor: float | None) -> Forest:
    """Return a forest of the trees of several."""
    before = np.cumsum([0, *(len(forest.feature) for forest in forests)])
    weights = {"inputs": forests[0].weights["inputs"]}
    for name in ("feature", "threshold", "values"):
        weights[name] = np.concatenate([forest.weights[name] for forest in forests])
    for name in ("left", "right"):
        children = [
            np.where(forest.feature >= 0, forest.weights[name] + first, forest.weights[name])
            for forest, first in zip(forests, before, strict=False)
        ]
        weights[name] = np.concatenate(children).astype(np.float32)
    roots = [forest.roots + first for forest, first in zip(forests, before, strict=False)]
    weights["roots"] = np.concatenate(roots).astype(np.float32)
    factor = forests[0].lcb_factor if lcb_factor is None else np.array([lcb_factor])
    weights["lcb_factor"] = factor.astype(np.float32)
    return Forest(weights)
