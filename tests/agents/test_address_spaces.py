"""Heuristics where address spaces and processes end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.episodes import MIB, PAGE
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.heuristics.damon import Region
from thp_agents.heuristics.damos_ethp import DamosEthp

from thp_env.machine import MachineConfig, layout
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

SECOND = 1e9


@pytest.mark.parametrize("name", ["hawkeye_code", "hawkeye_paper", "ingens", "damos_ethp", "cbmm", "leshy"])
def test_processes_may_end_between_two_looks_at_them(name: str) -> None:
    """A child lives for a tenth of a second, then the next one, at all phases of the policy's periods."""
    b = ProgramBuilder("children")
    b.mmap("a", 2 * MIB, align=2 * MIB)
    b.touch("a", 0, 2 * MIB)
    for i in range(300):
        b.fork(f"child{i}")
        b.slice(f"child{i}")
        b.mmap(f"c{i}", 2 * MIB, align=2 * MIB)
        b.touch(f"c{i}", 0, MIB)
        b.compute(SECOND / 10)
        b.slice("P")
        b.exit(f"child{i}")
    workload = Instance(b.build(), MachineConfig(memory=128 * MIB, core="skylake"))
    assert evaluate_one(find_policy(name), workload, 0).reason == "done"


def test_damos_ethp_advises_no_further_than_the_address_space() -> None:
    """The stack's last block ends a page behind it."""
    policy = DamosEthp()
    policy.hints = {}
    stack = Region(0, layout.TASK_SIZE - MIB, layout.TASK_SIZE, accesses=policy.damon.samples)
    advised: list[tuple[int, int]] = []
    view = SimpleNamespace(madvise=lambda mm, start, end, advice: advised.append((start, end)))
    policy.advise(view, stack)
    assert advised == [(layout.TASK_SIZE - 2 * MIB + PAGE, layout.TASK_SIZE)]
