"""alloc_purge: an allocator that gives memory back in pieces smaller than a folio, in waves of load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, one_of, part
from thp_workloads.surroundings import PAGE, log_uniform, runs


@dataclass(frozen=True)
class Allocator:
    """How an allocator gives memory back.

    Attributes:
        granule: bytes of the smallest piece that it returns.
        decay: seconds until half of what is free has been returned; 0: at once.
        merge: whether neighbouring free pieces are returned in one call.
        order: which free pieces are returned: "any"; "top": only those above the last one in use; "whole": first those
            in the emptiest 2M.
        source: of these figures.
    """

    granule: int
    decay: float
    merge: bool
    order: str
    source: str


ALLOCATORS = {
    "glibc": Allocator(
        128 * 1024, 0.0, True, "top",
        "M_TRIM_THRESHOLD and M_MMAP_THRESHOLD 128K; the heap is cut at its top only"),
    "jemalloc": Allocator(
        PAGE, 5.0, True, "any",
        "dirty_decay_ms 10,000: dirty runs of pages are purged along a sigmoid, half of them after 5 s"),
    "scudo": Allocator(
        PAGE, 0.5, False, "any",
        "the primary releases single free pages of a region at intervals of a second"),
    "tcmalloc": Allocator(
        2 * PAGE, 2.0, True, "whole",
        "spans of pages of 8K; whole free hugepages go first, then parts of the emptiest (Temeraire, OSDI 2021)"),
}  # fmt: skip
"""Release behaviour of four allocators. Granules, glibc's rule and jemalloc's decay are documented; the intervals of
Scudo and TCMalloc are assumed."""

MOST_PIECES = 6000
"""Pieces of an arena: more would make programs of a hundred thousand calls. A larger arena has larger pieces."""


@dataclass(frozen=True, kw_only=True)
class AllocPurge(Generator):
    """Waves of load on a heap: objects are allocated from the bottom up and freed in runs; freed memory returns later.

    Attributes:
        allocator: one of `ALLOCATORS`.
        waves: waves of load.
        freed: share of the live pieces that is replaced in a wave.
        lifetime: mean length, in bytes, of a run of pieces that are freed together.
        young: share of those runs at the top: recently allocated objects are often freed first.
        skew: Zipf exponent of the accesses.
        writes: share of accesses that write.
    """

    name = "alloc_purge"
    family = "allocators"
    summary = "an allocator returns pieces smaller than a folio, in waves of load"
    sources = "Manuals and sources of glibc, jemalloc, Scudo and TCMalloc, as `ALLOCATORS` says for each."
    pace = (60, 600)
    claims = (
        Claim(
            "Barry Song: freeing in pieces smaller than a folio defeats it: memory stays",
            "resident_mib", "2M", "never", 1.02, 2.0,
        ),
    )

    allocator: str = one_of("jemalloc", tuple(ALLOCATORS))
    waves: int = number(10, 1, 1 << 20)
    freed: float = number(1.0, 0, 100)
    lifetime: float = number(24 * 1024, 1, 1 << 30)
    young: float = number(0.5, 0, 1)
    skew: float = number(0.9, 0, 3)
    writes: float = number(0.4, 0, 1)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return 0.9

    def compose(self, s: Stage) -> None:
        """Swell and shrink, wave after wave."""
        kind = ALLOCATORS[self.allocator]
        size = max(kind.granule, 1 << (max(1, self.footprint // MOST_PIECES) - 1).bit_length())
        n = max(4, self.footprint // size)
        s.b.mmap("heap", n * size, at="auto")
        live, resident = np.zeros(n, bool), np.zeros(n, bool)
        seconds = self.seconds / self.phases
        for w in range(self.waves):
            _, phases = part(self.phases, w, self.waves, 1)
            low, high = s.rng.uniform(0.2, 0.5), s.rng.uniform(0.6, 1.0)
            for i in s.phases(phases):
                height = 1 - abs(2 * (i + 1) / phases - 1)  # 0 to 1 to 0
                target = int(n * (low + (high - low) * height))
                free_count = max(int(live.sum() * self.freed / phases), int(live.sum()) - target)
                self._free(s, live, size, free_count)
                free = np.flatnonzero(~live)[: max(0, target - int(live.sum()))]
                for first, last in runs(free):
                    s.b.touch("heap", first * size, (last - first) * size, content=40)
                live[free] = resident[free] = True
                self._return(s, kind, live, resident, size, seconds)
                self._use(s, live, size)

    def _free(self, s: Stage, live: np.ndarray, size: int, target: int) -> None:
        """Free runs of live pieces until so many are free."""
        for _ in range(4 * len(live)):
            if target <= 0 or not live.any():
                return
            length = 1 + int(s.rng.exponential(self.lifetime / size))
            if s.rng.random() < self.young:
                end = 1 + int(np.flatnonzero(live)[-1])
                run = live[max(0, end - length) : end]
            else:
                start = int(s.rng.integers(len(live)))
                run = live[start : start + length]
            target -= int(run.sum())
            run[:] = False

    def _return(
        self, s: Stage, kind: Allocator, live: np.ndarray, resident: np.ndarray, size: int, seconds: float
    ) -> None:
        """Return to the system what decays in this phase."""
        free = np.flatnonzero(resident & ~live)
        if kind.order == "top":
            used = np.flatnonzero(live)
            free = free[free > (used[-1] if len(used) else -1)]
        share = 1.0 if kind.decay == 0 else 1 - 0.5 ** (seconds / kind.decay)
        count = int(s.rng.binomial(len(free), min(1.0, share)))
        if count == 0:
            return
        if kind.order == "whole":  # the emptiest 2M first
            block = max(1, (2 << 20) // size)
            use = np.add.reduceat(live, np.arange(0, len(live), block))
            back = free[np.argsort(use[free // block], kind="stable")][:count]
        else:
            start = int(s.rng.integers(len(free)))
            back = np.roll(free, -start)[:count]
        back = np.sort(back)
        resident[back] = False
        for first, last in runs(back) if kind.merge else [(int(i), int(i) + 1) for i in back]:
            s.b.advise("heap", first * size, (last - first) * size, "dontneed")

    def _use(self, s: Stage, live: np.ndarray, size: int) -> None:
        """Access live memory: its longest runs, in proportion to their length."""
        longest = sorted(runs(np.flatnonzero(live)), key=lambda r: r[0] - r[1])[:16]
        total = sum(last - first for first, last in longest)
        for first, last in longest:
            s.use("heap", first * size, (last - first) * size, "zipf", (last - first) / total, write=self.writes,
                  zipf=self.skew, content=40)  # fmt: skip

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the allocator and its load."""
        return {
            "allocator": str(rng.choice(list(ALLOCATORS))),
            "waves": int(rng.integers(4, 17)),
            "freed": float(rng.uniform(0.3, 2.0)),
            "lifetime": log_uniform(rng, 4 * 1024, 256 * 1024),
            "young": float(rng.uniform(0.2, 0.8)),
            "skew": float(rng.uniform(0.3, 1.1)),
            "writes": float(rng.uniform(0.0, 0.8)),
        }
