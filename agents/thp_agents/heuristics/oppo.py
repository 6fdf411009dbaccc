"""OPPO's dynamic hugepage: 64K or nothing, from a reserve (mm/cont_pte_hugepage.c of OnePlusOSS' android kernel).

This is the kernel of OPPO's phones, based on 5.15, as its author described it (Barry Song, linux-mm, 28 November 2023).
VMAs of the heap of 2 MiB and more get 64K folios, which are copied, swapped and reclaimed whole. Without the reserve
"large folios totally disappeared after a couple of hours". khugepaged does not run. Switches of the simulated kernel do
all this (docs/reference/features.md); two of them need arm64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.envs.actions import ACTIONS

MIN_LENGTH = 2 << 20
"""Bytes: vma_is_chp_anonymous asks for HPAGE_CONT_PTE_SIZE * 32."""


class Oppo(Policy):
    """Marks VMAs of 2 MiB and more, except in processes on its blacklist.

    OPPO blacklists system services by uid; Android has a control group for each uid (uid_*), which represents
    it here. OPPO recognises heaps by the names of VMAs, which simulated programs do not have.

    Args:
        min_length: bytes.
        blacklist: numbers of control groups whose processes get no 64K.
    """

    name = "oppo"
    source = "OPPO: mm/cont_pte_hugepage.c, OnePlusOSS/android_kernel; Barry Song, linux-mm, November 2023"
    default_sizes = "4K"
    arguments = {"scan_share": 0, "features": "oppo-5.15"}  # noqa: RUF012

    def __init__(self, min_length: int = MIN_LENGTH, blacklist: Sequence[int] = ()) -> None:
        """Make the policy."""
        self.min_length, self.blacklist = min_length, frozenset(blacklist)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Give a VMA 64K if it is long enough."""
        vma = view.vma
        assert vma is not None
        large = vma.end - vma.start >= self.min_length
        if large and self.blacklist:
            large = view.control_group_of(vma.mm) not in self.blacklist
        action = ACTIONS.index("64K" if large else "4K")
        return action if view.masks[action] else view.no_op
