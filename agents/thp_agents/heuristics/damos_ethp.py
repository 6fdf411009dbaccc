"""ethp: huge pages for regions that DAMON reports as accessed, none for idle ones (SeongJae Park).

This is the "efficient THP" scheme of DAMON's evaluation. Regions that were accessed in 5 % of the samples or more get
MADV_HUGEPAGE. Regions of 2M or more without an access for 7 s get MADV_NOHUGEPAGE. The advice acts on later faults and
on khugepaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.damon import Damon, Region
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine import layout


class DamosEthp(Policy):
    """Advises regions.

    Args:
        rate: share of the samples from which a region is hot.
        idle_ms: how long a region must have been idle.
        split: also split the huge pages of idle regions, which MADV_NOHUGEPAGE does not.
    """

    name = "damos_ethp"
    source = "S. Park, DAMON: ethp, evaluation in Documentation and in damon-tests"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 5.0, "interface": "madvise", "advised": "2M"}  # noqa: RUF012

    def __init__(self, rate: float = 0.05, idle_ms: float = 7000, split: bool = False) -> None:
        """Make the policy."""
        self.rate, self.idle_ms, self.split = rate, idle_ms, split
        self.damon = Damon()

    def reset(self, view: KernelView) -> None:
        """Begin to monitor, and let khugepaged run."""
        view.khugepaged()
        self.damon.begin(view)
        self.hints: dict[tuple[int, int], str] = {}

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Take a sample; after an aggregation, give advice."""
        if self.damon.step(view):
            for region in self.damon.regions:
                self.advise(view, region)
        return view.no_op

    def scheme(self, region: Region) -> str:
        """Return the advice for a region, "" for none."""
        if region.accesses >= self.rate * self.damon.samples:
            return "hugepage"
        idle_ms = region.age * self.damon.aggregation_ns / 1e6
        large = region.end - region.start >= layout.PMD_SIZE
        return "nohugepage" if large and region.accesses == 0 and idle_ms >= self.idle_ms else ""

    def advise(self, view: KernelView, region: Region) -> None:
        """Advise the whole 2M blocks around or, for idle ones, inside a region; not the same twice."""
        advice = self.scheme(region)
        size = layout.PMD_SIZE
        first, last = region.start // size, -(-region.end // size)
        if advice == "nohugepage":
            first, last = -(-region.start // size), region.end // size
        todo = [b for b in range(first, last) if advice and self.hints.get((region.mm, b)) != advice]
        if not todo:
            return
        start, end = todo[0] * size, min((todo[-1] + 1) * size, layout.TASK_SIZE)
        view.madvise(region.mm, start, end, advice)
        if advice == "nohugepage" and self.split:
            view.split(region.mm, start, end)
        self.hints |= {(region.mm, b): advice for b in range(todo[0], todo[-1] + 1)}
