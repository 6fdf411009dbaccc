"""Programs for the real kernel: from files in the language of trace programs, and which of them cannot run there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from thp_env.live.scenarios import generate
from thp_env.live.workers import LiveError
from thp_env.machine import layout
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.npz import load_program
from thp_env.traces.program import Program, ProgramError
from thp_env.traces.text import add_line, format_program

PROT = {0: 0, layout.VM_READ: 1, layout.VM_READ | layout.VM_WRITE: 3}
"""Protections that a region can be mapped with, as mmap() takes them."""
OF_SYSTEM = frozenset(
    {"thp", "set", "fork", "exit", "limit", "cgroup", "swap", "swapoff", "shrink", "khugepaged", "reclaim", "drain",
     "compute"}
)  # fmt: skip
"""Operations on the whole system, which no worker runs."""
OF_WORKERS = frozenset(
    ("mmap", "munmap", "mprotect", "mremap", "advise", "touch", "mlock", "munlock", "prctl", "pin", "unpin", "iovec",
     "process_madvise", "capdrop")
)  # fmt: skip
"""Operations that a process of the program runs."""


@dataclass(frozen=True)
class LiveProgram:
    """A program that may fail anywhere, as a kernel's do.

    Attributes:
        name: what its recording is called.
        program: its operations.
        texts: each operation as text.
        places: where each stands in its file, for messages.
    """

    name: str
    program: Program
    texts: tuple[str, ...]
    places: tuple[str, ...]

    @classmethod
    def parse(cls, name: str, lines: Iterable[str], source: str = "") -> LiveProgram:
        """Read the language of trace programs.

        Raises:
            ProgramError: naming file and line of what is malformed.
        """
        builder = ProgramBuilder(name, checked=False)
        texts: list[str] = []
        places: list[str] = []
        for number, line in enumerate(lines, 1):
            place = f"{source or name}: line {number}"
            words = line.split("#")[0].split()
            try:
                if words[:1] == ["seed"] and len(words) == 2:
                    builder.seed = int(words[1], 0)
                elif add_line(builder, line):
                    texts.append(" ".join(words))
                    places.append(place)
            except ValueError as error:
                raise ProgramError(f"{place}: {error}") from None
        return cls(name, builder.build(), tuple(texts), tuple(places))

    @classmethod
    def load(cls, path: Path) -> LiveProgram:
        """Read a file: text or .npz.

        Raises:
            ProgramError: naming the file, and the line or operation.
        """
        if path.suffix != ".npz":
            try:
                return cls.parse(path.stem, path.read_text().splitlines(), str(path))
            except UnicodeDecodeError:
                raise ProgramError(f"{path}: neither text nor .npz") from None
            except OSError as error:
                raise ProgramError(f"{path}: {error.strerror}") from None
        program = load_program(path)
        refuse(program, [f"{path}: operation {i}" for i in range(len(program))])
        lines = format_program(program).splitlines()
        places = tuple(f"{path}: operation {i}" for i in range(len(program)))
        return cls(path.stem, program, tuple(lines[1:]), places)  # the first line is the seed

    def check(self) -> LiveProgram:
        """Return itself.

        Raises:
            LiveError: when it cannot or must not run on a real kernel.
        """
        refuse(self.program, self.places)
        return self


def refuse(program: Program, places: Iterable[str] = ()) -> None:
    """Refuse a program that the executor cannot or must not run.

    Args:
        program: what should run.
        places: where each operation stands in its file.

    Raises:
        LiveError: naming the operation and why.
    """
    always = layout.THP_MODES.index("always")
    where = list(places) or [f"{program.name}: operation {i}" for i in range(len(program))]
    for op, place in zip(program.ops, where, strict=True):
        name, why = layout.OPS[op["op"]], ""
        if name not in OF_SYSTEM and name not in OF_WORKERS:
            why = f"{name} has no counterpart on a real kernel that can be stepped"
        elif (name == "thp" or (name == "set" and op["a"] == 0)) and op["b"] == always:
            why = "`always` would change every process of this host: use madvise"
        elif name == "mmap" and (op["c"] == layout.AT_UNMAPPED_AREA or int(op["d"]) not in PROT):
            why = "only anonymous mappings in slots, at addresses and onto regions can be compared"
        elif name == "process_madvise" and op["c"]:
            why = "Linux has no advice about a set of sizes"
        elif name == "mremap" and op["c"] != layout.AT_SLOT:
            why = "mremap can only move into a slot"
        if why:
            raise LiveError(f"{place}: {why}")


def programs_of(paths: Iterable[Path]) -> list[LiveProgram]:
    """Return the programs of files; a folder stands for the files in it.

    Raises:
        LiveError: when there is none.
        ProgramError: naming file and line of what is malformed.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise LiveError("no program: name a file in the language of trace programs, or a folder of them")
    return [LiveProgram.load(file) for file in files]


def random_programs(count: int, seed: int) -> list[LiveProgram]:
    """Return random programs with the seeds from `seed` on."""
    return [LiveProgram.parse(f"live{number}", generate(number).lines) for number in range(seed, seed + count)]
