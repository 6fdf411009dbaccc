"""A network of Stable-Baselines3 as the clone of a trained policy, from which it may go on learning from rewards.

First the teacher plays, then the student, and at each decision the teacher says what it would do (DAgger; Ross, Gordon
and Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online Learning", 2011). A
mistake weighs as much as it costs by the teacher's values. The critic learns the returns of the same episodes, so that
the first updates of a policy gradient do not undo the clone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from thp_agents.learned.checks import takes_masks
from thp_agents.learned.config import AgentConfig
from thp_agents.learned.distill import Pairs
from thp_agents.learned.layers import linear_layers
from thp_agents.learned.policy_file import LearnedPolicy, signature
from thp_agents.policy import Policy, PolicyError

ROUNDS = 4
"""The teacher plays the first, the student the others."""

EPOCHS = 20
"""Of each round, over all decisions so far."""
BATCH = 512
LEARNING_RATE = 1e-3
STEADY = 1e-3
"""Added to the deviation of fields, some of which never change."""
SLIGHT = 0.01
"""The weight of a mistake that costs nothing."""


def clone(
    model: Any, teacher: Policy, config: AgentConfig, progress: Callable[[int], None] = lambda decisions: None
) -> None:  # fmt: skip
    """Teach a model of Stable-Baselines3 what another policy does in the model's own environments.

    Args:
        model: PPO, MaskablePPO or A2C with "MlpPolicy"; its `num_timesteps` becomes the number of decisions.
        teacher: a policy of the same environment.
        config: of the model; `lessons` decisions are played.
        progress: is told how many were played, after each round.

    Raises:
        PolicyError: when the teacher sees or chooses something else.
    """
    teacher = checked(teacher, config)
    rng = np.random.default_rng([config.seed, 2])
    envs, parts = model.env, list[Lessons]()
    steps = -(-config.lessons // (ROUNDS * envs.num_envs))
    observations = envs.reset()
    for turn in range(ROUNDS):
        played, observations = _play(model, teacher, observations, steps, by_teacher=turn == 0)
        parts.append(played)
        lessons = Lessons.concatenate(parts)
        _learn(model, lessons, rng)
        progress(len(lessons.taken))
    model.num_timesteps = len(lessons.taken)


def checked(teacher: Policy, config: AgentConfig) -> LearnedPolicy:
    """Return a teacher that an agent can be a clone of.

    Raises:
        PolicyError: when it was not trained here, or sees or chooses something else.
    """
    if not isinstance(teacher, LearnedPolicy):
        raise PolicyError(f"agent {config.name}: its teacher is a policy that `thp-env train` made, not {teacher.name}")
    own = signature(config.environment, config.arguments, config.base)
    for field, does in (("environment", "decides in"), ("seen", "sees"), ("actions", "chooses among"),
                        ("base", "decides on top of")):  # fmt: skip
        if teacher.signature.get(field) != own.get(field):
            raise PolicyError(f"agent {config.name}: its teacher {teacher.name} {does} {teacher.signature.get(field)}, "
                              f"and the agent {own.get(field)}")  # fmt: skip
    return teacher


@dataclass
class Lessons(Pairs):
    """Decisions with what the teacher values.

    Attributes:
        taken: actions, shape (n,).
        returns: rewards from there on, discounted, shape (n,).
    """

    taken: np.ndarray
    returns: np.ndarray

    @property
    def choice(self) -> np.ndarray:
        """Whether more than one action could have an effect, shape (n,)."""
        return self.masks.sum(1) > 1

    @property
    def weight(self) -> np.ndarray:
        """What a mistake costs by the teacher's values, at least `SLIGHT`, shape (n,)."""
        return self.gap + SLIGHT


def _play(
    model: Any, teacher: LearnedPolicy, observations: np.ndarray, steps: int, by_teacher: bool
) -> tuple[Lessons, np.ndarray]:  # fmt: skip
    """Play so many steps of all machines; the teacher values every action at each."""
    envs, rows = model.env, []
    for _ in range(steps):
        masks = envs.action_masks()
        values = np.stack([teacher.network({"": row}) for row in observations])
        if by_teacher:
            actions = np.where(masks, values, -np.inf).argmax(1)
        else:
            masked = {"action_masks": masks} if takes_masks(model) else {}
            actions, _ = model.predict(observations, deterministic=False, **masked)
        after, rewards, dones, _ = envs.step(actions)
        rows.append((observations, masks, values, actions, rewards, dones))
        observations = after
    seen, masks, values, taken, rewards, dones = (np.stack(column) for column in zip(*rows, strict=True))
    with torch.no_grad():
        ahead = model.policy.predict_values(torch.as_tensor(observations)).numpy().reshape(-1)
    returns = np.zeros_like(rewards)
    for t in reversed(range(steps)):
        ahead = returns[t] = rewards[t] + model.gamma * np.where(dones[t], 0.0, ahead)
    columns = (column.reshape(-1, *column.shape[2:]) for column in (seen, masks, values, taken, returns))
    return Lessons(*columns), observations


def _learn(model: Any, lessons: Lessons, rng: np.random.Generator) -> None:
    """Fit the actor to the teacher's actions, where there is a choice, and the critic to the returns."""
    policy = model.policy
    optimizer = torch.optim.Adam(policy.parameters(), LEARNING_RATE)
    best, returns = torch.as_tensor(lessons.best), torch.as_tensor(lessons.returns, dtype=torch.float32)
    weight = lessons.weight * lessons.choice
    weight = torch.as_tensor(weight / max(weight.mean(), SLIGHT), dtype=torch.float32)
    policy.set_training_mode(True)
    with _standardised(policy, lessons.observations) as seen:
        for _ in range(EPOCHS):
            for batch in np.array_split(rng.permutation(len(seen)), -(-len(seen) // BATCH)):
                masked = {"action_masks": lessons.masks[batch]} if takes_masks(model) else {}
                values, log_chance, _ = policy.evaluate_actions(seen[batch], best[batch], **masked)
                of_critic = torch.nn.functional.mse_loss(values.reshape(-1), returns[batch])
                loss = model.vf_coef * of_critic - (weight[batch] * log_chance).mean()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(policy.parameters(), model.max_grad_norm)
                optimizer.step()


@contextmanager
def _standardised(policy: Any, seen: np.ndarray) -> Iterator[torch.Tensor]:
    """Let a network learn from fields of mean 0 and deviation 1; its first layers take the fields as they are again."""
    mean, deviation = (torch.as_tensor(x, dtype=torch.float32) for x in (seen.mean(0), seen.std(0) + STEADY))
    first = [linear_layers(net)[0] for net in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net)]
    with torch.no_grad():
        for layer in first:
            layer.bias.add_(layer.weight @ mean)
            layer.weight.mul_(deviation)
    try:
        yield (torch.as_tensor(seen) - mean) / deviation
    finally:
        with torch.no_grad():
            for layer in first:
                layer.weight.div_(deviation)
                layer.bias.sub_(layer.weight @ mean)
