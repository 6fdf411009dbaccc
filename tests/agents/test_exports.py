"""Policies are exported as they were trained: what the file decides is what Stable-Baselines3's model decides."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from support.episodes import small_program
from thp_agents.cli import main
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.learned import shipped
from thp_agents.learned.checks import HeldOut
from thp_agents.learned.config import AgentConfig, load_config
from thp_agents.learned.curves import read_curve
from thp_agents.learned.export import export
from thp_agents.learned.policy_file import load_policy, save_policy
from thp_agents.learned.training import make_envs, make_model, train
from thp_agents.policy import PolicyError

from thp_env.traces import save_program

SOME = ["keep", "4K", "64K", "2M", "split", "collapse"]


def config(algorithm: str = "MaskablePPO", **changes) -> AgentConfig:
    arguments = {"default_sizes": "all", "scan_share": 0, "actions": SOME}
    own = AgentConfig("small", algorithm, arguments=arguments, workloads=("hot_island", "alloc_purge"), steps=256,
                      envs=4, net_arch=(16,), shadow="all", reward="log_ratio", size="tiny", pool=2, check=64,
                      held_out=1, entropy=0.0, seed=3,
                      hyperparameters={"n_steps": 16, "batch_size": 32, "n_epochs": 4, "learning_rate": 0.01,
                                       "ent_coef": 0.05, "gamma": 0.99})  # fmt: skip
    return dataclasses.replace(own, **changes)


def seen(envs, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return observations and masks of n decisions under random actions."""
    rng, observations, masks = np.random.default_rng(0), [], []
    envs.seed(0)
    now = envs.reset()
    while sum(map(len, observations)) < n:
        observations.append(now.copy())
        masks.append(envs.action_masks())
        now = envs.step(rng.integers(len(SOME), size=envs.num_envs))[0]
    return np.concatenate(observations)[:n], np.concatenate(masks)[:n]


@pytest.mark.parametrize("algorithm", ["MaskablePPO", "PPO"])
@pytest.mark.parametrize("greedy", [True, False])
def test_the_file_decides_as_the_model(tmp_path: Path, algorithm: str, greedy: bool) -> None:
    settings = config(algorithm, greedy=greedy)
    envs = make_envs(settings, 1)
    model = make_model(settings, envs)
    model.learn(settings.steps)
    assert isinstance(model, {"MaskablePPO": MaskablePPO, "PPO": PPO}[algorithm])
    save_policy(export(model, settings), tmp_path / "it.npz")
    policy = load_policy(tmp_path / "it.npz")
    observations, masks = seen(envs, 400)
    split = envs.env.single_observation_space["system"].shape[0]
    draws = 1 if greedy else 200
    agree, chances = 0, np.zeros(len(SOME))
    expected = np.zeros(len(SOME))
    for x, mask in zip(observations, masks, strict=True):
        observation = {"system": x[:split], "vma": x[split:]}
        told = {"action_masks": mask} if algorithm == "MaskablePPO" else {}
        if greedy:
            action = int(model.predict(x, deterministic=True, **told)[0])
            action = action if mask[action] else 0  # as in training (EffectiveVectorActions)
            agree += policy.choose(observation, SimpleNamespace(masks=mask)) == action
    if greedy:
        assert agree == len(observations)
        return
    policy.reset(SimpleNamespace())
    for x, mask in zip(observations[:40], masks[:40], strict=True):
        observation = {"system": x[:split], "vma": x[split:]}
        told = {"action_masks": mask[None]} if algorithm == "MaskablePPO" else {}
        probabilities = model.policy.get_distribution(model.policy.obs_to_tensor(x[None])[0], **told).distribution.probs
        p = probabilities.detach().numpy()[0]
        p = np.where(mask, p, 0) + np.eye(len(SOME))[0] * p[~mask].sum()
        expected += p
        view = SimpleNamespace(masks=mask)
        chances += np.bincount([policy.choose(observation, view) for _ in range(draws)], minlength=len(SOME)) / draws
    np.testing.assert_allclose(chances / 40, expected / 40, atol=0.02)


def test_draws_have_the_seed_of_the_training(tmp_path: Path) -> None:
    settings = config(greedy=False)
    model = make_model(settings, make_envs(settings, 1))
    save_policy(export(model, settings), tmp_path / "it.npz")
    save_program(small_program(), tmp_path / "small.npz")
    runs = [evaluate_one(load_policy(tmp_path / "it.npz"), str(tmp_path / "small.npz"), 0) for _ in range(2)]
    assert runs[0].metrics == runs[1].metrics


def test_the_best_checkpoint_on_held_out_programs_is_what_is_written(tmp_path: Path) -> None:
    settings = config()
    policy = train(settings, tmp_path / "a.npz", folder=tmp_path / "run", quiet=True, tensorboard=False)
    rows = read_curve(tmp_path / "a.csv")
    assert [row.decisions for row in rows] == [64, 128, 192, 256]
    assert rows[-1].entropy < rows[0].entropy <= 0.05
    best = max(rows, key=lambda row: (row.held_out, row.decisions))
    assert (policy.meta["decisions"], policy.meta["held_out"]) == (best.decisions, best.held_out)
    assert policy.meta["curve"] == [(row.decisions, row.train) for row in rows]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    again = load_policy(tmp_path / "a.npz")
    held_out = HeldOut(settings, 1)
    logs = [score_of(again, instance) for instance in held_out.envs.env.unwrapped.task.sources]
    assert 100 * np.clip(logs, -np.log(1.5), np.log(1.5)).mean() == pytest.approx(best.held_out, abs=0.01)
    more = dataclasses.replace(settings, steps=320)
    train(more, tmp_path / "a.npz", folder=tmp_path / "run", resume=True, quiet=True, tensorboard=False)
    assert [row.decisions for row in read_curve(tmp_path / "a.csv")] == [64, 128, 192, 256, 320]


def score_of(policy, source) -> float:
    """Return log(cost of all sizes / cost) of a policy on a program, from two runs of their own."""
    costs = []
    for decide in (policy, None):
        run = evaluate_one(decide or AllSizes(), source.workloads[0], 0)
        costs.append(run.metrics["cost_ns"])
    return float(np.log(costs[1] / costs[0]))


class AllSizes:
    """Leaves every VMA to all sizes."""

    name, kind, source, environment = "all", "heuristic", "a reference", "thp_env/VmaOrder-v0"
    default_sizes, arguments = "all", {"scan_share": 0}

    def reset(self, view) -> None:
        """Set nothing."""

    def decide(self, observation, view) -> int:
        """Keep."""
        return view.no_op


def test_checks_need_the_reward_that_they_are_in() -> None:
    with pytest.raises(PolicyError, match="checks are for agents of Stable-Baselines3 with reward log_ratio"):
        config(reward="symlog")


def test_the_main_agents_have_checks_and_the_actions_to_split() -> None:
    for name in ("maskable_ppo", "ppo"):
        agent = load_config(name)
        assert agent.check
        assert "split" in agent.arguments["actions"]


def test_trained_agents_that_ship_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies"]) == 0
    listed = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert {listed[name] for name in shipped()} == {"learned"}
    assert listed["ingens"] == "heuristic"


def test_a_shipped_curve_is_that_of_its_policy() -> None:
    for name, path in shipped().items():
        if (curve := path.with_suffix(".csv")).exists():
            best = max(read_curve(curve), key=lambda row: (row.held_out, row.decisions))
            assert load_policy(path, name).meta["decisions"] == best.decisions
