"""Training on top of a heuristic, which acts on every machine of a vector environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from thp_agents.evaluation.what_ifs import follower
from thp_agents.learned.policy_file import Base
from thp_agents.view import KernelView
from thp_env.envs.wrapping import ForwardingVectorWrapper


class OnBase(ForwardingVectorWrapper):
    """Lets a heuristic act before each step on VMAs that the agent leaves alone, as `LearnedPolicy.leave` does.

    Args:
        env: VmaOrder-v0 as a vector environment, with autoreset mode SAME_STEP.
        base: the heuristic, or several by action.
        arguments: of the environment.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv, base: Base, arguments: dict[str, Any]) -> None:
        """Wrap a vector environment."""
        super().__init__(env)
        machines: Any = env.unwrapped
        self._bases = [(follower(base, arguments), KernelView(machines, machine=i)) for i in range(env.num_envs)]

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset machines, and the heuristic on each of them."""
        results = self.env.reset(seed=seed, options=options)
        self._begin((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        return results

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Let the heuristic act, then step."""
        for (policy, view), action in zip(self._bases, actions, strict=True):
            policy.leave(int(action), {}, view)
        results = self.env.step(actions)
        self._begin(results[2] | results[3])
        return results

    def _begin(self, anew: np.ndarray) -> None:
        for i in np.flatnonzero(anew):
            policy, view = self._bases[i]
            policy.reset(view)
