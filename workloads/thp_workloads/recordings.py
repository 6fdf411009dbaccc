"""The recordings of real programs that this package ships."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.resources import files

import numpy as np

from thp_env.machine import MachineConfig
from thp_env.traces import Program, load_program
from thp_env.workload import Instance, Workload, memory_for
from thp_workloads.splits import side_of

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


def recordings() -> list[Workload]:
    """Return the shipped recordings as workloads."""
    found = []
    for name, family in FAMILIES.items():
        draw: Callable[[np.random.Generator], Instance] = partial(_sample, name)
        found.append(Workload(name, "recording", family, side_of(family), f"recording of a real program: {name}", draw))
    return found
