"""Heuristics do what their sources say; names; the protocol."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import MIB, PAGE
from thp_agents.evaluation import evaluate_one
from thp_agents.policy import PolicyError, find_policy, policies

from thp_env.envs.actions import ACTIONS, ORDER_MASKS
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS
from thp_env.machine import MachineConfig, Vma, layout
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

ALL = np.ones(len(ACTIONS), np.int8)
SEEN = {"vma": np.zeros(len(VMA_FIELDS), np.float32), "system": np.zeros(len(SYSTEM_FIELDS), np.float32)}
K = 1024


def vma(length: int) -> Vma:
    return Vma(1, 0, 1 << 40, (1 << 40) + length, layout.VM_READ | layout.VM_WRITE, 0, 0, 0)


def metrics(name: str, instance: Instance) -> dict[str, float]:
    return evaluate_one(find_policy(name), instance, 0).metrics


def touched(*sizes: int) -> Instance:
    """Return a program that maps regions of so many bytes and writes all of each."""
    b = ProgramBuilder("touched")
    for i, size in enumerate(sizes):
        b.mmap(f"r{i}", size)
        b.touch(f"r{i}", 0, size)
    return Instance(b.build(), MachineConfig(memory=64 * MIB))


@pytest.mark.parametrize("name", policies())
def test_every_policy_keeps_the_protocol(name: str) -> None:
    policy = find_policy(name)
    assert policy.name == name
    assert policy.kind in ("heuristic", "learned")
    assert policy.source
    assert policy.default in ORDER_MASKS
    policy.reset()
    for length in (64 * K, 3 * MIB, 1 << 36):
        action = policy.decide(SEEN, vma(length), ALL)
        assert ACTIONS[action]
        only_keep = np.array([1] + [0] * (len(ACTIONS) - 1), np.int8)
        assert only_keep[policy.decide(SEEN, vma(length), only_keep)], "what the mask forbids is not chosen"


SETTINGS = {"never": "4K", "always_2M": "2M", "64K": "64K", "16K_32K_64K": "16K+32K+64K", "all_sizes": "all"}


@pytest.mark.parametrize(("name", "sizes"), SETTINGS.items())
def test_kernel_settings_never_decide_anything(name: str, sizes: str) -> None:
    policy = find_policy(name)
    assert policy.default == sizes
    assert ACTIONS[policy.decide(SEEN, vma(MIB), ALL)] == "keep"


@pytest.mark.parametrize(
    ("name", "faults"),
    # 60K, too small to be asked about, in a slot of its own; then 2M. By hand: the largest block that fits.
    [
        ("never", 15 + 512),
        ("always_2M", 15 + 1),
        ("64K", 15 + 32),
        ("16K_32K_64K", 4 + 32 - 1 + 2),  # 32K, 16K, then 12K in 3 faults; 32 of 64K
        ("all_sizes", 1 + 1 + 3 + 1),  # 32K, 16K, 12K in 3 faults; one of 2M
    ],
)
def test_settings_are_in_force_from_the_first_instruction(name: str, faults: int) -> None:
    assert metrics(name, touched(60 * K, 2 * MIB))["faults"] == faults


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (12 * K, "4K"), (16 * K, "16K"), (28 * K, "16K"), (32 * K, "32K"), (60 * K, "32K"), (64 * K, "64K"),
        (124 * K, "64K"), (128 * K, "128K"), (2 * MIB - 4 * K, "128K"), (2 * MIB, "2M"), (1 << 36, "2M"),
    ],
)  # fmt: skip
def test_vma_size_follows_its_table(length: int, size: str) -> None:
    assert ACTIONS[find_policy("vma_size").decide(SEEN, vma(length), ALL)] == size


def test_vma_size_in_the_machine() -> None:
    found = metrics("vma_size", touched(64 * K, MIB, 4 * MIB))
    assert found["faults"] == 1 + 8 + 2
    assert found["peak_mib"] == pytest.approx(5 + 1 / 16)


@pytest.mark.parametrize(
    ("typed", "meant"), [("nevr", "never"), ("always2M", "always_2M"), ("vmasize", "vma_size"), ("64", "64K")]
)
def test_a_misspelt_name_gets_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(PolicyError, match=f"did you mean '{meant}'") as refused:
        find_policy(typed)
    assert all(name in str(refused.value) for name in policies())


def test_never_and_always_frame_the_others_where_all_memory_is_used() -> None:
    """Where every page is touched and reused, larger folios cost less."""
    b = ProgramBuilder("dense")
    b.mmap("a", 32 * MIB)
    b.touch("a", 0, 32 * MIB)
    b.access("a", 0, 32 * MIB, "uniform", 20000, weight=100)
    instance = Instance(b.build(), MachineConfig(memory=128 * MIB))
    cost = {name: metrics(name, instance)["cost_ns"] for name in ("never", "64K", "always_2M")}
    assert cost["always_2M"] < cost["64K"] < cost["never"]


def test_huge_folios_lose_where_memory_is_sparse() -> None:
    b = ProgramBuilder("sparse")
    b.mmap("a", 64 * MIB)
    b.touch("a", 0, 64 * MIB, stride=2 * MIB)
    b.compute(1e9)
    instance = Instance(b.build(), MachineConfig(memory=128 * MIB))
    never, always = metrics("never", instance), metrics("always_2M", instance)
    assert always["cost_ns"] > never["cost_ns"]
    assert (never["peak_mib"], always["peak_mib"]) == (32 * PAGE / MIB, 64)
    assert always["wasted_mib"] > 60
