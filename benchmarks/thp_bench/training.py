"""Decisions and episodes a CPU second of training: the main agent's machines alone, and with the agent learning."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

AGENT, POOL = "maskable_ppo", 12
WARM, MEASURED = 300, 512
"""Steps of all machines before anything is measured, by when most shadow runs are kept, and while it is."""


def training_rates() -> dict[str, dict[str, float]]:
    """Return decisions and episodes a second of CPU time, all threads together, on two threads.

    Returns:
        `machines`: random actions that can have an effect, paid against shadow runs; `learning`: the agent's own, and
        its updates. Empty where Stable-Baselines3 is not installed.
    """
    try:
        import torch
        from thp_agents.learned.config import load_config
        from thp_agents.learned.training import make_envs, make_model
    except ImportError:
        return {}
    torch.set_num_threads(1)
    config = dataclasses.replace(load_config(AGENT), pool=POOL)
    envs: Any = make_envs(config, 2)
    rng = np.random.default_rng(0)
    envs.seed(0)
    envs.reset()

    def step() -> int:
        masks = envs.action_masks()
        return int(envs.step((rng.random(masks.shape) * masks).argmax(1))[2].sum())

    for _ in range(WARM):
        step()
    begun = time.process_time()
    episodes = sum(step() for _ in range(MEASURED))
    found = {"machines": _rates(MEASURED * config.envs, episodes, time.process_time() - begun)}
    model = make_model(config, envs)
    model.learn(config.envs * config.hyperparameters["n_steps"])
    episodes, done, begun = 0, model.num_timesteps, time.process_time()

    def note(told: dict[str, Any], _: Any) -> bool:
        nonlocal episodes
        episodes += int(told["dones"].sum())
        return True

    model.learn(MEASURED * config.envs, note, reset_num_timesteps=False)
    found["learning"] = _rates(model.num_timesteps - done, episodes, time.process_time() - begun)
    envs.close()
    return found


def _rates(decisions: int, episodes: int, seconds: float) -> dict[str, float]:
    return {"decisions": decisions / seconds, "episodes": episodes / seconds}


if __name__ == "__main__":
    print(training_rates())
