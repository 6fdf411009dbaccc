"""memcached: slabs that fill item by item, a hash table that is looked up before it is filled, worker threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import MIB, PAGE, pages

ARENA = 64 * MIB
"""glibc's HEAP_MAX_SIZE: what a thread's arena reserves."""


@dataclass(frozen=True, kw_only=True)
class Memcached(Generator):
    """memcached under a load of gets and sets: memory is allocated slab by slab and never given back.

    The hash table comes from calloc. Before items arrive, there are random lookups: reads of empty buckets map the zero
    page, and then a later write cannot get a large folio. Every worker has a small arena that grows a
    few pages at a time inside a large reservation.

    Attributes:
        classes: slab classes that fill side by side.
        slab: bytes of a slab page, each an mmap of its own (memcached: 1 MiB).
        table: share of the hash table in the footprint.
        workers: threads, each with an arena.
        skew: Zipf exponent of the requests (YCSB: 0.99).
        sets: share of requests that write.
        load: share of the run until memory is full.
    """

    name = "memcached"
    family = "key-value store"
    summary = "slab classes fill slowly under Zipf requests; the hash table is read before it is written"
    sources = (
        "memcached: slab pages of 1 MiB, hash table from calloc; YCSB: Zipf 0.99. Yang Shi (2024): 64K folios on a 4K "
        "kernel gain nothing measurable in memcached."
    )
    claims = (
        Claim(
            "Yang Shi: 64K folios on a 4K kernel, no measurable gain",
            "time_ms", "never", "64K", 0.98, 1.02,
        ),
    )
    pace = (100, 500)

    classes: int = number(6, 1, 64)
    slab: int = number(MIB, 64 * 1024, 64 * MIB)
    table: float = number(0.1, 0.005, 0.5)
    workers: int = number(4, 1, 64)
    skew: float = number(0.99, 0, 3)
    sets: float = number(0.1, 0, 1)
    load: float = number(0.85, 0.05, 1)

    def compose(self, s: Stage) -> None:
        """Fill the slabs of all classes side by side, then serve."""
        table, slab = pages(self.footprint * self.table), pages(self.slab)
        s.b.mmap("hashtable", table, at="auto")
        for w in range(self.workers):
            s.b.mmap(f"arena{w}", ARENA, at="auto", prot="none")
            s.b.mprotect(f"arena{w}", 0, 132 * 1024, "rw")
            s.b.touch(f"arena{w}", 0, 33 * PAGE)
        store = _Slabs(slab, max(1, (self.footprint - table) // slab), self.classes)
        loading = max(1, round(self.phases * self.load))
        shares = s.rng.dirichlet(np.full(self.classes, 2.0))
        for i in s.phases(self.phases):
            if i < loading:
                _, length = part(store.max_slabs * slab, i, loading)
                for c in range(self.classes):
                    store.fill(s, c, pages(length * shares[c]))
            written = 0.3 * self.sets * min(1.0, i / loading)
            s.use("hashtable", 0, table, "uniform", 0.3, write=written, content=60)
            for w in range(self.workers):
                s.use(f"arena{w}", 0, 33 * PAGE, "uniform", 0.05 / self.workers, write=0.5)
            store.serve(s, self, 0.65)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the store's shape and its requests."""
        return {
            "classes": int(rng.integers(2, 13)),
            "slab": MIB >> int(rng.integers(0, 3)),
            "table": float(rng.uniform(0.03, 0.25)),
            "workers": int(rng.integers(1, 9)),
            "skew": float(rng.uniform(0.7, 1.2)),
            "sets": float(rng.uniform(0.02, 0.4)),
            "load": float(rng.uniform(0.6, 1.0)),
        }


class _Slabs:
    """The slabs: which are taken, and the one that each class fills."""

    def __init__(self, slab: int, most: int, classes: int) -> None:
        self.slab, self.max_slabs, self.slab_count = slab, most, 0
        self.full: list[int] = []
        self.open: list[int | None] = [None] * classes
        self.filled = [0] * classes

    def fill(self, s: Stage, c: int, length: int) -> None:
        """Store items of one class."""
        while length > 0:
            k = self.open[c]
            if k is None:
                if self.slab_count == self.max_slabs:
                    return
                k = self.open[c] = self.slab_count
                self.slab_count += 1
                self.filled[c] = 0
                s.b.mmap(f"slab{k}", self.slab, at="auto")
            n = min(length, self.slab - self.filled[c])
            s.b.touch(f"slab{k}", self.filled[c], n, content=s.compressible())
            self.filled[c] += n
            length -= n
            if self.filled[c] == self.slab:
                self.full.append(k)
                self.open[c] = None

    def serve(self, s: Stage, g: Memcached, share: float) -> None:
        """Serve requests from full slabs; each holds keys of all ranks, so skew shows half between slabs."""
        if not self.full:
            s.idle(share)
            return
        sample = [self.full[j] for j in np.unique(np.linspace(0, len(self.full) - 1, 32).astype(int))]
        weight = 1 / np.arange(1, len(sample) + 1) ** (g.skew / 2)
        for k, w in zip(sample, weight / weight.sum(), strict=True):
            s.use(f"slab{k}", 0, self.slab, "zipf", share * w, zipf=g.skew / 2, write=g.sets)
