"""`perf script` of page faults and system calls as a trace program.

Recorded by, for example,

    perf record -d -c 1 -e exceptions:page_fault_user -e 'syscalls:sys_*_mmap' -e 'syscalls:sys_*_munmap' \\
        -e 'syscalls:sys_*_brk' -e 'syscalls:sys_*_mremap' -e 'syscalls:sys_*_madvise' COMMAND
"""

from __future__ import annotations

import re
from pathlib import Path

from thp_env.traces.program import Program
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.process_log import CALLS, ProcessLog

LINE = re.compile(
    r"\s*(?P<comm>\S.*?)\s+(?:(?P<pid>\d+)/)?(?P<tid>\d+)\s+(?:\[\d+\]\s+)?(?P<time>\d+\.\d+):\s+"
    r"(?:\d+\s+)?(?P<event>[\w:-]+?):(?: +(?P<rest>.*))?"
)
"""comm, [pid/]tid, cpu, seconds, period, event, its fields."""
FIELD = re.compile(r"\w+: (0x[0-9a-f]+|-?\d+)")
FAULT = re.compile(r"address=(0x[0-9a-f]+) ip=\S+ error_code=(0x[0-9a-f]+)")
ADDRESS = re.compile(r"\s*([0-9a-f]+)\s")
WRITE, FETCH = 0x2, 0x10
"""Bits of x86's page fault error code."""
ERRORS = (1 << 64) - 4096
"""Results from here on are error numbers."""


def read_perf(path: Path, pid: int | None = None) -> Program:
    """Read the text that `perf script` prints.

    Faults are the only touches that it shows: exact ones if the run had no large folios, which fault once for many
    pages. `exceptions:page_fault_user` tells reads from writes; the software event `page-faults` does not, and all of
    its faults count as writes.

    Args:
        path: the text.
        pid: the process, or a thread of it if perf printed only those; None: the first one.

    Raises:
        ImportingError: for the first line that perf would not print, or a file without such events.
    """
    log = ProcessLog(path, {"perf shows faults, not accesses: every page is accessed once each time it faults"})
    text = path.read_text()
    pending: dict[int, tuple[str, list[int]]] = {}
    begin: float | None = None
    number, line, seen = 0, "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if found is None:
            raise ImportingError.at(path, number, "not a line of perf script", line)
        thread, process = int(found["tid"]), int(found["pid"] or found["tid"])
        pid = process if pid is None else pid
        if process != pid:
            log.notes.add("the log has other processes or threads, which were left out")
            continue
        now = float(found["time"])
        begin = now if begin is None else begin
        ns = round((now - begin) * 1e9)
        event, rest = found["event"].removeprefix("syscalls:"), found["rest"] or ""
        if event.startswith("sys_enter_"):
            pending[thread] = event.removeprefix("sys_enter_"), [int(a, 0) for a in FIELD.findall(rest)]
        elif event.startswith("sys_exit_"):
            name, args = pending.pop(thread, ("", []))
            if not re.fullmatch(r"0x[0-9a-f]+|-?\d+", rest.strip()):
                raise ImportingError.at(path, number, "a call's result is missing", line)
            if name == event.removeprefix("sys_exit_") and name in CALLS:
                _call(log, path, number, ns, name, args, int(rest, 0))
        elif event == "exceptions:page_fault_user":
            fault = FAULT.search(rest)
            if fault is None:
                raise ImportingError.at(path, number, "a fault without address and error_code", line)
            code = int(fault[2], 16)
            if not code & FETCH:  # code is a file's
                log.touch(ns, int(fault[1], 16), bool(code & WRITE))
        elif event.startswith("page-faults"):
            address = ADDRESS.match(rest + " ")
            if address is None:
                raise ImportingError.at(path, number, "a fault without address: record with -d and print addr", line)
            log.notes.add("page-faults does not tell reads from writes: all faults count as writes")
            log.touch(ns, int(address[1], 16), True)
        else:
            continue
        seen += 1
    if text and not text.endswith("\n"):
        raise ImportingError.at(path, number, "the log is truncated: it ends inside a line", line)
    if not seen:
        raise ImportingError(f"{path}: there are no page faults and no system calls of process {pid} in it")
    return log.program(path.stem, "perf")


def _call(log: ProcessLog, path: Path, line: int, ns: int, name: str, args: list[int], result: int) -> None:
    if not 0 <= result < ERRORS:
        return
    if len(args) < {"brk": 1, "munmap": 2, "mmap": 6, "mremap": 4}.get(name, 3):
        raise ImportingError.at(path, line, f"{name} has {len(args)} arguments")
    log.call(ns, name, [a & (1 << 64) - 1 for a in args], result)
