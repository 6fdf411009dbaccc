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

    Info dictionaries hold no more than `discount`, where `TimeVectorDiscount` says it, but for the last of an episode:
    `terminal_observation`, `TimeLimit.truncated`, `reason`, `workload`, `metrics`, and `episode` (reward and length),
    as Stable-Baselines3's Monitor writes it. A machine that only a wrapper truncated is reset here.

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
        observations, _ = self.env.reset(seed=seeds, options=self._option())
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        return self._flatten(observations)

    def _option(self) -> dict[str, Any] | None:
        options_of = [options for options in self._options if options]
        if any(options != options_of[0] for options in options_of) or len(options_of) not in (0, self.num_envs):
            raise ValueError("set_options takes the same options for all machines: they begin in one call")
        return options_of[0] if options_of else None

    def step_async(self, actions: np.ndarray) -> None:
        """Take the actions."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step with them."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._actions)
        dones = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        out: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if "discount" in infos:
            out = [{"discount": float(discount)} for discount in infos["discount"]]
        final = np.asarray(infos.get("_final_obs", np.zeros(self.num_envs, bool)))
        for i in map(int, np.flatnonzero(dones)):
            last = infos["final_obs"][i] if final[i] else {k: values[i].copy() for k, values in observations.items()}
            final_obs = self._flatten({key: value[None] for key, value in last.items()})
            out[i] |= {
                "terminal_observation": final_obs[0] if self.flat else last,
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i])},
                **(_of_machine(infos["final_info"], i) if final[i] else self._machines.summary(i)),
            }
            self._returns[i], self._lengths[i] = 0, 0
        if (dones & ~final).any():
            observations, _ = self.env.reset(options={"reset_mask": dones & ~final})
        return self._flatten(observations), rewards.astype(np.float32), dones, out

    def action_masks(self) -> np.ndarray:
        """Return which actions can have an effect, bool, the machines as first axis."""
        return self._machines.action_masks().astype(bool)

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return the picture of each machine; `render` puts them together, as VecVideoRecorder takes them."""
        pictures: Any = self.env.render()
        return [None] * self.num_envs if pictures is None else list(pictures)

    @property
    def metadata(self) -> dict[str, Any]:
        """Of the vector environment."""
        return self.env.metadata

    @metadata.setter
    def metadata(self, value: dict[str, Any]) -> None:
        """Stay as it is: SB3's wrappers write back what they read."""

    @property
    def _machines(self) -> Any:
        return self.env.unwrapped

    def close(self) -> None:
        """Close the vector environment."""
        self.env.close()

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Return a method's result for each machine: see `ThpVectorEnv.call`; masks are bool."""
        if method_name == "action_masks":
            return list(self.action_masks()[self._indices(indices)])
        results = self._machines.call(method_name, *args, **kwargs)
        return [results[i] for i in self._indices(indices)]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute for each machine: see `ThpVectorEnv.get_attr`."""
        if attr_name == "action_masks":
            return [self.action_masks] * len(self._indices(indices))
        values = self._machines.get_attr(attr_name)
        return [values[i] for i in self._indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: machines of a batch share their attributes."""
        raise AttributeError(f"{attr_name} cannot be set for single machines of a batch: make a new environment")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        """No machine has a wrapper of its own: VecMonitor may be put around."""
        return [False] * len(self._indices(indices))

    def _indices(self, indices: int | Iterable[int] | None) -> Sequence[int]:
        return list(self._get_indices(indices))

    def _flatten(self, observations: dict[str, np.ndarray]) -> Any:
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
