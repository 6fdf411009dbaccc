"""The address space that a program starts with: natively, and under valgrind."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from thp_env.machine.layout import PAGE_SIZE, TASK_SIZE
from thp_workloads.recording._lackey import stopped_exec
from thp_workloads.recording.errors import RecordingError

MAPPED_FROM = 0x7000_0000_0000
"""Above this lies what the kernel maps top down: ld.so, the vDSO, the stack."""
START_BRK_FIELD = 47
"""proc_pid_stat(5): the address above which the heap grows."""


@dataclass(frozen=True)
class MapsLine:
    """A line of /proc/PID/maps."""

    start: int
    end: int
    protection: str
    offset: int
    path: str

    @property
    def anonymous(self) -> bool:
        """Whether the mapping is private anonymous memory."""
        return not self.path or self.path in ("[heap]", "[stack]") or self.path.startswith("[anon")

    @property
    def private(self) -> bool:
        """Whether writes make copies."""
        return self.protection.endswith("p")

    @property
    def prot(self) -> str:
        """The protection as `ProgramBuilder` names it."""
        return "rw" if "w" in self.protection else "r" if "r" in self.protection else "none"


def read_maps(pid: int) -> list[MapsLine]:
    """Read /proc/PID/maps."""
    result = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in fields[0].split("-"))
        path = fields[5] if len(fields) > 5 else ""
        result.append(MapsLine(start, end, fields[1], int(fields[2], 16), path))
    return result


@dataclass(frozen=True)
class NativeLayout:
    """The address space at a program's first instruction, without randomization.

    Attributes:
        mappings: all of them, by address.
        executable: path of the executable.
        brk_start: where the heap begins.
        mmap_base: below which mappings are placed; 0: where they are without randomization.
    """

    mappings: tuple[MapsLine, ...]
    executable: str
    brk_start: int
    mmap_base: int = 0

    def draw(self, seed: int, base: int) -> NativeLayout:
        """Return the layout as randomization draws it; seed 0 is the one without.

        Mappings and the stack move by up to 16 GiB, the heap by up to 32 MiB (arch_randomize_brk), all by pages.

        Args:
            seed: chooses the layout.
            base: where mappings begin without randomization.
        """
        if seed == 0:
            return replace(self, mmap_base=base)
        random = np.random.default_rng(seed)
        mmap, stack, brk = (int(n) * PAGE_SIZE for n in random.integers(0, (1 << 22, 1 << 22, 1 << 13)))
        lines = []
        for line in self.mappings:
            by = stack if line.path == "[stack]" else mmap + stack if line.end > MAPPED_FROM else 0
            lines.append(replace(line, start=line.start - by, end=line.end - by))
        return replace(self, mappings=tuple(lines), brk_start=self.brk_start + brk, mmap_base=base - mmap - stack)


def native_layout(path: str, arguments: Sequence[str], environment: Mapping[str, str]) -> NativeLayout:
    """Start a program natively, stopped at exec, read its layout and kill it.

    Raises:
        RecordingError: when the program cannot be started or traced.
    """
    pid = stopped_exec(path, list(arguments), [f"{k}={v}" for k, v in environment.items()])
    if pid < 0:
        raise RecordingError(f"cannot start {arguments[0]}: {os.strerror(-pid)}")
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The second field, the name in parentheses, may hold spaces.
        fields = stat[stat.rindex(")") + 2 :].split()
        mappings = tuple(m for m in read_maps(pid) if m.end <= TASK_SIZE)
        return NativeLayout(mappings, os.readlink(f"/proc/{pid}/exe"), int(fields[START_BRK_FIELD - 3]))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@dataclass(frozen=True)
class ClientLayout:
    """Where valgrind put what `NativeLayout` holds.

    Attributes:
        moved: how far each loaded file moved, by path: its address under valgrind minus the native one.
        stack_top: end of the stack.
    """

    moved: Mapping[str, int]
    stack_top: int


def client_layout(pid: int, native: NativeLayout, stack_address: int) -> ClientLayout:
    """Read the layout of a program under valgrind.

    Args:
        pid: the process of valgrind, which has loaded the program.
        native: the same program's native layout.
        stack_address: an address in the stack.

    Raises:
        RecordingError: when valgrind's process does not hold the program.
    """
    shifts: dict[str, int] = {}
    top = 0
    first: dict[str, int] = {}
    for mapping in native.mappings:
        if mapping.path.startswith("/"):
            first.setdefault(mapping.path, mapping.start - mapping.offset)
    for mapping in read_maps(pid):
        if mapping.path in first and mapping.path not in shifts:
            shifts[mapping.path] = mapping.start - mapping.offset - first[mapping.path]
        if mapping.start <= stack_address < mapping.end:
            top = mapping.end
    if native.executable not in shifts or not top:
        raise RecordingError(f"{native.executable} ended at once: there is nothing to record")
    return ClientLayout(shifts, top)
