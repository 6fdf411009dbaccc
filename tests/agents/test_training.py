"""Training: a few hundred steps, ctrl-C, going on, and what is written."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from support.episodes import small_program
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.evaluation.search import finish
from thp_agents.learned.config import AgentConfig, agents, load_config, workloads_of
from thp_agents.learned.policy_file import load_policy
from thp_agents.learned.rollouts import Play, Rollouts, try_all
from thp_agents.learned.training import make_envs, train
from thp_agents.policy import PolicyError

from thp_env.envs.actions import ACTIONS, ORDER_MASKS
from thp_env.traces import ProgramBuilder, ProgramError, save_program
from thp_env.workload import find

SMALL = {"n_steps": 64, "batch_size": 32, "n_epochs": 2}


@pytest.fixture
def workload(tmp_path: Path) -> str:
    save_program(small_program(), tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def config(workload: str, steps: int, **changes) -> AgentConfig:
    hyperparameters = {k: changes.pop(k, v) for k, v in SMALL.items()}
    return AgentConfig("small", "PPO", workloads=(workload,), steps=steps, hyperparameters=hyperparameters,
                       **{"envs": 1, "net_arch": (8,), **changes})  # fmt: skip


def test_a_short_training_gives_a_policy_that_runs(tmp_path: Path, workload: str) -> None:
    settings = config(workload, 128, arguments={"default_sizes": "64K"})
    policy = train(settings, tmp_path / "agent.npz", folder=tmp_path / "run", quiet=True, command="thp-env train it")
    read = load_policy(tmp_path / "agent.npz")
    assert read.default_sizes == "64K"
    assert read.source == "thp-env train it"
    assert read.meta["decisions"] == 128
    assert read.meta["config"]["workloads"] == [workload]
    assert [len(read.network.weights[name]) for name in ("bias0", "bias1")] == [8, 14]
    for name, weight in policy.network.weights.items():
        assert np.array_equal(weight, read.network.weights[name])
    assert evaluate_one(read, workload, 0).reason == "done"
    files = ["checkpoint.zip", "curve.json", "small_0"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == files, "TensorBoard's too"


def test_a_seed_fixes_the_policy(tmp_path: Path, workload: str) -> None:
    def weights(seed: int) -> np.ndarray:
        settings = config(workload, 64, seed=seed)
        return train(settings, tmp_path / "a.npz", folder=tmp_path / str(seed), quiet=True).network.weights["weight0"]

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
    assert cost["small"] < 0.6 * cost["never"]


def test_resume_goes_on_where_it_stopped(tmp_path: Path, workload: str) -> None:
    train(config(workload, 64), tmp_path / "a.npz", folder=tmp_path / "run", quiet=True)
    policy = train(config(workload, 192), tmp_path / "a.npz", folder=tmp_path / "run", resume=True, quiet=True)
    assert policy.meta["decisions"] == 192
    assert [n for n, _ in policy.meta["curve"]] == [64, 192]
    again = train(config(workload, 192), tmp_path / "b.npz", folder=tmp_path / "run", resume=True, quiet=True)
    first, second = policy.network.weights, again.network.weights
    assert np.array_equal(first["weight0"], second["weight0"]), "nothing is left to train"


def test_what_cannot_be_trained_is_refused_at_once(tmp_path: Path, workload: str) -> None:
    with pytest.raises(PolicyError, match="nothing to resume"):
        train(config(workload, 64), tmp_path / "a.npz", folder=tmp_path / "new", resume=True, quiet=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.zip").write_bytes(b"no zip")
    with pytest.raises(PolicyError, match=r"checkpoint\.zip: not a checkpoint"):
        train(config(workload, 64), tmp_path / "a.npz", folder=tmp_path / "run", resume=True, quiet=True)
    with pytest.raises(PolicyError, match="cannot write"):
        train(config(workload, 64), tmp_path, folder=tmp_path / "run", quiet=True)
    with pytest.raises(ProgramError, match="no such file"):
        train(config(str(tmp_path / "gone.npz"), 64), tmp_path / "a.npz", folder=tmp_path / "run", quiet=True)


def test_arguments_reach_the_environment(workload: str) -> None:
    envs = make_envs(config(workload, 8, arguments={"default_sizes": "16K"}))
    assert envs.env.unwrapped.task.default_sizes == "16K"
    envs.close()


@pytest.mark.parametrize("name", agents())
def test_every_agent_trains_stops_and_goes_on(tmp_path: Path, workload: str, name: str) -> None:
    changes = {"n_steps": 16, "batch_size": 16, "learning_starts": 16, "buffer_size": 64}
    agent = load_config(name, workloads=(workload,), envs=2, steps=48, net_arch=(8, 8), lessons=8)
    known = {k: v for k, v in changes.items() if k in agent.hyperparameters}
    agent = dataclasses.replace(agent, hyperparameters=agent.hyperparameters | known)
    half = dataclasses.replace(agent, steps=24)
    train(half, tmp_path / "a.npz", folder=tmp_path, quiet=True, tensorboard=False)
    policy = train(agent, tmp_path / "a.npz", folder=tmp_path, quiet=True, tensorboard=False, resume=True)
    assert policy.meta["decisions"] >= 48
    assert policy.meta["seed"] == 0
    assert evaluate_one(load_policy(tmp_path / "a.npz"), workload, 0).reason == "done"


def test_unknown_agents_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no agent 'pppo': one of a2c"):
        load_config("pppo")
    (tmp_path / "x.toml").write_text("algorithm = 'SAC'")
    with pytest.raises(PolicyError, match="a base is for thp_env/VmaOrder-v0, not thp_env/FaultOrder-v0"):
        AgentConfig("it", "PPO", "thp_env/FaultOrder-v0", base="utilisation")
    with pytest.raises(PolicyError, match="on top of 'nobody'"):
        Rollouts(AgentConfig("it", "rollouts", base="nobody", workloads=("hot_island",)))
    with pytest.raises(PolicyError, match="'SAC' is none of PPO"):
        load_config(str(tmp_path / "x.toml"))
    (tmp_path / "x.toml").write_text("stepps = 3")
    with pytest.raises(PolicyError, match="stepps"):
        load_config(str(tmp_path / "x.toml"))


def test_training_draws_from_the_train_side_alone() -> None:
    for agent in agents():
        assert {workload.split for workload in workloads_of(load_config(agent))} == {"train"}, agent


def test_recordings_of_the_corpus_are_trained_on_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AgentConfig("it", corpus=True, surroundings="drawn", size="short")
    named = {workload.name: workload for workload in workloads_of(config)}
    assert {"redis_churn", "make_tcc", "hot_island"} <= named.keys()
    assert named.keys() - {w.name for w in workloads_of(AgentConfig("it"))}
    assert all(workload.varies for workload in named.values())
    monkeypatch.setitem(sys.modules, "thp_env_corpus", None)
    with pytest.raises(PolicyError, match="it is trained on recordings of real programs: make corpus"):
        workloads_of(config)


def test_what_ifs_are_what_happens(workload: str) -> None:
    """The worth of an action is the cost it saves when the run goes on from there, if looking costs nothing."""
    env = gymnasium.make("thp_env/VmaOrder-v0", workload=workload, scan_share=0, disable_env_checker=True).unwrapped
    env.reset(seed=0)
    state = env.clone_state().task
    worth = try_all(env, state, Play({}, (find(workload),)).policy())
    assert worth[0] == 0, "doing nothing saves nothing"

    def cost(size: str) -> float:
        env.task.restore_state(0, state)
        machine = env.machine
        if size != "keep":
            machine.set_orders(env.vma.id, ORDER_MASKS[size])
        machine.run(go_on=True)
        return finish(machine)[0]["total_ns"]

    saved = 100 * (1 - cost("64K") / cost("keep"))
    assert worth[ACTIONS.index("64K")] == pytest.approx(saved, rel=1e-4)
    assert abs(saved) > 1


def test_ctrl_c_keeps_a_checkpoint_and_resume_goes_on(tmp_path: Path, workload: str) -> None:
    command = [Path(sys.executable).with_name("thp-env"), "train", "--workloads", workload, "--agent", "ppo",
               "--folder", "run", "--out", "agent.npz", "--steps"]  # fmt: skip
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
