"""Collapsing only those blocks in which page walks were sampled."""

from __future__ import annotations

import errno

import pytest
from support.machines import PMD, SMALL_TLB, machine_of

from thp_env.machine import Machine
from thp_env.machine.records import Verb

pytestmark = pytest.mark.sanitize

TEXT = "mmap a 16M\nwrite a 0 16M\naccess a 2M 2M uniform count=20000\naccess a 8M 2M uniform count=5000\ncompute 5\n"
PERIOD = 50


def sampled(period: int = PERIOD) -> Machine:
    """Return a machine after accesses to two blocks, nearly each of which is a walk."""
    machine = machine_of(TEXT, core=SMALL_TLB)
    machine.sample_walks(period)
    machine.run(ops=4)
    return machine


def collapse(machine: Machine, walks: int, start: int = 0, end: int = 16 << 20) -> tuple[int, list[int]]:
    """Collapse where there were so many walks; return the errno and the blocks that are huge."""
    at = machine.region("a")[0]
    error = machine.decide_range(machine.process("P")[0], at + start, at + end, Verb.COLLAPSE_WALKED, walks)
    machine.validate()
    order = machine.pagemap(machine.process("P")[0], at, 16 << 20)["order"]
    return error, [i for i in range(8) if (order[i * 512 : (i + 1) * 512] == 9).all()]


@pytest.mark.parametrize(("walks", "blocks"), [(30000, []), (10000, [1]), (2000, [1, 4])])
def test_what_was_walked_often_enough_is_collapsed(walks: int, blocks: list[int]) -> None:
    assert collapse(sampled(), walks) == (0, blocks)


def test_the_period_does_not_matter() -> None:
    assert collapse(sampled(10), 10000) == collapse(sampled(500), 10000) == (0, [1])


def test_only_whole_blocks_of_the_range() -> None:
    assert collapse(sampled(), 2000, 2 << 20, 9 << 20) == (0, [1])
    assert collapse(sampled(), 2000, (2 << 20) + 4096, 16 << 20) == (0, [4])


def test_each_walk_counts_for_one_collapse() -> None:
    machine = sampled()
    before = machine.counters["thp_collapse_alloc"]
    assert collapse(machine, 2000)[1] == [1, 4]
    assert collapse(machine, 2000)[1] == [1, 4]
    assert machine.counters["thp_collapse_alloc"] == before + 2
    assert machine.counters.time_ps("syscall") > 0


def test_without_samples_nothing_is_collapsed() -> None:
    machine = machine_of(TEXT, core=SMALL_TLB)
    machine.run(ops=4)
    assert collapse(machine, 0) == (0, [])


def test_an_error_is_that_of_madvise() -> None:
    machine = sampled()
    start = machine.region("a")[0]
    mm = machine.process("P")[0]
    machine.decide_range(mm, start, start + 4 * PMD, Verb.ADVISE, 15)  # nohugepage
    assert collapse(machine, 2000) == (errno.EINVAL, [4])


def test_it_is_part_of_the_state() -> None:
    machine, other = sampled(), sampled()
    other.load(machine.save())
    assert collapse(other, 2000) == collapse(machine.clone(), 2000) == (0, [1, 4])
