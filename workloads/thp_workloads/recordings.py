"""The recordings of real programs that this package ships."""

from __future__ import annotations

import os
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.traces import Program, ProgramError, load_program
from thp_env.workload import Instance, Sample, Workload, memory_for
from thp_workloads.relocation import elsewhere, fits, mapped, reach
from thp_workloads.splits import cores_of, side_of
from thp_workloads.surroundings import MIB

FAMILIES = {
    "python_dict": "interpreter",
    "sqlite_memory": "database",
    "redis_server": "key-value store",
    "zstd_long": "compression",
    "make_tcc": "fork-heavy",
    "java_interpreter": "data centre",
}
"""The family of each recording; `thp_workloads.splits` says on which side it stands."""




class Recorded(NamedTuple):
    """A file with a recording.

    Attributes:
        path: of the file.
        checksum: `Program.checksum`, if an index names it.
        footprint: bytes for which its machine is made; 0: the memory that it maps at a time.
    """

    path: str
    checksum: str = ""
    footprint: int = 0


def program(name: str) -> Program:
    """Return a shipped recording.

    Raises:
        ProgramError: when its file is missing or damaged.
    """
    return program_of(_shipped(name))


def _shipped(name: str) -> Recorded:
    return Recorded(str(files("thp_workloads") / "data" / f"{name}.npz"))


@cache
def program_of(recorded: Recorded) -> Program:
    """Return the program of a file.

    Raises:
        ProgramError: when the file is missing or damaged, or has another checksum.
    """
    loaded = load_program(recorded.path)
    if recorded.checksum not in ("", loaded.checksum):
        raise ProgramError(f"{recorded.path}: not the recording that its index names: record or fetch it again")
    return loaded


def recording(name: str, family: str, side: str, description: str, recorded: Recorded) -> Workload:
    """Return a recording as a workload.

    Every seed draws the same program on the same machine, as it was recorded; `surroundings="drawn"` draws addresses,
    machine, core, fragmentation and limits by the seed. The program itself is always the same.

    Args:
        name: unique.
        family: workloads of one family are on one side.
        side: "train", "validation" or "test".
        description: one line.
        recorded: its file.
    """
    draw: Sample = partial(_sample, recorded)
    variants: dict[str, Sample] = {"recorded": draw, "drawn": partial(_elsewhere, recorded, cores_of(side))}
    return Workload(name, "recording", family, side, description, draw, variants)


def of_file(path: str | os.PathLike[str]) -> Workload:
    """Return a recording of one's own as a workload of the test side.

    Raises:
        ProgramError: when the file is missing, damaged, or does not say where the program was mapped.
    """
    path = Path(path).resolve()
    loaded = load_program(path)
    if not {"mmap_base", "brk_start"} <= set(loaded.meta):
        raise ProgramError(f"{path}: it does not say where it was mapped, so no seed can move it: record it anew")
    description = str(loaded.meta.get("description", path.stem))
    return recording(path.stem, path.stem, "test", description, Recorded(str(path), loaded.checksum, reach(loaded)))


def _sample(recorded: Recorded, rng: np.random.Generator) -> Instance:
    loaded = program_of(recorded)
    footprint = recorded.footprint
    memory = -(-int(footprint * 1.25) // (4 * MIB)) * 4 * MIB + 64 * MIB if footprint else memory_for(loaded)
    return Instance(loaded, MachineConfig(memory=memory))


def _elsewhere(recorded: Recorded, cores: tuple[str, ...], rng: np.random.Generator) -> Instance:
    return elsewhere(program_of(recorded), rng, cores, partial(_has_room, recorded), recorded.footprint)


@cache
def _has_room(recorded: Recorded, pages: int) -> bool:
    return fits(program_of(recorded), pages, _mapped(recorded))


@cache
def _mapped(recorded: Recorded) -> list[int]:
    return mapped(program_of(recorded))


def recordings() -> list[Workload]:
    """Return the shipped recordings as workloads."""
    return [
        recording(name, family, side_of(family), f"recording of a real program: {name}", _shipped(name))
        for name, family in FAMILIES.items()
    ]
