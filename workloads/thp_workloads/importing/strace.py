"""strace of memory calls (`strace -f -ttt -e trace=memory,open,openat,close -o FILE COMMAND`) as a trace program."""

from __future__ import annotations

import re
from pathlib import Path

from thp_env.machine import layout
from thp_env.traces.program import Program
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.process_log import CALLS, ProcessLog

LINE = re.compile(
    r"(?:\[pid\s+(?P<pid>\d+)\] |(?P<tid>\d+) +)?"
    r"(?:(?P<clock>\d\d:\d\d:\d\d(?:\.\d+)?)|(?P<seconds>\d+\.\d+))? *(?P<rest>\S.*)"
)
"""[pid N] or N of -f; a time of -t, -tt or -ttt; and the call."""
CALL = re.compile(r"(?P<name>\w+)\((?P<args>.*)\)\s+= (?P<result>0x[0-9a-f]+|-?\d+|\?)")
RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
UNFINISHED = " <unfinished ...>"

FLAGS = {
    "PROT_NONE": 0, "PROT_READ": 1, "PROT_WRITE": 2, "PROT_EXEC": 4,
    "MAP_SHARED": 1, "MAP_PRIVATE": 2, "MAP_SHARED_VALIDATE": 3, "MAP_FIXED": 0x10, "MAP_ANONYMOUS": 0x20,
    "MAP_32BIT": 0x40, "MAP_GROWSDOWN": 0x100, "MAP_DENYWRITE": 0x800, "MAP_EXECUTABLE": 0x1000, "MAP_LOCKED": 0x2000,
    "MAP_NORESERVE": 0x4000, "MAP_POPULATE": 0x8000, "MAP_NONBLOCK": 0x10000, "MAP_STACK": 0x20000,
    "MAP_HUGETLB": 0x40000, "MAP_SYNC": 0x80000, "MAP_FIXED_NOREPLACE": 0x100000,
    "MREMAP_MAYMOVE": 1, "MREMAP_FIXED": 2, "MREMAP_DONTUNMAP": 4,
    "NULL": 0, "AT_FDCWD": -100, "MADV_FREE": 8,
    **{f"MADV_{name.upper()}": number for name, number in layout.ADVICE.items()},
}  # fmt: skip
UNKNOWN_ADVICE = 1 << 20
"""Advice that does nothing here; its number does not matter."""
STEP_NS = 10_000
"""Time from call to call where the log has none."""
UNTOUCHED = FLAGS["MAP_NORESERVE"] | FLAGS["MAP_STACK"] | FLAGS["MAP_GROWSDOWN"]


def read_strace(path: Path, pid: int | None = None) -> Program:
    """Read a log of strace.

    strace does not see accesses: writable private mappings are taken to be written from end to end when they are made,
    but not those with MAP_NORESERVE or MAP_STACK.

    Args:
        path: the log.
        pid: the process; None: the first one. strace names threads: those of one process are not told apart from
            children, so only this one's calls count.

    Raises:
        ImportingError: for the first line that strace would not write.
    """
    reader = _Reader(path, pid)
    text = path.read_text()
    number = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            reader.line(number, line)
    if not text.endswith("\n"):
        raise ImportingError.at(path, number, "the log is truncated: it ends inside a line", line if number else "")
    if not reader.ended:
        raise ImportingError.at(path, number, "the log is truncated: it ends before the process's exit")
    return reader.log.program(path.stem, "strace")


class _Reader:
    """Reads line by line.

    Attributes:
        log: what was read.
        ended: whether the process has exited or was detached.
    """

    def __init__(self, path: Path, pid: int | None) -> None:
        self.log = ProcessLog(path, {
            "strace shows no accesses: writable private mappings are written from end to end when they are made"
        })  # fmt: skip
        self.ended = False
        self._path, self._pid = path, pid
        self._begin: float | None = None
        self._pending: dict[int, str] = {}
        self._files: dict[int, str] = {}
        self._calls = 0
        self._brk = 0

    def line(self, number: int, line: str) -> None:
        found = LINE.fullmatch(line)
        if found is None:
            raise ImportingError.at(self._path, number, "not a line of strace", line)
        pid = int(found["pid"] or found["tid"] or 0)
        if self._pid is None:
            self._pid = pid
        rest = found["rest"]
        if resumed := RESUMED.fullmatch(rest):
            rest = self._pending.pop(pid, resumed["name"] + "(") + resumed["rest"].lstrip()
        if pid != self._pid:
            self.log.notes.add("the log has other processes or threads, which were left out")
            return
        if rest.startswith(("+++", "---", "strace: Process")):
            self.ended |= rest.startswith("+++") or "detached" in rest
            return
        if rest.endswith(UNFINISHED):
            self._pending[pid] = rest.removesuffix(UNFINISHED)
            return
        if rest.endswith("<detached ...>"):
            self.ended = True
            return
        call = CALL.match(rest)
        if call is None:
            raise ImportingError.at(self._path, number, "not a call with its result", rest)
        self._calls += 1
        result = call["result"]
        if result == "?" or result.startswith("-"):
            return
        try:
            self._call(self._time(found), call["name"], call["args"], int(result, 0))
        except (ValueError, KeyError, IndexError) as error:
            raise ImportingError.at(self._path, number, f"malformed call ({error})", rest) from None

    def _time(self, found: re.Match[str]) -> int:
        if found["seconds"]:
            now = float(found["seconds"])
        elif found["clock"]:
            hours, minutes, seconds = found["clock"].split(":")
            now = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        else:
            self.log.notes.add("the log has no times (-ttt): 10 us were taken to pass from call to call")
            return self._calls * STEP_NS
        if self._begin is None:
            self._begin = now
        return max(0, round((now - self._begin) * 1e9))

    def _call(self, ns: int, name: str, text: str, result: int) -> None:
        if name in ("open", "openat"):
            quoted = re.search(r'"(.*?)"', text)
            self._files[result] = quoted[1] if quoted else ""
            return
        if name == "close":
            self._files.pop(int(text), None)
            return
        if name not in CALLS:
            return
        args = [_value(part, name) for part in text.split(", ")]
        if len(args) < {"brk": 1, "munmap": 2, "mmap": 6, "mremap": 4}.get(name, 3):
            raise ValueError("arguments are missing")
        file = self._files.get(args[4], "") if name == "mmap" and not args[3] & FLAGS["MAP_ANONYMOUS"] else ""
        self.log.call(ns, name, [a & (1 << 64) - 1 for a in args], result, file)
        if name == "mmap" and file == "" and args[2] & FLAGS["PROT_WRITE"] and not args[3] & UNTOUCHED:
            if args[3] & FLAGS["MAP_ANONYMOUS"] and not args[3] & FLAGS["MAP_SHARED"]:
                self.log.touch_range(ns, result, args[1])
        elif name == "brk":
            if self._brk and not args[0] and result != self._brk:
                raise ValueError("the process became another program here (execve): name one that does not, with pid")
            if self._brk and result > self._brk:
                self.log.touch_range(ns, self._brk, result - self._brk)
            self._brk = result
        elif name == "mremap" and args[2] > args[1]:
            self.log.touch_range(ns, result + args[1], args[2] - args[1])


def _value(text: str, call: str) -> int:
    """Return the number that an argument stands for: a number, or names joined by |."""
    text = re.sub(r"/\*.*?\*/", "", text).strip()
    text = re.sub(r"<.*>$", "", text)  # -y: 3</lib/libc.so.6>
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
            raise ValueError(f"what is {name!r}?")
    return total
