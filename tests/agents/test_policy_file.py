"""Learned policies as files, and the network they hold."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.episodes import small_program
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.learned.config import load_config
from thp_agents.learned.export import export
from thp_agents.learned.networks import DeepSets, Mlp
from thp_agents.learned.policy_file import LearnedPolicy, load_policy, save_policy, signature
from thp_agents.learned.training import make_envs, make_model
from thp_agents.policy import PolicyError

from thp_env.envs.actions import ACTIONS
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS

FIELDS = [*SYSTEM_FIELDS, *VMA_FIELDS]
ALL = np.ones(len(ACTIONS), np.int8)


def network(seed: int = 0, *widths: int) -> LearnedPolicy:
    rng = np.random.default_rng(seed)
    sizes = [len(FIELDS), *(widths or (8, 8)), len(ACTIONS)]
    weights: dict[str, np.ndarray] = {}
    for i, (m, n) in enumerate(itertools.pairwise(sizes)):
        weights[f"weight{i}"] = rng.normal(size=(n, m)).astype(np.float32)
        weights[f"bias{i}"] = rng.normal(size=n).astype(np.float32)
    made_for = signature("thp_env/VmaOrder-v0", {"default_sizes": "16K"})
    return LearnedPolicy(Mlp(weights), made_for, {"name": "test", "command": "thp-env train", "decisions": 7})


def seen(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "vma": rng.random(len(VMA_FIELDS), np.float32),
        "system": rng.random(len(SYSTEM_FIELDS), np.float32),
    }


def masked(masks: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(masks=masks)


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    policy = network()
    save_policy(policy, tmp_path / "deep" / "agent.npz")
    read = load_policy(tmp_path / "deep" / "agent.npz")
    assert read.name == "agent", "called as its file"
    assert (read.default_sizes, read.kind, read.source) == ("16K", "learned", "thp-env train")
    assert read.meta["decisions"] == 7
    assert policy.network.weights.keys() == read.network.weights.keys()
    for name, weight in policy.network.weights.items():
        assert np.array_equal(weight, read.network.weights[name])
    rng = np.random.default_rng(1)
    for _ in range(100):
        observation = seen(rng)
        assert policy.decide(observation, masked(ALL)) == read.decide(observation, masked(ALL))
    assert [p.name for p in tmp_path.rglob("*")] == ["deep", "agent.npz"], "no scraps"
    assert find_policy(str(tmp_path / "deep" / "agent.npz")).name == "agent"


def test_the_mask_is_kept() -> None:
    policy, rng = network(), np.random.default_rng(2)
    for _ in range(200):
        mask = (rng.random(len(ACTIONS)) < 0.4).astype(np.int8)
        mask[0] = 1
        assert mask[policy.decide(seen(rng), masked(mask))]


@pytest.mark.parametrize("name", ["ppo", "maskable_ppo", "a2c", "qrdqn", "deep_sets", "ppo_faults", "ppo_sizes"])
def test_numpy_computes_what_torch_does(name: str) -> None:
    """The exported policy takes the action that Stable-Baselines3's own takes without randomness."""
    torch.set_num_threads(1)
    agent = load_config(name, envs=8, net_arch=(16, 8), seed=3)
    envs = make_envs(dataclasses.replace(agent, workloads=("gups",)))
    model = make_model(agent, envs)
    policy = export(model, agent, "command")
    rng = np.random.default_rng(4)
    spaces = envs.env.single_observation_space
    wrong = 0
    for _ in range(50):
        observation = {key: rng.random(space.shape, np.float32) for key, space in spaces.items()}
        if "present" in observation:
            observation["present"] = (observation["present"] < 0.6).astype(np.int8)
        flat = np.concatenate([observation[key].reshape(-1) for key in sorted(observation)])
        given = flat if agent.network == "mlp" else observation
        chosen, _ = model.predict(given, deterministic=True)
        everything = np.ones(len(policy.network(observation)), np.int8)
        wrong += not np.array_equal(policy.decide(observation, masked(everything)), chosen)
    envs.close()
    assert wrong <= 1, "but for a tie"


def test_the_order_of_slots_makes_no_difference() -> None:
    rng = np.random.default_rng(5)
    width, fields = 6, len(VMA_FIELDS)
    shapes = [(width, 2 * fields + len(SYSTEM_FIELDS)), (7, 2 * width), (len(ACTIONS), 7)]
    weights = {f"weight{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}
    weights |= {f"bias{i}": rng.normal(size=s[0]).astype(np.float32) for i, s in enumerate(shapes)}
    observation = {"vmas": rng.random((5, fields), np.float32), "present": np.array([1, 1, 0, 1, 1], np.int8),
                   "other": rng.random(fields, np.float32),
                   "system": rng.random(len(SYSTEM_FIELDS), np.float32)}  # fmt: skip
    values = DeepSets(weights)(observation).reshape(5, -1)
    order = np.array([3, 0, 4, 2, 1])
    turned = observation | {key: observation[key][order] for key in ("vmas", "present")}
    assert np.allclose(DeepSets(weights)(turned).reshape(5, -1), values[order], atol=1e-5)


def test_it_runs_as_a_policy() -> None:
    run = evaluate_one(network(5), small_program(), 0)
    assert run.policy == "test"
    assert run.reason == "done"


def rewrite(path: Path, header: dict | None = None, drop: Sequence[str] = (), **arrays: np.ndarray) -> None:
    with np.load(path) as file:
        kept = {k: file[k] for k in file.files if k not in drop}
    if header:
        head = json.loads(bytes(kept["header"])) | header
        kept["header"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(path, **(kept | arrays))


def made_for(path: Path, **changes: object) -> None:
    with np.load(path) as file:
        head = json.loads(bytes(file["header"]))
    rewrite(path, {"signature": head["signature"] | changes})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


WRONG = np.zeros((8, 3), np.float32)
BREAK = {
    "missing": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "empty": lambda p: p.write_bytes(b""),
    "text": lambda p: p.write_text("policy"),
    "truncated": cut,
    "a flipped bit": flip,
    "no header": lambda p: np.savez(p, a=np.zeros(3)),
    "header is no JSON": lambda p: np.savez(p, header=np.frombuffer(b"{", np.uint8)),
    "header is a list": lambda p: np.savez(p, header=np.frombuffer(b"[]", np.uint8)),
    "a pickle": lambda p: np.savez(p, header=np.array([{"format": 1}], object)),
    "another format": lambda p: rewrite(p, {"format": "thp_env policy 9"}),
    "other observations": lambda p: made_for(p, seen={"system": FIELDS[:16], "vma": FIELDS[16:-1]}),
    "other actions": lambda p: made_for(p, actions=[*ACTIONS[:-1], "sing"]),
    "another environment": lambda p: made_for(p, environment="thp_env/SizeControls-v0"),
    "an unknown default": lambda p: made_for(p, arguments={"default_sizes": "3K"}),
    "another network": lambda p: rewrite(p, {"network": "transformer"}),
    "another activation": lambda p: rewrite(p, {"activation": "sine"}),
    "a layer too few": lambda p: rewrite(p, drop=("weight2", "bias2")),
    "no layers": lambda p: rewrite(p, drop=[f"{name}{i}" for name in ("weight", "bias") for i in range(3)]),
    "layers that do not fit": lambda p: rewrite(p, weight1=WRONG),
    "weights that are no matrix": lambda p: rewrite(p, weight1=np.zeros(8, np.float32)),
    "weights that are text": lambda p: rewrite(p, weight0=np.full((8, len(FIELDS)), "a")),
    "weights that are not finite": lambda p: rewrite(p, bias0=np.full(8, np.nan, np.float32)),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_file_is_one_clear_error(tmp_path: Path, how: str) -> None:
    path = tmp_path / "agent.npz"
    save_policy(network(), path)
    BREAK[how](path)
    with pytest.raises(PolicyError) as refused:
        load_policy(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message


def test_a_policy_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    for path in (tmp_path / "file" / "agent.npz", tmp_path / "folder.npz"):
        with pytest.raises(PolicyError, match="cannot write"):
            save_policy(network(), path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder.npz"], "nothing half-written"


def test_names_of_arguments_in_files_of_version_0_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.npz"
    save_policy(network(), path)
    made_for(path, arguments={"default": "16K", "interface": "orders"})
    read = load_policy(path)
    assert read.arguments == {"default_sizes": "16K", "interface": "orders"}
    assert read.default_sizes == "16K"
