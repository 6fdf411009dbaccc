"""A process of this host as it is now: its anonymous memory by folio size, and what has changed since the last look.

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
from thp_env.live.observe import PAGE, PAGE_IS_PRESENT, PM_FRAME, VMA, Kernel, scan, words
from thp_env.machine import layout

WHOLE = 1 << 30
"""Bytes of a mapping up to which all of it is drawn; of a larger one the 2M blocks in which there is something."""
KPAGEFLAGS = Path("/proc/kpageflags")
MTHP = Path("/sys/kernel/mm/transparent_hugepage/hugepages-64kB")
BLOCK = layout.PMD_SIZE // PAGE
ORDERS = tuple(range(layout.PMD_ORDER + 1))
ORDER_BITS, ORDER = 4, 15


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
        took: seconds of the look.
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
    """A process that is looked at now and then. Close it, or use it as a context manager.

    Args:
        pid: whose memory.

    Raises:
        LiveError: when there is no such process, it has no memory of its own, or this host does not show folios.
    """

    def __init__(self, pid: int) -> None:
        """Open its files."""
        self.pid, self._folder = pid, Path(f"/proc/{pid}")
        if not KPAGEFLAGS.exists() or not MTHP.exists():
            raise LiveError(f"this kernel does not show folio sizes: it lacks {KPAGEFLAGS if MTHP.exists() else MTHP} "
                            "(multi-size THP, Linux 6.8 or later)")  # fmt: skip
        if not self._folder.exists():
            raise LiveError(f"there is no process {pid}")
        if os.geteuid() != 0:
            raise LiveError(f"only root sees the folio sizes of process {pid} ({KPAGEFLAGS}): use sudo")
        try:
            if not (self._folder / "maps").read_text():
                raise LiveError(f"process {pid} ({self.name()}) has no memory of its own: it is a thread of the kernel "
                                "or has ended")  # fmt: skip
            self._pagemap = os.open(self._folder / "pagemap", os.O_RDONLY)
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise LiveError(f"process {pid} cannot be watched: {error.strerror}") from None
        self._kernel = Kernel()
        self._began = time.monotonic()
        self._seen: np.ndarray | None = None

    def __enter__(self) -> Watched:
        """Return itself."""
        return self

    def __exit__(self, *rest: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files."""
        os.close(self._pagemap)
        os.close(self._pidfd)
        self._kernel.close()

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
        start = time.monotonic()
        try:
            numbers, (minor, major) = self._status(), self._faults()
            parts, frames, huge, mapped = self._pages()
        except (FileNotFoundError, ProcessLookupError, StopIteration, IndexError):
            raise EndedError(f"process {self.pid} has ended") from None
        except OSError as error:
            raise LiveError(f"process {self.pid} cannot be watched: {error.strerror}") from None
        self._kernel.begin_step()
        rows = self._kernel.folios(frames, huge, counted=False)
        order = np.where(rows["kind"] == "F", rows["order"].astype(np.int8), np.int8(ZERO))
        at = 0
        for part in parts:
            here = part != NOTHING
            count = int(here.sum())
            part[here] = order[at : at + count]
            at += count
        folios = rows["kind"] == "F"
        heads = np.unique(rows["head"][folios] << ORDER_BITS | rows["order"][folios])
        appeared, split = self._changes(heads)
        usage = float((1 << (heads & ORDER)).sum()) / 256
        pages = np.bincount(order[order >= 0], minlength=len(ORDERS)) / 256
        resident = float((order >= 0).sum()) / 256
        self._seen = heads
        end = time.monotonic()
        return Look(
            end - self._began, Space(parts, mapped / 256, resident), dict(zip(ORDERS, pages.tolist(), strict=True)),
            appeared, split, resident, usage, numbers["VmSwap"] / 1024, minor, major, end - start,
        )  # fmt: skip

    def _status(self) -> dict[str, int]:
        """Return what /proc/PID/status says in KiB."""
        lines = (line.split() for line in (self._folder / "status").read_text().splitlines())
        found = {words[0][:-1]: int(words[1]) for words in lines if words[-1] == "kB"}
        if "VmSwap" not in found:  # a zombie has no memory
            raise ProcessLookupError
        return found

    def _faults(self) -> tuple[int, int]:
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return int(fields[7]), int(fields[9])

    def _pages(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, int]:
        """Return what is drawn of each mapping, the frames of all pages, which a PMD maps, and the pages mapped.

        In a mapping's part is 0 where there is a page, else `NOTHING`.
        """
        parts, frames, mapped = [], [], 0
        for start, end in self._anonymous():
            mapped += (end - start) // PAGE
            ranges = [(first, last) for first, last, _ in scan(self._pagemap, start, end, PAGE_IS_PRESENT)]
            entries = [words(self._pagemap, first // PAGE, (last - first) // PAGE) for first, last in ranges]
            # What has gone since the scan is not there any more.
            there = [(first, found & PM_FRAME, found >> np.uint64(63) != 0)
                     for (first, _), found in zip(ranges, entries, strict=True)]  # fmt: skip
            part, place = _empty(start, end, ranges)
            for first, frame, present in there:
                at = place(first)
                part[at : at + len(present)][present] = 0
                frames.append(frame[present].astype(np.int64))
            parts.append(part)
        every = np.concatenate(frames) if frames else np.zeros(0, np.int64)
        return parts, every, np.zeros(len(every), bool), mapped

    def _anonymous(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of the anonymous mappings."""
        for line in (self._folder / "maps").read_text().splitlines():
            match = VMA.match(line)
            if match and match[4] == "0" and not match[5].startswith("[v"):
                yield int(match[1], 16), int(match[2], 16)

    def _changes(self, heads: np.ndarray) -> tuple[dict[int, int], int]:
        """Return the folios that have appeared, by order, and how many have been split.

        Args:
            heads: of each folio the first frame, and in the lowest bits its order; sorted.
        """
        seen, orders = self._seen, heads & ORDER
        if seen is None or not len(seen):
            return _by_order(orders if seen is not None else orders[:0]), 0
        nearest = np.searchsorted(seen >> ORDER_BITS, heads >> ORDER_BITS, side="right") - 1
        before = seen[nearest.clip(min=0)]
        known = (nearest >= 0) & (heads >> ORDER_BITS < (before >> ORDER_BITS) + (1 << (before & ORDER)))
        smaller = known & (orders < before & ORDER)
        return _by_order(orders[~known]), len(np.unique(before[smaller]))


def _by_order(orders: np.ndarray) -> dict[int, int]:
    return dict(zip(ORDERS, np.bincount(orders, minlength=len(ORDERS)).tolist(), strict=True))


def _empty(
    start: int, end: int, ranges: list[tuple[int, int]]
) -> tuple[np.ndarray, Callable[[int], int]]:
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
