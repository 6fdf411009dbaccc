"""Configurations of agents: algorithm, environment and hyperparameters, one TOML file for each agent in `configs/`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from thp_agents.corpus import corpus as recorded_programs
from thp_agents.learned.arguments import check_own_arguments
from thp_agents.learned.hyperparameters import HYPERPARAMETERS, RENAMED
from thp_agents.policy import PolicyError
from thp_agents.records import Count, Name, Natural, Positive, Seed, convert, read_toml
from thp_env.envs.arguments import order_mask
from thp_env.envs.renamed import current_names
from thp_env.envs.shadow import KINDS
from thp_env.reading import reading
from thp_env.registration import ENVIRONMENTS
from thp_env.workload import SIZES, SURROUNDINGS, Workload, find

FOLDER = Path(__file__).with_name("configs")

ALGORITHMS = tuple(HYPERPARAMETERS)
"""Those of Stable-Baselines3 and sb3-contrib by their own names, and those of `bandit.py` and `rollouts.py`."""

NETWORKS = ("mlp", "deep_sets")


@dataclass(frozen=True)
class AgentConfig:
    """The configuration of an agent's training.

    Attributes:
        name: of the agent.
        algorithm: one of `ALGORITHMS`.
        environment: id of its environment.
        arguments: keyword arguments of the environment.
        base: name of the heuristic that decides where the agent chooses "keep"; or by action, "keep" among
            them, those that take over a VMA; "": none.
        teacher: a trained policy that ships, or its .npz file, of which the agent is a clone before it learns from
            rewards (`cloning.py`); "": none.
        lessons: of its decisions the first, in which it is cloned.
        workloads: names that episodes are drawn from; empty: all of the split's train side.
        steps: number of decisions.
        envs: machines that step together.
        seed: of the training.
        checkpoint: decisions between two checkpoints.
        network: one of `NETWORKS`; "deep_sets" treats all VMAs alike and is for VmaHints-v0.
        net_arch: hidden layers.
        shadow: sizes of the run that rewards are measured against (`thp_env.envs.shadow`).
        scale: reward of saving the shadow's whole cost, or of a log of 1.
        reward: kind of that measure, one of `thp_env.envs.shadow.KINDS`.
        corpus: whether the train side includes the recordings of thp-env-corpus.
        weights: how often workloads are drawn, by name; others count 1.
        size: of generators' episodes; "": the workloads' own.
        surroundings: of recordings (`thp_env.workload.SURROUNDINGS`).
        pool: programs of each workload that are drawn ahead and then used repeatedly; 0: each episode draws anew.
        entropy: of policy gradients, the weight of entropy at the end of the training, to which `ent_coef` falls
            linearly; below 0: `ent_coef` is constant.
        check: decisions between two checks on held-out programs; the best checked policy is exported; 0: no checks.
        held_out: programs of each workload for these checks.
        greedy: whether the policy takes its best action; false: it draws from its distribution, with the training's
            seed.
        hyperparameters: of the algorithm, named as in Stable-Baselines3.
    """

    name: Name
    algorithm: Literal[ALGORITHMS] = "PPO"  # type: ignore[valid-type]
    environment: Literal[tuple(ENVIRONMENTS)] = "thp_env/VmaOrder-v0"  # type: ignore[valid-type]
    arguments: dict[str, Any] = field(default_factory=dict)
    base: str | dict[str, str] = ""
    teacher: str = ""
    lessons: Count = 40_000
    workloads: tuple[str, ...] = ()
    steps: Count = 200_000
    envs: Annotated[int, Meta(ge=1, le=4096)] = 8
    seed: Seed = 0
    checkpoint: Count = 20_000
    network: Literal[NETWORKS] = "mlp"  # type: ignore[valid-type]
    net_arch: tuple[Annotated[int, Meta(ge=1, le=1 << 14)], ...] = (64, 64)
    shadow: str = "64K"
    scale: Positive = 10.0
    reward: Literal[KINDS] = "symlog"  # type: ignore[valid-type]
    corpus: bool = False
    weights: dict[str, Annotated[float, Meta(ge=0)]] = field(default_factory=dict)
    size: Literal[("", *SIZES)] = ""  # type: ignore[valid-type]
    surroundings: Literal[SURROUNDINGS] = "recorded"  # type: ignore[valid-type]
    pool: Natural = 0
    entropy: float = -1.0
    check: Natural = 0
    held_out: Count = 3
    greedy: bool = True
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            PolicyError: naming the field.
        """
        for name, choices in (("algorithm", ALGORITHMS), ("network", NETWORKS)):
            if getattr(self, name) not in choices:
                raise PolicyError(f"agent {self.name}: {name} {getattr(self, name)!r} is none of {', '.join(choices)}")
        try:
            order_mask("shadow", self.shadow)
        except ValueError as error:
            raise PolicyError(f"agent {self.name}: {error}") from None
        if self.network == "deep_sets" and len(self.net_arch) != 2:
            raise PolicyError(f"agent {self.name}: net_arch of deep_sets has two widths, not {len(self.net_arch)}")
        if self.base and self.environment != "thp_env/VmaOrder-v0":
            raise PolicyError(f"agent {self.name}: a base is for thp_env/VmaOrder-v0, not {self.environment}")
        if self.check and (self.reward != "log_ratio" or self.algorithm in ("bandit", "rollouts")):
            raise PolicyError(f"agent {self.name}: checks are for agents of Stable-Baselines3 with reward log_ratio")
        if self.teacher and (self.algorithm not in ("PPO", "MaskablePPO", "A2C") or self.network != "mlp"):
            raise PolicyError(f"agent {self.name}: a teacher is for PPO, MaskablePPO and A2C with the network mlp")
        if self.teacher and self.lessons > self.steps:
            raise PolicyError(f"agent {self.name}: {self.lessons} lessons are more than {self.steps} steps")
        for name in ("steps", "envs", "checkpoint"):
            if getattr(self, name) < 1:
                raise PolicyError(f"agent {self.name}: {name} must be at least 1, not {getattr(self, name)}")

    @property
    def masked(self) -> bool:
        """Whether the agent uses masks; if not, an action without effect counts as the first action."""
        return self.algorithm in ("MaskablePPO", "bandit", "rollouts")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def train_side(corpus: bool = False) -> list[Workload]:
    """Return the workloads of the split's train side.

    Args:
        corpus: with the recordings of thp-env-corpus.

    Raises:
        PolicyError: when these are not installed.
    """
    from thp_workloads import split

    recordings = recorded_programs("it is trained on") if corpus else []
    return split("train") + [workload for workload in recordings if workload.split == "train"]


def workloads_of(config: AgentConfig) -> list[Workload]:
    """Return the workloads of an agent's episodes, in its size and surroundings.

    Raises:
        PolicyError: as `train_side`.
    """
    drawn_from = [find(name) for name in config.workloads] or train_side(config.corpus)
    return [workload.variant(config.surroundings).variant(config.size or None) for workload in drawn_from]


def weights_of(config: AgentConfig, workloads: Sequence[Workload]) -> list[float] | None:
    """Return how often each of an agent's workloads is drawn; None: all alike."""
    return [config.weights.get(workload.name, 1.0) for workload in workloads] if config.weights else None


def agents() -> list[str]:
    """Return the names of the agents that there are files for."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_config(name: str, **changes: Any) -> AgentConfig:
    """Read an agent's file.

    Args:
        name: of an agent of this package, or a .toml file.
        changes: fields that are set otherwise.

    Raises:
        PolicyError: when there is no such agent, or the file says nonsense.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in agents():
        raise PolicyError(f"no agent {name!r}: one of {', '.join(agents())}, or a .toml file")
    fields = {"name": path.stem, **read_toml(path)}
    if "arguments" in fields:
        fields["arguments"] = current_names(fields["arguments"])
    if isinstance(hyperparameters := fields.get("hyperparameters"), dict):
        fields["hyperparameters"] = {RENAMED.get(key, key): value for key, value in hyperparameters.items()}
    with reading(path, PolicyError, "an agent"):
        own = convert(fields, AgentConfig)
        convert(own.hyperparameters, HYPERPARAMETERS[own.algorithm], "hyperparameters")
        check_own_arguments(own.environment, own.arguments)
    return dataclasses.replace(own, **changes)
