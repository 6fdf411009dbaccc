"""The hyperparameters of each algorithm with their possible values, named as in Stable-Baselines3."""

from __future__ import annotations

from typing import Annotated, TypedDict

from msgspec import Meta

from thp_agents.records import Count, Natural, Positive, Share


class _Algorithm(TypedDict, total=False):
    learning_rate: Positive
    gamma: Share
    stats_window_size: Count


class _OnPolicy(_Algorithm, total=False):
    n_steps: Annotated[int, Meta(ge=1, le=1 << 20)]
    gae_lambda: Share
    ent_coef: float
    vf_coef: float
    max_grad_norm: Positive
    normalize_advantage: bool


class PpoParameters(_OnPolicy, total=False):
    """Of PPO and MaskablePPO."""

    batch_size: Annotated[int, Meta(ge=2, le=1 << 40)]
    n_epochs: Count
    clip_range: Positive
    clip_range_vf: Positive
    target_kl: Positive


class A2cParameters(_OnPolicy, total=False):
    """Of A2C."""

    rms_prop_eps: Positive
    use_rms_prop: bool


class DqnParameters(_Algorithm, total=False):
    """Of DQN and QRDQN."""

    buffer_size: Annotated[int, Meta(ge=1, le=1 << 28)]
    learning_starts: Natural
    batch_size: Count
    tau: Share
    train_freq: Count
    gradient_steps: Annotated[int, Meta(ge=-1, le=1 << 20)]
    target_update_interval: Count
    exploration_fraction: Share
    exploration_initial_eps: Share
    exploration_final_eps: Share
    max_grad_norm: Positive
    optimize_memory_usage: bool


class BanditParameters(TypedDict, total=False):
    """Of `bandit.Bandit`."""

    ridge: Positive
    epsilon: Share


class RolloutsParameters(TypedDict, total=False):
    """Of `rollouts.Rollouts`."""

    rounds: Count
    tried: Count
    epsilon: Share
    trees: Annotated[int, Meta(ge=1, le=10_000)]
    leaf: Count
    clip: Positive
    margin: float
    lcb_factor: Annotated[float, Meta(ge=0)]
    """Of the standard deviations by which the lower confidence bound lies below the mean."""


HYPERPARAMETERS: dict[str, type] = {
    "PPO": PpoParameters, "MaskablePPO": PpoParameters, "A2C": A2cParameters, "DQN": DqnParameters,
    "QRDQN": DqnParameters, "bandit": BanditParameters, "rollouts": RolloutsParameters,
}  # fmt: skip
"""By algorithm."""
RENAMED = {"doubt": "lcb_factor"}
"""Names of version 0.1, and those of today."""
