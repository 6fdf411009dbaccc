"""What a system administrator can set: one choice of sizes for every VMA, through sysfs, with Linux's daemons.

Documentation/admin-guide/mm/transhuge.rst: hugepages-<size>kB/enabled. khugepaged runs with Linux's defaults (4,096
pages, then 10 s of sleep); Linux 6.18 collapses to 2M alone, so below 2M it changes nothing. Settings that end in
`_khugepaged_v19` are those of a kernel whose khugepaged collapses to every size that is enabled (Nico Pache, v19, for
Linux 7.2). kcompactd and the shrinker of underused folios are part of every simulated kernel, set as Linux sets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from thp_agents.heuristics.registry import register
from thp_agents.policy import Policy
from thp_agents.view import View
from thp_env.envs.actions import ORDER_MASKS
from thp_env.machine import layout


class KernelSetting(Policy):
    """The same sizes for every VMA from the first instruction on; a policy reads no page tables.

    Args:
        name: of the policy.
        default: name of the sizes that all VMAs get.
        source: who uses it.
        arguments: of the environment.
        khugepaged: runs, with Linux's defaults.
    """

    def __init__(
        self, name: str, default: str, source: str, arguments: Mapping[str, Any] | None = None, khugepaged: bool = True
    ) -> None:
        """Make the policy."""
        self.name, self.default, self.source = name, default, source
        self.arguments = {"scan_share": 0, **(arguments or {})}
        self.khugepaged = khugepaged

    @property
    def collapses(self) -> bool:
        """Whether khugepaged has anything to collapse to."""
        large = bool(ORDER_MASKS[self.default] >> layout.PMD_ORDER & 1) or "advised" in self.arguments
        return self.khugepaged and (large or "features" in self.arguments)

    def reset(self, view: View) -> None:
        """Start the daemon."""
        if self.khugepaged:
            view.khugepaged()

    def decide(self, observation: dict[str, np.ndarray], view: View) -> Any:
        """Keep what is set."""
        return view.no_op


def _offer(name: str, default: str, source: str, arguments: Mapping[str, Any] | None = None, on: bool = True) -> None:
    register(partial(KernelSetting, name, default, source, arguments, on), name)


_BELOW_2M = {
    size: f"Linux: hugepages-{4 << order}kB/enabled=always"
    for order, size in zip(layout.ORDERS[:-1], list(ORDER_MASKS)[1:], strict=False)
}
_SIZES = {
    **{size: (size, source) for size, source in _BELOW_2M.items()},
    "16K_32K_64K": ("16K+32K+64K", "Ryan Roberts, mTHP v4: kernel build and Speedometer"),
    "always_2M": ("2M", "Linux: hugepages-2048kB/enabled=always"),
    "all_sizes": ("all", "Linux: every size enabled"),
}
_MADVISE = ("4K", "Linux: enabled=madvise, 2M where the program asks", {"interface": "madvise", "advised": "2M"})

_offer("never", "4K", "Linux: no size enabled", on=False)
_offer("madvise", *_MADVISE)
_offer("madvise_no_khugepaged", _MADVISE[0], f"{_MADVISE[1]}; khugepaged off", _MADVISE[2], on=False)
for _name, (_sizes, _source) in _SIZES.items():
    _offer(_name, _sizes, _source)
    if ORDER_MASKS[_sizes] >> layout.PMD_ORDER & 1:  # else Linux 6.18 has nothing to collapse to
        _offer(f"{_name}_no_khugepaged", _sizes, f"{_source}; khugepaged off", on=False)
    if _sizes != "2M":  # for which both kernels do the same
        _offer(f"{_name}_khugepaged_v19", _sizes, f"{_source}; khugepaged collapses to it (N. Pache, v19)",
               {"features": ["collapse_mthp"]})  # fmt: skip
