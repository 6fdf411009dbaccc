"""What a policy is: the few verbs that every heuristic and every learned agent implements."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Protocol

import numpy as np

from thp_env.machine import Vma


class PolicyError(ValueError):
    """A policy that does not exist, cannot be read or decides nonsense."""


class Policy(Protocol):
    """Chooses the folio sizes of one VMA at a time.

    Attributes:
        name: unique.
        kind: "heuristic" or "learned".
        source: where the algorithm is from.
        default: name of the sizes (`thp_env.envs.actions.ORDER_MASKS`) in force from the first instruction, for
            VMAs that nobody decided about.
    """

    name: str
    kind: str
    source: str
    default: str

    def reset(self) -> None:
        """Begin a new run."""

    def decide(self, observation: dict[str, np.ndarray], vma: Vma, masks: np.ndarray) -> int:
        """Return an index into `thp_env.envs.actions.ACTIONS`.

        Args:
            observation: of VmaOrder-v0.
            vma: the VMA asked about.
            masks: which actions can have an effect, int8.
        """
        ...


def policies() -> dict[str, Callable[[], Policy]]:
    """Return a maker for each policy that needs no file, by name."""
    from thp_agents.heuristics import kernel_settings, vma_size

    return {**kernel_settings.POLICIES, "vma_size": vma_size.VmaSize}


def find_policy(name: str) -> Policy:
    """Return a policy by name, or a learned one from its .npz file.

    Raises:
        PolicyError: for an unknown name, with the nearest known one, or a broken file.
    """
    known = policies()
    if name in known:
        return known[name]()
    if name.endswith(".npz"):
        from thp_agents.learned.mlp import load_policy

        return load_policy(name)
    near = difflib.get_close_matches(name, known, 1, 0.0)[0]
    raise PolicyError(f"unknown policy {name!r}; did you mean {near!r}? There are {', '.join(known)}, or a .npz file")
