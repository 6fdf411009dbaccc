"""The recordings of real programs that this package ships."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.traces import Program, load_program
from thp_env.workload import Instance, Sample, Workload, memory_for
from thp_workloads.relocation import elsewhere, fits, mapped
from thp_workloads.splits import cores_of, side_of

FAMILIES = {
    "python_dict": "interpreter",
    "sqlite_memory": "database",
    "redis_server": "key-value store",
    "zstd_long": "compression",
    "make_tcc": "fork-heavy",
    "java_interpreter": "data centre",
}
"""The family of each recording; `thp_workloads.splits` says on which side it stands."""


@cache
def program(name: str) -> Program:
    """Return a shipped recording.

    Raises:
        ProgramError: when its file is missing or damaged.
    """
    return load_program(str(files("thp_workloads") / "data" / f"{name}.npz"))


def _sample(name: str, rng: np.random.Generator) -> Instance:
    recorded = program(name)
    return Instance(recorded, MachineConfig(memory=memory_for(recorded)))


def _elsewhere(name: str, rng: np.random.Generator) -> Instance:
    return elsewhere(program(name), rng, cores_of(side_of(FAMILIES[name])), partial(_fits, name))


@cache
def _fits(name: str, pages: int) -> bool:
    return fits(program(name), pages, _mapped(name))


@cache
def _mapped(name: str) -> list[int]:
    return mapped(program(name))


def recordings() -> list[Workload]:
    """Return the shipped recordings as workloads.

    Every seed draws the same program on the same machine, as it was recorded; `surroundings="drawn"` draws addresses,
    machine, core, fragmentation and limits by the seed. What the program does is always the same.
    """
    found = []
    for name, family in FAMILIES.items():
        draw: Callable[[np.random.Generator], Instance] = partial(_sample, name)
        variants: dict[str, Sample] = {"recorded": draw, "drawn": partial(_elsewhere, name)}
        found.append(Workload(name, "recording", family, side_of(family), f"recording of a real program: {name}", draw,
                              variants))  # fmt: skip
    return found
