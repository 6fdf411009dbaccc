"""Offline data: episodes of policies as Minari datasets, each with a datasheet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import MultiDiscrete

import thp_env
from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import ask, checked_action
from thp_agents.heuristics.kernel_settings import KernelSetting
from thp_agents.plug_ins import policies
from thp_agents.policy import Policy, PolicyError
from thp_agents.view import KernelView
from thp_env.envs.actions import ACTIONS, KEEP, ORDER_MASKS
from thp_env.envs.ends import REASONS
from thp_env.envs.env import ThpEnv
from thp_env.machine.sizes import orders_of

ARGUMENTS: dict[str, dict[str, Any]] = {
    "thp_env/VmaOrder-v0": {"default_sizes": "all", "scan_share": 0},
    "thp_env/VmaHints-v0": {"default_sizes": "all", "scan_share": 0},
}
"""With what environments are made: as the policies that ship were trained, so that all data show the same."""

BEST = "best-heuristic"
"""Stands for the heuristic that pays best on the first episodes, among those that decide by their actions alone."""

RANDOM = "random"
"""Decides in every environment."""

TRIED = 3
"""Episodes that `BEST` is chosen by."""


@dataclass(frozen=True)
class Setting:
    """What is recorded.

    Attributes:
        environment: id.
        workloads: names; episode after episode draws one of them.
        size: of generators' episodes.
        episodes: how many.
        seed: of the first; the next ones follow.
        arguments: of the environment.
    """

    environment: str
    workloads: tuple[str, ...]
    size: str | None
    episodes: int
    seed: int
    arguments: dict[str, Any] = field(default_factory=dict)

    def make(self) -> gymnasium.Env:
        """Return the environment, as `gymnasium.make` makes it again from the dataset."""
        return gymnasium.make(self.environment, workload=list(self.workloads), size=self.size, shadow_tlb=True,
                              info_masks=True, **self.arguments)  # fmt: skip


@dataclass
class Episode:
    """One episode: n + 1 observations and infos, n actions and rewards."""

    seed: int
    workload: str = ""
    reason: str = ""
    cost_ns: float = 0.0
    observations: list[dict[str, np.ndarray]] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    elapsed_ns: list[int] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    terminated: bool = True


_DOING = ("set_orders", "madvise", "collapse", "split", "set", "khugepaged", "set_thp", "set_default_orders")


class _Watched(KernelView):
    """A view through which nothing can be done: what a policy does beside its actions, no dataset of actions shows."""

    def __getattribute__(self, name: str) -> Any:
        if name in _DOING:
            raise PolicyError(f"it acts beside its actions ({name}): a dataset of these would not show what it did")
        return super().__getattribute__(name)


class _ByAction(Policy):
    """A kernel setting as a policy that chooses its sizes for every VMA it is asked about."""

    def __init__(self, setting: KernelSetting) -> None:
        self.name, self.source, self.environment = setting.name, setting.source, setting.environment
        sizes = {orders: name for name, orders in ORDER_MASKS.items()}
        self.action = ACTIONS.index(sizes[orders_of(setting.default_sizes)])

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Return the sizes, or keep what there is where they do not fit."""
        return self.action if view.masks[self.action] else ACTIONS.index(KEEP)


class _Random(Policy):
    """Takes any of the actions that can have an effect, in any environment."""

    name = RANDOM
    source = "a reference"

    def __init__(self, setting: Setting) -> None:
        self.environment = setting.environment
        self.rng = np.random.default_rng(setting.seed)
        space: Any = setting.make().action_space
        self.sizes = space.nvec if isinstance(space, MultiDiscrete) else None

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Draw an action, or one for each part."""
        if self.sizes is None:
            return int(self.rng.choice(np.flatnonzero(view.masks)))
        parts = np.split(view.masks, np.cumsum(self.sizes)[:-1])
        return np.array([self.rng.choice(np.flatnonzero(part)) for part in parts])


def fitting(spec: str, setting: Setting) -> Policy:
    """Return a policy that decides in the setting's environment by its actions.

    Raises:
        PolicyError: when there is no such policy, or it does not fit.
    """
    if spec == RANDOM:
        return _Random(setting)
    policy = find_policy(spec)
    if policy.environment != setting.environment:
        raise PolicyError(f"policy {spec} decides in {policy.environment}, not {setting.environment}: take --env")
    if isinstance(policy, KernelSetting):
        if "interface" in policy.arguments or "VmaOrder" not in policy.environment:
            raise PolicyError(f"policy {spec} is a setting, and no action of {setting.environment}")
        if policy.collapses:
            raise PolicyError(f"policy {spec} lets khugepaged run beside its actions: take one with _no_khugepaged")
        if orders_of(policy.default_sizes) not in ORDER_MASKS.values():
            raise PolicyError(f"policy {spec}: no action of {setting.environment} gives {policy.default_sizes}")
        return _ByAction(policy)
    if policy.kind == "learned" and dict(policy.arguments) != setting.arguments and policy.arguments:
        raise PolicyError(f"policy {spec} was trained with {dict(policy.arguments)}, and data are made with "
                          f"{setting.arguments}")  # fmt: skip
    return policy


def record(policy: Policy, setting: Setting) -> list[Episode]:
    """Play episodes and keep all of them.

    Raises:
        PolicyError: when the policy raises, or acts beside its actions.
    """
    env = setting.make()
    return [_play(policy, env, setting.seed + i) for i in range(setting.episodes)]


def _play(policy: Policy, env: gymnasium.Env, seed: int) -> Episode:
    task_env: ThpEnv = env.unwrapped  # type: ignore[assignment]
    episode = Episode(seed)
    observation, info = env.reset(seed=seed)
    view = _Watched(task_env)
    over = False
    try:
        policy.reset(view)
        while True:
            episode.observations.append(observation)
            episode.elapsed_ns.append(info["elapsed_ns"])
            episode.masks.append(info["action_mask"])
            if over:
                break
            action = view.no_op
            if task_env.task.status[0] not in REASONS:
                action = checked_action(policy, task_env, ask(policy, policy.decide, observation, view))
            observation, reward, terminated, truncated, info = env.step(action)
            episode.actions.append(action)
            episode.rewards.append(float(reward))
            over, episode.terminated = terminated or truncated, terminated
    except PolicyError as error:
        raise PolicyError(f"policy {policy.name}: {error}") from None
    episode.workload, episode.reason = info["workload"], info["reason"]
    episode.cost_ns = info["metrics"]["cost_ns"]
    return episode


def best_heuristic(setting: Setting) -> tuple[str, dict[str, float]]:
    """Return the heuristic with the lowest mean cost, and what each candidate cost, in ns per access.

    Raises:
        PolicyError: when none decides in this environment by its actions.
    """
    trial = Setting(setting.environment, setting.workloads, setting.size, min(TRIED, setting.episodes), setting.seed,
                            setting.arguments)  # fmt: skip
    costs = {}
    for name in policies():
        if name == RANDOM:
            continue
        try:
            episodes = record(fitting(name, setting), trial)
        except PolicyError:
            continue
        costs[name] = float(np.mean([e.cost_ns for e in episodes]))
    if not costs:
        raise PolicyError(f"no heuristic decides in {setting.environment} by its actions alone")
    return min(costs, key=lambda name: costs[name]), costs


def digest(episodes: Sequence[Episode]) -> str:
    """Return what identifies the data: equal data have equal digests."""
    total = hashlib.sha256()
    for e in episodes:
        for observation in e.observations:
            for key in sorted(observation):
                total.update(observation[key].tobytes())
        total.update(np.array(e.actions, np.int64).tobytes() + np.array(e.rewards).tobytes())
    return total.hexdigest()[:16]


def datasheet(dataset_id: str, policy: Policy, setting: Setting, episodes: Sequence[Episode], command: str,
              notes: Sequence[str] = ()) -> str:  # fmt: skip
    """Return the datasheet of a dataset as Markdown (Gebru et al., "Datasheets for Datasets", 2021)."""
    returns = np.array([sum(e.rewards) for e in episodes])
    steps = np.array([len(e.actions) for e in episodes])
    counts = {name: sum(e.workload == name for e in episodes) for name in sorted({e.workload for e in episodes})}
    ends = {reason: sum(e.reason == reason for e in episodes) for reason in sorted({e.reason for e in episodes})}
    actions = np.concatenate([np.array(e.actions).reshape(-1) for e in episodes])
    used = ", ".join(f"{a}: {np.mean(actions == a):.0%}" for a in np.unique(actions).tolist())
    note_list = "\n".join(f"- {note}" for note in notes)
    return f"""# {dataset_id}

## What it is for

Offline reinforcement learning and imitation: which folio sizes memory gets in a simulated Linux, as {policy.name} chose
them ({policy.kind}; {policy.source}).

## What it holds

- {len(episodes)} episodes, {steps.sum()} steps ({steps.min()} to {steps.max()} an episode)
- return, minus ns per access: mean {returns.mean():.4g}, from {returns.min():.4g} to {returns.max():.4g}
- episodes of each workload: {", ".join(f"{name} {n}" for name, n in counts.items())}; ends: {ends}
- share of each action: {used}
- infos of each step: `elapsed_ns`, the simulated time that the step took, by which to discount; `action_mask`, which
  actions could have an effect

## How it was made

- `{command}`
- thp_env {thp_env.__version__}, behaviour {thp_env.BEHAVIOUR} of the simulator; seeds {setting.seed} to \
{setting.seed + setting.episodes - 1}
- {setting.environment} with {setting.arguments}, size {setting.size or "as installed"}
- the same command gives the same data: digest {digest(episodes)}
{note_list}

## What it must not be used for

- Figures are of a simulated machine: they say nothing about a program on your own.
- Actions of one policy cover little of what could be done; learning offline beyond it needs care.
- Do not test on the workloads or seeds above.
"""
