"""A recorded program elsewhere: its addresses, its machine and what it finds there drawn anew, as from run to run.

Recordings are made without address space randomisation, on a machine of their own. Here the executable, the heap and
the mappings move by whole pages as Linux moves them (arch/x86/mm/mmap.c, fs/binfmt_elf.c), which changes where aligned
blocks lie; the machine, its fragmentation and its limits are drawn as for generators.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from thp_env.machine import layout
from thp_env.traces import Program, ProgramBuilder
from thp_env.workload import Instance, memory_for
from thp_workloads.surroundings import GIB, MIB, PAGE, Surroundings, bring_about, draw_surroundings

RANDOM_PAGES = 1 << 28
"""Places of the executable and of the mappings (mmap_rnd_bits)."""

BRK_PAGES = 32 * MIB // PAGE
"""Places of the heap behind the executable (arch_randomize_brk)."""

EXECUTABLE = (0x5500 << 32, 0x5700 << 32)
"""Where position-independent executables are loaded without randomisation; others stay where they are."""

MAPPINGS = 1024 * GIB
"""Addresses so far below mmap_base belong to mappings; the stack lies above, what a program places by itself below."""


def moved(program: Program, rng: np.random.Generator) -> Program:
    """Return the program with its addresses drawn anew; which of its regions lie next to which stays."""
    base, brk = int(program.meta["mmap_base"]), int(program.meta["brk_start"])
    down, up = (PAGE * int(rng.integers(RANDOM_PAGES)) for _ in range(2))
    up = up if EXECUTABLE[0] <= brk < EXECUTABLE[1] else 0
    ops = program.ops.copy()
    for name, field in (("mmap", "a"), ("mremap", "d")):
        places = ops[field].astype(np.int64)
        fixed = (ops["op"] == layout.OPS.index(name)) & (ops["c"] == layout.AT_ADDRESS)
        mapping = fixed & (places <= base) & (places > base - MAPPINGS)
        executable = fixed & (places >= EXECUTABLE[0]) & (places < EXECUTABLE[1])
        ops[field] = places - mapping * down + executable * up
    heap = brk + up + PAGE * int(rng.integers(BRK_PAGES))
    return replace(program, ops=ops, meta={**program.meta, "mmap_base": base - down, "brk_start": heap})


def surrounded(program: Program, around: Surroundings, seed: int) -> Program:
    """Return the program with what happens before and around it, and another seed of its random choices."""
    before = ProgramBuilder("before")
    bring_about(before, around)
    limits = ProgramBuilder("limits")
    for _, limit in around.pressure:
        limits.limit(limit)
    first, later = before.build().ops, limits.build().ops
    time = np.cumsum(program.own_ns)
    at = np.searchsorted(time, [moment * time[-1] for moment, _ in around.pressure])
    later["process"] = program.ops["process"][at.clip(max=len(program.ops) - 1)]
    ops = np.concatenate([first, np.insert(program.ops, at, later)])
    return replace(program, ops=ops, seed=seed)


def elsewhere(program: Program, rng: np.random.Generator, cores: tuple[str, ...]) -> Instance:
    """Draw where a recorded program runs.

    Args:
        program: with `mmap_base` and `brk_start` in its meta.
        rng: the source of randomness.
        cores: names of cores.
    """
    footprint = int((memory_for(program) - 32 * MIB) / 1.25)
    touched = min(1.0, int(program.meta.get("touched_bytes", footprint)) / footprint)
    around = draw_surroundings(rng, footprint, touched, cores)
    there = surrounded(moved(program, rng), around, int(rng.integers(1 << 62)))
    return Instance(there.check(), around.config)
