"""What every registered environment must hold; a new one is tested here the day it is registered."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common import env_checker
from support.episodes import ENVIRONMENTS, KINDS, MIB, PAGE, first_action, make, play, randomly, small_workload

from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

pytestmark = pytest.mark.parametrize("env_id", ENVIRONMENTS)


@pytest.mark.parametrize("kind", KINDS)
def test_gymnasium_accepts_it(env_id: str, kind: str) -> None:
    env = gymnasium.make(env_id, workload=KINDS[kind](), disable_env_checker=False)
    check_env(env.unwrapped, skip_render_check=find_spec("pygame") is None)
    play(env, randomly(0), seed=0)  # the wrapper that `make` adds checks every step; a warning is an error


@pytest.mark.filterwarnings("ignore:.*unconventional shape")  # rows of VMAs or sizes: a wrapper makes them flat
@pytest.mark.parametrize("kind", KINDS)
def test_stable_baselines3_accepts_it(env_id: str, kind: str) -> None:
    env_checker.check_env(make(env_id, workload=KINDS[kind]()))


@pytest.mark.parametrize("workload", ["hot_island", "alloc_purge"])
def test_shipped_generators_run_in_it(env_id: str, workload: str) -> None:
    env = make(env_id, workload=workload, window_ms=200, window_faults=1 << 15)
    episode = play(env, randomly(0), seed=0)
    assert all(o in env.observation_space for o in episode.observations)
    assert episode.infos[-1]["reason"] in ("done", "oom")
    assert episode.infos[-1]["workload"] == workload


def test_a_seed_fixes_the_trajectory(env_id: str) -> None:
    env = make(env_id)
    first = play(env, randomly(1), seed=5)
    assert play(env, randomly(1), seed=5).digest() == first.digest(), "the same environment again"
    assert play(make(env_id), randomly(1), seed=5).digest() == first.digest(), "another environment"
    assert play(env, randomly(1), seed=6).digest() != first.digest()
    assert len(first.rewards) > 5


def test_reset_without_a_seed_goes_on_with_the_stream(env_id: str) -> None:
    env, other = make(env_id), make(env_id)
    mine = [play(env, seed=3).digest(), play(env).digest(), play(env).digest()]
    theirs = [play(other, seed=3).digest(), play(other).digest(), play(other).digest()]
    assert mine == theirs
    assert len(set(mine)) == 3, "every episode draws anew"


def test_each_episode_draws_one_of_several_workloads(env_id: str) -> None:
    def drawn() -> list[str]:
        env = make(env_id, workload=[small_workload(name) for name in "abc"])
        env.reset(seed=1)
        names = []
        for _ in range(20):
            env.reset()
            names.append(env.unwrapped.workload.name)
        return names

    assert drawn() == drawn()
    assert set(drawn()) == {"a", "b", "c"}


def test_a_reset_in_mid_episode_leaves_nothing_behind(env_id: str) -> None:
    env = make(env_id)
    play(env, randomly(2), limit=4, seed=1)
    assert play(env, randomly(1), seed=5).digest() == play(make(env_id), randomly(1), seed=5).digest()


def test_observations_stay_in_the_space_and_are_not_shared(env_id: str) -> None:
    env = make(env_id)
    episode = play(env, randomly(4), seed=4)
    assert all(o in env.observation_space for o in episode.observations)
    for earlier, later in zip(episode.observations, episode.observations[1:], strict=False):
        assert not any(np.shares_memory(earlier[k], later[k]) for k in earlier)
    assert len({o[k].tobytes() for o in episode.observations for k in o}) > len(episode.observations)


def test_a_window_can_be_measured_in_accesses(env_id: str) -> None:
    b = ProgramBuilder("steady")
    b.mmap("a", 4 * MIB)
    for i in range(20):  # faults in every window, since VmaOrder asks about VMAs that had some
        b.touch("a", i * 8 * PAGE, 8 * PAGE)
        b.access("a", 0, (i + 1) * 8 * PAGE, "uniform", 492)
    env = make(env_id, workload=b.build(), window_ms=1e6, window_faults=1 << 40, window_accesses=1000)
    env.reset(seed=0)
    seen, over = [env.unwrapped.machine.counters["accesses"]], False
    while not over:
        _, _, over, _, _ = env.step(first_action(env))
        seen.append(env.unwrapped.machine.counters["accesses"])
    assert max(np.diff(seen)) == 1000
    assert np.diff(seen).tolist().count(1000) >= 8


def test_observations_know_neither_the_future_nor_a_name(env_id: str) -> None:
    """Two programs that are alike for a while are seen alike for that while."""

    def beginning(name: str, future: str) -> tuple[ProgramBuilder, int]:
        b = ProgramBuilder(name, seed=1, description=name)
        b.mmap("a", 4 * MIB)
        b.mmap("b", 2 * MIB)
        for i in range(8):
            b.touch("a", i * MIB // 2, MIB // 2, content=40)
            b.access("a", 0, (i + 1) * MIB // 2, "zipf", 2000, ns=100, write=0.5)
            b.touch("b", i * MIB // 4, MIB // 8)
        common = len(b.build().ops)
        if future == "short":
            b.munmap("a", 0, 4 * MIB)
        else:
            b.mmap("c", 16 * MIB)
            b.touch("c", 0, 16 * MIB)
            b.access("c", 0, 16 * MIB, "uniform", 20_000, weight=100)
        return b, common

    seen = []
    for name, future in (("one", "short"), ("two", "long")):
        b, common = beginning(name, future)
        env = make(env_id, workload=Instance(b.build(), MachineConfig(memory=64 * MIB)), window_ms=0.2)
        choose, over, mine = randomly(3), False, [env.reset(seed=0)[0]]
        while not over and env.unwrapped.machine.position[0] < common:
            mine.append(env.step(choose(env))[0])
        seen.append(mine[:-1])  # the last window reaches beyond what they share
    assert len(seen[0]) == len(seen[1]) > 8
    for one, two in zip(*seen, strict=True):
        assert all((one[key] == two[key]).all() for key in one)


def test_the_reward_is_the_sum_of_its_terms(env_id: str) -> None:
    episode = play(make(env_id), randomly(7), seed=7)
    for reward, terms in zip(episode.rewards, episode.terms, strict=True):
        assert reward == pytest.approx(sum(terms.values()), rel=1e-12)
        assert all(isinstance(v, float) for v in terms.values())


def test_time_passes_and_adds_up(env_id: str) -> None:
    env = make(env_id)
    episode = play(env, seed=2)
    elapsed = [info["elapsed_ns"] for info in episode.infos]
    assert min(elapsed) > 0
    assert sum(elapsed) == pytest.approx(episode.infos[-1]["metrics"]["time_ms"] * 1e6, abs=len(elapsed))


def test_it_refuses_to_step_before_reset_and_after_the_end(env_id: str) -> None:
    env = make(env_id).unwrapped
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.step(first_action(env))
    play(env, seed=0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        env.step(first_action(env))


@pytest.mark.parametrize(
    "action", [-1, 14, 10**30, 1.5, 1.0, float("nan"), None, "2M", [1], np.array([1, 2]), [14] * 8, [-1] * 8, [0.5] * 8]
)
def test_it_refuses_what_is_no_action(env_id: str, action: object) -> None:
    env = make(env_id).unwrapped
    env.reset(seed=0)
    before = env.machine.save()
    with pytest.raises(ValueError, match=r"action .* is not in the action space: take .*whole number"):
        env.step(action)
    assert env.machine.save() == before, "nothing has happened"
    env.step(first_action(env))


@pytest.mark.parametrize("kind", [int, np.int64, np.int32, np.uint8, np.array])
def test_it_takes_every_kind_of_integer(env_id: str, kind: type) -> None:
    env = make(env_id).unwrapped
    env.reset(seed=0)
    env.step(kind(2) if isinstance(env.action_space, Discrete) else np.full(env.action_space.shape, kind(2)))


@pytest.mark.parametrize(
    "arguments",
    [
        {"reward": "nonsense"}, {"default_sizes": "3K"}, {"window_ms": 0}, {"window_ms": -1},
        {"window_ms": float("nan")},
        {"window_faults": 0}, {"window_accesses": 0}, {"scan_share": -0.1}, {"scan_share": 2}, {"pmu_period": 0},
        {"threads": 0}, {"window_faults": 1.5}, {"render_mode": "braille"}, {"workload": "hot_iland"},
        {"workload": []}, {"workload": 7},
    ],
)  # fmt: skip
def test_it_refuses_arguments_that_make_no_sense(env_id: str, arguments: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(arguments)))) as refused:
        type(make(env_id).unwrapped)(**arguments)
    assert "\n" not in str(refused.value)


def test_an_unknown_argument_names_the_nearest(env_id: str) -> None:
    with pytest.raises(TypeError, match=r"unknown argument wndow_ms: did you mean 'window_ms'\? There are .*workload"):
        make(env_id, wndow_ms=3)


def test_an_unknown_workload_names_the_nearest(env_id: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'hot_island'"):
        make(env_id, workload="hot_iland")


def test_make_imports_it_by_its_module(env_id: str) -> None:
    code = f"import gymnasium; gymnasium.make('thp_env:{env_id}').reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_its_docstring_is_its_page(env_id: str) -> None:
    cls = make(env_id).unwrapped.__class__
    headings = [line.strip()[3:] for line in cls.__doc__.splitlines() if line.strip().startswith("## ")]
    assert headings == [
        "Description", "Action Space", "Observation Space", "Rewards", "Starting State", "Episode End",
        "Information", "Arguments", "Version History", "References",
    ]  # fmt: skip
