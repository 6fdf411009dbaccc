"""What an agent sees: what a kernel could see, each field with its unit, range and normalisation.

All fields lie in 0..1. Nothing here knows the future, the workload's name or which pages are really in use.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from thp_env.machine import layout
from thp_env.machine.batch import Facts


class Field(NamedTuple):
    """One field of an observation.

    Attributes:
        meaning: what it says.
        unit: of the value before normalisation.
        scale: 0: the value itself, which lies in 0..1; else log2(1 + value) / scale, at most 1.
    """

    meaning: str
    unit: str
    scale: int = 0

    @property
    def normalisation(self) -> str:
        """How the value becomes a number in 0..1."""
        return f"log2(1 + x) / {self.scale}" if self.scale else "as it is"


VMA_FIELDS = {
    "size": Field("its length", "pages", 24),
    "resident": Field("pages that are mapped", "share of its pages"),
    "zero": Field("pages that map the shared zero page", "share of its pages"),
    "mapped_4K": Field("mapped pages in folios of 4K", "share of the mapped pages"),
    "mapped_16K": Field("... of 16K", "share of the mapped pages"),
    "mapped_32K": Field("... of 32K", "share of the mapped pages"),
    "mapped_64K": Field("... of 64K", "share of the mapped pages"),
    "mapped_128K_1M": Field("... of 128K to 1M", "share of the mapped pages"),
    "mapped_2M": Field("... of 2M", "share of the mapped pages"),
    "pmd_mapped": Field("mapped pages behind PMD mappings", "share of the mapped pages"),
    "young": Field("pages whose entry was accessed since it was last read; one bit a mapping",
                   "share of the mapped pages"),
    "dirty": Field("pages whose entry is dirty", "share of the mapped pages"),
    "partial": Field("pages in partially mapped folios", "share of the mapped pages"),
    "faults": Field("its faults since it was last asked about", "faults", 16),
    "faults_ever": Field("its faults", "faults", 20),
    "pages_per_fault": Field("the pages its faults got", "pages a fault", 10),
    "zapped": Field("pages unmapped again since it was last asked about", "pages", 20),
    "zapped_ever": Field("pages unmapped again", "pages", 20),
    "zap_size": Field("the mean size of what was unmapped in one call", "pages", 10),
    "age": Field("time since it was mapped", "us", 24),
    "asked": Field("whether it was asked about before", "0 or 1"),
    "advised": Field("whether huge pages were asked for (VM_HUGEPAGE)", "0 or 1"),
    "aligned": Field("whole aligned 2M blocks", "share of its length"),
    **{
        f"may_{4 << order}K": Field(f"whether its faults may get {4 << order}K now", "0 or 1")
        for order in (0, *layout.ORDERS)
    },
}  # fmt: skip
"""Fields of `vma`. Those about mapped pages come from reading page tables, of a sample if `scan_share` is below 1."""

SYSTEM_FIELDS = {
    "free": Field("free memory", "share of memory"),
    "free_64K": Field("free memory in blocks of 64K or more, as in /proc/buddyinfo", "share of free memory"),
    "free_2M": Field("free memory in blocks of 2M or more", "share of free memory"),
    "memory": Field("memory", "MiB", 20),
    "resident": Field("memory in anonymous folios", "share of memory"),
    "deferred": Field("folios on the deferred split queue", "folios", 16),
    "vmas": Field("VMAs that are decided about", "VMAs", 16),
    "faults": Field("faults of the last window", "faults", 16),
    "splits": Field("folios split in the last window", "folios", 16),
    "walks": Field("time spent translating", "share of the last window"),
    "fault_time": Field("time spent in faults", "share of the last window"),
    "l1_miss": Field("first-level TLB misses, sampled every `pmu_period` (PMU)", "per access of the last window"),
    "l2_miss": Field("page walks, sampled every `pmu_period` (PMU)", "per access of the last window"),
    "l1_4k": Field("the first-level TLB's entries for 4K pages", "entries", 12),
    "l1_2m": Field("its entries for 2M pages", "entries", 12),
    "l2": Field("the second-level TLB's entries", "entries", 14),
}  # fmt: skip
"""Fields of `system`."""

KEPT_FIELDS = {
    name: VMA_FIELDS[name]
    for name in ("size", "faults", "faults_ever", "pages_per_fault", "zapped", "zapped_ever", "zap_size", "age", "asked",
                 "advised", "aligned")
}  # fmt: skip
"""Those of `VMA_FIELDS` that a kernel knows without reading page tables."""

_ORDER_BITS = np.array([0, *layout.ORDERS])
_PAGES_OF_ORDER = 1 << np.arange(layout.PMD_ORDER + 1)


class Normaliser:
    """Puts columns together and brings them to 0..1."""

    def __init__(self, fields: dict[str, Field]) -> None:
        """Note the order and the scale of the fields."""
        self.columns = {name: i for i, name in enumerate(fields)}
        self.logs = np.array([i for i, f in enumerate(fields.values()) if f.scale], int)
        self.scales = np.array([float(f.scale) for f in fields.values() if f.scale])

    def __call__(self, values: dict[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        """Return float32 of the shape and one axis more."""
        out = np.empty((*shape, len(self.columns)))
        for name, column in values.items():
            out[..., self.columns[name]] = column
        out[..., self.logs] = np.log2(1.0 + np.maximum(out[..., self.logs], 0.0)) / self.scales
        return np.minimum(out, 1.0).astype(np.float32)


_vma, _system = Normaliser(VMA_FIELDS), Normaliser(SYSTEM_FIELDS)


def kept_columns(rows: np.ndarray, clock_ps: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values of `KEPT_FIELDS` before normalisation, of the shape of `rows`.

    Args:
        rows: `SMAPS_DTYPE` records.
        clock_ps: clock of the machine of each row.
    """
    start, end = rows["vm_start"].astype(np.int64), rows["vm_end"].astype(np.int64)
    length = np.maximum(end - start, 1)
    counts = rows["faults"].astype(np.float64)
    faults = counts.sum(-1)
    zapped = rows["zapped"].astype(np.float64)
    first = -(-start // layout.PMD_SIZE) * layout.PMD_SIZE
    return {
        "size": length / layout.PAGE_SIZE,
        "faults": faults - rows["asked_faults"],
        "faults_ever": faults,
        "pages_per_fault": (counts * _PAGES_OF_ORDER).sum(-1) / np.maximum(1.0, faults),
        "zapped": zapped - rows["asked_zapped"],
        "zapped_ever": zapped,
        "zap_size": zapped / np.maximum(1, rows["zap_calls"]),
        "age": (clock_ps - rows["born"].astype(np.int64)) / 1e6,
        "asked": rows["asked"] != 0,
        "advised": rows["vm_flags"] & layout.VM_HUGEPAGE != 0,
        "aligned": np.maximum(0, end // layout.PMD_SIZE * layout.PMD_SIZE - first) / length,
    }


def vma_observation(rows: np.ndarray, clock_ps: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return the `VMA_FIELDS` of VMAs, float32 of the shape of `rows` and one axis more; zeros for empty rows.

    Args:
        rows: `SMAPS_DTYPE` records as `Batch.run` returns them.
        clock_ps: clock of the machine of each row.
        orders: mask of the orders that the faults of each may get.
    """
    scanned = np.maximum(rows["scanned"], 1)
    by_order = rows["by_order"].astype(np.float64)
    mapped = by_order.sum(-1)
    share = 1.0 / np.maximum(1.0, mapped)
    zero = rows["zero"].astype(np.float64)
    may = orders[..., None] >> _ORDER_BITS & 1
    values = {
        **kept_columns(rows, clock_ps),
        "resident": mapped / scanned,
        "zero": zero / scanned,
        "mapped_4K": by_order[..., 0] * share,
        "mapped_16K": by_order[..., 2] * share,
        "mapped_32K": by_order[..., 3] * share,
        "mapped_64K": by_order[..., 4] * share,
        "mapped_128K_1M": by_order[..., 5:9].sum(-1) * share,
        "mapped_2M": by_order[..., 9] * share,
        "pmd_mapped": rows["pmd_mapped"] * share,
        "young": rows["young"] / np.maximum(1.0, mapped + zero),
        "dirty": rows["dirty"] * share,
        "partial": rows["partial"] * share,
        **{f"may_{4 << order}K": may[..., i] for i, order in enumerate((0, *layout.ORDERS))},
    }
    out = _vma(values, rows.shape)
    out[rows["scanned"] == 0] = 0.0
    return out


def system_observation(now: Facts, last: Facts, hardware: np.ndarray, pmu_period: int) -> np.ndarray:
    """Return the `SYSTEM_FIELDS` of machines, float32, shape (machines, fields).

    Args:
        now: facts at the end of the window.
        last: facts at its beginning.
        hardware: shape (machines, 4): pages of memory; TLB entries for 4K and 2M, and of the second level.
        pmu_period: TLB events between two samples.
    """
    window = now.counters - last.counters
    total = hardware[:, 0]
    free = now["free_pages"]
    untouched = free - now["listed"]  # never used: whole
    share = 1.0 / np.maximum(1, free)
    time = np.maximum(1, window.clock_ps)
    accesses = np.maximum(1, window["accesses"])

    def sampled(event: str) -> np.ndarray:
        samples = now.counters[event] // pmu_period - last.counters[event] // pmu_period
        return samples * pmu_period / accesses

    values = {
        "free": free / total,
        "free_64K": (untouched + now["listed_64K"]) * share,
        "free_2M": (untouched + now["listed_2M"]) * share,
        "memory": total / 256,
        "resident": now.counters["nr_resident"] / total,
        "deferred": now.counters["nr_anon_partially_mapped"],
        "vmas": now["asked_vmas"],
        "faults": window["pgfault"],
        "splits": window["split"],
        "walks": window.time_ps("translation") / time,
        "fault_time": window.time_ps("fault", "zeroing", "copying") / time,
        "l1_miss": sampled("dtlb_l1_miss"),
        "l2_miss": sampled("dtlb_l2_miss"),
        "l1_4k": hardware[:, 1],
        "l1_2m": hardware[:, 2],
        "l2": hardware[:, 3],
    }
    return _system(values, (len(total),))
