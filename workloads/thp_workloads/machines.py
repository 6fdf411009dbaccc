"""What every generator draws besides its own parameters: address layout, machine size, fragmentation, core."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder, ProgramError

MIB, GIB = 1 << 20, 1 << 30
PAGE = 4096

TRAIN_CORES = ("skylake", "zen4", "cortex-a76", "neoverse-n1")
"""Cores that generators draw from; the others are held out."""


def check(**bounds: tuple[float, float, float]) -> None:
    """Refuse a parameter outside its range.

    Args:
        bounds: (value, lowest, highest) of each parameter, by name.

    Raises:
        ProgramError: naming the first one that is out of range.
    """
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise ProgramError(f"{name} must lie between {low} and {high}, not {value}")


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def draw_pace(rng: np.random.Generator, accesses: int) -> tuple[float, int]:
    """Draw how often the program turns to another page, and how long it does so.

    Recorded programs make 20 to 60 accesses to a page before they turn to another; a simulated access stands for
    such a run. So it takes 3 to 300 ns, and the whole 0.1 to 3 s.

    Args:
        rng: the source of randomness.
        accesses: simulated accesses of the program.

    Returns:
        Nanoseconds an access, and its weight.
    """
    ns = log_uniform(rng, 3, 300)
    seconds = log_uniform(rng, 0.1, 3)
    return ns, max(1, round(seconds * 1e9 / (accesses * ns)))


def pages(number: float) -> int:
    """Round bytes up to whole pages, at least one."""
    return max(1, int(-(-number // PAGE))) * PAGE


@dataclass(frozen=True)
class Surroundings:
    """The machine an instance runs on, and how fragmented its free memory is.

    Attributes:
        config: the machine.
        held: bytes that stay in use between the holes; 0: free memory is whole.
        granule: bytes of a hole, a power of two.
    """

    config: MachineConfig
    held: int = 0
    granule: int = 64 * 1024


def draw_surroundings(rng: np.random.Generator, mapped: int) -> Surroundings:
    """Draw a machine of 1.15 to 2.5 times what a program may need, on one of the training cores.

    In six cases of ten, 30 % to all of the free memory lies in holes of 32K to 512K.

    Args:
        rng: the source of randomness.
        mapped: bytes that the program may need with folios of 2M.
    """
    free = int(mapped * log_uniform(rng, 1.15, 2.5))
    share = float(rng.uniform(0.3, 1.0)) if rng.random() < 0.6 else 0.0
    held = pages(free * share) if share else 0
    memory = (free + held + 32 * MIB) // MIB * MIB
    granule = PAGE << int(rng.integers(3, 8))
    return Surroundings(MachineConfig(memory=memory, core=str(rng.choice(TRAIN_CORES))), held, granule)


def fragment(b: ProgramBuilder, around: Surroundings) -> None:
    """Fragment free memory: another region takes `2 * held` bytes and gives every second granule back.

    What is free afterwards lies in blocks of at most `granule` bytes, as after hours of use.
    """
    check(held=(around.held, 0, around.config.memory // 2), granule=(around.granule, PAGE, 2 * MIB))
    if around.held == 0:
        return
    length, hole = pages(2 * around.held), around.granule
    b.mmap("held", length, at="auto", nohugepage=True)
    b.touch("held", 0, length, content=40)
    for offset in range(0, length - hole + 1, 2 * hole):
        b.advise("held", offset, hole, "dontneed")


def address_noise(b: ProgramBuilder, rng: np.random.Generator) -> None:
    """Map a few file regions of odd lengths first, so that no address or alignment names a workload."""
    for i in range(int(rng.integers(2, 6))):
        b.mmap(f"lib{i}", pages(log_uniform(rng, 8 * 1024, 4 * MIB)), at="auto", file=True, prot="r")


def runs(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Return the half-open runs of consecutive numbers in a sorted array."""
    if len(chosen) == 0:
        return []
    edges = np.flatnonzero(np.diff(chosen) != 1)
    starts, ends = chosen[np.r_[0, edges + 1]], chosen[np.r_[edges, len(chosen) - 1]] + 1
    return [(int(a), int(z)) for a, z in zip(starts, ends, strict=True)]
