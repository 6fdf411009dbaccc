"""Ways to cheat: on a workload built for each, none is paid more than the best static setting."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from support.episodes import MIB, PAGE, Episode, make, play, small_program

from thp_env.envs.actions import ACTIONS, ORDER_MASKS
from thp_env.machine import Counters, MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

REWARDS = ("total_time", "balanced")
FRIENDS = ("4K", "16K", "64K", "2M", "16K+32K+64K", "all")
"""Static settings to compare with."""
MEMORY = ("memory_cost", "memory_waste", "pending_cost")
SPLITS = ("split_cost",)
OOM = ("oom_cost",)
LATER = ("pending_cost",)
"""Terms that stand between a cheat and its gain: without them it would win, or a test of it could not fail."""


def dense() -> Instance:
    """Memory that is filled and used: large folios pay."""
    b = ProgramBuilder("dense")
    b.mmap("a", 16 * MIB)
    for i in range(16):
        b.touch("a", i * MIB, MIB, content=40)
        b.access("a", 0, (i + 1) * MIB, "uniform", 300, ns=5, weight=100)
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


def untouched() -> Instance:
    """A page in every 2M is touched, and only the first few are used: there is no reach in the rest."""
    b = ProgramBuilder("untouched")
    b.mmap("a", 64 * MIB)
    for i in range(32):
        b.touch("a", i * 2 * MIB, PAGE, content=40)
        b.access("a", 0, PAGE, "uniform", 100, ns=5, weight=100)
        b.compute(1e6)
    return Instance(b.build(), MachineConfig(memory=128 * MIB))


def holes() -> Instance:
    """Memory that is filled, and of which every folio loses a part shortly before the end."""
    b = ProgramBuilder("holes")
    b.mmap("a", 16 * MIB)
    for i in range(8):
        b.touch("a", i * 2 * MIB, 2 * MIB, content=40)
    for i in range(0, 16 * MIB, 64 * 1024):
        b.advise("a", i, PAGE, "dontneed")
    for _ in range(3):
        b.compute(2e6)
        b.touch("a", 16 * MIB - PAGE, PAGE)  # a fault, so that it is asked about again
        b.advise("a", 16 * MIB - PAGE, PAGE, "dontneed")
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


def roomy() -> Instance:
    """A page in every 64K is used, then the process sleeps: 2M saves faults and walks, and wastes memory."""
    b = ProgramBuilder("roomy")
    b.mmap("a", 48 * MIB)
    b.touch("a", 0, 48 * MIB, stride=16 * PAGE)
    b.access("a", 0, 48 * MIB, "stride", 30_000, stride=16 * PAGE, weight=100)
    b.compute(20e9)
    return Instance(b.build(), MachineConfig(memory=128 * MIB))


def tight() -> Instance:
    """3 MiB are used for long in a machine of 24 MiB; in folios of 64K they would take 48, at once."""
    b = ProgramBuilder("tight")
    b.mmap("a", 48 * MIB)
    b.access("a", 0, PAGE, "uniform", 100)
    b.touch("a", 0, 48 * MIB, stride=16 * PAGE)
    for _ in range(10):
        b.access("a", 0, 48 * MIB, "stride", 3072, stride=16 * PAGE, weight=20)
        b.compute(1e9)
    return Instance(b.build(), MachineConfig(memory=24 * MIB))


WORKLOADS = {
    "dense": dense,
    "untouched": untouched,
    "holes": holes,
    "tight": tight,
    "roomy": roomy,
    "small": lambda: Instance(small_program(), MachineConfig(memory=48 * MIB)),
}


def played(workload: str, choose: str | Callable, reward: str | Callable, default_sizes: str = "4K") -> Episode:
    env = make(workload=instance(workload), reward=reward, default_sizes=default_sizes, window_ms=2, window_faults=64)
    return play(env, choose, seed=0)


def paid(workload: str, choose: str | Callable, reward: str | Callable, default_sizes: str = "4K") -> float:
    return sum(played(workload, choose, reward, default_sizes).rewards)


def without(episode: Episode, terms: tuple[str, ...]) -> float:
    """Return what an episode would be paid if there were no such terms."""
    return sum(value for of in episode.terms for name, value in of.items() if name not in terms)


@cache
def instance(workload: str) -> Instance:
    return WORKLOADS[workload]()


@cache
def best(workload: str, reward: str) -> Episode:
    """Return the best static setting's episode."""
    return max((played(workload, "keep", reward, sizes) for sizes in FRIENDS), key=lambda e: sum(e.rewards))


def alternating(*names: str) -> Callable:
    """Return a policy that goes from one action to the next at every decision."""
    asked = iter(range(1 << 30))
    return lambda env: ACTIONS.index(names[next(asked) % len(names)])


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("action", ["2M", "all"])
def test_2m_everywhere(action: str, reward: str) -> None:
    honest, cheat = best("roomy", reward), played("roomy", action, reward)
    assert without(cheat, MEMORY) > without(honest, MEMORY)
    assert sum(cheat.rewards) < sum(honest.rewards)
    assert paid("roomy", action, reward, "2M") < sum(honest.rewards)
    assert paid("roomy", "collapse", reward) < sum(honest.rewards)


def coverage(before: Counters, after: Counters, accesses: float) -> dict[str, float]:
    """Memory in folios of 2M: what a reward must not count."""
    return {"covered": float(after.stat("nr_anon", 9))}


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("action", ["2M", "all", "collapse"])
def test_huge_folios_over_memory_that_nobody_touches(action: str, reward: str) -> None:
    honest, cheat = best("untouched", reward), played("untouched", action, reward)
    assert paid("untouched", action, coverage) > 10, "a reward for coverage would be fooled"
    assert paid("untouched", "keep", coverage, "4K") == 0
    assert sum(cheat.rewards) < sum(honest.rewards)
    assert paid("untouched", action, reward, "2M") < sum(honest.rewards)


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("action", ["64K", "128K", "16K+32K+64K"])
def test_an_early_oom(action: str, reward: str) -> None:
    honest, died = best("tight", reward), played("tight", action, reward)
    assert (honest.infos[-1]["reason"], died.infos[-1]["reason"]) == ("done", "oom")
    if reward == "total_time":  # of the other only gains can be missed by dying
        assert without(died, OOM) > sum(honest.rewards)
    assert sum(died.rewards) < sum(honest.rewards)


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("names", [("2M", "4K"), ("64K", "split"), ("collapse", "split"), ("keep", "2M", "split")])
@pytest.mark.parametrize("workload", ["dense", "holes"])
def test_toggling_hints(workload: str, names: tuple[str, ...], reward: str) -> None:
    cheat = played(workload, alternating(*names), reward)
    assert sum(cheat.rewards) <= sum(best(workload, reward).rewards)
    if (workload, names[0]) == ("holes", "64K"):
        assert without(cheat, SPLITS) > without(best(workload, reward), SPLITS)


@pytest.mark.parametrize("reward", REWARDS)
def test_splits_left_for_after_the_end(reward: str) -> None:
    """Folios queued for splitting are charged at the end; splitting them oneself just before is no better."""
    honest = sum(best("holes", reward).rewards)
    left = played("holes", "keep", reward, "64K")
    assert without(left, LATER) > honest
    assert sum(left.rewards) <= honest
    todo = iter(["keep"] * (len(left.rewards) - 1) + ["split"])
    split = paid("holes", lambda _: ACTIONS.index(next(todo)), reward, "64K")
    assert split <= sum(left.rewards)


def test_no_constant_choice_beats_the_best_setting() -> None:
    """Whatever is asked for at each decision, and whatever the end charges, a fixed setting costs no more."""
    for workload in ("small", "dense"):
        most = max(paid(workload, "keep", "total_time", default) for default in ORDER_MASKS)
        for default in ORDER_MASKS:
            for action in ("4K", "64K", "2M", "split"):
                assert paid(workload, action, "total_time", default) <= most + 0.01 * abs(most), (default, action)
