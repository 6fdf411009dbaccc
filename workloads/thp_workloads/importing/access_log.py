"""Logs of every access by other tools than lackey, put into lackey's text: Pin's pinatrace, DynamoRIO's memtrace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from thp_env.machine.program import Program
from thp_env.reading import lines
from thp_workloads.importing.errors import ImportingError
from thp_workloads.importing.lackey import AccessLog

PINATRACE = re.compile(r"\s*0x(?P<ip>[0-9a-f]+): (?P<kind>[RW]) 0x(?P<address>[0-9a-f]+)(?:\s.*)?")
"""Address of the instruction, (R)ead or (W)rite, address of the memory."""
MEMTRACE = re.compile(r"\s*0x(?P<address>[0-9a-f]+):\s+(?P<size>\d+), (?P<kind>\w+)")
"""Address, size, and r, w or, for an instruction, its name."""
MEMTRACE_OLD = re.compile(r"\s*0x(?P<ip>[0-9a-f]+),(?P<kind>[rw]),(?P<size>\d+),0x(?P<address>[0-9a-f]+)")
"""Address of the instruction, r or w, size, address of the memory."""
PACKED = 1 << 16
"""Lines of a block."""


def read_pinatrace(path: Path, pid: int | None = None) -> Program:
    """Read the log of Pin's sample tool pinatrace; arguments and errors as for `read_lackey`."""
    return _log(path, "pinatrace", (PINATRACE,)).program(set(), "let pinatrace run to the program's end")


def read_memtrace(path: Path, pid: int | None = None) -> Program:
    """Read the log of DynamoRIO's memtrace_simple or memtrace_x86_text; arguments and errors as for `read_lackey`."""
    return _log(path, "memtrace", (MEMTRACE, MEMTRACE_OLD)).program(set(), "let the client run to the program's end")


def _log(path: Path, source: str, patterns: tuple[re.Pattern[str], ...]) -> AccessLog:
    return AccessLog(path, lambda: _as_lackey(path, source, patterns), source)


def _as_lackey(path: Path, source: str, patterns: tuple[re.Pattern[str], ...]) -> Iterator[bytes]:
    """Yield the log as lackey would have written it: an instruction, then its accesses."""
    before, packed = "", list[str]()
    for number, line in lines(path, whole=True):
        if not line.strip() or line.startswith(("#", "Format:", "TOOL_VERSION")):
            continue
        match = next((f for pattern in patterns if (f := pattern.fullmatch(line))), None)
        if match is None:
            raise ImportingError.at(path, number, f"not a line of {source}", line)
        part = match.groupdict()
        if part["kind"] not in ("r", "w", "R", "W"):
            packed.append("I  00000000,1\n")
            continue
        if (ip := part.get("ip")) and ip != before:
            packed.append("I  00000000,1\n")
            before = ip
        size = min(4096, max(1, int((part.get("size") or "1")[:5])))
        packed.append(f" {'L' if part['kind'] in 'rR' else 'S'} {part['address'][-16:]},{size}\n")
        if len(packed) >= PACKED:
            yield "".join(packed).encode()
            packed.clear()
    yield "".join(packed).encode()
