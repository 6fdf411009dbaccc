"""A recorded program in other surroundings: its addresses, its machine and the machine's state are drawn anew.

Recordings are made without address space randomisation, each on one machine. Here the executable, the heap and
the mappings move by whole pages as Linux moves them (arch/x86/mm/mmap.c, fs/binfmt_elf.c), which changes where aligned
blocks lie; the machine, its fragmentation and its limits are drawn as for generators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from thp_env.machine import Machine, layout
from thp_env.machine.operations import among, rows
from thp_env.traces import Program, ProgramBuilder
from thp_env.workload import Instance, memory_for, most_mapped
from thp_workloads.surroundings import GIB, MIB, PAGE, Surroundings, bring_about, draw_surroundings

RANDOM_PAGES = 1 << 28
"""Places of the executable and of the mappings (mmap_rnd_bits)."""

PMD_PAGES = layout.PMD_SIZE // PAGE

BRK_PAGES = 32 * MIB // PAGE
"""Places of the heap behind the executable (arch_randomize_brk)."""

EXECUTABLE = (0x5500 << 32, 0x5700 << 32)
"""Where position-independent executables are loaded without randomisation; others stay where they are."""

MAPPINGS = 1024 * GIB
"""Addresses so far below mmap_base belong to mappings; the stack lies above, what a program places by itself below."""


MAPPING = ("mmap", "munmap", "mprotect", "mremap", "brk", "slice", "fork", "exit")
"""Operations that decide what is mapped where."""

RESIZING = ("mmap", "munmap", "mremap", "brk", "fork", "exit")
"""Those of them that change how much is mapped."""

TRIES = 4
"""Places of the mappings that are drawn before they move by whole 2M only."""


def at_addresses(program: Program, down: int, up: int, heap: int) -> Program:
    """Return the program at other addresses.

    Args:
        program: with `mmap_base` and `brk_start` in its meta.
        down: pages that the mappings move down.
        up: pages that a position-independent executable moves up, and its heap with it.
        heap: pages that the heap moves up besides.
    """
    base, brk = int(program.meta["mmap_base"]), int(program.meta["brk_start"])
    up = up if EXECUTABLE[0] <= brk < EXECUTABLE[1] else 0
    ops = program.ops.copy()
    for name in ("mmap", "mremap"):
        of = rows(ops, name)
        places = of["address"].astype(np.int64)
        fixed = (of["op"] == layout.OPS.index(name)) & (of["placement"] == layout.AT_ADDRESS)
        mapping = fixed & (places <= base) & (places > base - MAPPINGS)
        executable = fixed & (places >= EXECUTABLE[0]) & (places < EXECUTABLE[1])
        of["address"] = places - mapping * down * PAGE + executable * up * PAGE
    meta = {**program.meta, "mmap_base": base - down * PAGE, "brk_start": brk + (up + heap) * PAGE}
    return replace(program, ops=ops, meta=meta)


def mapped(program: Program) -> list[int]:
    """Return how many bytes are mapped after each operation that maps or unmaps."""
    ops = program.ops[among(program.ops, *MAPPING)]
    resizing = np.flatnonzero(among(ops, *RESIZING))
    machine, sizes = Machine(replace(program, ops=ops)), []
    for count in np.diff(resizing, prepend=-1).tolist():
        machine.run(ops=count, go_on=True)
        sizes.append(machine.mapped_bytes)
    return sizes


def fits(program: Program, pages: int, expected: list[int] | None = None) -> bool:
    """Whether mappings may move by so many pages, besides whole 2M, without overlaps.

    Linux puts long mappings at multiples of 2M, independent of other mappings. So they can overlap with mappings that a
    recording has at fixed addresses.

    Args:
        program: the recorded one.
        pages: less than 2M.
        expected: `mapped` of the program; None: compute it.
    """
    return pages == 0 or mapped(at_addresses(program, pages, 0, 0)) == (expected or mapped(program))


def draw_place(program: Program, rng: np.random.Generator, may: Callable[[int], bool]) -> Program:
    """Return the program with drawn addresses; `may` has the result of `fits`."""
    offsets = [int(down) for down in rng.integers(RANDOM_PAGES, size=TRIES)]
    down = next((n for n in offsets if may(n % PMD_PAGES)), offsets[0] // PMD_PAGES * PMD_PAGES)
    return at_addresses(program, down, int(rng.integers(RANDOM_PAGES)), int(rng.integers(BRK_PAGES)))


def surrounded(program: Program, around: Surroundings, seed: int) -> Program:
    """Return the program with its surroundings, and another seed of its random choices."""
    before = ProgramBuilder("before")
    bring_about(before, around)
    limits = ProgramBuilder("limits")
    for _, limit in around.pressure:
        limits.limit(limit)
    first, later = before.build().ops, limits.build().ops.copy()
    time = np.cumsum(program.own_ns)
    at = np.searchsorted(time, [moment * time[-1] for moment, _ in around.pressure])
    later["process"] = program.ops["process"][at.clip(max=len(program.ops) - 1)]
    ops = np.concatenate([first, np.insert(program.ops, at, later)])
    return replace(program, ops=ops, seed=seed)


def reach(program: Program) -> int:
    """Return an estimate of the most bytes that a program uses at a time with 2M folios.

    For each region, the 2M blocks count in which it touches pages at any time.
    """
    lengths: dict[int, int] = {}
    for op in program.ops[among(program.ops, "mmap", "brk", "mremap")]:
        region = int(op["region"])
        lengths[region] = max(lengths.get(region, 0), int(op["length"]))
    touches = program.ops[program.ops["op"] == layout.OPS.index("touch")]
    first = touches["offset"] // layout.PMD_SIZE
    last = (touches["offset"] + touches["length"] - 1) // layout.PMD_SIZE
    blocks = {(int(r), int(b)) for r, f, e in zip(touches["region"], first, last, strict=True) for b in range(f, e + 1)}
    accessed = program.accesses["region"].astype(np.uint64) << np.uint64(40)
    accessed |= program.accesses["page"].astype(np.uint64) // np.uint64(PMD_PAGES)
    blocks |= {(int(b) >> 40, int(b) & (1 << 40) - 1) for b in np.unique(accessed)}
    reached = Counter(region for region, _ in blocks)  # one more, as a region may begin in the middle of a block
    shares = {r: min(1.0, (n + 1) * layout.PMD_SIZE / lengths.get(r, layout.PMD_SIZE)) for r, n in reached.items()}
    return most_mapped(program, shares)


def elsewhere(
    program: Program,
    rng: np.random.Generator,
    cores: tuple[str, ...],
    may: Callable[[int], bool] | None = None,
    footprint: int = 0,
) -> Instance:
    """Draw the surroundings of a recorded program.

    Args:
        program: with `mmap_base` and `brk_start` in its meta.
        rng: the source of randomness.
        cores: names of cores.
        may: `fits` of the program, if its results are stored; None: compute them.
        footprint: bytes for which the machine is made; 0: the program's mapped memory.
    """
    footprint = footprint or int((memory_for(program) - 32 * MIB) / 1.25)
    touched = min(1.0, int(program.meta.get("touched_bytes", footprint)) / footprint)
    around = draw_surroundings(rng, footprint, touched, cores)
    place = draw_place(program, rng, may or partial(fits, program))
    there = surrounded(place, around, int(rng.integers(1 << 62)))
    return Instance(there.check(), around.config)
