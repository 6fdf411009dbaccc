"""What an agent is: algorithm, environment and hyperparameters, one TOML file each in `configs/`."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thp_agents.policy import PolicyError

FOLDER = Path(__file__).with_name("configs")

ALGORITHMS = ("PPO", "MaskablePPO", "A2C", "DQN", "QRDQN", "bandit", "rollouts")
"""Those of Stable-Baselines3 and sb3-contrib by their own names, and those of `bandit.py` and `rollouts.py`."""

NETWORKS = ("mlp", "deep_sets")


@dataclass(frozen=True)
class AgentConfig:
    """How an agent is trained.

    Attributes:
        name: of the agent.
        algorithm: one of `ALGORITHMS`.
        environment: id of the environment it decides in.
        arguments: keyword arguments of the environment.
        base: name of the heuristic that decides what the agent leaves alone; "": none does.
        workloads: names that episodes are drawn from; empty: all of the split's train side.
        steps: decisions.
        envs: machines that step together.
        seed: of the training.
        checkpoint: decisions between two checkpoints.
        network: one of `NETWORKS`; "deep_sets" treats all VMAs alike and is for VmaHints-v0.
        net_arch: hidden layers.
        shadow: sizes of the run that rewards are measured against (`thp_env.envs.shadow`).
        scale: what a saving of the shadow's whole cost is worth.
        hyperparameters: of the algorithm, as Stable-Baselines3 names them.
    """

    name: str
    algorithm: str = "PPO"
    environment: str = "thp_env/VmaOrder-v0"
    arguments: dict[str, Any] = field(default_factory=dict)
    base: str = ""
    workloads: tuple[str, ...] = ()
    steps: int = 200_000
    envs: int = 8
    seed: int = 0
    checkpoint: int = 20_000
    network: str = "mlp"
    net_arch: tuple[int, ...] = (64, 64)
    shadow: str = "64K"
    scale: float = 10.0
    hyperparameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            PolicyError: naming the field.
        """
        for name, known in (("algorithm", ALGORITHMS), ("network", NETWORKS)):
            if getattr(self, name) not in known:
                raise PolicyError(f"agent {self.name}: {name} {getattr(self, name)!r} is none of {', '.join(known)}")
        if self.base and self.algorithm != "rollouts":
            raise PolicyError(f"agent {self.name}: {self.algorithm} learns on top of no base: take rollouts or none")
        for name in ("steps", "envs", "checkpoint"):
            if getattr(self, name) < 1:
                raise PolicyError(f"agent {self.name}: {name} must be at least 1, not {getattr(self, name)}")

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as what JSON can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def train_workloads() -> tuple[str, ...]:
    """Return the names of the split's train side."""
    from thp_workloads import split

    return tuple(w.name for w in split("train"))


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
    try:
        fields = tomllib.loads(path.read_text())
        for key in ("workloads", "net_arch"):
            if key in fields:
                fields[key] = tuple(fields[key])
        return AgentConfig(**{"name": path.stem, **fields, **changes})
    except FileNotFoundError:
        raise PolicyError(f"no agent {name!r}: one of {', '.join(agents())}, or a .toml file") from None
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError(f"{path}: not an agent: {error}") from None
