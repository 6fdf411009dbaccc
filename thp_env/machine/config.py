"""How a machine is built: its size, its core, its kernel and its clock."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from thp_env.machine import _core, layout
from thp_env.machine.clock import COSTS_VARIABLE, clock_table
from thp_env.machine.cores import DEFAULT_CORE, Tlb, core
from thp_env.machine.features import feature_mask, feature_set

ARCHITECTURES = ("x86_64", "arm64", "arm64-bbml2")
CONT_PTE_SIZE = 16 * layout.PAGE_SIZE


MachineError = _core.MachineError
"""A machine that cannot be made, a saved one that cannot be read, or a call that makes no sense; a `ValueError`."""


@dataclass(frozen=True)
class MachineConfig:
    """How large a machine is, on which core it runs and how long things take.

    Attributes:
        memory: bytes of RAM, at least 16 MiB.
        core: name of a TLB preset (`cores.CORES`) or a `Tlb`.
        arch: "x86_64" or "arm64": the latter folds 16 aligned PTEs into one translation (contpte) and never frees an
            empty page table at MADV_DONTNEED; "arm64-bbml2" has FEAT_BBM level 2, so that unfolding invalidates
            nothing. See docs/explanation/contpte.md.
        features: a preset of the kernel's switches, "mainline-6.18" or "oppo-5.15", or a set of them: see
            `features.FEATURES` and docs/reference/features.md.
        pool: bytes of the reserve of 64K folios, with the feature pool_64k; 0: an eighth of the memory.
        nr_cpus: CPUs that run the process: the others have to be told when translations go.
        shadow_tlb: also simulate a TLB that sees the same accesses with 4K pages only.
        time_by_vma: keep simulated time by VMA too (`SMAPS_DTYPE`).
        max_vmas: VMAs of all processes together.
        max_mms: processes alive at the same time.
        max_page_tables: pages of page tables; 0: enough for twice the memory, and 16,384 at least.
        min_free_kbytes: /proc/sys/vm/min_free_kbytes, which only the kernel itself would use; None: as Linux computes
            it from the size of memory and from whether folios of 2M are on.
        flush_time: picoseconds after which the statistics that reclaim decides by are added up again: FLUSH_TIME, in
            Linux 2 s (mm/memcontrol.c). 0: they are always up to date, as for programs that stand for much longer ones.
        clock: picoseconds by name, as from `clock_table()`.
    """

    memory: int = 1 << 30
    core: str | Tlb = DEFAULT_CORE
    arch: str = "x86_64"
    features: str | Iterable[str] = "mainline-6.18"
    pool: int = 0
    nr_cpus: int = 1
    shadow_tlb: bool = False
    time_by_vma: bool = False
    max_vmas: int = 65536
    max_mms: int = 64
    max_page_tables: int = 0
    min_free_kbytes: int | None = None
    flush_time: int = 0
    clock: dict[str, int] = field(default_factory=clock_table, hash=False)

    def __post_init__(self) -> None:
        """Make any collection of features one that can be compared and hashed."""
        if not isinstance(self.features, str):
            object.__setattr__(self, "features", frozenset(self.features))

    @property
    def tlb(self) -> Tlb:
        """The TLB of the core, with the page walks of a host whose costs are in force."""
        tlb = core(self.core) if isinstance(self.core, str) else self.core
        if path := os.environ.get(COSTS_VARIABLE):
            from thp_env.machine.costs_file import core_of

            return core_of(path, tlb)
        return tlb

    def as_dict(self) -> dict[str, object]:
        """Return the arguments of the C++ core."""
        tlb = self.tlb
        if tlb.base_shift != 12:
            raise ValueError(
                f"{tlb.name} lacks 4K pages, which the simulated kernel has: "
                f"tlb_misses(addresses, core={tlb.name!r}, page_shift={tlb.base_shift}) simulates its TLB alone"
            )
        pages = self.memory // layout.PAGE_SIZE
        if self.arch not in ARCHITECTURES:
            raise MachineError(f"arch is {self.arch!r}; there are {', '.join(ARCHITECTURES)}")
        try:
            mask, pooled = feature_mask(self.features), "pool_64k" in feature_set(self.features)
        except ValueError as error:
            raise MachineError(str(error)) from None
        return {
            "nr_pages": pages,
            "max_vmas": self.max_vmas,
            "max_mms": self.max_mms,
            "max_page_tables": self.max_page_tables or min(max(1 << 14, pages // 128), 1 << 26),
            "nr_cpus": self.nr_cpus,
            "shadow_tlb": self.shadow_tlb,
            "time_by_vma": self.time_by_vma,
            "arch": ARCHITECTURES.index(self.arch),
            "features": mask,
            "pool_blocks": (self.pool or self.memory // 8) // CONT_PTE_SIZE if pooled else 0,
            "min_free_kbytes": layout.NIL if self.min_free_kbytes is None else self.min_free_kbytes,
            "flush_time": self.flush_time,
            "clock": self.clock,
            "tlb": tlb.config(),
        }
