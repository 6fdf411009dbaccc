"""What the wrappers of this package share, and those that have no state of their own."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.vector import VectorWrapper


class ForwardingVectorWrapper(VectorWrapper):
    """A wrapper through which `call` and `get_attr` of the vector environment can be reached."""

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return, for each machine, what a method of the single environment returns: see `ThpVectorEnv.call`."""
        return self.env.call(name, *args, **kwargs)  # type: ignore[attr-defined]

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return, for each machine, an attribute of the single environment: see `ThpVectorEnv.get_attr`."""
        return self.env.get_attr(name)  # type: ignore[attr-defined]


def effective(space: gymnasium.Space, actions: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return actions with those that cannot have an effect replaced by the first, which changes nothing.

    Args:
        space: of one action.
        actions: of shape (N, *space.shape).
        masks: `action_masks` of N machines.
    """
    assert isinstance(space, Discrete | MultiDiscrete)
    sizes = np.atleast_1d(space.n if isinstance(space, Discrete) else space.nvec).astype(np.int64)
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    flat = np.asarray(actions).reshape(len(masks), -1)
    allowed = np.take_along_axis(masks, (firsts + flat).clip(0, masks.shape[1] - 1), 1).astype(bool)
    valid = (flat >= 0) & (flat < sizes)  # what is no action at all is left for the environment to refuse
    return np.where(allowed | ~valid, flat, 0).reshape(np.shape(actions)).astype(np.asarray(actions).dtype)


class EffectiveActions(gymnasium.ActionWrapper):
    """Makes masked actions impossible, for algorithms that know no masks: they become the first action.

    The first action keeps everything as it is; in FaultOrder-v0 it is 4K, as which an order that is not allowed counts
    anyway. Has no state of its own: saved states need nothing of it.
    """

    def action(self, action: Any) -> Any:
        """Return the action, or 0 in the place of each part that could have no effect."""
        if not self.env.action_space.contains(action):
            return action  # which the environment refuses
        masks = self.env.unwrapped.action_masks()  # type: ignore[attr-defined]
        return effective(self.env.action_space, np.asarray(action)[None], masks[None])[0]


class EffectiveVectorActions(ForwardingVectorWrapper):
    """`EffectiveActions` for a vector environment. Has no state of its own."""

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step with actions that can have an effect."""
        space, actions = self.env.single_action_space, np.asarray(actions)
        if actions.shape == self.env.action_space.shape and actions.dtype.kind in "iu":
            actions = effective(space, actions, self.env.unwrapped.action_masks())  # type: ignore[attr-defined]
        return self.env.step(actions)


class EpisodeSummary(gymnasium.Wrapper):
    """Says how a truncated episode stands, whoever truncated it: info has reason, workload and metrics.

    The environments say so themselves at a `max_episode_steps` of their own. Put this around Gymnasium's `TimeLimit`,
    which `gymnasium.make(max_episode_steps=...)` makes and which the environment below cannot see. Has no state of its
    own: saved states need nothing of it.
    """

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and look at an episode that was cut off."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if truncated and "metrics" not in info:
            info = info | self.env.unwrapped.summary()  # type: ignore[attr-defined]
        return observation, reward, terminated, truncated, info


def per_second(gamma: float) -> float:
    """Return a discount of a second.

    Raises:
        ValueError: when it is none.
    """
    if isinstance(gamma, bool) or not isinstance(gamma, int | float) or not 0 < gamma <= 1:
        raise ValueError(f"gamma_per_second must be above 0 and at most 1, not {gamma!r}")
    return float(gamma)


def discount(gamma_per_second: float, elapsed_ns: int) -> float:
    """Return what a reward counts so many nanoseconds later; one by one, so that a vector has the same digits."""
    return gamma_per_second ** (elapsed_ns / 1e9)


class TimeDiscount(gymnasium.Wrapper):
    """Says in `info["discount"]` what a reward after the step counts beside one during it.

    Decisions last differently long, and how many there are depends on them. Discounting by time instead of by decision
    makes two policies comparable: `discount` is `gamma_per_second ** seconds`, with the simulated seconds of the step
    (a semi-Markov decision process; Bradtke and Duff, 1994). An algorithm takes it in the place of its gamma. Has no
    state of its own: saved states need nothing of it.

    Args:
        env: an environment of this package.
        gamma_per_second: what a reward counts one simulated second later, above 0 and at most 1.

    Raises:
        ValueError: for another number.
    """

    def __init__(self, env: gymnasium.Env, gamma_per_second: float) -> None:
        """Wrap an environment."""
        super().__init__(env)
        self.gamma_per_second = per_second(gamma_per_second)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step, and say how the future counts."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        info["discount"] = discount(self.gamma_per_second, info["elapsed_ns"])
        return observation, reward, terminated, truncated, info


class TimeVectorDiscount(ForwardingVectorWrapper):
    """`TimeDiscount` for a vector environment: `infos["discount"]`, float64 of shape (N,).

    It is that of the step just made, also for machines that begin anew in the same call; 1 for those that were reset
    by this step (NEXT_STEP). Has no state of its own.
    """

    def __init__(self, env: gymnasium.vector.VectorEnv, gamma_per_second: float) -> None:
        """Wrap a vector environment."""
        super().__init__(env)
        self.gamma_per_second = per_second(gamma_per_second)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step, and say how the future counts."""
        task: Any = self.env.unwrapped.task  # type: ignore[attr-defined]
        stepped = ~task.over
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        elapsed = infos["elapsed_ns"]
        if "_final_info" in infos:
            elapsed = np.where(infos["_final_info"], infos["final_info"]["elapsed_ns"], elapsed)
        discounts = np.array([discount(self.gamma_per_second, ns) for ns in np.where(stepped, elapsed, 0).tolist()])
        if "final_info" in infos:
            ended = infos["_final_info"]
            infos["final_info"] |= {"discount": np.where(ended, discounts, 0.0), "_discount": ended.copy()}
        return observations, rewards, terminations, truncations, infos | {
            "discount": discounts, "_discount": np.ones(self.num_envs, bool),
        }  # fmt: skip
