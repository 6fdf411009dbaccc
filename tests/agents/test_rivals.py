"""Kernel settings run as Linux runs them."""

from __future__ import annotations

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from support.episodes import MIB, PAGE
from support.policies import before
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.heuristics.linux_6_18 import SETTINGS
from thp_agents.plug_ins import policies
from thp_agents.policy import Policy
from thp_agents.view import KernelView

from thp_env.machine import MachineConfig
from thp_env.machine.sizes import orders_of
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance


def then_idle(b: ProgramBuilder) -> Instance:
    """Return a program that goes on for 25 s, long enough for khugepaged to wake twice."""
    for _ in range(25):
        b.compute(1e9)
        b.touch("a", 0, PAGE)
    return Instance(b.build(), MachineConfig(memory=256 * MIB))


def read_before() -> Instance:
    """Return a program that reads pages before it writes them: zero pages keep faults below 2M from large folios."""
    b = ProgramBuilder("read")
    b.mmap("a", 4 * MIB)
    b.touch("a", 0, 4 * MIB, kind="read")
    b.touch("a", 0, 4 * MIB)
    return then_idle(b)


def grown() -> Instance:
    """Return a program whose heap grows by 256K at a time, so that no fault finds room for 2M."""
    b = ProgramBuilder("grown")
    for i in range(32):
        b.brk("a", (i + 1) * MIB // 4)
        b.touch("a", i * MIB // 4, MIB // 4)
    return then_idle(b)


def at_the_end(name: str, instance: Instance) -> set[int]:
    """Return the orders of the folios that map anonymous memory at the end."""
    env, view = before(find_policy(name), instance)
    over = False
    while not over:
        _, _, over, _, _ = env.step(view.no_op)
    (vma,) = [v for v in env.machine.vmas() if v.anonymous]
    return {order for order, n in enumerate(env.machine.smaps(vma.id)["by_order"]) if n}


def test_khugepaged_runs_under_every_setting_that_has_2m() -> None:
    for name in ("2M", "all", "linux_6_18"):
        assert 9 in at_the_end(name, grown()), name
    for name in ("2M_no_khugepaged", "all_no_khugepaged"):
        assert 9 not in at_the_end(name, grown()), name


def test_an_agent_that_keeps_everything_is_the_setting_below_it() -> None:
    """khugepaged runs beside an agent as it does beside a setting: what an agent saves, its decisions save."""

    class Keeps(Policy):
        name, source, default_sizes = "keeps", "a test", "all"
        arguments: ClassVar = {"scan_share": 0, "khugepaged": True, "features": ["collapse_mthp"]}

        def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> int:
            return 0

    kept, setting = (evaluate_one(policy, grown(), 0) for policy in (Keeps(), find_policy("all_khugepaged_v19")))
    assert kept.metrics == setting.metrics
    without = evaluate_one(find_policy("all_no_khugepaged"), grown(), 0)
    assert kept.metrics["reward"] != without.metrics["reward"]


def test_below_2m_only_the_newer_khugepaged_collapses() -> None:
    """hugepage_pmd_enabled() of mm/khugepaged.c: without 2M the daemon of 6.18 has nothing to do."""
    for name in ("64K", "android_64K", "never"):
        assert at_the_end(name, read_before()) == {0}, name
    assert at_the_end("64K_khugepaged_v19", read_before()) == {4}


def test_with_defrag_a_fault_makes_room_for_its_folio() -> None:
    """Movable pages of others lie in every 2M of a machine with memory to spare."""
    b = ProgramBuilder("crowded")
    b.fragment(9, 1.0)
    b.mmap("a", 8 * MIB)
    b.touch("a", 0, 8 * MIB)
    instance = Instance(b.build(), MachineConfig(memory=256 * MIB))
    assert 9 not in at_the_end("2M", instance)
    assert at_the_end("2M_defrag", instance) == {9}
    assert 9 in at_the_end("all_defrag", instance)


def test_linux_618_is_2m_always_with_all_defaults() -> None:
    """The figures are those of a 6.18 kernel's sysfs; a fresh simulated kernel has them, too."""
    assert SETTINGS["khugepaged/max_ptes_none"] == 511
    assert SETTINGS["khugepaged/max_ptes_swap"] == 64
    assert SETTINGS["khugepaged/max_ptes_shared"] == 256
    runs = [evaluate_one(find_policy(name), grown(), 0) for name in ("linux_6_18", "2M")]
    assert runs[0].metrics == runs[1].metrics


@pytest.mark.parametrize("name", sorted(policies()))
def test_a_name_is_the_policys_own_and_its_environment_is_there(name: str) -> None:
    policy = find_policy(name)
    assert policy.name == name
    assert policy.environment in gymnasium.registry
    assert orders_of(policy.default_sizes)
