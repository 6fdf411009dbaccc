"""Observations: only what a kernel could see; each field has its unit, range and normalisation.

All fields are in 0..1. No field depends on the future, on the workload's name, or on which pages are really in use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from thp_env.machine import SMAPS_DTYPE, MachineConfig, layout
from thp_env.machine.batch import SNAPSHOT_COLUMNS, Reason, Snapshot, stat_columns


class Field(NamedTuple):
    """One field of an observation: a quantity, or its ratio to another one.

    Attributes:
        meaning: in words.
        unit: of the value before normalisation.
        scale: 0: the value itself, which is in 0..1; else log2(1 + value) / scale, at most 1.
        of: the quantity, by its name in the functions below.
        per: the quantity it is divided by (1 if that is 0); "": none.
    """

    meaning: str
    unit: str
    scale: int
    of: str
    per: str = ""

    @property
    def normalisation(self) -> str:
        """How the value becomes a number in 0..1."""
        return f"log2(1 + x) / {self.scale}" if self.scale else "as it is"


_SHARE = "share of the mapped pages"
_ALL = (0, *layout.ORDERS)

VMA_FIELDS = {
    "size": Field("its length", "pages", 24, "pages"),
    "resident": Field("pages that are mapped", "share of its pages", 0, "mapped", "scanned"),
    "zero": Field("pages that map the shared zero page", "share of its pages", 0, "zero", "scanned"),
    "mapped_4K": Field("mapped pages in folios of 4K", _SHARE, 0, "by_order_0", "mapped"),
    "mapped_16K": Field("... of 16K", _SHARE, 0, "by_order_2", "mapped"),
    "mapped_32K": Field("... of 32K", _SHARE, 0, "by_order_3", "mapped"),
    "mapped_64K": Field("... of 64K", _SHARE, 0, "by_order_4", "mapped"),
    "mapped_128K_1M": Field("... of 128K to 1M", _SHARE, 0, "by_order_5_to_8", "mapped"),
    "mapped_2M": Field("... of 2M", _SHARE, 0, "by_order_9", "mapped"),
    "pmd_mapped": Field("mapped pages behind PMD mappings", _SHARE, 0, "pmd_mapped", "mapped"),
    "young": Field("pages whose entry was accessed since it was last read; one bit a mapping", _SHARE, 0,
                   "young", "present"),
    "dirty": Field("pages whose entry is dirty", _SHARE, 0, "dirty", "mapped"),
    "partial": Field("pages in partially mapped folios", _SHARE, 0, "partial", "mapped"),
    "faults": Field("its faults since it was last asked about", "faults", 16, "new_faults"),
    "faults_ever": Field("its faults", "faults", 20, "faults"),
    "pages_per_fault": Field("the pages its faults got", "pages a fault", 10, "got", "faults"),
    "zapped": Field("pages unmapped again since it was last asked about", "pages", 20, "new_zapped"),
    "zapped_ever": Field("pages unmapped again", "pages", 20, "zapped"),
    "zap_size": Field("the mean size of what was unmapped in one call", "pages", 10, "zapped", "zap_calls"),
    "age": Field("time since it was mapped", "us", 24, "age"),
    "asked": Field("whether it was asked about before", "0 or 1", 0, "was_asked"),
    "advised": Field("whether huge pages were asked for (VM_HUGEPAGE)", "0 or 1", 0, "advised"),
    "aligned": Field("whole aligned 2M blocks", "share of its length", 0, "aligned", "pages"),
    **{f"may_{4 << order}K": Field(f"whether its faults may get {4 << order}K now", "0 or 1", 0, f"may_{order}")
       for order in _ALL},
}  # fmt: skip
"""Fields of `vma`. Those about mapped pages come from reading page tables, of a sample if `scan_share` is below 1."""

REASON_FIELDS = {
    "faults": Field("whether it is asked about since it faulted", "0 or 1", 0, "why_FAULTS"),
    "zapped": Field("... since much of it was unmapped: 2M, or an eighth of it where that is less", "0 or 1", 0,
                    "why_ZAPPED"),
    "idle": Field("... since there was no other reason for a second, then for two, and so on", "0 or 1", 0, "why_IDLE"),
    "walks": Field("... since 64 samples of page walks named it (PMU)", "0 or 1", 0, "why_WALKS"),
}  # fmt: skip
"""Fields `why_...` of `vma` where VMAs are asked about for more `reasons` than that they are new or faulted."""

WALK_FIELDS = {
    "walks": Field("page walks in it since it was last asked about, sampled every `pmu_period` (PMU)", "walks a ms", 17,
                   "new_walks", "since"),
    "walks_per_page": Field("the same", "walks a page of its length", 14, "new_walks", "pages"),
}  # fmt: skip
"""Fields of `vma` where page walks are among the `reasons`."""

SYSTEM_FIELDS = {
    "free": Field("free memory", "share of memory", 0, "free_pages", "memory"),
    "free_64K": Field("free memory in blocks of 64K or more, as in /proc/buddyinfo", "share of free memory", 0,
                      "free_64K", "free_pages"),
    "free_2M": Field("free memory in blocks of 2M or more", "share of free memory", 0, "free_2M", "free_pages"),
    "memory": Field("memory", "MiB", 20, "mib"),
    "resident": Field("memory in anonymous folios", "share of memory", 0, "nr_resident", "memory"),
    "deferred": Field("folios on the deferred split queue", "folios", 16, "deferred"),
    "limit": Field("memory.current of the control group", "share of memory.max", 0, "memory_current", "memory_max"),
    "swapped": Field("memory in swap", "share of memory", 0, "swapped", "memory"),
    "swapped_in": Field("pages read from swap in the last window (pswpin)", "pages", 20, "new_pswpin"),
    "swapped_out": Field("pages written to swap in the last window (pswpout)", "pages", 20, "new_pswpout"),
    "processes": Field("processes that are alive", "processes", 8, "processes"),
    "vmas": Field("VMAs that are decided about", "VMAs", 16, "asked_vmas"),
    "faults": Field("faults of the last window", "faults", 16, "new_pgfault"),
    "splits": Field("folios split in the last window", "folios", 16, "splits"),
    "walks": Field("time spent translating", "share of the last window", 0, "new_translation", "new_clock"),
    "fault_time": Field("time spent in faults", "share of the last window", 0, "fault_time", "new_clock"),
    "l1_miss": Field("first-level TLB misses, sampled every `pmu_period` (PMU)", "per access of the last window", 0,
                     "l1_miss", "new_accesses"),
    "l2_miss": Field("page walks, sampled every `pmu_period` (PMU)", "per access of the last window", 0,
                     "l2_miss", "new_accesses"),
    "l1_4k": Field("the first-level TLB's entries for 4K pages", "entries", 12, "l1_4k"),
    "l1_2m": Field("its entries for 2M pages", "entries", 12, "l1_2m"),
    "l2": Field("the second-level TLB's entries", "entries", 14, "l2"),
}  # fmt: skip
"""Fields of `system`."""

SIZE_FIELDS = {
    "setting": Field("0 never, 0.5 madvise, 1 always", "setting / 2", 0, "setting"),
    "held": Field("anonymous memory in folios of this size", "share of memory", 0, "held", "memory"),
    "faults": Field("faults of the last window that got it", "faults", 16, "faults"),
    "fallbacks": Field("faults of the last window that wanted it in vain", "faults", 16, "fallbacks"),
    "splits": Field("folios of it split in the last window", "folios", 16, "splits"),
    "partial": Field("partially mapped folios of it", "folios", 16, "partial"),
}
"""Fields of `sizes`, of each size from 16K to 2M."""


class Quantities:
    """The inputs of fields: a table with a named column for each quantity, or for several of a kind.

    Args:
        columns: the quantities of each column, in order; a single one has the column's name.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        """Lay out the table."""
        self.names = tuple(name for group in columns.values() for name in group)
        self.dtype = np.dtype([(name, np.float64, () if (name,) == tuple(group) else (len(group),))
                               for name, group in columns.items()])  # fmt: skip

    def blank(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an empty table of so many rows."""
        return np.empty(shape, self.dtype)


def alone(*names: str) -> dict[str, tuple[str]]:
    """Return columns of one quantity each."""
    return {name: (name,) for name in names}


class Fields:
    """Computes all fields at once from a table of quantities.

    Args:
        fields: of an observation.
        quantities: the table.
    """

    def __init__(self, fields: dict[str, Field], quantities: Quantities) -> None:
        """Note the column of each field's quantities."""
        self.quantities = quantities
        column = {name: i for i, name in enumerate(quantities.names)}
        self.of = np.array([column[f.of] for f in fields.values()])
        self.ratios = np.array([i for i, f in enumerate(fields.values()) if f.per], int)
        self.per = np.array([column[f.per] for f in fields.values() if f.per], int)
        self.logs = np.array([i for i, f in enumerate(fields.values()) if f.scale], int)
        self.scales = np.array([float(f.scale) for f in fields.values() if f.scale])

    def __call__(self, table: np.ndarray) -> np.ndarray:
        """Return the fields, float32 in 0..1, of each row of a table, along one axis more."""
        values = table.view(np.float64).reshape(*table.shape, -1)
        out = values.take(self.of, -1)
        out[..., self.ratios] /= np.maximum(values.take(self.per, -1), 1.0)
        out[..., self.logs] = np.log2(1.0 + out.take(self.logs, -1)) / self.scales
        return np.minimum(np.maximum(out, 0.0, out=out), 1.0, out=out).astype(np.float32)


OFFSET = {name: offset // 8 for name, (_, offset, *_) in SMAPS_DTYPE.fields.items()}  # type: ignore[union-attr]
"""Where each field of a `SMAPS_DTYPE` record begins, in words of 64 bits."""
_NAMES = ["" for _ in range(SMAPS_DTYPE.itemsize // 8)]
for _name in ("zapped", "zap_calls", "zero", "young", "dirty", "pmd_mapped", "partial", "scanned"):
    _NAMES[OFFSET[_name]] = _name
for _order in range(10):
    _NAMES[OFFSET["by_order"] + _order] = f"by_order_{_order}"
_SUMS: dict[str, dict[str, float]] = {
    "pages": {"vm_end": 1 / layout.PAGE_SIZE, "vm_start": -1 / layout.PAGE_SIZE},
    "mapped": {f"by_order_{order}": 1 for order in range(10)},
    "present": {"zero": 1, **{f"by_order_{order}": 1 for order in range(10)}},
    "by_order_5_to_8": {f"by_order_{order}": 1 for order in range(5, 9)},
    "faults": {f"faults_{order}": 1 for order in range(10)},
    "got": {f"faults_{order}": 1 << order for order in range(10)},
    "new_faults": {"asked_faults": -1, **{f"faults_{order}": 1 for order in range(10)}},
    "new_zapped": {"zapped": 1, "asked_zapped": -1},
}
"""Quantities that are sums of a record's words; exact, since whole numbers below 2^53 are."""
VMA_QUANTITIES = Quantities(
    {
        "words": _NAMES,
        "sums": tuple(_SUMS),
        **alone("aligned", "age", "was_asked", "advised", "new_walks", "since"),
        "why": [f"why_{reason.name}" for reason in Reason],
        "may": [f"may_{order}" for order in _ALL],
    }
)
"""What the fields of a VMA are computed from."""
_vma = Fields(VMA_FIELDS, VMA_QUANTITIES)
_PLACE = OFFSET | {f"{name}_{i}": OFFSET[name] + i for name in ("by_order", "faults") for i in range(10)}
_matrix = np.zeros((len(_NAMES), len(_SUMS)))
for _column, _terms in enumerate(_SUMS.values()):
    for _name, _factor in _terms.items():
        _matrix[_PLACE[_name], _column] = _factor
_ORDERS, _REASONS = np.array(_ALL), np.array(list(Reason))


def vma_fields(reasons: Sequence[str]) -> dict[str, Field]:
    """Return the fields of `vma` if there are these further reasons to ask about VMAs."""
    if not reasons:
        return VMA_FIELDS
    why = {f"why_{name}": REASON_FIELDS[name] for name in ("faults", *reasons)}
    return VMA_FIELDS | why | (WALK_FIELDS if "walks" in reasons else {})


def vma_observation(
    smaps: np.ndarray, clock_ps: np.ndarray, orders: np.ndarray | None, fields: Fields = _vma, pmu_period: int = 0
) -> np.ndarray:
    """Return the `VMA_FIELDS` of VMAs, float32 of the shape of `smaps` and one axis more; zeros for empty records.

    Args:
        smaps: `SMAPS_DTYPE` records as `Batch.run` returns them.
        clock_ps: clock of the machine of each row.
        orders: mask of the orders that the faults of each may get; None: `fields` has none of these.
        fields: of `VMA_QUANTITIES`.
        pmu_period: page walks between two samples; 0: `fields` has none of `WALK_FIELDS`.
    """
    raw = np.ascontiguousarray(smaps).view(np.int64).reshape(*smaps.shape, -1)
    q = fields.quantities.blank(smaps.shape)
    q["words"] = raw
    rows = q.reshape(-1)
    np.matmul(rows["words"], _matrix, out=rows["sums"])
    start, end = raw[..., OFFSET["vm_start"]], raw[..., OFFSET["vm_end"]]
    whole = (end >> _PMD) - (start + layout.PMD_SIZE - 1 >> _PMD)
    q["aligned"] = np.maximum(whole, 0) << _PMD - _PAGE
    q["age"] = (clock_ps - raw[..., OFFSET["born"]]) / 1e6
    if pmu_period:
        q["since"] = (clock_ps - np.maximum(raw[..., OFFSET["born"]], raw[..., OFFSET["asked_clock"]])) / 1e9
        q["new_walks"] = raw[..., OFFSET["asked_walks"]] * pmu_period
    q["was_asked"] = raw[..., OFFSET["asked"]] != 0
    q["advised"] = smaps["vm_flags"] & layout.VM_HUGEPAGE != 0
    q["why"] = raw[..., OFFSET["reasons"], None] & _REASONS != 0
    if orders is not None:
        q["may"] = orders[..., None] >> _ORDERS & 1
    out = fields(q)
    out[end == 0] = 0.0
    return out


_PAGE, _PMD = layout.PAGE_SIZE.bit_length() - 1, layout.PMD_SIZE.bit_length() - 1

_CHANGES = ("pgfault", "clock", "accesses", "pswpin", "pswpout", "translation")
_FAULT_TIMES = ("fault", "zeroing", "copying")
_EVENTS = ("dtlb_l1_miss", "dtlb_l2_miss")
_STATES = ("nr_resident", "asked_vmas", "processes", "swapped", "memory_current", "memory_max")
_FREE = ("free_pages", "listed", "listed_64K", "listed_2M")
_HARDWARE = ("memory", "l1_4k", "l1_2m", "l2")


def _columns(**groups: Sequence[int]) -> tuple[list[int], np.dtype]:
    """Return columns of a snapshot, and what they are called side by side."""
    numbers = [column for columns in groups.values() for column in columns]
    return numbers, np.dtype([(name, np.int64, (len(columns),)) for name, columns in groups.items()])


_COUNTED = {
    "changes": [SNAPSHOT_COLUMNS[name] for name in _CHANGES],
    "fault_times": [SNAPSHOT_COLUMNS[name] for name in _FAULT_TIMES],
    "events": [SNAPSHOT_COLUMNS[name] for name in _EVENTS],
    "splits": stat_columns("split"),
}
_BEFORE, _BEFORE_DTYPE = _columns(**_COUNTED)
_NOW, _NOW_DTYPE = _columns(
    **_COUNTED,
    states=[SNAPSHOT_COLUMNS[name] for name in _STATES],
    partial=stat_columns("nr_anon_partially_mapped"),
    **{name: [SNAPSHOT_COLUMNS[name]] for name in _FREE},
)
_system = Fields(SYSTEM_FIELDS, Quantities({
    "changes": [f"new_{name}" for name in _CHANGES], "states": _STATES, "hardware": _HARDWARE,
    "misses": ("l1_miss", "l2_miss"),
    **alone("mib", "deferred", "splits", "fault_time", "free_pages", "free_64K", "free_2M"),
}))  # fmt: skip


def hardware_of(config: MachineConfig) -> tuple[int, ...]:
    """Return pages of memory; TLB entries for 4K and 2M, and of the second level."""
    tlb, pages = config.tlb, config.memory // layout.PAGE_SIZE
    return pages, math.prod(tlb.l1_4k), math.prod(tlb.l1_2m or tlb.l1_4k), math.prod(tlb.l2 or (0, 0))


def system_observation(now: Snapshot, last: Snapshot, hardware: np.ndarray, pmu_period: int) -> np.ndarray:
    """Return the `SYSTEM_FIELDS` of machines, float32, shape (machines, fields).

    Args:
        now: snapshot at the end of the window.
        last: snapshot at its beginning.
        hardware: shape (machines, 4): `hardware_of` each.
        pmu_period: TLB events between two samples.
    """
    after = now.raw.take(_NOW, 1).view(_NOW_DTYPE)[:, 0]
    before = last.raw.take(_BEFORE, 1).view(_BEFORE_DTYPE)[:, 0]
    q = _system.quantities.blank((len(after),))
    q["changes"] = after["changes"] - before["changes"]
    q["states"] = after["states"]
    q["hardware"] = hardware
    q["misses"] = (after["events"] // pmu_period - before["events"] // pmu_period) * pmu_period
    q["mib"] = hardware[:, _HARDWARE.index("memory")] / 256
    q["deferred"] = after["partial"].sum(1)
    q["splits"] = (after["splits"] - before["splits"]).sum(1)
    q["fault_time"] = (after["fault_times"] - before["fault_times"]).sum(1)
    free, list_lengths = after["free_pages"][:, 0], after["listed"][:, 0]
    q["free_pages"] = free
    for size in ("64K", "2M"):
        q[f"free_{size}"] = after[f"listed_{size}"][:, 0] + (free - list_lengths)  # never used, so not listed: whole
    return _system(q)


_sizes = Fields(SIZE_FIELDS, Quantities(alone("setting", "held", "faults", "fallbacks", "splits", "partial", "memory")))


def size_observation(now: Snapshot, last: Snapshot, modes: np.ndarray, hardware: np.ndarray) -> np.ndarray:
    """Return the `SIZE_FIELDS` of machines, float32, shape (machines, sizes, fields).

    Args:
        now: snapshot at the end of the window.
        last: snapshot at its beginning.
        modes: settings of each size, 0 to 2.
        hardware: as `system_observation` takes it.
    """

    def each(stat: np.ndarray) -> np.ndarray:
        return stat[:, layout.ORDERS[0] :]

    def new(name: str) -> np.ndarray:
        return each(now.stat(name) - last.stat(name))

    q = _sizes.quantities.blank(modes.shape)
    q["setting"] = modes / 2
    q["held"] = each(now.stat("nr_anon")) << np.array(layout.ORDERS)
    q["faults"], q["fallbacks"] = new("anon_fault_alloc"), new("anon_fault_fallback")
    q["splits"] = new("split")
    q["partial"] = each(now.stat("nr_anon_partially_mapped"))
    q["memory"] = hardware[:, _HARDWARE.index("memory"), None]
    return _sizes(q)
