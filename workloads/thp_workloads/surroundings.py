"""Where a program runs: the machine, how its free memory looks before the start, and when memory gets short."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder, ProgramError

MIB, GIB = 1 << 20, 1 << 30
PAGE, PMD = 4096, 2 << 20


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


def pages(number: float) -> int:
    """Round bytes up to whole pages, at least one."""
    return max(1, int(-(-number // PAGE))) * PAGE


def runs(chosen: np.ndarray) -> list[tuple[int, int]]:
    """Return the half-open runs of consecutive numbers in a sorted array."""
    if len(chosen) == 0:
        return []
    edges = np.flatnonzero(np.diff(chosen) != 1)
    starts, ends = chosen[np.r_[0, edges + 1]], chosen[np.r_[edges, len(chosen) - 1]] + 1
    return [(int(a), int(z)) for a, z in zip(starts, ends, strict=True)]


@dataclass(frozen=True)
class Surroundings:
    """The machine an instance runs on, the state of its free memory, and when memory gets short.

    Attributes:
        config: the machine.
        unusable: share of free memory that an allocation of `order` cannot use (unusable free space index).
        order: the order that this is about, 2 to 9.
        unmovable: share of 2M blocks that hold an unmovable page.
        swap: bytes of zram; 0: none.
        pressure: (moment, bytes): from that share of the run on, the program may hold so many bytes (memory.max).
    """

    config: MachineConfig = field(default_factory=MachineConfig)
    unusable: float = 0.0
    order: int = 9
    unmovable: float = 0.0
    swap: int = 0
    pressure: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse impossible surroundings.

        Raises:
            ProgramError: naming the parameter.
        """
        check(unusable=(self.unusable, 0, 1), order=(self.order, 2, 9), unmovable=(self.unmovable, 0, 1),
              swap=(self.swap, 0, 1 << 38))  # fmt: skip
        for moment, limit in self.pressure:
            check(moment=(moment, 0, 1), limit=(limit, MIB, 1 << 46))


UNMOVABLE_SHARE = 0.34
"""Share of 2M blocks that hold an unmovable page on Meta's servers (Johannes Weiner, LSF/MM/BPF 2023)."""

RESERVE = 48 * MIB
"""What a machine has beside what programs may take: watermarks, page tables."""


def draw_surroundings(
    rng: np.random.Generator, footprint: int, touched: float, cores: tuple[str, ...]
) -> Surroundings:
    """Draw a machine of 1.15 to 2.5 times what a program maps, on one of the cores.

    In six cases of ten 30 to 99 % of free memory cannot serve one of the orders 4 to 9, as after hours of use; in five
    of ten the share of 2M blocks that hold an unmovable page is uniform on 0 to twice `UNMOVABLE_SHARE`. In five of
    ten there is zram, and one to three times in the run a limit of 80 to 130 % of what the program touches is set.

    Args:
        rng: the source of randomness.
        footprint: bytes that the program maps at a time.
        touched: share of them that it touches.
        cores: names of cores.
    """
    mapped = footprint + 8 * MIB  # folios of 2M reach over the ends of what is mapped
    memory = (int(mapped * log_uniform(rng, 1.15, 2.5)) + RESERVE) // MIB * MIB
    config = MachineConfig(memory=memory, core=str(rng.choice(cores)))
    unusable = float(rng.uniform(0.3, 0.99)) if rng.random() < 0.6 else 0.0
    order = int(rng.integers(4, 10))
    unmovable = float(rng.uniform(0, 2 * UNMOVABLE_SHARE)) if rng.random() < 0.5 else 0.0
    if rng.random() < 0.5:
        return Surroundings(config, unusable, order, unmovable)
    moments = np.sort(rng.uniform(0.1, 0.9, int(rng.integers(1, 4)))).tolist()
    pressure = tuple((moment, max(2 * MIB, int(footprint * touched * rng.uniform(0.8, 1.3)))) for moment in moments)
    return Surroundings(config, unusable, order, unmovable, 2 * pages(footprint), pressure)


def surround(b: ProgramBuilder, rng: np.random.Generator, around: Surroundings) -> None:
    """Bring the machine into the state that the program finds.

    Some file regions of odd lengths come first, so that no address or alignment names a workload.
    """
    bring_about(b, around)
    for i in range(int(rng.integers(2, 6))):
        b.mmap(f"lib{i}", pages(log_uniform(rng, 8 * 1024, 4 * MIB)), at="auto", file=True, prot="r")


def bring_about(b: ProgramBuilder, around: Surroundings) -> None:
    """Write the history of the machine's memory before the program starts."""
    if around.unmovable:
        b.pollute(around.unmovable)
    if around.unusable:
        b.fragment(around.order, around.unusable)
    if around.swap:
        b.swap(around.swap)
