"""HawkEye: the blocks with most pages in use become huge first (Panwar et al., ASPLOS 2019; mm/ohp.c of its kernel).

The paper and the published code differ, so there are two policies. Both read and clear the accessed bits of each
candidate block, wait a second, and count the pages that were accessed in it. The average of this count over time is the
block's coverage. The paper sorts it into 10 buckets of 50 pages, the code into 12 buckets by its logarithm.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import Block, Timer, occupied_blocks, young_pages
from thp_agents.policy import Policy
from thp_agents.view import KernelView

SAMPLE_MS = 1000
"""Between clearing the accessed bits and reading them."""


class HawkEye(Policy):
    """The code: HawkEye-G. One process after another is sampled; blocks of the highest bin are promoted first.

    Huge pages at the first fault are off, as the code's switch has it.

    Args:
        period_ms: between two samplings at least; the reading takes at most 5 % of the time.
        promote_ms: between two rounds of promotion (khugepaged's scan_sleep_millisecs).
        promotions: in a round at most (khugepaged's pages_to_scan, 4096, in blocks).
    """

    name = "hawkeye_code"
    source = "Panwar et al., ASPLOS 2019: the published kernel, mm/ohp.c (HawkEye-G)"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 100.0}  # noqa: RUF012
    bins = 12

    def __init__(self, period_ms: float = 5000, promote_ms: float = 10_000, promotions: int = 8) -> None:
        """Make the policy."""
        self.period, self.promotion, self.promotions = Timer(period_ms), Timer(promote_ms), promotions
        self.weights: dict[Block, float] = {}
        self.last = -1

    def reset(self, view: KernelView) -> None:
        """Begin with empty bins."""
        self.weights, self.last = {}, -1
        self.sample: list[Block] = []
        self.read_at = 0
        self.period.begin(view)
        self.promotion.begin(view)

    def bin_of(self, weight: float) -> int:
        """Return the bin of a weight: order_base_2."""
        return min(self.bins - 1, math.ceil(math.log2(weight)) if weight > 1 else 0)

    def average(self, before: float | None, coverage: int) -> float:
        """Return the new weight of a block: the code's integers."""
        return (6 * int(before or 0) + 4 * coverage) // 10

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Sample or promote when it is time."""
        if self.sample and view.clock_ns >= self.read_at:
            self._note(view)
        elif not self.sample and self.period.due(view):
            self._clear(view)
        if self.promotion.due(view):
            self.promote(view)
        return view.no_op

    def candidates(self, view: KernelView) -> dict[int, list[Block]]:
        """Return the blocks that are not huge yet, by process; forget blocks that no longer exist."""
        by_bin: dict[int, list[Block]] = {}
        for block, _, huge in occupied_blocks(view):
            if not huge:
                by_bin.setdefault(block.mm, []).append(block)
        alive = {block for blocks in by_bin.values() for block in blocks}
        self.weights = {block: weight for block, weight in self.weights.items() if block in alive}
        return by_bin

    def order(self, view: KernelView) -> list[Block]:
        """Return the candidates: the highest bin first, its processes in turn, then the next bin."""
        bins: dict[int, dict[int, list[Block]]] = {}
        for block, weight in self.weights.items():
            bins.setdefault(self.bin_of(weight), {}).setdefault(block.mm, []).append(block)
        out: list[Block] = []
        for number in sorted(bins, reverse=True):
            queues = [list(reversed(bins[number][mm])) for mm in sorted(bins[number])]
            while queues := [q for q in queues if q]:
                out += [q.pop() for q in queues]
        return out

    def promote(self, view: KernelView) -> None:
        """Collapse the first of the candidates; one that fails goes to the end of the lowest bin."""
        for block in self.order(view)[: self.promotions]:
            error = view.collapse(block.mm, block.start, block.end)
            del self.weights[block]
            if error:
                self.weights[block] = 0.0

    def to_sample(self, by_process: dict[int, list[Block]]) -> list[Block]:
        """Return the blocks to sample: those of the next process."""
        mms = sorted(by_process)
        self.last = next((mm for mm in mms if mm > self.last), mms[0])
        return by_process[self.last]

    def _clear(self, view: KernelView) -> None:
        candidates = self.candidates(view)
        self.sample = self.to_sample(candidates) if candidates else []
        self.busy = view.time_ns("monitoring")
        young_pages(view, self.sample)
        self.read_at = view.clock_ns + int(SAMPLE_MS * 1e6)

    def _note(self, view: KernelView) -> None:
        for block, count in zip(self.sample, young_pages(view, self.sample), strict=True):
            weight = self.average(self.weights.pop(block, None), int(count))
            self.weights[block] = weight
        self.sample = []
        self.period.begin(view)
        self.period.next = max(self.period.next, view.clock_ns + 19 * (view.time_ns("monitoring") - self.busy))


class HawkEyePaper(HawkEye):
    """The paper: huge pages at the first fault, taken back where they hold zeros when memory runs short.

    What is not huge is sampled every 30 s, all processes at once, and promoted from the bucket of highest coverage,
    in it the latest first, while the processor spends at least 2 % of its time in page walks. Zeroing pages ahead of
    faults is not modelled: a fault pays for it.

    Args:
        period_ms: between two samplings.
        promote_ms: between two rounds of promotion.
        promotions: in a round at most.
        overhead: share of the time in page walks below which nothing is promoted.
        high: share of memory in use from which bloat is taken back,
        low: until it is down to this one.
        zero_pages: a huge page with so many of zeros is split.
    """

    name = "hawkeye_paper"
    source = "Panwar et al., ASPLOS 2019"
    default_sizes = "2M"
    bins = 10

    def __init__(
        self, period_ms: float = 30_000, promote_ms: float = 10_000, promotions: int = 8, overhead: float = 0.02,
        high: float = 0.85, low: float = 0.70, zero_pages: int = 64,
    ) -> None:  # fmt: skip
        """Make the policy."""
        super().__init__(period_ms, promote_ms, promotions)
        self.overhead, self.high, self.low, self.zero_pages = overhead, high, low, zero_pages

    def reset(self, view: KernelView) -> None:
        """Begin with empty buckets."""
        super().reset(view)
        self.walk_ns, self.since = 0, view.clock_ns
        self.visits: set[Block] = set()

    def bin_of(self, weight: float) -> int:
        """Return the bucket: 50 pages each."""
        return min(self.bins - 1, int(weight) // 50)

    def average(self, before: float | None, coverage: int) -> float:
        """Return the exponential moving average; the first sample counts in full."""
        return float(coverage) if before is None else 0.6 * before + 0.4 * coverage

    def to_sample(self, by_process: dict[int, list[Block]]) -> list[Block]:
        """Return all blocks."""
        return [block for mm in sorted(by_process) for block in by_process[mm]]

    def order(self, view: KernelView) -> list[Block]:
        """The latest of a bucket first."""
        self.weights = dict(reversed(self.weights.items()))
        out = super().order(view)
        self.weights = dict(reversed(self.weights.items()))
        return out

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Sample and promote as the code does; take bloat back under pressure."""
        super().decide(observation, view)
        if view.free_pages < (1 - self.high) * view.memory_pages:
            self.recover(view)
        return view.no_op

    def promote(self, view: KernelView) -> None:
        """Promote while page walks take their share of the time."""
        walked, now = view.time_ns("translation"), view.clock_ns
        share = (walked - self.walk_ns) / max(1, now - self.since)
        self.walk_ns, self.since = walked, now
        if share >= self.overhead:
            super().promote(view)

    def recover(self, view: KernelView) -> None:
        """Split huge pages that hold many pages of zeros, each looked at once a pressure, until enough is free."""
        for block, _, huge in occupied_blocks(view):
            if view.free_pages >= (1 - self.low) * view.memory_pages:
                self.visits.clear()
                return
            if not huge or block in self.visits:
                continue
            self.visits.add(block)
            if view.count_zero_pages(block.mm, block.start, block.end) >= self.zero_pages:
                view.split(block.mm, block.start, block.end)
