"""Heuristics do what their sources say; names; the protocol."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.episodes import MIB, PAGE, small_program
from support.policies import before, mapped
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.heuristics.mthp_autopilot import size_for
from thp_agents.plug_ins import policies
from thp_agents.policy import PolicyError

import thp_env
from thp_env.envs.actions import ACTIONS
from thp_env.machine import MachineConfig
from thp_env.machine.sizes import orders_of
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance

K = 1024


def metrics(name: str, instance: Instance) -> dict[str, float]:
    return evaluate_one(find_policy(name), instance, 0).metrics


@pytest.mark.parametrize("name", policies())
def test_every_policy_keeps_the_protocol(name: str) -> None:
    policy = find_policy(name)
    assert policy.name == name
    assert policy.kind in ("heuristic", "learned")
    assert policy.source
    assert orders_of(policy.default_sizes)
    assert policy.environment in thp_env.ENVIRONMENTS
    workload = Instance(small_program(), MachineConfig(memory=48 * MIB))
    first, again = evaluate_one(policy, workload, 0), evaluate_one(find_policy(name), workload, 0)
    assert first.reason == "done"
    assert first.metrics == again.metrics, "the same seed, the same run; and one policy can run twice"
    assert evaluate_one(policy, workload, 0).metrics == first.metrics


SETTINGS = {"never": "never", "16K": "16K", "64K": "64K", "1M": "1M", "2M": "2M", "all": "all", "4K": "never",
            "16K+32K+64K": "16K+32K+64K", "64K+16K": "16K+64K", "always_2M": "2M", "all_sizes": "all",
            "16K_32K_64K": "16K+32K+64K"}  # fmt: skip


@pytest.mark.parametrize(("name", "sizes"), SETTINGS.items())
def test_any_set_of_sizes_is_a_kernel_setting_which_never_decides_anything(name: str, sizes: str) -> None:
    policy = find_policy(name)
    assert (policy.name, policy.default_sizes) == (sizes, sizes)
    _, view = before(policy, mapped(2 * MIB))
    assert ACTIONS[policy.decide({}, view)] == "keep"
    assert view.time_ns("monitoring") == 0


@pytest.mark.parametrize(
    ("name", "faults"),
    # 60K, too small to be asked about, in a slot of its own; then 2M. By hand: the largest block that fits.
    [
        ("never", 15 + 512),
        ("2M", 15 + 1),
        ("64K", 15 + 32),
        ("16K+32K+64K", 4 + 32 - 1 + 2),  # 32K, 16K, then 12K in 3 faults; 32 of 64K
        ("all", 1 + 1 + 3 + 1),  # 32K, 16K, 12K in 3 faults; one of 2M
    ],
)
def test_settings_are_in_force_from_the_first_instruction(name: str, faults: int) -> None:
    assert metrics(name, mapped(60 * K, 2 * MIB))["faults"] == faults


@pytest.mark.parametrize(
    ("length", "size"),
    [
        (12 * K, "4K"), (16 * K, "16K"), (28 * K, "16K"), (32 * K, "32K"), (60 * K, "32K"), (64 * K, "64K"),
        (124 * K, "64K"), (128 * K, "128K"), (2 * MIB - 4 * K, "128K"), (2 * MIB, "2M"), (1 << 36, "2M"),
    ],
)  # fmt: skip
def test_autopilot_follows_its_table(length: int, size: str) -> None:
    assert size_for(length) == size


def test_autopilot_in_the_machine() -> None:
    """Slots stand 2 GiB apart, so that VMAs do not merge."""
    found = metrics("mthp_autopilot", mapped(64 * K, MIB, 4 * MIB, memory=256 * MIB))
    assert found["faults"] == 1 + 8 + 2
    assert found["peak_mib"] == pytest.approx(5 + 1 / 16)


def test_autopilot_keeps_away_from_scarce_blocks() -> None:
    """32 free blocks of 2M are 64 MiB: a machine of 64 MiB has fewer, and one of 128 MiB more."""
    for memory, size in ((64, "4K"), (128, "2M")):
        policy = find_policy("mthp_autopilot")
        _, view = before(policy, mapped(4 * MIB, memory=memory * MIB))
        assert ACTIONS[policy.decide({}, view)] == size


def test_madvise_gives_2m_to_who_asks() -> None:
    b = ProgramBuilder("asks")
    for name in ("plain", "asking"):
        b.mmap(name, 4 * MIB)
    b.advise("asking", 0, 4 * MIB, "hugepage")
    for name in ("plain", "asking"):
        b.touch(name, 0, 4 * MIB)
    found = metrics("madvise", Instance(b.build(), MachineConfig(memory=64 * MIB)))
    assert found["faults"] == 1024 + 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("nevr", "never"), ("16K+32K+64", "16K+32K+64K"), ("autopilot", "mthp_autopilot"), ("64", "64K")],
)
def test_a_misspelt_name_gets_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(PolicyError, match=re.escape(f"did you mean '{meant}'")) as refused:
        find_policy(typed)
    assert all(name in str(refused.value) for name in policies())


STRANGER = """
from thp_agents.policy import Policy
class Mine(Policy):
    name = "mine"
    source = "a friend"
    def decide(self, observation, view):
        return view.no_op
class Nameless(Policy):
    source = "nobody"
class Elsewhere(Mine):
    environment = "thp_env/Nowhere-v0"
class Odd(Mine):
    default_sizes = "3K"
class Misspelt(Mine):
    default_size = "all"
class Inherited(Misspelt):
    pass
class Old(Mine):
    default = "all"
def broken():
    raise OSError("no disk")
number = 7
"""


def test_a_policy_of_a_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger_policy.py").write_text(STRANGER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    mine = find_policy("stranger_policy:Mine")
    assert evaluate_one(mine, small_program(), 0).policy == "mine"
    assert find_policy("stranger_policy:Old").default_sizes == "all", "as version 0.1 called it"
    for name, told in (
        ("stranger_policy:Gone", "Gone"), ("stranger_gone:Mine", "stranger_gone"),
        ("stranger_policy:Nameless", "needs a name"), ("stranger_policy:broken", "no disk"),
        ("stranger_policy:Elsewhere", "'thp_env/Nowhere-v0'"), ("stranger_policy:Odd", "'3K'"),
        ("stranger_policy:number", "needs name"),
        ("stranger_policy:Misspelt", "no policy has default_size; did you mean 'default_sizes'"),
        ("stranger_policy:Inherited", "no policy has default_size; did you mean 'default_sizes'"),
    ):  # fmt: skip
        with pytest.raises(PolicyError, match=told) as refused:
            find_policy(name)
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)


def test_never_and_always_frame_the_others_where_all_memory_is_used() -> None:
    """Where every page is touched and reused, larger folios cost less."""
    b = ProgramBuilder("dense")
    b.mmap("a", 32 * MIB)
    b.touch("a", 0, 32 * MIB)
    b.access("a", 0, 32 * MIB, "uniform", 20000, weight=100)
    instance = Instance(b.build(), MachineConfig(memory=128 * MIB))
    cost = {name: metrics(name, instance)["cost_ns"] for name in ("never", "64K", "2M")}
    assert cost["2M"] < cost["64K"] < cost["never"]


def test_huge_folios_lose_where_memory_is_sparse() -> None:
    b = ProgramBuilder("sparse")
    b.mmap("a", 64 * MIB)
    b.touch("a", 0, 64 * MIB, stride=2 * MIB)
    b.compute(1e9)
    instance = Instance(b.build(), MachineConfig(memory=128 * MIB))
    never, always = metrics("never", instance), metrics("2M", instance)
    assert always["cost_ns"] > never["cost_ns"]
    assert (never["peak_mib"], always["peak_mib"]) == (32 * PAGE / MIB, 64)
    assert always["wasted_mib"] > 60
