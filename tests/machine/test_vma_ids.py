"""Many VMAs: each is found by its id, whatever happened to it and to the others, and has its page tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from support.machines import PAGE, machine_of
from support.programs import QUIET, programs

from thp_env.machine import Machine, Status
from thp_env.traces import ProgramBuilder

pytestmark = pytest.mark.sanitize


def check(machine: Machine, seen: set[int]) -> None:
    """Check that each id that was ever seen leads to its VMA, or to none."""
    vmas = {vma.id: vma for vma in machine.vmas()}
    seen |= set(vmas)
    for vma in seen:
        if vma in vmas:
            assert machine.smaps(vma)["vm_start"] == vmas[vma].start
        else:
            with pytest.raises(KeyError):
                machine.smaps(vma)


@QUIET
@given(programs(operations=15, forks=True))
def test_after_every_operation(program):
    machine, seen = machine_of(program), set()
    status = Status.WINDOW
    while status == Status.WINDOW:
        status = machine.run(ops=1, go_on=True)
        check(machine, seen)
        assert machine.mapped_bytes == sum(vma.end - vma.start for vma in machine.vmas())
    check(machine.clone(), seen)


def test_many_come_and_go():
    b = ProgramBuilder("many")
    b.mmap("a", 600 * PAGE)
    for i in range(0, 600, 2):
        b.mprotect("a", i * PAGE, PAGE, "r")  # two VMAs more
    b.mprotect("a", 0, 600 * PAGE, "rw")  # one again
    for i in range(0, 600, 3):
        b.munmap("a", i * PAGE, PAGE)
    machine, seen = machine_of(b.build(), max_vmas=2000), set()
    for _ in range(12):
        machine.run(ops=50)
        check(machine, seen)
    assert len(seen) > 600


def test_mappings_that_lie_far_apart_have_their_page_tables():
    """Like the chunks of V8: each needs a table of its own on three levels, and these take memory alone."""
    b = ProgramBuilder("chunks")
    for i in range(4000):
        b.mmap(f"m{i}", 64 * PAGE, at=(i + 1) << 34)
        b.touch(f"m{i}", 0, PAGE)
    machine = machine_of(b.build(), memory=512 << 20)
    assert machine.run() == Status.DONE
    assert machine.counters["nr_page_table"] >= 8000
    machine.validate()


def test_a_vma_is_found_by_its_id() -> None:
    machine = machine_of("mmap a 1M\nmmap b 1M\nwrite b 0 8K\nmunmap a 0 1M\nmmap c 1M\n")
    machine.run()
    assert [machine.vma(v.id) for v in machine.vmas()] == machine.vmas()
    assert sum(v.faults for v in machine.vmas()) == 2
