"""Models of Stable-Baselines3 as policies that need only NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

import thp_env
from thp_agents.learned.bandit import Bandit
from thp_agents.learned.config import AgentConfig
from thp_agents.learned.deep_sets import DeepSetsPolicy
from thp_agents.learned.layers import layer_arrays, linear_layers
from thp_agents.learned.networks import DeepSets, Forest, Mlp, Network
from thp_agents.learned.policy_file import LearnedPolicy, signature
from thp_agents.learned.rollouts import Rollouts
from thp_env.machine.behaviour import BEHAVIOUR


def export(model: Any, config: AgentConfig, command: str = "") -> LearnedPolicy:
    """Return the policy of a model as it was trained: with masks or without, its best actions or its draws.

    Args:
        model: of one of `config.ALGORITHMS`.
        config: how it was trained.
        command: how the training was started, kept with the policy.
    """
    meta = {
        "name": config.name, "command": command, "version": thp_env.__version__, "behaviour": BEHAVIOUR,
        "seed": config.seed, "decisions": int(model.num_timesteps), "config": config.as_dict(),
    }  # fmt: skip
    made_for = signature(config.environment, config.arguments, config.base, config.masked, not config.greedy)
    return LearnedPolicy(_network(model), made_for, meta)


def _network(model: Any) -> Network:
    if isinstance(model, Bandit):
        c = model.coefficients.astype(np.float32)
        return Mlp({"weight0": c[:, :-1].copy(), "bias0": c[:, -1].copy()})
    if isinstance(model, Rollouts):
        return Forest(model.weights)
    policy = model.policy
    if isinstance(policy, DeepSetsPolicy):
        return DeepSets(layer_arrays(policy.layers()))
    if hasattr(policy, "mlp_extractor"):
        return Mlp(layer_arrays([*linear_layers(policy.mlp_extractor.policy_net), policy.action_net]))
    if hasattr(policy, "q_net"):
        return Mlp(layer_arrays(linear_layers(policy.q_net.q_net)), "relu")
    # QR-DQN picks by the mean of an action's quantiles, which is linear in the last layer.
    weights = layer_arrays(linear_layers(policy.quantile_net.quantile_net))
    last = len(weights) // 2 - 1
    n = policy.quantile_net.n_quantiles
    weights[f"weight{last}"] = _mean_of_quantiles(weights[f"weight{last}"], n)
    weights[f"bias{last}"] = _mean_of_quantiles(weights[f"bias{last}"], n)
    return Mlp(weights, "relu")


def _mean_of_quantiles(rows: np.ndarray, quantiles: int) -> np.ndarray:
    # sb3-contrib's output is quantile after quantile, the actions of each together.
    return rows.reshape(quantiles, -1, *rows.shape[1:]).mean(0)
