"""gups: random updates all over one large table, the worst case for a TLB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part


@dataclass(frozen=True, kw_only=True)
class Gups(Generator):
    """HPC Challenge RandomAccess: a table is filled, then updated at random; HPCC repeats this several times.

    All pages are used equally. So large folios waste nothing and save the most; only fragmented free memory prevents
    them.

    Attributes:
        rounds: tables that are filled, updated and unmapped one after another.
        fill: share of a round in which its table is filled.
        writes: share of accesses that write; an update reads and writes.
    """

    name = "gups"
    family = "HPC"
    summary = "uniform random updates over one large table"
    sources = "HPC Challenge RandomAccess: a table of half of memory, updated at random; HPCC runs it in three modes."
    claims = (
        Claim(
            "Elastic Translations: 1.09 times as fast with 2M (read off a figure)",
            "time_ms", "never", "2M", 1.04, 1.35,
        ),
    )
    pace = (10, 80)

    rounds: int = number(3, 1, 1000)
    fill: float = number(0.7, 0, 1)
    writes: float = number(1.0, 0, 1)

    def compose(self, s: Stage) -> None:
        """Write the rounds."""
        for r in range(self.rounds):
            _, phases = part(self.phases, r, self.rounds, 1)
            name, filling = f"table{r}", min(phases, max(1, round(phases * self.fill)))
            s.b.mmap(name, self.footprint, at="auto")
            for i in s.phases(phases):
                if i >= filling:
                    s.use(name, 0, self.footprint, "uniform", 1.0, write=self.writes)
                    continue
                offset, length = part(self.footprint, i, filling)
                if length:
                    s.b.touch(name, offset, length, content=100)
                s.idle(0.5)
                if offset + length:
                    s.use(name, 0, offset + length, "uniform", 0.5, write=self.writes)
            s.b.munmap(name, 0, self.footprint)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw rounds, how long a table takes to fill, and the share of writes."""
        return {
            "rounds": int(rng.integers(1, 5)),
            "fill": float(rng.uniform(0.6, 0.9)),
            "writes": float(rng.uniform(0.5, 1.0)),
        }
