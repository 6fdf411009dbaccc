"""Agents on top of a heuristic: what they leave alone is as if the heuristic ran by itself, episode after episode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from support.episodes import MIB, make, small_workload
from support.trees import stump
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.evaluation.suites import Case, fixed_workload, instance_of, workload_of
from thp_agents.learned.networks import Mlp
from thp_agents.learned.on_base import OnBase
from thp_agents.learned.policy_file import Base, LearnedPolicy, load_policy, save_policy, signature
from thp_agents.learned.rollouts import try_all
from thp_agents.learned.tree_text import rules
from thp_agents.policy import PolicyError
from thp_agents.view import KernelView

from thp_env.envs.actions import ACTIONS, ORDER_MASKS
from thp_env.envs.observation import SYSTEM_FIELDS, VMA_FIELDS
from thp_env.traces import ProgramBuilder

ARGUMENTS = {"default_sizes": "all", "scan_share": 0, "window_ms": 20.0, "window_faults": 128, "idle": True}
"""The windows of the utilisation rule."""

METRICS = ("cost_ns", "walk_cost", "memory_cost", "faults", "splits", "monitor_cost")


def always(action: str, base: Base = "utilisation") -> LearnedPolicy:
    """Return an agent that prefers an action in all states."""
    bias = np.zeros(len(ACTIONS), np.float32)
    bias[ACTIONS.index(action)] = 1
    weight = np.zeros((len(ACTIONS), len(SYSTEM_FIELDS) + len(VMA_FIELDS)), np.float32)
    made_for = signature("thp_env/VmaOrder-v0", ARGUMENTS, base)
    return LearnedPolicy(Mlp({"weight0": weight, "bias0": bias}), made_for, {"name": f"always {action}"})


class Once(LearnedPolicy):
    """Takes an action at the first decision that has one to take, and none after."""

    def __init__(self, action: str) -> None:
        other = always("keep")
        super().__init__(other.network, other.signature, {"name": "once"})
        self.action = ACTIONS.index(action)

    def choose(self, observation: dict[str, np.ndarray], view: Any) -> int:
        """Return the action, then nothing."""
        action, self.action = self.action, 0
        return action


@pytest.mark.parametrize("name", ["redis_delete", "kernel_build"])
def test_an_agent_that_does_nothing_is_the_heuristic_under_it(name: str) -> None:
    workload = workload_of(Case(name, "small", 1))
    alone = evaluate_one(find_policy("utilisation"), workload, 1)
    under = evaluate_one(always("keep"), workload, 1)
    assert under.decisions == alone.decisions
    assert under.metrics == alone.metrics
    assert evaluate_one(find_policy("all"), workload, 1).metrics != alone.metrics, "the heuristic acted"


def test_the_heuristic_leaves_alone_what_got_sizes() -> None:
    env = make(workload=workload_of(Case("redis_delete", "small", 0)), **ARGUMENTS).unwrapped
    observation, _ = env.reset(seed=0)
    view, policy = KernelView(env), always("32K")
    policy.reset(view)
    over, decided = False, set()
    while not over:
        action = policy.decide(observation, view)
        if action:
            assert ACTIONS[action] == "32K"
            decided.add(env.vma.id)
        observation, _, over, _, _ = env.step(action)
        held = {v.id: v.orders for v in env.machine.vmas() if v.id in decided}
        assert set(held.values()) <= {ORDER_MASKS["32K"]}
    assert decided == policy.own_vmas
    assert decided
    policy.reset(KernelView(env))
    assert not policy.own_vmas


def test_a_rule_takes_over_what_it_is_given_and_no_more() -> None:
    """Each VMA has one rule at most: that of the last action that names one, sizes of the agent's own, or the base."""
    base = {"keep": "utilisation", "collapse": "collapse_everywhere", "split": "ingens"}
    env = make(workload=workload_of(Case("kernel_build", "small", 0)), **ARGUMENTS).unwrapped
    observation, _ = env.reset(seed=0)
    view, policy = KernelView(env), always("keep", base)
    acted: dict[str, set[int]] = {}
    for action, rule in policy.rules.items():
        def decide(seen: Any, view: Any, action: str = action) -> Any:
            acted[action] = {vma.id for vma in view.vmas()}
            return view.no_op

        rule.decide = decide
    policy.reset(view)
    given, over = dict[int, str](), False
    rng = np.random.default_rng(0)
    while not over:
        action = str(rng.choice(["keep", "collapse", "split", "64K"])) if env.vma else "keep"
        if action != "keep":
            given[env.vma.id] = action
        acted.clear()
        policy.leave(ACTIONS.index(action), observation, view)
        there = {vma.id for vma in view.vmas()}
        assert acted.pop("keep") == there - given.keys()
        wanted = {name: {i for i in there if given.get(i) == name} for name in ("collapse", "split")}
        assert acted == {name: ids for name, ids in wanted.items() if ids}
        observation, _, over, _, _ = env.step(ACTIONS.index(action) if env.action_masks()[ACTIONS.index(action)] else 0)
    assert len({*given.values()}) == 3
    other = policy.fork()
    assert (other.taken_over, other.own_vmas) == (policy.taken_over, policy.own_vmas)
    other.taken_over.clear()
    assert policy.taken_over
    policy.reset(view)
    assert not policy.taken_over


def test_a_vma_that_is_handed_over_is_collapsed_as_it_fills() -> None:
    b = ProgramBuilder("filled")
    b.mmap("heap", 8 * MIB, at="slot")
    b.touch("heap", 0, 4096)
    for page in range(1, 4):
        b.compute(1e8)
        b.touch("heap", page * 2 * MIB, 4096)
    b.compute(3e8)
    program = b.build()
    arguments, collapse = ARGUMENTS | {"default_sizes": "4K"}, ACTIONS.index("collapse")

    class Handing(LearnedPolicy):
        asked = 0

        def choose(self, observation: dict[str, np.ndarray], view: Any) -> int:
            """Hand the VMA over, or collapse it, at the first question."""
            self.asked += view.vma is not None
            return collapse if view.vma and self.asked == 1 else 0

    network = always("keep").network
    handed, not_handed = (
        evaluate_one(Handing(network, signature("thp_env/VmaOrder-v0", arguments, base), {}), program, 0).metrics
        for base in ({"keep": "ski_rental", "collapse": "collapse_everywhere"}, "ski_rental")
    )
    assert handed["resident_mib"] > 1.5 * not_handed["resident_mib"]


def test_a_fork_goes_on_by_itself() -> None:
    env = make(**ARGUMENTS).unwrapped
    observation, _ = env.reset(seed=0)
    view, policy = KernelView(env), always("64K")
    policy.reset(view)
    other = policy.fork()
    policy.decide(observation, view)
    assert policy.own_vmas
    assert not other.own_vmas
    assert other.base is not policy.base
    assert policy.base.fault_counts is not other.base.fault_counts


def test_a_training_steps_many_machines_under_the_heuristic() -> None:
    """In a batch, an agent that leaves everything alone costs what the heuristic does, episode after episode."""
    cases = [Case("redis_delete", "small", 1), Case("kernel_build", "small", 2)]
    fixed = [fixed_workload(case, instance_of(case)) for case in cases]
    rule = find_policy("utilisation")
    wanted = [evaluate_one(rule, w, case.seed).metrics for w, case in zip(fixed, cases, strict=True)]
    machines = gymnasium.make_vec("thp_env/VmaOrder-v0", 2, vectorization_mode="vector_entry_point",
                                  autoreset_mode="SameStep", workloads=fixed, **ARGUMENTS)  # fmt: skip
    envs = OnBase(machines, "utilisation", ARGUMENTS)
    envs.reset(seed=[case.seed for case in cases])
    ended = [0, 0]
    while min(ended) < 2:
        _, _, terminated, _, infos = envs.step(np.zeros(2, np.int64))
        for i in np.flatnonzero(terminated):
            metrics = infos["final_info"]["metrics"]
            assert [metrics[name][i] for name in METRICS] == [wanted[i][name] for name in METRICS]
            ended[i] += 1


def test_what_ifs_go_on_as_the_heuristic_would() -> None:
    """A saving is that of a whole run which takes the action at the first decision against one that does not."""
    b = ProgramBuilder("waves")
    b.mmap("heap", 16 * MIB)
    for wave in range(4):
        b.touch("heap", wave * 4 * MIB, 4 * MIB, stride=16384)
        b.access("heap", 0, 16 * MIB, "uniform", 2000, ns=2, weight=5000)
        b.compute(4e8)
    program = b.build()
    env = make(workload=program, **ARGUMENTS).unwrapped
    env.reset(seed=0)
    policy = always("keep")
    policy.reset(KernelView(env))
    worth = try_all(env, env.clone_state().task, policy)
    kept = evaluate_one(Once("keep"), program, 0).metrics["cost_ns"]
    found = {}
    for name in ("4K", "16K+32K+64K", "2M"):
        found[name] = 100 * (1 - evaluate_one(Once(name), program, 0).metrics["cost_ns"] / kept)
        assert worth[ACTIONS.index(name)] == pytest.approx(found[name], rel=1e-4, abs=1e-6)
    assert len({round(saved, 2) for saved in found.values()}) == 3, "the actions differ here"


def test_a_file_names_its_heuristic(tmp_path: Path) -> None:
    save_policy(always("keep"), tmp_path / "agent.npz")
    read = load_policy(tmp_path / "agent.npz")
    assert read.base is not None
    assert read.base.name == "utilisation"
    with pytest.raises(PolicyError, match="on top of 'nobody'"):
        signature("thp_env/VmaOrder-v0", {}, "nobody")
    with pytest.raises(PolicyError, match="VmaOrder-v0, on top of a heuristic"):
        signature("thp_env/FaultOrder-v0", {}, "utilisation")
    for wrong in ({"collapse": "ingens"}, {"keep": "nobody"}):
        with pytest.raises(PolicyError, match="on top of"):
            signature("thp_env/VmaOrder-v0", {}, wrong)
    with pytest.raises(PolicyError, match="no rule can take over a VMA by 'huge': the actions are keep, 4K"):
        signature("thp_env/VmaOrder-v0", {}, {"keep": "ski_rental", "huge": "ingens"})
    several = {"keep": "utilisation", "collapse": "collapse_everywhere"}
    save_policy(always("keep", several), tmp_path / "several.npz")
    assert [rule.name for rule in load_policy(tmp_path / "several.npz").rules.values()] == [*several.values()]


def test_a_heuristic_that_answers_questions_cannot_be_under_an_agent() -> None:
    with pytest.raises(PolicyError, match="mthp_autopilot answers questions"):
        evaluate_one(always("keep", "mthp_autopilot"), small_workload(), 0)


def test_a_tree_says_whom_it_leaves_memory_to() -> None:
    tree = stump(always("keep").signature, "vma_size", 0.5, "keep", "64K")
    assert "keep: leave it to utilisation" in rules(tree)
