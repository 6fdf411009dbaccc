"""Policies before a machine of a test's own making."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thp_agents.evaluation.episode import environment
from thp_agents.policy import Policy
from thp_agents.view import KernelView

from support.episodes import MIB
from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance


class Idle(Policy):
    """Lets a test look at a machine, and act through the view itself."""

    name = "idle"
    source = "a test"
    arguments = {"scan_share": 0}  # noqa: RUF012

    def __init__(self, **changes: Any) -> None:
        for key, value in changes.items():
            setattr(self, key, value)

    def decide(self, observation: Any, view: KernelView) -> Any:
        return view.no_op


def before(policy: Policy, workload: Any, seed: int = 0) -> tuple[Any, KernelView]:
    """Return the environment of an episode that has begun, and the policy's view of it."""
    env = environment(policy, workload)
    env.reset(seed=seed)
    view = KernelView(env)
    policy.reset(view)
    return env, view


def mapped(*sizes: int, memory: int = 64 * MIB, touched: bool = True) -> Instance:
    """Return a program that maps regions of so many bytes and writes all of each, or computes for a second."""
    b = ProgramBuilder("mapped")
    for i, size in enumerate(sizes):
        b.mmap(f"r{i}", size)
        if touched:
            b.touch(f"r{i}", 0, size)
    b.compute(1e9)
    return Instance(b.build(), MachineConfig(memory=memory))


def play(env: Any, policy: Policy, view: KernelView, steps: int = 1 << 30) -> Iterable[Any]:
    """Let a policy decide until the program ends, or so many times, and return what it chose."""
    actions: list[Any] = []
    over, observation = False, env.task.observe()
    while not over and len(actions) < steps:
        actions.append(policy.decide({key: values[0] for key, values in observation.items()}, view))
        over = env.step(actions[-1])[2]
        observation = env.task.observe()
    return actions
