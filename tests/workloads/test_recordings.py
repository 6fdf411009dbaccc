"""The recordings of real programs that the package ships."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pytest
from thp_workloads.recordings import FAMILIES, program

from thp_env.machine import Machine, Status, layout
from thp_env.traces import load_program
from thp_env.traces.npz import checksum
from thp_env.workload import find

PACKED_LIMIT = 3 << 20
LEAST = {"zstd_long": 70e6, "make_tcc": 2e6, "java_interpreter": 40e6}
"""Bytes of anonymous memory of programs that do not take 100 MB."""
pytestmark = pytest.mark.parametrize("name", FAMILIES)


def path(name: str):
    return files("thp_workloads") / "data" / f"{name}.npz"


def test_it_loads_and_its_checksum_holds(name: str) -> None:
    loaded = load_program(path(name))  # raises when the checksum does not hold
    assert checksum(loaded) == checksum(program(name))
    assert len(path(name).read_bytes()) <= PACKED_LIMIT


def test_it_says_where_it_is_from(name: str) -> None:
    meta = program(name).meta
    for fact in ("name", "command", "version", "recorder", "sampling_error"):
        assert meta.get(fact), fact


@pytest.mark.parametrize("order", [0, 9])
def test_it_runs_to_its_end_and_touches_what_it_touched(name: str, order: int) -> None:
    instance = find(name).sample(np.random.default_rng(0))
    machine = Machine(instance.program, instance.config)
    for o in layout.ORDERS:
        machine.set_thp(o, "always" if o == order else "never")
    assert machine.run(go_on=True) == Status.DONE
    assert machine.counters["peak_resident"] * layout.PAGE_SIZE >= LEAST.get(name, 100e6)
    assert machine.counters["accesses"] == instance.program.work.sum()


def test_it_stands_for_a_long_run(name: str) -> None:
    assert program(name).work.sum() > 1e7
