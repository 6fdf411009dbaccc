"""A rule by VMA size with a guard for free memory, from the "mTHP Autopilot" hackathon project (2026)."""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.envs.actions import ACTIONS, KEEP, ORDER_MASKS, smallest_order

RULE = ((16 << 10, "4K"), (32 << 10, "16K"), (64 << 10, "32K"), (128 << 10, "64K"), (2 << 20, "128K"))
"""(below so many bytes, size); larger VMAs get 2M."""


def size_for(length: int) -> str:
    """Return the rule's size for a VMA of so many bytes."""
    return next((size for limit, size in RULE if length < limit), "2M")


class MthpAutopilot(Policy):
    """Smaller VMAs get smaller folios; at the next question, a VMA gets the size for its new length.

    The buddy guard gives 4K instead while fewer than `min_blocks` blocks of the size are free: memory is short or
    fragmented. A larger free block counts as several, because the allocator can divide it.

    Args:
        min_blocks: of the project.
    """

    name = "mthp_autopilot"
    source = "mTHP Autopilot, hackathon project, 2026"
    default_sizes = "4K"
    arguments = {"scan_share": 0}  # noqa: RUF012

    def __init__(self, min_blocks: int = 32) -> None:
        """Make the policy."""
        self.min_blocks = min_blocks

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Return the size for the VMA's length, or 4K."""
        vma = view.vma
        assert vma is not None
        size = size_for(vma.end - vma.start)
        order = smallest_order(ORDER_MASKS[size])
        free = sum(blocks << o - order for o, blocks in enumerate(view.buddyinfo()) if o >= order)
        action = ACTIONS.index(size if free >= self.min_blocks else "4K")
        return action if view.masks[action] else ACTIONS.index(KEEP)
