"""Processes of this host, as /proc shows them."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def children(pid: int) -> list[int]:
    """Return the children of a process; none when it has ended."""
    pids: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                pids += map(int, (task / "children").read_text().split())
    return pids


def family(pid: int) -> list[int]:
    """Return a process and all its descendants; the process comes first."""
    return [pid, *(descendant for child in children(pid) for descendant in family(child))]


@contextmanager
def ended_with(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process that was started here by SIGTERM when the block is left by an exception, such as ctrl-C."""
    try:
        yield
    except BaseException:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()
        raise


def anonymous_bytes(status: str) -> int:
    """Return the anonymous memory of a process from its /proc/PID/status, in bytes."""
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
