"""A random policy: the result of choosing without any information."""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.policy import Policy
from thp_agents.view import KernelView


class Random(Policy):
    """Takes any of the actions that can have an effect, with equal chances.

    Args:
        seed: of its choices.
    """

    name = "random"
    source = "a reference"
    arguments = {"scan_share": 0}  # noqa: RUF012

    def __init__(self, seed: int = 0) -> None:
        """Make the policy."""
        self.seed = seed

    def reset(self, view: KernelView) -> None:
        """Restart the same draws."""
        self.rng = np.random.default_rng(self.seed)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Draw an action."""
        return int(self.rng.choice(np.flatnonzero(view.masks)))
