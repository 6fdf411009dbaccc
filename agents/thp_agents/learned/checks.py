"""Checks of a training on programs of the train side that it is not trained on; the best checkpoint is exported."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from thp_agents.learned.config import AgentConfig, workloads_of
from thp_agents.learned.on_base import OnBase
from thp_agents.sb3 import SB3VecEnv
from thp_env.envs.shadow import ShadowVectorReward
from thp_env.envs.wrapping import EffectiveVectorActions
from thp_env.program_pool import ProgramPool
from thp_env.workload import Instance

CAP = np.log(1.5)
"""No program counts for more, either way."""

LONGEST = 400
"""Decisions after which a check of a program ends: what was saved so far counts, and the others need not wait."""

SEEDS = 900_000
"""Seeds of held-out programs, on the train side, begin here: no pool of a training comes so far."""


def vector(config: AgentConfig, machines: int, threads: int | None, kept: int, **workload: Any) -> SB3VecEnv:
    """Return machines of an agent's environment, paid against shadow runs.

    Args:
        config: of the agent.
        machines: how many.
        threads: that step them.
        kept: shadow runs that are kept.
        workload: `workload` or `workloads`, and other arguments of the environment.
    """
    envs: Any = gymnasium.make_vec(
        config.environment, machines, vectorization_mode="vector_entry_point",
        autoreset_mode=AutoresetMode.SAME_STEP, threads=threads, **workload, **config.arguments,
    )  # fmt: skip
    if config.base:
        envs = OnBase(envs, config.base, config.arguments)
    if not config.masked:
        envs = EffectiveVectorActions(envs)
    rewarded = ShadowVectorReward(envs, config.shadow, config.scale, kind=config.reward, kept=kept)
    return SB3VecEnv(rewarded, flat=config.network == "mlp")


class HeldOut:
    """Programs that a training is checked on.

    Args:
        config: of the agent; its reward is "log_ratio".
        threads: that step the machines.
    """

    def __init__(self, config: AgentConfig, threads: int | None) -> None:
        """Draw the programs."""
        pool = ProgramPool(workloads_of(config), config.held_out, SEEDS)
        pairs = pool.instances()
        pool.close()
        self.names = [name for name, _ in pairs]
        instances: list[Instance] = [instance for _, instance in pairs]
        self.envs = vector(
            config, len(instances), threads, 2 * len(instances), workloads=instances, max_episode_steps=LONGEST
        )
        self._scale, self._greedy, self._seed = config.scale, config.greedy, config.seed

    def score(self, model: Any) -> float:
        """Return 100 log(cost of the shadow / cost), each program capped, the mean of workloads."""
        logs = self.logs(model)
        capped: dict[str, list[float]] = {name: [] for name in self.names}
        for name, log in zip(self.names, logs, strict=True):
            capped[name].append(float(np.clip(log, -CAP, CAP)))
        return 100 * float(np.mean([np.mean(values) for values in capped.values()]))

    def logs(self, model: Any) -> np.ndarray:
        """Return log(cost of the shadow / cost) of each program under a model's policy."""
        self.envs.seed(SEEDS)
        observations: Any = self.envs.reset()
        open_, logs = np.ones(self.envs.num_envs, bool), np.zeros(self.envs.num_envs)
        while open_.any():
            masks = {"action_masks": self.envs.action_masks()} if takes_masks(model) else {}
            actions, _ = model.predict(observations, deterministic=self._greedy, **masks)
            observations, _, dones, infos = self.envs.step(actions)
            for i in np.flatnonzero(dones & open_):
                logs[i] = infos[i]["episode"]["r"] / self._scale
            open_ &= ~dones
        return logs

    def close(self) -> None:
        """Close the machines."""
        self.envs.close()


def takes_masks(model: Any) -> bool:
    """Return whether a model of Stable-Baselines3 uses masks."""
    return "Maskable" in type(model).__name__
