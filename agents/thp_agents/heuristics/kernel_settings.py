"""What a system administrator can set: one choice of sizes for every VMA, through sysfs.

Documentation/admin-guide/mm/transhuge.rst: hugepages-<size>kB/enabled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import layout


class KernelSetting(Policy):
    """The same sizes for every VMA from the first instruction on; no page tables are read.

    Args:
        name: of the policy.
        default_sizes: name of the sizes that all VMAs get.
        source: who uses it.
        arguments: of the environment.
    """

    def __init__(self, name: str, default_sizes: str, source: str, arguments: Mapping[str, Any] | None = None) -> None:
        """Make the policy."""
        self.name, self.default_sizes, self.source = name, default_sizes, source
        self.arguments = {"scan_share": 0, **(arguments or {})}

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Keep what is set."""
        return view.no_op


_SETTINGS: tuple[tuple[str, str, str], ...] = (
    ("never", "4K", "Linux: no size enabled"),
    ("always_2M", "2M", "Linux: hugepages-2048kB/enabled=always"),
    *(
        (size, size, f"Linux: hugepages-{4 << order}kB/enabled=always")
        for order, size in zip(layout.ORDERS[:-1], list(ORDER_MASKS)[1:], strict=False)
    ),
    ("16K_32K_64K", "16K+32K+64K", "Ryan Roberts, mTHP v4: kernel build and Speedometer"),
    ("all_sizes", "all", "Linux: every size enabled"),
)
_MADVISE = ("madvise", "4K", "Linux: enabled=madvise, 2M where the program asks")

POLICIES: dict[str, Callable[[], Policy]] = {
    **{setting[0]: partial(KernelSetting, *setting) for setting in _SETTINGS},
    "madvise": partial(KernelSetting, *_MADVISE, {"action_set": "madvise", "advised": "2M"}),
}
