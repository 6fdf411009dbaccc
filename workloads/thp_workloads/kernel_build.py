"""kernel_build: make forks one short compiler process after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import MIB, PAGE, log_uniform, pages

QUIRE = 2 * MIB
"""What GCC's garbage-collected heap asks the kernel for at a time: 512 pages."""


@dataclass(frozen=True, kw_only=True)
class KernelBuild(Generator):
    """A parallel build: every job forks, maps its own small heaps, runs for a moment and exits.

    A job takes 2M pieces for its garbage-collected heap, which it fills from the start and hardly to the end, and a
    malloc heap that grows by brk. Most of its time goes into faults and into tearing it down again.

    Attributes:
        jobs: processes alive at a time (make -j).
        lifetime: phases in which a job has the CPU, on average.
        smallest: share of a job's fair part of the footprint that the smallest heap takes; sizes are log-uniform.
        malloc: share of a job's memory in the malloc heap.
        step: bytes by which the malloc heap grows (glibc: M_TOP_PAD and what was asked).
        skew: Zipf exponent of the accesses.
    """

    name = "kernel_build"
    family = "fork-heavy"
    summary = "many short compiler processes with small heaps, forked and gone"
    sources = (
        "Ryan Roberts, mTHP v4: a kernel build with -j8 takes 4.6 % less time and 38 % less kernel time with "
        "16K+32K+64K. GCC: ggc-page.c takes 512 pages at a time; heaps of 5 to 200 MB a job."
    )
    claims = (
        Claim(
            "Ryan Roberts, mTHP v4: 4.6 % less time with 16K+32K+64K",
            "time_ms", "never", "16K+32K+64K", 1.02, 1.08,
        ),
        Claim(
            "Ryan Roberts, mTHP v4: 38 % less kernel time with 16K+32K+64K",
            "kernel_cost", "16K+32K+64K", "never", 0.4, 0.8,
        ),
    )
    pace = (30, 200)
    time_scale = 0.08

    jobs: int = number(6, 1, 48)
    lifetime: float = number(3.0, 1, 1000)
    smallest: float = number(0.04, 0.001, 1)
    malloc: float = number(0.3, 0.01, 0.95)
    step: int = number(132 * 1024, PAGE, 64 * MIB)
    skew: float = number(0.8, 0, 3)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return 0.4

    def compose(self, s: Stage) -> None:
        """Keep `jobs` processes alive; each phase runs one of them."""
        own = pages(self.footprint * 0.02)
        s.b.mmap("make", own, at="auto")
        s.b.touch("make", 0, own, content=40)
        running: list[_Job] = []
        job_count = 0
        for _ in s.phases(self.phases):
            while len(running) < self.jobs:
                memory = log_uniform(s.rng, self.smallest, 1.0) * self.footprint * 0.95 / self.jobs
                phases = 1 + int(s.rng.exponential(self.lifetime - 1))
                running.append(_Job(s, job_count, memory, self.malloc, phases))
                s.b.munmap("make", 0, own)  # execve: the parent's memory is not the child's
                job_count += 1
            job = running.pop(0)  # it gets the CPU for a phase, then the next one does
            job.phase(s, self)
            running.append(job)
            s.b.slice("P")
            s.use("make", 0, own, "zipf", 0.01, zipf=1.0, write=0.2)
            if job.phases_left == 0:
                s.b.exit(job.process)
                running.remove(job)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the build's width and its jobs."""
        return {
            "jobs": int(rng.integers(2, 13)),
            "lifetime": log_uniform(rng, 1.5, 8),
            "smallest": log_uniform(rng, 0.02, 0.3),
            "malloc": float(rng.uniform(0.1, 0.8)),
            "step": PAGE * int(rng.integers(16, 64)),
            "skew": float(rng.uniform(0.5, 1.1)),
        }


class _Job:
    """One compiler process."""

    def __init__(self, s: Stage, number: int, memory: float, malloc: float, phases: int) -> None:
        self.process = f"cc{number}"
        self.phases = self.phases_left = phases
        self.heap, self.gc = pages(memory * malloc), pages(memory * (1 - malloc))
        self.size = self.quires = self.arena_size = self.heap_size = 0
        s.b.slice("P")
        s.b.fork(self.process)
        s.b.slice(self.process)

    def phase(self, s: Stage, g: KernelBuild) -> None:
        """Grow both heaps by their part and work on them."""
        s.b.slice(self.process)
        i = self.phases - self.phases_left
        self.phases_left -= 1
        at, length = part(self.gc, i, self.phases)
        while self.quires * QUIRE < at + length:
            s.b.mmap(f"{self.process}.gc{self.quires}", QUIRE, at="auto")
            self.quires += 1
        while self.arena_size < at + length:
            k, inside = divmod(self.arena_size, QUIRE)
            n = min(QUIRE - inside, at + length - self.arena_size)
            s.b.touch(f"{self.process}.gc{k}", inside, n, content=35)
            self.arena_size += n
        at, length = part(self.heap, i, self.phases)
        heap = f"{self.process}.heap"
        while self.heap_size < at + length:
            if self.heap_size == self.size:
                self.size += pages(g.step)
                s.b.brk(heap, self.size)
            n = min(self.size, at + length) - self.heap_size
            s.b.touch(heap, self.heap_size, n, content=35)
            self.heap_size += n
        if self.heap_size:
            s.use(heap, 0, self.heap_size, "zipf", 0.5, zipf=g.skew, write=0.3, content=35)
        for k in range(-(-self.arena_size // QUIRE)):
            n = min(QUIRE, self.arena_size - k * QUIRE)
            s.use(f"{self.process}.gc{k}", 0, n, "zipf", 0.5 * n / self.arena_size, zipf=g.skew, write=0.3,
                  content=35)  # fmt: skip
