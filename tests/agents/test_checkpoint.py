"""A training resumes only itself, alone in its folder, and what it is then."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.episodes import small_program
from thp_agents.cli import main
from thp_agents.learned import checkpoint
from thp_agents.learned.checkpoint import alone_in, check_checkpoint, identity, seed_after
from thp_agents.learned.config import AgentConfig, load_config
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.learned.rollouts import Rollouts
from thp_agents.learned.training import train
from thp_agents.policy import PolicyError

from thp_env.traces import save_program


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    save_program(small_program(), tmp_path / "small.npz")
    return "small.npz"


def agent(name: str, workload: str, steps: int, **changes) -> AgentConfig:
    small = {"n_steps": 8, "batch_size": 8, "learning_starts": 8, "buffer_size": 64, "tried": 4}
    config = load_config(name, workloads=(workload,), envs=2, steps=steps, net_arch=(4,), **changes)
    known = {k: v for k, v in small.items() if k in config.hyperparameters}
    return dataclasses.replace(config, hyperparameters=config.hyperparameters | known)


def trained(config: AgentConfig, folder: str, resume: bool = False) -> LearnedPolicy:
    return train(config, f"{folder}.npz", folder=folder, resume=resume, quiet=True, tensorboard=False)


def same(a: LearnedPolicy, b: LearnedPolicy) -> bool:
    first, second = a.network.weights, b.network.weights
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


OTHER = {
    "seed": ({"seed": 1}, "seed was 0 and is 1"),
    "hyperparameter": ({"hyperparameters": {"ridge": 1.0, "epsilon": 0.5}}, "hyperparameters.epsilon was 0.2 and is"),
    "workloads": ({"workloads": ("gups",)}, 'workloads was ["small.npz"] and is ["gups"]'),
    "argument": ({"arguments": {"default_sizes": "4K"}}, 'arguments.default_sizes was "all" and is "4K"'),
    "machines": ({"envs": 3}, "envs was 2 and is 3"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_another_training_is_refused_by_its_difference(workload: str, what: str) -> None:
    changes, told = OTHER[what]
    config = agent("bandit", workload, 8)
    trained(config, "run")
    with pytest.raises(PolicyError) as caught:
        trained(dataclasses.replace(config, **changes), "run", resume=True)
    assert told in str(caught.value)
    assert "train without --resume" in str(caught.value)


def test_another_behaviour_is_refused(workload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = agent("bandit", workload, 8)
    trained(config, "run")
    monkeypatch.setattr(checkpoint, "BEHAVIOUR", 0)
    with pytest.raises(PolicyError, match=r"behaviour was [1-9] and is 0"):
        trained(config, "run", resume=True)


def test_the_command_refuses_another_seed(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--agent", "bandit", "--workloads", workload, "--quiet", "--folder", "run", "--out", "a.npz"]
    assert main([*words, "--steps", "8"]) == 0
    assert main([*words, "--steps", "16", "--resume", "--seed", "3"]) == 2
    assert "run/checkpoint.npz: the checkpoint of another training: seed was 0 and is 3" in capsys.readouterr().err
    assert main([*words, "--steps", "16", "--resume"]) == 0, "more steps are the same training"


def test_a_checkpoint_that_says_nothing_is_refused(workload: str) -> None:
    config = agent("bandit", workload, 8)
    Path("run").mkdir()
    path = Path("run") / "checkpoint.npz"
    for content in (None, b"[1]", b"{", b"[" * 100_000):
        with zipfile.ZipFile(path, "w") as archive:
            if content is not None:
                archive.writestr(checkpoint.MEMBER, content)
        with pytest.raises(PolicyError, match=r"not a checkpoint|another training"):
            check_checkpoint(path, config)
    assert json.dumps(identity(config))


def test_the_seed_of_a_file_counts(workload: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("it.toml").write_text(f'algorithm = "bandit"\nseed = 7\nsteps = 8\nenvs = 1\nworkloads = ["{workload}"]\n')
    assert main(["train", "--agent", "it.toml", "--quiet"]) == 0
    assert capsys.readouterr().out == "wrote runs/it-7.npz\n"
    assert main(["train", "--agent", "it.toml", "--quiet", "--seed", "0"]) == 0
    assert capsys.readouterr().out == "wrote runs/it-0.npz\n"


def test_one_training_is_in_a_folder_at_a_time(workload: str) -> None:
    config = agent("bandit", workload, 8)
    Path("run").mkdir()
    with alone_in(Path("run")), pytest.raises(PolicyError, match="run: another training is running there"):
        trained(config, "run")
    assert list(Path("run").iterdir()) == []
    trained(config, "run")


def test_the_lock_dies_with_its_process(workload: str) -> None:
    Path("run").mkdir()
    code = ("import time; from pathlib import Path; from thp_agents.learned.checkpoint import alone_in\n"
            "with alone_in(Path('run')):\n print('in', flush=True)\n time.sleep(60)")  # fmt: skip
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(PolicyError, match="another training"), alone_in(Path("run")):
            pass
    finally:
        other.kill()
        other.communicate()
    with alone_in(Path("run")):
        pass


def test_rollouts_resumed_are_rollouts_uninterrupted(workload: str) -> None:
    """Wherever it is stopped, and in however many processes: its episodes are numbered."""
    config = agent("rollouts", workload, 36)
    config.hyperparameters.update(rounds=3, tried=2)
    whole = trained(config, "whole")
    for stop, decisions in ((1, 8), (3, 20)):  # in the middle of the first round and of the second
        folder = Path(f"stopped {stop}")
        folder.mkdir()
        model = Rollouts(config)
        left = iter([True] * (stop - 1) + [False])
        model.learn(config.steps, lambda infos, left=left: next(left))
        assert model.num_timesteps == decisions
        checkpoint.save_checkpoint(model, folder / "checkpoint.npz", config)
        again = Rollouts(config)
        again.load(folder / "checkpoint.npz")
        again.learn(config.steps, lambda infos: False)
        assert again.weights.keys() == model.weights.keys()
        assert all(np.array_equal(again.weights[name], nodes) for name, nodes in model.weights.items()), "its forest"
        assert same(trained(config, str(folder), resume=True), whole), stop
    two = train(config, "two.npz", folder="two", quiet=True, tensorboard=False, threads=2)
    assert same(two, whole)


@pytest.mark.parametrize("name", ["ppo", "qrdqn", "bandit"])
def test_others_begin_new_episodes_but_the_same_each_time(workload: str, name: str) -> None:
    """Machines are in no checkpoint: docs/experiments/learned_agents.md says what a resumed training is."""
    half, config = agent(name, workload, 16), agent(name, workload, 48)
    policies = []
    for folder in ("a", "b"):
        trained(half, folder)
        policies.append(trained(config, folder, resume=True))
    assert same(*policies)
    assert not same(policies[0], trained(half, "c"))
    assert seed_after(0, 16) not in (0, seed_after(1, 16), seed_after(0, 48))
    assert os.path.exists("a.npz")
