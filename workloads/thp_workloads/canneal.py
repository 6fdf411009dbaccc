"""canneal: simulated annealing chases pointers over a netlist of small objects in the heap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import MIB, PAGE, pages


@dataclass(frozen=True, kw_only=True)
class Canneal(Generator):
    """PARSEC's canneal: a netlist is read into small objects of the heap; then pairs of them are swapped.

    The heap grows by brk, a little more than glibc's M_TOP_PAD at a time. A folio of 2M never fits between the last
    page and the end of such a heap, so only smaller ones are there when the annealing begins.

    Attributes:
        step: bytes by which the heap grows.
        load: share of the run in which the netlist is read.
        swaps: share of accesses that write.
        locality: share of accesses near others, as the temperature falls.
        table: share of the footprint in the table of locations, an array that is filled at random.
    """

    name = "canneal"
    family = "PARSEC"
    summary = "pointer chasing and swaps over a heap of small objects"
    sources = (
        "PARSEC canneal; glibc: the heap grows by M_TOP_PAD (128K) and what was asked. DAMON's evaluation: always-on "
        "2M folios save 16 % of the run time at 2 % less memory."
    )
    claims = (
        Claim(
            "DAMON's evaluation: 16 % less time with 2M",
            "time_ms", "never", "2M", 1.1, 2.2,
        ),
        Claim(
            "DAMON's evaluation: 2.35 % less memory with 2M",
            "resident_mib", "2M", "never", 0.9, 1.02,
        ),
    )
    pace = (4, 30)  # each access goes to another page: a miss of the cache, several at a time

    step: int = number(132 * 1024, PAGE, 64 * MIB)
    load: float = number(0.7, 0.05, 0.95)
    swaps: float = number(0.3, 0, 1)
    locality: float = number(0.3, 0, 1)
    table: float = number(0.2, 0.01, 0.9)

    def compose(self, s: Stage) -> None:
        """Read the netlist, then anneal."""
        table = pages(self.footprint * self.table)
        heap = max(PAGE, pages(self.footprint - table))
        s.b.mmap("locations", table, at="auto")
        loading = max(1, round(self.phases * self.load))
        size = written = 0
        for i in s.phases(loading):
            offset, length = part(heap, i, loading)
            while size < offset + length:
                size = min(heap, size + pages(self.step))
                s.b.brk("heap", size)
                if size > written:
                    s.b.touch("heap", written, min(size, offset + length) - written, content=35)
                    written = min(size, offset + length)
            if size > written and written < offset + length:
                s.b.touch("heap", written, offset + length - written, content=35)
                written = offset + length
            s.use("locations", 0, table, "uniform", 0.1, write=1.0, content=35)
            if written:
                s.use("heap", 0, written, "uniform", 0.4, write=0.1, content=35)
            s.idle(0.5)
        for i in s.phases(max(1, self.phases - s.at)):
            near = self.locality * min(1.0, i / max(1, self.phases - loading))
            s.use("heap", 0, heap, "chase", 0.7 * (1 - near), write=self.swaps, content=35)
            s.use("heap", 0, heap, "gauss", 0.7 * near, write=self.swaps, sigma=0.05, content=35)
            s.use("locations", 0, table, "uniform", 0.3, write=self.swaps, content=35)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw how the heap grows and how the swaps are spread."""
        return {
            "step": PAGE * int(rng.integers(16, 80)),
            "load": float(rng.uniform(0.5, 0.85)),
            "swaps": float(rng.uniform(0.1, 0.5)),
            "locality": float(rng.uniform(0.0, 0.6)),
            "table": float(rng.uniform(0.05, 0.4)),
        }
