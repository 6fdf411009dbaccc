"""Recordings elsewhere: other addresses and another machine, the same program."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from thp_workloads.recordings import FAMILIES, program
from thp_workloads.relocation import at_addresses, draw_place, elsewhere, fits, mapped, reach, surrounded
from thp_workloads.splits import TRAIN_CORES
from thp_workloads.surroundings import MIB, Surroundings

from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.traces import ProgramBuilder
from thp_env.workload import find, memory_for, most_mapped

every_recording = pytest.mark.parametrize("name", FAMILIES)


def run(recorded, config: MachineConfig | None = None) -> Machine:
    machine = Machine(recorded, config or MachineConfig(memory=memory_for(recorded)))
    assert machine.run(go_on=True) == Status.DONE
    machine.validate()
    return machine


@every_recording
def test_addresses_move_and_nothing_else(name: str) -> None:
    recorded = program(name)
    drawn = [draw_place(recorded, np.random.default_rng(seed), partial(fits, recorded)) for seed in range(2)]
    assert all(mapped(there) == mapped(recorded) for there in drawn), "nothing lands on anything else"
    machines = [run(recorded), *map(run, drawn)]
    for counter in ("pgfault", "accesses", "nr_resident"):
        assert len({machine.counters[counter] for machine in machines}) == 1, "4K pages lie where they lie"
    if name != "make_tcc":  # of which nothing is left
        starts = [[v.start for v in machine.vmas()] for machine in machines]
        assert len({tuple(of) for of in starts}) == 3


def test_what_would_land_on_something_else_moves_by_2m() -> None:
    recorded = program("java_interpreter")
    assert not fits(recorded, 1)
    there = draw_place(recorded, np.random.default_rng(0), lambda pages: False)
    down = recorded.meta["mmap_base"] - there.meta["mmap_base"]
    assert down > 0
    assert down % layout.PMD_SIZE == 0
    assert mapped(there) == mapped(recorded)


@every_recording
def test_every_seed_is_another_place(name: str) -> None:
    recorded = program(name)
    drawn = [elsewhere(recorded, np.random.default_rng(seed), TRAIN_CORES) for seed in (0, 1, 2, 0)]
    assert drawn[0].program == drawn[3].program
    assert drawn[0].config == drawn[3].config
    assert len({repr(instance.config) for instance in drawn}) == 3
    assert len({instance.program.meta["brk_start"] for instance in drawn}) == 3
    assert len({instance.program.seed for instance in drawn}) == 3
    for instance in drawn[:3]:
        assert instance.program.work.sum() == recorded.work.sum()
        run(*instance)


def test_large_folios_fall_otherwise_with_other_addresses() -> None:
    recorded = program("sqlite_memory")

    def huge(at: int | None) -> int:
        there = recorded if at is None else at_addresses(recorded, at, 0, 0)
        machine = Machine(there, MachineConfig(memory=memory_for(recorded)))
        for order in layout.ORDERS:
            machine.set_thp(order, "always")
        machine.set_default_orders(layout.ORDERS_ALL & ~1)
        machine.run(go_on=True)
        return machine.counters["pgfault"]

    assert len({huge(None), *(huge(pages) for pages in (1, 16, 200))}) > 1


def test_limits_come_at_their_moment() -> None:
    recorded = program("zstd_long")
    pressure = ((0.5, 8 * MIB), (0.9, 4 * MIB))
    around = Surroundings(unusable=0.5, order=6, unmovable=0.2, swap=64 * MIB, pressure=pressure)
    there = surrounded(recorded, around, 7).check()
    codes = [layout.OPS[op] for op in there.ops["op"]]
    assert codes[:3] == ["pollute", "fragment", "swap"]
    at = [i for i, code in enumerate(codes) if code == "limit"]
    time = np.cumsum(there.own_ns) / there.own_ns.sum()
    assert [round(float(time[i]), 1) for i in at] == [0.5, 0.9]
    assert there.ops["length"][at].tolist() == [8 * MIB, 4 * MIB]
    others = [i for i, code in enumerate(codes) if code not in ("pollute", "fragment", "swap", "limit")]
    assert (there.ops[others] == recorded.ops).all()


@every_recording
def test_the_catalogue_offers_both(name: str) -> None:
    workload = find(name)
    rngs = [np.random.default_rng(0) for _ in range(3)]
    assert workload.draw(rngs[0]).program is workload.variant("recorded").draw(rngs[1]).program is program(name)
    assert workload.variant("drawn").draw(rngs[2]).program != program(name)


def test_a_machine_is_made_for_what_is_reached_not_for_what_is_reserved() -> None:
    b = ProgramBuilder("reserving", mmap_base=0x7FFFF7FFF000, brk_start=0x555555556000)
    b.mmap("reserved", 1 << 36, at="auto")
    b.mmap("table", 10 << 20, at="auto")
    b.touch("table", 0, 10 << 20)
    for gib in range(8):
        b.touch("reserved", gib << 30, 4096)
    program = b.build()
    assert most_mapped(program) == (1 << 36) + (10 << 20)
    # Eight blocks of 2M and one more, and the table as a whole.
    assert reach(program) == (9 << 21) + (10 << 20)
    drawn = elsewhere(program, np.random.default_rng(0), ("zen4",), footprint=reach(program))
    assert drawn.config.memory < 200 << 20
    assert elsewhere(program, np.random.default_rng(0), ("zen4",)).config.memory > 1 << 33
