"""What a decision of a vector environment costs beside the simulation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

import thp_env  # noqa: F401 -- registers the environments
from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

MIB = 1 << 20


class _Timed:
    """The core of a batch that adds up the CPU time of its runs."""

    def __init__(self, core: Any) -> None:
        self._core, self.spent = core, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def advance(self, *arguments: Any) -> None:
        start = time.thread_time()
        self._core.advance(*arguments)
        self.spent += time.thread_time() - start


def decision_us(env_id: str, machines: int = 64, steps: int = 40) -> Callable[[], float]:
    """Return what measures the CPU time of one decision, in us, beside running and reading the machines.

    Masks are asked for as well. One thread, so that the thread's clock sees all of it. The program faults without
    end, so every machine decides at every step.
    """
    b = ProgramBuilder("decisions")
    b.mmap("a", 64 * MIB)
    for i in range(4000):
        at = i % 32 * 2 * MIB
        b.touch("a", at, 8 * 4096)
        b.advise("a", at, 2 * MIB, "dontneed")
    instance = Instance(b.build(), MachineConfig(memory=256 * MIB))
    arguments = {"workload": instance, "window_faults": 2, "threads": 1}
    envs: Any = gymnasium.make_vec(env_id, num_envs=machines, vectorization_mode="vector_entry_point", **arguments)
    task = envs.unwrapped.task
    core = task.batch._core = _Timed(task.batch._core)
    envs.reset(seed=0)
    actions = np.zeros(machines, np.int64)
    envs.step(actions)

    def run() -> float:
        core.spent, start = 0.0, time.thread_time()
        for _ in range(steps):
            envs.step(actions)
            envs.unwrapped.action_masks()
        return (time.thread_time() - start - core.spent) / (steps * machines) * 1e6

    return run
