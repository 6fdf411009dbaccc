"""What-ifs on the true simulator: a decision's actions, each run to the end from the same state.

A clone makes the same random draws as the original, so a difference between two of them is due to the action alone.
What goes on after the action is left to a base rule, or to nothing (rollout on a base policy; Bertsekas, Tsitsiklis and
Wu, 1997).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thp_agents.evaluation.search import finish
from thp_agents.learned.networks import Forest
from thp_agents.learned.policy_file import Base, LearnedPolicy, signature
from thp_agents.view import KernelView
from thp_env.envs.task import REASONS
from thp_env.envs.vma_order import VmaOrderEnv

ENVIRONMENT = "thp_env/VmaOrder-v0"


def no_preference(made_for: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the nodes of a tree that values all actions alike, so that the first, doing nothing, is taken.

    Args:
        made_for: the `signature` of a policy of VmaOrder-v0.
    """
    leaf = {"feature": -1, "threshold": 0, "left": 0, "right": 0, "inputs": sum(map(len, made_for["seen"].values()))}
    nodes = {name: np.array([value], np.float32) for name, value in leaf.items()}
    return nodes | {"values": np.zeros((1, len(made_for["actions"])), np.float32)}


def follower(base: Base, arguments: dict[str, Any], weights: dict[str, np.ndarray] | None = None) -> LearnedPolicy:
    """Return a policy of VmaOrder-v0 that leaves to a heuristic what a forest leaves alone.

    Args:
        base: the heuristic, or several by action.
        arguments: of the environment.
        weights: nodes of the forest; empty or None: it leaves everything alone.
    """
    made_for = signature(ENVIRONMENT, arguments, base)
    return LearnedPolicy(Forest(weights or no_preference(made_for)), made_for, {})


def cost_of(env: VmaOrderEnv, state: Mapping[str, Any], policy: LearnedPolicy, action: int) -> float:
    """Return what the run costs, in ns, if an action is taken in a state and all else is left to the policy's base.

    Args:
        env: whose machine plays; it is left at the end of the run.
        state: of its task.
        policy: as it was in that state; it goes on from there.
        action: of VmaOrder-v0.
    """
    env.task.restore_state(0, state)
    view = KernelView(env)
    while env.task.status[0] not in REASONS:
        policy.leave(action, {}, view)
        env.task.step_unpaid(np.array([action]))
        action = 0
    return finish(env.task.batch[0])[0]["total_ns"]


def costs_of(
    env: VmaOrderEnv, state: Mapping[str, Any], policy: LearnedPolicy, actions: Sequence[int]
) -> np.ndarray:  # fmt: skip
    """Return what the run costs with each of several actions, as `cost_of`; the policy is left as it is."""
    return np.array([cost_of(env, state, policy.fork(), action) for action in actions])
