"""Vector environments: the trajectories of the single ones, in every autoreset mode, and what they refuse."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.episodes import ENVIRONMENTS, KINDS, first_action, make, small_workload, sparse

from thp_env.envs.shadow import ShadowReward, ShadowVectorReward

SHORT = {"window_ms": 0.5, "window_faults": 32}


def vector(env_id: str, n: int = 3, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **arguments: Any):
    arguments = {"workload": small_workload(), **SHORT, **arguments}
    return gymnasium.make_vec(env_id, num_envs=n, autoreset_mode=mode, **arguments)


def same(many: dict, i: int, one: dict) -> bool:
    return all(many[key].dtype == one[key].dtype and (many[key][i] == one[key]).all() for key in one)


def check_equal(envs, singles: list, mode: AutoresetMode, seeds: list[int], steps: int = 80) -> int:
    """Step both with the same random actions; return how many episodes ended."""
    rng = np.random.default_rng(1)
    seen, _ = envs.reset(seed=seeds)
    expected = [env.reset(seed=seed)[0] for env, seed in zip(singles, seeds, strict=True)]
    over, ended = np.zeros(len(singles), bool), 0
    for _ in range(steps):
        if mode == AutoresetMode.DISABLED and over.any():
            seen, _ = envs.reset(options={"reset_mask": over})
            expected = [env.reset()[0] if o else one for env, o, one in zip(singles, over, expected, strict=True)]
        assert all(same(seen, i, one) for i, one in enumerate(expected))
        masks = envs.unwrapped.action_masks()
        assert all((masks[i] == env.unwrapped.action_masks()).all() for i, env in enumerate(singles))
        space = envs.single_action_space
        actions = rng.integers(getattr(space, "nvec", getattr(space, "n", None)), size=envs.action_space.shape)
        seen, rewards, over_now, truncated, infos = envs.step(actions)
        assert not truncated.any()
        for i, env in enumerate(singles):
            if mode == AutoresetMode.NEXT_STEP and over[i]:
                expected[i], info = env.reset()
                assert (rewards[i], over_now[i]) == (0, False)
                assert infos["elapsed_ns"][i] == info["elapsed_ns"]
                continue
            expected[i], reward, terminated, _, info = env.step(actions[i])
            assert rewards[i] == reward
            assert over_now[i] == terminated
            if not terminated:
                assert infos["elapsed_ns"][i] == info["elapsed_ns"]
                continue
            ended += 1
            told = infos
            if mode == AutoresetMode.SAME_STEP:
                told = infos["final_info"]
                assert all((infos["final_obs"][i][key] == last).all() for key, last in expected[i].items())
                expected[i], _ = env.reset()
            assert told["_reason"][i]
            assert told["reason"][i] == info["reason"]
            assert {name: told["metrics"][name][i] for name in info["metrics"]} == info["metrics"]
        over = over_now.copy()
    return ended


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_trajectories_are_those_of_single_environments(env_id: str, mode: AutoresetMode) -> None:
    workloads = [[small_workload("a"), small_workload("b")], *(kind() for kind in KINDS.values())]
    envs = vector(env_id, len(workloads), mode, workloads=workloads, default_sizes="64K")
    singles = [make(env_id, workload=w, default_sizes="64K") for w in workloads]
    assert check_equal(envs, singles, mode, [5, 17, 2, 3, 11]) >= 3
    envs.unwrapped.validate()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_the_shadow_reward_is_that_of_single_environments(mode: AutoresetMode) -> None:
    workloads = [small_workload(), sparse(24)]
    envs = ShadowVectorReward(vector("thp_env/VmaOrder-v0", 2, mode, workloads=workloads))
    singles = [ShadowReward(make(workload=w)) for w in workloads]
    assert check_equal(envs, singles, mode, [5, 17]) >= 2


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_any_number_of_threads_gives_the_same(env_id: str) -> None:
    def run(threads: int) -> list:
        envs = vector(env_id, 4, threads=threads)
        envs.reset(seed=3)
        return [envs.step(np.stack([first_action(make(env_id))] * 4))[1].tolist() for _ in range(20)]

    assert run(1) == run(3)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_without_autoreset_a_mask_says_who_begins_anew(env_id: str) -> None:
    envs = vector(env_id, 2, AutoresetMode.DISABLED, workloads=[small_workload(), sparse(48)])
    envs.reset(seed=0)
    actions = np.stack([first_action(make(env_id))] * 2)
    over = np.zeros(2, bool)
    while not over.any():
        seen, _, over, _, _ = envs.step(actions)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
        envs.step(actions)
    again, _ = envs.reset(options={"reset_mask": over})
    for key, values in again.items():
        assert (values[~over] == seen[key][~over]).all(), "the other goes on"
    envs.step(actions)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_observations_of_two_steps_share_no_memory(env_id: str) -> None:
    envs = vector(env_id, 2)
    first, _ = envs.reset(seed=0)
    copy = {key: values.copy() for key, values in first.items()}
    second, *_ = envs.step(envs.action_space.sample())
    assert first in envs.observation_space
    assert second in envs.observation_space
    assert all((first[key] == copy[key]).all() for key in first)
    assert not any(np.shares_memory(first[key], second[key]) for key in first)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_bad_input_is_refused(env_id: str) -> None:
    envs = vector(env_id, 2)
    actions = np.stack([first_action(make(env_id))] * 2)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        envs.step(actions)
    envs.reset(seed=0)
    before = [envs.unwrapped.task.batch[i].save() for i in range(2)]
    for wrong in (actions[:1], actions + 99, actions - 1, actions.astype(float), "x"):
        with pytest.raises(ValueError, match="action"):
            envs.step(wrong)
    wrong = actions.copy()
    wrong[1] += 99
    with pytest.raises(ValueError, match=r"action of machine 1: .*99.* is not in the action space: take "):
        envs.step(wrong)
    assert [envs.unwrapped.task.batch[i].save() for i in range(2)] == before, "nothing has happened"
    with pytest.raises(TypeError, match="did you mean 'window_ms'"):
        vector(env_id, 2, wndow_ms=3)
    for arguments, word in (
        ({"num_envs": 0}, "num_envs"), ({"num_envs": 2, "workloads": ["hot_island"]}, "workloads"),
        ({"num_envs": 2, "autoreset_mode": "never"}, "never"), ({"num_envs": 2, "render_mode": "human"}, "render_mode"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            type(envs.unwrapped)(**arguments)
    with pytest.raises(ValueError, match="seed"):
        envs.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": [1, 0]})
    with pytest.raises(ValueError, match="unknown options speed"):
        envs.reset(options={"speed": 3})
