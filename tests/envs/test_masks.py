"""Masks where tools look for them, and how algorithms without masks are kept from what has no effect."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from support.episodes import ENVIRONMENTS, first_action, make, play, randomly, small_workload

from thp_env.envs.shadow import ShadowVectorReward
from thp_env.envs.wrapping import EffectiveActions, EffectiveVectorActions, TimeDiscount, TimeVectorDiscount

pytestmark = pytest.mark.parametrize("env_id", ENVIRONMENTS)
SHORT = {"window_ms": 0.5, "window_faults": 32}


def vector(env_id: str, n: int = 3, **arguments: Any) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(env_id, num_envs=n, **{"workload": small_workload(), **SHORT, **arguments})


def allowed(space: gymnasium.Space, masks: np.ndarray, action: Any) -> bool:
    if isinstance(space, Discrete):
        return bool(masks[action])
    return all(part[a] for part, a in zip(np.split(masks, np.cumsum(space.nvec)[:-1]), action, strict=True))


def test_every_info_has_the_masks(env_id: str) -> None:
    env, choose = make(env_id, info_masks=True), randomly(3)
    _, info = env.reset(seed=1)
    over = False
    while not over:
        assert info["action_mask"].dtype == np.int8
        assert (info["action_mask"] == env.unwrapped.action_masks()).all()
        _, _, over, _, info = env.step(choose(env))
    assert "action_mask" in info
    assert "action_mask" not in make(env_id).reset(seed=1)[1], "only where it is asked for"


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_infos_have_them_too(env_id: str, mode: AutoresetMode) -> None:
    envs = vector(env_id, info_masks=True, autoreset_mode=mode, max_episode_steps=5)
    _, infos = envs.reset(seed=1)
    envs.action_space.seed(0)
    for _ in range(12):
        assert infos["_action_mask"].all()
        assert (infos["action_mask"] == envs.unwrapped.action_masks()).all()
        if "final_info" in infos:
            assert infos["final_info"]["action_mask"].shape == infos["action_mask"].shape
        infos = envs.step(envs.action_space.sample())[4]


@pytest.mark.parametrize("kind", ["sync", "async", "vector_entry_point"])
def test_every_kind_of_vector_environment_is_asked_alike(env_id: str, kind: str) -> None:
    envs = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode=kind, workload="sqlite_memory", **SHORT)
    try:
        envs.reset(seed=0)
        masks = envs.call("action_masks")
        assert isinstance(masks, tuple)
        single = make(env_id, workload="sqlite_memory")
        single.reset(seed=0)
        assert all((mask == single.unwrapped.action_masks()).all() for mask in masks)
        assert [terms for terms in envs.get_attr("reward_terms")] == [{}, {}]
        assert [w.name for w in envs.get_attr("workload")] == ["sqlite_memory"] * 2
        assert envs.get_attr("render_mode") == (None, None)
        envs.call("set_workload", workload="make_tcc")
        envs.reset()
        assert [w.name for w in envs.get_attr("workload")] == ["make_tcc"] * 2
    finally:
        envs.close()


def test_machines_have_what_single_environments_have(env_id: str) -> None:
    envs = ShadowVectorReward(EffectiveVectorActions(TimeVectorDiscount(vector(env_id), 0.9)))
    envs.reset(seed=0)
    assert envs.get_attr("action_space") == (envs.single_action_space,) * 3
    assert envs.get_attr("machine")[1] is envs.unwrapped.task.batch[1]
    assert len(envs.call("clone_state")) == 3
    assert envs.call("observation_space") == (envs.single_observation_space,) * 3
    assert envs.get_attr("spec")[0].id == env_id
    for ask in (envs.get_attr, envs.call):
        with pytest.raises(AttributeError, match="machines have no 'vma_list': there are action_space, machine"):
            ask("vma_list")


def test_what_has_no_effect_becomes_impossible(env_id: str) -> None:
    env, plain, choose = EffectiveActions(make(env_id)), make(env_id), randomly(4)
    env.reset(seed=2)
    plain.reset(seed=2)
    masked, over = 0, False
    while not over:
        action, masks = choose(env), env.unwrapped.action_masks()
        taken = env.action(action)
        assert allowed(env.action_space, masks, taken)
        assert np.all((np.asarray(taken) == action) | (np.asarray(taken) == 0))
        masked += not np.array_equal(taken, action)
        got, expected = env.step(action), plain.step(taken)
        assert got[1:] == expected[1:]
        over = got[2]
    assert masked or env_id == "thp_env/SizeControls-v0"
    env.reset(seed=0)
    for wrong in (-1, 99, "2M"):
        with pytest.raises(ValueError, match="is not in the action space"):
            env.step(wrong)


def test_the_vector_wrapper_does_the_same(env_id: str) -> None:
    envs = EffectiveVectorActions(vector(env_id, 2))
    singles = [EffectiveActions(make(env_id)) for _ in range(2)]
    envs.reset(seed=6)
    for i, env in enumerate(singles):
        env.reset(seed=6 + i)
    envs.action_space.seed(1)
    for _ in range(6):
        actions = envs.action_space.sample()
        rewards = envs.step(actions)[1]
        assert rewards.tolist() == [env.step(action)[1] for env, action in zip(singles, actions, strict=True)]
    for wrong in (actions + 99, actions - 99, actions.astype(float), actions[:1]):
        with pytest.raises(ValueError, match="action"):
            envs.step(wrong)


def test_discounts_go_by_time(env_id: str) -> None:
    env = TimeDiscount(make(env_id), 0.5)
    episode = play(env, seed=0)
    discounts = [info["discount"] for info in episode.infos[1:]]
    assert np.prod(discounts) == pytest.approx(0.5 ** (sum(i["elapsed_ns"] for i in episode.infos[1:]) / 1e9))
    envs = TimeVectorDiscount(vector(env_id, 1), 0.5)
    envs.reset(seed=0)
    infos = [envs.step(np.stack([first_action(env)]))[4] for _ in discounts]
    assert [info["discount"][0] for info in infos] == discounts
    for wrong in (0, -1, 1.5, float("nan"), "0.9", None, True):
        for wrap in (lambda g: TimeDiscount(make(env_id), g), lambda g: TimeVectorDiscount(vector(env_id), g)):
            with pytest.raises(ValueError, match="gamma_per_second must be above 0 and at most 1"):
                wrap(wrong)
