"""Pictures of the vector environment: those of single environments, and films of them."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.episodes import ENVIRONMENTS, make, small_workload

pytestmark = pytest.mark.parametrize("env_id", ENVIRONMENTS)
SHORT = {"window_ms": 0.5, "window_faults": 32}


def vector(env_id: str, n: int = 2, **arguments) -> gymnasium.vector.VectorEnv:
    arguments = {"workload": small_workload(), "render_mode": "rgb_array", **SHORT, **arguments}
    return gymnasium.make_vec(env_id, num_envs=n, **arguments)


@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_each_machine_looks_as_the_single_environment(env_id: str, mode: str) -> None:
    envs = vector(env_id, render_mode=mode)
    singles = [make(env_id, render_mode=mode) for _ in range(2)]
    envs.reset(seed=3)
    for i, env in enumerate(singles):
        env.reset(seed=3 + i)
    actions = np.zeros(envs.action_space.shape, np.int64)
    over = np.zeros(2, bool)
    for _ in range(60):
        if over.any():
            break
        over = envs.step(actions)[2]
        for i, env in enumerate(singles):
            env.step(actions[i])
        shown = envs.render()
        assert isinstance(shown, tuple)
        assert all(np.array_equal(picture, env.render()) for picture, env in zip(shown, singles, strict=True))
    assert over.any()
    assert len(envs.call("render")) == 2
    assert np.array_equal(envs.unwrapped.render_machine(1), shown[1])


def test_a_new_episode_begins_a_new_picture(env_id: str) -> None:
    envs = vector(env_id, autoreset_mode=AutoresetMode.SAME_STEP, max_episode_steps=3, render_mode="ansi")
    envs.reset(seed=0)
    actions = np.zeros(envs.action_space.shape, np.int64)
    for _ in range(2):
        envs.step(actions)
    assert "decision 2" in envs.render()[0]
    envs.step(actions)
    assert "decision 0" in envs.render()[0]
    envs.unwrapped.restore_state(envs.unwrapped.clone_state())
    envs.render()


@pytest.mark.skipif(find_spec("moviepy") is None, reason="moviepy makes films")
def test_it_can_be_filmed(env_id: str, tmp_path: Path) -> None:
    from gymnasium.wrappers.vector import RecordVideo

    envs = RecordVideo(vector(env_id, max_episode_steps=3), str(tmp_path / "films"), episode_trigger=lambda i: i == 0)
    envs.reset(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of moviepy
        for _ in range(5):
            envs.step(np.zeros(envs.action_space.shape, np.int64))
        envs.close()
    assert [path.suffix for path in (tmp_path / "films").iterdir()] == [".mp4"]


def test_what_cannot_be_shown_is_refused(env_id: str) -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        vector(env_id).render()
    for mode in ("human", "braille"):
        with pytest.raises(ValueError, match=f"render_mode '{mode}' is not supported by vector environments: one of"):
            type(vector(env_id).unwrapped)(2, render_mode=mode)
    with pytest.warns(UserWarning, match='make the environment with render_mode="rgb_array"'):
        assert vector(env_id, render_mode=None).render() is None
