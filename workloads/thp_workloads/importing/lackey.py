"""A log of `valgrind --tool=lackey --trace-mem=yes [--trace-syscalls=yes]` as a trace program."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from thp_env.machine.layout import PAGE_SIZE
from thp_env.traces.program import Program, ProgramError
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.process_log import BRK_START, GAP
from thp_workloads.recording import windows as sampling
from thp_workloads.recording._lackey import Lackey
from thp_workloads.recording.process_layout import ClientLayout, MapsLine, NativeLayout
from thp_workloads.recording.program_writer import log_arrays, write_program
from thp_workloads.recording.replayer import Replayer

WINDOW, BUDGET, BLOCK = 1 << 15, 600_000, 1 << 24
NS_PER_INSTRUCTION = 0.3
STACK = 16 << 20
"""Valgrind's stack of the program, which ends above its first access, has this size at most."""
MAPPED_BY = re.compile(rb"\((?:9|12|25)\) sys_")
ADDRESS = re.compile(rb"^ [LSM] ([0-9a-f]+),", re.MULTILINE)


def read_lackey(path: Path, pid: int | None = None) -> Program:
    """Read a log of lackey, also one of gigabytes.

    With system calls (`--trace-syscalls=yes`) the program maps what the process mapped, and accesses to files are left
    out. Without them all that was accessed counts as anonymous memory that was mapped from the start.

    Args:
        path: the log.
        pid: not used: valgrind writes a log for each process.

    Raises:
        ImportingError: for the first malformed line, or when the log is truncated.
    """
    calls, first, used = _first_pass(path)
    if first is None:
        raise ImportingError(f"{path}: there are no accesses in it: run lackey with --trace-mem=yes")
    log = Lackey(WINDOW, BUDGET)
    notes = {"the layout before the first call is not in the log"}
    if calls:
        top = -(-(first + 1) // PAGE_SIZE) * PAGE_SIZE + PAGE_SIZE
        used = [page for page in used if top - STACK <= page * PAGE_SIZE < top]
    else:
        notes = {"the log has no system calls (--trace-syscalls=yes): all that is accessed was mapped from the start"}
    mappings = _mappings(used)
    for line in mappings:
        log.anonymous(line.start, line.end)
    with path.open("rb") as file:
        last = b""
        while block := file.read(BLOCK):
            last = block[-1:]
            if not log.feed(block):
                raise _located(path, log.error)
    if calls:
        if not log.finish():
            raise ImportingError(f"{path}:{log.lines + 1}: {log.error}")
    elif last != b"\n":
        raise ImportingError(f"{path}:{log.lines + 1}: the log is truncated: it ends inside a line")
    replayer = Replayer(NativeLayout(mappings, "", log.brk_start or BRK_START), ClientLayout({"": 0}, 0), 0)
    arrays = log_arrays(log, WINDOW)
    windows = sampling.weigh(WINDOW, arrays.runs, np.frombuffer(log.windows).reshape(-1, 3), log.misses)
    exact = arrays.touches[windows.outside(arrays.touches["instruction"])]
    meta = {
        "name": path.stem,
        "source": "lackey",
        "log": path.name,
        "instructions": log.instructions,
        "accesses_anonymous": log.accesses_anonymous,
        "sampling_error": sampling.sampling_error(windows, arrays.runs, exact, log.misses),
    }
    try:
        program = write_program(arrays, windows, replayer, [], stack_touched=0, ns=NS_PER_INSTRUCTION, meta=meta)
    except ProgramError as error:
        raise ImportingError(f"{path}: the calls are not those of one process: {error}") from None
    program.meta["distortions"] = sorted(notes | replayer.notes)
    return program


def _first_pass(path: Path) -> tuple[bool, int | None, list[int]]:
    """Return whether there are system calls, the first address, and the pages accessed."""
    calls, first, kept = False, None, b""
    pages: set[int] = set()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            head, _, kept_next = block.rpartition(b"\n")
            text = kept + head + b"\n"
            kept = kept_next
            calls |= MAPPED_BY.search(text) is not None
            found = ADDRESS.findall(text)
            if found and first is None:
                first = int(found[0], 16)
            pages.update(int(a, 16) // PAGE_SIZE for a in set(found))
    return calls, first, sorted(pages)


def _mappings(pages: list[int]) -> tuple[MapsLine, ...]:
    lines: list[MapsLine] = []
    for page in pages:
        start, end = page * PAGE_SIZE, (page + 1) * PAGE_SIZE
        if lines and start - lines[-1].end <= GAP:
            start = lines.pop().start
        lines.append(MapsLine(start, end, "rw-p", 0, "[anon]"))
    return tuple(lines)


def _located(path: Path, error: str) -> ImportingError:
    """Turn "line 7 of the log: reason" into "FILE:7: reason"."""
    found = re.match(r"line (\d+) of the log: (.*)", error, re.DOTALL)
    return ImportingError(f"{path}:{found[1]}: {found[2]}" if found else f"{path}: {error}")
