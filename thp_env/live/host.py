"""The host's settings: what a run needs, what it changes, and how everything is put back.

What is changed is written to a file first (`SNAPSHOT`), so that it can be put back even when the run was killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from thp_env.live.workers import Guard, LiveError
from thp_env.machine import layout

THP = Path("/sys/kernel/mm/transparent_hugepage")
CGROUPS = Path("/sys/fs/cgroup")
ZRAM = Path("/sys/class/zram-control")
PAGE_CLUSTER = Path("/proc/sys/vm/page-cluster")
SNAPSHOT = Path("/run/thp-env-live.json")
KHUGEPAGED_NICE = -10
NEVER_MS = "3600000"
PR_SET_THP_DISABLE = 41

SETTINGS = {
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
    if not _memory_cgroups().is_dir():
        lacks.append("the memory controller of cgroup v1 (memory.force_empty), mounted at " + str(_memory_cgroups()))
    return lacks


def _memory_cgroups() -> Path:
    return CGROUPS / "memory"


def _read(path: Path) -> str:
    text = path.read_text().strip()
    chosen = re.search(r"\[(\S+)\]", text)
    return chosen[1] if chosen else text


def write(path: Path, value: str) -> int:
    """Write a value to a file of the kernel; return the errno."""
    try:
        path.write_text(value)
    except OSError as error:
        return error.errno or 1
    return 0


def _khugepaged() -> int:
    for path in Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text() == "khugepaged\n":
                return int(path.parent.name)
        except OSError:
            continue
    return 0


def _wait(done: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def restore(path: Path = SNAPSHOT) -> bool:
    """Put back what an earlier run wrote down; False when there is nothing to put back."""
    if not path.exists():
        return False
    saved = json.loads(path.read_text())
    for device in saved["zram"]:
        _remove_zram(device)
    for name, value in saved["settings"].items():
        write(Path(name), value)
    thread = _khugepaged()
    if thread and saved["nice"] is not None:
        os.setpriority(os.PRIO_PROCESS, thread, saved["nice"])
    cgroup = Path(saved["cgroup"])
    if not _wait(lambda: _remove_groups(cgroup)):
        raise LiveError(f"{cgroup} is still in use: remove it with rmdir")
    path.unlink()
    return True


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _remove_groups(cgroup: Path) -> bool:
    """Remove the groups of a run; False while one of them is in use."""
    found = [cgroup, *cgroup.parent.glob(f"{cgroup.name}.*")]
    return all([_remove(path) for path in found if path.exists()])


def _remove_zram(device: int) -> None:
    if not Path(f"/sys/block/zram{device}").exists():
        return
    _libc.swapoff(f"/dev/zram{device}".encode())
    write(Path(f"/sys/block/zram{device}/reset"), "1")
    write(ZRAM / "hot_remove", str(device))


class Host:
    """The host while programs run on it. Use `prepared()`."""

    def __init__(self) -> None:
        """Write down how everything is."""
        self.cgroup = _memory_cgroups() / "thp-env-live"
        self.zram: list[int] = []
        self._thread = 0
        self._settings = {str(THP / name): _read(THP / name) for name in SETTINGS}
        self._settings[str(PAGE_CLUSTER)] = _read(PAGE_CLUSTER)
        self._nice: int | None = None
        self.guard: Guard | None = None
        self._save()

    def _save(self) -> None:
        saved = {"settings": self._settings, "zram": self.zram, "nice": self._nice, "cgroup": str(self.cgroup)}
        part = SNAPSHOT.with_suffix(".part")
        part.write_text(json.dumps(saved))
        part.replace(SNAPSHOT)

    def begin(self) -> None:
        """Set everything as programs expect it to be; no size is on."""
        for name, value in SETTINGS.items():
            write(THP / name, value)
        write(PAGE_CLUSTER, "3")
        if not _wait(lambda: _remove_groups(self.cgroup)):  # what reclaim has learned of earlier programs goes with it
            raise LiveError(f"{self.cgroup} is still in use: remove it with rmdir")
        self.make_group(0)

    def group(self, number: int) -> Path:
        """Return the folder of one of a program's control groups."""
        return self.cgroup.with_name(f"{self.cgroup.name}.{number}") if number else self.cgroup

    def oom_kills(self) -> int:
        """Return how many processes the limits of a program's groups have killed."""
        found = [self.cgroup, *self.cgroup.parent.glob(f"{self.cgroup.name}.*")]
        return sum(int((path / "memory.oom_control").read_text().split()[-1]) for path in found)

    def make_group(self, number: int) -> Path:
        """Return it, made if there is none."""
        if not (path := self.group(number)).exists():
            path.mkdir()
            write(path / "memory.swappiness", "60")
        return path

    def wake_khugepaged(self) -> None:
        """Find the thread, which exists while a size is on, let it run ahead of others, and send it to sleep."""
        thread = _khugepaged()
        if thread != self._thread:
            self._thread, self._nice = thread, self._nice or os.getpriority(os.PRIO_PROCESS, thread)
            self._save()
            os.setpriority(os.PRIO_PROCESS, thread, KHUGEPAGED_NICE)

    def khugepaged(self, rounds: int) -> None:
        """Let khugepaged make at least so many full scans."""
        self.wake_khugepaged()
        scans = THP / "khugepaged/full_scans"

        def wait(n: int) -> bool:
            start = int(_read(scans))
            return _wait(lambda: int(_read(scans)) >= start + n)

        write(THP / "khugepaged/scan_sleep_millisecs", "20")
        done = wait(rounds + 1)
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
        device = int(_read(ZRAM / "hot_add"))
        self.zram.append(device)
        self._save()
        if error := write(Path(f"/sys/block/zram{device}/disksize"), str(length)):
            return error
        header = bytearray(layout.PAGE_SIZE)  # include/linux/swap.h: union swap_header
        header[1024:1032] = (1).to_bytes(4, "little") + (length // layout.PAGE_SIZE - 1).to_bytes(4, "little")
        header[-10:] = b"SWAPSPACE2"
        name = f"/dev/zram{device}"
        if not Path(name).exists():
            os.mknod(name, 0o60600, os.makedev(*map(int, _read(Path(f"/sys/block/zram{device}/dev")).split(":"))))
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
            _remove_zram(self.zram[-1])
            self.zram.pop()
            self._save()


@contextmanager
def prepared() -> Iterator[Host]:
    """Prepare the host for programs, and put everything back in the end, also after ctrl-C or SIGTERM.

    Raises:
        LiveError: when the host lacks something, which it names.
    """
    if lacks := missing():
        raise LiveError("this host cannot run programs on its kernel; it lacks " + ", ".join(lacks))
    with open("/run/thp-env-live.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LiveError("another live run is under way") from None
        if SNAPSHOT.exists():
            raise LiveError("an earlier run was killed: put its settings back with thp-env conformance --restore")
        _libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # NumPy advises its arrays; that would be counted
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cpus)})  # batches and swap clusters are per CPU
        terminate = signal.signal(signal.SIGTERM, _interrupt)
        host = Host()
        try:
            host.begin()
            write(THP / "hugepages-2048kB/enabled", "madvise")
            host.guard = Guard()
            _wait(lambda: _khugepaged() > 0)
            host.wake_khugepaged()
            yield host
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            if host.guard:
                host.guard.close()
            restore()
            os.sched_setaffinity(0, cpus)
            _libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
            signal.signal(signal.SIGTERM, terminate)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
