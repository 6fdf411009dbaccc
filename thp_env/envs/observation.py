"""What an agent sees: what a kernel could see, each field with its unit, range and normalisation.

Logarithms are base 2 of one plus the value, divided by a constant that brings them to 0..1. Shares lie in 0..1.
Nothing here knows the future, the workload's name or which pages are really in use.
"""

from __future__ import annotations

import math

import numpy as np

from thp_env.machine import Counters, Machine, layout
from thp_env.machine.cores import core

VMA_FIELDS = {
    "size": "log of its length in pages / 24",
    "resident": "share of its pages that are mapped",
    "zero": "share of its pages that map the shared zero page",
    "mapped_4K": "share of the mapped pages in folios of 4K",
    "mapped_16K": "... of 16K",
    "mapped_32K": "... of 32K",
    "mapped_64K": "... of 64K",
    "mapped_128K_1M": "... of 128K to 1M",
    "mapped_2M": "... of 2M",
    "pmd_mapped": "share of the mapped pages behind PMD mappings",
    "young": "share of the mapped pages whose entry was accessed since it was last read; one bit a mapping",
    "dirty": "share of the mapped pages whose entry is dirty",
    "partial": "share of the mapped pages in partially mapped folios",
    "faults": "log of its faults since it was last asked about / 16",
    "faults_ever": "log of its faults / 20",
    "pages_per_fault": "log of the pages its faults got, per fault / 10",
    "zapped": "log of the pages unmapped again since it was last asked about / 20",
    "zapped_ever": "log of the pages unmapped again / 20",
    "zap_size": "log of the mean pages per unmapping call / 10",
    "age": "log of the microseconds since it was mapped / 24",
    "asked": "1 if it was asked about before",
    "advised": "1 if the program asked for huge pages (VM_HUGEPAGE)",
    "aligned": "share of its length that lies in whole aligned 2M blocks",
    **{
        f"may_{4 << order}K": f"1 if its faults may get {4 << order}K now"
        for order in (0, *layout.ORDERS)
    },
}  # fmt: skip
"""Fields of `vma` and what they mean."""

SYSTEM_FIELDS = {
    "free": "share of memory that is free",
    "free_64K": "share of free memory in blocks of 64K or more, as in /proc/buddyinfo",
    "free_2M": "share of free memory in blocks of 2M or more",
    "memory": "log of memory in MiB / 20",
    "resident": "share of memory in anonymous folios",
    "deferred": "log of the folios on the deferred split queue / 16",
    "vmas": "log of the number of VMAs / 16",
    "faults": "log of the faults of the last window / 16",
    "splits": "log of the folios split in the last window / 16",
    "walks": "share of the last window's time spent translating",
    "fault_time": "share of the last window's time spent in faults",
    "l1_miss": "first-level TLB misses per access of the last window (PMU)",
    "l2_miss": "page walks per access of the last window (PMU)",
    "l1_4k": "log of the first-level TLB's entries for 4K pages / 12",
    "l1_2m": "log of its entries for 2M pages / 12",
    "l2": "log of the second-level TLB's entries / 14",
}
"""Fields of `system` and what they mean."""


def _log(value: float, scale: float) -> float:
    return min(1.0, math.log2(1.0 + max(0.0, value)) / scale)


def vma_observation(
    smaps: np.void, asked_faults: int, asked_zapped: int, asked: bool, clock_ps: int, orders: int
) -> np.ndarray:
    """Return the `VMA_FIELDS` of one VMA, float32.

    Args:
        smaps: its `SMAPS_DTYPE` record.
        asked_faults: faults it had when it was last asked about.
        asked_zapped: pages unmapped when it was last asked about.
        asked: whether it was asked about before.
        clock_ps: the machine's clock.
        orders: the orders that its faults may get.
    """
    start, end = int(smaps["vm_start"]), int(smaps["vm_end"])
    pages = (end - start) // layout.PAGE_SIZE
    by_order = smaps["by_order"].astype(np.float64)
    mapped = by_order.sum()
    share = 1.0 / max(1.0, mapped)
    counts = smaps["faults"].astype(np.float64)
    faults = counts.sum()
    got = float((counts * (1 << np.arange(10))).sum())
    zapped, calls = int(smaps["zapped"]), int(smaps["zap_calls"])
    present = mapped + int(smaps["zero"])
    first = -(-start // layout.PMD_SIZE) * layout.PMD_SIZE
    whole = max(0, end // layout.PMD_SIZE * layout.PMD_SIZE - first)
    values = [
        _log(pages, 24),
        mapped / pages,
        int(smaps["zero"]) / pages,
        by_order[0] * share,
        by_order[2] * share,
        by_order[3] * share,
        by_order[4] * share,
        by_order[5:9].sum() * share,
        by_order[9] * share,
        int(smaps["pmd_mapped"]) * share,
        int(smaps["young"]) / max(1.0, present),
        int(smaps["dirty"]) * share,
        int(smaps["partial"]) * share,
        _log(faults - asked_faults, 16),
        _log(faults, 20),
        _log(got / max(1.0, faults), 10),
        _log(zapped - asked_zapped, 20),
        _log(zapped, 20),
        _log(zapped / max(1, calls), 10),
        _log((clock_ps - int(smaps["born"])) / 1e6, 24),
        float(asked),
        float(int(smaps["vm_flags"]) & layout.VM_HUGEPAGE != 0),
        whole / (end - start),
        *(float(orders >> order & 1) for order in (0, *layout.ORDERS)),
    ]
    return np.array(values, np.float32)


def system_observation(machine: Machine, last: Counters, now: Counters, vmas: int) -> np.ndarray:
    """Return the `SYSTEM_FIELDS`, float32; `now - last` is the last window."""
    window = now - last
    total = machine.config.memory // layout.PAGE_SIZE
    free, blocks = machine.free_pages, machine.buddyinfo()
    share = 1.0 / max(1, free)
    time = max(1, window.clock_ps)
    accesses = max(1, window["accesses"])
    tlb = core(machine.config.core) if isinstance(machine.config.core, str) else machine.config.core
    second = tlb.l2 or (0, 0)
    values = [
        free / total,
        sum(n << order for order, n in enumerate(blocks) if order >= 4) * share,
        sum(n << order for order, n in enumerate(blocks) if order >= 9) * share,
        _log(total / 256, 20),
        now["nr_resident"] / total,
        _log(now["nr_anon_partially_mapped"], 16),
        _log(vmas, 16),
        _log(window["pgfault"], 16),
        _log(window["split"], 16),
        window.time_ps("translation") / time,
        window.time_ps("fault", "zeroing", "copying") / time,
        min(1.0, window["dtlb_l1_miss"] / accesses),
        min(1.0, window["dtlb_l2_miss"] / accesses),
        _log(tlb.l1_4k[0] * tlb.l1_4k[1], 12),
        _log(math.prod(tlb.l1_2m or tlb.l1_4k), 12),
        _log(second[0] * second[1], 14),
    ]
    return np.array(values, np.float32)
