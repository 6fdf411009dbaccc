"""Ensembles: their values are the means of their members', and what does not go together is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from thp_agents.cli import main
from thp_agents.learned.ensemble import ensemble
from thp_agents.learned.forest import grow
from thp_agents.learned.networks import Forest, Mlp, flat
from thp_agents.learned.policy_file import LearnedPolicy, load_policy, save_policy, signature
from thp_agents.policy import PolicyError

MADE_FOR = signature("thp_env/VmaOrder-v0", {"scan_share": 0})


def member(seed: int, hidden: tuple[int, ...] = (5, 4), made_for: dict | None = None) -> LearnedPolicy:
    made_for = made_for or MADE_FOR
    rng = np.random.default_rng(seed)
    widths = [sum(map(len, made_for["seen"].values())), *hidden, len(made_for["actions"])]
    weights: dict[str, np.ndarray] = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weights[f"weight{i}"] = rng.normal(size=(outputs, inputs)).astype(np.float32)
        weights[f"bias{i}"] = rng.normal(size=outputs).astype(np.float32)
    return LearnedPolicy(Mlp(weights), made_for, {"name": f"m{seed}", "seed": seed, "decisions": 10, "behaviour": 2})


def observation(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([seed, 1])
    return {key: rng.random(len(names), np.float32) for key, names in MADE_FOR["seen"].items()}


def test_values_are_the_means_of_the_members() -> None:
    members = [member(0), member(1, (7, 3)), member(2)]
    together = ensemble(members, "together")
    for seed in range(20):
        seen = observation(seed)
        means = np.mean([m.network(seen) for m in members], axis=0)
        np.testing.assert_allclose(together.network(seen), means, rtol=1e-4, atol=1e-4)
    assert together.meta["decisions"] == 30
    assert together.meta["members"] == ["m0#0", "m1#1", "m2#2"]


def test_a_margin_is_what_actions_have_to_be_worth_more_than_doing_nothing() -> None:
    for members in ([member(0), member(1)], [trees(0), trees(1)]):
        plain, careful = ensemble(members, "plain"), ensemble(members, "careful", margin=0.75)
        raised = [0.75, *[0.0] * (len(MADE_FOR["actions"]) - 1)]
        for seed in range(20):
            difference = careful.network(observation(seed)) - plain.network(observation(seed))
            np.testing.assert_allclose(difference, raised, atol=1e-5)
        assert careful.meta["margin"] == 0.75


def test_an_ensemble_of_one_is_that_one() -> None:
    alone, together = member(3), ensemble([member(3)], "together")
    assert {name: w.tolist() for name, w in together.network.weights.items()} == {
        name: w.tolist() for name, w in alone.network.weights.items()
    }


def trees(seed: int, lcb_factor: float = 0.5) -> LearnedPolicy:
    rng = np.random.default_rng(seed)
    fields = sum(map(len, MADE_FOR["seen"].values()))
    seen = rng.random((60, fields), np.float32)
    weights = grow(seen, rng.normal(size=(60, len(MADE_FOR["actions"]))), 4, 5, seed)
    weights["lcb_factor"] = np.array([lcb_factor], np.float32)
    return LearnedPolicy(Forest(weights), MADE_FOR, {"name": f"t{seed}", "seed": seed})


def test_forests_become_one_of_all_trees() -> None:
    members = [trees(seed) for seed in range(3)]
    together = ensemble(members, "together")
    for seed in range(20):
        seen = observation(seed)
        forests = [m.network for m in members if isinstance(m.network, Forest)]
        values = np.concatenate([forest.values[forest.leaves(flat(seen))] for forest in forests])
        assert len(values) == 12
        expected = values.mean(0) - 0.5 * values.std(0)
        np.testing.assert_allclose(together.network(seen), expected, rtol=1e-4, atol=1e-5)
    bolder = ensemble(members, "bolder", lcb_factor=0.0)
    np.testing.assert_allclose(bolder.network(seen), values.mean(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(PolicyError, match="m0 is no forest"):
        ensemble([member(0)], "together", lcb_factor=0.5)
    with pytest.raises(PolicyError, match="t4 has another network than t0"):
        ensemble([trees(0), trees(4, 0.6)], "together")


def test_what_does_not_go_together_is_refused() -> None:
    other = member(1, made_for=signature("thp_env/VmaOrder-v0", {"scan_share": 1.0}))
    wrongs = ((other, "m1 sees or chooses something else than m0"), (member(1, (5,)), "m1 has another network than m0"))
    for wrong, said in wrongs:
        with pytest.raises(PolicyError, match=said):
            ensemble([member(0), wrong], "together")
    with pytest.raises(PolicyError, match="an ensemble has members"):
        ensemble([], "together")


def test_the_command_writes_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(tmp_path / f"m-{seed}.npz") for seed in range(2)]
    for seed, path in enumerate(files):
        save_policy(member(seed), path)
    out = tmp_path / "both-1.npz"
    assert main(["ensemble", *files, "--out", str(out)]) == 0
    assert load_policy(out).meta["seed"] == 1
    assert main(["ensemble", *files, "--out", str(tmp_path / "both.txt")]) == 2
    assert main(["ensemble", "64K", "--out", str(out)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].endswith("a policy's file ends in .npz")
    assert "64K is a heuristic" in told[1]
