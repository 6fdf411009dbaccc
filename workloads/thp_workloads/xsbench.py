"""xsbench: lookups in large tables, with the hot part at the end of the address space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import PAGE, pages


@dataclass(frozen=True, kw_only=True)
class XsBench(Generator):
    """XSBench, the kernel of a Monte Carlo neutron transport code: cross sections are looked up in large tables.

    A lookup searches the energy grid (a binary search: its upper levels are a few hot pages), reads one row of the
    index and from there the grids of some nuclides. The cold grids of nuclides are built first, so whoever gives
    contiguous memory to the first who asks, or promotes in address order, has none left for the hot tail.

    Attributes:
        index: share of the footprint that the index takes.
        energies: share that the energy grid takes.
        tail: share of the index, at its end, that is hot.
        hot: share of the index's accesses that go to the tail.
        build: share of the run in which the tables are built.
    """

    name = "xsbench"
    family = "HPC"
    summary = "lookups in large tables whose hot part lies in the tail"
    sources = (
        "XSBench (unionized grid, 5.6 GB; nuclide grids are the smaller part). HawkEye: its hot regions lie in the "
        "high addresses, 44 times more time saved a promotion than in address order."
    )
    claims = (
        Claim(
            "HawkEye: 13 to 22 % faster with large pages; Elastic Translations: 1.45 with 2M",
            "time_ms", "never", "2M", 1.1, 1.6,
        ),
    )
    pace = (4, 30)  # each access goes to another page: a miss of the cache, several at a time

    index: float = number(0.5, 0.05, 0.8)
    energies: float = number(0.05, 0.01, 0.15)
    tail: float = number(0.2, 0.01, 1)
    hot: float = number(0.8, 0, 1)
    build: float = number(0.8, 0.01, 0.95)

    def compose(self, s: Stage) -> None:
        """Build the tables one after another, then look up."""
        index, energies = pages(self.footprint * self.index), pages(self.footprint * self.energies)
        tables = {"nuclides": max(PAGE, self.footprint - index - energies), "index": index, "energies": energies}
        building = max(3, round(self.phases * self.build))
        for name, size in tables.items():
            s.b.mmap(name, size, at="auto")
            phases = max(1, round(building * size / self.footprint))
            for i in s.phases(phases):
                offset, length = part(size, i, phases)
                if length:
                    s.b.touch(name, offset, length, content=100)
                s.idle(0.8)
                if offset + length:
                    s.use(name, 0, offset + length, "stride", 0.2, stride=PAGE, write=0.5)
        cold = int(index * (1 - self.tail)) // PAGE * PAGE
        for _ in s.phases(max(1, self.phases - s.at)):
            s.use("energies", 0, energies, "gauss", 0.2, sigma=0.02)
            s.use("energies", 0, energies, "uniform", 0.1)
            s.use("index", cold, index - cold, "uniform", 0.45 * self.hot)
            s.use("index", 0, index, "uniform", 0.45 * (1 - self.hot))
            s.use("nuclides", 0, tables["nuclides"], "zipf", 0.25, zipf=0.6)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw how the tables share the footprint and where the heat is."""
        return {
            "index": float(rng.uniform(0.2, 0.7)),
            "energies": float(rng.uniform(0.02, 0.1)),
            "tail": float(rng.uniform(0.05, 0.5)),
            "hot": float(rng.uniform(0.5, 0.95)),
            "build": float(rng.uniform(0.7, 0.9)),
        }
