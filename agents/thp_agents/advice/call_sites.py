"""Where a program maps its memory: the function, file and line of each group of mappings, as perf sees the calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from thp_agents.advice.settings import LEAST, role
from thp_agents.advice.trial import LIMIT, beside
from thp_env.machine.layout import PAGE_SIZE

ALLOCATORS = re.compile(r"/(libc|ld-linux|libstdc\+\+|libc\+\+|libjemalloc|libtcmalloc|libmimalloc)[-.\w]*\.so")
"""Libraries that map memory for somebody else."""
MAP_ANONYMOUS = 0x20
LINES_SECONDS = 60
"""That perf may take to find lines in the debug information; then there are functions only."""

_CALL = re.compile(r"sys_enter_mmap: .*\blen: 0x([0-9a-f]+)")
_FRAME = re.compile(r"^\s+[0-9a-f]+ (.+?)(?:\+0x[0-9a-f]+)?(?: \((.+)\))?$")


@dataclass(frozen=True)
class Site:
    """Who maps: a function, its file and line ("" where there is no debug information), and its program or library."""

    function: str
    line: str
    image: str

    def __str__(self) -> str:
        """Return it for a reader."""
        return f"{self.function}{f' ({self.line})' if self.line else ''}, {self.image}"


Row = tuple[Site, int, int]
"""Who maps, in how many calls, how many bytes."""


def call_sites(
    command: Sequence[str], environment: Mapping[str, str], other: Sequence[str] | None = None
) -> dict[str, list[Row]]:
    """Run a command once more and return who maps each group of mappings, most bytes first.

    Args:
        command: the program and its arguments.
        environment: variables to add.
        other: a command that runs beside it.

    Returns:
        Nothing where perf is missing or may not trace system calls.
    """
    if shutil.which("perf") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder, beside(other), suppress(OSError, subprocess.SubprocessError):
        data = Path(folder) / "perf.data"
        filter_text = f"len >= {LEAST * PAGE_SIZE} && flags & {MAP_ANONYMOUS}"
        subprocess.run(
            ["perf", "record", "-q", "-e", "syscalls:sys_enter_mmap", "--filter", filter_text, "--call-graph", "dwarf",
             "-o", data, "--", *command],
            env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=True,
        )  # fmt: skip
        return sites(_script(data))
    return {}


def _script(data: Path) -> Iterable[str]:
    for fields, seconds in (("comm,event,trace,ip,sym,dso,srcline", LINES_SECONDS),
                            ("comm,event,trace,ip,sym,dso", LIMIT)):  # fmt: skip
        with suppress(subprocess.TimeoutExpired):
            words = ["perf", "script", "--no-inline", "-i", str(data), "-F", fields]
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=seconds, check=True)
            return done.stdout.splitlines()
    return []


def sites(lines: Iterable[str]) -> dict[str, list[Row]]:
    """Read the text of `perf script`: calls of mmap with their chains; as `call_sites`."""
    found: dict[str, dict[Site, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for length, frames in _calls(lines):
        site = next((s for s in frames if not ALLOCATORS.search(s.image)), None)
        if site is not None:
            counts = found[role("m0", length)][site]
            counts[0] += 1
            counts[1] += length
    return {group: sorted(((s, n, size) for s, (n, size) in by_site.items()), key=lambda row: (-row[2], str(row[0])))
            for group, by_site in found.items()}  # fmt: skip


def _calls(lines: Iterable[str]) -> Iterator[tuple[int, list[Site]]]:
    """Yield the length of each call and its frames, the innermost first."""
    length, frames = 0, list[list[str]]()
    for line in [*lines, ""]:
        if call := _CALL.search(line):
            length, frames = int(call[1], 16), []
        elif frame := _FRAME.match(line):
            frames.append([frame[1], "", frame[2] or ""])
        elif line.strip() and frames:  # the line of the frame before
            place = line.strip()
            frames[-1][1] = "" if place.startswith("??") or "[" in place else place
        elif length and frames:
            yield length, [Site(*parts) for parts in frames]
            length, frames = 0, []
