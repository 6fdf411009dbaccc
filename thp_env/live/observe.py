"""What the kernel shows of a process and of itself: counters, smaps, and the folio behind every page."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from thp_env.live.settings import THP
from thp_env.machine import layout

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
VM_EVENTS = (
    "thp_fault_alloc", "thp_fault_fallback", "thp_fault_fallback_charge", "thp_collapse_alloc",
    "thp_collapse_alloc_failed", "thp_split_page", "thp_split_page_failed", "thp_deferred_split_page",
    "thp_underused_split_page", "thp_split_pmd", "thp_scan_exceed_none_pte", "thp_scan_exceed_swap_pte",
    "thp_scan_exceed_share_pte", "thp_zero_page_alloc", "thp_swpout", "thp_swpout_fallback", "pswpin", "pswpout",
    "swpin_zero", "swpout_zero", "pglazyfree", "pglazyfreed", "thp_migration_success", "thp_migration_fail",
)  # fmt: skip
"""Counters of /proc/vmstat that recordings hold."""
MTHP_STATS = (
    "anon_fault_alloc", "anon_fault_fallback", "anon_fault_fallback_charge", "nr_anon", "nr_anon_partially_mapped",
    "split", "split_deferred", "split_failed", "swpin", "swpin_fallback", "swpin_fallback_charge", "swpout",
    "swpout_fallback", "zswpout",
)  # fmt: skip

# Documentation/admin-guide/mm/pagemap.rst
PAGE = 4096
PM_PRESENT, PM_SWAP, PM_GUARD = (np.uint64(1) << np.uint64(bit) for bit in (63, 62, 58))
PM_FRAME = np.uint64((1 << 55) - 1)
SWAP_TYPE_BITS = np.uint64(5)
KPF_LRU, KPF_SWAPCACHE, KPF_SWAPBACKED, KPF_HEAD, KPF_TAIL, KPF_ZERO, KPF_EXCLUSIVE = (
    np.uint64(1) << np.uint64(bit) for bit in (5, 13, 14, 15, 16, 24, 34)
)
"""Bit 34 is PG_owner_2, which is PG_anon_exclusive in the head page of anonymous memory."""
PAGEMAP_SCAN = 0xC0606610
PAGE_IS_PRESENT, PAGE_IS_HUGE = 1 << 3, 1 << 6
SCAN_RANGES = 4096
NEAR = 128  # frames that are read on the way to the next
BLOCK = 512  # frames; a folio of anonymous memory lies in one

FLAG_BITS = {"P": 1, "x": 2, "l": 4, "c": 8, "u": 16}
"""Of recordings: mapped by a PMD, exclusive, not swap-backed, in the swap cache, not on an LRU."""
FLAGS_OF = ["".join(flag for flag, bit in FLAG_BITS.items() if bits & bit) for bits in range(32)]
ROW = np.dtype([("kind", "U2"), ("order", "u1"), ("flags", "u1"), ("mapcount", "<i8"), ("at", "<i8"), ("head", "<i8")])
"""One page: `at` is its frame or swap slot."""

VMA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (...). \S+ \S+ (\d+) *(.*)")
ABOVE = "/memfd:above (deleted)"
"""What keeps the program's mappings below its own base (`home.cpp`)."""
HEX = frozenset("0123456789abcdef")
SMAPS = {"Rss": "rss", "AnonHugePages": "ahp", "Swap": "swap", "LazyFree": "lazy"}
FLAGS = {"hg": "H", "nh": "N", "lo": "L"}


class Kernel:
    """Reads the counters, and the pages of processes; keeps its files open."""

    def __init__(self) -> None:
        """Open what is read after every step."""
        self._stats: dict[tuple[str, str], int] = {}
        self._blocks: dict[int, np.ndarray] = {}
        for size in SIZES:
            for name in MTHP_STATS:
                path = THP / f"hugepages-{size}kB/stats/{name}"
                if path.exists():
                    self._stats[str(size), name] = os.open(path, os.O_RDONLY)
        self._vmstat, self._flags, self._counts = (
            os.open(path, os.O_RDONLY) for path in ("/proc/vmstat", "/proc/kpageflags", "/proc/kpagecount")
        )

    def begin_step(self) -> None:
        """Forget what was read of frames: what follows looks at them anew."""
        self._blocks.clear()

    def close(self) -> None:
        """Close the files."""
        for file in (*self._stats.values(), self._vmstat, self._flags, self._counts):
            os.close(file)

    def counters(self) -> dict[tuple[str, str], int]:
        """Return {(size in KB or "vm", counter): value}."""
        values = {key: int(os.pread(file, 32, 0)) for key, file in self._stats.items()}
        text = b""
        while chunk := os.pread(self._vmstat, 1 << 16, len(text)):
            text += chunk
        for line in text.decode().splitlines():
            name, _, value = line.partition(" ")
            if name in VM_EVENTS:
                values["vm", name] = int(value)
        return values

    def mappings(self, pid: int, lowest: int) -> dict[str, tuple[int, int]]:
        """Return {address in hexadecimal: (address, bytes)} of the VMAs of a process from an address on."""
        return {
            f"{v['start']:x}": (v["start"], v["end"] - v["start"])
            for v in _smaps(pid, lowest, layout.TASK_SIZE)
            if v["path"] != ABOVE
        }

    def maps(self, pid: int, regions: dict[str, tuple[int, int]], ids: dict[int, int]) -> Iterator[dict[str, Any]]:
        """Yield what a process maps in each region (name: start, bytes), as recordings hold it.

        `ids` numbers folios by first appearance; pass the same dictionary for all processes of a step.
        """
        low = min((start for start, _ in regions.values()), default=0)
        high = max((start + length for start, length in regions.values()), default=0)
        smaps = list(_smaps(pid, low, high))
        pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
        try:
            for name, (start, length) in regions.items():
                inside = [v for v in smaps if start <= v["start"] < start + length]
                if not inside:
                    continue
                vmas = [
                    [(v["start"] - start) // PAGE, (v["end"] - v["start"]) // PAGE, v["prot"], *v["flags"]]
                    for v in inside
                ]
                sums = {field: sum(v[field] for v in inside) for field in SMAPS.values()}
                if inside[0]["file"]:  # the page cache's folios are nothing that sizes are chosen for
                    yield {"r": name, **dict.fromkeys(SMAPS.values(), 0), "vmas": vmas, "lay": []}
                else:
                    yield {"r": name, **sums, "vmas": vmas, "lay": self._layout(pagemap, start, length, ids)}
        finally:
            os.close(pagemap)

    def _layout(self, pagemap: int, start: int, length: int, ids: dict[int, int]) -> list[list]:
        entries = words(pagemap, start // PAGE, length // PAGE)
        huge = np.zeros(len(entries), bool)
        for first, end, _ in scan(pagemap, start, start + length, PAGE_IS_HUGE):
            huge[(first - start) // PAGE : (end - start) // PAGE] = True
        rows = np.zeros(len(entries), ROW)
        swapped = entries & PM_SWAP != 0
        rows["kind"][swapped] = "S"
        rows["at"][swapped] = (entries[swapped] & PM_FRAME) >> SWAP_TYPE_BITS
        rows["kind"][entries & PM_GUARD != 0] = "G"
        present = np.flatnonzero(entries & PM_PRESENT)
        rows[present] = self.folios((entries[present] & PM_FRAME).astype(np.int64), huge[present])
        return list(_runs(rows, ids))

    def folios(self, pfn: np.ndarray, huge: np.ndarray, counted: bool = True) -> np.ndarray:
        """Return one row for each frame; the blocks of 512 frames that hold large folios are read whole.

        Args:
            pfn: the frames.
            huge: which of them PMDs map.
            counted: also how often each is mapped, which takes as long again.
        """
        own = _entries(self._flags, pfn)
        rows = np.zeros(len(pfn), ROW)
        rows["at"], rows["head"], rows["mapcount"] = pfn, pfn, _entries(self._counts, pfn) if counted else 0
        large = np.flatnonzero(own & (KPF_HEAD | KPF_TAIL))
        blocks, of_block = np.unique(pfn[large] // BLOCK, return_inverse=True)
        for block in blocks.tolist():
            if block not in self._blocks:
                self._blocks[block] = words(self._flags, block * BLOCK, BLOCK)
        flags = np.array([self._blocks[block] for block in blocks.tolist()], "<u8").reshape(-1, BLOCK)
        # A tail page belongs to the nearest frame before it that is none.
        heads = np.maximum.accumulate(np.where(flags & KPF_TAIL != 0, 0, np.arange(BLOCK)), axis=1)
        sizes = np.bincount((heads + np.arange(len(blocks))[:, None] * BLOCK).ravel())
        head = heads[of_block, pfn[large] % BLOCK]
        rows["head"][large] += head - pfn[large] % BLOCK
        rows["order"][large] = np.log2(sizes[of_block * BLOCK + head])
        zero = own & KPF_ZERO != 0
        rows["kind"] = np.where(zero, np.where(huge, "HZ", "Z"), "F")
        rows["flags"] = sum(
            np.where(on, bit, 0)
            for bit, on in zip(FLAG_BITS.values(), (
                huge, own & KPF_EXCLUSIVE != 0, own & KPF_SWAPBACKED == 0, own & KPF_SWAPCACHE != 0, own & KPF_LRU == 0,
            ), strict=True)
        )  # fmt: skip
        for field in ("at", "head", "mapcount", "flags", "order"):
            rows[field][zero] = 0
        return rows


def _runs(rows: np.ndarray, ids: dict[int, int]) -> Iterator[list]:
    """Yield runs of pages that continue each other, as recordings list them."""
    has_folio = rows["kind"] != ""
    counts_up = np.isin(rows["kind"], ("F", "S"))
    before = rows[:-1]
    goes_on = np.zeros(len(rows), bool)
    goes_on[1:] = rows["at"][1:] == before["at"] + counts_up[1:]
    for field in ("kind", "head", "order", "flags", "mapcount"):
        goes_on[1:] &= rows[field][1:] == before[field]
    starts = np.flatnonzero(has_folio & ~goes_on)
    ends = np.flatnonzero(has_folio & ~np.append(goes_on[1:], False)) + 1
    columns = (rows[name][starts].tolist() for name in ("kind", "order", "flags", "mapcount", "at", "head"))
    for start, end, kind, order, bits, mapcount, at, head in zip(starts.tolist(), ends.tolist(), *columns, strict=True):
        run = [start, end - start, kind]
        if kind == "S":
            run.append(at)
        if kind == "F":
            index = at - head
            flags = FLAGS_OF[bits if index == 0 else bits & ~FLAG_BITS["x"]]
            run += [order, index, ids.setdefault(head, len(ids)), flags, mapcount]
        yield run


def words(file: int, first: int, count: int) -> np.ndarray:
    """Return 64-bit words of a file of the kernel; beyond its end 0."""
    data = b""
    while len(data) < 8 * count:
        chunk = os.pread(file, 8 * count - len(data), 8 * first + len(data))
        if not chunk:
            break
        data += chunk
    return np.frombuffer(data.ljust(8 * count, b"\0"), "<u8")


def _entries(file: int, frames: np.ndarray) -> np.ndarray:
    """Return the entry of each frame; what lies close together is read at once."""
    distinct, back = np.unique(frames, return_inverse=True)
    cuts = np.flatnonzero(np.diff(distinct) > NEAR) + 1
    parts = [
        words(file, int(run[0]), int(run[-1] - run[0]) + 1)[run - run[0]]
        for run in np.split(distinct, cuts)
        if len(run)
    ]
    return np.concatenate(parts)[back] if parts else np.zeros(0, "<u8")


def scan(pagemap: int, start: int, end: int, wanted: int, returned: int = 0) -> Iterator[tuple[int, int, int]]:
    """Yield (start, end, categories) of the ranges of pages in one of the wanted categories (ioctl PAGEMAP_SCAN).

    Args:
        pagemap: an open /proc/PID/pagemap.
        start: first address.
        end: the address after the last.
        wanted: of which categories a page has to be in one.
        returned: the categories to tell; pages that differ in these are in different ranges.
    """
    ranges = np.zeros((SCAN_RANGES, 3), "<u8")
    while start < end:
        request = bytearray(struct.pack("=12Q", 96, 0, start, end, 0, ranges.ctypes.data, len(ranges), 0, 0, 0, wanted,
                                        returned or wanted))  # fmt: skip
        count = fcntl.ioctl(pagemap, PAGEMAP_SCAN, request, True)
        yield from ranges[:count].tolist()
        start = struct.unpack_from("=Q", request, 32)[0]  # where the walk has ended


def _smaps(pid: int, low: int, high: int) -> Iterator[dict[str, Any]]:
    """Yield the VMAs that start between two addresses."""
    vma: dict[str, Any] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line[0] in HEX and (match := VMA.match(line)):
            start = int(match[1], 16)
            vma = {"start": start, "end": int(match[2], 16), "prot": match[3], "file": match[4] != "0"}
            vma = {**vma, "path": match[5]} if low <= start < high else {}
        elif vma and (name := SMAPS.get(line.partition(":")[0])):
            vma[name] = int(line.split()[1])
        elif vma and line.startswith("VmFlags:"):
            flags = "".join(letter for flag, letter in FLAGS.items() if flag in line.split())
            yield {**vma, "flags": [flags] if flags else []}
