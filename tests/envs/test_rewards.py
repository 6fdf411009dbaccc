"""Rewards: what the presets add up to, a user's own, and running out of memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.episodes import MIB, PAGE, make, play, sparse

from thp_env.envs.actions import ACTIONS
from thp_env.envs.reward import balanced, checked_terms, resolve_reward, total_time
from thp_env.machine import Counters, Machine, MachineConfig, counters
from thp_env.machine.cores import core
from thp_env.machine.prices import Prices
from thp_env.metrics import run_metrics, unfinished_cost
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

COST_TERMS = {"walk_cost", "fault_cost", "split_cost", "swap_cost", "unmap_cost", "monitor_cost", "memory_cost"}


def snapshot(**values: int) -> Counters:
    """Return counters with the named events and times, all others zero."""
    vm, times = np.zeros(len(counters.VM_EVENTS), np.int64), np.zeros(len(counters.TIMES), np.int64)
    for name, value in values.items():
        if name in counters.TIMES:
            times[counters.TIMES.index(name)] = value
        else:
            vm[counters.VM_EVENTS.index(name)] = value
    return Counters(vm, np.zeros((10, len(counters.MTHP_STATS)), np.int64), times, int(times.sum()))


def test_total_time_by_hand() -> None:
    before = snapshot(translation=1000, compute=7, accesses=10)
    after = snapshot(
        translation=6000, fault=1000, zeroing=2000, copying=3000, splitting=4000, shootdown=5000, unmapping=6000,
        monitoring=7000, swapping=500, syscall=8000, compute=9000, accesses=110,
        resident_page_us=256 * 4096 * 1000,
    )  # fmt: skip
    # 4 GiB for 1 ms cost as much as 1 ms of a core.
    expected = {"walk_cost": 5, "fault_cost": 6, "split_cost": 9, "swap_cost": 0.5, "unmap_cost": 6, "monitor_cost": 7}
    expected["memory_cost"] = 1e6
    assert total_time(before, after, 100.0) == pytest.approx({k: -v / 100 for k, v in expected.items()})


def test_balanced_by_hand() -> None:
    before = snapshot(walk_cycles=100, shadow_walk_cycles=100, accesses=1000)
    after = snapshot(
        walk_cycles=300, shadow_walk_cycles=900, accesses=1500, splitting=2000, shootdown=1000,
        untouched_page_us=256 * 1000, unmapped_page_us=256 * 3000,
    )  # fmt: skip
    terms = balanced(before, after, 2000.0)
    assert terms == pytest.approx(
        {
            "tlb_reach": (1 - 200 / 800) * 500 / 2000,  # of this window, weighed by its share of the accesses
            "memory_waste": -4 * (1e6 / 4096) / 2000,  # 4 MiB-milliseconds
            "split_cost": -3 / 2000,
        }
    )
    assert balanced(after, after, 2000.0) == {"tlb_reach": 0, "memory_waste": 0, "split_cost": 0}


@pytest.mark.parametrize("action", ["keep", "64K", "2M", "split"])
def test_total_time_of_an_episode_is_the_cost_of_its_metrics(action: str) -> None:
    episode = play(make(), action, seed=1)
    metrics = episode.infos[-1]["metrics"]
    assert sum(episode.rewards) == pytest.approx(-metrics["cost_ns"], rel=1e-9)
    for term in COST_TERMS | {"pending_cost"}:
        assert sum(t.get(term, 0) for t in episode.terms) == pytest.approx(-metrics[term], rel=1e-9), term
    assert set(episode.terms[0]) == COST_TERMS
    assert set(episode.terms[-1]) == COST_TERMS | {"pending_cost"}
    assert metrics["cost_ns"] == pytest.approx(sum(metrics[t] for t in (*COST_TERMS, "pending_cost")))


def test_balanced_of_an_episode() -> None:
    env = make(reward="balanced")
    episode = play(env, "2M", seed=1)
    c, accesses = env.unwrapped.machine.counters, env.unwrapped.machine.program.work.sum()
    split = -c.time_ps("splitting", "shootdown") / 1000 / accesses
    assert sum(t["split_cost"] for t in episode.terms) == pytest.approx(split)
    waste = (c["untouched_page_us"] + c["unmapped_page_us"]) * Prices().memory / 256_000 / accesses
    assert waste > 0
    assert sum(t["memory_waste"] for t in episode.terms) == pytest.approx(-waste)
    assert 0.2 < sum(t["tlb_reach"] for t in episode.terms) < 1
    assert sum(t["tlb_reach"] for t in play(env, "4K", seed=1).terms) == pytest.approx(0, abs=0.01)


def test_metrics_by_hand() -> None:
    env = make()
    play(env, "64K", seed=2)
    machine = env.unwrapped.machine
    c = machine.counters
    metrics = run_metrics(machine, 1.0)
    ms = c.clock_ps / 1e9
    assert metrics["time_ms"] == ms
    assert metrics["resident_mib"] * ms * 1000 * 256 == pytest.approx(c["resident_page_us"])
    assert metrics["walk_cycles_per_access"] == c["walk_cycles"] / c["accesses"]
    assert metrics["peak_mib"] == c["peak_resident"] / 256
    assert "tlb_reach" not in metrics, "without the 4K shadow TLB there is no reach"
    # What is left: queued folios of 64K, split at the clock's prices, and waste for another 100 ms.
    queued = c.stat("nr_anon_partially_mapped", 4)
    clock = machine.config.clock
    left = queued * (clock["split_folio"] + 16 * clock["split_page"]) / 1000
    left += (c["nr_untouched"] + c["nr_unmapped"]) / 256 * 100 * Prices().memory
    assert queued > 0
    assert metrics["pending_cost"] == pytest.approx(left)


def test_a_reward_function_of_ones_own() -> None:
    calls = []

    def faults(before: Counters, after: Counters, accesses: float) -> dict[str, float]:
        calls.append((before, after, accesses))
        return {"faults": -float((after - before)["pgfault"])}

    env = make(reward=faults)
    episode = play(env, "64K", seed=0)
    assert sum(t["faults"] for t in episode.terms) == -env.unwrapped.machine.counters["pgfault"]
    assert {c[2] for c in calls} == {env.unwrapped.machine.program.work.sum()}
    for (_, after, _), (before, _, _) in itertools.pairwise(calls):
        assert (after.vm == before.vm).all(), "windows lie end to end"
        assert (after.times == before.times).all()
    assert env.unwrapped.machine.counters["shadow_walk_cycles"] > 0, "the shadow TLB is there to be used"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_term_that_is_not_finite_is_named(value: float) -> None:
    env = make(reward=lambda before, after, accesses: {"fine": 1.0, "broken": value})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"'broken'.*finite"):
        env.step(0)


@pytest.mark.parametrize("returned", [3.0, None, {"a": "b"}, {"a": None}, [1.0]])
def test_a_function_that_returns_no_terms_is_refused(returned: object) -> None:
    env = make(reward=lambda before, after, accesses: returned)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="reward"):
        env.step(0)


def test_terms_become_floats() -> None:
    terms = checked_terms({"a": 1, "b": np.float32(0.5)})
    assert terms == {"a": 1.0, "b": 0.5}
    assert {type(v) for v in terms.values()} == {float}
    assert checked_terms({}) == {}


# -- running out of memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("instance", [
    sparse(24), sparse(24, idle_ms=50), sparse(24, weight=1000), sparse(24, 500, 1000),
    sparse(24, 500, 1),
])  # fmt: skip
def test_running_out_of_memory_ends_the_episode_and_never_pays(instance: Instance) -> None:
    env = make(workload=instance, window_faults=8)
    finished = play(env, "4K", seed=0)
    assert finished.infos[-1]["reason"] == "done"
    died = play(env, "64K", seed=0)
    assert died.infos[-1]["reason"] == "oom"
    assert died.terms[-1]["oom_cost"] < 0
    assert sum(died.rewards) == pytest.approx(
        -died.infos[-1]["metrics"]["cost_ns"] + died.terms[-1]["oom_cost"], rel=1e-9
    )
    assert "oom_cost" not in finished.terms[-1]
    assert sum(died.rewards) < sum(finished.rewards)


@pytest.mark.parametrize("idle_ms", [0, 100])
@pytest.mark.parametrize("weight", [1, 1000])
def test_dying_costs_more_than_going_on_with_4k(idle_ms: int, weight: int) -> None:
    """Folios of 64K until shortly before memory is used up, then 4K to the end: that must be the better episode."""
    env = make(workload=sparse(32, idle_ms, weight), window_faults=8)
    died = play(env, "64K", seed=0)
    assert died.infos[-1]["reason"] == "oom"
    decisions = len(died.rewards)

    def turn_back(env) -> int:
        turn_back.asked += 1
        return ACTIONS.index("64K" if turn_back.asked <= decisions - 9 else "4K")

    turn_back.asked = 0
    finished = play(env, turn_back, seed=0)
    assert finished.infos[-1]["reason"] == "done"
    assert finished.rewards[: decisions - 9] == died.rewards[:-9]
    assert sum(died.rewards) < sum(finished.rewards)


def test_what_did_not_run_by_hand() -> None:
    b = ProgramBuilder("halves")
    b.mmap("a", 8 * MIB)
    b.touch("a", 0, 100 * PAGE)
    b.access("a", 0, PAGE, "uniform", 1000, ns=2, weight=10)
    b.compute(5000)
    b.access("a", 0, PAGE, "uniform", 10, ns=3, weight=1)
    machine = Machine(b.build(), MachineConfig(memory=16 * MIB))
    walk = sum(core("zen4").walk_cycles) * machine.config.clock["cycle"] / 1000
    fault = sum(machine.config.clock[n] for n in ("fault", "zero_page", "zap_folio", "zap_pte")) / 1000
    half = machine.clone()
    half.run(until_ps=50 * 1_780_000)
    op, done = half.position
    assert op == 1
    assert 40 < done < 60
    ns = (100 - done + 10010) * walk + (100 - done + 1010) * fault
    assert unfinished_cost(half) == pytest.approx(ns + 16 * Prices().memory * (ns + 25030) / 1e6)
    for ops, touches, accesses, steps, own in (
        (1, 100, 10010, 1010, 25030), (2, 0, 10010, 1010, 25030), (3, 0, 10, 10, 5030), (5, 0, 0, 0, 0),
    ):  # fmt: skip
        machine.run(ops=ops - machine.position[0])
        ns = (touches + accesses) * walk + (touches + steps) * fault
        assert unfinished_cost(machine) == pytest.approx(ns + 16 * Prices().memory * (ns + own) / 1e6)


def test_presets_have_versions() -> None:
    assert resolve_reward("total_time") == resolve_reward("total_time-v0") == (total_time, False)
    assert resolve_reward("balanced") == resolve_reward("balanced-v0") == (balanced, True)
    with pytest.raises(ValueError, match="unknown reward 'total_time-v9': one of balanced, total_time, balanced-v0"):
        resolve_reward("total_time-v9")
