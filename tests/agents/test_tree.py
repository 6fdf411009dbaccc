"""Decision trees: as policy files, as rules and as C, which decides as they do."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.trees import FAULT, VMA, WALKED, WALKS, stump
from thp_agents.learned.networks import Tree
from thp_agents.learned.policy_file import LearnedPolicy, load_policy, save_policy, signature
from thp_agents.learned.tree_c import c_source
from thp_agents.learned.tree_text import fields_of, integer_below, largest, normalised, rules, value_text
from thp_agents.policy import PolicyError

EACH = pytest.mark.parametrize("made_for", [FAULT, VMA, WALKS], ids=["fault", "vma", "walks"])


def grown(made_for: dict[str, Any], leaves: int = 30, seed: int = 3) -> LearnedPolicy:
    """A tree that splits random leaves at the value of a random integer."""
    rng = np.random.default_rng(seed)
    fields = list(fields_of(made_for).values())
    feature, threshold, left, right = [-1], [0.0], [0], [0]
    for _ in range(leaves - 1):
        node = int(rng.choice([n for n, f in enumerate(feature) if f < 0]))
        feature[node] = int(rng.integers(len(fields)))
        field = fields[feature[node]]
        threshold[node] = float(normalised(field, int(2 ** rng.uniform(0, np.log2(largest(field) + 1))) - 1))
        left[node], right[node] = len(feature), len(feature) + 1
        feature += [-1, -1]
        threshold, left, right = [*threshold, 0.0, 0.0], [*left, 0, 0], [*right, 0, 0]
    values = rng.normal(size=(len(feature), len(made_for["actions"])))
    arrays = {"inputs": [len(fields)], "feature": feature, "threshold": threshold, "left": left, "right": right}
    weights = {k: np.array(v, np.float32) for k, v in arrays.items()} | {"values": values.astype(np.float32)}
    return LearnedPolicy(Tree(weights), made_for, {"name": "tree"})


def test_thresholds_are_told_in_units() -> None:
    size, resident = VMA_SIZE, fields_of(VMA)["vma_resident"]
    assert integer_below(size, np.log2(1 + 512) / 24) == 512, "log2(1 + 512 pages) / 24"
    assert value_text(size, 512) == "2048 KiB"
    assert value_text(resident, integer_below(resident, 0.25)) == "25 %"
    assert "if vma_resident <= 25 %:\n    4K" in rules(stump(VMA, "vma_resident", 0.25, "4K", "16K"))
    assert "if not vma_advised:\n    order 2" in rules(stump(FAULT, "vma_advised", 0.5, "order 2", "order 3"))


VMA_SIZE = fields_of(VMA)["vma_size"]


@EACH
def test_a_tree_is_a_policy_file(made_for: dict[str, Any], tmp_path: Path) -> None:
    policy = grown(made_for)
    save_policy(policy, tmp_path / "tree.npz")
    read = load_policy(tmp_path / "tree.npz")
    for name, weight in policy.network.weights.items():
        assert np.array_equal(weight, read.network.weights[name])


@pytest.mark.parametrize(("name", "value", "told"), [("left", 0, "no tree"), ("feature", 999, "field"),
                                                     ("right", 1.5, "whole")])  # fmt: skip
def test_what_is_no_tree_is_refused(name: str, value: float, told: str) -> None:
    weights = dict(grown(FAULT).network.weights)
    weights[name] = weights[name].copy()
    weights[name][0] = value
    with pytest.raises(ValueError, match=told):
        Tree(weights)


def test_many_vmas_at_once_are_refused() -> None:
    with pytest.raises(PolicyError, match="VmaOrder-v0 or FaultOrder-v0"):
        fields_of(signature("thp_env/VmaHints-v0", {}))


def test_more_actions_than_fit_into_c_are_refused() -> None:
    with pytest.raises(PolicyError, match="22 actions, and a tree in C among 16 at most: name those"):
        c_source(grown(signature("thp_env/VmaOrder-v0", WALKED)))


@EACH
def test_c_decides_as_the_tree(made_for: dict[str, Any], tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        pytest.skip("a C compiler is needed")
    policy = grown(made_for)
    (tmp_path / "tree.c").write_text(c_source(policy))
    subprocess.run([compiler, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", tmp_path / "tree.so",
                    tmp_path / "tree.c"], check=True)  # fmt: skip
    code = ctypes.CDLL(str(tmp_path / "tree.so"))
    rng, fields = np.random.default_rng(5), list(fields_of(made_for).values())
    orders = [0, 2, 3, 4, 5, 6, 7, 8, 9]
    tree = policy.network
    assert isinstance(tree, Tree)
    most = [largest(f) for f in fields]
    asked = [(f, integer_below(fields[f], t)) for f, t in zip(tree.feature, tree.threshold, strict=True) if f >= 0]
    reached = set()
    for _ in range(1000):
        seen = [int(v) - 1 for v in 2 ** rng.uniform(0, np.log2(np.array(most) + 1))]
        for i in rng.permutation(len(asked))[:8]:  # close to what the tree asks
            f, bound = asked[i]
            seen[f] = min(bound + int(rng.integers(2)), most[f])
        flat = np.array([normalised(f, v) for f, v in zip(fields, seen, strict=True)], np.float32)
        masks = rng.integers(0, 2, len(made_for["actions"]))
        masks[0] = 1
        reached.add(tree.leaf(flat))
        wanted = int(np.where(masks != 0, tree.values[tree.leaf(flat)], -np.inf).argmax())
        assert policy.decide({"flat": flat}, SimpleNamespace(masks=masks)) == wanted
        struct = (ctypes.c_uint * len(seen))(*seen)
        if made_for is FAULT:
            allowed = sum(1 << order for order, m in zip(orders, masks, strict=True) if m)
            assert code.thp_order(struct, allowed) == orders[wanted]
        else:
            allowed = sum(int(m) << i for i, m in enumerate(masks))
            assert code.thp_vma_action(struct, allowed) == wanted
    assert len(reached) > 10
    if made_for is VMA:
        assert code.thp_order(0b11100, 0b1001) == 3, "the largest of those kept that is allowed"
        assert code.thp_action_orders(made_for["actions"].index("64K"), 0) == 1 << 4
        assert code.thp_action_orders(made_for["actions"].index("split"), 7) == 7


@EACH
def test_c_compiles_for_bpf(made_for: dict[str, Any], tmp_path: Path) -> None:
    if not shutil.which("clang"):
        pytest.skip("clang with the bpf target is needed: apt-get install clang")
    (tmp_path / "tree.c").write_text(c_source(grown(made_for)))
    subprocess.run(["clang", "-target", "bpf", "-O2", "-g", "-Wall", "-Werror", "-c", "-o", tmp_path / "tree.o",
                    tmp_path / "tree.c"], check=True)  # fmt: skip
    built = (tmp_path / "tree.o").read_bytes()
    assert int.from_bytes(built[18:20], "little") == 247, "EM_BPF"
    for section in (b"struct_ops/thp_get_order", b".struct_ops.link", b".maps", b".BTF"):
        assert section + b"\0" in built, "what libbpf looks for"
