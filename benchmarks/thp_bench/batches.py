"""Steps of many machines at once, and what a decision of a vector environment costs beside the simulation."""

from __future__ import annotations

import statistics
import time

import gymnasium
import numpy as np

import thp_env  # noqa: F401 -- registers the environments
from thp_env.machine import Machine, MachineConfig
from thp_env.machine.batch import Batch, Window
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

MIB = 1 << 20


def steps_per_second(threads: int, machines: int = 8, accesses: int = 4096, steps: int = 200) -> float:
    """Return machine steps per second of wall time: each a window of `accesses` over 64 MiB, sequential."""
    b = ProgramBuilder("steps")
    b.mmap("a", 64 * MIB)
    b.touch("a", 0, 64 * MIB)
    b.access("a", 0, 64 * MIB, "stride", 1 << 40, ns=1)
    program = b.build()
    batch = Batch([Machine(program, MachineConfig(memory=256 * MIB)) for _ in range(machines)], threads)
    for i in range(machines):
        batch[i].run(ops=2)
    window = Window(accesses=accesses)
    batch.run(window)
    start = time.perf_counter()
    for _ in range(steps):
        batch.run(window)
    return machines * steps / (time.perf_counter() - start)


def decision_us(machines: int = 64, steps: int = 200) -> float:
    """Return the CPU time of one decision of VmaOrder-v0, in us, beside running and reading the machines: the median.

    Masks are asked for as well. One thread, so that the thread's clock sees all of it.
    """
    b = ProgramBuilder("decisions")
    b.mmap("a", 64 * MIB)
    for i in range(20 * steps):
        b.touch("a", i % 2048 * 8 * 4096, 8 * 4096)
        b.advise("a", i % 2048 * 8 * 4096, 8 * 4096, "dontneed")
    instance = Instance(b.build(), MachineConfig(memory=256 * MIB))
    made = gymnasium.make_vec("thp_env/VmaOrder-v0", num_envs=machines, workload=instance, window_faults=2, threads=1)
    envs = made.unwrapped
    run, spent = envs.task.batch._core.advance, 0.0  # type: ignore[attr-defined]

    class Timed:
        def __getattr__(self, name: str) -> object:
            return getattr(core, name)

        def advance(self, *arguments: object) -> None:
            nonlocal spent
            start = time.thread_time()
            run(*arguments)
            spent += time.thread_time() - start

    core = envs.task.batch._core  # type: ignore[attr-defined]
    envs.task.batch._core = Timed()  # type: ignore[attr-defined]
    envs.reset(seed=0)
    actions = np.zeros(machines, np.int64)
    envs.step(actions)
    samples = []
    for _ in range(steps):
        spent, start = 0.0, time.thread_time()
        envs.step(actions)
        envs.action_masks()  # type: ignore[attr-defined]
        samples.append(time.thread_time() - start - spent)
    return statistics.median(samples) / machines * 1e6
