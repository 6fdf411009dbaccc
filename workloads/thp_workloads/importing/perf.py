"""perf's page faults and system calls as a trace program: perf.data itself, or the text of `perf script`.

Recorded by, for example,

    perf record -d -c 1 -e exceptions:page_fault_user -e 'syscalls:sys_*_mmap' -e 'syscalls:sys_*_munmap' \\
        -e 'syscalls:sys_*_brk' -e 'syscalls:sys_*_mremap' -e 'syscalls:sys_*_madvise' COMMAND
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from thp_env.machine.program import Program
from thp_env.reading import lines, open_file
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.process_log import CALLS, ProcessLog

LINE = re.compile(
    r"\s*(?P<comm>\S.*?)\s+(?:(?P<pid>-?\d+)/)?(?P<tid>-?\d+)\s+(?:\[\d+\]\s+)?(?P<time>\d+\.\d+):\s+"
    r"(?:\d+\s+)?(?P<event>[\w:-]+?):(?: +(?P<rest>.*))?"
)
"""comm, [pid/]tid, cpu, seconds, period, event, its fields."""
TASK = re.compile(r".*\sPERF_RECORD_(?P<what>\w+)(?P<rest>.*)")
"""An event of --show-task-events and the like; FORK(child:its thread):(parent:its thread)."""
FORK = re.compile(r"\((?P<pid>\d+):(?P<tid>\d+)\):\((?P<parent>\d+):\d+\).*")
CHAIN = re.compile(r"\s+[0-9a-f]+ .*\(.*\)\s*")
"""A line of a call chain: address, symbol, (file)."""
FIELD = re.compile(r"\w+: (0x[0-9a-f]+|-?\d+)")
FAULT = re.compile(r"address=(0x[0-9a-f]+) ip=\S+ error_code=(0x[0-9a-f]+)")
ADDRESS = re.compile(r"\s*(?P<addr>[0-9a-f]+)(?:\s+(?P<ip>[0-9a-f]+)(?=\s|$))?(?P<symbol>\s.*\S)?\s*")
WRITE, FETCH = 0x2, 0x10
"""Bits of x86's page fault error code."""
ERRORS = (1 << 64) - 4096
"""Results from here on are error numbers."""
MAGIC = b"PERFILE2"
SCRIPT = ("--ns", "-F", "sw:comm,pid,tid,time,event,addr", "-F", "trace:comm,pid,tid,time,event,trace")
FIELDS = "perf script -F comm,pid,tid,time,event,addr (of a perf record -d)"

NO_ADDRESS = f"a fault without the address of the memory, only that of the instruction: {FIELDS}"


def read_perf(path: Path, pid: int | None = None) -> Program:
    """Read a recording of perf, or the text that `perf script` prints of it.

    Faults are the only touches that it shows: exact ones if the run had no large folios, which fault once for many
    pages; where faults lie as those of large folios do, the whole folios are taken (`large_folios.py`).
    `exceptions:page_fault_user` tells reads from writes; the software event `page-faults` does not, and all of its
    faults count as writes.

    Args:
        path: perf.data, or the text.
        pid: the process, or a thread of it if the text has only those; None: the first one.

    Raises:
        ImportingError: for the first line that perf would not print, or a file without such events.
    """
    reader = _Reader(path, pid)
    is_perf_data = False
    if path.is_file():  # what a pipe gives is read once
        with open_file(path) as file:
            is_perf_data = file.read(len(MAGIC)) == MAGIC
    for number, line in _script(path) if is_perf_data else lines(path, whole=True):
        if line.strip() and not line.startswith("#"):
            reader.line(number, line)
    reader.settle()
    if not reader.event_count:
        others = f"; it has those of {reader.others()}" if reader.others_events else ""
        whose = "" if reader.pid is None else f" of process {reader.pid}"
        raise ImportingError(f"{path}: there are no page faults and no system calls{whose} in it{others}")
    reader.tell_left_out()
    return reader.log.program(path.stem, "perf")


def _script(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines that perf prints of its own recording, with the fields that are needed."""
    perf = shutil.which("perf")
    if perf is None:
        raise ImportingError(f"{path}: a recording of perf, which is not installed here: apt-get install linux-perf, "
                             f"or print it where it was made: {FIELDS}")  # fmt: skip
    command = [perf, "script", "-i", str(path.resolve()), *SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace") as run:
        assert run.stdout
        assert run.stderr
        number = 0
        for number, line in enumerate(run.stdout, 1):
            yield number, line.rstrip("\n")
        messages = [line for line in run.stderr.read().splitlines() if line.strip()]
        if run.wait() or not number:
            reason = messages[0].strip() if messages else "it prints nothing"
            raise ImportingError(f"{path}: perf script: {reason[:200]} (record with perf record -d -c 1)")


class _Reader:
    """Reads line by line.

    Attributes:
        log: what was read.
        pid: the process.
        seen: how many events of it.
        left: events of other processes.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        note = "perf shows faults, not accesses: every page is accessed once each time it faults"
        self.log = ProcessLog(path, {note}, large_folios=True)
        self.pid, self.event_count, self.others_events = pid, 0, Counter[int]()
        self._path = path
        self._begin: float | None = None
        self._pending: dict[int, tuple[str, list[int]]] = {}
        self._process: dict[int, int] = {}
        self._threads_only = False
        self._doubtful: tuple[int, int, str, int] | None = None

    def line(self, number: int, line: str) -> None:
        match = LINE.fullmatch(line)
        chain = match is None and CHAIN.fullmatch(line) is not None
        self.settle(chain)
        if match is None:
            if not chain and not self._task(line):
                raise ImportingError.at(self._path, number, "not a line of perf script", line)
            return
        thread = int(match["tid"])
        process = int(match["pid"] or self._process.get(thread, thread))
        event, arguments = match["event"].removeprefix("syscalls:"), match["rest"] or ""
        if not event.startswith(("sys_enter_", "sys_exit_", "exceptions:page_fault_", "page-faults", "faults",
                                 "minor-faults", "major-faults")):  # fmt: skip
            self.log.left_out[f"events {event[:40]}, which say nothing about memory"] += 1
            return
        self._threads_only |= not match["pid"]
        self.pid = process if self.pid is None else self.pid
        if process != self.pid:
            self.others_events[process] += 1
            return
        now = float(match["time"])
        self._begin = now if self._begin is None else self._begin
        ns = round((now - self._begin) * 1e9)
        try:
            if not self._event(ns, thread, event, arguments):
                self._doubtful = number, ns, line, int(arguments.split()[0], 16)
        except ValueError as error:
            raise ImportingError.at(self._path, number, str(error), line) from None
        self.event_count += 1

    def _task(self, line: str) -> bool:
        """Whether a line tells of a task; note which process a new thread belongs to."""
        if (task := TASK.fullmatch(line)) is None:
            return False
        if task["what"] == "FORK" and (fork := FORK.fullmatch(task["rest"])):
            self._process[int(fork["tid"])] = int(fork["pid"])
        return True

    def settle(self, chain: bool = False) -> None:
        """Decide what the one address of the fault before is: with a call chain behind it, that of the memory.

        Raises:
            ImportingError: when it is that of the instruction.
        """
        if self._doubtful:
            number, ns, line, address = self._doubtful
            if not chain:
                raise ImportingError.at(self._path, number, NO_ADDRESS, line)
            self._doubtful = None
            self.log.touch(ns, address, True)

    def _event(self, ns: int, thread: int, event: str, arguments: str) -> bool:
        """Take an event; False for a fault of which it is not clear whose address it shows."""
        if event.startswith("sys_enter_"):
            self._pending[thread] = event.removeprefix("sys_enter_"), [int(a, 0) for a in FIELD.findall(arguments)]
        elif event.startswith("sys_exit_"):
            name, args = self._pending.pop(thread, ("", []))
            if not re.fullmatch(r"0x[0-9a-f]+|-?\d+", arguments.strip()):
                raise ValueError("a call's result is missing")
            if name == event.removeprefix("sys_exit_") and name in CALLS:
                self._call(ns, name, args, int(arguments, 0))
        elif event.startswith("exceptions:"):
            fault = FAULT.search(arguments)
            if fault is None:
                raise ValueError("a fault without address and error_code")
            code = int(fault[2], 16)
            if not code & FETCH:  # code is a file's
                self.log.touch(ns, int(fault[1], 16), bool(code & WRITE))
        else:
            address = ADDRESS.fullmatch(arguments)
            if address is None:
                raise ValueError(NO_ADDRESS)
            self.log.notes.add("page-faults does not tell reads from writes: all faults count as writes")
            if address["symbol"] and not address["ip"]:
                return False
            self.log.touch(ns, int(address["addr"], 16), True)
        return True

    def _call(self, ns: int, name: str, args: list[int], result: int) -> None:
        if not 0 <= result < ERRORS:
            return
        if len(args) < {"brk": 1, "munmap": 2, "mmap": 6, "mremap": 4}.get(name, 3):
            raise ValueError(f"{name} has {len(args)} arguments")
        self.log.call(ns, name, [a & (1 << 64) - 1 for a in args], result)

    def others(self) -> str:
        """Name the other processes that have most events."""
        word = "thread" if self._threads_only else "process"
        return ", ".join(f"{word} {pid} ({number} events)" for pid, number in self.others_events.most_common(3))

    def tell_left_out(self) -> None:
        """Note what was left out, and the option that takes it in."""
        if not self.others_events:
            return
        self.log.notes.add("the log has other processes or threads, which were left out")
        what = f"events of {len(self.others_events)} others, most of them of {self.others()}: choose by --pid"
        if self._threads_only:
            what += f"; the text has threads without their processes, which this has: {FIELDS}"
        self.log.left_out[what] = sum(self.others_events.values())
