"""Where Linux places a mapping that asks for no address (mm/mmap.c and mm/huge_memory.c of 6.18)."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource

from thp_env.machine.layout import PAGE_SIZE, PMD_SIZE, TASK_SIZE
from thp_env.traces.intervals import Intervals
from thp_workloads.recording.errors import RecordingError

MIN_GAP = 128 << 20
"""arch/x86/mm/mmap.c: mappings begin at least this far below the top of the address space."""
STACK_GUARD_GAP = 256 * PAGE_SIZE


def mmap_base() -> int:
    """Return the address below which mappings are placed, top down, without randomization.

    Raises:
        RecordingError: when the stack is unlimited, since Linux then places mappings bottom up.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if limit == resource.RLIM_INFINITY:
        raise RecordingError("an unlimited stack changes the address space's layout: use `ulimit -s 8192`")
    gap = min(max(limit + STACK_GUARD_GAP, MIN_GAP), TASK_SIZE // 6 * 5)
    return -(-(TASK_SIZE - gap) // PAGE_SIZE) * PAGE_SIZE


def get_unmapped_area(occupied: Intervals, length: int, top: int, *, aligned: bool, offset: int = 0) -> int:
    """Return the start of the highest free range of `length` bytes below `top`.

    Args:
        occupied: the mapped addresses.
        length: bytes, a multiple of the page size.
        top: mmap_base.
        aligned: ask for 2M alignment first (`thp_get_unmapped_area`).
        offset: the file offset that the alignment refers to.

    Raises:
        MemoryError: when no free range is long enough.
    """
    if aligned:
        address = _top_down(occupied, length + PMD_SIZE, top)
        if address is not None:
            return address + ((offset - address) % PMD_SIZE or PMD_SIZE)
    address = _top_down(occupied, length, top)
    if address is None:
        raise MemoryError(f"no free range of {length} bytes")
    return address


def _top_down(occupied: Intervals, length: int, top: int) -> int | None:
    for start, end in reversed(list(occupied)):
        if top - end >= length:
            return top - length
        top = min(top, start)
    return top - length if top >= length else None


def aligns_files(path: str) -> bool:
    """Whether the file system of `path` aligns large file mappings to 2M, as ext4 and xfs do.

    The kernel is asked by mapping the file: a start that is 2M aligned by chance twice is unlikely.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    starts = []
    try:
        # Different lengths, so that two mappings in a row are not both aligned because the first one is.
        for length in (PMD_SIZE + 5 * PAGE_SIZE, PMD_SIZE + 9 * PAGE_SIZE):
            starts.append(libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0) or 1)
        return all(start % PMD_SIZE == 0 for start in starts)
    finally:
        for start, length in zip(starts, (PMD_SIZE + 5 * PAGE_SIZE, PMD_SIZE + 9 * PAGE_SIZE), strict=False):
            if start % PAGE_SIZE == 0:
                libc.munmap(start, length)
        os.close(fd)
