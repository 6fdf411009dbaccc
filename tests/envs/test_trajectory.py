"""Saved trajectories: replayed, they are the same; what was changed is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from support.episodes import ENVIRONMENTS, randomly, small_program, small_workload

from thp_env.envs.trajectory import COUNTERS, RecordTrajectory, Trajectory, TrajectoryError, replay, steps
from thp_env.traces import save_program


@pytest.fixture
def program(tmp_path: Path) -> str:
    save_program(small_program(), tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


def record(env_id: str, folder: Path, workload: str, episodes: int = 1, limit: int = 10_000, **arguments) -> list[Path]:
    env = RecordTrajectory(gymnasium.make(env_id, workload=workload, **arguments), folder)
    choose = randomly(0)
    for episode in range(episodes):
        env.reset(seed=7 if episode == 0 else None)
        over, taken = False, 0
        while not over and taken < limit:
            _, _, over, _, _ = env.step(choose(env))
            taken += 1
    env.close()
    return env.saved


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_a_replay_is_the_same(env_id: str, tmp_path: Path, program: str) -> None:
    saved = record(env_id, tmp_path / "t", program, episodes=2, window_ms=0.5)
    assert [p.name for p in saved] == ["trajectory-0.npz", "trajectory-1.npz"]
    for path in saved:
        t = Trajectory.load(path)
        assert t.env_id == env_id
        assert t.ended
        assert len(t.rewards) > 3
        assert replay(t) is None


def test_episodes_of_a_generator_draw_what_they_drew(tmp_path: Path) -> None:
    """The second episode goes on with the generator's stream, which the file holds."""
    first, second = (Trajectory.load(p) for p in record("thp_env/VmaOrder-v0", tmp_path, "hot_island", 2, limit=2))
    assert first.program != second.program
    assert not first.ended
    assert replay(first) is None
    assert replay(second) is None


@pytest.fixture
def trajectory(tmp_path: Path, program: str) -> Trajectory:
    (path,) = record("thp_env/VmaOrder-v0", tmp_path / "t", program, window_ms=0.5)
    return Trajectory.load(path)


def test_what_it_holds(trajectory: Trajectory, program: str) -> None:
    assert trajectory.arguments == {"workload": program, "window_ms": 0.5}
    assert trajectory.workload == "small"
    assert trajectory.reset == {"seed": 7}
    clock = trajectory.counters[:, COUNTERS.index("clock")]
    assert (np.diff(clock) > 0).all()
    times = [i for i, name in enumerate(COUNTERS) if name.startswith("time of ")]
    assert (trajectory.counters[:, times].sum(axis=1) == clock).all()
    environments = [env for env, _, _, _ in steps(trajectory)]
    assert len(environments) == len(trajectory.rewards) + 1


@pytest.mark.parametrize("name", ["pgfault", "anon_fault_alloc of order 4", "time of zeroing", "clock", "operation"])
def test_the_first_difference_is_named(trajectory: Trajectory, name: str) -> None:
    counters = trajectory.counters.copy()
    counters[3:, COUNTERS.index(name)] += 5
    now = int(trajectory.counters[3, COUNTERS.index(name)])
    assert replay(dataclasses.replace(trajectory, counters=counters)) == f"step 3: {name} is {now}, was {now + 5}"


def test_another_reward_is_named_and_a_rounding_is_not(trajectory: Trajectory) -> None:
    rewards = trajectory.rewards.copy()
    rewards[2] *= 1 + 1e-12
    assert replay(dataclasses.replace(trajectory, rewards=rewards)) is None
    rewards[2] *= 1 + 1e-6
    assert replay(dataclasses.replace(trajectory, rewards=rewards)).startswith("step 3: the reward is -")


def test_another_action_shows(trajectory: Trajectory) -> None:
    actions = np.zeros_like(trajectory.actions)
    assert replay(dataclasses.replace(trajectory, actions=actions)).startswith("step ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"program": "0"}, "draws another program"),
        ({"ended": False}, "the episode ended, and did not"),
        ({"arguments": {"workload": "hot_iland"}}, "hot_island"),
        ({"arguments": {"nonsense": 1}}, "nonsense"),
        ({"env_id": "thp_env/Gone-v0"}, "Gone"),
        ({"reset": {"rng": {"bit_generator": "MT19937"}}}, "random state"),
    ],
)
def test_what_cannot_be_run_again_is_said(trajectory: Trajectory, change: dict, message: str) -> None:
    assert message in replay(dataclasses.replace(trajectory, **change))


def test_an_action_that_is_none_is_said(trajectory: Trajectory) -> None:
    actions = trajectory.actions.copy()
    actions[1] = 99
    assert replay(dataclasses.replace(trajectory, actions=actions)).startswith("step 2: action")


def test_what_cannot_be_written_down_is_refused_at_once(tmp_path: Path) -> None:
    env = gymnasium.make("thp_env/VmaOrder-v0", workload=small_workload())
    with pytest.raises(TrajectoryError, match=r"workload=.*give a name or a file"):
        RecordTrajectory(env, tmp_path)
    with pytest.raises(TrajectoryError, match=r"thp_env's"):
        RecordTrajectory(gymnasium.make("CartPole-v1"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(TrajectoryError, match="cannot write to"):
        RecordTrajectory(gymnasium.make("thp_env/VmaOrder-v0"), tmp_path / "file")


def test_a_file_that_is_none_is_refused(tmp_path: Path, trajectory: Trajectory) -> None:
    whole = tmp_path / "whole.npz"
    trajectory.save(whole)
    with pytest.raises(TrajectoryError, match="no such file"):
        Trajectory.load(tmp_path / "gone.npz")
    for name, data in {
        "empty": b"", "text": b"hello", "cut": whole.read_bytes()[:-200],
        "program": (tmp_path / "small.npz").read_bytes(),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TrajectoryError, match=f"{name}: not a trajectory"):
            Trajectory.load(tmp_path / name)
    short = dataclasses.replace(trajectory, actions=trajectory.actions[:-1])
    short.save(whole)
    with pytest.raises(TrajectoryError, match="actions and"):
        Trajectory.load(whole)
    np.savez(whole, header=np.array([{}], object))
    with pytest.raises(TrajectoryError, match="not a trajectory"):
        Trajectory.load(whole)


def test_what_episodes_were_drawn_from_is_part_of_it(tmp_path: Path) -> None:
    env = RecordTrajectory(gymnasium.make("thp_env/VmaOrder-v0", workload="sqlite_memory"), tmp_path)
    env.unwrapped.set_workload(workload=["hot_island", "alloc_purge"], weights=[1, 3], size="tiny")
    env.reset(seed=0)
    env.step(0)
    env.reset(options={"workload": "make_tcc", "default_sizes": "64K"})
    env.step(0)
    env.unwrapped.set_workload(workload="sqlite_memory", surroundings="drawn")
    env.reset()
    env.step(0)
    env.close()
    assert len(env.saved) == 3
    assert len({Trajectory.load(path).workload for path in env.saved}) == 3
    assert [replay(Trajectory.load(path)) for path in env.saved] == [None] * 3
    with pytest.raises(TrajectoryError, match=r"workload=Program.* cannot be written down: give a name or a file"):
        env.reset(options={"workload": small_program()})  # in one line, however long the program
