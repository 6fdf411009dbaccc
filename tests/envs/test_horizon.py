"""How long a program is meant to run: its second half counts as often as it is repeated."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import make, play, randomly, small_program

from thp_env.envs.horizon import Horizon
from thp_env.envs.shadow import ShadowReward
from thp_env.machine.config import MachineConfig
from thp_env.traces import Program, parse_program
from thp_env.workload import Instance

OWN_SECONDS = 4e-3
TEXT = ("mmap a 8M\nwrite a 0 8M\n" + "access a 0 8M uniform count=4000 ns=200\n" * 5
        + "mmap b 8M\nwrite b 0 8M\ncompute 1us\n")  # fmt: skip


def program() -> Program:
    """Return a program of 4 ms of its own time, in five equal operations."""
    return parse_program(TEXT)


def workload() -> Instance:
    return Instance(program(), MachineConfig(memory=64 << 20))


def paid(horizon: float | None, sizes: str = "64K", **arguments) -> float:
    """Return the sum of an episode's rewards."""
    env = make(workload=workload(), default_sizes=sizes, horizon=horizon, window_ms=0.2, **arguments)
    return float(sum(play(env, "keep", seed=0).rewards))


def test_half_way_is_half_of_the_programs_own_time() -> None:
    p = program()
    assert p.own_ns.sum() / 1e9 == pytest.approx(OWN_SECONDS, rel=1e-3)
    touches = p.starts[2]
    assert p.half_way == pytest.approx(touches + 10_000, rel=1e-3), "in the middle of the third of five"
    assert p.starts[-1] == p.steps.sum()
    idle = parse_program("mmap a 4M\nwrite a 0 4M\n")
    assert idle.half_way == idle.steps.sum() / 2


@pytest.mark.parametrize(("seconds", "longer"), [(None, 0), (OWN_SECONDS / 2, 0), (2 * OWN_SECONDS, 2), (4e-1, 198)])
def test_how_often_the_second_half_is_repeated(seconds: float | None, longer: float) -> None:
    assert Horizon(seconds).longer(program()) == pytest.approx(longer, rel=2e-3, abs=1e-3)


def test_a_window_counts_by_where_it_lies() -> None:
    p, h = program(), Horizon(2 * OWN_SECONDS)
    since = np.array([0.0, p.half_way, p.half_way - 100, p.half_way + 5, p.half_way - 5])
    until = np.array([p.half_way, p.half_way + 10, p.half_way + 300, p.half_way + 5, p.half_way - 5])
    expected = 1 + h.longer(p) * np.array([0, 1, 0.75, 1, 0])
    assert h.factors([p] * 5, since, until) == pytest.approx(expected)
    assert (Horizon().factors([p] * 5, since, until) == 1).all()


def test_rewards_are_linear_in_the_repeats_and_equal_without_them() -> None:
    once, shorter = paid(None), paid(OWN_SECONDS / 4)
    assert shorter == once
    first, second = paid(2 * OWN_SECONDS), paid(3 * OWN_SECONDS)
    own = program().own_ns.sum() / 1e9
    later = (once - first) / Horizon(2 * OWN_SECONDS).longer(program())
    assert 0.3 * -once < later < 0.8 * -once, "the second half costs about half, and maps b"
    assert second == pytest.approx(once - later * Horizon(3 * OWN_SECONDS).longer(program()), rel=1e-9)
    assert own < 2 * OWN_SECONDS


@pytest.mark.parametrize("horizon", [None, 3 * OWN_SECONDS, 3600.0])
@pytest.mark.parametrize(("sizes", "setting"), [("4K", "2M"), ("2M", "64K")])
def test_savings_add_up_to_the_ratio_of_both_costs(horizon: float | None, sizes: str, setting: str) -> None:
    def reward_sum(default_sizes: str) -> float:
        return -paid(horizon, default_sizes, scan_share=0)

    env = ShadowReward(
        make(workload=workload(), default_sizes=sizes, horizon=horizon, window_ms=0.2, scan_share=0), setting=setting,
        scale=1.0, slices=4096, kind="log_ratio",
    )  # fmt: skip
    total = float(sum(play(env, "keep", seed=0).rewards))
    assert total == pytest.approx(np.log(reward_sum(setting) / reward_sum(sizes)), abs=0.02)


def test_the_shadows_own_setting_saves_nothing() -> None:
    env = make(workload=workload(), default_sizes="64K", horizon=3600.0, window_ms=0.2, scan_share=0)
    for kind in ("log_ratio", "symlog"):
        episode = play(ShadowReward(env, setting="64K", slices=4096, kind=kind), "keep", seed=0)
        assert sum(episode.rewards) == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("kind", ["log_ratio", "symlog"])
def test_a_restored_state_is_paid_the_same(kind: str) -> None:
    env = ShadowReward(make(workload=small_program(2), horizon=60.0, window_ms=0.1), kind=kind)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(6):
        env.step(int(rng.choice(np.flatnonzero(env.unwrapped.action_masks()))))
    state = env.unwrapped.clone_state()
    rewards = []
    for _ in range(2):
        env.unwrapped.restore_state(state)
        rewards.append([float(env.step(0)[1]) for _ in range(6)])
    assert rewards[0] == rewards[1]
    assert any(rewards[0])


def test_vector_environments_pay_the_same() -> None:
    import gymnasium

    arguments = {"workload": workload(), "horizon": 60.0, "window_ms": 0.2}
    many = gymnasium.make_vec("thp_env/VmaOrder-v0", num_envs=2, **arguments)
    one = make(**arguments)
    many.reset(seed=[5, 6])
    one.reset(seed=5)
    for _ in range(20):
        _, rewards, over, *_ = many.step(np.zeros(2, int))
        _, reward, ended, *_ = one.step(0)
        assert rewards[0] == reward
        if ended:
            break
    assert over[0] == ended


@pytest.mark.parametrize("horizon", [0, -1.0, float("nan"), float("inf"), 1e12, True, "1h"])
def test_what_is_no_time_is_refused(horizon: object) -> None:
    with pytest.raises(ValueError, match="horizon"):
        make(workload=workload(), horizon=horizon)


def test_random_episodes_end(  # a window in which nothing of the program happens counts by where it is
) -> None:
    episode = play(make(workload=small_program(3), horizon=1e6), randomly(0), seed=0)
    assert np.isfinite(episode.rewards).all()
