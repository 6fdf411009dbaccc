"""Distilling: the tree that comes out decides as the policy that went in, as far as its leaves reach."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.episodes import MIB
from support.trees import FAULT, VMA, stump
from thp_agents.cli import main
from thp_agents.distill_command import share_line
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.evaluation.suites import Case
from thp_agents.learned.distill import Pairs, distill, grow, play
from thp_agents.learned.networks import Tree
from thp_agents.learned.policy_file import load_policy, save_policy
from thp_agents.policy import PolicyError

from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS
from thp_env.traces import ProgramBuilder, save_program

pytest.importorskip("sklearn")

BOTH = pytest.mark.parametrize("made_for", [FAULT, VMA], ids=["fault", "vma"])


@pytest.fixture
def workload(tmp_path: Path) -> str:
    """24 VMAs of 2 and of 4 MiB in turn, which are touched one after the other."""
    b = ProgramBuilder("vmas")
    for i in range(24):
        b.mmap(f"r{i}", (2 + 2 * (i % 2)) * MIB)
        b.touch(f"r{i}", 0, 2 * MIB)
        b.access(f"r{i}", 0, 2 * MIB, "uniform", 500, weight=50)
    save_program(b.build(), tmp_path / "vmas.npz")
    return str(tmp_path / "vmas.npz")


def pairs(seen: np.ndarray, best: np.ndarray, gap: np.ndarray | float = 1.0) -> Pairs:
    """Three actions, all allowed, of which the best is better by a gap."""
    return Pairs(seen.astype(np.float32), np.ones((len(seen), 3), bool), np.eye(3)[best] * np.reshape(gap, (-1, 1)))


def decided(tree: Tree, p: Pairs) -> np.ndarray:
    return np.array([np.where(m, tree.values[tree.leaf(row)], -np.inf).argmax()
                     for row, m in zip(p.observations, p.masks, strict=True)])  # fmt: skip


def test_a_rule_of_three_leaves_is_found() -> None:
    seen = np.random.default_rng(0).random((4000, 5))
    best = np.where(seen[:, 3] <= 0.5, 2, np.where(seen[:, 1] <= 0.25, 0, 1))
    tree = grow(pairs(seen, best), 3)
    assert list(tree.feature) == [3, -1, 1, -1, -1]
    assert tree.threshold[[0, 2]] == pytest.approx([0.5, 0.25], abs=0.005)
    assert (decided(tree, pairs(seen, best)) == best).all()


def test_leaves_that_agree_are_one() -> None:
    """Room for 30 leaves, but two actions on one border need two."""
    seen = np.random.default_rng(1).random((2000, 4))
    best = (seen[:, 2] > 0.5).astype(int)
    assert (grow(pairs(seen, best), 30).feature < 0).sum() == 2
    assert list(grow(pairs(seen, np.full(2000, 1)), 30).feature) == [-1]


def test_there_are_no_more_leaves_than_asked_for() -> None:
    rng = np.random.default_rng(2)
    noise = pairs(rng.random((3000, 6)), rng.integers(3, size=3000))
    for leaves in (2, 7, 30):
        assert 2 <= (grow(noise, leaves).feature < 0).sum() <= leaves


def test_costly_mistakes_count_more_than_frequent_ones() -> None:
    """Field 0 decides at 80 % of the states, for nearly nothing; field 1 at the others. One border can be kept."""
    seen = np.random.default_rng(3).random((3000, 3))
    rare = seen[:, 2] > 0.8
    best = np.where(rare, seen[:, 1] > 0.5, seen[:, 0] > 0.5).astype(int)
    assert grow(pairs(seen, best, np.where(rare, 100.0, 0.1)), 2).feature[0] == 1
    assert grow(pairs(seen, best), 2).feature[0] == 0


def test_what_is_not_allowed_tells_nothing_about_an_action() -> None:
    """Action 2 seems the best everywhere, and is allowed where it is the worst: it must not be taken there."""
    seen = np.random.default_rng(4).random((400, 2))
    values = np.tile(np.array([0.0, 1.0, 5.0]), (400, 1))
    masks = np.ones((400, 3), bool)
    masks[:300, 2] = False
    values[300:, 2] = -5
    p = Pairs(seen.astype(np.float32), masks, values)
    assert (decided(grow(p, 2), p) == 1).all()


def test_states_that_are_worth_more_say_nothing_of_an_action() -> None:
    """Action 2 is allowed in the better states alone, and is the worse one there."""
    good = np.arange(100) < 50
    values = np.stack([np.full(100, -9.0), np.where(good, 100.0, 0.0), np.where(good, 99.0, 5.0)], 1)
    masks = np.ones((100, 3), bool)
    masks[~good, 2] = False
    p = Pairs(np.zeros((100, 2), np.float32), masks, values)
    assert (decided(grow(p, 2), p) == 1).all()


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(PolicyError, match="never had a choice"):
        grow(pairs(np.zeros((0, 3)), np.zeros(0, int)), 30)


def test_a_tree_without_a_branch_is_refused() -> None:
    with pytest.raises(PolicyError, match="at least 2 leaves, not 1"):
        distill(stump(VMA, "vma_size", 0.5, "16K", "64K"), leaves=1)


@BOTH
def test_a_tree_is_distilled_to_what_it_is(made_for: dict[str, Any], workload: str) -> None:
    """The teacher is a rule of two leaves on the VMA's length."""
    small, large = ("order 2", "order 4") if made_for is FAULT else ("16K", "64K")
    teacher = stump(made_for, "vma_size", np.log2(1 + 700) / 24, small, large)
    tree = distill(teacher, rounds=2, episodes=1, workloads=[workload])
    seen = play(tree, teacher, (workload, 0))
    assert len(seen.observations) >= 24
    assert len(np.unique(seen.best)) == 2
    assert isinstance(tree.network, Tree)
    assert (decided(tree.network, seen) == seen.best).all()
    assert evaluate_one(tree, workload, 0).metrics == evaluate_one(teacher, workload, 0).metrics
    assert (tree.meta["teacher"], tree.meta["seed"]) == ("stump", 3)


def test_a_seed_fixes_the_tree(workload: str) -> None:
    teacher = stump(VMA, "vma_faults", 0.3, "keep", "64K")
    first, second = (distill(teacher, rounds=2, episodes=1, workloads=[workload]).network.weights for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_how_much_of_the_score_is_kept(tmp_path: Path, workload: str) -> None:
    """The same policy keeps all of it; one that gives everything 4K keeps nothing."""
    where = [Case(workload, "small", 0)]
    save_policy(stump(VMA, "vma_age", 0.5, "64K", "64K"), tmp_path / "network.npz")
    shutil.copy(tmp_path / "network.npz", tmp_path / "same.npz")
    save_policy(stump(VMA, "vma_age", 0.5, "4K", "4K"), tmp_path / "nothing.npz")
    same, nothing = (share_line(str(tmp_path / "network.npz"), str(tmp_path / name), where, quiet=True)
                     for name in ("same.npz", "nothing.npz"))  # fmt: skip
    assert "100% of it; difference +0.0 (one run, no interval)" in same
    assert "the tree +0.0 (one run, no interval), 0% of it" in nothing


def test_the_command_writes_a_policy_rules_and_c(
    tmp_path: Path, workload: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_policy(stump(VMA, "vma_size", np.log2(1 + 700) / 24, "16K", "64K"), "agent.npz")
    words = ["--workloads", workload, "--rounds", "1", "--episodes", "1", "--no-score", "--quiet", "--processes", "1"]
    assert main(["distill", "agent.npz", *words]) == 0
    out = capsys.readouterr().out
    assert "wrote runs/agent-tree.npz, runs/agent-tree.txt, runs/agent-tree.c" in out
    assert load_policy("runs/agent-tree.npz").network.kind == "tree"
    text = Path("runs/agent-tree.txt").read_text()
    assert "\n    16K (where it is not allowed: " in text
    asked = re.search(r"^if (\w+) <= ", text, re.M)
    assert asked
    part, name = asked[1].split("_", 1)
    meaning = {"vma": VMA_FIELDS, "system": SYSTEM_FIELDS}[part][name].meaning
    assert f"\n{asked[1]}: {meaning} (" in text
    assert "thp_get_order" in Path("runs/agent-tree.c").read_text()
    assert main(["evaluate", "--policies", "runs/agent-tree.npz", "--workloads", workload, "--quiet"]) == 0
    assert "agent-tree" in capsys.readouterr().out
