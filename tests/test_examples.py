"""Every example has run, with short settings; RLlib's, in a venv of its own, by `make rllib`."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from stable_baselines3 import A2C, DQN, PPO
from support.episodes import ENVIRONMENTS, make, small_program
from thp_agents.catalogue import find_policy

import thp_env
from thp_env.envs.shadow import ShadowReward
from thp_env.traces import save_program

EXAMPLES = Path(__file__).parents[1] / "examples"
ALGORITHMS = {"ppo": PPO, "a2c": A2C, "dqn": DQN}
SHORT = {"n_steps": 16, "batch_size": 16, "learning_starts": 8, "buffer_size": 100}


@pytest.fixture
def workload(tmp_path: Path) -> str:
    save_program(small_program(), tmp_path / "small.npz")
    return str(tmp_path / "small.npz")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run an example as a script, but in this process: importing torch takes longer than most of them."""

    def script(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return script


@pytest.mark.parametrize("env_id", ["thp_env/VmaHints-v0", "thp_env/FaultOrder-v0"])
def test_stable_baselines3(env_id: str, workload: str, run: Callable[..., str]) -> None:
    settings = str(EXAMPLES / "hyperparameters" / "ppo.yml")
    out = run("sb3_maskable_ppo.py", "--steps", "8", "--envs", "1", "--env", env_id, "--workload", workload,
              "--hyperparameters", settings)  # fmt: skip
    assert re.fullmatch(r"saved -?\d+\.\d+; \d+\.\d+ ns per access, \d+ faults\n", out)


@pytest.mark.parametrize("env_id", ["thp_env/VmaOrder-v0", "thp_env/FaultOrder-v0"])
def test_plain_pytorch(env_id: str, workload: str, run: Callable[..., str]) -> None:
    words = ("--env", env_id, "--workload", workload, "--steps", "128", "--envs", "2", "--rollout", "32")
    out = run("ppo.py", *words)
    assert re.findall(r"step +(\d+)", out) == ["64", "128"]
    assert "nan" not in out.splitlines()[-1]
    again = [re.sub(r"\d+ steps/s", "", text) for text in (out, run("ppo.py", *words))]
    assert again[0] == again[1], "a seed fixes the training"


def test_plain_pytorch_learns_to_estimate_advantages() -> None:
    """Against the definition: the sum of (gamma lam)^k delta, cut at the ends of episodes."""
    torch = pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("ppo_example", EXAMPLES / "ppo.py")
    ppo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ppo)
    torch.manual_seed(0)
    rewards, values, last = torch.randn(6, 1), torch.randn(6, 1), torch.randn(1)
    dones = torch.tensor([0, 0, 1, 0, 0, 0], dtype=torch.bool)[:, None]
    after = torch.cat([values[1:, 0], last])
    delta = [float(rewards[t, 0] + 0.9 * after[t] * (t != 2) - values[t, 0]) for t in range(6)]
    expected = [sum((0.9 * 0.8) ** (k - t) * delta[k] for k in range(t, 3 if t < 3 else 6)) for t in range(6)]
    found = ppo.advantages(rewards, values, dones, last, 0.9, 0.8)[:, 0].tolist()
    assert found == pytest.approx(expected, rel=1e-5)


def test_plain_pytorch_discounts_by_time_and_cuts_episodes(workload: str, run: Callable[..., str]) -> None:
    words = ("--workload", workload, "--steps", "128", "--envs", "2", "--rollout", "64")
    outs = [run("ppo.py", *words, *more) for more in ((), ("--gamma-per-second", "0.1"), ("--max-episode-steps", "1"))]
    figures = [re.findall(r"episodes +(\d+)  saved each ([+-][\d.]+)", out) for out in outs]
    assert int(figures[0][0][0]) == int(figures[1][0][0]) < int(figures[2][0][0]) == 128


@pytest.mark.parametrize("env_id", ["thp_env/VmaOrder-v0", "thp_env/FaultOrder-v0"])
def test_search(env_id: str, workload: str, run: Callable[..., str]) -> None:
    words = ("--env", env_id, "--workload", "hot_island", "--size", "tiny", "--ahead", "4", "--seed", "3")
    out = run("search.py", *words)
    saved = re.findall(r"(nothing|search) +saved ([+-][\d.]+) in \d+ decisions", out)
    assert [name for name, _ in saved] == ["nothing", "search"]
    assert float(saved[1][1]) > float(saved[0][1]), "what was tried from saved states is what came"
    assert run("search.py", *words) == out


def test_rl_zoo(workload: str, tmp_path: Path) -> None:
    """RL-Zoo trains with the hyperparameters that lie here, and what it saves is a policy in one flag."""
    if find_spec("rl_zoo3") is None:  # not imported here: it changes Gymnasium's TimeLimit
        pytest.skip("rl_zoo3 is not installed")
    command = [
        sys.executable, "-m", "rl_zoo3.train", "--algo", "ppo", "--env", "thp_env/VmaOrder-v0", "--gym-packages",
        "thp_env", "--conf-file", str(EXAMPLES / "hyperparameters" / "ppo.yml"), "--n-timesteps", "64", "--env-kwargs",
        f"workload:{workload!r}", "--hyperparams", "n_steps:32", "batch_size:32", "n_envs:2", "normalize:True",
        "--eval-freq", "-1", "--log-folder", "logs",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (model,) = tmp_path.glob("logs/ppo/*/*.zip")
    policy = find_policy(f"sb3:{model}")
    assert policy.statistics, "vecnormalize.pkl lies where RL-Zoo put it"
    observation, _ = make().reset(seed=0)
    assert policy.decide(observation, None) in range(14)


def test_minari(workload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., str]) -> None:
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    out = run("minari_dataset.py", "--episodes", "2", "--workload", workload, "--dataset", "thp_env/test-v0")
    assert out.startswith("2 episodes")
    dataset = minari.load_dataset("thp_env/test-v0")
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == 2
    for kept in episodes:
        assert kept.terminations.tolist() == [False] * (len(kept.actions) - 1) + [True]
        assert len(kept.observations["vma"]) == len(kept.actions) + 1
    env = dataset.recover_environment()
    assert env.spec.id == "thp_env/VmaOrder-v0"
    assert dataset.storage.metadata["requirements"] == [f"thp-env=={thp_env.__version__}"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_hyperparameters_are_those_of_the_algorithm(algorithm: str) -> None:
    """As RL-Zoo reads them: everything but what it takes itself goes to the algorithm, which learns."""
    files = yaml.safe_load((EXAMPLES / "hyperparameters" / f"{algorithm}.yml").read_text())
    assert set(files) == set(ENVIRONMENTS) - ({"thp_env/VmaHints-v0", "thp_env/SizeControls-v0"}
                                              if algorithm == "dqn" else set())  # fmt: skip
    for env_id, settings in files.items():
        assert settings["env_wrapper"] == f"{ShadowReward.__module__}.{ShadowReward.__name__}"
        taken = {k: v for k, v in settings.items() if k not in ("n_envs", "n_timesteps", "env_wrapper")}
        taken |= {k: v for k, v in SHORT.items() if k in taken}
        model = ALGORITHMS[algorithm](env=ShadowReward(make(env_id)), **taken)
        model.learn(24)
        assert model.num_timesteps >= 24
