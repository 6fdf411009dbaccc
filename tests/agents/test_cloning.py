"""Clones of trained policies: they do what the teacher does, and a foreign teacher is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.trees import stump
from thp_agents.catalogue import find_policy
from thp_agents.learned.cloning import ROUNDS, _play, _standardised, checked, clone
from thp_agents.learned.config import AgentConfig
from thp_agents.learned.policy_file import LearnedPolicy, load_policy, save_policy, signature
from thp_agents.learned.training import make_envs, make_model, train
from thp_agents.policy import PolicyError

from thp_env.envs.actions import ACTIONS

CONFIG = AgentConfig(
    "clone", "MaskablePPO", arguments={"default_sizes": "all", "scan_share": 0}, workloads=("redis_delete",),
    size="short", envs=4, pool=2, lessons=ROUNDS * 400, net_arch=(32,), reward="log_ratio", shadow="all",
    hyperparameters={"n_steps": 16, "batch_size": 32, "n_epochs": 1},
)  # fmt: skip


ASKED = "vma_asked"


def teacher(config: AgentConfig = CONFIG) -> LearnedPolicy:
    """Return a policy that asks for 64K for VMAs that it sees for the first time, and splits the others."""
    return stump(signature(config.environment, config.arguments), ASKED, 0.5, "64K", "split")


def model(config: AgentConfig = CONFIG) -> Any:
    torch.set_num_threads(1)
    return make_model(config, make_envs(config, 1))


@pytest.mark.parametrize("algorithm", ["MaskablePPO", "PPO"])
def test_a_clone_does_what_its_teacher_does(algorithm: str) -> None:
    config = dataclasses.replace(CONFIG, algorithm=algorithm)
    student = model(config)
    clone(student, teacher(), config)
    lessons, _ = _play(student, teacher(), student.env.reset(), 50, by_teacher=False)
    matters = lessons.weight > 0.5
    assert len(np.unique(lessons.best[matters])) > 1
    assert (lessons.taken == lessons.best)[matters].mean() > 0.9


def test_a_critic_learns_the_returns_of_the_same_episodes() -> None:
    student = model(dataclasses.replace(CONFIG, hyperparameters={**CONFIG.hyperparameters, "gamma": 0.5}))
    observations, played, step = student.env.reset(), [], student.env.step

    def noted(actions: np.ndarray) -> Any:
        played.append(step(actions))
        return played[-1]

    student.env.step = noted
    lessons, last = _play(student, teacher(), observations, 3, by_teacher=True)
    rewards, dones = (np.stack([result[i] for result in played]) for i in (1, 2))
    with torch.no_grad():
        ahead = student.policy.predict_values(torch.as_tensor(last)).numpy().reshape(-1)
    expected = rewards[2] + 0.5 * np.where(dones[2], 0, ahead)
    for t in (1, 0):
        expected = rewards[t] + 0.5 * np.where(dones[t], 0, expected)
    assert np.allclose(lessons.returns[:4], expected, rtol=1e-5)


def test_a_network_that_learns_from_standardised_fields_takes_the_fields_as_they_are() -> None:
    student, rng = model(), np.random.default_rng(0)
    seen = rng.random((64, student.observation_space.shape[0]), np.float32)
    seen[:, 3] = 0.25  # a field that never changes
    masks = np.ones((64, len(ACTIONS)), bool)
    before = student.policy.get_distribution(torch.as_tensor(seen), masks).distribution.logits.detach()
    with _standardised(student.policy, seen) as standard:
        within = student.policy.get_distribution(standard, masks).distribution.logits.detach()
        assert abs(float(standard.mean())) < 1e-3
    after = student.policy.get_distribution(torch.as_tensor(seen), masks).distribution.logits.detach()
    assert torch.allclose(before, within, atol=1e-4)
    assert torch.allclose(before, after, atol=1e-4)


def test_a_mistake_weighs_what_it_costs() -> None:
    student = model()
    lessons, _ = _play(student, teacher(), student.env.reset(), 40, by_teacher=True)
    choice = lessons.masks[:, [ACTIONS.index("64K"), ACTIONS.index("split")]].all(1)
    assert np.allclose(lessons.weight[choice], 1.01)
    assert np.allclose(lessons.weight[~lessons.choice], 0.01)


def test_a_training_begins_with_the_clone(tmp_path: Path) -> None:
    save_policy(teacher(), tmp_path / "teacher.npz")
    config = dataclasses.replace(CONFIG, teacher=str(tmp_path / "teacher.npz"), steps=1664, check=64, held_out=1)
    trained = train(config, tmp_path / "clone.npz", folder=tmp_path / "run", quiet=True)
    student = model(config)
    clone(student, teacher(), config)
    assert [row.split(",")[0] for row in (tmp_path / "clone.csv").read_text().splitlines()[1:]] == ["1600", "1664"]
    assert load_policy(tmp_path / "clone.npz").meta["config"]["teacher"] == config.teacher
    first = student.policy.mlp_extractor.policy_net[0].weight.detach().numpy()
    assert student.num_timesteps == 1600
    assert np.abs(trained.network.weights["weight0"] - first).max() < 0.05  # 64 decisions change it little


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"interface": "orders+"}, "chooses among"),
        ({"reasons": ["walks"]}, "sees"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(arguments: dict[str, Any], said: str) -> None:
    config = dataclasses.replace(CONFIG, arguments=CONFIG.arguments | arguments)
    with pytest.raises(PolicyError, match=f"agent clone: its teacher stump {said}"):
        checked(teacher(), config)


def test_a_heuristic_is_no_teacher() -> None:
    with pytest.raises(PolicyError, match="`thp-env train` made, not utilisation"):
        checked(find_policy("utilisation"), CONFIG)


def test_only_actors_with_a_critic_are_cloned() -> None:
    with pytest.raises(PolicyError, match="a teacher is for PPO, MaskablePPO and A2C"):
        dataclasses.replace(CONFIG, algorithm="QRDQN", teacher="x.npz", hyperparameters={})
    with pytest.raises(PolicyError, match="1600 lessons are more than 1599 steps"):
        dataclasses.replace(CONFIG, teacher="x.npz", steps=1599)
