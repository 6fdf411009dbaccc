"""Action sets: only what mainline has, and more than it has. And what monitoring costs and shows."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from support.episodes import ENVIRONMENTS, MIB, PAGE, make, play, randomly, small_workload
from support.machines import SMALL_TLB

from thp_env.envs.actions import ACTION_SETS, ACTIONS, ADVICE
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS
from thp_env.envs.vma_task import VmaTask
from thp_env.machine import KIND_FOLIO, MachineConfig, Verb, layout
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

VMA, SYSTEM = list(VMA_FIELDS), list(SYSTEM_FIELDS)
OF_VMAS = [name for name in ENVIRONMENTS if isinstance(make(name).unwrapped.task, VmaTask)]
MADVISE = {"interface": "madvise", "window_ms": 0.2, "window_faults": 1 << 40}


def waves(n: int = 4, prot: str = "rw") -> Instance:
    """One VMA, 2 MiB of which are touched at a time."""
    b = ProgramBuilder("waves")
    b.mmap("a", 2 * n * MIB, prot=prot)
    for i in range(n):
        b.touch("a", 2 * i * MIB, 2 * MIB)
        b.compute(10)
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


def orders(env, first: int, last: int) -> set[int]:
    machine = env.unwrapped.machine
    pages = machine.pagemap(machine.process("P")[0], *machine.region("a"))[first // PAGE : last // PAGE]
    return set(pages["order"][pages["kind"] == KIND_FOLIO].tolist())


def test_advice_is_carried_out() -> None:
    env = make(workload=waves(), **MADVISE)
    seen, _ = env.reset(seed=0)
    assert env.action_space.n == len(ADVICE)
    assert seen["vma"][VMA.index("may_4K")]
    seen, *_ = env.step(ADVICE.index("hugepage"))
    assert orders(env, 0, 8 * MIB) == {9}
    assert seen["vma"][VMA.index("advised")]
    assert seen["vma"][VMA.index("may_2048K")]
    assert env.unwrapped.vma.flags & layout.VM_HUGEPAGE


def test_default_and_advised_sizes_are_two_things() -> None:
    for action, expected in (("normal", {4}), ("hugepage", {4, 9}), ("nohugepage", {0})):
        env = make(workload=waves(), **MADVISE, default_sizes="64K", advised="2M")
        env.reset(seed=0)
        over = False
        while not over:
            over = env.step(ADVICE.index(action))[2]
        assert orders(env, 0, 8 * MIB) <= expected, action
        assert max(expected) in orders(env, 0, 8 * MIB)


def test_one_may_change_ones_mind() -> None:
    env = make(workload=waves(), **MADVISE)
    env.reset(seed=0)
    env.step(ADVICE.index("nohugepage"))
    assert env.unwrapped.vma is not None, "advised away by the agent, not by the program"
    while orders(env, 2 * MIB, 4 * MIB) == set():
        env.step(ADVICE.index("normal"))
    env.step(ADVICE.index("hugepage"))
    while not env.step(ADVICE.index("normal"))[2]:
        pass
    assert orders(env, 0, 2 * MIB) == {0}
    assert orders(env, 6 * MIB, 8 * MIB) == {9}


def test_collapse() -> None:
    env = make(workload=waves(), **MADVISE)
    env.reset(seed=0)
    while orders(env, 2 * MIB, 4 * MIB) == set():
        env.step(ADVICE.index("normal"))
    assert env.unwrapped.action_masks()[ADVICE.index("collapse")]
    env.step(ADVICE.index("collapse"))
    assert orders(env, 0, 2 * MIB) == {9}
    assert env.unwrapped.machine.counters["thp_collapse_alloc"] >= 1
    assert env.unwrapped.reward_terms["fault_cost"] < 0


@pytest.mark.parametrize("env_id", ["thp_env/VmaOrder-v0", "thp_env/VmaHints-v0"])
def test_both_environments_have_it(env_id: str) -> None:
    with pytest.raises(ValueError, match=r"unknown interface 'ioctl': one of orders, orders\+, madvise"):
        make(env_id, interface="ioctl")
    with pytest.raises(ValueError, match="unknown advised '5M'"):
        make(env_id, interface="madvise", advised="5M")


@pytest.mark.parametrize("env_id", OF_VMAS)
@pytest.mark.parametrize("interface", ACTION_SETS)
def test_every_action_set_runs_in_every_environment_of_vmas(env_id: str, interface: str) -> None:
    env = make(env_id, workload=small_workload(), interface=interface)
    episode = play(env, randomly(0), seed=0)
    assert episode.infos[-1]["reason"] == "done"
    again = play(make(env_id, workload=small_workload(), interface=interface), randomly(0), seed=0)
    assert again.digest() == episode.digest()


# -- collapses to sizes below 2M -----------------------------------------------------------------------


def test_more_actions_leave_the_others_as_they_are() -> None:
    names = ACTION_SETS["orders+"].names
    assert names[: len(ACTIONS)] == ACTIONS
    added = ("16K", "32K", "64K", "128K", "256K", "512K", "1M", "walked")
    assert names[len(ACTIONS) :] == tuple(f"collapse_{name}" for name in added)
    episodes = [
        play(make(workload=small_workload(), interface=interface, default_sizes="64K"), lambda _: 12, seed=1)
        for interface in ("orders", "orders+")
    ]
    assert episodes[0].digest() == episodes[1].digest()


@pytest.mark.parametrize(("name", "order"), [("collapse_16K", 2), ("collapse_64K", 4), ("collapse_1M", 8)])
def test_a_collapse_fills_blocks_of_its_size(name: str, order: int) -> None:
    b = ProgramBuilder("sparse")
    b.mmap("a", 4 * MIB)
    b.touch("a", 0, 2 * MIB, stride=64 << 10)  # one page of each 64K
    b.compute(1e6)
    b.compute(10)
    env = make(workload=Instance(b.build(), MachineConfig(memory=64 * MIB)), interface="orders+", window_ms=0.5)
    env.reset(seed=0)
    action = env.unwrapped.task.actions.names.index(name)
    while not env.unwrapped.action_masks()[action]:
        env.step(0)
    assert orders(env, 0, 2 * MIB) == {0}
    env.step(action)
    assert orders(env, 0, 2 * MIB) == {order}
    machine = env.unwrapped.machine
    pages = machine.pagemap(machine.process("P")[0], *machine.region("a"))
    blocks = max(32 // (1 << max(order - 4, 0)), 2 * MIB // (4096 << order) if order >= 4 else 0)
    assert (pages["kind"] == KIND_FOLIO).sum() == blocks << order
    assert machine.counters.stat("collapse_alloc", order) == blocks
    assert env.unwrapped.reward_terms["fault_cost"] < 0, "copying takes time"


def test_a_decision_to_collapse_to_no_order_is_refused() -> None:
    env = make(workload=waves(), interface="orders+", window_ms=0.2)
    env.reset(seed=0)
    machine, vma = env.unwrapped.machine, env.unwrapped.vma
    for order in (0, 1, 10):
        assert machine.decide_range(vma.mm, vma.start, vma.end, Verb.COLLAPSE, order) == errno.EINVAL


# -- collapses where page walks were -------------------------------------------------------------------


def test_only_blocks_with_page_walks_are_collapsed() -> None:
    b = ProgramBuilder("hot")
    b.mmap("a", 32 * MIB)
    b.touch("a", 0, 32 * MIB)
    b.access("a", 6 * MIB, 4 * MIB, "uniform", 400_000, ns=1)
    b.compute(10)
    env = make(workload=Instance(b.build(), MachineConfig(memory=64 * MIB, core=SMALL_TLB)), interface="orders+",
               default_sizes="64K", reasons=["walks"], pmu_period=500, window_ms=0.5)  # fmt: skip
    env.reset(seed=0)
    action = env.unwrapped.task.actions.names.index("collapse_walked")
    over = False
    while not over and not env.unwrapped.action_masks()[action]:
        over = env.step(0)[2]
    while not over and env.unwrapped.machine.counters["thp_collapse_alloc"] < 2:
        over = env.step(action)[2]
    machine = env.unwrapped.machine
    order = machine.pagemap(machine.process("P")[0], *machine.region("a"))["order"]
    assert (order == 9).nonzero()[0].tolist() == list(range(3 * 512, 5 * 512))


# -- the price of seeing -----------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["thp_env/VmaOrder-v0", "thp_env/VmaHints-v0"])
def test_reading_less_costs_less(env_id: str) -> None:
    costs = {}
    for share in (1.0, 0.25):
        episode = play(make(env_id, workload=waves(16), scan_share=share, window_ms=1e6, window_faults=256), seed=0)
        costs[share] = -sum(terms["monitor_cost"] for terms in episode.terms)
        observations = [o["vma"] if "vma" in o else o["vmas"][0] for o in episode.observations[:-1]]
        resident = [o[VMA.index("resident")] for o in observations]
        assert abs(resident[-1] - 0.95) < 0.1, "what is seen of a share stands for the whole"
    assert costs[0.25] == pytest.approx(costs[1.0] / 4, rel=0.15)


def test_pmu_figures_are_sampled() -> None:
    def seen(period: int) -> tuple[list[float], list[int]]:
        env = make(pmu_period=period, workload=small_workload(), default_sizes="16K")
        figures, misses = [], []
        observation, _ = env.reset(seed=2)
        over = False
        while not over:
            window = env.unwrapped.task.snapshot.counters - env.unwrapped.task.last.counters
            figures.append(float(observation["system"][SYSTEM.index("l2_miss")]) * max(1, int(window["accesses"][0])))
            misses.append(int(window["dtlb_l2_miss"][0]))
            observation, _, over, *_ = env.step(0)
        return figures, misses

    exact, misses = seen(1)
    np.testing.assert_allclose(exact, misses, rtol=1e-5)
    coarse, _ = seen(500)
    assert all(round(value) % 500 == 0 for value in coarse)
    assert abs(sum(coarse) - sum(misses)) < 500
