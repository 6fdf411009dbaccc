"""js_heap: a browser's renderer: V8's 256K pages, scavenges, promotion, code, and PartitionAlloc beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import PAGE, runs

HEAP_PAGE = 256 * 1024
"""Bytes of a page of V8's heap."""
PARTITION_PAGE = 16 * 1024
"""Bytes of PartitionAlloc's unit: what it takes and gives back."""


@dataclass(frozen=True, kw_only=True)
class JsHeap(Generator):
    """A JavaScript engine in a browser: memory comes in pieces of 16K to 256K and goes in pieces of 4K and 16K.

    Young objects fill semi-spaces, each page of 256K inside a reservation; a scavenge copies what lives into the
    other and promotes what has lived twice. Marking the old space frees pages that are empty and gives back the free
    4K pages of those that are not. PartitionAlloc beside it (strings, the DOM) takes spans of 16K to 64K and gives
    them back when they are empty.

    Attributes:
        young: share of the footprint in the two semi-spaces.
        partitions: share of the footprint in PartitionAlloc.
        code: share in code pages, each written once.
        scavenge: phases between two scavenges.
        promotion: share of the old space that a scavenge adds.
        mark: scavenges between two markings of the old space.
        dead: share of the old objects that a marking frees.
        churn: share of PartitionAlloc's spans that come and go in a phase.
    """

    name = "js_heap"
    family = "browser"
    summary = "a JavaScript heap of 256K pages, scavenged and marked, beside an allocator of 16K spans"
    sources = (
        "V8: pages of 256K, free 4K pages of old pages are discarded; PartitionAlloc: spans of 16K. Ryan Roberts: "
        "Speedometer gains 1.5 to 5 % with 16K+32K+64K, a little more than with 64K alone."
    )
    claims = (
        Claim(
            "Ryan Roberts, mTHP v4: Speedometer 1.5 % faster with 16K+32K+64K",
            "time_ms", "never", "16K+32K+64K", 1.005, 1.06,
        ),
        Claim(
            "Ryan Roberts, 2023: Speedometer a little better with 64K+32K+16K than with 64K alone",
            "time_ms", "64K", "16K+32K+64K", 1.0005, 1.02,
        ),
        Claim(
            "... which is not paid for with memory: no more than a tenth above 64K alone",
            "resident_mib", "16K+32K+64K", "64K", 0.9, 1.1,
        ),
    )
    pace = (60, 600)
    time_scale = 0.2

    young: float = number(0.2, 0.02, 0.6)
    partitions: float = number(0.3, 0.02, 0.6)
    code: float = number(0.05, 0.005, 0.2)
    scavenge: int = number(2, 1, 1000)
    promotion: float = number(0.04, 0.001, 1)
    mark: int = number(8, 1, 1000)
    dead: float = number(0.4, 0, 1)
    churn: float = number(0.05, 0, 1)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return 0.85

    def compose(self, s: Stage) -> None:
        """Allocate, scavenge, mark, phase by phase."""
        half = max(1, int(self.footprint * self.young) // 2 // HEAP_PAGE) * HEAP_PAGE
        spans = max(8, int(self.footprint * self.partitions) // PARTITION_PAGE)
        code = max(1, int(self.footprint * self.code) // HEAP_PAGE)
        old_space = self.footprint - 2 * half - spans * PARTITION_PAGE - code * HEAP_PAGE
        old = max(1, old_space // HEAP_PAGE)
        s.b.mmap("code", code * HEAP_PAGE, at="auto", prot="none")
        s.b.mmap("old", old * HEAP_PAGE, at="auto", prot="none")
        s.b.mmap("guard0", PAGE, at="auto", prot="none")  # both allocators put guard pages around what they reserve
        s.b.mmap("from", half, at="auto")
        s.b.mmap("to", half, at="auto")
        s.b.mmap("guard1", PAGE, at="auto", prot="none")
        s.b.mmap("partitions", spans * PARTITION_PAGE, at="auto")
        space = _OldSpace(old)
        live = np.zeros(spans, bool)
        codes = 0
        for i in s.phases(self.phases):
            now = ("from", "to")[i // self.scavenge % 2]
            step, parts = i % self.scavenge, self.scavenge
            offset, length = part(half, step, parts)
            if length:
                s.b.touch(now, offset, length, content=40)
                s.use(now, offset, length, "uniform", 0.35, write=0.5, content=40)
            if step == parts - 1:  # the other half is empty now, and some of it goes back
                if s.rng.random() < 0.3:
                    s.b.advise(now, half // 2 // PAGE * PAGE, half - half // 2 // PAGE * PAGE, "dontneed")
                space.promote(s, self.promotion)
                if i // self.scavenge % self.mark == self.mark - 1:
                    space.mark(s, self.dead)
            if codes < code and i % max(1, self.phases // code) == 0:
                s.b.mprotect("code", codes * HEAP_PAGE, HEAP_PAGE, "rw")
                s.b.touch("code", codes * HEAP_PAGE, HEAP_PAGE // 2, content=60)
                codes += 1
            self._partition(s, live)
            space.use(s, 0.3)
            s.use("code", 0, HEAP_PAGE // 2, "zipf", 0.1, zipf=1.1)

    def _partition(self, s: Stage, live: np.ndarray) -> None:
        """Take and give back spans of 16K to 64K, and use some."""
        n = len(live)
        target = int(n * s.rng.uniform(0.5, 0.95))
        for _ in range(max(1, int(n * self.churn / 2))):
            at, size = int(s.rng.integers(n)), 1 << int(s.rng.integers(0, 3))
            at, end = at // size * size, min(n, at // size * size + size)
            if live[at:end].all() and live.sum() > target // 2:
                live[at:end] = False
                s.b.advise("partitions", at * PARTITION_PAGE, (end - at) * PARTITION_PAGE, "dontneed")
            elif not live[at:end].any() and live.sum() < target:
                live[at:end] = True
                s.b.touch("partitions", at * PARTITION_PAGE, (end - at) * PARTITION_PAGE, content=40)
        there = sorted(runs(np.flatnonzero(live)), key=lambda r: r[0] - r[1])[:8]
        total = sum(z - a for a, z in there)
        for a, z in there:
            s.use("partitions", a * PARTITION_PAGE, (z - a) * PARTITION_PAGE, "uniform", 0.25 * (z - a) / total,
                  write=0.4, content=40)  # fmt: skip

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw how the spaces share the heap and how long objects live."""
        return {
            "young": float(rng.uniform(0.05, 0.4)),
            "partitions": float(rng.uniform(0.1, 0.45)),
            "code": float(rng.uniform(0.02, 0.1)),
            "scavenge": int(rng.integers(1, 5)),
            "promotion": float(rng.uniform(0.02, 0.1)),
            "mark": int(rng.integers(4, 17)),
            "dead": float(rng.uniform(0.2, 0.7)),
            "churn": float(rng.uniform(0.02, 0.15)),
        }


class _OldSpace:
    """The old space: which 4K pages of which heap pages are live."""

    def __init__(self, heap_pages: int) -> None:
        self.live = np.zeros((heap_pages, HEAP_PAGE // PAGE), bool)
        self.committed = np.zeros(heap_pages, bool)

    def promote(self, s: Stage, share: float) -> None:
        """Commit heap pages that are not yet, and fill them; an old page with holes is filled first."""
        for _ in range(max(1, int(len(self.live) * share))):
            holes = np.flatnonzero(self.committed & (self.live.mean(axis=1) < 0.5))
            fresh = np.flatnonzero(~self.committed)
            if len(fresh) and (len(holes) == 0 or s.rng.random() < 0.7):
                k = int(fresh[0])
                s.b.mprotect("old", k * HEAP_PAGE, HEAP_PAGE, "rw")
                self.committed[k] = True
            elif len(holes):
                k = int(s.rng.choice(holes))
            else:
                return
            for a, z in runs(np.flatnonzero(~self.live[k])):
                s.b.touch("old", k * HEAP_PAGE + a * PAGE, (z - a) * PAGE, content=40)
            self.live[k] = True

    def mark(self, s: Stage, dead: float) -> None:
        """Free a share of the objects: some heap pages go whole, of others the empty 4K pages."""
        for k in np.flatnonzero(self.committed).tolist():
            if s.rng.random() < dead / 3:
                garbage = self.live[k].copy()
            else:
                garbage = self.live[k] & (s.rng.random(self.live.shape[1]) < dead / 2)
            self.live[k] &= ~garbage
            for a, z in runs(np.flatnonzero(garbage)):
                s.b.advise("old", k * HEAP_PAGE + a * PAGE, (z - a) * PAGE, "dontneed")

    def use(self, s: Stage, share: float) -> None:
        """Use the fullest heap pages."""
        full = np.flatnonzero(self.live.all(axis=1))
        if len(full) == 0:
            s.idle(share)
            return
        pages = full[s.rng.integers(len(full), size=min(8, len(full)))].tolist()
        for k in pages:
            s.use("old", k * HEAP_PAGE, HEAP_PAGE, "uniform", share / len(pages), write=0.2, content=40)
