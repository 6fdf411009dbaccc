"""`ThpEnv`: a task over one machine as a `gymnasium.Env`."""

from __future__ import annotations

from typing import Any, ClassVar, SupportsFloat

import gymnasium
import numpy as np

from thp_env.envs.actions import refusal
from thp_env.envs.rendering import FPS, RENDER_MODES, Renderer
from thp_env.envs.reward import RewardFunction
from thp_env.envs.state import EnvState, check_state
from thp_env.envs.task import Task, WorkloadArgument
from thp_env.envs.turns import Turns
from thp_env.machine import Machine
from thp_env.workload import Workload


class ThpEnv(gymnasium.Env[dict[str, np.ndarray], Any]):
    """The base class of all environments: a subclass names its task and has the documentation.

    `pickle` and `copy.deepcopy` work in the middle of an episode. Only one thread at a time may step it.

    Attributes:
        task: that runs, with a batch of one machine.
    """

    task_class: ClassVar[type[Task]]
    metadata = {"render_modes": RENDER_MODES, "render_fps": FPS}  # noqa: RUF012

    def __init__(
        self,
        workload: WorkloadArgument = "hot_island",
        reward: str | RewardFunction = "total_time",
        *,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        """Make the environment; see the class for the arguments."""
        self.render_mode = render_mode
        self._renderer = Renderer(type(self).__name__.removesuffix("Env"), render_mode) if render_mode else None
        self.task_class.check_arguments(arguments)
        self.task = self.task_class(1, workload, reward, **arguments)
        self.action_space = self.task.action_space
        self.observation_space = self.task.observation_space  # type: ignore[assignment]
        self._turns = Turns()

    # -- the Gymnasium interface -------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Draw a workload and run it to the first decision.

        Args:
            seed: as in Gymnasium.
            options: for this episode: `default_sizes`, of VMAs without a decision; `workload`, `size`,
                `surroundings` and `weights`, as the arguments.
        """
        with self._turns.acting:
            super().reset(seed=seed)
            self.task.begin(0, self.np_random, options)
            self.task.forget_terms(0)
            observation = _first(self.task.start())
            self._show(begin=True)
            return observation, self.task.info(0)

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], SupportsFloat, bool, bool, dict[str, Any]]:
        """Carry out an action, run to the next decision, and return the reward for the time between."""
        with self._turns.acting:
            if self.task.over[0]:
                raise gymnasium.error.ResetNeeded("call reset() before step(): the episode is over or never began")
            if not _contains(self.action_space, action):
                raise ValueError(refusal(self.action_space, action))
            observation, rewards = self.task.step(np.asarray(action)[None])
            self._show()
            terminated, truncated = bool(self.task.terminated[0]), bool(self.task.truncated[0])
            return _first(observation), float(rewards[0]), terminated, truncated, self.task.info(0)

    def action_masks(self) -> np.ndarray:
        """Return which actions can have an effect, int8; for MaskablePPO and `sample` of the action space."""
        with self._turns.looking:
            return self.task.masks()[0]

    def summary(self) -> dict[str, Any]:
        """Return reason, workload and metrics as if the episode were truncated here.

        The wrapper `EpisodeSummary` puts it into the info of an episode that Gymnasium's TimeLimit truncates.
        """
        self._require_episode()
        with self._turns.looking:
            return self.task.summary(0)

    def render(self) -> Any:
        """Return or show the machine as `render_mode` says; in another thread, after the present step.

        Returns:
            "rgb_array": uint8 of shape (600, 800, 3). "ansi": text. "human" (shows every step itself): None.

        Raises:
            gymnasium.error.ResetNeeded: when there is no episode yet.
            gymnasium.error.DependencyNotInstalled: when "human" finds no pygame.
        """
        if self._renderer is None:
            gymnasium.logger.warn(f'nothing is rendered: make the environment with render_mode="{RENDER_MODES[0]}"')
            return None
        with self._turns.looking:
            return self._renderer.render(self.machine, self.workload.name if self.workload else "")

    def close(self) -> None:
        """Close the window of "human"."""
        if self._renderer is not None:
            self._renderer.close()

    # -- states ------------------------------------------------------------------------------------

    def clone_state(self) -> EnvState:
        """Return a copy of the episode; a restored episode continues exactly as this one, with its random draws."""
        self._require_episode()
        with self._turns.looking:
            return EnvState(self.task.made_for, self.task.clone_state(0), self.np_random.bit_generator.state)

    def restore_state(self, state: EnvState) -> None:
        """Go back to a state of an environment that was made with the same arguments; it can be restored again.

        Gymnasium's TimeLimit, which `gymnasium.make(max_episode_steps=...)` adds, keeps its own count.

        Raises:
            MachineError: for a state of another environment or of another version, and for one that lacks the
                account of a wrapper such as `ShadowReward`.
        """
        with self._turns.acting:
            check_state(state, self.task.made_for)
            self.task.restore_state(0, state.task)
            self.np_random.bit_generator.state = dict(state.rng)
            self._show(begin=True)

    def validate(self) -> None:
        """Count all numbers of the machine anew (`Machine.validate`).

        Raises:
            MachineError: naming the first number that does not agree.
        """
        self._require_episode()
        with self._turns.looking:
            self.task.validate()

    # -- what episodes are drawn from --------------------------------------------------------------

    def set_workload(self, **changes: Any) -> None:
        """Change what all later episodes are drawn from, for a curriculum.

        Args:
            changes: `workload`, `size`, `surroundings` and `weights`, as the arguments; others stay.

        Raises:
            ValueError: for an impossible value.
        """
        self.task.set_workload(changes)

    # -- looking -----------------------------------------------------------------------------------

    @property
    def reward_terms(self) -> dict[str, float]:
        """Terms of the last step's reward, by name; empty after a reset."""
        return self.task.terms(0)

    @property
    def machine(self) -> Machine | None:
        """The machine of the episode; None before the first."""
        return None if self.workload is None else self.task.batch[0]

    @property
    def workload(self) -> Workload | None:
        """The workload of the episode; None before the first one."""
        return self.task.workload[0]

    def _show(self, begin: bool = False) -> None:
        if self._renderer is None or self.machine is None:
            return
        if begin:
            self._renderer.begin()
        self._renderer.note(self.machine, {} if begin else self.reward_terms)
        if self.render_mode == "human":
            self.render()

    def _require_episode(self) -> None:
        if self.workload is None:
            raise gymnasium.error.ResetNeeded("call reset() first: there is no episode yet")


def _contains(space: gymnasium.Space, action: Any) -> bool:
    if any(isinstance(a, bool) or getattr(a, "dtype", None) == np.bool_
           for a in (action if isinstance(action, list | tuple) else (action,))):  # fmt: skip
        return False  # which Python counts among the integers
    try:
        return space.contains(action)
    except OverflowError:  # gymnasium 1.2 on integers beyond 64 bits
        return False


def _first(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: values[0] for key, values in observation.items()}
