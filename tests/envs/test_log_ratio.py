"""ShadowReward(kind="log_ratio"): returns are logs of cost ratios, at every moment, whoever is credited."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from support.episodes import ENVIRONMENTS, MIB, make, play, randomly, small_program, small_workload, sparse
from thp_workloads.splits import FAMILIES

from thp_env.envs.actions import ACTIONS
from thp_env.envs.shadow import ShadowReward, ShadowVectorReward, logarithmic_mean
from thp_env.machine import MachineConfig
from thp_env.machine.prices import Prices, cost_terms
from thp_env.metrics import unfinished_cost
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance, Workload, workloads

SETTINGS = ("4K", "64K", "16K+32K+64K", "2M", "all")


def wrapped(env: gymnasium.Env, setting: str = "64K") -> ShadowReward:
    return ShadowReward(env, setting, kind="log_ratio")


def begun(env_id: str) -> dict[str, str]:
    """Return the arguments that let an episode begin as its shadow does: SizeControls-v0 decides after a window."""
    return {"default_sizes": "64K"} if "SizeControls" in env_id else {}


def whole_cost(workload: Any, default: str, **arguments: Any) -> float:
    """Return what a program costs at a fixed setting, in ns per access, from a run of its own without a shadow."""
    episode = play(make(workload=workload, default_sizes=default, scan_share=0, **arguments), seed=0)
    return episode.infos[-1]["metrics"]["cost_ns"]


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_an_episode_adds_up_to_the_log_of_both_costs(env_id: str) -> None:
    env = wrapped(make(env_id, workload=small_program(1), **begun(env_id)))
    episode = play(env, randomly(5), seed=0)
    cost = episode.infos[-1]["metrics"]["cost_ns"]
    expected = 10 * np.log(whole_cost(small_program(1), "64K") / cost)
    assert abs(expected) > 0.1
    assert sum(episode.rewards) == pytest.approx(expected, abs=0.01)


def test_it_adds_up_at_every_moment() -> None:
    env = wrapped(make(workload=small_program(1), window_faults=4))
    env.reset(seed=0)
    choose, so_far, over, moments = randomly(3), 0.0, False, 0
    shadow, machine = env.accounts.shadows[0], env.unwrapped.machine
    while not over:
        reward, over = env.step(choose(env))[1:3]
        so_far += reward
        if not over:
            rest = shadow.total - shadow.cost_at(*machine.position)
            cost = sum(cost_terms(machine.counters, Prices()).values()) + rest
            assert so_far == pytest.approx(10 * np.log(shadow.total / cost), abs=1e-9)
            moments += 1
    assert moments > 20


@pytest.mark.parametrize("credit", ["global", "local", 0.3])
def test_a_vector_is_paid_as_the_single_environment(credit: str | float) -> None:
    arguments = {"workload": small_workload(), "window_ms": 0.5, "window_faults": 32, "credit": credit}
    envs = ShadowVectorReward(gymnasium.make_vec(
        "thp_env/VmaOrder-v0", 3, vectorization_mode="vector_entry_point", autoreset_mode="SameStep", **arguments
    ), kind="log_ratio")  # fmt: skip
    singles = [wrapped(make(credit=credit)) for _ in range(3)]
    envs.reset(seed=7)
    for i, env in enumerate(singles):
        env.reset(seed=7 + i)
    rng, ends = np.random.default_rng(1), 0
    for _ in range(150):
        actions = rng.integers(len(ACTIONS), size=3)
        _, rewards, over, *_ = envs.step(actions)
        for i, env in enumerate(singles):
            _, reward, done, *_ = env.step(int(actions[i]))
            assert reward == rewards[i]
            assert done == over[i]
            if done:
                env.reset()
                ends += 1
    assert ends > 2


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_it_adds_up_from_a_restored_state(env_id: str) -> None:
    env = wrapped(make(env_id, workload=small_program(1), **begun(env_id)))
    env.reset(seed=0)
    choose, before = randomly(5), 0.0
    for _ in range(5):
        before += env.step(choose(env))[1]
    state = env.unwrapped.clone_state()
    for other in (1, 2):
        env.unwrapped.restore_state(state)
        choose, total, over = randomly(other), before, False
        while not over:
            _, reward, over, _, info = env.step(choose(env))
            total += reward
        expected = 10 * np.log(whole_cost(small_program(1), "64K") / info["metrics"]["cost_ns"])
        assert total == pytest.approx(expected, abs=0.01)


def test_running_out_of_memory_counts_with_all_that_did_not_run() -> None:
    env = wrapped(make(workload=sparse(24, weight=1000), window_faults=8), "4K")
    episode = play(env, "64K", seed=0)
    end = episode.infos[-1]
    assert end["reason"] == "oom"
    accesses = env.unwrapped.task.accesses[0]
    cost = end["metrics"]["cost_ns"] * accesses + unfinished_cost(env.unwrapped.machine)
    expected = 10 * np.log(env.accounts.shadows[0].total / cost)
    assert sum(episode.rewards) == pytest.approx(expected, rel=1e-6)
    assert expected < -10


def tiny(family: str) -> list[Workload]:
    return [w.variant("tiny") for w in workloads().values() if w.family == family and w.kind == "generator"]


@pytest.mark.parametrize("family", [f for side in FAMILIES.values() for f in side if tiny(f)])
def test_fixed_settings_rank_by_return_as_by_cost(family: str) -> None:
    for workload in tiny(family):
        instance = workload.draw(np.random.default_rng(4))
        returns, costs = {}, {}
        for setting in SETTINGS:
            env = wrapped(gymnasium.make("thp_env/VmaOrder-v0", workload=instance, default_sizes=setting, scan_share=0,
                                         disable_env_checker=True), "all")  # fmt: skip
            episode = play(env, seed=0)
            returns[setting] = sum(episode.rewards)
            costs[setting] = episode.infos[-1]["metrics"]["cost_ns"]
        assert sorted(SETTINGS, key=returns.__getitem__) == sorted(SETTINGS, key=costs.__getitem__, reverse=True)
        gaps = [returns[s] - returns["all"] for s in SETTINGS]
        np.testing.assert_allclose(gaps, [10 * np.log(costs["all"] / costs[s]) for s in SETTINGS], atol=0.02)


def two_heaps() -> Instance:
    """Two VMAs that are touched and used, wave after wave: "a" sparsely, "b" densely."""
    b = ProgramBuilder("two heaps")
    b.mmap("a", 8 * MIB)
    b.mmap("b", 8 * MIB, prot="r")  # another VMA, which is not merged
    b.mprotect("b", 0, 8 * MIB, "rw")
    for wave in range(8):
        b.touch("a", wave * MIB, MIB, stride=16 * 4096)
        b.touch("b", wave * MIB, MIB)
        b.access("b", 0, (wave + 1) * MIB, "uniform", 2000, ns=2, weight=20)
        b.compute(3e6)
    return Instance(b.build(), MachineConfig(memory=96 * MIB))


def local(choose: Any, credit: str | float = "local", default: str = "4K") -> list[tuple[bool, float, float]]:
    """Return, of each step but the last: whether it was about "a", the reward, and the whole's."""
    env = wrapped(make(workload=two_heaps(), credit=credit, default_sizes=default, scan_share=0), "4K")
    twin = wrapped(make(workload=two_heaps(), default_sizes=default, scan_share=0), "4K")
    found, over = [], False
    env.reset(seed=0)
    twin.reset(seed=0)
    while not over:
        about_a = env.unwrapped.vma.start == env.unwrapped.machine.region("a")[0]
        action = ACTIONS.index(choose(about_a))
        _, reward, over, *_ = env.step(action)
        found.append((about_a, reward, twin.step(action)[1]))
    assert reward == found[-1][2], "the last step is paid globally"
    return found[:-1]


def test_local_credit_is_for_the_vma_decided_about() -> None:
    steps = local(lambda about_a: "2M" if about_a else "keep")
    of_a, of_b = (np.array([reward for a, reward, _ in steps if a is about]) for about in (True, False))
    whole = sum(w for *_, w in steps)
    assert whole < -1, "2M is wrong for a VMA that is touched sparsely"
    assert of_a.sum() < -0.3
    assert abs(of_b.sum()) < 0.15, "nothing was done to the other"
    assert len(of_b) > 4


def test_blended_credit_lies_between() -> None:
    def choose(about_a: bool) -> str:
        return "2M" if about_a else "64K"

    own, half = local(choose), local(choose, 0.5)
    for (_, mine, whole), (_, blended, _) in zip(own, half, strict=True):
        assert blended == pytest.approx((mine + whole) / 2, abs=1e-9)


def test_the_shares_of_one_vma_are_the_whole() -> None:
    b = ProgramBuilder("one")
    b.mmap("a", 8 * MIB)
    for i in range(8):
        b.touch("a", i * MIB, MIB)
        b.access("a", 0, MIB * (i + 1), "uniform", 2000, ns=2)
        b.compute(2e6)
    workload = Instance(b.build(), MachineConfig(memory=64 * MIB))

    def rewards(credit: str) -> np.ndarray:
        env = wrapped(make(workload=workload, credit=credit, scan_share=0), "4K")
        return np.array(play(env, "2M", seed=0).rewards[:-1])

    whole, own = rewards("global"), rewards("local")
    assert abs(whole.sum()) > 1
    assert len(whole) > 3
    np.testing.assert_allclose(own.sum(), whole.sum(), rtol=0.1)


def test_the_logarithmic_mean_makes_parts_add_up() -> None:
    before, after = np.array([5.0, 2.0, 1.0]), np.array([3.0, 2.5, 0.25])
    mean = logarithmic_mean(before.sum(), after.sum())
    assert ((before - after) / mean).sum() == pytest.approx(np.log(before.sum() / after.sum()))
    assert logarithmic_mean(2.0, 2.0) == 2.0
    assert 2.0 < logarithmic_mean(3.0, 2.0) < 3.0


def test_unknown_kinds_are_refused_and_states_are_of_their_kind() -> None:
    with pytest.raises(ValueError, match="unknown kind 'log': one of symlog, log_ratio"):
        ShadowReward(make(), kind="log")
    with pytest.raises(ValueError, match="kept must be a whole number from 1 on, not 0"):
        ShadowReward(make(), kept=0)
    squeezed, env = ShadowReward(make()), wrapped(make())
    squeezed.reset(seed=0)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"has no account of ShadowReward.*kind='log_ratio'"):
        env.unwrapped.restore_state(squeezed.unwrapped.clone_state())
