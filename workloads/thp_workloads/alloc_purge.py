"""alloc_purge: an allocator that gives memory back in pieces smaller than a folio, in waves of load.

glibc trims from the top and frees large chunks by munmap; jemalloc purges dirty runs of pages with
MADV_DONTNEED after a decay of 10 s; Scudo releases single pages inside its primary regions; TCMalloc releases
spans of 8K pages up to whole 2M. What matters to a folio is the granule and the delay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thp_env.traces import ProgramBuilder, ProgramError
from thp_env.traces.builder import WEIGHT_MAX
from thp_env.workload import Instance, Workload
from thp_workloads.machines import (
    GIB,
    MIB,
    PAGE,
    Surroundings,
    address_noise,
    check,
    draw_pace,
    draw_surroundings,
    fragment,
    log_uniform,
    pages,
    runs,
)


@dataclass(frozen=True)
class Allocator:
    """How an allocator gives memory back.

    Attributes:
        granule: bytes of the smallest piece it returns.
        decay: waves of load that a free piece stays before it is returned.
        merge: whether neighbouring free pieces are returned in one call.
    """

    granule: int
    decay: int
    merge: bool


ALLOCATORS = {
    "glibc": Allocator(128 * 1024, 0, True),
    "jemalloc": Allocator(4 * PAGE, 2, True),
    "scudo": Allocator(PAGE, 1, False),
    "tcmalloc": Allocator(2 * PAGE, 1, True),
}
"""Release behaviour of four allocators; the granules of glibc (M_TRIM_THRESHOLD), Scudo (pages) and TCMalloc
(8K pages) are documented, the rest is modelled on their descriptions."""


def find_allocator(allocator: str | Allocator) -> Allocator:
    """Return an allocator by name.

    Raises:
        ProgramError: for an unknown name or a granule that is not whole pages.
    """
    if isinstance(allocator, str):
        if allocator not in ALLOCATORS:
            raise ProgramError(f"unknown allocator {allocator!r}: one of {', '.join(ALLOCATORS)}, or an Allocator")
        return ALLOCATORS[allocator]
    if allocator.granule % PAGE:
        raise ProgramError(f"a granule is whole pages, not {allocator.granule} bytes")
    return allocator


def program(
    *,
    heap: int = 64 * MIB,
    allocator: str | Allocator = "jemalloc",
    waves: int = 8,
    freed: float = 0.5,
    lifetime: float = 16.0,
    accesses: int = 12000,
    weight: int = 20,
    zipf: float = 0.9,
    write: float = 0.4,
    ns: float = 3.0,
    gap_us: float = 500.0,
    around: Surroundings | None = None,
    seed: int = 0,
) -> ProgramBuilder:
    """Write the program: waves of allocate, use, free and (after the decay) return.

    Args:
        heap: bytes of the arena.
        allocator: a name of `ALLOCATORS` or an `Allocator`.
        waves: waves of load.
        freed: share of the live pieces that a wave frees.
        lifetime: mean length of a run of pieces that are freed together.
        accesses: simulated accesses a wave.
        weight: real accesses that one stands for.
        zipf: skew of the accesses over the arena.
        write: share of accesses that write.
        ns: time of one access besides translation.
        gap_us: idle time after a wave.
        around: fragmentation before the work starts; None: free memory is whole.
        seed: of every random choice.

    Raises:
        ProgramError: when a parameter is out of range.
    """
    kind = find_allocator(allocator)
    check(
        heap=(heap, 4 * kind.granule, 64 * GIB), granule=(kind.granule, PAGE, GIB), decay=(kind.decay, 0, 1 << 20),
        waves=(waves, 1, 1 << 20), freed=(freed, 0, 1), lifetime=(lifetime, 0, 1e9), accesses=(accesses, 1, 1 << 32),
        weight=(weight, 1, WEIGHT_MAX), zipf=(zipf, 0, 10), write=(write, 0, 1), ns=(ns, 0, 1e9),
        gap_us=(gap_us, 0, 1e12),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    b = ProgramBuilder("alloc_purge", seed=seed, family="alloc_purge")
    address_noise(b, rng)
    if around:
        fragment(b, around)
    size = kind.granule
    n = heap // size
    b.mmap("arena", n * size, at="auto")
    live, resident = np.zeros(n, bool), np.zeros(n, bool)
    waiting: list[tuple[int, np.ndarray]] = []
    for wave in range(waves):
        # The load of a wave decides how much of the arena it fills again, from the bottom up.
        want = int(n * rng.uniform(0.6, 1.0))
        free = np.flatnonzero(~live)[: max(0, want - int(live.sum()))]
        live[free] = True
        for first, last in runs(free):
            b.touch("arena", first * size, (last - first) * size, content=40)
            b.compute(1000.0 * (last - first))
        resident |= live
        _use(b, rng, live, size, accesses, weight, zipf, write, ns)
        gone = _free(rng, live, freed, lifetime)
        live[gone] = False
        waiting.append((wave + kind.decay, gone))
        for due, pieces in [w for w in waiting if w[0] <= wave]:
            back = pieces[~live[pieces] & resident[pieces]]
            resident[back] = False
            for first, last in runs(back) if kind.merge else [(int(i), int(i) + 1) for i in back]:
                b.advise("arena", first * size, (last - first) * size, "dontneed")
            waiting.remove((due, pieces))
        b.compute(gap_us * 1000)
    return b


def _use(
    b: ProgramBuilder, rng: np.random.Generator, live: np.ndarray, size: int, accesses: int, weight: int,
    zipf: float, write: float, ns: float,
) -> None:  # fmt: skip
    """Access live memory only: the longest live runs, in proportion to their length."""
    longest = sorted(runs(np.flatnonzero(live)), key=lambda r: r[0] - r[1])[:24]
    total = sum(last - first for first, last in longest)
    for first, last in longest:
        count = max(1, accesses * (last - first) // total)
        pattern = "zipf" if rng.random() < 0.7 else "uniform"
        b.access("arena", first * size, (last - first) * size, pattern, count, ns=ns, write=write,
                 weight=weight, zipf=zipf, content=40)  # fmt: skip


def _free(rng: np.random.Generator, live: np.ndarray, freed: float, lifetime: float) -> np.ndarray:
    """Pick runs of live pieces until the share is reached."""
    target, n = int(live.sum() * freed), len(live)
    gone = np.zeros(n, bool)
    while int(gone.sum()) < target:
        start = int(rng.integers(n))
        gone[start : start + 1 + int(rng.exponential(lifetime))] = True
        gone &= live
    return np.flatnonzero(gone)


MOST_PIECES = 6000
"""Pieces of an arena that `sample` draws: more would make programs of a hundred thousand calls."""


def sample(rng: np.random.Generator) -> Instance:
    """Draw an instance: allocator, footprint, layout, machine size, fragmentation and core.

    The arena has 8 to 96 MiB, log-uniform, or `MOST_PIECES` pieces where that is less.
    """
    kind = Allocator(PAGE << int(rng.integers(0, 10)), int(rng.integers(0, 3)), bool(rng.random() < 0.7))
    heap = pages(log_uniform(rng, 8 * MIB, min(96 * MIB, MOST_PIECES * kind.granule)))
    around = draw_surroundings(rng, heap + 4 * MIB)
    waves, accesses = int(rng.integers(3, 9)), int(log_uniform(rng, 2000, 8000))
    ns, weight = draw_pace(rng, waves * accesses)
    b = program(
        heap=heap,
        allocator=kind,
        waves=waves,
        freed=float(rng.uniform(0.1, 0.8)),
        lifetime=log_uniform(rng, 1, 64),
        accesses=accesses,
        weight=weight,
        zipf=float(rng.uniform(0.3, 1.1)),
        write=float(rng.uniform(0.0, 0.8)),
        ns=ns,
        gap_us=log_uniform(rng, 50, 5000),
        around=around,
        seed=int(rng.integers(1 << 62)),
    )
    return Instance(b.build(), around.config)


WORKLOAD = Workload(
    "alloc_purge", "generator", "alloc_purge", "train", "an allocator that frees pieces smaller than a folio", sample
)
