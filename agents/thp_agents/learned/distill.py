"""Turns a trained policy into a decision tree that people can read.

VIPER (Bastani, Pu and Solar-Lezama, "Verifiable Reinforcement Learning via Policy Extraction", 2018): the network
labels the states that the tree leads to, and a mistake has the weight of its cost in the network's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Self

import numpy as np
from sklearn.tree import DecisionTreeClassifier

import thp_env
from thp_agents.evaluation.episode import evaluate_one
from thp_agents.evaluation.parallel import map_jobs, without_lost
from thp_agents.learned.config import train_side
from thp_agents.learned.networks import Tree, flat
from thp_agents.learned.policy_file import LearnedPolicy
from thp_agents.learned.tree_text import fields_of
from thp_agents.policy import Policy, PolicyError
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.workload import find


@dataclass
class Pairs:
    """Inputs of a network and its outputs.

    Attributes:
        observations: flat, float32, shape (n, fields).
        masks: which actions could have an effect, bool, shape (n, actions).
        values: the network's, float32, shape (n, actions).
    """

    observations: np.ndarray
    masks: np.ndarray
    values: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Return several as one."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @property
    def best(self) -> np.ndarray:
        """The actions that the network takes, shape (n,)."""
        return np.where(self.masks, self.values, -np.inf).argmax(1)

    @property
    def worth(self) -> np.ndarray:
        """The values above that of the best action, which compare between states; shape (n, actions)."""
        return self.values - np.take_along_axis(self.values, self.best[:, None], 1)

    @property
    def gap(self) -> np.ndarray:
        """How much worse the worst action is by the network's values, of those that it takes anywhere; shape (n,)."""
        candidates = np.isin(np.arange(self.masks.shape[1]), self.best) & self.masks
        return -np.where(candidates, self.worth, 0.0).min(1)


class _Noted(Policy):
    """A policy whose observations are noted, with what a teacher makes of them."""

    kind = "learned"

    def __init__(self, player: LearnedPolicy, teacher: LearnedPolicy) -> None:
        self.player, self.teacher = player, teacher
        self.name, self.source, self.default_sizes = player.name, player.source, player.default_sizes
        self.environment, self.arguments = player.environment, {**player.arguments, "shadow_tlb": False}
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def reset(self, view: Any) -> None:
        """Begin a new run."""
        self.player.reset(view)

    def decide(self, observation: dict[str, np.ndarray], view: Any) -> Any:
        """Let the player decide; only where there is a choice is there something to learn."""
        masks = np.asarray(view.masks) != 0
        if masks.sum() > 1:
            self.rows.append((flat(observation), masks, self.teacher.network(observation)))
        return self.player.decide(observation, view)


def play(player: LearnedPolicy, teacher: LearnedPolicy, episode: tuple[str, int]) -> Pairs:
    """Play an episode, (workload, seed), and return its observations with the teacher's values."""
    recorder = _Noted(player, teacher)
    evaluate_one(recorder, find(episode[0]), episode[1])
    if not recorder.rows:
        fields, actions = teacher.network.shape
        return Pairs(np.zeros((0, fields), np.float32), np.zeros((0, actions), bool), np.zeros((0, actions)))
    return Pairs(*(np.stack(column) for column in zip(*recorder.rows, strict=True)))


def grow(pairs: Pairs, leaves: int) -> Tree:
    """Return the tree of at most so many leaves that is most like the network, with mistakes weighted by their cost.

    Neighbouring leaves with the same action are merged, which makes room for others.

    Raises:
        PolicyError: when there is nothing to learn from.
    """
    if not len(pairs.observations):
        raise PolicyError("nothing to distill: the policy never had a choice on these workloads")
    weight = pairs.gap + 1e-6  # all gaps may be 0
    tree = None
    for n in range(leaves, 3 * leaves, 1 + leaves // 8):
        model = DecisionTreeClassifier(max_leaf_nodes=n, min_samples_leaf=5, random_state=0)
        model.fit(pairs.observations, pairs.best, weight)
        candidate = _Grown(model, pairs).tree()
        if tree is not None and (candidate.feature < 0).sum() > leaves:
            break
        tree = candidate
        if model.get_n_leaves() < n:  # there is nothing left to split
            break
    assert tree is not None
    return tree


class _Grown:
    """A fitted scikit-learn tree, with the mean worth of each action at its nodes, where it is allowed."""

    def __init__(self, model: Any, pairs: Pairs) -> None:
        self.nodes, self.inputs = model.tree_, pairs.observations.shape[1]
        inside = model.decision_path(pairs.observations).T.astype(float)
        allowed = inside @ pairs.masks
        everywhere = (inside @ pairs.worth) / inside.sum(1)
        allowed_mean = (inside @ np.where(pairs.masks, pairs.worth, 0.0)) / np.maximum(allowed, 1)
        self.values = np.where(allowed > 0, allowed_mean, np.asarray(everywhere))

    def tree(self) -> Tree:
        rows = list(self._rows(0, 0))
        names = ("feature", "threshold", "left", "right")
        weights = {name: np.array([row[i] for row in rows], np.float32) for i, name in enumerate(names)}
        weights["inputs"] = np.array([self.inputs], np.float32)
        return Tree(weights | {"values": np.array([row[4] for row in rows], np.float32)})

    def _rows(self, node: int, place: int) -> Iterator[tuple]:
        """Yield feature, threshold, left, right and values of a node and all below, numbered from a place on."""
        if self._action(node) is not None:
            yield -1, 0.0, 0, 0, self.values[node]
            return
        left = list(self._rows(self.nodes.children_left[node], place + 1))
        right = place + 1 + len(left)
        yield self.nodes.feature[node], self.nodes.threshold[node], place + 1, right, self.values[node]
        yield from left
        yield from self._rows(self.nodes.children_right[node], right)

    def _action(self, node: int) -> int | None:
        """Return the action that all leaves below take; None where they differ."""
        if self.nodes.children_left[node] < 0:
            return int(self.values[node].argmax())
        actions = {self._action(side[node]) for side in (self.nodes.children_left, self.nodes.children_right)}
        return actions.pop() if len(actions) == 1 else None


def agreement(policy: LearnedPolicy, pairs: Pairs) -> float:
    """Return the share of decisions that a policy takes as the network did."""
    values = np.stack([policy.network({"seen": row}) for row in pairs.observations])
    return float((np.where(pairs.masks, values, -np.inf).argmax(1) == pairs.best).mean())


def _label(episode: tuple[str, int]) -> str:
    return f"an episode of {episode[0]} with seed {episode[1]}"


def distill(
    teacher: LearnedPolicy, *, leaves: int = 30, rounds: int = 3, episodes: int = 2, seed: int = 0,
    workloads: Sequence[str] = (), processes: int = 1, command: str = "",
    progress: Callable[[str], None] = lambda line: None,
) -> LearnedPolicy:  # fmt: skip
    """Return a policy of the same environment that is a decision tree.

    Args:
        teacher: trained, for VmaOrder-v0 or FaultOrder-v0.
        leaves: of the tree, at most.
        rounds: in the first the teacher plays, then the tree of the round before.
        episodes: of each workload in a round.
        seed: of the first of these.
        workloads: names; none: those that the teacher was trained on.
        processes: to play in.
        command: kept with the policy.
        progress: takes a line on each round.

    Raises:
        PolicyError: when the teacher decides about many VMAs at once, or the tree would have no branch.
    """
    fields_of(teacher.signature)
    if leaves < 2:
        raise PolicyError(f"a tree has at least 2 leaves, not {leaves}")
    config = teacher.meta.get("config", {})
    trained_on = config.get("workloads") or [w.name for w in train_side(bool(config.get("corpus")))]
    names = sorted({*(workloads or trained_on)})
    parts: list[Pairs] = []
    policy = teacher
    for turn in range(rounds):
        first = seed + turn * episodes
        jobs = [(name, s) for name in names for s in range(first, first + episodes)]
        with closing(map_jobs(partial(play, policy, teacher), jobs, processes, named=_label)) as results:
            pairs_of = dict(without_lost(results))
        if not pairs_of:
            raise PolicyError("no episode could be played: every worker died")
        new = Pairs.concatenate([pairs_of[job] for job in jobs if job in pairs_of])
        agreement_text = f", of which it takes {agreement(policy, new):.0%} as the network" if turn else ""
        parts.append(new)
        pairs = Pairs.concatenate(parts)
        tree = grow(pairs, leaves)
        leaf_count = (tree.feature < 0).sum()
        progress(f"round {turn + 1}: {len(new.observations)} decisions{agreement_text}; {leaf_count} leaves")
        meta = {
            "name": f"{teacher.name}-tree", "command": command, "version": thp_env.__version__, "behaviour": BEHAVIOUR,
            "seed": teacher.meta.get("seed", 0), "decisions": len(pairs.observations), "teacher": teacher.name,
            "teacher_command": teacher.source, "rounds": rounds, "episodes": episodes, "workloads": names,
        }  # fmt: skip
        policy = LearnedPolicy(tree, teacher.signature, meta)
    return policy
