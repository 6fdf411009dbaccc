"""Only 64K, as on phones with mainline's multi-size THP.

hugepages-64kB/enabled=always, and no other size (Barry Song, linux-mm, 2023 to 2025: arm64 folds this size into one TLB
entry, and zRAM stores it whole). 2M is not enabled, so the kernel does not start khugepaged (mm/khugepaged.c,
hugepage_pmd_enabled). The policy `oppo` is the vendor's own kernel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.policy import Policy
from thp_agents.view import KernelView


class Android64K(Policy):
    """The same for every VMA."""

    name = "android_64K"
    source = "Android 16: hugepages-64kB/enabled=always, all else never; B. Song, linux-mm"
    default_sizes = "64K"
    arguments = {"scan_share": 0}  # noqa: RUF012

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Change nothing."""
        return view.no_op
