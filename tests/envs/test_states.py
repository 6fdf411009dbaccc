"""clone_state and restore_state: what comes after is the same, whatever happened in between, wherever it goes on."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.episodes import ENVIRONMENTS, KINDS, first_action, make, randomly, small_program, small_workload

from thp_env.envs.shadow import ShadowReward, ShadowVectorReward
from thp_env.envs.trajectory import RecordTrajectory, Trajectory, replay
from thp_env.machine import MachineError, saving
from thp_env.workload import Instance, Workload

pytestmark = pytest.mark.parametrize("env_id", ENVIRONMENTS)
SHORT = {"window_ms": 0.5, "window_faults": 32}


def trace(env: gymnasium.Env, seed: int, steps: int) -> list:
    """Step at random, over the ends of episodes, and return everything there is to see."""
    choose, seen = randomly(seed), []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(choose(env))
        masks = env.unwrapped.action_masks().tolist()
        seen.append(({k: v.tobytes() for k, v in observation.items()}, reward, terminated, truncated, info, masks,
                     dict(env.unwrapped.reward_terms)))  # fmt: skip
        if terminated or truncated:
            env.reset()
    return seen


@pytest.mark.parametrize(("kind", "before"), [("generator", 0), *((kind, 7) for kind in KINDS)])
def test_a_restored_episode_goes_on_in_the_same_way(env_id: str, kind: str, before: int) -> None:
    env = make(env_id, workload=KINDS[kind]())
    env.reset(seed=3)
    trace(env, 1, before)
    state = env.unwrapped.clone_state()
    terms, masks = dict(env.unwrapped.reward_terms), env.unwrapped.action_masks()
    first = trace(env, 2, 60)
    if kind == "generator":
        assert any(terminated for _, _, terminated, *_ in first), "random draws of the next episode are part of it"
    trace(env, 9, 5)
    for _ in range(2):
        env.unwrapped.restore_state(state)
        assert env.unwrapped.reward_terms == terms
        assert (env.unwrapped.action_masks() == masks).all()
        env.unwrapped.validate()
        assert trace(env, 2, 60) == first
    other = make(env_id, workload=KINDS[kind]())
    other.unwrapped.restore_state(state)
    assert trace(other, 2, 60) == first, "another environment, made alike, that was never reset"


@pytest.mark.parametrize("truncated", [False, True])
def test_an_ended_episode_stays_ended(env_id: str, truncated: bool) -> None:
    env = type(make(env_id).unwrapped)(small_workload(), max_episode_steps=3 if truncated else None, **SHORT)
    env.reset(seed=0)
    while not any(env.step(first_action(env))[2:4]):
        pass
    state = env.clone_state()
    env.reset()
    env.restore_state(state)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(first_action(env))


def test_the_time_limit_counts_from_where_the_state_stood(env_id: str) -> None:
    env = type(make(env_id).unwrapped)(small_workload(), max_episode_steps=5, **SHORT)
    env.reset(seed=0)
    for _ in range(2):
        env.step(first_action(env))
    state = env.clone_state()
    for _ in range(2):
        assert [env.step(first_action(env))[3] for _ in range(3)] == [False, False, True]
        env.restore_state(state)


def test_there_is_no_state_before_the_first_episode(env_id: str) -> None:
    env = make(env_id).unwrapped
    for ask in (env.clone_state, env.validate, env.summary):
        with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
            ask()
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        gymnasium.make_vec(env_id, num_envs=2, workload=small_workload()).unwrapped.clone_state()


def shadowed(env_id: str, **arguments: Any) -> ShadowReward:
    return ShadowReward(make(env_id, **arguments))


def test_the_same_actions_are_paid_the_same_under_a_shadow(env_id: str) -> None:
    env = shadowed(env_id)
    env.reset(seed=3)
    trace(env, 1, 6)
    state = env.unwrapped.clone_state()
    first = trace(env, 2, 60)
    assert any(terminated for _, _, terminated, *_ in first)
    for _ in range(2):
        env.unwrapped.restore_state(state)
        assert trace(env, 2, 60) == first
    other = shadowed(env_id)
    other.unwrapped.restore_state(pickle.loads(pickle.dumps(state)))
    assert trace(other, 2, 60) == first


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("shadow", [False, True])
def test_states_of_all_machines_are_restored_at_once(env_id: str, mode: AutoresetMode, shadow: bool) -> None:
    def made() -> gymnasium.vector.VectorEnv:
        envs = gymnasium.make_vec(env_id, num_envs=3, autoreset_mode=mode, workload=small_workload(), **SHORT)
        return ShadowVectorReward(envs) if shadow else envs

    def go_on(envs: gymnasium.vector.VectorEnv) -> list:
        envs.action_space.seed(5)
        seen = []
        for _ in range(40):
            observations, rewards, terminated, _, _ = envs.step(envs.action_space.sample())
            terms = [envs.unwrapped.reward_terms(i) for i in range(3)]
            shown = {key: values.tobytes() for key, values in observations.items()}
            seen.append((shown, rewards.tolist(), terminated.tolist(), terms))
        return seen

    envs = made()
    envs.reset(seed=1)
    for _ in range(3):
        envs.step(envs.action_space.sample())
    states = envs.unwrapped.clone_state()
    terms = [envs.unwrapped.reward_terms(i) for i in range(3)]
    first = go_on(envs)
    assert any(any(over) for _, _, over, _ in first)
    envs.unwrapped.restore_state(states)
    assert [envs.unwrapped.reward_terms(i) for i in range(3)] == terms
    assert go_on(envs) == first
    other = made()
    other.unwrapped.restore_state(pickle.loads(pickle.dumps(states)))
    assert go_on(other) == first, "a fresh one, from a pickle"
    single = shadowed(env_id) if shadow else make(env_id)
    single.unwrapped.restore_state(states[1])
    single.unwrapped.validate()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
@pytest.mark.parametrize("steps", [None, 0, 7])
@pytest.mark.parametrize("shadow", [False, True])
def test_environments_can_be_copied_at_any_moment(env_id: str, copied: Any, steps: int | None, shadow: bool) -> None:
    env = gymnasium.make(env_id, workload=small_workload_of_a_module(), render_mode="rgb_array", **SHORT)
    env = ShadowReward(env) if shadow else env
    if steps is not None:
        env.reset(seed=4)
        trace(env, 1, steps)
    other = copied(env)
    if steps is None:
        env.reset(seed=4)
        other.reset(seed=4)
    else:
        assert other.unwrapped.machine == env.unwrapped.machine
        assert (other.render() == env.render()).all()
    assert trace(other, 2, 50) == trace(env, 2, 50)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_environments_can_be_copied(env_id: str, copied: Any, mode: AutoresetMode) -> None:
    envs = ShadowVectorReward(gymnasium.make_vec(
        env_id, num_envs=2, autoreset_mode=mode, workload="sqlite_memory", threads=2, max_episode_steps=5, **SHORT
    ))  # fmt: skip
    envs.reset(seed=0)
    actions = np.zeros(envs.action_space.shape, np.int64)
    envs.step(actions)
    other = copied(envs)
    assert other.unwrapped.task.batch.threads == 2
    for _ in range(4):
        mine, theirs = envs.step(actions), other.step(actions)
        assert all((mine[0][key] == theirs[0][key]).all() for key in mine[0])
        assert (mine[1] == theirs[1]).all()
    assert mine[3].all()


def test_a_state_goes_to_another_process(env_id: str, tmp_path: Path) -> None:
    env = make(env_id, workload="sqlite_memory")
    env.reset(seed=0)
    trace(env, 1, 3)
    (tmp_path / "state").write_bytes(pickle.dumps(env.unwrapped.clone_state()))
    code = f"""
import pickle, gymnasium, thp_env
env = gymnasium.make({env_id!r}, workload="sqlite_memory", window_ms=0.5, window_faults=32)
env.unwrapped.restore_state(pickle.load(open("state", "rb")))
action = 0 * env.action_space.sample()
print([env.step(action)[1] for _ in range(5)])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == f"{[env.step(first_action(env))[1] for _ in range(5)]}\n", done.stderr


def test_a_state_can_be_pickled_whatever_the_workload_is(env_id: str) -> None:
    """What it was drawn from need not be: the state has the program."""
    program = small_program()
    workload = Workload("mine", "generator", "mine", "train", "a lambda", lambda rng: program)
    env = make(env_id, workload=workload)
    env.reset(seed=0)
    state = pickle.loads(pickle.dumps(env.unwrapped.clone_state()))
    first = trace(env, 2, 5)
    env.unwrapped.restore_state(state)
    assert env.unwrapped.workload.name == "mine"
    assert env.unwrapped.workload.draw(np.random.default_rng(0)).program == program
    assert trace(env, 2, 5) == first
    copy.deepcopy(env).reset()


def test_a_state_names_its_behaviour(env_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = make(env_id).unwrapped
    env.reset(seed=0)
    state, data = env.clone_state(), pickle.dumps(env.clone_state())
    monkeypatch.setattr(saving, "BEHAVIOUR", saving.BEHAVIOUR + 1)
    for go_on in (lambda: env.restore_state(state), lambda: pickle.loads(data)):
        with pytest.raises(MachineError, match=r"saved by behaviour \d+ of the simulator, this is \d+: save it anew"):
            go_on()


def test_what_does_not_fit_is_refused_and_changes_nothing(env_id: str) -> None:
    env, other = make(env_id), make(next(e for e in ENVIRONMENTS if e != env_id))
    for made in (env, other):
        made.reset(seed=0)
    before = env.unwrapped.machine.save()
    state = env.unwrapped.clone_state()
    under_4k = ShadowReward(make(env_id), setting="4K")
    under_4k.reset(seed=0)
    watched = ShadowReward(env)
    for wrong, message in (
        (other.unwrapped.clone_state(), "the state is of another environment: it is .*Task with"),
        (None, "NoneType is no saved state: take what clone_state"),
        ([state], "list is no saved state"),
        (state, r"has no account of ShadowReward\('64K'.*\(it has none\): clone it under the same wrapper"),
        (under_4k.unwrapped.clone_state(), r"no account of ShadowReward\('64K'.*it has ShadowReward\('4K'"),
    ):
        with pytest.raises(MachineError, match=message) as refused:
            watched.unwrapped.restore_state(wrong)
        assert "\n" not in str(refused.value)
        assert env.unwrapped.machine.save() == before
    del watched
    env.unwrapped.restore_state(state)
    env.unwrapped.restore_state(under_4k.unwrapped.clone_state())
    envs = gymnasium.make_vec(env_id, num_envs=2, workload=small_workload(), **SHORT).unwrapped
    for wrong in (state, [state]):
        with pytest.raises(ValueError, match="a list of 2 states, one for each machine"):
            envs.restore_state(wrong)


def test_a_trajectory_is_the_way_that_was_taken(env_id: str, tmp_path: Path) -> None:
    env = RecordTrajectory(gymnasium.make(env_id, workload="sqlite_memory", disable_env_checker=True), tmp_path)
    env.reset(seed=0)
    env.step(first_action(env))
    state = env.unwrapped.clone_state()
    for _ in range(3):
        env.step(env.action_space.sample())  # tried, and taken back
    env.unwrapped.restore_state(state)
    env.step(first_action(env))
    env.close()
    (path,) = env.saved
    trajectory = Trajectory.load(path)
    assert len(trajectory.actions) == 2
    assert replay(trajectory) is None


def _draw(rng: np.random.Generator) -> Instance:
    return small_workload().draw(rng)


def small_workload_of_a_module() -> Workload:
    """Return small programs from a function that pickle finds again."""
    return Workload("small", "generator", "small", "train", "small programs for tests", _draw)
