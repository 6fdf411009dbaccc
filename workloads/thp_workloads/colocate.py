"""colocate: a JVM, inference on a large model, a database and batch jobs on one machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number
from thp_workloads.surroundings import MIB, PAGE, pages

TENANTS = ("jvm", "inference", "database", "batch")
"""The processes, in the order in which they get the CPU."""
POOL_PAGE = 16 * 1024
"""Bytes of a page of the database (InnoDB: 16K)."""


@dataclass(frozen=True, kw_only=True)
class Colocate(Generator):
    """Four tenants of one machine share its memory, its contiguous memory and its CPU.

    The JVM (G1) fills its young regions and gives some of them back; inference scans weights from end to end and
    grows a cache for each request; the database fills a pool of pages at random and looks up in it; batch jobs map,
    write once, read once and unmap. What suits one wastes what another needs.

    Attributes:
        jvm: share of the footprint of the JVM's heap.
        weights: share of the model's weights.
        cache: share of the caches of requests.
        pool: share of the database's pool; batch jobs take the rest.
        region: bytes of a G1 region, 1 to 32 MiB, but at most an eighth of the heap.
        survive: share of the JVM's young regions that survive a collection.
        requests: inference requests at a time.
        skew: Zipf exponent of the database's lookups.
    """

    name = "colocate"
    family = "data centre"
    summary = "a JVM, inference, a database and batch jobs share one machine"
    sources = (
        "Usama Arif (2025): mixed fleets in which databases run out of memory at a slight increase. G1: regions of 1 "
        "to 32 MB. Johannes Weiner (2023): a third of 2M blocks hold something unmovable."
    )
    claims = (
        Claim(
            "Usama Arif, Meta: 7.7 % more memory with 2M always",
            "resident_mib", "2M", "never", 1.01, 1.2,
        ),
        Claim(
            "Usama Arif, Meta: 1.8 % faster with 2M always",
            "time_ms", "never", "2M", 1.005, 1.2,
        ),
    )
    pace = (40, 400)

    jvm: float = number(0.3, 0.02, 0.7)
    weights: float = number(0.2, 0.02, 0.7)
    cache: float = number(0.15, 0.01, 0.5)
    pool: float = number(0.25, 0.02, 0.7)
    region: int = number(MIB, MIB, 32 * MIB)
    survive: float = number(0.3, 0, 1)
    requests: int = number(4, 1, 256)
    skew: float = number(0.8, 0, 3)

    def compose(self, s: Stage) -> None:
        """Let each tenant run in every phase."""
        total = self.jvm + self.weights + self.cache + self.pool + 0.1
        parts = ("jvm", "weights", "cache", "pool")
        size = {name: pages(self.footprint * getattr(self, name) / total) for name in parts}
        for name in TENANTS:
            s.b.slice("P")
            s.b.fork(name)
        jvm, inference = _Jvm(s, self, size["jvm"]), _Inference(s, self, size["weights"], size["cache"])
        database = _Database(s, size["pool"])
        batch = pages(self.footprint * 0.1 / total)
        for i in s.phases(self.phases):
            tenant = TENANTS[i % len(TENANTS)]
            s.b.slice(tenant)
            if tenant == "jvm":
                jvm.phase(s, self)
            elif tenant == "inference":
                inference.phase(s, self)
            elif tenant == "database":
                database.phase(s, self, i)
            else:
                s.b.mmap(f"batch{i}", batch, at="auto")
                s.b.touch(f"batch{i}", 0, batch, content=50)
                s.use(f"batch{i}", 0, batch, "stride", 1.0, stride=PAGE)
                s.b.munmap(f"batch{i}", 0, batch)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the tenants' shares and habits."""
        return {
            "jvm": float(rng.uniform(0.1, 0.5)),
            "weights": float(rng.uniform(0.05, 0.5)),
            "cache": float(rng.uniform(0.05, 0.3)),
            "pool": float(rng.uniform(0.1, 0.5)),
            "region": MIB << int(rng.integers(0, 3)),
            "survive": float(rng.uniform(0.1, 0.6)),
            "requests": int(rng.integers(1, 9)),
            "skew": float(rng.uniform(0.4, 1.1)),
        }


class _Jvm:
    """A heap of G1 regions: young ones fill, a collection copies what lives and gives some back."""

    def __init__(self, s: Stage, g: Colocate, size: int) -> None:
        self.region = min(g.region, pages(size / 8))
        self.regions = max(4, size // self.region)
        self.live = np.zeros(self.regions, bool)
        s.b.slice("jvm")
        s.b.mmap("java", self.regions * self.region, at="auto")

    def phase(self, s: Stage, g: Colocate) -> None:
        """Fill young regions; collect when most are taken."""
        free = np.flatnonzero(~self.live)
        for k in free[: max(1, self.regions // 8)]:
            s.b.touch("java", int(k) * self.region, self.region, content=35)
            self.live[k] = True
        if self.live.mean() > 0.85:
            for k in np.flatnonzero(self.live):
                if s.rng.random() > g.survive:
                    self.live[k] = False
                    if s.rng.random() < 0.5:
                        s.b.advise("java", int(k) * self.region, self.region, "dontneed")
        objects = np.flatnonzero(self.live)
        for k in (objects := objects[s.rng.integers(len(objects), size=min(6, len(objects)))].tolist()):
            s.use("java", k * self.region, self.region, "zipf", 1 / len(objects), zipf=0.6, write=0.4, content=35)


class _Inference:
    """A model: weights that are scanned, and a cache of keys and values that grows with every token."""

    def __init__(self, s: Stage, g: Colocate, weights: int, cache: int) -> None:
        self.weights, self.cache_size = weights, max(16 * PAGE, pages(cache / g.requests))
        self.requests: list[list[int]] = []  # number, bytes filled, bytes it will have
        self.request_count = self.loaded_bytes = 0
        s.b.slice("inference")
        s.b.mmap("weights", weights, at="auto")

    def phase(self, s: Stage, g: Colocate) -> None:
        """Load weights, scan them, and add tokens to some requests."""
        if self.loaded_bytes < self.weights:
            step = min(self.weights - self.loaded_bytes, pages(self.weights / max(1, g.phases // 8)))
            s.b.touch("weights", self.loaded_bytes, step, content=95)
            self.loaded_bytes += step
        s.use("weights", 0, self.loaded_bytes, "stride", 0.7, stride=PAGE)
        if len(self.requests) < g.requests:
            name = f"kv{self.request_count}"
            s.b.mmap(name, self.cache_size, at="auto")
            self.requests.append([self.request_count, 0, pages(self.cache_size * s.rng.uniform(0.1, 1.0))])
            self.request_count += 1
        for request in self.requests[:2]:
            k, filled, length = request
            step = min(length - filled, pages(self.cache_size / 6))
            s.b.touch(f"kv{k}", filled, step, content=90)
            request[1] += step
            self.requests.append(self.requests.pop(0))
            s.use(f"kv{k}", 0, request[1], "uniform", 0.15, content=90)
            if request[1] == length:
                s.b.munmap(f"kv{k}", 0, self.cache_size)
                self.requests.remove(request)


class _Database:
    """A pool of pages of 16K that fills at random, and a sort buffer for each query."""

    def __init__(self, s: Stage, pool: int) -> None:
        s.b.slice("database")
        s.b.mmap("pool", pool, at="auto")
        self.order = s.rng.permutation(pool // POOL_PAGE)
        self.page_count = 0

    def phase(self, s: Stage, g: Colocate, i: int) -> None:
        """Read pages into the pool, look up in it, and sort."""
        count = -(-len(self.order) * len(TENANTS) // g.phases)
        for at in np.sort(self.order[self.page_count : self.page_count + count]).tolist():
            s.b.touch("pool", at * POOL_PAGE, POOL_PAGE, content=60)
        self.page_count = min(len(self.order), self.page_count + count)
        weight = 1 / np.arange(1, 17) ** g.skew
        places = self.order[s.rng.integers(self.page_count, size=16)].tolist()
        for at, w in zip(places, weight / weight.sum(), strict=True):
            s.use("pool", at * POOL_PAGE, POOL_PAGE, "uniform", 0.9 * w, write=0.2)
        work = int(s.rng.integers(16, 257)) * PAGE
        s.b.mmap(f"work{i}", work, at="auto")
        used = pages(work * s.rng.uniform(0.2, 1.0))
        s.b.touch(f"work{i}", 0, used, content=50)
        s.use(f"work{i}", 0, used, "stride", 0.1, stride=PAGE, content=50)
        s.b.munmap(f"work{i}", 0, work)
