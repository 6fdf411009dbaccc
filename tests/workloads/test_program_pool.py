"""Pools of programs: drawn once by threads, the same whoever draws them."""

from __future__ import annotations

import numpy as np
from support.episodes import small_workload

from thp_env.program_pool import ProgramPool
from thp_env.traces.npz import checksum
from thp_env.workload import find


def drawn(pool: ProgramPool, n: int) -> list[str]:
    rng = np.random.default_rng(5)
    return [checksum(pool.workloads[i % len(pool.workloads)].draw(rng).program) for i in range(n)]


def test_what_is_drawn_depends_on_the_generator_alone() -> None:
    workloads = [small_workload("a"), small_workload("b")]
    alone = ProgramPool(workloads, 3, threads=1)
    alone.close()  # nobody draws ahead
    many = ProgramPool(workloads, 3, threads=4)
    assert drawn(alone, 40) == drawn(many, 40)
    many.close()


def test_programs_are_drawn_once_and_again() -> None:
    pool = ProgramPool([small_workload()], 4, first=7, threads=2)
    programs = {id(pool.workloads[0].draw(np.random.default_rng(i)).program) for i in range(60)}
    assert len(programs) == len(pool) == 4
    expected = {checksum(small_workload().draw(np.random.default_rng(7 + k)).program) for k in range(4)}
    assert {checksum(instance.program) for _, instance in pool.instances()} == expected
    pool.close()


def test_a_recording_has_instances_where_its_surroundings_are_drawn() -> None:
    pool = ProgramPool([find("make_tcc").variant("drawn")], 3)
    assert len({checksum(instance.program) for _, instance in pool.instances()}) == len(pool) == 3
    pool.close()


def test_a_recording_is_there_once() -> None:
    pool = ProgramPool([find("make_tcc"), small_workload()], 3)
    assert len(pool) == 4
    assert [name for name, _ in pool.instances()] == ["make_tcc", "small", "small", "small"]
    pool.close()
