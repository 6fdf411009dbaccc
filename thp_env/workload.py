"""Workloads: what environments and evaluations run, and how they are found.

A workload draws instances: a trace program and the machine that runs it. Packages offer workloads through the
entry-point group `thp_env.workloads`; each entry point is a callable that returns a list of `Workload`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.names import did_you_mean
from thp_env.traces import Program, load_program, parse_program

GROUP = "thp_env.workloads"


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


@cache
def workloads() -> dict[str, Workload]:
    """Return every installed workload by name."""
    found: dict[str, Workload] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            offered = list(entry.load()())
            if strangers := [w for w in offered if not isinstance(w, Workload)]:
                raise TypeError(f"{strangers[0]!r} is no Workload")
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise WorkloadError(f"the workloads of {entry.name} ({entry.value}) cannot be loaded: {reason}") from error
        for workload in offered:
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
        program = load_program(path) if path.suffix == ".npz" else parse_program(_read(path), str(path))
        return fixed(path.stem, program)
    known_names = ", ".join(known) or "none installed"
    raise WorkloadError(f"unknown workload {name!r}{did_you_mean(name, known)} There are {known_names}")


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


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from None
