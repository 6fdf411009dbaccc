"""Training: a few hundred steps, ctrl-C, going on, and what is written."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from support.episodes import small_program
from thp_agents.episode import evaluate_one
from thp_agents.learned.mlp import FIELDS, load_policy
from thp_agents.learned.ppo import PpoConfig, make_env, train
from thp_agents.policy import PolicyError, find_policy

from thp_env.traces import ProgramBuilder, ProgramError, save_program

SMALL = {"envs": 1, "n_steps": 64, "batch_size": 32, "n_epochs": 2, "net_arch": (8,)}


@pytest.fixture
def workload(tmp_path: Path) -> str:
    save_program(small_program(), tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def config(workload: str, steps: int, **changes) -> PpoConfig:
    return PpoConfig(workloads=(workload,), steps=steps, **(SMALL | changes))


def test_a_short_training_gives_a_policy_that_runs(tmp_path: Path, workload: str) -> None:
    settings = config(workload, 128, default="64K")
    policy = train(settings, tmp_path / "agent.npz", folder=tmp_path / "run", quiet=True, command="thp-env train it")
    read = load_policy(tmp_path / "agent.npz")
    assert read.default == "64K"
    assert read.source == "thp-env train it"
    assert read.meta["decisions"] == 128
    assert read.meta["config"]["workloads"] == [workload]
    assert [w.shape[0] for w, _ in read.layers] == [8, 14]
    for (w, b), (v, c) in zip(policy.layers, read.layers, strict=True):
        assert np.array_equal(w, v)
        assert np.array_equal(b, c)
    assert evaluate_one(read, workload, 0).reason == "done"
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoint.zip"]


def test_a_seed_fixes_the_policy(tmp_path: Path, workload: str) -> None:
    def weights(seed: int) -> np.ndarray:
        settings = config(workload, 64, seed=seed)
        return train(settings, tmp_path / "a.npz", folder=tmp_path / str(seed), quiet=True).layers[0][0]

    first = weights(1)
    assert np.array_equal(first, weights(1))
    assert not np.array_equal(first, weights(2))


def test_training_learns_where_one_size_is_best(tmp_path: Path) -> None:
    """Dense memory, where large folios save most of the cost: PPO finds that within a thousand decisions."""
    b = ProgramBuilder("dense")
    for i in range(12):
        b.mmap(f"r{i}", 2 << 20)
        b.touch(f"r{i}", 0, 2 << 20)
    save_program(b.build(), tmp_path / "dense.npz")
    dense = str(tmp_path / "dense.npz")
    settings = config(dense, 1024, n_steps=128, batch_size=64, n_epochs=8, net_arch=(16,))
    policy = train(settings, tmp_path / "agent.npz", folder=tmp_path / "run", quiet=True)
    cost = {p.name: evaluate_one(p, dense, 0).metrics["cost_ns"] for p in (policy, find_policy("never"))}
    assert cost["ppo"] < 0.6 * cost["never"]


def test_resume_goes_on_where_it_stopped(tmp_path: Path, workload: str) -> None:
    train(config(workload, 64), tmp_path / "a.npz", folder=tmp_path / "run", quiet=True)
    policy = train(config(workload, 192), tmp_path / "a.npz", folder=tmp_path / "run", resume=True, quiet=True)
    assert policy.meta["decisions"] == 192
    again = train(config(workload, 192), tmp_path / "b.npz", folder=tmp_path / "run", resume=True, quiet=True)
    assert np.array_equal(again.layers[0][0], policy.layers[0][0]), "nothing is left to train"


def test_what_cannot_be_trained_is_refused_at_once(tmp_path: Path, workload: str) -> None:
    with pytest.raises(PolicyError, match="nothing to resume"):
        train(config(workload, 64), tmp_path / "a.npz", folder=tmp_path / "new", resume=True, quiet=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"checkpoint\.zip"):
        train(config(workload, 64), tmp_path / "a.npz", folder=tmp_path / "run", resume=True, quiet=True)
    with pytest.raises(PolicyError, match="cannot write"):
        train(config(workload, 64), tmp_path, folder=tmp_path / "run", quiet=True)
    with pytest.raises(ProgramError, match="no such file"):
        train(config(str(tmp_path / "gone.npz"), 64), tmp_path / "a.npz", folder=tmp_path / "run", quiet=True)


def test_agents_see_flat_observations_and_the_shadow_reward() -> None:
    env = make_env([small_program()], "16K")
    assert env.observation_space.shape == (len(FIELDS),)
    assert env.unwrapped.task.default == "16K"


def test_ctrl_c_keeps_a_checkpoint_and_resume_goes_on(tmp_path: Path, workload: str) -> None:
    command = [Path(sys.executable).with_name("thp-env"), "train", "--workloads", workload, "--folder", "run",
               "--out", "agent.npz", "--steps"]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_MININTERVAL": "0"}
    process = subprocess.Popen([*command, "1000000"], stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                               env=environment, start_new_session=True)  # fmt: skip
    seen = ""
    while not re.search(r" [1-9]\d*/1000000", seen):  # it has begun
        seen += process.stderr.read(1)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    try:
        _, rest = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert "go on with: thp-env train" in rest
    assert rest.strip().endswith("--resume")
    assert (tmp_path / "run" / "checkpoint.zip").exists()
    assert not (tmp_path / "agent.npz").exists()
    done = subprocess.run([*command, "1", "--resume", "--quiet"], capture_output=True, text=True, cwd=tmp_path,
                          env=environment, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert load_policy(tmp_path / "agent.npz").meta["decisions"] > 1
