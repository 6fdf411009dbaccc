"""Whether an observation gives the workload's family away: a small classifier that is trained to name it.

No field of an observation names the workload, but families differ in what they do, so some can be told apart by what a
kernel sees. A policy that was trained on a family may have learned to recognise it instead of to decide; the better the
probe, the more a result on other families counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium
import numpy as np

import thp_env
from thp_env.workload import Workload, WorkloadError, find

PENALTY = 1e-3
ROUNDS = 400


class Samples(NamedTuple):
    """Single observations and where they are from.

    Attributes:
        observations: float32, shape (samples, fields), as `FlattenObservation` puts them.
        family: of each, an index into `names`.
        names: of the families.
    """

    observations: np.ndarray
    family: np.ndarray
    names: tuple[str, ...]


class Probe(NamedTuple):
    """How well the families could be named.

    Attributes:
        recall: for each family, the share of its held-out observations that were named right.
        guessing: what guessing would reach.
        samples: how many observations were held out.
    """

    recall: dict[str, float]
    guessing: float
    samples: int

    @property
    def accuracy(self) -> float:
        """Mean over the families."""
        return float(np.mean(list(self.recall.values())))

    def __str__(self) -> str:
        """One line."""
        parts = ", ".join(f"{name} {share:.0%}" for name, share in self.recall.items())
        return (f"a probe names the family of {self.accuracy:.0%} of {self.samples} held-out observations, "
                f"guessing {self.guessing:.0%} ({parts})")  # fmt: skip


def collect(env_id: str, workloads: Sequence[Workload], seeds: Sequence[int], steps: int = 100) -> Samples:
    """Play at random and keep the observations.

    Args:
        env_id: one of `thp_env.ENVIRONMENTS`.
        workloads: those of one family count as one.
        seeds: episodes of each.
        steps: of an episode at most.
    """
    families = sorted({w.family for w in workloads})
    observations, family = [], []
    for workload in workloads:
        env = gymnasium.make(env_id, workload=workload, disable_env_checker=True)
        flat = gymnasium.wrappers.FlattenObservation(env)
        for seed in seeds:
            env.action_space.seed(seed)
            observation, _ = flat.reset(seed=seed)
            for _ in range(steps):
                observations.append(observation)
                family.append(families.index(workload.family))
                observation, _, over, _, _ = flat.step(env.action_space.sample())
                if over:
                    break
    return Samples(np.array(observations, np.float32), np.array(family), tuple(families))


class Classifier:
    """Multinomial logistic regression with equal weight for each class, trained by accelerated gradient descent.

    Args:
        x: float, shape (samples, fields).
        y: class of each, 0 to `classes` - 1.
        classes: how many.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, classes: int) -> None:
        """Train."""
        self.mean, self.scale = x.mean(0), x.std(0) + 1e-6
        x = self._inputs(x)
        counts = np.bincount(y, minlength=classes)
        share = 1.0 / (np.maximum(1, counts) * max(1, np.count_nonzero(counts)))[y]
        target = np.eye(classes)[y]
        # The gradient's Lipschitz constant is at most half the largest eigenvalue of the weighted x'x (Boehning 1992).
        step = 1.0 / (0.5 * np.linalg.eigvalsh((x * share[:, None]).T @ x)[-1] + PENALTY)
        self.weight = ahead = np.zeros((x.shape[1], classes))
        for n in range(ROUNDS):
            gradient = x.T @ (share[:, None] * (_softmax(x @ ahead) - target)) + PENALTY * ahead
            previous, self.weight = self.weight, ahead - step * gradient
            ahead = self.weight + n / (n + 3) * (self.weight - previous)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the most likely class of each sample."""
        return (self._inputs(x) @ self.weight).argmax(1)

    def _inputs(self, x: np.ndarray) -> np.ndarray:
        return np.column_stack([(x - self.mean) / self.scale, np.ones(len(x))])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def probe(
    env_id: str = "thp_env/VmaOrder-v0", workloads: Sequence[str | Workload] = (), seeds: int = 4
) -> Probe:  # fmt: skip
    """Train on one half of the episodes, and name the families of the other half's observations.

    Args:
        env_id: whose observations.
        workloads: of at least two families, by name or file or themselves; none: every installed generator.
        seeds: episodes of each workload in either half.

    Raises:
        WorkloadError: for an unknown workload, or less than two families.
    """
    selection = [find(w) if isinstance(w, str) else w for w in workloads]
    selection = selection or [w for w in thp_env.workloads().values() if w.kind == "generator"]
    families = {w.family for w in selection}
    if len(families) < 2:
        raise WorkloadError(f"a probe tells families apart: name workloads of two or more, not {', '.join(families)}")
    samples = collect(env_id, selection, range(seeds))
    held_out = collect(env_id, selection, range(seeds, 2 * seeds))
    guesses = Classifier(samples.observations, samples.family, len(samples.names))(held_out.observations)
    recall = {
        name: float((guesses == i)[held_out.family == i].mean())
        for i, name in enumerate(held_out.names)
    }  # fmt: skip
    return Probe(recall, 1 / len(samples.names), len(guesses))
