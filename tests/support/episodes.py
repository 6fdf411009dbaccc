"""Small workloads for environments and policies, and a way to play an episode of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

import thp_env
from thp_env.envs.actions import ACTIONS
from thp_env.envs.task import WorkloadArgument
from thp_env.machine import MachineConfig, layout
from thp_env.traces import Program, ProgramBuilder
from thp_env.workload import Instance, Workload

PAGE, MIB = layout.PAGE_SIZE, 1 << 20
KEEP = ACTIONS.index("keep")


def small_program(seed: int = 0, mib: int = 4) -> Program:
    """Return a program with two VMAs that are touched, used and partly given back."""
    b = ProgramBuilder("small", seed=seed)
    b.mmap("heap", mib * MIB)
    b.mmap("pool", 2 * MIB, offset=5 * PAGE)
    for wave in range(4):
        b.touch("heap", wave * mib * MIB // 4, mib * MIB // 4, content=40)
        b.touch("pool", 0, MIB, stride=4 * PAGE)
        b.access("heap", 0, mib * MIB, "zipf", 1500, ns=2, write=0.3, weight=50)
        b.access("pool", 0, 2 * MIB, "uniform", 500, ns=2, weight=50)
        for piece in range(0, MIB, 8 * PAGE):
            b.advise("pool", piece, 3 * PAGE, "dontneed")
        b.compute(2e6)
    return b.build()


def small_workload(name: str = "small") -> Workload:
    """Return a workload of small programs, another one each draw."""

    def sample(rng: np.random.Generator) -> Instance:
        return Instance(small_program(int(rng.integers(1 << 30))), MachineConfig(memory=48 * MIB))

    return Workload(name, "generator", name, "train", "small programs for tests", sample)


def sparse(memory_mib: int, idle_ms: int = 0, weight: int = 1) -> Instance:
    """Return a program that touches every 16th page of 48 MiB: 3 MiB in folios of 4K, 48 in those of 64K."""
    b = ProgramBuilder("sparse")
    b.mmap("a", 48 * MIB)
    for i in range(12):
        b.touch("a", i * 4 * MIB, 4 * MIB, stride=16 * PAGE)
        b.compute(idle_ms * 1e6)
    for _ in range(4):
        b.access("a", 0, 16 * PAGE, "uniform", 1000, weight=weight)
    return Instance(b.build(), MachineConfig(memory=memory_mib * MIB))


KINDS: dict[str, Callable[[], WorkloadArgument]] = {
    "generator": small_workload, "recording": lambda: "sqlite_memory", "program": small_program,
    "instance": lambda: sparse(24),
}  # fmt: skip
"""A workload of each kind that an environment takes."""


@dataclass
class Episode:
    """What an episode showed, step by step."""

    observations: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    infos: list[dict[str, Any]] = field(default_factory=list)

    def digest(self) -> bytes:
        """Return its observations, rewards and infos as bytes."""
        seen = b"".join(o[k].tobytes() for o in self.observations for k in sorted(o))
        return seen + np.array(self.rewards).tobytes() + repr(self.infos).encode()


def make(env_id: str = "thp_env/VmaOrder-v0", **arguments: Any) -> gymnasium.Env:
    """Return an environment over small programs and short windows, without Gymnasium's checks around it."""
    arguments = {"workload": small_workload(), "window_ms": 0.5, "window_faults": 32, **arguments}
    return gymnasium.make(env_id, disable_env_checker=True, **arguments)


def play(
    env: gymnasium.Env, choose: str | Callable[[Any], Any] = "first", limit: int = 10_000, **reset: Any
) -> Episode:
    """Play to the end, or for `limit` steps.

    Args:
        env: the environment.
        choose: "first", the name of the action to take always (VmaOrder-v0), or a function of the environment.
        limit: steps at most.
        reset: arguments of `reset`.
    """
    episode = Episode()
    observation, info = env.reset(**reset)
    episode.observations.append(observation)
    episode.infos.append(info)
    over = False
    while not over and len(episode.rewards) < limit:
        if choose == "first":
            action = first_action(env)
        else:
            action = ACTIONS.index(choose) if isinstance(choose, str) else choose(env)
        observation, reward, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        episode.observations.append(observation)
        episode.rewards.append(float(reward))
        episode.terms.append(dict(env.unwrapped.reward_terms))
        episode.infos.append(info)
    return episode


def randomly(seed: int) -> Callable[[Any], Any]:
    """Return a choice of any action with equal chances."""
    rng = np.random.default_rng(seed)

    def choose(env: Any) -> Any:
        space = env.action_space
        return int(rng.integers(space.n)) if isinstance(space, Discrete) else rng.integers(space.nvec)

    return choose


def first_action(env: Any) -> Any:
    """Return the action made of zeros: nothing is changed, or nothing is enabled."""
    return np.zeros(env.action_space.shape, np.int64)[()]


ENVIRONMENTS = sorted(thp_env.ENVIRONMENTS)
