"""redis_delete: a store is filled with small values, most are deleted at random, then large values are inserted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import MIB, PAGE, pages, runs


@dataclass(frozen=True, kw_only=True)
class RedisDelete(Generator):
    """HawkEye's Redis experiment: the cost of large folios after most of their content has been deleted.

    Small values fill the heap. Then a random share of them is deleted, and the allocator gives back the free pages.
    Hardly any large folio loses all of its pages. So with large folios no memory becomes free, and the large values
    that follow need more memory.

    Attributes:
        value: bytes of a small value.
        small: share of small values in the footprint; the other values are large.
        deleted: share of the small values that is deleted.
        large: bytes of a large value, each a mapping of its own.
        skew: Zipf exponent of the requests.
        writes: share of requests that write.
        fill: share of the run in which small values are inserted; deleting takes a third of that, and the large
            values two thirds.
    """

    name = "redis_delete"
    family = "key-value store"
    summary = "most small values are deleted at random before large ones come"
    sources = (
        "HawkEye (ASPLOS 2019): 11 million pairs of 4 KB, 80 % deleted at random, then 17 thousand of 2 MB; 28 GB of "
        "bloat under Linux. jemalloc purges dirty pages with MADV_DONTNEED."
    )
    claims = (
        Claim(
            "HawkEye: 28 GB of bloat beside 45 GB of values with 2M",
            "resident_mib", "2M", "never", 1.1, 2.0,
        ),
    )
    pace = (200, 1000)

    value: int = number(PAGE, PAGE, MIB)
    small: float = number(0.6, 0.05, 0.95)
    deleted: float = number(0.8, 0, 1)
    large: int = number(2 * MIB, 64 * 1024, 64 * MIB)
    skew: float = number(0.9, 0, 3)
    writes: float = number(0.1, 0, 1)
    fill: float = number(0.45, 0.01, 0.5)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return max(self.small, self.small * (1 - self.deleted) + 1 - self.small)

    def compose(self, s: Stage) -> None:
        """Insert, delete, insert larger ones; requests all the while."""
        value = pages(self.value)
        number_of = max(1, int(self.footprint * self.small) // value)
        heap = number_of * value
        s.b.mmap("heap", heap, at="auto")
        filling = max(1, round(self.phases * self.fill))
        for i in s.phases(filling):
            offset, length = part(heap, i, filling)
            if length:
                s.b.touch("heap", offset, length, content=s.compressible())
            if offset + length:
                s.use("heap", 0, offset + length, "zipf", 1.0, zipf=self.skew, write=self.writes)
        alive = np.ones(number_of, bool)
        order = s.rng.permutation(number_of)[: int(number_of * self.deleted)]
        for i in s.phases(max(1, filling // 3)):
            first, count = part(len(order), i, max(1, filling // 3), 1)
            keys = np.sort(order[first : first + count])
            alive[keys] = False
            for a, z in runs(keys):
                s.b.advise("heap", a * value, (z - a) * value, "dontneed")
            self._request(s, alive, value, 1.0)
        large = pages(self.large)
        inserts = max(1, (self.footprint - heap) // large)
        inserting = max(1, 2 * filling // 3)
        for i in s.phases(inserting):
            first, count = part(inserts, i, inserting, 1)
            for k in range(first, first + count):
                s.b.mmap(f"large{k}", large, at="auto")
                s.b.touch(f"large{k}", 0, large, content=s.compressible())
            self._request(s, alive, value, 1.0)
        for _ in s.phases(max(1, self.phases - s.at)):
            self._request(s, alive, value, 0.7)
            k = int(s.rng.integers(inserts))
            s.use(f"large{k}", 0, large, "stride", 0.3, stride=PAGE)

    def _request(self, s: Stage, alive: np.ndarray, value: int, share: float) -> None:
        """Ask for values that are there: some of their runs."""
        there = runs(np.flatnonzero(alive))
        if not there:
            s.idle(share)
            return
        sample = s.rng.choice(len(there), min(24, len(there)), replace=False)
        weight = 1 / np.arange(1, len(sample) + 1) ** self.skew
        for k, w in zip(sample, weight / weight.sum(), strict=True):
            a, z = there[k]
            s.use("heap", a * value, (z - a) * value, "uniform", share * w, write=self.writes)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw sizes of values and the deleted share."""
        return {
            "value": PAGE << int(rng.integers(0, 4)),
            "small": float(rng.uniform(0.4, 0.8)),
            "deleted": float(rng.uniform(0.5, 0.95)),
            "large": (1 << int(rng.integers(18, 23))) + PAGE * int(rng.integers(0, 3)),
            "skew": float(rng.uniform(0.6, 1.1)),
            "writes": float(rng.uniform(0.0, 0.3)),
            "fill": float(rng.uniform(0.4, 0.5)),
        }
