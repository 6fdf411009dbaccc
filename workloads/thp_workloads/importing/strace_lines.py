"""strace's lines as calls: prefixes, times, and what it writes in pieces."""

from __future__ import annotations

import glob
import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from thp_env.reading import lines
from thp_workloads.importing.errors import ImportingError, importing

_COMM = r"(?:<[^>]*>)?(?: /\* .*? \*/)?"
LINE = re.compile(
    rf" *(?:\[pid +(?P<pid>\d+){_COMM}\] +|(?P<tid>\d+){_COMM} +)?"
    r"(?:(?:(?P<clock>\d\d:\d\d:\d\d(?:\.\d+)?)|(?P<seconds>\d+\.\d+)) +)?(?:\(\+ +\d+\.\d+\) +)?"
    r"(?:\[ *\d+\] )?(?:\[(?:[0-9a-f]{8,16}|\?+)\] )?(?P<rest>\S.*)"
)
"""[pid N] or N of -f, with the name of --decode-pids; a time of -t, -tt, -ttt or -r; a number of -n; an address of -i;
and the call."""
CALL = re.compile(r"(?P<name>\w+)\((?P<args>.*)\)\s+= (?P<result>0x[0-9a-f]+|-?\d+|\?)")
RESUMED = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)")
UNFINISHED = re.compile(r" ?<unfinished \.\.\.>$")
SAYS = re.compile(r"strace: Process \d+ (?:attached|detached|resuming|suspending).*$")
"""What strace itself says, which may stand in the middle of a line when both go to one file."""
STACK = re.compile(r"\s*(?:> \S|\(no frames|> \[)")
"""A line of -k."""
RELATIVE = 10**17
"""Nanoseconds since 1970 are more than these: smaller numbers are -r's, from call to call."""
DAY_NS = 24 * 3600 * 10**9


class Event(NamedTuple):
    """A line, put together.

    Attributes:
        path, line: where it ends.
        pid: the thread; 0 where the log does not say.
        ns: of one clock for all lines of a file; None where there is no time.
        text: a call with its result, or what else strace writes.
    """

    path: Path
    line: int
    pid: int
    ns: int | None
    text: str


def events(path: Path) -> Iterator[Event]:
    """Yield the events of a log, or of a set of `-ff` whose files are called PATH.PID, in order.

    Raises:
        ImportingError: for the first line that strace would not write.
    """
    files = [(path, 0)]
    if not path.exists():
        paths = [Path(name) for name in glob.glob(f"{glob.escape(str(path))}.*")]
        files = sorted((file, int(file.suffix[1:])) for file in paths if file.suffix[1:].isdecimal()) or files
    yield from heapq.merge(*(_File(*file).events() for file in files), key=lambda event: event.ns or 0)


@dataclass
class _File:
    """Puts the lines of a file together."""

    path: Path
    pid: int
    now: int = 0
    days: int = 0
    pending: dict[int, str] = field(default_factory=dict)

    def events(self) -> Iterator[Event]:
        with importing(self.path):
            head = ""
            number, line = 0, ""
            for number, line in lines(self.path, whole=True):
                line = head + line
                head = ""
                if not line.strip() or STACK.match(line):
                    continue
                if (message := SAYS.search(line)) and message.start() and "(" in line[: message.start()]:
                    head = line[: message.start()]
                    continue
                if (event := self._event(number, line)) is not None:
                    yield event
        if not number:
            raise ImportingError(f"{self.path}: the log is empty")

    def _event(self, number: int, line: str) -> Event | None:
        match = LINE.fullmatch(line)
        if match is None:
            raise ImportingError.at(self.path, number, "not a line of strace", line)
        pid = int(match["pid"] or match["tid"] or self.pid)
        ns, text = self._ns(match), match["rest"]
        if resumption := RESUMED.fullmatch(text):
            text = self.pending.pop(pid, resumption["name"] + "(") + resumption["rest"].lstrip()
        if UNFINISHED.search(text):
            self.pending[pid] = UNFINISHED.sub("", text)
            return None
        return Event(self.path, number, pid, ns, text)

    def _ns(self, match: re.Match[str]) -> int | None:
        if match["clock"]:
            hours, minutes, seconds = match["clock"].split(":")
            now = self.days * DAY_NS + (int(hours) * 3600 + int(minutes) * 60) * 10**9 + _nanoseconds(seconds)
            if now < self.now - DAY_NS // 2:
                self.days += 1
                now += DAY_NS
        elif not match["seconds"]:
            return None
        elif (now := _nanoseconds(match["seconds"])) < RELATIVE:
            now += self.now
        self.now = now
        return now


def _nanoseconds(seconds: str) -> int:
    whole, _, fraction = seconds.partition(".")
    return int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))


def rest_of_set(path: Path) -> list[Path]:
    """Return the other files of a set of `-ff` that a file belongs to."""
    stem = path.with_suffix("")
    if not path.suffix[1:].isdecimal() or not path.exists():
        return []
    others = stem.parent.glob(f"{glob.escape(stem.name)}.*")
    return [other for other in others if other.suffix[1:].isdecimal() and other != path]
