"""Workloads: what environments and evaluations run, and how they are found.

A workload draws instances: a trace program and the machine that runs it. Packages offer workloads through the
entry-point group `thp_env.workloads`; each entry point is a callable that returns a list of `Workload`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.machine.layout import PAGE_SIZE
from thp_env.reading import read_text, reading
from thp_env.traces import Program, load_program, parse_program

GROUP = "thp_env.workloads"
FILE_PAGES_MAX = 1 << 28
"""Pages of the files that a workload maps; the machine keeps a bit of each."""


class WorkloadError(ValueError):
    """A workload that does not exist or cannot be made."""


class Instance(NamedTuple):
    """One draw of a workload: what runs, and on which machine."""

    program: Program
    config: MachineConfig


@dataclass(frozen=True)
class Workload:
    """Something that draws instances.

    Attributes:
        name: unique.
        kind: "generator" or "recording".
        family: workloads of one family never stand on two sides of a split.
        split: "train", "validation" or "test".
        description: one line.
        sample: draws an instance from a NumPy generator; equal generators give equal instances.
    """

    name: str
    kind: str
    family: str
    split: str
    description: str
    sample: Callable[[np.random.Generator], Instance]

    def __post_init__(self) -> None:
        """Refuse what is no workload.

        Raises:
            WorkloadError: naming the attribute.
        """
        texts = {name: getattr(self, name) for name in ("name", "kind", "family", "split", "description")}
        for name, value in texts.items():
            if not isinstance(value, str) or (not value and name != "description"):
                raise WorkloadError(f"workload {self.name!r}: its {name} is {value!r}, not a text")
        if not callable(self.sample):
            raise WorkloadError(f"workload {self.name!r}: its sample is no function of a NumPy generator")


@cache
def workloads() -> dict[str, Workload]:
    """Return every installed workload by name."""
    found: dict[str, Workload] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            offered = list(entry.load()())
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise WorkloadError(f"the workloads of {entry.name} ({entry.value}) cannot be loaded: {reason}") from error
        for workload in offered:
            if not isinstance(workload, Workload):
                raise WorkloadError(f"{entry.name} ({entry.value}) offers {workload!r:.80}, which is no Workload")
            if workload.name in found:
                raise WorkloadError(f"two packages offer a workload called {workload.name}")
            found[workload.name] = workload
    return found


def find(name: str) -> Workload:
    """Return a workload by name, or one that runs a program file (.npz or text) on a machine that fits it.

    Raises:
        WorkloadError: for an unknown name, with the nearest known one.
    """
    known = workloads()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix in (".npz", ".txt", ".trace"):
        program = load_program(path) if path.suffix == ".npz" else _parsed(path)
        if not len(program):
            raise WorkloadError(f"{path}: there is no operation in it")
        if program.file_pages > FILE_PAGES_MAX:
            raise WorkloadError(f"{path}: its files are larger than {FILE_PAGES_MAX * PAGE_SIZE >> 40} TiB in all")
        return fixed(path.stem, program)
    near = difflib.get_close_matches(name, known, 1, 0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise WorkloadError(f"unknown workload {name!r}{hint} There are {', '.join(known) or 'none installed'}")


def fixed(name: str, program: Program, config: MachineConfig | None = None) -> Workload:
    """Return a workload that always runs one program."""
    config = config or MachineConfig(memory=memory_for(program))
    return Workload(name, "recording", name, "test", str(program.meta.get("description", name)),
                    lambda rng: Instance(program, config))  # fmt: skip


def memory_for(program: Program) -> int:
    """Return a size of RAM, in bytes, that holds all a program has mapped at a time, with 2M folios and page tables."""
    from thp_env.machine import layout

    code = {name: layout.OPS.index(name) for name in ("mmap", "munmap", "mremap", "brk")}
    ops = program.ops
    files = set(ops["region"][(ops["op"] == code["mmap"]) & (ops["d"] & layout.VM_FILE != 0)].tolist())
    touched = ops["region"][np.isin(ops["op"], [layout.OPS.index(name) for name in ("touch", "access")])]
    accessed = {*touched.tolist(), *program.accesses["region"].tolist()}
    mapped = peak = 0
    heap: dict[int, int] = {}
    for op in ops[np.isin(ops["op"], list(code.values()))]:
        kind, region, length = int(op["op"]), int(op["region"]), int(op["length"])
        if region in files - accessed:
            continue
        if kind == code["mmap"]:
            mapped += length
        elif kind == code["munmap"]:
            mapped -= length
        elif kind == code["brk"]:
            mapped += length - heap.get(region, 0)
            heap[region] = length
        else:
            mapped += (length if op["c"] == layout.AT_SLOT else int(op["a"])) - length
        peak = max(peak, mapped)
    return max(64 << 20, min(16 << 30, -(-int(peak * 1.25) // (4 << 20)) * (4 << 20) + (32 << 20)))


def resolve(workload: str | Workload | Program | Instance | Sequence) -> list[Workload]:
    """Return the workloads that an argument names: a name, a workload, a program, an instance, or several."""
    if isinstance(workload, Workload):
        return [workload]
    if isinstance(workload, str):
        return [find(workload)]
    if isinstance(workload, Program):
        return [fixed(workload.name, workload)]
    if isinstance(workload, Instance):
        return [fixed(workload.program.name, workload.program, workload.config)]
    if isinstance(workload, Sequence) and workload:
        items: Sequence[Any] = workload
        return [w for item in items for w in resolve(item)]
    raise WorkloadError(f"{workload!r} is no workload: give a name, a Workload, a Program or several of them")


def _parsed(path: Path) -> Program:
    with reading(path, WorkloadError):
        text = read_text(path)
    return parse_program(text, str(path))
