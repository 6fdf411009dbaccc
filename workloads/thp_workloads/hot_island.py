"""hot_island: narrow islands are hot in a large and sparse footprint, and drift (astar, omnetpp)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import MIB, PAGE, log_uniform, pages, runs


@dataclass(frozen=True, kw_only=True)
class HotIsland(Generator):
    """Programs such as astar and omnetpp: 100 to 400 MB, of which narrow islands are hot at a time.

    A few folios of 64K cover an island; larger ones bring memory that nobody touches, since only some clusters of
    pages are ever written.

    Attributes:
        arenas: regions that share the footprint.
        populated: share of the clusters that are ever written.
        cluster: bytes that are written together.
        islands: hot ranges at a time.
        island: bytes of each, at most.
        drift: share of the islands that move from phase to phase.
        background: share of accesses that go to any cluster.
        writes: share of accesses that write.
        growth: share of the run in which clusters are still added.
    """

    name = "hot_island"
    family = "SPEC-like"
    summary = "narrow hot islands that drift over a large, sparse footprint"
    sources = (
        "Elastic Translations' hint files: astar 152 regions of 2M and 51 of 64K, omnetpp 79 and 65, out of "
        "100 to 400 MB."
    )
    pace = (5, 40)  # pointers are chased: few accesses to a page before the next one
    claims = (
        Claim(
            "Elastic Translations: astar 1.47, omnetpp 1.31 times as fast with 2M",
            "time_ms", "never", "2M", 1.15, 1.6,
        ),
        Claim(
            "Elastic Translations: with sizes below 2M as fast as with 2M (1.56 and 1.33)",
            "time_ms", "2M", "16K+32K+64K", 0.93, 1.1,
        ),
    )

    arenas: int = number(3, 1, 64)
    populated: float = number(0.5, 0.001, 1)
    cluster: int = number(8 * PAGE, PAGE, MIB)
    islands: int = number(24, 1, 4096)
    island: int = number(512 * 1024, PAGE, 64 * MIB)
    drift: float = number(0.1, 0, 1)
    background: float = number(0.1, 0, 1)
    writes: float = number(0.3, 0, 1)
    growth: float = number(0.9, 0.01, 1)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return self.populated

    def compose(self, s: Stage) -> None:
        """Add clusters phase by phase, and use the islands meanwhile."""
        length = pages(self.footprint / self.arenas)
        names = [f"arena{i}" for i in range(self.arenas)]
        clusters = max(1, length // self.cluster)
        pages_of = {}
        for name in names:
            s.b.mmap(name, length, at="auto")
            pages_of[name] = np.sort(s.rng.choice(clusters, max(1, int(clusters * self.populated)), replace=False))
        growing = max(1, round(self.phases * self.growth))
        spots: list[tuple[str, int, int]] = []
        for i in s.phases(self.phases):
            if i < growing:
                for name in names:
                    self._grow(s, name, pages_of[name], i, growing)
            for k in range(self.islands):
                if len(spots) <= k or s.rng.random() < self.drift:
                    spots[k : k + 1] = [self._spot(s, names, pages_of, i / growing, length)]
                name, offset, size = spots[k]
                s.use(name, offset, size, "gauss", (1 - self.background) / self.islands, sigma=0.2, content=40,
                      write=self.writes)  # fmt: skip
            name = names[int(s.rng.integers(len(names)))]
            there = runs(pages_of[name][: max(1, int(len(pages_of[name]) * min(1, i / growing)))])
            first, last = there[int(s.rng.integers(len(there)))]
            s.use(name, first * self.cluster, (last - first) * self.cluster, "uniform", self.background)

    def _grow(self, s: Stage, name: str, page_numbers: np.ndarray, i: int, growing: int) -> None:
        """Write the clusters that phase `i` adds, in address order."""
        first, count = part(len(page_numbers), i, growing, 1)
        for a, z in runs(page_numbers[first : first + count]):
            s.b.touch(name, a * self.cluster, (z - a) * self.cluster, content=40)

    def _spot(
        self, s: Stage, names: list[str], pages_of: dict[str, np.ndarray], grown: float, length: int
    ) -> tuple[str, int, int]:
        """Draw an island: it begins at a cluster that is there."""
        name = names[int(s.rng.integers(len(names)))]
        there = pages_of[name][: max(1, int(len(pages_of[name]) * min(1, grown)))]
        offset = int(there[s.rng.integers(len(there))]) * self.cluster
        return name, offset, min(self.island, length - offset)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw sparsity, clusters and islands."""
        return {
            "arenas": int(rng.integers(1, 5)),
            "populated": log_uniform(rng, 0.08, 1.0),
            "cluster": PAGE << int(rng.integers(0, 6)),
            "islands": int(rng.integers(8, 41)),
            "island": int(log_uniform(rng, 128 * 1024, 2 * MIB)) // PAGE * PAGE,
            "drift": float(rng.uniform(0.02, 0.3)),
            "background": float(rng.uniform(0.02, 0.3)),
            "writes": float(rng.uniform(0.0, 0.6)),
            "growth": float(rng.uniform(0.6, 1.0)),
        }
