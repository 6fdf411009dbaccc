"""strace of memory calls (`strace -f -ttt -e trace=memory,process,open,openat,close -o FILE COMMAND`)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from thp_env.machine import layout
from thp_env.machine.program import Program
from thp_env.traces.intervals import Intervals
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.process_log import CALLS, ProcessLog
from thp_workloads.importing.strace_lines import CALL, Event, events, rest_of_set

FLAGS = {
    "PROT_NONE": 0, "PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4,
    "MAP_SHARED": 1, "MAP_PRIVATE": 2, "MAP_SHARED_VALIDATE": 3, "MAP_FIXED": 0x10, "MAP_ANONYMOUS": 0x20,
    "MAP_32BIT": 0x40, "MAP_GROWSDOWN": 0x100, "MAP_DENYWRITE": 0x800, "MAP_EXECUTABLE": 0x1000, "MAP_LOCKED": 0x2000,
    "MAP_NORESERVE": 0x4000, "MAP_POPULATE": 0x8000, "MAP_NONBLOCK": 0x10000, "MAP_STACK": 0x20000,
    "MAP_HUGETLB": 0x40000, "MAP_SYNC": 0x80000, "MAP_FIXED_NOREPLACE": 0x100000,
    "PROT_SEM": 8, "PROT_GROWSDOWN": 0x1000000, "PROT_GROWSUP": 0x2000000,
    "MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4,
    "NULL": 0, "AT_FDCWD": -100, "MADV_FREE": 8,
    **{f"MADV_{name.upper()}": number for name, number in layout.ADVICE.items()},
}  # fmt: skip
UNKNOWN_ADVICE = 1 << 20
"""Advice that does nothing here; its number does not matter."""
NAMES = {"mmap2": "mmap", "old_mmap": "mmap", "pkey_mprotect": "mprotect"}
"""Calls of other names and the same arguments as far as they count."""
NEW_TASK = ("clone", "clone3", "fork", "vfork")
STEP_NS = 10_000
"""Time from call to call where the log has none."""
SHARED_OR_SPECIAL = FLAGS["MAP_SHARED"] | FLAGS["MAP_STACK"] | FLAGS["MAP_GROWSDOWN"] | FLAGS["MAP_HUGETLB"]
"""Mappings that are not written from end to end: others', and stacks."""


def read_strace(path: Path, pid: int | None = None) -> Program:
    """Read a log of strace.

    strace does not see accesses: writable private mappings are taken to be written from end to end when they are made,
    or made writable, but not stacks, nor those with MAP_NORESERVE that are writable from the start. Threads belong to
    their process where the log shows how they were made (`-e trace=process`); after an execve the process begins anew.

    Args:
        path: the log; of a set of `-ff`, the name without the number.
        pid: the process; None: the first one.

    Raises:
        ImportingError: for the first line that strace would not write.
    """
    tasks = _Tasks(path)
    reader = _Reader(path, tasks, tasks.process_of(pid) if pid is not None else tasks.first)
    last = None
    for last in events(path):
        reader.event(last)
    if last is not None and not reader.ended and reader.calls:
        reason = "the log is truncated: it ends before the process's exit"
        raise ImportingError.at(last.path, last.line, reason, last.text)
    reader.tell_left_out()
    return reader.log.program(path.stem, "strace")


class _Tasks:
    """Which process each thread belongs to.

    Attributes:
        first: the process of the first line.
    """

    def __init__(self, path: Path) -> None:
        self.first = 0
        self._process: dict[int, int] = {}
        self._forked: set[int] = set()
        self._one_process = False
        for number, event in enumerate(events(path)):
            if not number:
                self.first = event.pid
            self._one_process |= "attached with" in event.text
            if event.text.startswith(NEW_TASK) and (call := CALL.match(event.text)) and call["result"].isdecimal():
                child = int(call["result"])
                if "CLONE_THREAD" in call["args"]:
                    self._process[child] = self.process_of(event.pid)
                else:
                    self._forked.add(child)

    def process_of(self, pid: int) -> int:
        """Return the process of a thread; itself where the log does not say."""
        if pid not in self._process and self._one_process and pid not in self._forked:
            return self.first
        return self._process.get(pid, pid)

    def knows(self, pid: int) -> bool:
        """Whether the log shows how a task was made."""
        return pid in self._process or pid in self._forked


class _Reader:
    """Reads event by event.

    Attributes:
        log: what was read.
        ended: whether the process has exited or was detached.
        calls: how many calls the process made.
    """

    def __init__(self, path: Path, tasks: _Tasks, pid: int) -> None:
        self.log = ProcessLog(path, {
            "strace shows no accesses: writable private mappings are written from end to end when they are made, or "
            "made writable"
        })  # fmt: skip
        self.ended, self.calls = False, 0
        self._tasks, self._pid = tasks, pid
        self._others, self._unknown = Counter[int](), set[int]()
        self._files: dict[int, str] = {}
        self._private, self._written = Intervals(), Intervals()
        self._brk = 0
        self._ns = 0
        self._begin: int | None = None

    def event(self, event: Event) -> None:
        process, text = self._tasks.process_of(event.pid), event.text
        if process != self._pid:
            self._others[process] += "(" in text
            if not self._tasks.knows(event.pid):
                self._unknown.add(event.pid)
            return
        if text.startswith(("+++", "---", "strace: ")):
            over = (text.startswith("+++") and "superseded" not in text) or "detached" in text
            self.ended |= over and event.pid == self._pid
            return
        if text.endswith("<detached ...>"):
            self.ended = True
            return
        call = CALL.match(text)
        if call is None:
            raise ImportingError.at(event.path, event.line, "not a call with its result", text)
        self.calls += 1
        result = call["result"]
        if result == "?" or result.startswith("-"):
            return
        if event.ns is None:
            self.log.notes.add("the log has no times (-ttt): 10 us were taken to pass from call to call")
            self._ns = self.calls * STEP_NS
        else:
            self._begin = event.ns if self._begin is None else self._begin
            self._ns = max(self._ns, event.ns - self._begin)
        try:
            self._call(NAMES.get(call["name"], call["name"]), call["args"], int(result, 0))
        except (ValueError, KeyError, IndexError) as error:
            raise ImportingError.at(event.path, event.line, f"malformed call ({error})", text) from None

    def _call(self, name: str, text: str, result: int) -> None:
        if name in ("open", "openat"):
            path = re.search(r'"(.*?)"', text)
            self._files[result] = path[1] if path else ""
        elif name == "close":
            self._files.pop(_value(text, name), None)
        elif name in ("execve", "execveat"):
            self._begin_anew()
        elif name in CALLS:
            parts = _split(text)
            args = [_value(part, name) for part in parts]
            if len(args) < {"brk": 1, "munmap": 2, "mmap": 6, "mremap": 4}.get(name, 3):
                raise ValueError("arguments are missing")
            if name == "brk" and self._brk and not args[0] and result != self._brk:
                self._begin_anew()
            self._memory_call(name, args, result, self._file(name, args, parts))

    def _file(self, name: str, args: list[int], parts: list[str]) -> str:
        if name != "mmap" or args[3] & FLAGS["MAP_ANONYMOUS"]:
            return ""
        descriptor = re.fullmatch(r"\d+<(.*)>", parts[4])  # -y
        return descriptor[1] if descriptor else self._files.get(args[4], "")

    def _begin_anew(self) -> None:
        """The process becomes another program, and its memory is gone."""
        if count := len(self.log):
            self.log.left_out["calls and touches of programs that the process was before its last execve"] += count
        self.log.forget()
        self._private, self._written, self._brk = Intervals(), Intervals(), 0

    def _memory_call(self, name: str, args: list[int], result: int, file: str) -> None:
        self.log.call(self._ns, name, [a & (1 << 64) - 1 for a in args], result, file)
        start, end = (result, result + args[1]) if name == "mmap" else (args[0], args[0] + sum(args[1:2]))
        if name in ("mmap", "munmap"):
            self._private.remove(start, end)
            self._written.remove(start, end)
        if name == "mmap" and args[3] & FLAGS["MAP_ANONYMOUS"] and not args[3] & SHARED_OR_SPECIAL:
            self._private.add(start, end)
            if args[2] & FLAGS["PROT_WRITE"] and not args[3] & FLAGS["MAP_NORESERVE"]:
                self._write(start, end)
        elif name == "mprotect" and args[2] & FLAGS["PROT_WRITE"]:
            for part in self._private.clip(start, end):
                self._write(*part)
        elif name == "brk":
            if self._brk and result > self._brk:
                self._write(self._brk, result)
            self._brk = result
        elif name == "mremap":
            private = self._private.clip(start, end)
            for intervals in (self._private, self._written):
                intervals.remove(start, end)
            if private:
                self._private.add(result, result + args[2])
                self._written.add(result, result + min(args[1], args[2]))
                self._write(result, result + args[2])

    def _write(self, start: int, end: int) -> None:
        """Write what has not been written of a range."""
        fresh = Intervals()
        fresh.add(start, end)
        for part in self._written.clip(start, end):
            fresh.remove(*part)
        for first, last in fresh:
            self.log.touch_range(self._ns, first, last - first)
        self._written.add(start, end)

    def tell_left_out(self) -> None:
        """Note what was left out, and the option that takes it in.

        Raises:
            ImportingError: when nothing is left.
        """
        most = ", ".join(f"{pid} ({number} calls)" for pid, number in self._others.most_common(3))
        if not self.calls:
            raise ImportingError(f"{self.log.path}: there is no call of process {self._pid} in it"
                                 + (f"; it has those of {most}" if most else ""))  # fmt: skip
        if others := rest_of_set(self.log.path):
            self.log.left_out[f"files of the same -ff: name {self.log.path.with_suffix('')} to read all"] = len(others)
        if self._others:
            self.log.notes.add("the log has other processes or threads, which were left out")
            what = f"calls of {len(self._others)} other processes, most of them of {most}: choose by --pid"
            if self._unknown:
                what += "; -e trace=process would show which are threads of this one"
            self.log.left_out[what] = self._others.total()


def _split(text: str) -> list[str]:
    """Return the arguments of a call: commas inside <>, quotes and comments part none."""
    return [part.strip() for part in re.findall(r'((?:<[^<>]*>|"(?:\\.|[^"\\])*"|/\*.*?\*/|[^,])+)(?:,|$)', text)]


def _value(text: str, call: str) -> int:
    """Return the number that an argument stands for: a number, or names joined by |."""
    text = re.sub(r"/\*.*?\*/", "", text).strip()
    text = re.sub(r"<[^<].*>$", "", text)  # -y: 3</lib/libc.so.6>
    if re.fullmatch(r"-?\d+|0x[0-9a-f]+|0[0-7]+", text):
        return int(text, 8) if re.fullmatch(r"0[0-7]+", text) else int(text, 0)
    total = 0
    for name in text.split("|"):
        if re.fullmatch(r"0x[0-9a-f]+|\d+", name):
            total |= int(name, 0)
        elif name in FLAGS:
            total |= FLAGS[name]
        elif call == "madvise" and name.startswith("MADV_"):
            return UNKNOWN_ADVICE
        elif re.match(r"\d+<<MAP_HUGE_SHIFT", name):
            continue
        else:
            raise ValueError(f"what is {name[:40]!r}?")
    return total
