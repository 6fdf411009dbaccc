"""Rent or buy: a block is collapsed once its page walks have cost as much as collapsing it would.

Whoever rents skis until the rents have come to their price, and then buys, pays at most twice what hindsight would
(Karlin, Manasse, Rudolph and Sleator: "Competitive snoopy caching", Algorithmica 1988). Page walks are the rent, here
as the PMU samples them; the price is twice that of copying 512 pages, since a collapse also finds a block and flushes
TLBs (once, twice and four times were tried on validation). A collapse that fails doubles its block's price.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from thp_agents.heuristics.blocks import PAGES, Block, occupied_blocks
from thp_agents.heuristics.cbmm import note_walks
from thp_agents.policy import Policy
from thp_agents.view import KernelView
from thp_env.machine.clock import COSTS

PRICE = 2 * PAGES * COSTS["copy_page"].ps / 1000
"""Nanoseconds."""


class SkiRental(Policy):
    """Buys 2M for what has paid enough rent, on top of all sizes with khugepaged.

    Args:
        period: page walks between two samples.
        price: of a block, in nanoseconds of page walks.
    """

    name = "ski_rental"
    source = "Karlin et al., Algorithmica 1988, with page walks as the rent"
    default_sizes = "all"
    environment = "thp_env/VmaHints-v0"
    arguments = {  # noqa: RUF012
        "scan_share": 0, "slots": 1, "window_ms": 20.0, "khugepaged": True, "features": ["collapse_mthp"],
    }  # fmt: skip

    def __init__(self, period: int = 2003, price: float = PRICE) -> None:
        """Make the policy."""
        self.period, self.price = period, price

    def reset(self, view: KernelView) -> None:
        """Begin with nothing paid."""
        view.sample_walks(self.period)
        self.rents: dict[Block, float] = {}
        self.prices: dict[Block, float] = {}
        self.translated = view.time_ns("translation")

    def decide(self, observation: dict[str, np.ndarray], view: KernelView) -> Any:
        """Share out the time of page walks since the last look, and collapse what has paid its price."""
        samples: dict[Block, float] = {}
        note_walks(samples, view, self.period)
        before, self.translated = self.translated, view.time_ns("translation")
        if not samples:
            return view.no_op
        each = (self.translated - before) / sum(samples.values())
        for block, count in samples.items():
            self.rents[block] = self.rents.get(block, 0.0) + each * count
        if any(self.rents[block] >= self.prices.get(block, self.price) for block in samples):
            self.buy(view)
        return view.no_op

    def buy(self, view: KernelView) -> None:
        """Collapse the blocks whose rents have come to their price."""
        for block, _, huge in occupied_blocks(view):
            if not huge and self.rents.get(block, 0.0) >= self.prices.get(block, self.price):
                if view.collapse(block.mm, block.start, block.end):
                    self.prices[block] = 2 * self.rents[block]
                else:
                    del self.rents[block]
