"""The adapter for Stable-Baselines3: equal to the single environment, and four algorithms learn through it."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize, VecVideoRecorder
from support.episodes import ENVIRONMENTS, make, small_program, small_workload
from thp_agents.sb3 import SB3VecEnv
from thp_agents.time_discount import (
    DiscountByTime,
    TimeDictRolloutBuffer,
    TimeMaskableDictRolloutBuffer,
    TimeMaskableRolloutBuffer,
    TimeRolloutBuffer,
)

from thp_env.envs.shadow import ShadowVectorReward
from thp_env.envs.wrapping import TimeVectorDiscount

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


@pytest.mark.parametrize("env_id", ["thp_env/VmaOrder-v0", "thp_env/FaultOrder-v0"])
def test_a_truncated_episode_is_told_as_sb3_expects(env_id: str) -> None:
    envs = SB3VecEnv(vector(env_id, 2, max_episode_steps=3))
    single = gymnasium.wrappers.FlattenObservation(make(env_id))
    envs.seed(4)
    envs.reset()
    single.reset(seed=4)
    for _ in range(3):
        seen, _, dones, infos = envs.step(np.array([4, 4]))
        last = single.step(4)[0]
    assert dones.all()
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["reason"] == "time_limit"
    assert infos[0]["metrics"] == single.unwrapped.summary()["metrics"]
    assert infos[0]["episode"]["l"] == 3
    np.testing.assert_array_equal(infos[0]["terminal_observation"], last)
    np.testing.assert_array_equal(seen[0], single.reset()[0])


class _Cut(gymnasium.vector.VectorWrapper):
    """Truncates from outside: the environment itself goes on."""

    def reset(self, **arguments):
        self.steps = 0
        return self.env.reset(**arguments)

    def step(self, actions):
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self.steps += 1
        return observations, rewards, terminated, truncated | (self.steps >= 3), infos


@pytest.mark.parametrize("flat", [True, False])
def test_what_only_a_wrapper_truncates_is_reset(flat: bool) -> None:
    envs = SB3VecEnv(_Cut(vector(n=2)), flat=flat)
    envs.seed(1)
    first = envs.reset()
    told = [envs.step(np.array([4, 4])) for _ in range(7)]
    assert [dones.tolist() for _, _, dones, _ in told] == [[i in (2, 5)] * 2 for i in range(7)]
    seen, _, _, infos = told[2]
    assert infos[1]["TimeLimit.truncated"] is True
    assert infos[1]["reason"] == "time_limit"
    assert infos[1]["metrics"]["time_ms"] > 0
    assert envs.env.unwrapped.task.steps.tolist() == [1, 1]
    last = infos[1]["terminal_observation"]
    if flat:
        assert seen.shape == first.shape
        assert not np.array_equal(last, seen[1]), "it shows the end, not the beginning"
    else:
        assert not all(np.array_equal(last[key], seen[key][1]) for key in seen)


def test_sb3s_wrappers_go_around(tmp_path) -> None:
    pytest.importorskip("moviepy")
    envs = VecMonitor(SB3VecEnv(vector(n=2, max_episode_steps=3, render_mode="rgb_array")), str(tmp_path / "log"),
                      info_keywords=("reason",))  # fmt: skip
    envs = VecVideoRecorder(envs, str(tmp_path), lambda step: step == 0, video_length=3)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="moviepy")
        envs = VecNormalize(envs)
        envs.reset()
        infos = [envs.step(np.array([4, 4]))[3] for _ in range(5)]
        assert infos[2][0]["episode"]["l"] == 3
        assert infos[2][0]["episode"]["reason"] == "time_limit"
        picture = envs.render()
        envs.close()
    assert picture.shape == (1200, 800, 3) or picture.shape == (600, 1600, 3)
    assert list(tmp_path.glob("*.mp4"))
    assert "time_limit" in (tmp_path / "log.monitor.csv").read_text()


def test_options_and_attributes_reach_the_machines() -> None:
    envs = SB3VecEnv(vector(n=2))
    envs.set_options({"workload": "sqlite_memory"})
    envs.reset()
    assert [w.name for w in envs.get_attr("workload")] == ["sqlite_memory"] * 2
    envs.reset()
    assert [w.name for w in envs.get_attr("workload", indices=[1])] == ["small"], "options hold for one reset"
    envs.env_method("set_workload", workload="make_tcc")
    envs.reset()
    assert envs.get_attr("workload")[0].name == "make_tcc"
    assert envs.env_method("action_masks", indices=0)[0].dtype == bool
    with pytest.raises(AttributeError, match="there are action_space"):
        envs.get_attr("nonsense")
    envs.set_options([{"workload": "sqlite_memory"}, {}])
    with pytest.raises(ValueError, match="the same options for all machines"):
        envs.reset()


def test_evaluation_reads_it() -> None:
    envs = VecMonitor(SB3VecEnv(vector(n=2, max_episode_steps=4)))
    model = PPO("MlpPolicy", envs, n_steps=8, batch_size=8, device="cpu", seed=0)
    mean, _ = evaluate_policy(model, envs, n_eval_episodes=3)
    assert np.isfinite(mean)


@pytest.mark.parametrize(
    ("algorithm", "buffer", "flat"),
    [
        (PPO, TimeRolloutBuffer, True), (A2C, TimeRolloutBuffer, True), (PPO, TimeDictRolloutBuffer, False),
        (MaskablePPO, TimeMaskableRolloutBuffer, True), (MaskablePPO, TimeMaskableDictRolloutBuffer, False),
    ],
)  # fmt: skip
def test_algorithms_discount_by_time(algorithm, buffer, flat: bool) -> None:
    envs = SB3VecEnv(TimeVectorDiscount(vector(n=2), 0.01), flat=flat)
    settings = {"n_steps": 24, "gae_lambda": 1.0} | ({} if algorithm is A2C else {"batch_size": 24})
    policy = "MlpPolicy" if flat else "MultiInputPolicy"
    model = algorithm(policy, envs, device="cpu", rollout_buffer_class=buffer, seed=0, **settings)
    kept = _Kept()
    model.learn(96, [DiscountByTime(), kept])
    for b in kept.rollouts:
        assert 0.8 < b["discounts"].min() < b["discounts"].max() < 1
        going_on = 1 - b["episode_starts"][1:]
        expected = b["rewards"][:-1] + b["discounts"][:-1] * going_on * b["returns"][1:]
        np.testing.assert_allclose(b["returns"][:-1], expected, rtol=1e-4, atol=1e-5)
    assert any(b["episode_starts"][1:].any() for b in kept.rollouts)


class _Kept(BaseCallback):
    """Keeps what the buffer holds before it is shuffled."""

    def _on_training_start(self) -> None:
        self.rollouts = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        names = ("rewards", "discounts", "returns", "episode_starts")
        self.rollouts.append({name: getattr(buffer, name).copy() for name in names})


def test_a_discount_that_nobody_says_or_keeps_is_missed() -> None:
    envs = SB3VecEnv(vector(n=2))
    model = PPO("MlpPolicy", envs, device="cpu", n_steps=8, batch_size=8, rollout_buffer_class=TimeRolloutBuffer)
    with pytest.raises(ValueError, match="put TimeDiscount or TimeVectorDiscount around"):
        model.learn(8, DiscountByTime())
    with pytest.raises(ValueError, match=r"give learn\(\) the callback DiscountByTime"):
        model.learn(8)
    model = PPO("MlpPolicy", SB3VecEnv(TimeVectorDiscount(vector(n=2), 0.9)), device="cpu", n_steps=8, batch_size=8)
    with pytest.raises(ValueError, match="rollout_buffer_class=TimeRolloutBuffer"):
        model.learn(8, DiscountByTime())
