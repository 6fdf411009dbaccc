"""hot_island: 100 to 400 MB of which narrow islands are hot, and drift (astar, omnetpp).

Elastic Translations' hints for such programs ask for tens of 2M or 64K regions out of a large footprint: a few
folios of 64K cover an island, and larger ones bring only memory that nobody touches.
"""

from __future__ import annotations

import numpy as np

from thp_env.traces import ProgramBuilder
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


def program(
    *,
    footprint: int = 200 * MIB,
    arenas: int = 3,
    populated: float = 0.6,
    cluster: int = 16 * PAGE,
    islands: int = 8,
    island: int = 256 * 1024,
    drift: float = 0.5,
    phases: int = 40,
    accesses: int = 6000,
    weight: int = 40,
    background: float = 0.1,
    write: float = 0.3,
    ns: float = 3.0,
    around: Surroundings | None = None,
    seed: int = 0,
) -> ProgramBuilder:
    """Write the program.

    Args:
        footprint: bytes mapped.
        arenas: regions that share it.
        populated: share of the pages that are ever written, in clusters.
        cluster: bytes that are written together.
        islands: hot ranges at a time.
        island: bytes of each.
        drift: share of the islands that move from phase to phase.
        phases: rounds of accesses.
        accesses: simulated accesses a phase.
        weight: real accesses that one stands for.
        background: share of accesses that go anywhere.
        write: share of accesses that write.
        ns: time of one access besides translation.
        around: fragmentation before the work starts; None: free memory is whole.
        seed: of every random choice.

    Raises:
        ProgramError: when a parameter is out of range.
    """
    check(
        footprint=(footprint, MIB, 64 * GIB), arenas=(arenas, 1, 64), populated=(populated, 0, 1),
        cluster=(cluster, PAGE, footprint // arenas if arenas > 0 else 0), islands=(islands, 1, 4096),
        island=(island, PAGE, footprint), drift=(drift, 0, 1), phases=(phases, 1, 1 << 20),
        accesses=(accesses, 1, 1 << 32), weight=(weight, 1, WEIGHT_MAX), background=(background, 0, 1),
        write=(write, 0, 1), ns=(ns, 0, 1e9),
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    b = ProgramBuilder("hot_island", seed=seed, family="hot_island")
    address_noise(b, rng)
    if around:
        fragment(b, around)
    length = pages(footprint / arenas)
    names = [f"arena{i}" for i in range(arenas)]
    live: dict[str, np.ndarray] = {}
    ranges: dict[str, list[tuple[int, int]]] = {}
    clusters = max(1, length // cluster)
    for name in names:
        b.mmap(name, length, at="auto")
        chosen = np.sort(rng.choice(clusters, max(1, int(clusters * populated)), replace=False))
        live[name], ranges[name] = chosen, runs(chosen)
        for first, last in ranges[name]:
            b.touch(name, first * cluster, (last - first) * cluster, content=40)
            b.compute(2000 * (last - first))
    spots = [_spot(rng, names, live, cluster, island, length) for _ in range(islands)]
    per_island = max(1, int(accesses * (1 - background)) // islands)
    for _ in range(phases):
        for i in range(islands):
            if rng.random() < drift:
                spots[i] = _spot(rng, names, live, cluster, island, length)
            name, offset, size = spots[i]
            b.access(name, offset, size, "gauss", per_island, ns=ns, write=write, weight=weight, sigma=0.2, content=40)
        for name in names:  # reads of what exists already; a write there would be a first touch
            first, last = ranges[name][int(rng.integers(len(ranges[name])))]
            count = int(accesses * background) // arenas
            b.access(name, first * cluster, (last - first) * cluster, "uniform", count, ns=ns, weight=weight)
    return b


def _spot(
    rng: np.random.Generator, names: list[str], live: dict[str, np.ndarray], cluster: int, island: int, length: int
) -> tuple[str, int, int]:
    name = names[int(rng.integers(len(names)))]
    offset = int(rng.choice(live[name])) * cluster
    return name, offset, min(island, length - offset)


def sample(rng: np.random.Generator) -> Instance:
    """Draw an instance: a footprint of 24 to 200 MiB, log-uniform; layout, machine size, fragmentation and core."""
    footprint = pages(log_uniform(rng, 24 * MIB, 200 * MIB))
    arenas = int(rng.integers(1, 5))
    around = draw_surroundings(rng, footprint + arenas * 2 * MIB)
    phases, accesses = int(rng.integers(10, 25)), int(log_uniform(rng, 1500, 4000))
    ns, weight = draw_pace(rng, phases * accesses)
    b = program(
        footprint=footprint,
        arenas=arenas,
        populated=float(rng.uniform(0.25, 1.0)),
        cluster=PAGE << int(rng.integers(0, 8)),
        islands=int(rng.integers(2, 17)),
        island=int(log_uniform(rng, 64 * 1024, 2 * MIB)) // PAGE * PAGE,
        drift=float(rng.uniform(0.05, 0.9)),
        phases=phases,
        accesses=accesses,
        weight=weight,
        background=float(rng.uniform(0.02, 0.3)),
        write=float(rng.uniform(0.0, 0.6)),
        ns=ns,
        around=around,
        seed=int(rng.integers(1 << 62)),
    )
    return Instance(b.build(), around.config)


WORKLOAD = Workload(
    "hot_island", "generator", "hot_island", "train", "narrow hot islands that drift over a large footprint", sample
)
