"""Time limits: the same alone, under Gymnasium's wrapper, in the vector environment and for Stable-Baselines3."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from support.episodes import ENVIRONMENTS, make, play, small_workload, sparse

from thp_env.envs.shadow import ShadowReward, ShadowVectorReward
from thp_env.envs.wrapping import EpisodeSummary, TimeVectorDiscount

pytestmark = pytest.mark.parametrize("env_id", ENVIRONMENTS)
SHORT = {"window_ms": 0.5, "window_faults": 32}
LIMIT = 4


def limited(env_id: str, **arguments: Any) -> gymnasium.Env:
    """Return an environment with a limit of its own, as its class is made without `gymnasium.make`."""
    arguments = {"workload": small_workload(), "max_episode_steps": LIMIT, **SHORT, **arguments}
    return type(make(env_id).unwrapped)(**arguments)


def vector(env_id: str, mode: AutoresetMode, n: int = 2, **arguments: Any) -> gymnasium.vector.VectorEnv:
    arguments = {"workload": small_workload(), "max_episode_steps": LIMIT, **SHORT, **arguments}
    return gymnasium.make_vec(env_id, num_envs=n, autoreset_mode=mode, **arguments)


def test_it_is_gymnasiums_limit_and_tells_more(env_id: str) -> None:
    env = limited(env_id)
    wrapped = gymnasium.make(env_id, workload=small_workload(), max_episode_steps=LIMIT, **SHORT)
    mine, theirs = play(env, seed=0), play(wrapped, seed=0)
    assert len(mine.rewards) == LIMIT
    assert mine.rewards == theirs.rewards
    last = mine.infos[-1]
    assert last["reason"] == "time_limit"
    assert {k: last[k] for k in ("reason", "workload", "metrics")} == wrapped.unwrapped.summary()
    assert play(EpisodeSummary(wrapped), seed=0).infos == mine.infos
    assert last["metrics"]["time_ms"] == pytest.approx(sum(info["elapsed_ns"] for info in mine.infos) / 1e6, rel=1e-5)
    assert not {"pending_cost", "oom_cost"} & set(mine.terms[-1]), "the episode could go on: nothing is settled"


def test_the_end_of_the_program_counts_at_the_limit_too(env_id: str) -> None:
    whole = len(play(make(env_id), seed=0).rewards)
    env = limited(env_id, max_episode_steps=whole)
    env.reset(seed=0)
    ends = [env.step(np.zeros(env.action_space.shape, np.int64)[()])[2:] for _ in range(whole)]
    assert ends[-1][:2] == (True, True), "as Gymnasium's wrapper has it"
    assert ends[-1][2]["reason"] == "done"


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("shadow", [False, True])
def test_every_mode_has_final_observations_and_infos(env_id: str, mode: AutoresetMode, shadow: bool) -> None:
    workloads = [small_workload(), sparse(48)]
    envs = vector(env_id, mode, workloads=workloads, workload="hot_island")
    singles = [limited(env_id, workload=w) for w in workloads]
    if shadow:
        envs, singles = ShadowVectorReward(envs), [ShadowReward(env) for env in singles]
    seen, _ = envs.reset(seed=[3, 4])
    for env, seed in zip(singles, (3, 4), strict=True):
        env.reset(seed=seed)
    action = np.zeros(envs.single_action_space.shape, np.int64)
    cut = np.zeros(2, bool)
    ended = 0
    for _ in range(4 * LIMIT):
        if mode == AutoresetMode.DISABLED and cut.any():
            with pytest.raises(gymnasium.error.ResetNeeded, match="reset_mask"):
                envs.step(np.stack([action] * 2))
            seen, _ = envs.reset(options={"reset_mask": cut})
            for i in np.flatnonzero(cut):
                singles[i].reset()
            cut[:] = False
        began = cut if mode == AutoresetMode.NEXT_STEP else np.zeros(2, bool)
        seen, rewards, terminated, truncated, infos = envs.step(np.stack([action] * 2))
        for i, env in enumerate(singles):
            if began[i]:
                expected, _ = env.reset()
                assert (rewards[i], terminated[i], truncated[i]) == (0, False, False)
            else:
                expected, reward, over, late, info = env.step(action[()])
                assert (rewards[i], terminated[i], truncated[i]) == (reward, over, late)
                if over or late:
                    ended += 1
                    told = infos["final_info"] if mode == AutoresetMode.SAME_STEP else infos
                    assert told["reason"][i] == info["reason"]
                    assert told["elapsed_ns"][i] == info["elapsed_ns"]
                    assert {name: told["metrics"][name][i] for name in info["metrics"]} == info["metrics"]
                    if mode == AutoresetMode.SAME_STEP:
                        assert all((infos["final_obs"][i][k] == expected[k]).all() for k in expected)
                        expected, _ = env.reset()
            assert all((seen[k][i] == expected[k]).all() for k in expected)
        cut = terminated | truncated
    assert ended >= 6


def test_registered_specs_and_make_vec_limit_the_native_environment(env_id: str) -> None:
    name = f"tests/{env_id.partition('/')[2]}"
    spec = gymnasium.spec(env_id)
    gymnasium.register(name, entry_point=spec.entry_point, vector_entry_point=spec.vector_entry_point,
                       kwargs={"workload": small_workload(), **SHORT}, max_episode_steps=LIMIT)  # fmt: skip
    try:
        for envs in (gymnasium.make_vec(name, num_envs=2), vector(env_id, AutoresetMode.NEXT_STEP)):
            assert envs.unwrapped.task.max_episode_steps == LIMIT
            envs.reset(seed=0)
            actions = np.zeros(envs.action_space.shape, np.int64)
            assert [envs.step(actions)[3].all() for _ in range(LIMIT)] == [False] * (LIMIT - 1) + [True]
    finally:
        del gymnasium.registry[name]


def test_discounts_are_those_of_the_step_that_was_cut(env_id: str) -> None:
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        envs = TimeVectorDiscount(vector(env_id, mode), 0.5)
        env = limited(env_id)
        envs.reset(seed=0)
        env.reset(seed=0)
        actions = np.zeros(envs.action_space.shape, np.int64)
        for _ in range(LIMIT):
            infos, info = envs.step(actions)[4], env.step(actions[0])[4]
            assert infos["discount"][0] == 0.5 ** (info["elapsed_ns"] / 1e9)
        if mode == AutoresetMode.SAME_STEP:
            assert infos["final_info"]["discount"][0] == infos["discount"][0]
        else:
            assert envs.step(actions)[4]["discount"].tolist() == [1, 1], "nothing happened but a reset"


@pytest.mark.parametrize("limit", [0, -1, 1.5, "7", True, float("nan")])
def test_a_limit_that_makes_no_sense_is_refused(env_id: str, limit: Any) -> None:
    for made in (lambda: limited(env_id, max_episode_steps=limit),
                 lambda: vector(env_id, AutoresetMode.NEXT_STEP, max_episode_steps=limit)):  # fmt: skip
        with pytest.raises(ValueError, match="max_episode_steps must be a whole number from 1 on, not"):
            made()
