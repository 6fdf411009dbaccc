"""Habits of a mixture's regions: how each is filled, used and given back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thp_workloads.generator import Stage, part
from thp_workloads.surroundings import PAGE, log_uniform, pages, runs

if TYPE_CHECKING:
    from thp_workloads.mixture import Mixture

MOST_PIECES = 1024
"""Pieces of a region that are freed or filled on their own; a larger region has larger ones."""

HOT_SPOTS = 4
"""Parts of a region that are hot at a time, where its accesses are not spread over all of it."""


class Region:
    """A region and its habits."""

    def __init__(self, s: Stage, g: Mixture, name: str, size: float) -> None:
        """Map it in the present process."""
        self.name, self.length = name, pages(size)
        self.phases_left = 1 + int(s.rng.exponential(g.lifetime))
        self.fill = str(s.rng.choice(["front", "pieces", "use"]))
        self.pattern = str(s.rng.choice(["uniform", "zipf", "stride", "spots"]))
        self.release = str(s.rng.choice(["nothing", "pieces", "all"], p=[0.5, 0.35, 0.15]))
        self.advice = str(s.rng.choice(["dontneed", "free"], p=[0.75, 0.25]))
        self.heat = log_uniform(s.rng, 0.05, 1.0)
        least = -(-self.length // MOST_PIECES)
        self.piece = min(self.length, max(g.piece, 1 << (least - 1).bit_length()))
        self.filling = 1 + int(s.rng.exponential(g.filled))
        self.age = 0
        n = self.length // self.piece
        self.resident = np.zeros(n, bool)
        self.order = np.arange(n)
        if self.fill == "pieces":
            self.order = s.rng.permutation(n)[: max(1, int(n * g.density))]
        self.spots = s.rng.random(HOT_SPOTS)
        s.b.mmap(name, self.length, at="auto")

    @property
    def over(self) -> bool:
        """Whether its lifetime is over."""
        return self.phases_left <= 0

    def phase(self, s: Stage, g: Mixture, share: float) -> None:
        """Fill, use and give back its part."""
        self.phases_left -= 1
        if self.fill == "use":
            self.resident[:] = True
        elif self.age < self.filling:
            first, count = part(len(self.order), self.age, self.filling, 1)
            self._touch(s, np.sort(self.order[first : first + count]))
        self.age += 1
        if self.release == "pieces":
            self._give_back(s, g)
        elif self.release == "all" and s.rng.random() < g.churn / 4:
            s.b.advise(self.name, 0, self.length, self.advice)
            self.resident[:] = False
            self.age = 0
        self._use(s, g, share)

    def put_out(self, s: Stage, advice: str) -> None:
        """Be written to zram, or be the first to go when memory gets short."""
        s.b.advise(self.name, 0, self.length, advice)

    def _touch(self, s: Stage, pieces: np.ndarray) -> None:
        self.resident[pieces] = True
        for a, z in runs(pieces):
            s.b.touch(self.name, a * self.piece, (z - a) * self.piece, content=40)

    def _give_back(self, s: Stage, g: Mixture) -> None:
        """Free some pieces; as many of those that are free come back."""
        there, free = np.flatnonzero(self.resident), np.flatnonzero(~self.resident)
        blocks = s.rng.choice(there, s.rng.binomial(len(there), g.churn), replace=False)
        for a, z in runs(np.sort(blocks)):
            s.b.advise(self.name, a * self.piece, (z - a) * self.piece, self.advice)
        self.resident[blocks] = False
        if self.age >= self.filling and len(free):
            self._touch(s, np.sort(s.rng.choice(free, min(len(free), len(blocks)), replace=False)))

    def _use(self, s: Stage, g: Mixture, share: float) -> None:
        """Access what is there."""
        there = runs(np.flatnonzero(self.resident))
        if not there:
            s.idle(share)
            return
        if self.pattern == "spots":
            if s.rng.random() < 0.1:
                self.spots[int(s.rng.integers(HOT_SPOTS))] = s.rng.random()
            there = [there[int(spot * len(there))] for spot in self.spots]
        elif len(there) > HOT_SPOTS:
            there = [there[int(k)] for k in np.sort(s.rng.integers(len(there), size=HOT_SPOTS))]
        pattern = "gauss" if self.pattern == "spots" else self.pattern
        total = sum(z - a for a, z in there)
        for a, z in there:
            s.use(self.name, a * self.piece, (z - a) * self.piece, pattern, share * (z - a) / total, write=g.writes,
                  content=40, zipf=0.9 if pattern == "zipf" else None, stride=PAGE, sigma=0.1)  # fmt: skip
