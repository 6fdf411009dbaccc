"""A policy's view: what it shows and what it hides, and the arguments that policies make environments with."""

from __future__ import annotations

import pytest
from support.episodes import MIB, small_program
from support.policies import Idle, before, mapped

from thp_env.machine import MachineConfig
from thp_env.workload import Instance


@pytest.mark.parametrize("name", ["nr_untouched", "untouched_page_us", "nr_unmapped", "shadow_walk_cycles"])
def test_the_simulators_truth_is_hidden(name: str) -> None:
    _, view = before(Idle(), mapped(MIB))
    with pytest.raises(KeyError, match="no kernel knows"):
        view.counters(name)
    assert not [n for n in dir(view) if not n.startswith("_") and n in ("machine", "workload", "env", "program")]


@pytest.mark.parametrize(
    "environment", ["thp_env/VmaOrder-v0", "thp_env/VmaHints-v0", "thp_env/SizeControls-v0", "thp_env/FaultOrder-v0"]
)
def test_doing_nothing_is_an_action_everywhere(environment: str) -> None:
    policy = Idle(environment=environment, arguments={}, default_sizes="64K")
    env, view = before(policy, Instance(small_program(), MachineConfig(memory=48 * MIB)))
    over = False
    while not over:
        assert env.action_space.contains(view.no_op)
        over = env.step(view.no_op)[2]
    assert view.counters("thp_fault_alloc")["thp_fault_alloc"] == 0
    assert env.machine.counters.stat("anon_fault_alloc", 4) > 0, "64K stay in force"


def test_without_scanning_nothing_is_read_and_nothing_paid() -> None:
    for share, paid in ((0, False), (1.0, True)):
        workload = Instance(small_program(), MachineConfig(memory=48 * MIB))
        env, view = before(Idle(arguments={"scan_share": share}), workload)
        over = False
        while not over:
            over = env.step(view.no_op)[2]
        assert (view.time_ns("monitoring") > 0) == paid


def test_switches_that_an_architecture_cannot_have_are_left_out() -> None:
    for arch, has in (("x86_64", False), ("arm64", True)):
        workload = Instance(small_program(), MachineConfig(memory=48 * MIB, arch=arch))
        env, _ = before(Idle(arguments={"features": "oppo-5.15"}), workload)
        features = env.machine.config.features
        assert {"pool_64k", "vma_64k", "fork_batch"} <= features
        assert ("entire_mapcount" in features) == has
