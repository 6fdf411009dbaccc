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
from thp_env.machine.sizes import SIZES


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


_SETTINGS: dict[str, str] = {
    "never": "Linux: no size enabled",
    **{size: f"Linux: hugepages-{4 << order}kB/enabled=always" for size, order in SIZES.items()},
    "16K+32K+64K": "Ryan Roberts, mTHP v4: kernel build and Speedometer",
    "all": "Linux: every size enabled",
}
_MADVISE = ("madvise", "never", "Linux: enabled=madvise, 2M where the program asks")

POLICIES: dict[str, Callable[[], Policy]] = {
    **{sizes: partial(KernelSetting, sizes, sizes, source) for sizes, source in _SETTINGS.items()},
    "madvise": partial(KernelSetting, *_MADVISE, {"action_set": "madvise", "advised": "2M"}),
}

FORMER_NAMES = {"always_2M": "2M", "16K_32K_64K": "16K+32K+64K", "all_sizes": "all"}
"""What version 0.1 called some of them, and what they are called now."""
