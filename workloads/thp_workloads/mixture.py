"""mixture: no program in particular; how each of its regions is filled, used and freed is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Generator, Stage, number, part
from thp_workloads.surroundings import MIB, PAGE, log_uniform, pages, runs

MOST_PIECES = 1024
"""Pieces of a region that are freed or filled on their own; a larger region has larger ones."""

HOT_SPOTS = 4
"""Parts of a region that are hot at a time, where its accesses are not spread over all of it."""


@dataclass(frozen=True, kw_only=True)
class Mixture(Generator):
    """Regions that come and go, each with habits of its own, for training that should not rest on a few programs.

    A region is filled from the start, in scattered pieces, or by whatever first uses it. It is used evenly, by rank,
    front to back, or at a few spots that drift. Some of it, all of it or nothing is given back now and then, and after
    a lifetime it is unmapped. Children are forked that write to what they share, or live while their parent does.

    Attributes:
        regions: mapped at a time.
        spread: largest region over smallest one; sizes are log-uniform.
        lifetime: phases that a region lives, on average.
        filled: phases that it is filled for, on average.
        density: share of the pieces that a region filled in pieces ever has.
        piece: bytes of a piece.
        churn: share of a region's pieces that is given back in a phase, of those that give pieces back.
        forks: children a phase.
        shared: share of what is mapped that a child writes, or its parent while it lives.
        writes: share of accesses that write.
    """

    name = "mixture"
    family = "mixture"
    summary = "regions with drawn habits of filling, use and release; no program in particular"
    sources = (
        "Domain randomisation (Tobin et al., 2017). The ranges span those of the other generators; no figure is taken "
        "from a program."
    )
    claims = ()
    pace = (5, 600)

    regions: int = number(6, 1, 256)
    spread: float = number(16.0, 1, 4096)
    lifetime: float = number(60.0, 1, 1 << 20)
    filled: float = number(12.0, 1, 1 << 20)
    density: float = number(0.6, 0.01, 1)
    piece: int = number(4 * PAGE, PAGE, 64 * MIB)
    churn: float = number(0.05, 0, 1)
    forks: float = number(0.02, 0, 4)
    shared: float = number(0.1, 0, 1)
    writes: float = number(0.3, 0, 1)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return 1.0

    def compose(self, s: Stage) -> None:
        """Let every region have its phase, and children their time."""
        fair = self.footprint * 0.85 / self.regions
        slots: list[_Region | None] = [None] * self.regions
        children: list[tuple[str, int]] = []
        made = forked = 0
        for i in s.phases(self.phases):
            for k, region in enumerate(slots):
                if region is None or region.over:
                    if region:
                        s.b.munmap(region.name, 0, region.length)
                    size = fair * self.spread ** s.rng.uniform(-0.5, 0.5)
                    slots[k] = _Region(s, self, f"region{made}", min(size, 2 * fair))
                    made += 1
            there = [region for region in slots if region]
            weight = np.array([region.heat for region in there])
            for region, share in zip(there, weight / weight.sum(), strict=True):
                region.phase(s, self, float(share))
            for name, _ in [c for c in children if c[1] <= i]:
                s.b.exit(name)
            children = [c for c in children if c[1] > i]
            if s.rng.random() < self.forks and len(children) < 4:
                children.append((f"child{forked}", i + 1 + int(s.rng.exponential(4))))
                self._fork(s, f"child{forked}", there)
                forked += 1
        for name, _ in children:
            s.b.exit(name)

    def _fork(self, s: Stage, name: str, regions: list[_Region]) -> None:
        """Fork a child; it or its parent writes some of what both have then."""
        s.b.slice("P")
        s.b.fork(name)
        if s.rng.random() < 0.5:
            s.b.slice(name)
        region = regions[int(s.rng.integers(len(regions)))]
        length = min(region.length, pages(self.shared * self.footprint))
        offset = PAGE * int(s.rng.integers((region.length - length) // PAGE + 1))
        if s.rng.random() < 0.5:
            s.b.touch(region.name, offset, length, content=s.compressible())
        else:
            s.use(region.name, offset, length, "uniform", 0.2, write=1.0)
        s.b.slice("P")

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the regions' habits."""
        return {
            "regions": int(log_uniform(rng, 1, 13)),
            "spread": log_uniform(rng, 1, 200),
            "lifetime": log_uniform(rng, 12, 600),
            "filled": log_uniform(rng, 1, 200),
            "density": log_uniform(rng, 0.05, 1.0),
            "piece": PAGE << int(rng.integers(0, 7)),
            "churn": log_uniform(rng, 0.005, 0.3),
            "forks": log_uniform(rng, 0.02, 0.5) if rng.random() < 0.4 else 0.0,
            "shared": log_uniform(rng, 0.005, 0.2),
            "writes": float(rng.uniform(0.0, 0.7)),
        }


class _Region:
    """A region and its habits."""

    def __init__(self, s: Stage, g: Mixture, name: str, size: float) -> None:
        self.name, self.length = name, pages(size)
        self.left = 1 + int(s.rng.exponential(g.lifetime))
        self.fill = str(s.rng.choice(["front", "pieces", "use"]))
        self.pattern = str(s.rng.choice(["uniform", "zipf", "stride", "spots"]))
        self.gives = str(s.rng.choice(["nothing", "pieces", "all"], p=[0.5, 0.35, 0.15]))
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
        s.b.slice("P")
        s.b.mmap(name, self.length, at="auto")

    @property
    def over(self) -> bool:
        """Whether it has lived its life."""
        return self.left <= 0

    def phase(self, s: Stage, g: Mixture, share: float) -> None:
        """Fill, use and give back its part."""
        self.left -= 1
        if self.fill == "use":
            self.resident[:] = True
        elif self.age < self.filling:
            first, count = part(len(self.order), self.age, self.filling, 1)
            self._touch(s, np.sort(self.order[first : first + count]))
        self.age += 1
        if self.gives == "pieces":
            self._give_back(s, g)
        elif self.gives == "all" and s.rng.random() < g.churn / 4:
            s.b.advise(self.name, 0, self.length, "dontneed")
            self.resident[:] = False
            self.age = 0
        self._use(s, g, share)

    def _touch(self, s: Stage, pieces: np.ndarray) -> None:
        self.resident[pieces] = True
        for a, z in runs(pieces):
            s.b.touch(self.name, a * self.piece, (z - a) * self.piece, content=40)

    def _give_back(self, s: Stage, g: Mixture) -> None:
        """Free some pieces; as many of those that are free come back."""
        there, free = np.flatnonzero(self.resident), np.flatnonzero(~self.resident)
        gone = s.rng.choice(there, s.rng.binomial(len(there), g.churn), replace=False)
        for a, z in runs(np.sort(gone)):
            s.b.advise(self.name, a * self.piece, (z - a) * self.piece, "dontneed")
        self.resident[gone] = False
        if self.age >= self.filling and len(free):
            self._touch(s, np.sort(s.rng.choice(free, min(len(free), len(gone)), replace=False)))

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
            there = [there[int(k)] for k in np.sort(s.rng.integers(len(there), size=4 * HOT_SPOTS))]
        pattern = "gauss" if self.pattern == "spots" else self.pattern
        total = sum(z - a for a, z in there)
        for a, z in there:
            s.use(self.name, a * self.piece, (z - a) * self.piece, pattern, share * (z - a) / total, write=g.writes,
                  content=40, zipf=0.9 if pattern == "zipf" else None, stride=PAGE, sigma=0.1)  # fmt: skip
