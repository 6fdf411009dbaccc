"""Stable-Baselines3's PPO, A2C and MaskablePPO with a discount by time instead of by decision.

    envs = SB3VecEnv(TimeVectorDiscount(gymnasium.make_vec(...), gamma_per_second=0.9))
    PPO("MlpPolicy", envs, rollout_buffer_class=TimeRolloutBuffer).learn(100_000, DiscountByTime())

Generalised advantage estimation with gamma ** dt in the place of gamma (Schulman et al., 2016; Bradtke and Duff, 1994).
What a truncated episode is expected to bring after its end is discounted by the algorithm's own gamma for that step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableRolloutBuffer
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback


class _ByTime:
    """Keeps the discount of every step."""

    discounts: np.ndarray

    def reset(self) -> None:
        """Forget the last rollout."""
        buffer: Any = self
        self.discounts = np.full((buffer.buffer_size, buffer.n_envs), np.nan, np.float32)
        super().reset()  # type: ignore[misc]

    def compute_returns_and_advantage(self, last_values: Any, dones: np.ndarray) -> None:
        """Compute advantages and returns; `RolloutBuffer` has the arguments.

        Raises:
            ValueError: when `DiscountByTime` was not given to `learn`.
        """
        b: Any = self
        if np.isnan(self.discounts).any():
            raise ValueError("give learn() the callback DiscountByTime(): it keeps the discount of every step")
        after = last_values.clone().cpu().numpy().flatten()
        going_on = 1.0 - dones.astype(np.float32)
        running = np.zeros(b.n_envs, np.float32)
        for step in reversed(range(b.buffer_size)):
            discount = self.discounts[step] * going_on
            delta = b.rewards[step] + discount * after - b.values[step]
            running = delta + discount * b.gae_lambda * running
            b.advantages[step] = running
            after, going_on = b.values[step], 1.0 - b.episode_starts[step]
        b.returns = b.advantages + b.values


class TimeRolloutBuffer(_ByTime, RolloutBuffer):
    """For PPO and A2C with "MlpPolicy"."""


class TimeDictRolloutBuffer(_ByTime, DictRolloutBuffer):
    """For PPO and A2C with "MultiInputPolicy"."""


class TimeMaskableRolloutBuffer(_ByTime, MaskableRolloutBuffer):
    """For MaskablePPO with "MlpPolicy"."""


class TimeMaskableDictRolloutBuffer(_ByTime, MaskableDictRolloutBuffer):
    """For MaskablePPO with "MultiInputPolicy"."""


class DiscountByTime(BaseCallback):
    """Gives the rollout buffer the discount of every step, from the infos of `TimeDiscount`."""

    def _on_step(self) -> bool:
        buffer = self.locals["rollout_buffer"]
        infos = self.locals["infos"]
        if not all("discount" in info for info in infos):
            raise ValueError("no info has a discount: put TimeDiscount or TimeVectorDiscount around the environment")
        if not isinstance(buffer, _ByTime):
            raise ValueError("the discounts need a buffer: make the model with rollout_buffer_class=TimeRolloutBuffer")
        buffer.discounts[buffer.pos] = [info["discount"] for info in infos]  # type: ignore[attr-defined]
        return True
