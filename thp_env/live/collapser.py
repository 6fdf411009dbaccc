"""Collapses the memory of a process from outside, by process_madvise(2).

It does for a program that nobody can change what MADV_COLLAPSE in its source would: now and then it looks at all
anonymous memory, and makes one folio of each 2M block that is filled far enough and not huge yet.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from thp_env.live.errors import LiveError
from thp_env.live.observe import PAGE, PAGE_IS_HUGE, PAGE_IS_PRESENT, VMA, scan
from thp_env.machine.layout import ADVICE, PMD_SIZE
from thp_env.processes import family

EVERY = 1.0
"""Seconds between two looks."""
LEAST = 0.5
"""Share of a block that has to be there before it is collapsed: the rest is zeroed, and takes memory."""
PROCESS_MADVISE = 440
"""The system call, on every architecture (Linux 5.10; with MADV_COLLAPSE 6.1)."""
AT_ONCE = 64
"""Blocks that a call advises at most."""

ANONYMOUS = re.compile(r"|\[heap\]|\[anon:.*\]")
"""What /proc/PID/maps says of a VMA instead of a file."""

KINDS = PAGE_IS_PRESENT | PAGE_IS_HUGE

_libc = ctypes.CDLL(None, use_errno=True)


def check_root() -> None:
    """Refuse whoever may not advise other processes.

    Raises:
        LiveError: without root.
    """
    if os.geteuid():
        raise LiveError("only root advises the memory of other processes (process_madvise): use sudo")


class Collapser:
    """Collapses blocks of a process and all that come from it.

    Args:
        pid: the process.
        least: as `LEAST`.

    Attributes:
        collapsed: blocks so far.
        refused: by errno, how often the kernel did not; such a block is tried again when it has more pages.
        took: CPU seconds so far, those of the kernel included.

    Raises:
        LiveError: without root, or when there is no such process.
    """

    def __init__(self, pid: int, least: float = LEAST) -> None:
        """Check that it can be done."""
        check_root()
        if not Path(f"/proc/{pid}").exists():
            raise LiveError(f"there is no process {pid}")
        self.pid, self.least = pid, least
        self.collapsed, self.refused, self.took = 0, Counter[int](), 0.0
        self._pages_when_refused: dict[tuple[int, int], int] = {}

    def look(self) -> int:
        """Collapse what is due; return how many blocks.

        Raises:
            LiveError: when the kernel cannot do it at all.
        """
        start, before = time.thread_time(), self.collapsed
        for pid in family(self.pid):
            try:
                self._collapse(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended meanwhile
            except OSError as error:
                if error.errno != errno.ENOTTY:
                    raise
                raise LiveError("this kernel does not say which pages are huge: PAGEMAP_SCAN needs Linux 6.7") from None
        self.took += time.thread_time() - start
        return self.collapsed - before

    def _collapse(self, pid: int) -> None:
        pages = _blocks(pid)
        due = [block for block, count in pages.items()
               if count >= self.least * PMD_SIZE // PAGE and count > self._pages_when_refused.get((pid, block), 0)]
        if not due:
            return
        number = os.pidfd_open(pid)
        try:
            at = 0
            while at < len(due):
                done = _advise(number, due[at : at + AT_ONCE])
                if done > 0:
                    self.collapsed += done
                    at += done
                elif -done == errno.ESRCH:  # it has ended meanwhile
                    return
                elif -done in (errno.EPERM, errno.ENOSYS, errno.EBADF):
                    raise LiveError(f"process_madvise: {os.strerror(-done)}: it needs Linux 6.1 and CAP_SYS_NICE")
                else:
                    self.refused[-done] += 1
                    self._pages_when_refused[pid, due[at]] = pages[due[at]]
                    at += 1
        finally:
            os.close(number)


def _blocks(pid: int) -> Counter[int]:
    """Return the whole 2M blocks of private anonymous memory that no PMD maps: pages that are there, by address."""
    pages = Counter[int]()
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        for first, end in _areas(pid):
            for start, stop, kinds in scan(pagemap.fileno(), first, end, PAGE_IS_PRESENT, KINDS):
                if kinds & PAGE_IS_HUGE:
                    continue
                for block in range(start - start % PMD_SIZE, stop, PMD_SIZE):
                    pages[block] += (min(stop, block + PMD_SIZE) - max(start, block)) // PAGE
    return pages


def _areas(pid: int) -> Iterator[tuple[int, int]]:
    """Yield where the whole blocks of each private, anonymous, writable VMA begin and end."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        match = VMA.match(line)
        if not match or match[3][:2] != "rw" or not ANONYMOUS.fullmatch(match[5]):
            continue
        first, end = -(-int(match[1], 16) // PMD_SIZE) * PMD_SIZE, int(match[2], 16) // PMD_SIZE * PMD_SIZE
        if first < end:
            yield first, end


def _advise(pidfd: int, blocks: list[int]) -> int:
    """Collapse blocks until the first that cannot be; return how many were, or the negative errno of the first."""
    vector = b"".join(struct.pack("=QQ", block, PMD_SIZE) for block in blocks)
    done = _libc.syscall(PROCESS_MADVISE, pidfd, vector, ctypes.c_size_t(len(blocks)), ADVICE["collapse"], 0)
    return done // PMD_SIZE or -errno.EAGAIN if done >= 0 else -ctypes.get_errno()


class Looks:
    """Looks at a process from a thread, until it is stopped."""

    def __init__(self, pid: int, every: float = EVERY, least: float = LEAST) -> None:
        """Begin, with a first look after `every` seconds."""
        self.collapser, self._every = Collapser(pid, least), every
        self._over = threading.Event()
        self._error: LiveError | OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.wait(self._every):
                self.collapser.look()
        except (LiveError, OSError) as error:
            self._error = error

    def stop(self) -> float:
        """Look no more; return the CPU seconds that it took.

        Raises:
            LiveError, OSError: when the kernel could not do it.
        """
        self._over.set()
        self._thread.join()
        if self._error:
            raise self._error
        return self.collapser.took
