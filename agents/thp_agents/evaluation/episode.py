"""One policy over one episode: its metrics, and pictures of the address space."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

import thp_env  # noqa: F401 -- registers the environments
from thp_agents.policy import Policy, PolicyError, check_policy
from thp_agents.view import KernelView
from thp_env.envs.env import ThpEnv
from thp_env.envs.rendering import folio_map
from thp_env.envs.task import REASONS


@dataclass
class Frame:
    """The address space at one moment.

    Attributes:
        time_ms: simulated time.
        orders: one value a cell of the address space, in address order: the order of the folio there, -1 for
            nothing, -2 for zero pages; int8.
        blocks: bytes of each VMA, in the same order.
        resident_mib: anonymous memory.
    """

    time_ms: float
    orders: np.ndarray
    blocks: list[int]
    resident_mib: float


@dataclass
class Run:
    """One policy on one workload with one seed.

    Attributes:
        policy, workload, seed: of the run.
        metrics: of `thp_env.metrics.run_metrics`, and `reward`, the sum of the rewards.
        decisions: their number.
        reason: "done" or "oom".
        frames: pictures of the address space over time, if requested.
        training: seed of the policy's training; 0 for heuristics.
        key: distinguishes the policy from others, with its file.
        family, size: of the workload.
    """

    policy: str
    workload: str
    seed: int
    metrics: dict[str, float]
    decisions: int
    reason: str
    frames: list[Frame] = field(default_factory=list)
    training: int = 0
    key: str = ""
    family: str = ""
    size: str = ""


CELLS = 240


def look(env: ThpEnv, cells: int = CELLS) -> Frame:
    """Return the address space of the environment's machine as a strip of cells."""
    machine = env.machine
    assert machine is not None
    orders, _ = folio_map(machine, cells)
    vmas = [v for v in machine.vmas() if v.anonymous]
    resident = machine.counters["nr_resident"] / 256
    return Frame(machine.clock_ps / 1e9, orders, [v.end - v.start for v in vmas], resident)


def environment(policy: Policy, workload: Any, reward: str = "total_time", horizon: float | None = None) -> ThpEnv:
    """Return the environment of a policy, with its default sizes from the first instruction on.

    Args:
        policy: what decides.
        workload: as the environments take it.
        reward: name of a reward preset.
        horizon: seconds that the program is meant to run (`thp_env.envs.horizon`).

    Raises:
        PolicyError: when the policy lacks something, or its arguments fit no environment.
    """
    check_policy(policy, f"policy {getattr(policy, 'name', '')}")
    arguments = {"workload": workload, "reward": reward, "default_sizes": policy.default_sizes, "shadow_tlb": True}
    arguments |= dict(policy.arguments) | {"horizon": horizon}
    try:
        env = gymnasium.make(policy.environment, disable_env_checker=True, **arguments)
    except (TypeError, ValueError) as error:
        raise PolicyError(f"policy {policy.name}: {policy.environment} cannot be made: {error}") from error
    return env.unwrapped  # type: ignore[return-value]


def evaluate_one(
    policy: Policy, workload: Any, seed: int, *, reward: str = "total_time", frames: int = 0, tick: Any = None,
    horizon: float | None = None,
) -> Run:  # fmt: skip
    """Run a policy over one episode of its environment.

    Args:
        policy: what decides.
        workload: as the environments take it.
        seed: of the workload.
        reward: name of a reward preset.
        frames: keep about so many pictures of the address space.
        tick: called after every decision.
        horizon: seconds that the program is meant to run; the metrics that are costs are then those until there.

    Raises:
        PolicyError: when the policy returns an action that does not exist, or raises.
    """
    env = environment(policy, workload, reward, horizon)
    observation, _ = env.reset(seed=seed)
    view = KernelView(env)
    ask(policy, policy.reset, view)
    total, decisions, over = 0.0, 0, False
    costs: dict[str, float] = {}
    info: dict[str, Any] = {}
    pictures: list[Frame] = []
    frame_interval = 1
    while not over:
        action = view.no_op
        if env.task.status[0] not in REASONS:  # else the program ended before there was anything to decide
            action = checked_action(policy, env, ask(policy, policy.decide, observation, view))
        if frames and decisions % frame_interval == 0:
            pictures.append(look(env))
            if len(pictures) >= 2 * frames:
                pictures, frame_interval = pictures[::2], frame_interval * 2
        observation, reward_value, over, _, info = env.step(action)
        total += float(reward_value)
        if horizon:
            for name, value in env.reward_terms.items():
                costs[name] = costs.get(name, 0.0) - value
        decisions += 1
        if tick:
            tick()
    if frames:
        pictures.append(look(env))
    if horizon:
        costs["cost_ns"] = -total
    assert env.workload is not None
    metrics = dict(info["metrics"]) | costs | {"reward": total}
    return Run(policy.name, env.workload.name, seed, metrics, decisions, info["reason"], pictures)


def checked_action(policy: Policy, env: ThpEnv, answer: Any) -> Any:
    """Return a policy's answer as an action of its environment.

    Raises:
        PolicyError: when it is not an action.
    """
    space = env.action_space
    if isinstance(space, Discrete):
        action = ask(policy, operator.index, answer)
        if not 0 <= action < space.n:
            raise PolicyError(f"policy {policy.name} chose action {action}; there are 0 to {space.n - 1}")
        return action
    if not space.contains(action := np.asarray(answer)):
        raise PolicyError(f"policy {policy.name} chose action {answer!r}, which is not in {space}")
    return action


def ask(policy: Policy, verb: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method of a policy.

    Raises:
        PolicyError: for any exception of the method.
    """
    try:
        return verb(*arguments)
    except PolicyError:
        raise
    except (Exception, SystemExit) as error:
        raise PolicyError(f"policy {policy.name} raised {type(error).__name__}: {error}") from error
