"""The adapter for Stable-Baselines3: equal to the single environment, and four algorithms learn through it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import A2C, DQN, PPO
from support.episodes import ENVIRONMENTS, make, small_program, small_workload
from thp_agents.sb3 import SB3VecEnv

from thp_env.envs.shadow import ShadowVectorReward

SHORT = {"window_ms": 0.5, "window_faults": 32}


def vector(env_id: str = "thp_env/VmaOrder-v0", n: int = 3, **arguments) -> gymnasium.vector.VectorEnv:
    arguments = {"workload": small_workload(), "autoreset_mode": AutoresetMode.SAME_STEP, **SHORT, **arguments}
    return gymnasium.make_vec(env_id, num_envs=n, **arguments)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_it_shows_what_the_flattened_single_environment_shows(env_id: str) -> None:
    single = gymnasium.wrappers.FlattenObservation(make(env_id))
    envs = SB3VecEnv(vector(env_id, 2))
    assert envs.observation_space == single.observation_space
    assert envs.action_space == single.action_space
    envs.seed(4)
    seen, (expected, _) = envs.reset(), single.reset(seed=4)
    choices = getattr(envs.action_space, "nvec", getattr(envs.action_space, "n", None))
    rng, ended = np.random.default_rng(0), 0
    total, length = 0.0, 0
    for _ in range(60):
        np.testing.assert_array_equal(seen[0], expected)
        np.testing.assert_array_equal(get_action_masks(envs)[0], single.unwrapped.action_masks().astype(bool))
        actions = np.stack([rng.integers(choices) for _ in range(2)])
        seen, rewards, dones, infos = envs.step(actions)
        expected, reward, over, _, last = single.step(actions[0])
        total, length = total + reward, length + 1
        assert rewards[0] == np.float32(reward)
        assert dones[0] == over
        if over:
            ended += 1
            np.testing.assert_array_equal(infos[0]["terminal_observation"], expected)
            assert infos[0]["episode"] == {"r": pytest.approx(total), "l": length}
            assert infos[0]["reason"] == last["reason"]
            assert infos[0]["metrics"] == last["metrics"]
            expected, _ = single.reset()
            total, length = 0.0, 0
        else:
            assert infos[0] == {}, "Stable-Baselines3 copies it at every step"
    assert ended


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (PPO, {"n_steps": 128, "batch_size": 64}),
        (MaskablePPO, {"n_steps": 128, "batch_size": 64}),
        (A2C, {"n_steps": 16}),
        (DQN, {"learning_starts": 100, "train_freq": 4, "buffer_size": 2000}),
    ],
)
def test_algorithms_learn_through_it(algorithm, settings) -> None:
    envs = SB3VecEnv(ShadowVectorReward(vector(n=4, workload=[small_program(i) for i in range(4)])))
    model = algorithm("MlpPolicy", envs, seed=0, device="cpu", policy_kwargs={"net_arch": [16]}, **settings)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(2000)
    assert model.num_timesteps >= 2000
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    assert all(np.isfinite(p.detach().numpy()).all() for p in model.policy.parameters())
    assert len(model.ep_info_buffer) > 10


def test_dictionaries_and_several_decisions_at_once() -> None:
    envs = SB3VecEnv(vector("thp_env/VmaHints-v0", slots=3), flat=False)
    model = MaskablePPO("MultiInputPolicy", envs, seed=0, device="cpu", n_steps=32, batch_size=32)
    model.learn(100)
    masks = get_action_masks(envs)
    action, _ = model.predict(envs.reset(), action_masks=masks)
    assert action.shape == (3, 3)


def test_another_autoreset_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="SAME_STEP"):
        SB3VecEnv(vector(autoreset_mode=AutoresetMode.NEXT_STEP))
    with pytest.raises(AttributeError, match="make a new environment"):
        SB3VecEnv(vector()).set_attr("x", 1)
