"""Importers: trace programs from the logs of other tools."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from thp_env.machine.program import Program
from thp_env.traces.npz import save_program
from thp_workloads.importing.errors import ImportingError, importing

KINDS = {
    "perf": "perf.data, or perf script: page faults and system calls (record with -d -c 1)",
    "strace": "strace of memory calls (-e trace=memory, best with -f -ttt); of -ff, the name without the number",
    "damon": "DAMON: damo's JSON records, or the text of damo report raw, of a process",
    "lackey": "valgrind --tool=lackey --trace-mem=yes, best with --trace-syscalls=yes",
    "pinatrace": "Pin's sample tool pinatrace",
    "memtrace": "DynamoRIO's sample clients memtrace_simple and memtrace_x86_text",
}
"""Kinds of logs, and what makes them."""


def read(kind: str, path: str | os.PathLike[str], pid: int | None = None) -> Program:
    """Read a log as a trace program.

    Args:
        kind: one of `KINDS`.
        path: the log.
        pid: the process or thread group of the log; None: the first one. DAMON's targets and lackey's logs have one
            process.

    Returns:
        The program; its `meta["distortions"]` says what the log does not show.

    Raises:
        ImportingError: for an unknown kind, a file that cannot be read, or the first malformed line.
    """
    from thp_workloads.importing.access_log import read_memtrace, read_pinatrace
    from thp_workloads.importing.damon import read_damon
    from thp_workloads.importing.lackey import read_lackey
    from thp_workloads.importing.perf import read_perf
    from thp_workloads.importing.strace import read_strace

    readers: dict[str, Callable[[Path, int | None], Program]] = {
        "perf": read_perf, "strace": read_strace, "damon": read_damon, "lackey": read_lackey,
        "pinatrace": read_pinatrace, "memtrace": read_memtrace,
    }  # fmt: skip
    if kind not in readers:
        raise ImportingError(f"there is no kind of log {kind!r}: {', '.join(KINDS)}")
    with importing(path):
        return readers[kind](Path(path), pid)


def import_file(
    kind: str, path: str | os.PathLike[str], out: str | os.PathLike[str], pid: int | None = None
) -> Program:
    """Read a log and write it as a .npz file; arguments and errors as for `read`."""
    program = read(kind, path, pid)
    save_program(program, out)
    return program
