"""Every workload runs in every environment that is registered."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np
import pytest
import thp_workloads

import thp_env
from thp_env.machine import Machine, layout
from thp_env.traces import Program, ProgramBuilder
from thp_env.workload import Instance

TINY = {w.name: w for w in thp_workloads.catalogue("tiny")}


def allowed(env: gymnasium.Env) -> Any:
    """Return a random action that can have an effect, as far as the environment says so."""
    space = env.action_space
    masks = getattr(env.unwrapped, "action_masks", None)
    if masks is None or not isinstance(space, gymnasium.spaces.Discrete):
        return space.sample()
    return space.sample(np.asarray(masks(), np.int8))


@pytest.mark.parametrize("env_id", sorted(thp_env.ENVIRONMENTS))
@pytest.mark.parametrize("name", [n for n, w in TINY.items() if w.kind == "generator"])
def test_a_random_agent_reaches_the_end(env_id: str, name: str) -> None:
    env = gymnasium.make(env_id, workload=TINY[name])
    env.action_space.seed(1)
    observation, _ = env.reset(seed=5)
    over, info, steps = False, {}, 0
    while not over and steps < 20_000:
        observation, reward, terminated, truncated, info = env.step(allowed(env))
        assert env.observation_space.contains(observation)
        assert np.isfinite(reward)
        over = terminated or truncated
        steps += 1
    assert over
    assert steps > 1
    assert info["reason"] in ("done", "oom")


def cpu_seconds(program: Program, instance: Instance) -> float:
    machine = Machine(program, instance.config)
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(1)
    start = time.process_time()
    machine.run(go_on=True)
    return time.process_time() - start


@pytest.mark.full
@pytest.mark.parametrize("name", list(thp_workloads.generators()))
def test_it_costs_little_more_than_plain_accesses(name: str) -> None:
    """As many uniform accesses to one region of memory: at most 1.3 times, in the median."""
    ratios = []
    for seed in range(1, 6):
        instance = thp_workloads.generators()[name].sample(np.random.default_rng(seed))
        size = int(instance.config.memory * 0.4) // layout.PAGE_SIZE * layout.PAGE_SIZE
        b = ProgramBuilder(seed=1)
        b.mmap("a", size, at="auto")
        b.touch("a", 0, size)
        b.access("a", 0, size, "uniform", int(instance.program.steps.sum()) - size // layout.PAGE_SIZE, ns=30, weight=9)
        plain = b.build()
        pairs = [(cpu_seconds(instance.program, instance), cpu_seconds(plain, instance)) for _ in range(3)]
        ratios.append(min(a for a, _ in pairs) / min(p for _, p in pairs))
    assert np.median(ratios) <= 1.3, ratios
