"""The settings of a system administrator: one set of sizes for every VMA, through sysfs, with Linux's daemons.

Documentation/admin-guide/mm/transhuge.rst: hugepages-<size>kB/enabled. khugepaged runs with Linux's defaults (4,096
pages, then 10 s of sleep). Linux 6.18 collapses only to 2M, so with smaller sizes khugepaged changes nothing. Settings
that end in `_khugepaged_v19` belong to a kernel whose khugepaged collapses to every enabled size (Nico Pache, v19, for
Linux 7.2). `_defrag` adds defrag=always to that. kcompactd and the shrinker of underused folios are part of every
simulated kernel, with Linux's settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine import layout
from thp_env.machine.sizes import SIZES, orders_of


def has_2m(sizes: str) -> bool:
    """Whether a set of sizes has 2M in it."""
    return bool(orders_of(sizes) >> layout.PMD_ORDER & 1)


class KernelSetting(Policy):
    """The same sizes for every VMA from the first instruction on; a policy reads no page tables.

    Args:
        name: of the policy.
        default_sizes: name of the sizes that all VMAs get.
        source: who uses it.
        arguments: of the environment.
        khugepaged: runs, with Linux's defaults.
        defrag: /sys/kernel/mm/transparent_hugepage/defrag; "": Linux's default.
    """

    def __init__(
        self, name: str, default_sizes: str, source: str, arguments: Mapping[str, Any] | None = None,
        khugepaged: bool = True, defrag: str = "",
    ) -> None:  # fmt: skip
        """Make the policy."""
        self.defrag = defrag
        self.name, self.default_sizes, self.source = name, default_sizes, source
        self.arguments = {"scan_share": 0, **({"khugepaged": True} if khugepaged else {}), **(arguments or {})}

    @property
    def collapses(self) -> bool:
        """Whether khugepaged has anything to collapse to."""
        large = has_2m(self.default_sizes) or "advised" in self.arguments
        return "khugepaged" in self.arguments and (large or "features" in self.arguments)

    def reset(self, view: KernelView) -> None:
        """Set what is not Linux's default."""
        if self.defrag:
            view.set("defrag", layout.DEFRAG_MODES.index(self.defrag))

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Change nothing."""
        return view.no_op


_SIZES: dict[str, str] = {
    **{size: f"Linux: hugepages-{4 << order}kB/enabled=always" for size, order in SIZES.items()},
    "16K+32K+64K": "Ryan Roberts, mTHP v4: kernel build and Speedometer",
    "all": "Linux: every size enabled",
}
_MADVISE = ("never", "Linux: enabled=madvise, 2M where the program asks")
_ADVISED = {"interface": "madvise", "advised": "2M"}
_HAVE_2M = [sizes for sizes in _SIZES if has_2m(sizes)]

POLICIES: dict[str, Callable[[], Policy]] = {
    "never": partial(KernelSetting, "never", "never", "Linux: no size enabled", khugepaged=False),
    **{sizes: partial(KernelSetting, sizes, sizes, source) for sizes, source in _SIZES.items()},
    "madvise": partial(KernelSetting, "madvise", *_MADVISE, _ADVISED),
    "madvise_no_khugepaged": partial(
        KernelSetting, "madvise_no_khugepaged", _MADVISE[0], f"{_MADVISE[1]}; khugepaged off", _ADVISED, False
    ),
    **{  # below 2M Linux 6.18 has nothing to collapse to
        f"{sizes}_no_khugepaged": partial(
            KernelSetting, f"{sizes}_no_khugepaged", sizes, f"{_SIZES[sizes]}; khugepaged off", khugepaged=False
        )
        for sizes in _HAVE_2M
    },
    **{  # of 2M alone both kernels do the same
        f"{sizes}_khugepaged_v19": partial(
            KernelSetting, f"{sizes}_khugepaged_v19", sizes, f"{source}; khugepaged collapses to it (N. Pache, v19)",
            {"features": ["collapse_mthp"]},
        )
        for sizes, source in _SIZES.items()
        if sizes != "2M"
    },
    **{  # a fault compacts and reclaims memory for its folio itself
        f"{sizes}_defrag": partial(
            KernelSetting, f"{sizes}_defrag", sizes, f"{_SIZES[sizes]}; defrag=always",
            {"features": ["collapse_mthp"]}, defrag="always",
        )
        for sizes in _HAVE_2M
    },
}  # fmt: skip

FORMER_NAMES = {"always_2M": "2M", "16K_32K_64K": "16K+32K+64K", "all_sizes": "all"}
"""What version 0.1 called some of them, and what they are called now."""
