"""The host while programs run on its kernel: what it needs, how it is prepared, swap and khugepaged."""

from __future__ import annotations

import ctypes
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thp_env.live.errors import LiveError
from thp_env.live.settings import (
    MEMORY_CGROUPS,
    THP,
    ZRAM,
    Settings,
    read,
    remove_folder,
    remove_zram,
    temporary_settings,
    thread_of_kernel,
    wait,
    write,
)
from thp_env.live.workers import Guard
from thp_env.machine import layout

CGROUP = "thp-env-live"
PAGE_CLUSTER = Path("/proc/sys/vm/page-cluster")
KHUGEPAGED, KHUGEPAGED_NICE = "khugepaged", -10
NEVER_MS = "3600000"

SETTINGS: dict[str | Path, str] = {
    "enabled": "madvise",
    "defrag": "madvise",
    "use_zero_page": "1",
    "shrink_underused": "1",
    "hugepages-2048kB/shmem_enabled": "advise",  # keeps the thread khugepaged alive
    "khugepaged/max_ptes_none": "511",
    "khugepaged/max_ptes_shared": "256",
    "khugepaged/max_ptes_swap": "64",
    "khugepaged/pages_to_scan": "2000000",
    "khugepaged/defrag": "1",
    "khugepaged/scan_sleep_millisecs": NEVER_MS,
    **{f"hugepages-{kilobytes}kB/enabled": "never" for kilobytes in layout.THP_KILOBYTES},
}
"""What every run starts with: the kernel's defaults, and khugepaged asleep."""

PREPARED: dict[str | Path, str] = {**SETTINGS, PAGE_CLUSTER: "3"}

_libc = ctypes.CDLL(None, use_errno=True)


def missing() -> list[str]:
    """Return what this host lacks to run programs, in words; empty when it has everything."""
    lacks = []
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return ["Linux on x86-64"]
    if os.geteuid() != 0:
        lacks.append("root (it sets sysfs controls and reads /proc/kpageflags)")
    if not (THP / "hugepages-64kB/stats/nr_anon_partially_mapped").exists():
        lacks.append(f"multi-size THP with its counters (Linux 6.12 or later, {THP}/hugepages-64kB/stats)")
    lacks += [path for path in ("/proc/kpageflags", "/proc/kpagecount") if not Path(path).exists()]
    if not MEMORY_CGROUPS.is_dir():
        lacks.append(f"the memory controller of cgroup v1 (memory.force_empty), mounted at {MEMORY_CGROUPS}")
    return lacks


class Host:
    """The host while programs run on it. Use `prepared()`."""

    def __init__(self, settings: Settings) -> None:
        """Take over what changes settings; nothing has changed yet."""
        self.settings = settings
        self.cgroup = MEMORY_CGROUPS / CGROUP
        self.zram: list[int] = []
        self.guard: Guard | None = None
        self._thread = 0

    def begin(self) -> None:
        """Set everything as programs expect it to be; no size is on."""
        self.settings.write_all(PREPARED)
        for group in self.groups():  # what reclaim has learned of earlier programs goes with it
            if not remove_folder(group):
                raise LiveError(f"{group} is still in use: remove it with rmdir")
        self.make_group(0)

    def groups(self) -> list[Path]:
        """Return the folders of a program's control groups that there are."""
        folders = [self.cgroup, *sorted(self.cgroup.parent.glob(f"{self.cgroup.name}.*"))]
        return [path for path in folders if path.exists()]

    def group(self, number: int) -> Path:
        """Return the folder of one of a program's control groups."""
        return self.cgroup.with_name(f"{self.cgroup.name}.{number}") if number else self.cgroup

    def make_group(self, number: int) -> Path:
        """Return it, made if there is none."""
        if not (path := self.group(number)).exists():
            write(self.settings.cgroup(path.name) / "memory.swappiness", "60")
        return path

    def oom_kills(self) -> int:
        """Return how many processes the limits of a program's groups have killed."""
        return sum(int((path / "memory.oom_control").read_text().split()[-1]) for path in self.groups())

    def wake_khugepaged(self) -> None:
        """Find the thread, which exists while a size is on, let it run ahead of others, and send it to sleep."""
        thread = thread_of_kernel(KHUGEPAGED)
        if thread and thread != self._thread:
            self._thread = thread
            self.settings.nice(thread, KHUGEPAGED, KHUGEPAGED_NICE)

    def khugepaged(self, rounds: int) -> None:
        """Let khugepaged make at least so many full scans."""
        self.wake_khugepaged()
        scans = THP / "khugepaged/full_scans"

        def scanned(n: int) -> bool:
            start = int(read(scans))
            return wait(lambda: int(read(scans)) >= start + n)

        write(THP / "khugepaged/scan_sleep_millisecs", "20")
        done = scanned(rounds + 1)
        write(THP / "khugepaged/scan_sleep_millisecs", NEVER_MS)
        if not done:
            raise LiveError("khugepaged does not scan")
        time.sleep(0.05)  # it may be in the middle of one more

    def drain(self) -> None:
        """Empty the LRU's batches."""
        if self.guard:
            self.guard.drain()

    def swap(self, length: int) -> int:
        """Make a zram device of so many bytes and swap to it; return the errno."""
        if len(Path("/proc/swaps").read_text().splitlines()) > 1:
            raise LiveError("other swap is on: turn it off first (swapoff -a)")
        device = int(read(ZRAM / "hot_add"))
        self.settings.remember({"kind": "zram", "name": str(device), "value": ""})
        self.zram.append(device)
        if error := write(Path(f"/sys/block/zram{device}/disksize"), str(length)):
            return error
        header = bytearray(layout.PAGE_SIZE)  # include/linux/swap.h: union swap_header
        header[1024:1032] = (1).to_bytes(4, "little") + (length // layout.PAGE_SIZE - 1).to_bytes(4, "little")
        header[-10:] = b"SWAPSPACE2"
        name = f"/dev/zram{device}"
        if not Path(name).exists():
            os.mknod(name, 0o60600, os.makedev(*map(int, read(Path(f"/sys/block/zram{device}/dev")).split(":"))))
        with open(name, "wb", buffering=0) as file:
            file.write(header)
        return ctypes.get_errno() if _libc.swapon(name.encode(), 0) else 0

    def swapoff(self) -> int:
        """Read everything back in, and remove the device; return the errno."""
        device = self.zram[-1]
        if _libc.swapoff(f"/dev/zram{device}".encode()):
            return ctypes.get_errno()
        self.remove_swap()
        return 0

    def remove_swap(self) -> None:
        """Remove the device after a program."""
        while self.zram:
            device = str(self.zram.pop())
            if remove_zram(device):
                self.settings.forget("zram", device)


@contextmanager
def prepared() -> Iterator[Host]:
    """Prepare the host for programs, and put everything back in the end (`settings.temporary_settings`).

    Raises:
        LiveError: when the host lacks something, which it names.
    """
    if lacks := missing():
        raise LiveError("this host cannot run programs on its kernel; it lacks " + ", ".join(lacks))
    # NumPy advises its arrays; that would be counted.
    with temporary_settings({}, disable=(1, 0)) as settings, _one_cpu():
        host = Host(settings)
        host.begin()
        settings.write("hugepages-2048kB/enabled", "madvise")
        host.guard = Guard()
        try:
            wait(lambda: thread_of_kernel(KHUGEPAGED) > 0)
            host.wake_khugepaged()
            yield host
        finally:
            host.guard.close()


@contextmanager
def _one_cpu() -> Iterator[None]:
    """Run on one CPU: batches and swap clusters are per CPU."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cpus)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cpus)
