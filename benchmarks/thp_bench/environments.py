"""Environment steps per second: one machine that advances once, by 4,096 accesses, is one step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

import thp_env
from thp_env.machine import Machine, MachineConfig
from thp_env.machine.batch import Batch, Window
from thp_env.traces import Program

ACCESSES = 4096
_TEXT = """mmap heap 64M at=auto
write heap 0 64M
access heap 0 64M stride count=4000000000 stride=64 ns=1
"""


def _program() -> Program:
    return thp_env.parse_program(_TEXT, "steps")


def _vector(mode: str, n: int) -> gymnasium.vector.VectorEnv:
    """Return n environments: all in one call, one after the other, or a process for each."""
    arguments = {"workload": _program(), "window_accesses": ACCESSES, "window_ms": 1e6}
    if mode == "batch":
        return gymnasium.make_vec("thp_env/SizeControls-v0", n, vectorization_mode="vector_entry_point", **arguments)
    return gymnasium.make_vec("thp_env/SizeControls-v0", n, vectorization_mode=mode, **arguments)


def steps(mode: str, n: int) -> tuple[gymnasium.vector.VectorEnv, Callable[[], float]]:
    """Return environments that stand in the middle of an episode, and what measures their steps per second."""
    envs = _vector(mode, n)
    envs.reset(seed=1)
    actions = np.zeros_like(envs.action_space.sample())
    for _ in range(20):  # past the faults
        envs.step(actions)
    calls = max(10, (1000 if mode == "batch" else 300) // n)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            envs.step(actions)
        return calls * n / (time.perf_counter() - start)

    return envs, run


def threads(count: int, n: int = 8) -> Callable[[], float]:
    """Return what measures windows of 4,096 accesses per second of n machines on a thread pool, without Python."""
    machines = [Machine(_program(), MachineConfig(memory=128 << 20)) for _ in range(n)]
    for machine in machines:
        machine.run(ops=2)
    batch = Batch(machines, count)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(200):
            batch.run(Window(accesses=ACCESSES))
        return 200 * n / (time.perf_counter() - start)

    return run


def rates(median_of: Callable[[dict[str, Any]], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return environment steps per second by mode and number of machines."""
    result: dict[str, dict[str, float]] = {"batch": {}, "sync_vector": {}, "async_vector": {}}
    for n in (1, 8, 64):
        made = {name: steps(name.removesuffix("_vector"), n) for name in result}
        for name, rate in median_of({name: run for name, (_, run) in made.items()}).items():
            result[name][str(n)] = rate
        for envs, _ in made.values():
            envs.close()
    return result
