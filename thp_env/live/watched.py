"""A process of this host and its children as they are now: anonymous memory by folio size, and what has changed.

Nothing is changed, neither in the process nor on the host.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thp_env.envs.panels import NOTHING, ZERO, Space
from thp_env.live.errors import LiveError
from thp_env.live.observe import PAGE, PAGE_IS_PRESENT, PM_FRAME, PM_PRESENT, VMA, Kernel, scan, words
from thp_env.machine import layout
from thp_env.processes import family

WHOLE = 1 << 30
"""Bytes of a mapping up to which all of it is drawn; of a larger one the 2M blocks in which there is something."""
KPAGEFLAGS = Path("/proc/kpageflags")
MTHP = Path("/sys/kernel/mm/transparent_hugepage/hugepages-64kB")
BLOCK = layout.PMD_SIZE // PAGE
ORDERS = tuple(range(layout.PMD_ORDER + 1))
ORDER_BITS, ORDER = 4, 15
NO_PAGES = np.zeros(0, np.int64)


def check_host() -> None:
    """Refuse a host on which nothing can be seen.

    Raises:
        LiveError: naming what is missing.
    """
    if not KPAGEFLAGS.exists() or not MTHP.exists():
        raise LiveError(f"this kernel does not show folio sizes: it lacks {KPAGEFLAGS if MTHP.exists() else MTHP} "
                        "(multi-size THP, Linux 6.8 or later)")  # fmt: skip
    if os.geteuid() != 0:
        raise LiveError(f"only root sees the folio sizes of processes ({KPAGEFLAGS}): use sudo")


class EndedError(LiveError):
    """The process has ended."""


@dataclass(frozen=True)
class Look:
    """What one look at a process saw.

    Attributes:
        seconds: since the first look.
        space: the anonymous address space.
        mapped: MiB mapped, by order of the folio.
        appeared: folios that were not there at the look before, by order; what came and went between is not seen.
        split: folios that have become smaller ones since then.
        rss: MiB of anonymous memory that is mapped.
        usage: MiB of the folios that hold it, whole: what partial unmaps leave is in it.
        swap: MiB.
        minor, major: faults since the process began.
        took: CPU seconds of the look.
    """

    seconds: float
    space: Space
    mapped: dict[int, float]
    appeared: dict[int, int]
    split: int
    rss: float
    usage: float
    swap: float
    minor: int
    major: int
    took: float


class Watched:
    """A process, with all that come from it, that is looked at now and then. Close it, or use it as a context manager.

    Args:
        pid: the first process; with its end watching ends.

    Raises:
        LiveError: when there is no such process, it has no memory of its own, or this host does not show folios.
    """

    def __init__(self, pid: int) -> None:
        """Open its files."""
        self.pid, self._folder = pid, Path(f"/proc/{pid}")
        check_host()
        if not self._folder.exists():
            raise LiveError(f"there is no process {pid}")
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise LiveError(f"process {pid} cannot be watched: {error.strerror}") from None
        try:
            nothing = not (self._folder / "maps").read_text()
        except OSError:
            nothing = False  # it has ended
        if nothing and not self.ended:
            os.close(self._pidfd)
            raise LiveError(f"process {pid} ({self.name()}) has no memory of its own: it is a thread of the kernel")
        self._kernel = Kernel()
        self._began = time.monotonic()
        self._last_heads: tuple[np.ndarray, np.ndarray] | None = None
        self.others = 0

    def __enter__(self) -> Watched:
        """Return itself."""
        return self

    def __exit__(self, *rest: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files."""
        os.close(self._pidfd)
        self._kernel.close()

    @property
    def title(self) -> str:
        """What stands above its picture."""
        more = f" and {self.others} it has started" if self.others else ""
        return f"{self.name()} (pid {self.pid}){more}"

    def name(self) -> str:
        """Return the name of its program."""
        try:
            return (self._folder / "comm").read_text().strip()
        except OSError:
            return "?"

    def wait(self, seconds: float, *others: int) -> list[int]:
        """Wait so long at most; return which of the other files can be read. Returns early when the process ends."""
        ready, _, _ = select.select([self._pidfd, *others], [], [], max(0.0, seconds))
        return [number for number in ready if number != self._pidfd]

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return bool(select.select([self._pidfd], [], [], 0)[0])

    def look(self) -> Look:
        """Look at it.

        Raises:
            EndedError: when it has ended.
        """
        start = time.process_time()
        parts: list[np.ndarray] = []
        frames: list[np.ndarray] = []
        pages: list[np.ndarray] = []
        mapped = swap = minor = major = 0
        processes = list(family(self.pid))
        for pid in processes:
            try:
                numbers = _numbers(pid, with_children=pid == self.pid)
                minor, major, swap = (a + b for a, b in zip((minor, major, swap), numbers, strict=True))
                mapped += _pages(pid, parts, frames, pages)
            except (FileNotFoundError, ProcessLookupError):
                if pid == self.pid:
                    raise EndedError(f"process {pid} has ended") from None
            except OSError as error:
                raise LiveError(f"process {pid} cannot be watched: {error.strerror}") from None
        self.others = len(processes) - 1
        all_frames = np.concatenate([*frames, NO_PAGES])
        self._kernel.begin_step()
        rows = self._kernel.folios(all_frames, np.zeros(len(all_frames), bool), counted=False)
        order = np.where(rows["kind"] == "F", rows["order"].astype(np.int8), np.int8(ZERO))
        at = 0
        for part in parts:
            has_frame = part != NOTHING
            count = int(has_frame.sum())
            part[has_frame] = order[at : at + count]
            at += count
        folios = rows["kind"] == "F"
        heads, first = np.unique(rows["head"][folios] << ORDER_BITS | rows["order"][folios], return_index=True)
        offsets = (np.concatenate([*pages, NO_PAGES]) - all_frames)[folios][first]
        appeared, split = self._changes(heads, offsets)
        usage = float((1 << (heads & ORDER)).sum()) / 256
        sizes = np.bincount(order[order >= 0], minlength=len(ORDERS)) / 256
        resident = float((order >= 0).sum()) / 256
        self._last_heads = heads, offsets
        by_size = dict(zip(ORDERS, sizes.tolist(), strict=True))
        space, took = Space(parts, mapped / 256, resident), time.process_time() - start
        return Look(time.monotonic() - self._began, space, by_size, appeared, split, resident, usage, swap / 1024,
                    minor, major, took)  # fmt: skip

    def _changes(self, heads: np.ndarray, offsets: np.ndarray) -> tuple[dict[int, int], int]:
        """Return the folios that have appeared, by order, and how many have been split.

        Args:
            heads: of each folio the first frame, and in the lowest bits its order; sorted.
            offsets: of each how far the page that it is mapped at lies from its frame: frames that lay in a larger
                folio there are what is left of it, others are new.
        """
        orders = heads & ORDER
        if self._last_heads is None or not len(self._last_heads[0]):
            return _by_order(orders if self._last_heads is not None else orders[:0]), 0
        last_heads, last_offsets = self._last_heads
        nearest = (np.searchsorted(last_heads >> ORDER_BITS, heads >> ORDER_BITS, side="right") - 1).clip(min=0)
        before = last_heads[nearest]
        inside = (heads >> ORDER_BITS) - (before >> ORDER_BITS)
        same_place = (inside >= 0) & (inside < 1 << (before & ORDER)) & (offsets == last_offsets[nearest])
        smaller = same_place & (orders < before & ORDER)
        return _by_order(orders[~same_place]), len(np.unique(before[smaller]))


def _by_order(orders: np.ndarray) -> dict[int, int]:
    return dict(zip(ORDERS, np.bincount(orders, minlength=len(ORDERS)).tolist(), strict=True))


def _numbers(pid: int, with_children: bool) -> tuple[int, int, int]:
    """Return (minor faults, major faults, KiB in swap); also the faults of children that have ended."""
    folder = Path(f"/proc/{pid}")
    fields = [int(field) for field in (folder / "stat").read_text().rpartition(")")[2].split()[7:11]]
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    swap = status.get("VmSwap", "").split()
    if not swap:  # a zombie has no memory
        raise ProcessLookupError
    minor, of_children, major, major_of_children = fields
    return minor + of_children * with_children, major + major_of_children * with_children, int(swap[0])


def _pages(pid: int, parts: list[np.ndarray], frames: list[np.ndarray], pages: list[np.ndarray]) -> int:
    """Add what is drawn of each mapping, the frames of all pages, and their numbers; return how many could be there.

    In a mapping's part is 0 where there is a page, else `NOTHING`.
    """
    mapped = 0
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for start, end in _anonymous(pid):
            mapped += (end - start) // PAGE
            ranges = [(first, last) for first, last, _ in scan(pagemap, start, end, PAGE_IS_PRESENT)]
            part, place = _empty(start, end, ranges)
            for first, last in ranges:
                entries = words(pagemap, first // PAGE, (last - first) // PAGE)
                present = entries & PM_PRESENT != 0  # what has gone since the scan is not there any more
                part[place(first) : place(first) + len(present)][present] = 0
                frames.append((entries[present] & PM_FRAME).astype(np.int64))
                pages.append(first // PAGE + np.flatnonzero(present))
            parts.append(part)
    finally:
        os.close(pagemap)
    return mapped


def _anonymous(pid: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the anonymous mappings."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = VMA.match(line)
        if match and match[4] == "0" and not match[5].startswith("[v"):
            yield int(match[1], 16), int(match[2], 16)


def _empty(start: int, end: int, ranges: list[tuple[int, int]]) -> tuple[np.ndarray, Callable[[int], int]]:
    """Return what is drawn of a mapping, with nothing in it yet, and where in it an address stands."""
    if end - start <= WHOLE:
        return np.full((end - start) // PAGE, NOTHING, np.int8), lambda address: (address - start) // PAGE
    blocks = np.unique(np.concatenate([
        np.arange(first // layout.PMD_SIZE, -(-last // layout.PMD_SIZE)) for first, last in ranges
    ] or [np.zeros(0, np.int64)]))  # fmt: skip

    def place(address: int) -> int:
        block = int(np.searchsorted(blocks, address // layout.PMD_SIZE))
        return block * BLOCK + address % layout.PMD_SIZE // PAGE

    return np.full(max(1, len(blocks) * BLOCK), NOTHING, np.int8), place
