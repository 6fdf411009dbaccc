"""An agent that learns from what-ifs: at a decision the simulator is cloned, and every action is run to the end.

Rollout classification policy iteration (Lagoudakis and Parr, 2003), with values instead of classes: a forest learns
how much cheaper each action is than doing nothing, as a share of the run's cost, with everything else unchanged
(`evaluation/what_ifs`). The agent may have a heuristic as its base. Then the forest learns the saving of overruling
it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

import gymnasium
import numpy as np

import thp_env  # noqa: F401 -- registers the environments
from thp_agents.evaluation.parallel import map_jobs, without_lost
from thp_agents.evaluation.what_ifs import costs_of, follower
from thp_agents.learned.checkpoint import MEMBER
from thp_agents.learned.config import AgentConfig, weights_of, workloads_of
from thp_agents.learned.forest import grow
from thp_agents.learned.networks import Forest, flat
from thp_agents.learned.policy_file import Base, LearnedPolicy, signature
from thp_agents.policy import PolicyError
from thp_agents.view import KernelView
from thp_env.archive import Column, read_archive
from thp_env.envs.vma_order import VmaOrderEnv
from thp_env.reading import FileError, reading
from thp_env.workload import Workload


@dataclass
class Samples:
    """Decisions and the worth of each action there.

    Attributes:
        observations: flat, shape (n, fields).
        worth: saving of an action in percent of the run's cost, shape (n, actions); NaN where it has no effect.
        episodes: their number.
    """

    observations: np.ndarray
    worth: np.ndarray
    episodes: int = 0

    def __len__(self) -> int:
        """Return how many decisions there are."""
        return len(self.observations)

    def with_(self, others: Sequence[Samples]) -> Samples:
        """Return these and others as one."""
        parts = [self, *others]
        return Samples(np.concatenate([s.observations for s in parts]), np.concatenate([s.worth for s in parts]),
                       sum(s.episodes for s in parts))  # fmt: skip

    @classmethod
    def none(cls, fields: int, actions: int) -> Samples:
        """Return an empty set."""
        return cls(np.zeros((0, fields), np.float32), np.zeros((0, actions), np.float32))


@dataclass(frozen=True)
class Play:
    """How to play an episode.

    Attributes:
        weights: nodes of the forest that decides; empty: no decisions.
        workloads: one of them is drawn.
        chances: of each workload; None: equal.
        arguments: of VmaOrder-v0.
        base: what the forest decides on top of.
        epsilon: share of decisions that are drawn from all actions.
        tried: number of decisions of the episode at which all actions are tried.
    """

    weights: dict[str, np.ndarray]
    workloads: tuple[Workload, ...]
    chances: list[float] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    base: Base = ""
    epsilon: float = 0.2
    tried: int = 12

    def policy(self) -> LearnedPolicy:
        """Return the policy that decides."""
        return follower(self.base, self.arguments, self.weights)


def play(setup: Play, seed: int) -> Samples:
    """Play an episode, and try all actions at some of its decisions, new VMAs above all.

    Args:
        setup: how it is played.
        seed: of the episode.
    """
    rng = np.random.default_rng([seed, 1])
    wrapped = gymnasium.make("thp_env/VmaOrder-v0", workload=setup.workloads, weights=setup.chances,
                             disable_env_checker=True, **setup.arguments)  # fmt: skip
    env: VmaOrderEnv = wrapped.unwrapped  # type: ignore[assignment]
    states: list[tuple[float, Mapping[str, Any], LearnedPolicy, np.ndarray]] = []
    observation, _ = env.reset(seed=seed)
    policy, view = setup.policy(), KernelView(env)
    policy.reset(view)
    over = False
    while not over:
        masks = env.action_masks()
        if env.vma is not None and masks.any():
            # A weighted sample of fixed size without knowing how many there will be (Efraimidis and Spirakis, 2006).
            weight = 4.0 if not env.task.smaps["asked"][0, 0] else 1.0
            key = float(rng.random() ** (1 / weight))
            if len(states) < setup.tried or key > states[-1][0]:
                states.append((key, env.clone_state().task, policy.fork(), flat(observation)))
                states = sorted(states, key=lambda s: -s[0])[: setup.tried]
        explore = rng.random() < setup.epsilon
        action = int(rng.choice(np.flatnonzero(masks))) if explore else policy.choose(observation, view)
        policy.leave(action, observation, view)
        observation, _, over, _, _ = env.step(action)
    samples = Samples.none(len(flat(observation)), len(policy.signature["actions"]))
    samples.episodes = 1
    return samples.with_([
        Samples(fields[None], try_all(env, state, fork)[None]) for _, state, fork, fields in states
    ])  # fmt: skip


def try_all(env: VmaOrderEnv, state: Mapping[str, Any], policy: LearnedPolicy) -> np.ndarray:
    """Return the saving of each action in a state, in percent of the run's cost; NaN for actions without effect."""
    env.task.restore_state(0, state)
    masks = env.action_masks()
    actions = np.flatnonzero(masks)
    costs = costs_of(env, state, policy, actions.tolist())
    worth = np.full(len(masks), np.nan, np.float32)
    worth[actions] = 100 * (costs[0] - costs) / costs[0]
    return worth


def fit(samples: Samples, config: AgentConfig) -> dict[str, np.ndarray]:
    """Grow the forest from samples, and return its nodes as `networks.Forest` takes them."""
    h = config.hyperparameters
    clip = float(h.get("clip", 20.0))
    # An action that cannot have an effect saves nothing.
    worth = np.nan_to_num(samples.worth).clip(-clip, clip)
    weights = grow(samples.observations, worth, int(h.get("trees", 50)), int(h.get("leaf", 4)), config.seed)
    # Doing nothing, the first action, saves nothing; whatever promises no more than the margin is left undone.
    weights["values"][:, 0] = float(h.get("margin", 0.0))
    return weights | {"lcb_factor": np.array([h.get("lcb_factor", 0.0)], np.float32)}


IN_VAIN = 50
"""Episodes without any decision, after which a training is given up."""


def _label(seed: int) -> str:
    return f"the episode with seed {seed}"


class Rollouts:
    """Plays rounds of episodes, and grows the forest from all samples after each.

    It has the few verbs of Stable-Baselines3's algorithms that training needs.

    Args:
        config: of the agent; a step is a decision at which all actions were tried.
        processes: to play in.
    """

    def __init__(self, config: AgentConfig, processes: int = 1) -> None:
        """Know nothing yet."""
        self.config, self.workloads, self.processes = config, tuple(workloads_of(config)), processes
        made_for = signature(config.environment, config.arguments, config.base)
        fields = sum(map(len, made_for["seen"].values()))
        self.samples, self.weights = Samples.none(fields, len(made_for["actions"])), dict[str, np.ndarray]()
        self.turn = 0  # the round whose forest plays

    @property
    def num_timesteps(self) -> int:
        """Decisions at which all actions were tried."""
        return len(self.samples)

    def learn(self, steps: int, callback: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Try the actions at so many decisions, in rounds, until the callback returns False.

        Episodes are numbered. So the same ones are played with any number of processes, and also after interruptions.

        Raises:
            PolicyError: when the workloads have no decision to try.
        """
        h, goal = self.config.hyperparameters, self.num_timesteps + steps
        rounds, total = int(h.get("rounds", 3)), self.config.steps
        tried, epsilon = int(h.get("tried", 12)), float(h.get("epsilon", 0.2))
        while self.num_timesteps < goal:
            turn = min(rounds - 1, self.num_timesteps * rounds // total)
            end = min(goal, -(-total * (turn + 1) // rounds))
            if self.num_timesteps and turn != self.turn:
                self.weights, self.turn = fit(self.samples, self.config), turn
            chances = weights_of(self.config, self.workloads)
            setup = Play(self.weights, self.workloads, chances, self.config.arguments, self.config.base, epsilon, tried)
            while self.num_timesteps < end:
                self._play(setup, max(1, min(4 * self.processes, -(-(end - self.num_timesteps) // tried))))
                if self.samples.episodes >= IN_VAIN and not self.num_timesteps:
                    raise PolicyError(f"{IN_VAIN} episodes had no decision: there is nothing to learn on "
                                      f"{', '.join(dict.fromkeys(w.name for w in self.workloads))}")  # fmt: skip
                if not callback([]):
                    return
        self.weights = fit(self.samples, self.config)

    def _play(self, setup: Play, count: int) -> None:
        """Play so many more episodes; those whose workers died are left out."""
        first = 1_000 * self.config.seed + self.samples.episodes
        seeds = list(range(first, first + count))
        with closing(map_jobs(partial(play, setup), seeds, self.processes, named=_label)) as results:
            by_seed = dict(without_lost(results))
        nothing = Samples.none(self.samples.observations.shape[1], self.samples.worth.shape[1])
        nothing.episodes = 1
        self.samples = self.samples.with_([by_seed.get(seed, nothing) for seed in seeds])

    def save(self, file: IO[bytes]) -> None:
        """Write the samples and the forest that plays now."""
        arrays: dict[str, Any] = {f"forest_{name}": nodes for name, nodes in self.weights.items()}
        arrays |= {"seen": self.samples.observations, "worth": self.samples.worth}
        np.savez(file, episodes=self.samples.episodes, turn=self.turn, **arrays)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file of `save`.

        Raises:
            PolicyError: when it is another file.
        """
        fields, actions = self.samples.observations.shape[1], self.samples.worth.shape[1]
        columns = {
            "seen": Column(("<f4",), (None, fields)), "worth": Column(("<f4",), (None, actions)),
            "episodes": Column(("i",), ()), "turn": Column(("i",), ()),
        }  # fmt: skip
        with reading(path, PolicyError):
            try:
                arrays = read_archive(path, columns, others=Column(("f",), None), beside=(MEMBER,))
                samples = Samples(arrays.pop("seen"), arrays.pop("worth"), int(arrays.pop("episodes")))
                turn = int(arrays.pop("turn"))
                weights = {name.removeprefix("forest_"): nodes for name, nodes in arrays.items()}
                fits = not weights or Forest(weights).shape == (fields, actions)
                if len(samples.observations) != len(samples.worth) or not fits:
                    raise ValueError("its arrays do not fit together")
            except ValueError as error:
                raise FileError(f"not a checkpoint of this agent ({error})") from None
        self.samples, self.weights, self.turn = samples, weights, turn
