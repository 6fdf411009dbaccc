"""A rule by VMA size, from the "mTHP Autopilot" hackathon project (2026): a good trivial baseline."""

from __future__ import annotations

import numpy as np

from thp_env.envs.actions import ACTIONS, KEEP
from thp_env.machine import Vma

RULE = ((16 << 10, "4K"), (32 << 10, "16K"), (64 << 10, "32K"), (128 << 10, "64K"), (2 << 20, "128K"))
"""(below so many bytes, size); larger VMAs get 2M."""


class VmaSize:
    """Smaller VMAs get smaller folios; asked again, a VMA gets the size of its new length."""

    name = "vma_size"
    kind = "heuristic"
    source = "mTHP Autopilot, 2026"
    default = "4K"

    def reset(self) -> None:
        """Nothing to forget."""

    def decide(self, observation: dict[str, np.ndarray], vma: Vma, masks: np.ndarray) -> int:
        """Return the size for the VMA's length."""
        length = vma.end - vma.start
        size = next((size for limit, size in RULE if length < limit), "2M")
        action = ACTIONS.index(size)
        return action if masks[action] else ACTIONS.index(KEEP)
