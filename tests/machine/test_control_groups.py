"""Memory control groups: what recordings (g01 to g11) cannot show, and what is refused."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.machine.operations import OP_DTYPE
from thp_env.machine.program import Program
from thp_env.traces import ProgramBuilder, ProgramError, format_program, parse_program

MIB = 1 << 20
TWO = """
swap 64M
mmap a 16M
fork Q
cgroup 1
in Q cgroup 2
limit 4M group=1
write a 0 6M
in Q write a 0 3M
"""


def built(text: str, memory: int = 256) -> Machine:
    return Machine(parse_program(text), MachineConfig(memory=memory * MIB))


def test_each_group_counts_what_is_its_own() -> None:
    machine = built(TWO)
    assert machine.run() == Status.DONE
    machine.validate()
    default, small, free = machine.control_groups()
    assert (default.number, small.number, free.number) == (0, 1, 2)
    assert default.current == 0
    assert (small.max, free.max) == (1024, None)
    assert small.anon <= small.current <= 1024 == small.peak
    assert small.anon + small.swap == 1536, "every page is in memory or in swap"
    assert (free.anon, free.swap) == (768, 0)
    assert small.events["max"] > 0 == free.events["max"]
    mm = machine.process("Q")[0]
    assert machine.control_group_of(mm) == 2


def test_reclaim_for_all_takes_from_every_group() -> None:
    machine = built("swap 64M\nmmap a 64M\nfork Q\ncgroup 1\nin Q cgroup 2\nwrite a 0 26M\nin Q write a 0 26M\n", 48)
    assert machine.run() == Status.DONE
    machine.validate()
    taken = [group.swap for group in machine.control_groups()]
    assert taken[0] == 0
    assert min(taken[1:]) > 0, "the whole machine runs short, no group does"


def test_each_group_has_a_deferred_split_queue() -> None:
    """Without swap reclaim leaves anonymous memory alone (R39), but for what the group's own shrinker splits (R19)."""
    text = "thp 2048 never\nthp 64 madvise\nmmap a 2M\nadvise a 0 2M hugepage\nfork Q\ncgroup 1\nin Q cgroup 2\n"
    for process in ("", "in Q "):
        text += f"{process}write a 0 256K\n"
        text += "".join(f"{process}advise a {64 * i}K 4K dontneed\n" for i in range(4))
    machine = built(text + "reclaim group=2\n")
    machine.run()
    assert machine.counters.stat("split", 4) == 4
    first, second = (group.anon for group in machine.control_groups()[1:])
    assert (first, second) == (64, 60), "what is unmapped is given back in group 2 only"


def test_one_group_is_as_if_there_were_none() -> None:
    """The group that everything runs in at first, whatever its number is."""
    program = "swap 64M\nmmap a 16M\n{}limit 4M{}\nwrite a 0 6M\nread a 0 6M\nwrite a 2M 8M\n"
    plain, moved = built(program.format("", "")), built(program.format("cgroup 0\n", " group=0"))
    plain.run(), moved.run()
    assert plain.counters["pswpout"] == moved.counters["pswpout"] > 0
    assert plain.control_groups()[0].events == moved.control_groups()[0].events


OOM = "mmap a 64M\ncgroup 1\nfork Q\nfork R\nlimit 16M group=1\nwrite a 0 4M\nin Q write a 0 8M\nin R write a 0 6M\n"


def test_the_largest_process_of_the_group_is_killed() -> None:
    machine = built(OOM + "in Q write a 0 4M\nwrite a 0 5M\n")
    assert machine.run() == Status.DONE, "the others go on, and what Q would have done is not done"
    machine.validate()
    assert machine.process("Q") is None
    assert machine.process("R")[1] == 1536
    assert machine.process("P")[1] == 1280
    events = machine.control_groups()[1].events
    assert (events["oom"], events["oom_kill"]) == (1, 1)
    assert machine.counters["oom_kill"] == 1


def test_no_other_group_s_process_is_killed() -> None:
    text = "mmap a 64M\nfork Q\nin Q cgroup 1\nwrite a 0 32M\nlimit 4M group=1\nin Q write a 0 8M\nwrite a 0 4K\n"
    machine = built(text)
    assert machine.run() == Status.DONE
    assert machine.process("Q") is None
    assert machine.process("P")[1] == 8192


def test_a_killed_process_answers_esrch_and_can_be_waited_for() -> None:
    machine = built(OOM + "in Q write a 0 4K\nexit Q\n")
    program = machine.program
    for _ in range(len(program) - 2):
        assert machine.run(ops=1) in (Status.WINDOW, Status.DONE)
    assert machine.run(ops=1) == Status.WINDOW
    assert machine.error == errno.ESRCH
    assert machine.run() == Status.DONE
    assert machine.error == 0


def test_the_group_of_everything_ends_the_run_as_ever() -> None:
    assert built("mmap a 64M\nlimit 8M\nwrite a 0 16M\n").run() == Status.OOM


def test_populate_kills_as_faults_do() -> None:
    text = "mmap a 64M\ncgroup 1\nfork Q\nlimit 16M group=1\nwrite a 0 10M\nin Q advise a 0 8M populate_write\n"
    machine = built(text)
    assert machine.run() == Status.DONE
    machine.validate()
    assert machine.process("P") is None
    assert machine.process("Q")[1] == 2048


@pytest.mark.parametrize("cut", [1, 7, 300])
def test_cuts_change_nothing(cut: int) -> None:
    text = TWO + "in Q read a 0 3M\nread a 0 6M\nreclaim group=2\n"
    whole, pieces = built(text), built(text)
    whole.run()
    while pieces.run(accesses=cut) != Status.DONE:
        pass
    assert pieces == whole
    loaded = built(text)
    loaded.load(pieces.save())
    assert loaded == whole == pieces.clone()


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("limit 4M group=3", "line 2: control group 3 does not exist: `cgroup 3` makes it"),
        ("reclaim group=1", "line 2: control group 1 does not exist: `cgroup 1` makes it"),
        ("swappiness 10 group=1", "line 2: control group 1 does not exist"),
        ("cgroup 64", "line 2: control groups are numbered 0 to 63, not 64"),
        ("cgroup x", "line 2: 'x' is no number"),
        ("set enabled always group=0\nset enabled always group=1", "line 3: enabled is the whole system's: only"),
        ("fork P", "line 2: process P exists already"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, reason: str) -> None:
    with pytest.raises(ProgramError) as error:
        parse_program(f"mmap a 4M\n{line}\n")
    assert reason in str(error.value)


def ops(*records: tuple[str, int, int]) -> Program:
    """Return a program of (operation, aux, a) as a file may hold it, with two processes."""
    rows = [(layout.OPS.index(op), 0, 0, 0, 4096, a, 0, 0, 0, 1, aux) for op, aux, a in records]
    return Program(np.array(rows, OP_DTYPE), ("P", "Q"), ("a",))


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([("limit", 2, 0)], "operation 0: control group 2 does not exist: `cgroup 2` makes it"),
        ([("reclaim", 2, 0), ("cgroup", 2, 0)], "operation 0: control group 2 does not exist"),
        ([("cgroup", 64, 0)], "operation 0: unknown control group"),
        ([("cgroup", 1, 0), ("set", 1, 0)], "operation 1: a setting of the whole system, for a control group"),
        ([("fork", 0, 0)], "operation 0: fork to a process that lives: it has to exit first"),
        ([("fork", 1, 0), ("fork", 1, 0)], "operation 1: fork to a process that lives"),
    ],
)
def test_files_are_checked_alike(records: list[tuple[str, int, int]], reason: str) -> None:
    with pytest.raises(ProgramError) as error:
        ops(*records).check()
    assert reason in str(error.value)


def test_a_name_may_be_used_again_after_exit() -> None:
    program = ops(("fork", 1, 0), ("exit", 1, 0), ("fork", 1, 0)).check()
    machine = Machine(program, MachineConfig(memory=64 * MIB))
    assert machine.run() == Status.DONE
    machine.validate()


def test_programs_are_written_back() -> None:
    b = ProgramBuilder("groups")
    b.mmap("a", 4 * MIB)
    b.cgroup(5)
    b.limit(MIB, group=5)
    b.limit(layout.NO_LIMIT, group=5)
    b.swappiness(10, group=5)
    b.reclaim(group=5)
    program = b.build()
    assert parse_program(format_program(program)) == program
