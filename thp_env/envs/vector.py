"""`ThpVectorEnv`: a task over many machines as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from thp_env.envs.actions import refusal
from thp_env.envs.env import EnvState
from thp_env.envs.task import Task


class ThpVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """N machines that step together; every one draws, decides and is paid as in the single environment.

    Args:
        num_envs: N.
        autoreset_mode: `AutoresetMode.NEXT_STEP` (default), `SAME_STEP` or `DISABLED`, or its name.
        render_mode: None.
        arguments: those of the single environment; `workloads`: one workload argument for each machine; `threads`:
            that share the machines out, by default one for each CPU.
    """

    task_class: ClassVar[type[Task]]

    def __init__(
        self, num_envs: int = 1, *, autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None, **arguments: Any,
    ) -> None:  # fmt: skip
        """Make the environments; no machine runs yet."""
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, not {num_envs}")
        if render_mode is not None:
            raise ValueError(f"render_mode {render_mode!r} is not supported by vector environments")
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.task_class.check_arguments(arguments)
        self.task = self.task_class(num_envs, **arguments)
        self.single_action_space = self.task.action_space
        self.single_observation_space = self.task.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        single = self.single_action_space
        assert isinstance(single, Discrete | MultiDiscrete)
        self._first = np.asarray(single.start)
        self._end = self._first + (single.n if isinstance(single, Discrete) else single.nvec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Reset every machine, or those of `options["reset_mask"]`.

        Args:
            seed: machine i gets seed + i, or the i-th of several; None: it goes on with its stream.
            options: as of the single environment; `reset_mask`: bool of shape (N,).
        """
        seeds = [None] * self.num_envs if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(self.num_envs)]
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must name one for each of the {self.num_envs} machines, not {len(seeds)}")
        mask = (options or {}).get("reset_mask")
        if mask is not None and (np.shape(mask) != (self.num_envs,) or np.asarray(mask).dtype != bool):
            raise ValueError(f"options['reset_mask'] must be bool of shape ({self.num_envs},)")
        chosen = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        for i in map(int, np.flatnonzero(chosen)):
            if self._rngs[i] is None or seeds[i] is not None:
                self._rngs[i], _ = seeding.np_random(seeds[i])
            self.task.begin(i, self._rngs[i], options)  # type: ignore[arg-type]
        self.task.start(chosen)
        return self.task.seen(), {"elapsed_ns": self.task.elapsed_ns.copy(), "_elapsed_ns": chosen}

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every machine; one whose episode has ended starts anew, as the autoreset mode says."""
        task = self.task
        if task.workload[0] is None:
            raise gymnasium.error.ResetNeeded("call reset() before step(): no episode has begun")
        actions = self._checked(actions)
        fresh = task.over.copy()
        if fresh.any():
            if self.autoreset_mode == AutoresetMode.DISABLED:
                which = np.flatnonzero(fresh).tolist()
                raise gymnasium.error.ResetNeeded(f"call reset() with a reset_mask: the episodes of {which} are over")
            self._begin(fresh)
        seen, rewards = task.step(actions, fresh)
        over = task.over.copy()
        infos: dict[str, Any] = {"elapsed_ns": task.elapsed_ns, "_elapsed_ns": np.ones(self.num_envs, bool)}
        if over.any():
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                infos = self._same_step(seen, over)
            else:
                for i, end in task.ends.items():
                    infos = self._add_info(infos, end.info, i)
        return seen, rewards, over, np.zeros(self.num_envs, bool), infos

    def action_masks(self) -> np.ndarray:
        """Return which actions can have an effect, int8, the machines as first axis."""
        return self.task.masks()

    def reward_terms(self, i: int) -> dict[str, float]:
        """Return the terms of the last reward of a machine."""
        return self.task.terms(i)

    def clone_state(self) -> list[EnvState]:
        """Return a copy of every episode, as `ThpEnv.clone_state` does."""
        return [
            EnvState(self.task.clone_state(i), rng.bit_generator.state, {})
            for i, rng in enumerate(self._rngs) if rng is not None
        ]  # fmt: skip

    def restore_state(self, states: list[EnvState]) -> None:
        """Go back to what `clone_state` returned."""
        for i, state in enumerate(states):
            self.task.restore_state(i, state.task)
            self._rngs[i] = np.random.Generator(np.random.PCG64())
            self._rngs[i].bit_generator.state = dict(state.rng)  # type: ignore[union-attr]

    def validate(self) -> None:
        """Check every machine; see `ThpEnv.validate`."""
        self.task.validate()

    # -- inside ------------------------------------------------------------------------------------

    def _begin(self, chosen: np.ndarray) -> None:
        for i in np.flatnonzero(chosen):
            self.task.begin(int(i), self._rngs[i])  # type: ignore[arg-type]

    def _same_step(self, seen: dict[str, np.ndarray], over: np.ndarray) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        elapsed = self.task.elapsed_ns.copy()
        for i, end in self.task.ends.items():
            last = {key: values[i].copy() for key, values in seen.items()}
            final = {"elapsed_ns": int(elapsed[i]), **end.info}
            infos = self._add_info(infos, {"final_obs": last, "final_info": final}, i)
        self._begin(over)
        for key, values in self.task.start(over).items():
            seen[key][over] = values
        elapsed[over] = self.task.elapsed_ns[over]
        return infos | {"elapsed_ns": elapsed, "_elapsed_ns": np.ones(self.num_envs, bool)}

    def _checked(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        space = self.action_space
        if actions.shape != space.shape or actions.dtype.kind not in "iu":
            raise ValueError(f"actions must be integers of shape {space.shape}, not {actions.dtype} {actions.shape}")
        if ((actions < self._first) | (actions >= self._end)).any():  # `contains` takes ten times as long
            one = self.single_action_space
            i = next(i for i, action in enumerate(actions) if not one.contains(action.astype(one.dtype)))
            raise ValueError(refusal(one, actions[i].tolist(), f"action of machine {i}:"))
        return actions
