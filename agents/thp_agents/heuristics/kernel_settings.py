"""What a system administrator can set: one choice of sizes for every VMA, through sysfs.

Documentation/admin-guide/mm/transhuge.rst: hugepages-<size>kB/enabled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from thp_env.envs.actions import ACTIONS, KEEP
from thp_env.machine import Vma


@dataclass
class KernelSetting:
    """The same sizes for every VMA from the first instruction on.

    Args:
        name: of the policy.
        default: name of the sizes.
        source: who uses it.
    """

    name: str
    default: str
    source: str
    kind: str = "heuristic"

    def reset(self) -> None:
        """Nothing to forget."""

    def decide(self, observation: dict[str, np.ndarray], vma: Vma, masks: np.ndarray) -> int:
        """Keep what is set."""
        return ACTIONS.index(KEEP)


POLICIES = {
    setting[0]: partial(KernelSetting, *setting)
    for setting in (
        ("never", "4K", "Linux: no size enabled"),
        ("always_2M", "2M", "Linux: hugepages-2048kB/enabled=always"),
        ("64K", "64K", "OPPO's size; Ryan Roberts, mTHP v8"),
        ("16K_32K_64K", "16K+32K+64K", "Ryan Roberts, mTHP v4: kernel build and Speedometer"),
        ("all_sizes", "all", "Linux: every size enabled"),
    )
}
