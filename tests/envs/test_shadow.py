"""ShadowReward: what was saved against a run at a fixed setting."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import make, play, small_program, sparse

from thp_env.envs.shadow import ShadowReward, symlog
from thp_env.metrics import unfinished_cost

SETTINGS = ("4K", "64K", "2M")


def saved(setting: str, default_sizes: str, action: str = "keep", **arguments) -> float:
    """Return what an episode's rewards add up to before symlog, as a share of the shadow's cost."""
    arguments.setdefault("workload", small_program(1))
    env = ShadowReward(make(default_sizes=default_sizes, **arguments), setting=setting)
    rewards = np.array(play(env, action, seed=0).rewards)
    return float((np.sign(rewards) * np.expm1(abs(rewards))).sum() / env.accounts.scale)


def metrics(default_sizes: str) -> dict[str, float]:
    return play(make(workload=small_program(1), default_sizes=default_sizes), seed=0).infos[-1]["metrics"]


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("default_sizes", SETTINGS)
def test_an_episode_adds_up_to_the_share_that_was_saved(setting: str, default_sizes: str) -> None:
    shadow = metrics(setting)
    unwatched = shadow["cost_ns"] - shadow["monitor_cost"]  # the shadow is not observed
    # Reading accessed bits also undoes coalesced TLB entries, which the shadow keeps.
    assert saved(setting, default_sizes) == pytest.approx(1 - metrics(default_sizes)["cost_ns"] / unwatched, abs=0.02)


@pytest.mark.parametrize("setting", ["4K", "64K"])  # a fault of 2M is longer than a slice
def test_the_shadows_own_setting_saves_nothing_at_any_step(setting: str) -> None:
    env = ShadowReward(make(workload=small_program(1), default_sizes=setting), setting=setting, slices=4096)
    episode = play(env, seed=0)
    total = env.accounts.shadows[0].total / env.unwrapped.task.accesses[0]
    for reward, terms in zip(episode.rewards, episode.terms, strict=True):
        watched = terms["monitor_cost"] / total  # all that it does beyond the shadow
        assert reward == pytest.approx(symlog(env.accounts.scale * watched), abs=0.05)


@pytest.mark.parametrize("hook", ["bpf", "address"])
def test_a_shadow_answers_no_faults_and_runs_to_the_end(hook: str) -> None:
    """Whatever FaultOrder-v0 asks for, the shadow costs what the program costs at its setting."""
    env = ShadowReward(make("thp_env/FaultOrder-v0", workload=small_program(1), hook=hook), setting="64K")
    env.reset(seed=0)
    shadow, alone = env.accounts.shadows[0], metrics("64K")
    accesses = env.unwrapped.machine.program.work.sum()
    assert shadow.positions[-1] == shadow.program.starts[-1]
    assert shadow.total / accesses == pytest.approx(alone["cost_ns"] - alone["monitor_cost"], rel=0.02)


def test_decisions_are_paid() -> None:
    assert saved("64K", "4K", "2M") > saved("64K", "4K", "4K") + 0.1


def test_symlog() -> None:
    assert symlog(0) == 0
    assert symlog(np.e - 1) == pytest.approx(1)
    assert -symlog(-3.0) == symlog(3.0) == pytest.approx(np.log(4))


def test_seeds_and_resets_work_as_without_it() -> None:
    env = ShadowReward(make())
    first = play(env, "64K", seed=4).rewards
    play(env, "2M")
    assert play(env, "64K", seed=4).rewards == first


def test_the_shadow_leaves_the_machine_alone() -> None:
    plain, wrapped = make(), ShadowReward(make())
    play(plain, "64K", seed=4)
    play(wrapped, "64K", seed=4)
    assert plain.unwrapped.machine == wrapped.unwrapped.machine


@pytest.mark.parametrize("idle_ms", [0, 50])
def test_running_out_of_memory_never_pays(idle_ms: int) -> None:
    env = ShadowReward(make(workload=sparse(24, idle_ms), window_faults=8), setting="4K")
    died = play(env, "64K", seed=0)
    assert died.infos[-1]["reason"] == "oom"
    for action in ("4K", "16K"):
        finished = play(env, action, seed=0)
        assert finished.infos[-1]["reason"] == "done"
        assert sum(died.rewards) < sum(finished.rewards)


def test_what_did_not_run_is_charged_in_full() -> None:
    env = ShadowReward(make(workload=sparse(24, weight=1000), window_faults=8), setting="4K")
    episode = play(env, "64K", seed=0)
    rest = env.accounts.scale * unfinished_cost(env.unwrapped.machine) / env.accounts.shadows[0].total
    assert rest > 20, "more than symlog would let through"
    assert episode.rewards[-1] == pytest.approx(-rest, abs=2)


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown setting '5K'"):
        ShadowReward(make(), setting="5K")
