"""Linux 6.18 with its defaults, from mm/Kconfig and mm/huge_memory.c.

TRANSPARENT_HUGEPAGE_ALWAYS is the default of Kconfig, Debian and RHEL. (x86's defconfig, Fedora and Ubuntu use madvise,
which is the policy of that name.) 2M inherits it; every smaller size is at never.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import PAGES
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine import layout

SETTINGS = {
    "use_zero_page": 1, "shrink_underused": 1, "defrag": layout.DEFRAG_MODES.index("madvise"),
    "khugepaged/defrag": 1, "khugepaged/max_ptes_none": PAGES - 1,
    "khugepaged/max_ptes_swap": PAGES // 8, "khugepaged/max_ptes_shared": PAGES // 2,
}  # fmt: skip
"""Below /sys/kernel/mm/transparent_hugepage (mm/huge_memory.c, mm/khugepaged.c: khugepaged_init)."""


class Linux618(Policy):
    """2M always, by Linux's own daemons."""

    name = "linux_6_18"
    source = "Linux 6.18: mm/Kconfig, mm/huge_memory.c, mm/khugepaged.c"
    default_sizes = "2M"
    arguments = {"scan_share": 0}  # noqa: RUF012

    def reset(self, view: KernelView) -> None:
        """Set everything as the kernel does when it starts."""
        for name, value in SETTINGS.items():
            view.set(name, value)
        view.khugepaged(pages=8 * PAGES, sleep_ms=10_000, alloc_sleep_ms=60_000)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Change nothing."""
        return view.no_op
