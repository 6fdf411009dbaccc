"""A contextual bandit: one linear value for each action, of the reward until the next decision only."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from thp_agents.learned.checkpoint import MEMBER
from thp_agents.sb3 import SB3VecEnv
from thp_env.archive import Column, read_archive


class Bandit:
    """Ridge regression for each action, explored by a share of random choices among those that can have an effect.

    It has the few verbs of Stable-Baselines3's algorithms that training needs.

    Args:
        env: flat observations.
        ridge: strength of the prior that an action is worth nothing.
        epsilon: share of random choices.
        seed: of these.
    """

    def __init__(self, env: SB3VecEnv, ridge: float = 1.0, epsilon: float = 0.2, seed: int = 0) -> None:
        """Know nothing yet."""
        self.env, self.epsilon, self.num_timesteps = env, epsilon, 0
        actions, inputs = int(env.action_space.n), env.observation_space.shape[0] + 1  # type: ignore[attr-defined,index]
        self.gram = np.tile(np.eye(inputs) * ridge, (actions, 1, 1))
        self.moment = np.zeros((actions, inputs))
        self.rng = np.random.default_rng(seed)
        env.seed(seed)

    @property
    def coefficients(self) -> np.ndarray:
        """Weights of the fields and a constant, shape (actions, fields + 1)."""
        return np.linalg.solve(self.gram, self.moment[..., None])[..., 0]

    def learn(self, steps: int, callback: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Make so many decisions, and learn from each, until the callback (it gets the infos) returns False."""
        seen, end = self.env.reset(), self.num_timesteps + steps
        values = self.coefficients
        while self.num_timesteps < end:
            x = np.concatenate([seen, np.ones((len(seen), 1))], 1)
            allowed = self.env.action_masks()
            greedy = np.where(allowed, x @ values.T, -np.inf).argmax(1)
            random = (self.rng.random(allowed.shape) * allowed).argmax(1)
            actions = np.where(self.rng.random(len(x)) < self.epsilon, random, greedy)
            self.env.step_async(actions)
            seen, rewards, _, infos = self.env.step_wait()
            np.add.at(self.gram, actions, x[:, :, None] * x[:, None, :])
            np.add.at(self.moment, actions, x * rewards[:, None])
            self.num_timesteps += len(x)
            if self.num_timesteps // 512 != (self.num_timesteps - len(x)) // 512:
                values = self.coefficients
            if not callback(infos):
                return

    def save(self, file: IO[bytes]) -> None:
        """Write the sums and the generator's state."""
        state = self.rng.bit_generator.state["state"]
        words = np.array([v >> 64 * i & (1 << 64) - 1 for v in state.values() for i in range(2)], np.uint64)
        np.savez(file, gram=self.gram, moment=self.moment, steps=self.num_timesteps, rng=words)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file of `save`.

        Raises:
            FileError: when it is another file.
        """
        columns = {
            "gram": Column(("<f8",), self.gram.shape), "moment": Column(("<f8",), self.moment.shape),
            "steps": Column(("i",), ()), "rng": Column(("<u8",), (4,)),
        }  # fmt: skip
        file = read_archive(path, columns, beside=(MEMBER,))
        self.gram, self.moment, self.num_timesteps = file["gram"].copy(), file["moment"].copy(), int(file["steps"])
        a, b, c, d = map(int, file["rng"])
        state = self.rng.bit_generator.state
        self.rng.bit_generator.state = {**state, "state": {"state": a | b << 64, "inc": c | d << 64}}
