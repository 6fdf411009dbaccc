"""Decisions per second of CPU time, by environment and size, resets included; what a million of them cost.

    python -m thp_bench.episodes [seconds]

CPU time of the process, so that other programs on the machine change little. Episodes of three generators with actions
drawn at random among those that can have an effect, until each has taken its part of so many seconds.
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
from thp_env.machine import Machine
from thp_env.workload import SIZES

WORKLOADS = ("hot_island", "alloc_purge", "kernel_build")


def random_action(rng: np.random.Generator, space: Any, masks: np.ndarray) -> Any:
    """Return an action that can have an effect."""
    if isinstance(space, Discrete):
        return rng.choice(np.flatnonzero(masks))
    return np.array([rng.choice(np.flatnonzero(part)) for part in np.split(masks, np.cumsum(space.nvec)[:-1])])


def played(env: gymnasium.Env, seconds: float) -> tuple[float, float]:
    """Return decisions and seconds of CPU time of a mean episode; the last one may be cut off, and counts in part."""
    rng, decisions, episodes, resets, steps = np.random.default_rng(0), 0, 0.0, [], 0.0
    while sum(resets) + steps < seconds:
        start = time.process_time()
        env.reset(seed=len(resets))
        begun = time.process_time()
        over = False
        while not over and time.process_time() - begun < seconds:
            masks = env.unwrapped.action_masks()  # type: ignore[attr-defined]
            _, _, terminated, truncated, _ = env.step(random_action(rng, env.action_space, masks))
            over = terminated or truncated
            decisions += 1
        resets.append(begun - start)
        steps += time.process_time() - begun
        episodes += 1.0 if over else share(env.unwrapped.machine)  # type: ignore[attr-defined]
    return decisions / episodes, sum(resets) / len(resets) + steps / episodes


def share(machine: Machine) -> float:
    """Return how much of its program a machine has run."""
    steps, (op, step) = machine.program.steps, machine.position
    return float((steps[:op].sum() + step) / steps.sum())


def rate(env_id: str, size: str, seconds: float, shadow: bool) -> tuple[float, float]:
    """Return decisions per CPU second and per episode, each workload with as many episodes."""
    made = []
    for workload in WORKLOADS:
        env = gymnasium.make(env_id, workload=workload, size=size)
        made.append(played(ShadowReward(env) if shadow else env, seconds / len(WORKLOADS)))
    decisions, spent = np.sum(made, axis=0)
    return decisions / spent, decisions / len(WORKLOADS)


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
