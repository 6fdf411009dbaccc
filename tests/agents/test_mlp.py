"""Learned policies as files, and the network they hold."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.episodes import small_program
from thp_agents.episode import evaluate_one
from thp_agents.learned.mlp import FIELDS, MlpPolicy, load_policy, save_policy
from thp_agents.policy import PolicyError, find_policy

from thp_env.envs.actions import ACTIONS
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS

ALL = np.ones(len(ACTIONS), np.int8)


def network(seed: int = 0, *widths: int) -> MlpPolicy:
    rng = np.random.default_rng(seed)
    sizes = [len(FIELDS), *(widths or (8, 8)), len(ACTIONS)]
    layers = [
        (rng.normal(size=(n, m)).astype(np.float32), rng.normal(size=n).astype(np.float32))
        for m, n in itertools.pairwise(sizes)
    ]
    return MlpPolicy(layers, {"name": "test", "default": "16K", "command": "thp-env train", "decisions": 7})


def masked(masks: np.ndarray) -> SimpleNamespace:
    """Return what an agent asks of a view."""
    return SimpleNamespace(masks=masks)


def seen(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "vma": rng.random(len(VMA_FIELDS), np.float32),
        "system": rng.random(len(SYSTEM_FIELDS), np.float32),
    }


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    policy = network()
    save_policy(policy, tmp_path / "deep" / "agent.npz")
    read = load_policy(tmp_path / "deep" / "agent.npz")
    assert read.name == "agent", "called as its file"
    assert (read.default, read.kind, read.source) == ("16K", "learned", "thp-env train")
    assert read.meta["decisions"] == 7
    for (w, b), (v, c) in zip(policy.layers, read.layers, strict=True):
        assert np.array_equal(w, v)
        assert np.array_equal(b, c)
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


def test_numpy_computes_what_torch_does() -> None:
    import torch
    from stable_baselines3 import PPO
    from thp_agents.learned.ppo import PpoConfig, export, make_env

    torch.set_num_threads(1)
    env = make_env([small_program()], "4K")
    model = PPO("MlpPolicy", env, seed=3, device="cpu", policy_kwargs={"net_arch": {"pi": [32, 16], "vf": [8]}})
    policy = export(model, PpoConfig(default="64K"), "command")
    assert policy.default == "64K"
    keys = list(env.unwrapped.observation_space.spaces)
    rng = np.random.default_rng(4)
    for _ in range(300):
        observation = seen(rng)
        flat = np.concatenate([observation[k] for k in sorted(keys)])
        distribution = model.policy.get_distribution(torch.as_tensor(flat)[None])
        logits = distribution.distribution.logits[0].detach().numpy()
        best = np.sort(logits)[-2:]
        if best[1] - best[0] > 1e-5:  # a tie may go either way
            assert policy.decide(observation, masked(ALL)) == int(logits.argmax())
        masks = (rng.random(len(ACTIONS)) < 0.5).astype(np.int8) | np.eye(len(ACTIONS), dtype=np.int8)[0]
        chosen = policy.decide(observation, masked(masks))
        assert logits[chosen] >= logits[masks != 0].max() - 1e-5
    env.close()


def test_flat_observations_have_the_order_of_the_network() -> None:
    from thp_agents.learned.ppo import make_env

    env = make_env([small_program()], "4K")
    flat, _ = env.reset(seed=0)
    inner = env.unwrapped
    system = dict(zip(FIELDS, flat.tolist(), strict=True))
    assert system["memory"] == pytest.approx(np.log2(1 + inner.machine.config.memory / 2**20) / 20)
    assert system["size"] == pytest.approx(np.log2(1 + inner.vma.pages) / 24)


def test_it_runs_as_a_policy() -> None:
    run = evaluate_one(network(5), small_program(), 0)
    assert run.policy == "test"
    assert run.reason == "done"


def rewrite(path: Path, header: dict | None = None, **arrays: np.ndarray) -> None:
    with np.load(path) as file:
        kept = {k: file[k] for k in file.files}
    if header:
        head = json.loads(bytes(kept["header"])) | header
        kept["header"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    np.savez(path, **(kept | arrays))


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
    "other observations": lambda p: rewrite(p, {"fields": FIELDS[:-1]}),
    "other actions": lambda p: rewrite(p, {"actions": [*ACTIONS[:-1], "sing"]}),
    "an unknown default": lambda p: rewrite(p, {"meta": {"default": "3K"}}),
    "a layer too many": lambda p: rewrite(p, {"layers": 4}),
    "a layer too few": lambda p: rewrite(p, {"layers": 2}),
    "no layers": lambda p: rewrite(p, {"layers": 0}),
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
