"""Policies that look at memory control groups."""

from __future__ import annotations

from support.policies import before, play
from thp_agents.heuristics.mthp_ext import MthpExt
from thp_agents.heuristics.oppo import Oppo

from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

MIB = 1 << 20


def test_mthp_ext_looks_at_each_group() -> None:
    """A small group, a large one, and a large one that thrashes under a limit of its own."""
    b = ProgramBuilder("groups")
    b.swap(128 * MIB)
    names = ("small", "large", "thrashing")
    for i, name in enumerate(names):
        b.process = "P"
        b.fork(name)
        b.process = name
        b.cgroup(i + 1)
        b.mmap(name, 64 * MIB, align=2 * MIB)
        b.touch(name, 0, (8 if name == "small" else 20) * MIB)
    b.limit(18 * MIB, group=3)
    for _ in range(30):
        b.touch("thrashing", 0, 20 * MIB)
        b.compute(40e6)
    for name in names:
        b.process = name
        b.touch(name, 32 * MIB, 2 * MIB)
    policy = MthpExt(stall_ms=5)
    env, view = before(policy, Instance(b.build(), MachineConfig(memory=256 * MIB)))
    over = False
    while not over:
        over = env.step(policy.decide({}, view))[2]
    machine = env.unwrapped.machine
    found = {}
    for name in names:
        mm = machine.process(name)[0]
        pages = machine.pagemap(mm, machine.region(name)[0] + 32 * MIB, 2 * MIB)
        found[name] = set(pages["order"].tolist())
    assert found == {"small": {0}, "large": {9}, "thrashing": {0}}


def test_oppo_s_blacklist_is_of_control_groups() -> None:
    b = ProgramBuilder("services")
    b.cgroup(2)
    b.mmap("a", 2 * MIB, align=2 * MIB)
    b.touch("a", 0, 2 * MIB)
    for blacklist, faults in (((), 32), ((1,), 32), ((1, 2), 512)):
        policy = Oppo(blacklist=blacklist)
        env, view = before(policy, Instance(b.build(), MachineConfig(memory=64 * MIB, arch="arm64")))
        play(env, policy, view)
        assert view.counters("pgfault")["pgfault"] == faults, blacklist
