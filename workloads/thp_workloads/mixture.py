"""mixture: no program in particular; how each of its regions is filled, used and freed is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Generator, Stage, number
from thp_workloads.habits import Region
from thp_workloads.surroundings import MIB, PAGE, log_uniform, pages


@dataclass(frozen=True, kw_only=True)
class Mixture(Generator):
    """Regions that are mapped and unmapped, each with its own habits, for training on more than a few programs.

    A region is filled from the start, in scattered pieces, or by its first use. It is used evenly, by rank, front to
    back, or at a few spots that move. From time to time a part of it, all of it or nothing is given back, and after its
    lifetime it is unmapped. Forked children write to shared memory, or their parent does. There may be many processes,
    of which some sleep and are swapped out.

    Attributes:
        regions: mapped at a time.
        spread: largest region over smallest one; sizes are log-uniform.
        lifetime: phases that a region lives, on average.
        filled: phases in which it is filled, on average.
        density: largest share of filled pieces, in a region that is filled in pieces.
        piece: bytes of a piece.
        churn: share of a region's pieces that is given back in a phase, in regions that give pieces back.
        forks: children in a phase.
        shared: share of mapped memory that a child writes, or its parent during the child's life.
        writes: share of accesses that write.
        processes: that live at a time, each forked from the first and with its share of the regions.
        asleep: share of the processes that sleep in a phase.
        put_out: share of newly sleeping processes whose memory is paged out or marked cold.
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
    processes: int = number(1, 1, 64)
    asleep: float = number(0.0, 0, 1)
    put_out: float = number(0.0, 0, 1)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return 1.0

    def compose(self, s: Stage) -> None:
        """Let every process that is awake have its phase, and children their time."""
        first = _Process(s, self, "P")
        crowd, children = [first], list[tuple[str, int]]()
        fork_count = 0
        for i in s.phases(self.phases):
            s.b.slice("P")
            for process in [p for p in crowd[1:] if p.over]:
                s.b.exit(process.name)
                crowd.remove(process)
            while len(crowd) < self.processes:
                s.b.fork(f"process{fork_count}")
                crowd.append(_Process(s, self, f"process{fork_count}"))
                fork_count += 1
            awake = [p for p in crowd if p.wakes(s, self)] or [first]
            there = [(p.name, region) for p in awake for region in p.renewed(s, self)]
            weight = np.array([region.heat for _, region in there])
            for (name, region), share in zip(there, weight / weight.sum(), strict=True):
                s.b.slice(name)
                region.phase(s, self, float(share))
            s.b.slice("P")
            for name, _ in [c for c in children if c[1] <= i]:
                s.b.exit(name)
            children = [c for c in children if c[1] > i]
            if s.rng.random() < self.forks and len(children) < 4:
                children.append((f"child{fork_count}", i + 1 + int(s.rng.exponential(4))))
                self._fork(s, f"child{fork_count}", first.regions)
                fork_count += 1
        s.b.slice("P")
        for name in [p.name for p in crowd[1:]] + [name for name, _ in children]:
            s.b.exit(name)

    def _fork(self, s: Stage, name: str, regions: list[Region]) -> None:
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
            "regions": int(log_uniform(rng, 1, 33)),
            "spread": log_uniform(rng, 1, 200),
            "lifetime": log_uniform(rng, 3, 600),
            "filled": log_uniform(rng, 1, 200),
            "density": log_uniform(rng, 0.05, 1.0),
            "piece": PAGE << int(rng.integers(0, 7)),
            "churn": log_uniform(rng, 0.005, 0.3),
            "forks": log_uniform(rng, 0.02, 0.5) if rng.random() < 0.4 else 0.0,
            "shared": log_uniform(rng, 0.005, 0.2),
            "writes": float(rng.uniform(0.0, 0.7)),
            "processes": int(log_uniform(rng, 2, 13)) if rng.random() < 0.4 else 1,
            "asleep": float(rng.uniform(0.0, 0.9)),
            "put_out": float(rng.uniform(0.0, 0.5)),
        }


class _Process:
    """A process and its share of the regions."""

    def __init__(self, s: Stage, g: Mixture, name: str) -> None:
        """Begin in the next process; the first one lives as long as the run."""
        self.name, self.region_count, self.asleep = name, 0, False
        self.phases_left = 1 + int(s.rng.exponential(g.lifetime))
        self.regions: list[Region] = []
        self.slots = -(-g.regions // g.processes)

    @property
    def over(self) -> bool:
        """Whether its lifetime is over."""
        return self.phases_left <= 0

    def wakes(self, s: Stage, g: Mixture) -> bool:
        """Live for a phase; return whether the process is awake. One that goes to sleep may be swapped out first."""
        self.phases_left -= 1
        slept, self.asleep = self.asleep, bool(self.regions) and g.processes > 1 and s.rng.random() < g.asleep
        if self.asleep and not slept and s.rng.random() < g.put_out:
            s.b.slice(self.name)
            advice = str(s.rng.choice(["pageout", "cold"]))
            for region in self.regions:
                region.put_out(s, advice)
        return not self.asleep

    def renewed(self, s: Stage, g: Mixture) -> list[Region]:
        """Return its regions; new ones replace those whose lifetime is over."""
        s.b.slice(self.name)
        fair = g.footprint * 0.85 / (self.slots * g.processes)
        for k in range(self.slots):
            if k < len(self.regions) and not self.regions[k].over:
                continue
            if k < len(self.regions):
                s.b.munmap(self.regions[k].name, 0, self.regions[k].length)
            size = min(2 * fair, fair * g.spread ** s.rng.uniform(-0.5, 0.5))
            name = f"{self.name}.region{self.region_count}" if g.processes > 1 else f"region{self.region_count}"
            self.regions[k : k + 1] = [Region(s, g, name, size)]
            self.region_count += 1
        return self.regions
