"""Clone, save, load, compare; and that where a run is cut decides nothing."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import machine_of, program_of, run, with_checksum
from support.programs import QUIET, programs

from thp_env.machine import MachineError, Status

pytestmark = pytest.mark.sanitize

WORK = """
seed 3
mmap a 4M
mmap b 2M at=auto
thp 64 always
access a 0 4M zipf count=4000 ns=3 write=0.5
advise a 0 1M dontneed
access b 0 2M uniform count=3000 ns=1 write=1 weight=7
munmap a 1M 4K
access a 2M 2M chase count=2000 ns=2
shrink
compute 5us
"""


def finish(machine):
    assert machine.run(go_on=True) == Status.DONE
    return machine.save()


def test_the_same_program_gives_the_same_bytes():
    first, second = machine_of(WORK), machine_of(WORK)
    assert first == second
    assert finish(first) == finish(second)
    assert first == second


def test_another_seed_gives_other_accesses():
    first, second = machine_of(WORK), machine_of(WORK.replace("seed 3", "seed 4"))
    assert finish(first) != finish(second)
    assert first != second
    assert first != "a machine"


def test_a_clone_is_independent_and_goes_on_the_same_way():
    machine = machine_of(WORK)
    machine.run(ops=4)
    copy, before = machine.clone(), machine.save()
    assert copy == machine
    end = finish(copy)
    assert machine.save() == before
    assert finish(machine) == end


def test_a_saved_machine_goes_on_elsewhere():
    machine = machine_of(WORK)
    machine.run(ops=4)
    data = machine.save()
    assert machine.state_bytes == len(data)
    other = machine_of(WORK)
    other.run()
    other.load(data)
    assert other == machine
    assert finish(other) == finish(machine)


def daemon_of(program, pages, sleep_ms, **config):
    machine = machine_of(program, **config)
    machine.khugepaged(pages, sleep_ms)
    return machine


LIMITS = st.sampled_from(["ops", "until_ps", "choices", "accesses", "new_vma"])


@QUIET
@given(programs(operations=8), st.lists(st.tuples(LIMITS, st.integers(1, 3_000_000)), max_size=30),
       st.booleans(), st.sampled_from([0, 600]), st.sampled_from([0, 0.001, 10]))  # fmt: skip
def test_a_run_cut_anywhere_ends_the_same(program, cuts, time_by_vma, pages, sleep_ms):
    whole = finish(daemon_of(program, pages, sleep_ms, time_by_vma=time_by_vma))
    machine = daemon_of(program, pages, sleep_ms, time_by_vma=time_by_vma)
    for kind, n in cuts:
        if kind == "new_vma":
            status = machine.run(new_vma=True, go_on=True)
        elif kind == "until_ps":
            status = machine.run(until_ps=machine.clock_ps + n, go_on=True)
        else:
            status = machine.run(**{kind: 1 + n % 5}, go_on=True)
        if status != Status.WINDOW:
            break
    assert finish(machine) == whole


@pytest.mark.parametrize("step_ps", [1000, 77_777, 10_000_000])
def test_cuts_inside_accesses_change_nothing(step_ps):
    machine = machine_of(WORK)
    pieces = 0
    while machine.run(until_ps=machine.clock_ps + step_ps) == Status.WINDOW:
        pieces += 1
    assert pieces > 5
    assert machine.save() == finish(machine_of(WORK))


def test_limits_are_where_runs_end():
    machine = machine_of(WORK)
    assert machine.run(ops=2) == Status.WINDOW
    assert machine.position == (2, 0)
    assert machine.run(choices=5) == Status.WINDOW
    assert machine.counters["fault_with_choice"] == 5
    assert machine.position[0] == 3
    clock = machine.clock_ps
    assert machine.run(until_ps=clock) == Status.WINDOW
    assert machine.clock_ps == clock
    assert machine.run() == Status.DONE
    assert machine.run() == Status.DONE


def test_a_new_vma_is_where_runs_end_if_asked():
    machine = machine_of("mmap a 4K\nmmap b 64K\nmmap f 1M file=1\nmmap c 1M\ncompute 1\n")
    positions = []
    while machine.run(new_vma=True) == Status.WINDOW:
        positions.append(machine.position[0])
    assert positions == [2, 4]


def test_a_failure_stops_where_it_is_and_stays():
    machine = run("mmap a 8K\nadvise a 4K 4K guard_install\nwrite a 0 8K\n", status=Status.ERROR)
    assert machine.position == (2, 1)
    assert machine.run() == Status.ERROR
    assert machine.position == (2, 1)


SAVED = run(WORK).save()


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 100, SAVED[:-1], SAVED[:-8], SAVED[: len(SAVED) // 2], SAVED + b"\0", SAVED + bytes(8)],
    ids=["nothing", "other", "short by one", "no checksum", "half", "long by one", "long by eight"],
)
def test_what_is_no_saved_machine_is_refused(data):
    machine = machine_of(WORK)
    before = machine.save()
    with pytest.raises(MachineError, match="not a saved machine"):
        machine.load(data)
    assert machine.save() == before


@given(st.integers(0, len(SAVED) - 1), st.integers(1, 255))
def test_one_damaged_byte_is_refused(position, change):
    data = bytearray(SAVED)
    data[position] ^= change
    with pytest.raises(MachineError, match="not a saved machine"):
        machine_of(WORK).load(bytes(data))


def test_a_state_with_a_good_checksum_and_wrong_tables_is_refused():
    body, program = SAVED[:-16], SAVED[-16:-8]
    with pytest.raises(MachineError, match="truncated"):
        machine_of(WORK).load(with_checksum(body[:-8] + program))


def test_a_state_of_another_machine_or_program_is_refused():
    for other in (machine_of(WORK, memory=32 << 20), machine_of(WORK, shadow_tlb=True)):
        with pytest.raises(MachineError, match="another configuration"):
            other.load(SAVED)
    for program in ("mmap a 4K", WORK.replace("count=4000", "count=4001"), WORK.replace("seed 3", "seed 4")):
        with pytest.raises(MachineError, match="belongs to another program"):
            machine_of(program).load(SAVED)


def test_what_was_read_of_a_machine_outlives_it():
    machine = machine_of(program_of(WORK))
    machine.run(ops=4)
    counters, pages, vmas = machine.counters, machine.pagemap(0, *machine.region("a")), machine.vmas()
    before = counters.vm.copy(), pages.copy(), list(vmas)
    machine.load(SAVED)
    del machine
    assert (counters.vm == before[0]).all()
    assert (pages == before[1]).all()
    assert vmas == before[2]


def test_a_program_that_is_written_while_it_runs_does_the_same():
    program = program_of(WORK)
    machine = machine_of(program)
    for end in range(1, len(program) + 1):
        machine.extend(replace(program, ops=program.ops[:end]))
        assert machine.run() == Status.DONE
    assert machine.save() == finish(machine_of(program))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (WORK.replace("mmap a 4M", "mmap a 6M"), "does not begin with the 3 operations that have run"),
        (WORK.replace("seed 3", "seed 4"), "does not begin with"),
        (WORK + "mmap c 4K\n", "no room for so many regions or processes"),
        (WORK + "fork C\n", "no room for so many regions or processes"),
    ],
)
def test_a_program_that_cannot_follow_is_refused(change, message):
    machine = machine_of(WORK)
    machine.run(ops=3)
    with pytest.raises(MachineError, match=message):
        machine.extend(program_of(change))
    assert finish(machine) == finish(machine_of(WORK))


def test_an_extended_machine_has_the_swap_and_files_that_it_was_built_with():
    machine = machine_of("swap 1M\nmmap a 64K\n")
    machine.run(ops=0)
    machine.extend(program_of("swap 2M\n"))
    assert machine.run() == Status.ERROR
    assert machine.error == errno.ENOMEM
    machine = machine_of("mmap a 64K file=1\n")
    machine.extend(program_of("mmap a 128K file=1\n"))
    assert machine.run() == Status.ERROR
    assert machine.error == errno.ENFILE
