"""The clock table: how long the simulated kernel and hardware take, in picoseconds, and where each figure is from.

Measured figures are medians on Linux 6.18.44, x86-64, a virtual machine (`docs/reference/costs.md`); the spread is the
range of the middle eight tenths of the samples, as a share of the median.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from thp_env.machine import _core


@dataclass(frozen=True)
class Cost:
    """One entry: picoseconds, source, spread as a share of the value (None: assumed, not measured)."""

    ps: int
    source: str
    spread: float | None = None


COSTS: Mapping[str, Cost] = MappingProxyType(
    {
        "cycle": Cost(333, "assumed: a core at 3 GHz"),
        "fault": Cost(1_350_000, "write_fault of 4K and 64K: the part that does not grow with the size", 0.35),
        "fault_zero_page": Cost(611_000, "read_fault_zero_page", 0.1),
        "fault_reuse": Cost(661_000, "wp_reuse_fault_parent", 0.1),
        "zero_page": Cost(430_000, "write_fault of 64K to 2M: growth per 4K page", 0.4),
        "copy_page": Cost(490_000, "cow_copy_fault_child less the fixed part of a fault", 0.3),
        "syscall": Cost(1_000_000, "dontneed_4K_of_folio less the work on its one PTE", 0.2),
        "split_vma": Cost(1_500_000, "mprotect_4K_no_split less the rest of the call, per cut", 0.3),
        "zap_pte": Cost(25_000, "dontneed_2M_range of 64K to 1M folios: growth per PTE", 0.3),
        "zap_folio": Cost(256_000, "dontneed_2M_range of 4K folios: per folio less its PTE", 0.4),
        "zap_pmd": Cost(6_700_000, "dontneed_2M_range of 2M folios", 0.2),
        "split_pmd": Cost(12_300_000, "cow_first_fault_child_pmd_split, dontneed_4K_of_folio of 2M", 0.1),
        "split_folio": Cost(600_000, "deferred_split_shrinker: the part that does not grow with the size", 0.2),
        "split_page": Cost(560_000, "deferred_split_shrinker of 16K to 2M: growth per page", 0.1),
        "change_pte": Cost(35_000, "mprotect_2M_range of 64K folios: per PTE", 0.3),
        "flush_one": Cost(100_000, "assumed: INVLPG and its entry in the batch"),
        "flush_all": Cost(300_000, "assumed: writing CR3; refills are simulated"),
        "shootdown": Cost(2_000_000, "assumed: one IPI with acknowledgement"),
        "fork": Cost(56_000_000, "fork_256MiB of an empty process", 0.1),
        "fork_pte": Cost(35_000, "fork_256MiB of PTE-mapped 2M folios: per PTE", 0.1),
        "fork_folio": Cost(47_000, "fork_256MiB of 4K folios: per folio less its PTE", 0.2),
        "fork_pmd": Cost(1_130_000, "fork_256MiB of PMD-mapped 2M folios: per PMD", 0.1),
        "swap_out_page": Cost(4_300_000, "zram_swapout of 4K to 1M compressible folios: a page, less 56 %", 0.2),
        "swap_out_percent": Cost(30_000, "zram_swapout_content: growth, as a share of zram_swapout at 56 %", 0.3),
        "swap_out_incompressible": Cost(3_400_000, "zram_swapout of 4K to 1M folios of random data: per page", 0.2),
        "swap_in_page": Cost(1_400_000, "zram_swapin_fault of 4K to 1M compressible folios: a page, less 56 %", 0.2),
        "swap_in_percent": Cost(16_000, "zram_swapin_content: growth, as a share of zram_swapin_fault at 56 %", 0.3),
        "swap_in_incompressible": Cost(1_300_000, "zram_swapin_fault of 4K to 1M folios of random data: per page", 0.2),
        "collapse": Cost(15_000_000, "collapse_block with one page less fault_2M, warm", 0.5),
        "collapse_folio": Cost(230_000, "collapse_2M of 4K folios less zeroing, copying and unmapping: per folio", 0.5),
        "scan_pte": Cost(20_000, "assumed: reading and clearing one accessed bit"),
        "contpte_convert": Cost(560_000, "assumed: 16 PTEs at change_pte; the invalidation is flush_one"),
        "migrate_page": Cost(2_300_000, "compact_memory of a fragmented GiB: system time per page, less scanning", 0.3),
        "compact_scan": Cost(4_000, "compact_memory when nothing is left to move: per page looked at", 0.5),
        "pmu_sample": Cost(250_000, "assumed: writing one PEBS or SPE record, and reading it"),
    }
)
"""Every cost of the clock with its source."""


COSTS_VARIABLE = "THP_ENV_COSTS"
"""The environment variable that names a file of costs (`costs_file.py`) to use instead of this table."""


def clock_table(**changes: int) -> dict[str, int]:
    """Return the table that a machine is configured with: this one, or that of the file that THP_ENV_COSTS names.

    Args:
        changes: picoseconds to use instead, by name.

    Raises:
        ValueError: for a name that is no cost or a negative time, and for a file that cannot be used.
    """
    unknown = set(changes) - set(COSTS)
    if unknown:
        raise ValueError(f"no such cost: {', '.join(sorted(unknown))}; there are {', '.join(COSTS)}")
    defaults: Mapping[str, int] = {name: cost.ps for name, cost in COSTS.items()}
    if path := os.environ.get(COSTS_VARIABLE):
        from thp_env.machine.costs_file import clock_of

        defaults = clock_of(path)
    table = {name: int(changes.get(name, ps)) for name, ps in defaults.items()}
    if min(table.values()) < 0:
        raise ValueError("a cost must not be negative")
    return table


assert set(COSTS) == set(_core.CLOCK), "clock.py and config.hpp name different costs"
