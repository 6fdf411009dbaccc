"""The utilisation rule: sizes follow the share of pages in use, weighted with the costs of memory and page walks.

This rule is thp_env's own. It begins with all sizes. From time to time a window of faults gets 4K. These faults are
probes: around them it is visible which pages the program touches. The mapped pages show, without further cost, how full
larger blocks are: which share of an aligned block's pages faults have asked for. Sampled page walks show where time is
lost. Accessed bits would show this, too, but a core that coalesces PTEs needs equal bits for its larger TLB entries,
and clearing bits destroys them. A larger size saves faults and page walks, and maps pages that the program has not
asked for. The expected life of a page is as long as the run has lasted so far, or as long as pages of its VMA live
before they are unmapped (Little's law). Later faults get the size with the greatest gain, blocks that gain most from
one 2M entry are collapsed, and large folios with holes are split. A new VMA gets the size that is best for most of the
memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import PAGES, Block, Timer
from thp_agents.heuristics.cbmm import note_walks
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine import Vma, layout
from thp_env.machine.clock import COSTS
from thp_env.machine.prices import PAGES_PER_MIB, Prices

FAULT, ZERO, COPY = (COSTS[name].ps / 1000 for name in ("fault", "zero_page", "copy_page"))
SPLIT_FOLIO, SPLIT_PAGE = COSTS["split_folio"].ps / 1000, COSTS["split_page"].ps // 1000
PAGE_SECOND = Prices().memory * 1000 / PAGES_PER_MIB
"""What a 4K page costs in a second, in nanoseconds."""
SIZES = (2, 3, 4, 5, 6, 7, 9)
LIFE = (0.2, 60.0)
"""Seconds that a page is expected to live, at least and at most."""


class Utilisation(Policy):
    """Weighs the share of pages in use.

    Args:
        own_pages: smaller VMAs get the size for most of the memory, because VMAs with different sizes do not merge.
        probe_every: looks between two probes.
        saved_small, saved_2m: share of its page walks that a page saves in a folio below 2M, in one of 2M.
        look_ms: between two looks at samples and at all mapped memory.
        collapses: most 2M blocks collapsed after a look.
        prior: expected cost of page walks for a 4K page, in nanoseconds per second, before it is measured.
        life: expected life of a page in seconds, before the run has lasted as long.
        period: page walks between two samples.
    """

    name = "utilisation"
    source = "thp_env: by the share of pages that faults asked for, sampled page walks, and what both cost"
    default_sizes = "all"
    environment = "thp_env/VmaHints-v0"
    arguments = {"scan_share": 0, "slots": 1, "window_ms": 20.0, "window_faults": 128}  # noqa: RUF012

    def __init__(
        self, own_pages: int = 2048, probe_every: int = 30, saved_small: float = 0.3, saved_2m: float = 0.9,
        look_ms: float = 1000, collapses: int = 256, prior: float = 5000, life: float = 5, period: int = 2003,
    ) -> None:  # fmt: skip
        """Make the policy."""
        self.probe_every = probe_every
        self.own_pages = own_pages
        self.walk_saving = {o: saved_2m if o == layout.PMD_ORDER else saved_small for o in SIZES}
        self.period = period
        self.look, self.collapses, self.prior, self.young = Timer(look_ms), collapses, prior, life

    def reset(self, view: KernelView) -> None:
        """Begin without knowledge."""
        self.began = view.clock_ns
        self.fault_counts: dict[int, int] = {}
        self.best: dict[int, int] = {}
        self.default_order, self.looks = layout.PMD_ORDER, 0
        self.zap_counts: dict[int, tuple[int, int]] = {}
        self.life: dict[int, float] = {}
        self.walk_time, self.walk_rate = (view.clock_ns, view.time_ns("translation")), self.prior
        self.heat: dict[Block, float] = {}
        view.sample_walks(self.period)
        self.look.begin(view)

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Look at VMAs that are new or have faulted; once a second at everything."""
        is_due = self.look.due(view)
        if is_due:
            self.measure(view)
            self.looks += 1
        vmas = [vma for vma in view.vmas() if vma.pages >= 4]
        for vma in vmas:
            if is_due or self.fault_counts.get(vma.id) != vma.faults:
                self.fault_counts[vma.id] = vma.faults
                if vma.faults:
                    self.best[vma.id] = self.order(view, vma)
        votes = np.zeros(layout.PMD_ORDER + 1)
        for vma in vmas:
            if vma.id in self.best:
                votes[self.best[vma.id]] += vma.pages
        if votes.any():
            self.default_order = int(votes.argmax())
        probe = is_due and self.looks % self.probe_every == 0
        view.set_default_orders(1 if probe else mask_up_to(self.default_order))
        for vma in vmas:
            order = self.best.get(vma.id, self.default_order)
            own = mask_up_to(order) if order != self.default_order and vma.pages >= self.own_pages else 0
            if own != vma.orders:
                view.set_orders(vma.mm, vma.start, vma.end, own)
        return view.no_op

    def lifetime(self, view: KernelView, vma: Vma) -> float:
        """Return how many seconds a page of a VMA is expected to live."""
        run = max(self.young, (view.clock_ns - self.began) / 1e9)
        return float(np.clip(min(run, self.life.get(vma.id, run)), *LIFE))

    def order(self, view: KernelView, vma: Vma) -> int:
        """Return the order of the greatest gain for the VMA's later faults."""
        sizes = view.occupancy_by_size(vma.mm, vma.start, vma.end)
        life = self.lifetime(view, vma)
        best, most = 0, 0.0
        for order in SIZES:
            gain = self.gain(order, density(sizes[order], order), life)
            if gain > most:
                best, most = order, gain
        return best

    def gain(self, order: int, share: float, life: float) -> float:
        """Return what a size gains over 4K, in nanoseconds per page in use.

        Args:
            order: the size.
            share: of the pages of a block that are in use.
            life: seconds.
        """
        if share <= 0:
            return 0.0
        faults = FAULT * (1 - 1 / max(1.0, share * (1 << order)))
        walks = self.walk_rate * self.walk_saving[order] * life
        waste = (1 / share - 1) * (ZERO + PAGE_SECOND * life)
        return faults + walks - waste

    def measure(self, view: KernelView) -> None:
        """Note what page walks cost, how long pages live, and collapse where it pays."""
        since, walk_ns_before = self.walk_time
        now, walk_ns = view.clock_ns, view.time_ns("translation")
        resident = max(1, view.counters("nr_resident")["nr_resident"])
        spending = (walk_ns - walk_ns_before) / max(1e-9, (now - since) / 1e9)
        rate = spending / resident
        counts: dict[Block, float] = {}
        note_walks(counts, view, self.period)
        total = max(1.0, sum(counts.values()))
        self.heat = {block: count / total * spending for block, count in counts.items()}
        self.walk_rate = max(rate, 0.5 * self.walk_rate)
        self.walk_time = (now, walk_ns)
        worth: list[tuple[float, Block]] = []
        for vma in view.vmas():
            self._live(view, vma, now)
            self._split(view, vma)
            worth += self._worth(view, vma)
        worth.sort(key=lambda item: (-item[0], item[1]))
        spare = sum(view.buddyinfo()[layout.PMD_ORDER :])
        for _, block in worth[: min(self.collapses, spare // 2)]:
            view.collapse(block.mm, block.start, block.end)

    def _live(self, view: KernelView, vma: Vma, now: int) -> None:
        smaps = view.smaps(vma.id)
        zapped, resident = int(smaps["zapped"]), int(smaps["by_order"].sum())
        before, at = self.zap_counts.get(vma.id, (0, self.began))
        self.zap_counts[vma.id] = (zapped, now)
        rate = (zapped - before) / max(1e-9, (now - at) / 1e9)
        self.life[vma.id] = max(1, resident) / rate if rate else LIFE[1]

    def _split(self, view: KernelView, vma: Vma) -> None:
        """Split large folios of which so much was unmapped that giving it back pays for the split and its walks."""
        holes = view.blocks_with_holes(vma.mm, vma.start, vma.end)
        life = self.lifetime(view, vma)
        for order in SIZES:
            folios = holes[holes["order"] == order]
            walk_cost = folios["held"] * self.walk_rate * self.walk_saving[order] * life
            gain = folios["nothing"] * PAGE_SECOND * life - walk_cost - SPLIT_FOLIO - (SPLIT_PAGE << order)
            for start in folios["start"][gain > 0].tolist():
                view.split(vma.mm, start, start + (layout.PAGE_SIZE << order))

    def _worth(self, view: KernelView, vma: Vma) -> list[tuple[float, Block]]:
        """Return the gain of each 2M block that should be collapsed."""
        blocks = view.occupied_blocks(vma.mm, vma.start, vma.end)
        blocks = blocks[blocks["mapped"] > blocks["huge"]]
        life, mapped = self.lifetime(view, vma), blocks["mapped"].astype(np.int64)
        walks = np.array([self.heat.get(Block(vma.mm, start), 0.0) for start in blocks["start"].tolist()])
        gain = walks * self.walk_saving[layout.PMD_ORDER] * life
        gain = gain - COPY * mapped - (PAGES - mapped) * (ZERO + PAGE_SECOND * life)
        gains = zip(gain[gain > 0].tolist(), blocks["start"][gain > 0].tolist(), strict=True)
        return [(worth, Block(vma.mm, start)) for worth, start in gains]


def mask_up_to(order: int) -> int:
    """Return the mask of a size and those below it, to which a fault can fall back."""
    return sum(1 << o for o in layout.ORDERS if o <= order) or 1


def density(size: np.void, order: int) -> float:
    """Return the share of mapped pages in the aligned blocks of a size that faults have begun, 0 if none tells.

    Args:
        size: a row of `KernelView.occupancy_by_size`. Blocks that one folio of this size or larger fills tell nothing.
        order: the size.
    """
    if size["partial"]:
        return int(size["mapped"]) / (int(size["partial"]) << order)
    return 1.0 if size["begun"] else 0.0
