"""Who else uses huge pages on this host: the kernel's counters are the whole system's."""

from __future__ import annotations

import re
import time
from pathlib import Path

from thp_env.live.observe import Kernel

QUIET = 0.3
"""Seconds in which counters must stand still while nothing of ours runs."""
HUGE = re.compile(r"^AnonHugePages:\s+(\d+) kB", re.MULTILINE)


def explainable(what: str) -> bool:
    """Whether what differs is a counter of the whole system, which others move, too."""
    return what.startswith(("vmstat ", "hugepages-"))


def huge_page_users(cgroup: Path) -> list[str]:
    """Return the processes outside a program's control groups that have huge pages, as "python3 (pid 123, 24 MiB)"."""
    own: set[str] = set()
    for group in (cgroup, *cgroup.parent.glob(f"{cgroup.name}.*")):
        own |= set((group / "cgroup.procs").read_text().split()) if group.exists() else set()
    users = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            match = HUGE.search((folder / "smaps_rollup").read_text())
            if folder.name not in own and match and int(match[1]):
                name = (folder / "comm").read_text().strip()
                users.append(f"{name} (pid {folder.name}, {int(match[1]) >> 10} MiB)")
        except OSError:  # it has ended, or is a thread of the kernel
            continue
    return sorted(users)


def moving_counters(kernel: Kernel) -> list[str]:
    """Return the counters that move while nothing of ours runs."""
    before = kernel.counters()
    time.sleep(QUIET)
    after = kernel.counters()
    changes = [key for key, value in after.items() if value != before[key]]
    return [name if size == "vm" else f"hugepages-{size}kB {name}" for size, name in changes]


def others(cgroup: Path, kernel: Kernel) -> str:
    """Say in words who may have moved the counters, empty when nobody is seen."""
    users, counters = huge_page_users(cgroup), moving_counters(kernel)
    reasons = [f"huge pages of {', '.join(users)}"] if users else []
    if counters:
        reasons.append(f"while nothing of ours ran, {', '.join(counters)} moved")
    return "; ".join(reasons)
