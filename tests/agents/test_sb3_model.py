"""sb3:model.zip: the actions of Stable-Baselines3's own predict, read without running what the file holds."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from support.episodes import ENVIRONMENTS, make, small_workload
from thp_agents.catalogue import find_policy
from thp_agents.cli import main
from thp_agents.evaluation.run import entry
from thp_agents.learned.sb3_model import load_sb3
from thp_agents.policy import PolicyError
from thp_agents.sb3 import SB3VecEnv
from thp_agents.view import KernelView

ON_POLICY = {"n_steps": 16, "batch_size": 16}
OFF_POLICY = {"learning_starts": 4, "buffer_size": 100}
SHORT = {"window_ms": 0.5, "window_faults": 32}


def flat(env_id: str, **arguments: Any) -> SB3VecEnv:
    return SB3VecEnv(gymnasium.make_vec(env_id, num_envs=2, workload=small_workload(), **SHORT, **arguments,
                                        autoreset_mode=AutoresetMode.SAME_STEP))  # fmt: skip


def trained(algorithm: Any, envs: Any, policy: str = "MlpPolicy", **settings: Any) -> Any:
    settings |= OFF_POLICY if algorithm in (DQN, QRDQN) else {} if algorithm is A2C else ON_POLICY
    return algorithm(policy, envs, device="cpu", seed=0, **settings).learn(32)


def check(model: Any, path: Path, arguments: dict[str, Any], normalise: VecNormalize | None = None) -> int:
    """Play an episode at random and compare every action; return how many there were."""
    policy = load_sb3(str(path))
    assert policy.kind == "learned"
    assert policy.name == path.stem
    env = make(policy.environment, **policy.arguments)
    assert policy.arguments == arguments
    masked = isinstance(model, MaskablePPO)
    observation, _ = env.reset(seed=1)
    view, over, steps = KernelView(env.unwrapped), False, 0
    while not over:
        seen: Any = observation
        if "MultiInput" not in type(model.policy).__name__:
            seen = gymnasium.spaces.flatten(env.observation_space, observation)
        if normalise:
            seen = normalise.normalize_obs(seen)
        masks = {"action_masks": env.unwrapped.action_masks()} if masked else {}
        expected = model.predict(seen, deterministic=True, **masks)[0]
        assert np.array_equal(policy.decide(observation, view), expected)
        observation, _, over, _, _ = env.step(env.action_space.sample())
        steps += 1
    return steps


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO])
def test_it_decides_in_every_environment(env_id: str, algorithm: Any, tmp_path: Path) -> None:
    model = trained(algorithm, flat(env_id))
    model.save(tmp_path / "mine")
    assert load_sb3(str(tmp_path / "mine.zip")).environment == env_id
    assert check(model, tmp_path / "mine.zip", {}) > 3


@pytest.mark.parametrize("algorithm", [A2C, DQN, QRDQN])
def test_other_algorithms(algorithm: Any, tmp_path: Path) -> None:
    model = trained(algorithm, flat("thp_env/VmaOrder-v0"))
    model.save(tmp_path / "mine")
    check(model, tmp_path / "mine.zip", {})


def test_action_sets_hooks_slots_and_networks_are_found_out(tmp_path: Path) -> None:
    for arguments, env_id, settings in (
        ({"interface": "orders+"}, "thp_env/VmaOrder-v0", {"net_arch": [8], "activation_fn": torch.nn.Tanh}),
        ({"interface": "madvise"}, "thp_env/VmaOrder-v0", {"net_arch": [8], "activation_fn": torch.nn.ReLU}),
        ({"hook": "address"}, "thp_env/FaultOrder-v0", {"net_arch": {"pi": [8, 4], "vf": [4]}}),
        ({"slots": 3}, "thp_env/VmaHints-v0", {"net_arch": []}),
    ):
        model = trained(PPO, flat(env_id, **arguments), policy_kwargs=settings)
        model.save(tmp_path / "mine")
        check(model, tmp_path / "mine.zip", arguments)


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("beside", ["mine_vecnormalize.pkl", "vecnormalize.pkl", "mine/vecnormalize.pkl", "other.pkl"])
def test_statistics_of_vecnormalize_lie_beside_it(dictionary: bool, beside: str, tmp_path: Path) -> None:
    inner = DummyVecEnv([make]) if dictionary else flat("thp_env/VmaOrder-v0")
    envs = VecNormalize(inner, clip_obs=2.0)
    model = trained(PPO, envs, "MultiInputPolicy" if dictionary else "MlpPolicy")
    model.save(tmp_path / "mine")
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    envs.save(str(tmp_path / beside))
    if beside == "other.pkl":
        named = load_sb3(f"{tmp_path / 'mine.zip'},{tmp_path / beside}")
        assert named.statistics
        assert load_sb3(str(tmp_path / "mine.zip")).statistics is None
        return
    check(model, tmp_path / "mine.zip", {}, envs)
    assert beside.rpartition("/")[2] in load_sb3(str(tmp_path / "mine.zip")).source


class Bomb:
    """Says so when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def test_nothing_in_the_files_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = trained(PPO, flat("thp_env/VmaOrder-v0"))
    model.learning_rate = Bomb()  # which the zip's JSON holds as a pickle
    model.save("mine")
    envs = VecNormalize(flat("thp_env/VmaOrder-v0"))
    envs.extra = Bomb()
    envs.save("mine_vecnormalize.pkl")
    policy = load_sb3("mine.zip")
    assert policy.statistics
    assert not Path("exploded").exists()
    weights = {"action_net.weight": Bomb()}
    with zipfile.ZipFile("mine.zip") as old, zipfile.ZipFile("worse.zip", "w") as new:
        for name in old.namelist():
            with new.open(name, "w") as file:
                torch.save(weights, file) if name == "policy.pth" else file.write(old.read(name))
    with pytest.raises(PolicyError, match=r"worse.zip: .* policy.pth .* holds something else"):
        load_sb3("worse.zip")
    assert not Path("exploded").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("exploded").exists(), "it would have"


def changed(path: Path, to: Path, **data: Any) -> str:
    """Copy a model with other entries in its data."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                content = json.dumps({**json.loads(content), **data}).encode()
            new.writestr(name, content)
    return str(to)


def test_bad_files_are_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(PPO, flat("thp_env/VmaOrder-v0")).save(tmp_path / "mine")
    mine = tmp_path / "mine.zip"
    trained(PPO, flat("thp_env/FaultOrder-v0")).save(tmp_path / "fault")
    wide = VecNormalize(flat("thp_env/VmaHints-v0"))
    wide.save(str(tmp_path / "wide.pkl"))
    RecurrentPPO("MlpLstmPolicy", flat("thp_env/VmaOrder-v0"), n_steps=8, batch_size=8).save(tmp_path / "lstm")
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "text.pkl").write_text("no pickle")
    (tmp_path / "cut.zip").write_bytes(mine.read_bytes()[:5000])
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as file:
        file.writestr("data", "{}")
    action, elu = {"n": "7"}, {"activation_fn": "<class 'torch.nn.modules.activation.ELU'>"}
    for spec, message in (
        (tmp_path / "none.zip", "none.zip: no such file"),
        (tmp_path / "text.zip", "text.zip: not a model of Stable-Baselines3"),
        (tmp_path / "cut.zip", "cut.zip: not a model"),
        (tmp_path / "empty.zip", "empty.zip: not a model"),
        (tmp_path, "not a model of Stable-Baselines3"),
        (tmp_path / "lstm.zip", "no plain MLP of PPO, .* load it in a policy of your own, as my_module:MyPolicy"),
        (changed(mine, tmp_path / "a.zip", action_space=action), "14 outputs, and 7 actions"),
        (changed(mine, tmp_path / "b.zip", action_space=[]), "not a model of Stable-Baselines3"),
        (changed(mine, tmp_path / "c.zip", policy_kwargs=elu), "activation ELU is none of Tanh, ReLU"),
        (f"{mine},{tmp_path / 'none.pkl'}", "none.pkl: no such file"),
        (f"{mine},{tmp_path / 'text.pkl'}", "text.pkl: not statistics that VecNormalize saved"),
        (f"{mine},{tmp_path / 'wide.pkl'}", "wide.pkl: statistics of other observations than those of"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=message) as refused:
            find_policy(f"sb3:{spec}")
        assert "\n" not in str(refused.value)
    assert main(["evaluate", "--policies", f"sb3:{tmp_path / 'none.zip'}", "--workloads", "sqlite_memory"]) == 2
    assert capsys.readouterr().err == f"thp-env: {tmp_path / 'none.zip'}: no such file\n"


def with_weights(path: Path, to: Path, saved: Any) -> str:
    """Copy a model with other weights: bytes, or what is given to torch.save."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            with new.open(name, "w") as file:
                if name != "policy.pth" or isinstance(saved, bytes):
                    file.write(saved if name == "policy.pth" else old.read(name))
                else:
                    torch.save(saved, file)
    return str(to)


def test_nothing_in_the_files_takes_all_memory_or_time(tmp_path: Path) -> None:
    envs = VecNormalize(flat("thp_env/VmaOrder-v0"))
    trained(PPO, envs).save(tmp_path / "mine")
    mine = tmp_path / "mine.zip"
    with zipfile.ZipFile(mine) as file:
        weights = torch.load(io.BytesIO(file.read("policy.pth")), weights_only=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file, file.open("policy/data/0", "w") as record:
        for _ in range(300):
            record.write(bytes(1 << 20))
    os.mkfifo(tmp_path / "pipe.zip")
    os.mkfifo(tmp_path / "pipe.pkl")
    (tmp_path / "long.pkl").write_bytes(bytes(5 << 20))
    (tmp_path / "room.pkl").write_bytes(b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".")
    (tmp_path / "index.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")
    (tmp_path / "five.pkl").write_bytes(pickle.dumps(envs, 5))
    one = {"action_net.bias": torch.zeros(1).expand(1 << 40)}
    wrong = {"action_net.bias": weights["action_net.bias"].to(torch.complex64)}
    for spec, message in (
        (tmp_path / "pipe.zip", "pipe.zip: .*not a regular file"),
        (f"{mine},{tmp_path / 'pipe.pkl'}", "pipe.pkl: .*not a regular file"),
        (f"{mine},{tmp_path / 'long.pkl'}", "long.pkl: .*longer than 4 MiB"),
        (f"{mine},{tmp_path / 'room.pkl'}", "room.pkl: .*damaged"),
        (f"{mine},{tmp_path / 'index.pkl'}", "index.pkl: .*damaged"),
        (with_weights(mine, tmp_path / "a.zip", packed.getvalue()), "a.zip: .*more than 256 MiB unpacked"),
        (with_weights(mine, tmp_path / "b.zip", weights | one), "b.zip: .*weights of more than 256 MiB"),
        (with_weights(mine, tmp_path / "c.zip", weights | wrong), "c.zip: .*not finite numbers"),
        (with_weights(mine, tmp_path / "d.zip", [weights]), "d.zip: .*something else than weights"),
        (changed(mine, tmp_path / "e.zip", policy_class=""), "e.zip: not a model of Stable-Baselines3"),
    ):
        with pytest.raises(PolicyError, match=message):
            find_policy(f"sb3:{spec}")
    assert load_sb3(f"{mine},{tmp_path / 'five.pkl'}").statistics


def test_one_flag_evaluates_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained(PPO, flat("thp_env/VmaOrder-v0"))
    model.save(tmp_path / "mine")
    spec = f"sb3:{tmp_path / 'mine.zip'}"
    assert main(["evaluate", "--policies", spec, "64K", "--workloads", "make_tcc", "--quiet", "--processes", "1"]) == 0
    out = capsys.readouterr().out
    assert "mine (1 training)" in out
    assert "mine saves" in out
    one = entry(spec)
    assert one.kind == "learned"
    shutil.copy(tmp_path / "mine.zip", tmp_path / "twin.zip")
    assert entry(f"sb3:{tmp_path / 'twin.zip'}").digest == one.digest
    trained(PPO, flat("thp_env/VmaOrder-v0"), learning_rate=0.1).save(tmp_path / "mine")
    assert entry(spec).digest != one.digest, "results of other weights are not its own"


def test_a_policy_with_a_model_is_learned_without_saying_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("somebody.py").write_text(
        """
import torch
from thp_agents.policy import Policy
class Plain(Policy):
    name = source = "plain"
    def decide(self, observation, view): return 0
class Network(Plain):
    name = "network"
    def __init__(self): self.net = torch.nn.Linear(2, 2)
class Says(Network):
    name, kind = "says", "heuristic"
class Bare:
    name = source = "bare"; default_sizes = "4K"; environment = "thp_env/VmaOrder-v0"; arguments = {}
    def __init__(self): self.net = torch.nn.Linear(2, 2)
    def reset(self, view): pass
    def decide(self, observation, view): return 0
"""
    )
    kinds = {name: find_policy(f"somebody:{name}").kind for name in ("Plain", "Network", "Says", "Bare")}
    assert kinds == {"Plain": "heuristic", "Network": "learned", "Says": "heuristic", "Bare": "learned"}
