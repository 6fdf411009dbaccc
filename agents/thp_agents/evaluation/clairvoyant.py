"""The clairvoyant: the saving of a policy that knows the effect of each of its decisions.

It runs the program with the best of several base rules. At the decisions that matter most it tries every action on the
simulator itself, runs each to the end, and takes the cheapest. So it costs no more than any of its base rules with the
same windows, and its saving is possible. It is greedy, and decides only where VmaOrder-v0 asks, so even more may be
possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from thp_agents.evaluation.episode import environment
from thp_agents.evaluation.reference import FOLDER, Outcome, Reference
from thp_agents.evaluation.search import finish
from thp_agents.evaluation.suites import Case, digest, fixed_workload, instance_of
from thp_agents.evaluation.what_ifs import costs_of, follower
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.plug_ins import policies
from thp_agents.view import KernelView
from thp_env.envs.actions import ACTIONS
from thp_env.envs.vma_order import VmaOrderEnv
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.prices import Prices
from thp_env.workload import Workload

ARGUMENTS: dict[str, Any] = {"scan_share": 0, "window_ms": 20.0, "window_faults": 128, "idle": True}
"""Of VmaOrder-v0: windows as short as the utilisation rule's, and VMAs that have no faults are asked about too."""

BASES = (
    "never", "64K", "16K+32K+64K", "2M", "all", "all_khugepaged_v19", "collapse_everywhere", "utilisation",
    "ski_rental",
)  # fmt: skip
"""Heuristics that decide what is not tried, each with its own sizes, daemons and features."""

KERNEL = ("khugepaged", "features")
"""Arguments of a heuristic that are its kernel's, in whichever environment it decides."""

DECISIONS = 8
"""At which all actions are tried: those about the largest VMAs, first questions about one before all others."""

FIRST = 4.0
"""How much more the first question about a VMA tells than a later one."""


class _Playthrough(NamedTuple):
    cost: float
    telling: list[float]
    """Of each decision: pages of the VMA, weighed."""


def solve(case: Case) -> Outcome:
    """Play a case with hindsight."""
    instance = instance_of(case)
    workload = fixed_workload(case, instance)
    plays = {base: _play(base, workload, case.seed) for base in BASES}
    base = min(plays, key=lambda b: (plays[b].cost, b))
    telling = plays[base].telling
    decision_points = set(sorted(range(len(telling)), key=lambda i: (-telling[i], i))[:DECISIONS])
    env, policy = _begin(base, workload, case.seed)
    view, number, choices = KernelView(env), 0, {"base": base}
    over = False
    while not over:
        action = 0
        if env.vma is not None:
            if number in decision_points:
                action = _best(env, policy)
                if action:
                    choices[f"decision {number}"] = ACTIONS[action]
            number += 1
        policy.leave(action, {}, view)
        _, _, over, _, _ = env.step(action)
    metrics, _ = finish(env.task.batch[0])
    metrics["reward"] = -metrics["total_ns"] / max(1.0, float(instance.program.work.sum()))
    return Outcome(digest(instance), metrics, choices)


def _begin(base: str, workload: Workload, seed: int) -> tuple[VmaOrderEnv, LearnedPolicy]:
    heuristic = policies()[base]()
    kernel = {name: heuristic.arguments[name] for name in KERNEL if name in heuristic.arguments}
    policy = follower(base, {**kernel, **ARGUMENTS, "default_sizes": heuristic.default_sizes})
    env: VmaOrderEnv = environment(policy, workload)  # type: ignore[assignment]
    env.reset(seed=seed)
    policy.reset(KernelView(env))
    return env, policy


def _play(base: str, workload: Workload, seed: int) -> _Playthrough:
    env, policy = _begin(base, workload, seed)
    view, telling, over = KernelView(env), list[float](), False
    while not over:
        if (vma := env.vma) is not None:
            telling.append(vma.pages * (1.0 if env.task.smaps["asked"][0, 0] else FIRST))
        policy.leave(0, {}, view)
        _, _, over, _, _ = env.step(0)
    return _Playthrough(finish(env.task.batch[0])[0]["total_ns"], telling)


def _best(env: VmaOrderEnv, policy: LearnedPolicy) -> int:
    """Return the action whose run is the cheapest; doing nothing, unless another is cheaper."""
    actions = np.flatnonzero(env.action_masks())
    state = env.clone_state()
    task_state: Mapping[str, Any] = state.task
    costs = costs_of(env, task_state, policy, actions.tolist())
    env.restore_state(state)
    return int(actions[costs.argmin()])


def decided_by() -> dict[str, Any]:
    """Return what determines all results, independent of the case, as JSON."""
    search = {"bases": [*BASES], "arguments": ARGUMENTS, "decisions": DECISIONS, "first": FIRST}
    return {"behaviour": BEHAVIOUR, "prices": asdict(Prices()), "search": search}


CLAIRVOYANT = Reference("clairvoyant", "clairvoyant", solve, decided_by, FOLDER / "clairvoyant.json")
