"""Decisions per second of CPU time, by environment and size, resets included; what a million of them cost.

    python -m thp_bench.episodes [seconds]

CPU time of the process, so that other programs on the machine change little. Whole episodes of three generators with
actions drawn at random among those that can have an effect, until each has taken so many seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

import thp_env
from thp_env.envs.shadow import ShadowReward
from thp_env.workload import SIZES

WORKLOADS = ("hot_island", "alloc_purge", "kernel_build")


def chosen(rng: np.random.Generator, space: Any, masks: np.ndarray) -> Any:
    """Return an action that can have an effect."""
    if isinstance(space, Discrete):
        return rng.choice(np.flatnonzero(masks))
    return np.array([rng.choice(np.flatnonzero(part)) for part in np.split(masks, np.cumsum(space.nvec)[:-1])])


def played(env: gymnasium.Env, seconds: float) -> tuple[int, int, float]:
    """Play whole episodes; return decisions, episodes and seconds of CPU time."""
    rng, decisions, episodes, spent = np.random.default_rng(0), 0, 0, 0.0
    while spent < seconds:
        start = time.process_time()
        env.reset(seed=episodes)
        over = False
        while not over:
            masks = env.unwrapped.action_masks()  # type: ignore[attr-defined]
            _, _, terminated, truncated, _ = env.step(chosen(rng, env.action_space, masks))
            over = terminated or truncated
            decisions += 1
        episodes += 1
        spent += time.process_time() - start
    return decisions, episodes, spent


def rate(env_id: str, size: str, seconds: float, shadow: bool) -> tuple[float, float]:
    """Return decisions per CPU second and per episode: of as many episodes of each workload."""
    decisions = episodes = spent = 0.0
    for workload in WORKLOADS:
        env = gymnasium.make(env_id, workload=workload, size=size)
        n, whole, cpu = played(ShadowReward(env) if shadow else env, seconds / len(WORKLOADS))
        decisions, episodes, spent = decisions + n / whole, episodes + 1, spent + cpu / whole
    return decisions / spent, decisions / episodes


def rows(seconds: float) -> Iterator[str]:
    """Return the figures as a Markdown table, line after line."""
    header = ("environment", "size", "decisions per CPU second", "decisions an episode", "CPU hours for a million",
              "with ShadowReward")  # fmt: skip
    yield "| " + " | ".join(header) + " |"
    yield "|---|---|" + "---:|" * 4
    for size in SIZES:
        for env_id in thp_env.ENVIRONMENTS:
            each, long = rate(env_id, size, seconds, False)
            shadowed, _ = rate(env_id, size, seconds, True)
            yield (f"| {env_id.removeprefix('thp_env/')} | {size} | {each:,.0f} | {long:,.0f} | "
                   f"{1e6 / each / 3600:.2g} | {1e6 / shadowed / 3600:.2g} |")  # fmt: skip


if __name__ == "__main__":
    for row in rows(float(sys.argv[1]) if len(sys.argv) > 1 else 6.0):
        print(row, flush=True)
