"""A vector environment of this package as Stable-Baselines3 takes it.

    envs = SB3VecEnv(gymnasium.make_vec("thp_env/VmaOrder-v0", num_envs=8, workload="hot_island",
                                        autoreset_mode=AutoresetMode.SAME_STEP))
    MaskablePPO("MlpPolicy", envs).learn(100_000)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import flatten_space
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvObs, VecEnvStepReturn


class SB3VecEnv(VecEnv):
    """Steps all machines in one call instead of one process each.

    Info dictionaries are empty but for the last of an episode: `terminal_observation`, `reason`, `workload`,
    `metrics`, and `episode` (reward and length), as Stable-Baselines3's Monitor writes it.

    Args:
        env: of this package, with autoreset mode SAME_STEP; may be wrapped, as by `ShadowVectorReward`.
        flat: observations are one vector, as `FlattenObservation` makes it, for "MlpPolicy"; else dictionaries, for
            "MultiInputPolicy".

    Raises:
        ValueError: for another autoreset mode.
    """

    def __init__(self, env: VectorEnv, flat: bool = True) -> None:
        """Wrap a vector environment."""
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError("make the environment with autoreset_mode=AutoresetMode.SAME_STEP: "
                             "Stable-Baselines3 expects the first observation of the next episode")  # fmt: skip
        self.env, self.flat = env, flat
        space: Any = env.single_observation_space
        self._keys = list(space)
        self._actions = np.zeros(0)
        self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
        super().__init__(env.num_envs, flatten_space(space) if flat else space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Reset every machine, with the seeds that `seed()` set."""
        seeds: Any = list(self._seeds) if any(s is not None for s in self._seeds) else None
        observations, _ = self.env.reset(seed=seeds)
        self._reset_seeds()
        self._returns[:], self._lengths[:] = 0, 0
        return self._seen(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step with them."""
        observations, rewards, dones, _, infos = self.env.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        told: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in map(int, np.flatnonzero(dones)):
            last = {key: value[None] for key, value in infos["final_obs"][i].items()}
            seen = self._seen(last)
            told[i] = {
                "terminal_observation": seen[0] if self.flat else {k: v[0] for k, v in last.items()},
                "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i])},
                **_of_machine(infos["final_info"], i),
            }
            self._returns[i], self._lengths[i] = 0, 0
        return self._seen(observations), rewards.astype(np.float32), dones, told

    def action_masks(self) -> np.ndarray:
        """Return which actions can have an effect, bool, the machines as first axis."""
        masks: Any = self.env.unwrapped
        return masks.action_masks().astype(bool)

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Return a method's result for each machine; there is `action_masks`, which MaskablePPO asks for."""
        return [value[()] for value in getattr(self, method_name)(*args, **kwargs)[self._chosen(indices)]]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute, the same for each machine."""
        owner = self if attr_name == "action_masks" else self.env.unwrapped
        return [getattr(owner, attr_name)] * len(self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: machines of a batch share their attributes."""
        raise AttributeError(f"{attr_name} cannot be set for single machines of a batch: make a new environment")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        """No machine has a wrapper of its own; but episodes are told of as by Monitor."""
        return [wrapper_class.__name__ == "Monitor"] * len(self._chosen(indices))

    def _chosen(self, indices: int | Iterable[int] | None) -> Sequence[int]:
        return list(self._get_indices(indices))

    def _seen(self, observations: dict[str, np.ndarray]) -> Any:
        if not self.flat:
            return observations
        parts = [observations[key].reshape(len(observations[key]), -1) for key in self._keys]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def _of_machine(infos: dict[str, Any], i: int) -> dict[str, Any]:
    """Return one machine's part of Gymnasium's vector infos."""
    return {
        key: _of_machine(value, i) if isinstance(value, dict) else value[i]
        for key, value in infos.items() if not key.startswith("_")
    }  # fmt: skip
