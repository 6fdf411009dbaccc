"""Programs for the real kernel: files and whole workloads, and what of them cannot be put to a host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thp_env.conformance import machine_for
from thp_env.live.errors import LiveError
from thp_env.live.run_settings import RunSettings
from thp_env.live.scenarios import generate
from thp_env.machine import Machine, layout
from thp_env.machine.operations import among, fields, rows, select
from thp_env.machine.program import Program
from thp_env.machine.program_check import ProgramError
from thp_env.reading import read_text, reading
from thp_env.traces.builder import ProgramBuilder
from thp_env.traces.formatting import describe
from thp_env.traces.npz import load_program
from thp_env.traces.text import add_line
from thp_env.workload import memory_for

PROT = {0: 0, layout.VM_READ: 1, layout.VM_READ | layout.VM_WRITE: 3}
"""Protections that a region can be mapped with, as mmap() takes them."""
RIGHTS = layout.VM_READ | layout.VM_WRITE
MEMORY = 2 << 30
"""Bytes of the simulated machine at least: enough that only limits of the program cause reclaim."""
LEFT_OUT = {
    "pollute": "unmovable pages all over memory",
    "fragment": "fragmentation of all memory",
    "compact": "compaction of all memory",
    "orders": "sizes by VMA, for which Linux has no call",
    "split": "splits on demand, for which Linux has no call",
    "collapse": "collapse to a size below 2M, for which Linux has no call",
}
"""Operations that no host does for one program alone, and what they are."""


@dataclass(frozen=True)
class LiveProgram:
    """A program that may fail anywhere, as a kernel's do.

    Attributes:
        name: what its recording is called.
        program: its operations.
        texts: each operation as text.
        places: where each stands in its file, for messages.
        settings: what is set before it begins.
        whole: a workload; what it maps is looked at in the end only, since it has too many operations.
        left_out: what a host cannot do, and how often the workload does it.
    """

    name: str
    program: Program
    texts: tuple[str, ...]
    places: tuple[str, ...]
    settings: RunSettings = field(default_factory=RunSettings)
    whole: bool = False
    left_out: Counter[str] = field(default_factory=Counter, hash=False)

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
        if not texts:
            raise ProgramError(f"{source or name}: there is no operation in it")
        return cls(name, builder.build(), tuple(texts), tuple(places))

    @classmethod
    def load(cls, path: Path) -> LiveProgram:
        """Read a file: text or .npz.

        Raises:
            ProgramError: naming the file, and the line or operation.
        """
        if path.suffix != ".npz":
            with reading(path, ProgramError, "text, nor .npz"):
                return cls.parse(path.stem, read_text(path).splitlines(), str(path))
        program = load_program(path)
        places = tuple(f"{path}: operation {i}" for i in range(len(program)))
        refuse(program, places)
        return cls(path.stem, program, tuple(map(describe, [program] * len(program), program.ops)), places)

    @classmethod
    def of_workload(cls, name: str, program: Program, settings: RunSettings) -> LiveProgram:
        """Take a whole workload: what a host cannot do is left out, on both sides, and said (`left_out`)."""
        ops = program.ops.copy()
        left_out = Counter(layout.OPS[op] for op in ops["op"] if layout.OPS[op] in LEFT_OUT)
        unsupported = among(ops, *left_out)
        for column in ("a", "b", "c", "d", "offset", "length", "weight", "aux", "region"):
            ops[column][unsupported] = 0
        ops["op"][unsupported] = layout.OPS.index("compute")  # accesses depend on an operation's number
        texts = tuple(describe(program, op) for op in program.ops)
        places = tuple(f"{name}: operation {i}" for i in range(len(ops)))
        return cls(name, replace(program, ops=ops), texts, places, settings, True, left_out).check()

    @property
    def reclaims(self) -> bool:
        """Whether memory is taken from the program, by a limit or since it asks for it."""
        ops = self.program.ops
        calls = among(ops, "limit", "reclaim", "process_madvise")
        reclaiming = [layout.ADVICE[advice] for advice in ("free", "cold", "pageout")]
        hints = (ops["op"] == layout.OPS.index("advise")) & np.isin(rows(ops, "advise")["advice"], reclaiming)
        return bool((calls | hints).any())

    @property
    def merges_vmas(self) -> bool:
        """Whether the kernel may join regions to one VMA: they do not lie in slots of their own."""
        mapped = select(self.program.ops, "mmap")
        place, file = mapped["placement"], mapped["flags"] & np.uint64(layout.VM_FILE) > 0
        apart = ((place == layout.AT_SLOT) & ~file) | (place == layout.AT_REGION)
        return bool((~apart).any() or len(select(self.program.ops, "brk")))

    def machine(self) -> Machine:
        """Return a simulated machine that has the program before it, with the settings."""
        machine = machine_for(self.program, max(MEMORY, 2 * memory_for(self.program) if self.whole else 0))
        self.settings.of_machine(machine)
        return machine

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
    labels = list(places) or [f"{program.name}: operation {i}" for i in range(len(program))]
    for op, place in zip(program.ops, labels, strict=True):
        name, of, why = layout.OPS[op["op"]], fields(op), ""
        if name in LEFT_OUT:
            why = f"{name} cannot be put to a host ({LEFT_OUT[name]})"
        elif (name == "thp" and of["mode"] == always) or (name == "set" and of["path"] == 0 and of["value"] == always):
            why = "`always` would change every process of this host: use madvise"
        elif name == "mmap" and int(of["flags"]) & RIGHTS not in PROT:
            why = "a mapping can be prot=none, r or rw"
        elif name == "process_madvise" and of["orders"]:
            why = "Linux has no advice about a set of sizes"
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
        found = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        if not found:
            raise LiveError(f"{path}: there is no file in it")
        files += found
    if not files:
        raise LiveError("no program: name a file in the language of trace programs, or a folder of them")
    return [LiveProgram.load(file) for file in files]


def random_programs(count: int, seed: int) -> list[LiveProgram]:
    """Return random programs with the seeds from `seed` on."""
    return [LiveProgram.parse(f"live{number}", generate(number).lines) for number in range(seed, seed + count)]
