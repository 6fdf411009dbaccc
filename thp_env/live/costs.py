"""Measures on this host's kernel what collapse and zRAM cost, in the form of tests/data/costs.csv.

    python -m thp_env.live.costs [collapse] [zram] > rows.csv

Needs root, and a machine that does little else. Collapse: MADV_COLLAPSE of a 2M block of which some pages are there,
with what it reads and writes in the caches (warm) or not (cold), beside a fault of 2M. zRAM: MADV_PAGEOUT of 64K
folios and the faults that bring them back, by how well their content compresses; and the memory that zram takes.
"""

from __future__ import annotations

import csv
import ctypes
import mmap
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from thp_env.live.errors import LiveError
from thp_env.live.host import Host, prepared
from thp_env.live.settings import THP, ZRAM, thp_disable, write
from thp_env.machine.layout import ADVICE, PAGE_SIZE, PMD_SIZE

REPEATS = 301
PRESENT = (1, 128, 256, 384, 512)
"""Pages of the 512 that are there before the block is collapsed."""
CONTENTS = (0, 10, 25, 50, 75, 85, 88, 89, 92, 100)
"""Percent of a page that are random bytes, the rest is zero."""
PAGES, FOLIO = 2048, 16
"""What is swapped out, in 4K pages, and how much at once."""
COLD = 64 << 20
"""Bytes that are read to empty the caches."""

_libc = ctypes.CDLL(None, use_errno=True)


def madvise(address: int, length: int, advice: str) -> None:
    """Call madvise.

    Raises:
        OSError: when it fails.
    """
    if _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), ADVICE[advice]):
        raise OSError(ctypes.get_errno(), f"madvise {advice}")


class Block:
    """Anonymous memory that holds one aligned block."""

    def __init__(self, length: int, advice: str) -> None:
        """Map it."""
        self.memory = mmap.mmap(-1, length + PMD_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.offset = -base % PMD_SIZE
        self.address, self.length = base + self.offset, length
        madvise(self.address, length, advice)

    def read(self, page: int) -> int:
        """Read the first byte of a page."""
        return self.memory[self.offset + page * PAGE_SIZE]

    def write(self, page: int, data: bytes = b"\1") -> None:
        """Write to the start of a page."""
        at = self.offset + page * PAGE_SIZE
        self.memory[at : at + len(data)] = data


def time_ns(action: Callable[[], object]) -> float:
    """Return the ns that an action takes."""
    start = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - start


def row(op: str, folio: int, unit: str, samples: list[float], note: str) -> list[str]:
    """Return a row of costs.csv."""
    times = sorted(samples)
    low = times[: max(1, len(times) * 9 // 10)]
    figures = (times[0], times[len(times) // 10], times[len(times) // 2], times[len(times) * 9 // 10],
               sum(low) / len(low))  # fmt: skip
    return [op, str(folio), unit, str(len(samples)), *(f"{figure:.1f}" for figure in figures), note]


def collapse() -> Iterator[list[str]]:
    """Measure collapse and faults of 2M."""
    evict = bytearray(random.randbytes(1 << 20) * (COLD >> 20))

    def one(present: int, cold: bool) -> float:
        block = Block(PMD_SIZE, "nohugepage")
        for page in range(present):
            block.write(page * 512 // present)
        madvise(block.address, PMD_SIZE, "hugepage")
        if cold:
            sum(evict[::64])
        return time_ns(lambda: madvise(block.address, PMD_SIZE, "collapse"))

    def fault(cold: bool) -> float:
        block = Block(PMD_SIZE, "hugepage")
        if cold:
            sum(evict[::64])
        return time_ns(lambda: block.write(0))

    for cold in (False, True):
        cache_state = "cold" if cold else "warm"
        yield row("fault_2M", 2048, "ns/fault", [fault(cold) for _ in range(REPEATS)], f"{cache_state} memory")
        for present in PRESENT:
            samples = [one(present, cold) for _ in range(REPEATS)]
            yield row("collapse_block", 4, "ns/2MiB", samples, f"{present} pages present, {cache_state} memory")


def zram(host: Host) -> Iterator[list[str]]:
    """Measure swapping out and in, and what zram takes."""
    write(THP / "hugepages-2048kB/enabled", "never")
    write(THP / "hugepages-64kB/enabled", "madvise")
    for content in CONTENTS:
        host.swap(64 << 20)
        yield from _zram_content(content, Path(f"/sys/block/zram{host.zram[-1]}/mm_stat"))
        host.remove_swap()


def swapped(content: int) -> list[list[str]]:
    """Prepare the host and measure what swapping pages of a content out and in takes: two rows.

    Raises:
        LiveError: when the host lacks something.
    """
    if not ZRAM.exists():
        raise LiveError(f"this kernel has no zram ({ZRAM})")
    with prepared() as host:
        thp_disable(0)  # which prepared() sets
        write(THP / "hugepages-2048kB/enabled", "never")
        write(THP / "hugepages-64kB/enabled", "madvise")
        memoryview(bytearray(b"\1") * (2 * COLD)).release()  # so that a hypervisor has backed what comes next
        if error := host.swap(64 << 20):
            raise LiveError(f"zram takes no swap: {os.strerror(error)}")
        return list(_zram_content(content, Path(f"/sys/block/zram{host.zram[-1]}/mm_stat")))


def _zram_content(content: int, mm_stat: Path) -> Iterator[list[str]]:
    def compressed_bytes() -> int:
        return int(mm_stat.read_text().split()[2])

    def pageout(page: int) -> None:
        madvise(block.address + page * PAGE_SIZE, FOLIO * PAGE_SIZE, "pageout")

    block = Block(PAGES * PAGE_SIZE, "hugepage")
    used = PAGE_SIZE * content // 100
    for page in range(PAGES):
        block.write(page, random.randbytes(used) if used else b"\0")
    before = compressed_bytes()
    out = [time_ns(partial(pageout, page)) for page in range(0, PAGES, FOLIO)]
    note = f"{content} % random; {(compressed_bytes() - before) / PAGES:.0f} bytes of zram a page"
    back = [time_ns(partial(block.read, page)) for page in range(0, PAGES, FOLIO)]
    yield row("zram_swapout_content", 64, "ns/folio", out, note)
    yield row("zram_swapin_content", 64, "ns/fault", back, note)


def main(kinds: list[str]) -> None:
    """Print the rows of the kinds that are asked for, or of all."""
    table = csv.writer(sys.stdout, lineterminator="\n")
    with prepared() as host:
        thp_disable(0)  # which prepared() has set
        if not kinds or "collapse" in kinds:
            table.writerows(collapse())
        if not kinds or "zram" in kinds:
            table.writerows(zram(host))


if __name__ == "__main__":
    main(sys.argv[1:])
