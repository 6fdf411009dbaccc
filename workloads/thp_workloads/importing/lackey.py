"""A log of `valgrind --tool=lackey --trace-mem=yes [--trace-syscalls=yes]` as a trace program."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thp_env.machine.layout import PAGE_SIZE, TASK_SIZE
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.reading import FileError, one_line, open_file
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.process_log import BRK_START, GAP
from thp_workloads.recording import windows as sampling
from thp_workloads.recording._lackey import Lackey
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.process_layout import ClientLayout, MapsLine, NativeLayout
from thp_workloads.recording.program_writer import log_arrays, write_program
from thp_workloads.recording.replayer import Replayer

WINDOW, BUDGET, BLOCK = 1 << 15, 600_000, 1 << 24
NS_PER_INSTRUCTION = 0.3
STACK = 16 << 20
"""Valgrind's stack of the program, which ends above its first access, has this size at most."""
LOWEST = 1 << 16
"""/proc/sys/vm/mmap_min_addr: no process maps anything below."""
PAGES_MAX = 1 << 23
NO_CALLS = "the log has no system calls (--trace-syscalls=yes): all that is accessed was mapped from the start"
MAPPED_BY = re.compile(rb"\((?:9|12|25)\) sys_")
SIZED = re.compile(
    rb"^SYSCALL\[[^\n]*?\((?P<number>9|10|11|12|25|28)\) sys_\w+ ?\( ?(?P<args>[^)\n]*)\)"
    rb"(?:[^\n]*Success\(0x(?P<result>[0-9a-f]+))?", re.MULTILINE
)  # fmt: skip
"""Calls with lengths: mmap, mprotect, munmap, brk, mremap and madvise."""
BRK, MREMAP = 12, 25
LENGTH_MAX = 1 << 40
"""Bytes of one call: the states of so many pages take 256 MiB."""
ADDRESS = re.compile(rb"^ [LSM] ([0-9a-f]+),(\d{1,4})", re.MULTILINE)


def read_lackey(path: Path, pid: int | None = None) -> Program:
    """Read a log of lackey, also one of gigabytes.

    With system calls (`--trace-syscalls=yes`) the program maps what the process mapped, and accesses to files are left
    out. Without them all that was accessed counts as anonymous memory that was mapped from the start. A log without
    lines of instructions counts one for each access.

    Args:
        path: the log.
        pid: not used: valgrind writes a log for each process.

    Raises:
        ImportingError: for the first malformed line, or when the log is truncated.
    """
    counts = any(re.search(rb"^I ", block, re.MULTILINE) for block in _blocks(path))
    advice = "run lackey with --trace-mem=yes"
    if counts:
        return AccessLog(path, lambda: _blocks(path), "lackey").program(set(), advice)
    log = AccessLog(path, lambda: map(_with_instructions, _blocks(path)), "lackey", lines_each=2)
    return log.program({"the log has no instructions: one was counted for each access"}, advice)


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the log in blocks of whole lines, ended as on Unix; what stands behind the last end of a line at last."""
    with open_file(path, regular=True) as file:
        partial = b""
        while block := file.read(BLOCK):
            head, end, kept_next = (partial + block).rpartition(b"\n")
            if len(partial := kept_next) > BLOCK:
                raise FileError("a line that is longer than 16 MiB: not a text")
            yield (head + end).replace(b"\r\n", b"\n")
        yield partial


def _with_instructions(block: bytes) -> bytes:
    return re.sub(rb"^(?= [LSM] )", b"I  00000000,1\n", block, flags=re.MULTILINE)


@dataclass(frozen=True)
class AccessLog:
    """A log of every access in lackey's text.

    Attributes:
        path: the log, for messages.
        blocks: gives the text, in blocks of whole lines.
        source: what wrote it.
        lines_each: lines of `blocks` for each of the log's.
    """

    path: Path
    blocks: Callable[[], Iterable[bytes]]
    source: str
    lines_each: int = 1

    def program(self, notes: set[str], advice: str) -> Program:
        """Return the program.

        Args:
            notes: how it differs from the run.
            advice: what helps where there is no access.

        Raises:
            ImportingError: for the first malformed line, or when the log is truncated.
        """
        calls, first, used = self._first_pass()
        if first is None:
            raise ImportingError(f"{self.path}: there are no accesses in it: {advice}")
        if used and not LOWEST <= used[0] * PAGE_SIZE <= used[-1] * PAGE_SIZE < TASK_SIZE:
            outside = used[0] if used[0] * PAGE_SIZE < LOWEST else used[-1]
            raise ImportingError(f"{self.path}: an access at {outside * PAGE_SIZE:#x}: a process has nothing there")
        notes = set(notes)
        log = Lackey(WINDOW, BUDGET)
        if calls:
            notes.add("the layout before the first call is not in the log")
            top = -(-(first + 1) // PAGE_SIZE) * PAGE_SIZE + PAGE_SIZE
            used = [page for page in used if top - STACK <= page * PAGE_SIZE < top]
        else:
            notes.add(NO_CALLS)
        mappings = _mappings(used)
        for line in mappings:
            log.anonymous(line.start, line.end)
        last = b""
        for block in self.blocks():
            last = block or last
            if block and not log.feed(block):
                raise self._locate(log)
        end = log.lines // self.lines_each + 1
        if calls and not log.finish():
            raise ImportingError(f"{self.path}:{end}: {log.error}")
        if not calls and last[-1:] != b"\n":
            raise ImportingError(f"{self.path}:{end}: the log is truncated: it ends inside a line")
        return self._program(log, mappings, notes)

    def _program(self, log: Lackey, mappings: tuple[MapsLine, ...], notes: set[str]) -> Program:
        path = self.path
        replayer = Replayer(NativeLayout(mappings, "", log.brk_start or BRK_START), ClientLayout({"": 0}, 0), 0)
        arrays = log_arrays(log, WINDOW)
        windows = sampling.weigh(WINDOW, arrays.runs, np.frombuffer(log.windows).reshape(-1, 3), log.misses)
        exact = arrays.touches[windows.outside(arrays.touches["instruction"])]
        meta = {
            "name": path.stem,
            "source": self.source,
            "log": path.name,
            "instructions": log.instructions,
            "accesses_anonymous": log.accesses_anonymous,
            "sampling_error": sampling.sampling_error(windows, arrays.runs, exact, log.misses),
        }
        try:
            program = write_program(arrays, windows, replayer, [], stack_touched=0, ns=NS_PER_INSTRUCTION, meta=meta)
        except (ProgramError, RecordingError) as error:
            raise ImportingError(f"{path}: the calls are not those of one process: {error}") from None
        program.meta["distortions"] = sorted(notes | replayer.notes)
        return program

    def _first_pass(self) -> tuple[bool, int | None, list[int]]:
        """Return whether there are system calls, the first address, and the pages accessed."""
        calls, first, number = False, None, 0
        pages: set[int] = set()
        for text in self.blocks():
            calls |= MAPPED_BY.search(text) is not None
            self._check_sizes(text, number)
            number += text.count(b"\n")
            addresses = ADDRESS.findall(text)
            if addresses and first is None:
                first = int(addresses[0][0], 16)
            for address, size in set(addresses):
                start = int(address, 16)
                pages.update((start // PAGE_SIZE, (start + max(1, int(size)) - 1) // PAGE_SIZE))
            if len(pages) > PAGES_MAX:
                raise ImportingError(f"{self.path}: more than {PAGES_MAX * PAGE_SIZE >> 30} GiB are accessed")
        return calls, first, sorted(pages)

    def _check_sizes(self, text: bytes, before: int) -> None:
        """Refuse calls about more memory than any process has; `before`: how many lines stand before the text."""
        for call in SIZED.finditer(text):
            kind, args = int(call["number"]), [int(arg, 0) for arg in re.findall(rb"0x[0-9a-f]+|\d+", call["args"])]
            lengths = args[1:2] if kind != MREMAP else args[1:3]
            if kind == BRK:
                lengths = [abs(int(call["result"] or b"0", 16) - args[0])] if args and args[0] else []
            if any(length > LENGTH_MAX for length in lengths):
                line = (before + text.count(b"\n", 0, call.start())) // self.lines_each + 1
                raise ImportingError(f"{self.path}:{line}: a call about {max(lengths):#x} bytes")

    def _locate(self, log: Lackey) -> ImportingError:
        """Turn "line 7 of the log: reason" into "FILE:7: reason"."""
        try:
            error = log.error
        except UnicodeDecodeError:
            error = f"line {log.lines} of the log: not a text in UTF-8"
        match = re.match(r"line (\d+) of the log: (.*)", error, re.DOTALL)
        if not match:
            return ImportingError(f"{self.path}: {one_line(error)}")
        return ImportingError(f"{self.path}:{-(-int(match[1]) // self.lines_each)}: {one_line(match[2])}")


def _mappings(pages: list[int]) -> tuple[MapsLine, ...]:
    lines: list[MapsLine] = []
    for page in pages:
        start, end = page * PAGE_SIZE, (page + 1) * PAGE_SIZE
        if lines and start - lines[-1].end <= GAP:
            start = lines.pop().start
        lines.append(MapsLine(start, end, "rw-p", 0, "[anon]"))
    return tuple(lines)
