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
from thp_env.envs.machines import call, get_attr
from thp_env.envs.rendering import FPS, Renderer
from thp_env.envs.state import EnvState, check_state
from thp_env.envs.task import Task
from thp_env.envs.turns import Turns

RENDER_MODES = ["rgb_array", "ansi"]
"""What a vector environment shows: a picture or a text of each machine."""


class ThpVectorEnv(VectorEnv[dict[str, np.ndarray], np.ndarray, np.ndarray]):
    """N machines that step together; every one draws, decides and is paid as in the single environment.

    `pickle` and `copy.deepcopy` take it in the middle of episodes. One thread may step it at a time.

    Args:
        num_envs: N.
        autoreset_mode: `AutoresetMode.NEXT_STEP` (default), `SAME_STEP` or `DISABLED`, or its name.
        render_mode: None, or one of `RENDER_MODES`.
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
        if render_mode not in (None, *RENDER_MODES):
            raise ValueError(f"render_mode {render_mode!r} is not supported by vector environments: one of "
                             f"{', '.join(RENDER_MODES)}")  # fmt: skip
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": RENDER_MODES, "render_fps": FPS, "autoreset_mode": self.autoreset_mode}
        title = type(self).__name__.removesuffix("VectorEnv")
        self._renderers = [Renderer(title, render_mode) for _ in range(num_envs)] if render_mode else []
        self.task_class.check_arguments(arguments)
        self.task: Task = self.task_class(num_envs, **arguments)
        self.single_action_space = self.task.action_space
        self.single_observation_space = self.task.observation_space
        self.action_space = batch_space(self.single_action_space, num_envs)
        single = self.single_action_space
        assert isinstance(single, Discrete | MultiDiscrete)
        self._first = np.asarray(single.start)
        self._end = self._first + (single.n if isinstance(single, Discrete) else single.nvec)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._turns = Turns()

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
        active = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        with self._turns.acting:
            for i in map(int, np.flatnonzero(active)):
                if self._rngs[i] is None or seeds[i] is not None:
                    self._rngs[i], _ = seeding.np_random(seeds[i])
                self.task.begin(i, self._rngs[i], options)  # type: ignore[arg-type]
                self.task.forget_terms(i)
            self.task.start(active)
            self._show(active)
            return self.task.observe(), self._infos(active)

    def step(
        self, actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every machine; one whose episode has ended starts anew, as the autoreset mode says."""
        with self._turns.acting:
            task = self.task
            if any(workload is None for workload in task.workload):
                raise gymnasium.error.ResetNeeded("call reset() before step(): no episode has begun")
            actions = self._check_actions(actions)
            fresh = task.over.copy()
            if fresh.any():
                if self.autoreset_mode == AutoresetMode.DISABLED:
                    new_machines = np.flatnonzero(fresh).tolist()
                    raise gymnasium.error.ResetNeeded(
                        f"call reset() with a reset_mask: the episodes of {new_machines} are over"
                    )
                self._begin(fresh)
            observation, rewards = task.step(actions, fresh)
            terminated, truncated, over = task.terminated.copy(), task.truncated.copy(), task.over.copy()
            final: dict[str, Any] = {}
            if over.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
                final = self._same_step(observation, over)
                fresh = over
            elif over.any():
                for i, end in task.ends.items():
                    final = self._add_info(final, end.info, i)
            self._show(fresh)
            return observation, rewards, terminated, truncated, self._infos(np.ones(self.num_envs, bool)) | final

    def action_masks(self) -> np.ndarray:
        """Return which actions can have an effect, int8, the machines as first axis."""
        with self._turns.looking:
            return self.task.masks()

    def reward_terms(self, i: int) -> dict[str, float]:
        """Return the terms of the last reward of a machine."""
        return self.task.terms(i)

    def summary(self, i: int) -> dict[str, Any]:
        """Return reason, workload and metrics of a machine's episode as if it were truncated here."""
        with self._turns.looking:
            return self.task.summary(i)

    def set_workload(self, **changes: Any) -> None:
        """Draw the next episodes from something else, as `ThpEnv.set_workload` does."""
        self.task.set_workload(changes)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Return, for each machine, what a method of the single environment returns, or its attribute.

        Raises:
            AttributeError: naming what there is.
        """
        return call(self, name, *args, **kwargs)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return, for each machine, an attribute of the single environment (`thp_env.envs.machines`)."""
        with self._turns.looking:
            return get_attr(self, name)

    def render(self) -> tuple[Any, ...] | None:
        """Return a picture of each machine, uint8 of shape (600, 800, 3), or with "ansi" a text.

        Raises:
            gymnasium.error.ResetNeeded: when there is no episode yet.
        """
        if not self._renderers:
            gymnasium.logger.warn(f'nothing is rendered: make the environment with render_mode="{RENDER_MODES[0]}"')
            return None
        return tuple(self.render_machine(i) for i in range(self.num_envs))

    def render_machine(self, i: int) -> Any:
        """Return the picture or text of one machine.

        Raises:
            gymnasium.error.ResetNeeded: when there is no episode yet.
        """
        with self._turns.looking:
            workload = self.task.workload[i]
            machine = self.task.batch[i] if workload else None
            return self._renderers[i].render(machine, workload.name if workload else "")

    def clone_state(self) -> list[EnvState]:
        """Return a copy of every episode, as `ThpEnv.clone_state` does."""
        if any(workload is None for workload in self.task.workload):
            raise gymnasium.error.ResetNeeded("call reset() first: there is no episode yet")
        with self._turns.looking:
            return [EnvState(self.task.made_for, self.task.clone_state(i), rng.bit_generator.state)
                    for i, rng in enumerate(self._rngs) if rng is not None]  # fmt: skip

    def restore_state(self, states: Sequence[EnvState]) -> None:
        """Go back to what `clone_state` returned; errors are those of `ThpEnv.restore_state`.

        Args:
            states: one for each machine; those of single environments will do.
        """
        with self._turns.acting:
            if isinstance(states, EnvState) or len(states) != self.num_envs:
                raise ValueError(f"restore_state takes a list of {self.num_envs} states, one for each machine")
            for state in states:
                check_state(state, self.task.made_for)
            for i, state in enumerate(states):
                self.task.restore_state(i, state.task)
                rng = np.random.Generator(np.random.PCG64())
                rng.bit_generator.state = dict(state.rng)
                self._rngs[i] = rng
            self._show(np.ones(self.num_envs, bool))

    def validate(self) -> None:
        """Check every machine; see `ThpEnv.validate`."""
        with self._turns.looking:
            self.task.validate()

    # -- inside ------------------------------------------------------------------------------------

    def _begin(self, active: np.ndarray) -> None:
        for i in np.flatnonzero(active):
            self.task.begin(int(i), self._rngs[i])  # type: ignore[arg-type]

    def _infos(self, active: np.ndarray) -> dict[str, Any]:
        infos = {"elapsed_ns": self.task.elapsed_ns.copy(), "_elapsed_ns": active}
        if self.task.info_masks:
            infos |= {"action_mask": self.task.masks(), "_action_mask": active}
        return infos

    def _same_step(self, observation: dict[str, np.ndarray], over: np.ndarray) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for i in self.task.ends:
            last = {key: values[i].copy() for key, values in observation.items()}
            infos = self._add_info(infos, {"final_obs": last, "final_info": self.task.info(i)}, i)
        self._begin(over)
        for key, values in self.task.start(over).items():
            observation[key][over] = values
        return infos

    def _show(self, fresh: np.ndarray) -> None:
        for i, renderer in enumerate(self._renderers):
            if self.task.workload[i] is None:
                continue
            if fresh[i]:
                renderer.begin()
            renderer.note(self.task.batch[i], {} if fresh[i] else self.task.terms(i))

    def _check_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        space = self.action_space
        if actions.shape != space.shape or actions.dtype.kind not in "iu":
            raise ValueError(f"actions must be integers of shape {space.shape}, not {actions.dtype} {actions.shape}")
        if ((actions < self._first) | (actions >= self._end)).any():  # `contains` takes ten times as long
            one = self.single_action_space
            i = next(i for i, action in enumerate(actions) if not one.contains(action.astype(one.dtype)))
            raise ValueError(refusal(one, actions[i].tolist(), f"action of machine {i}:"))
        return actions
