"""Clones that share what has not changed are machines of their own."""

from __future__ import annotations

import gc
import re
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import PAGE
from support.programs import QUIET, programs

from thp_env.machine import Machine, MachineConfig
from thp_env.traces import ProgramBuilder

MIB, GIB = 1 << 20, 1 << 30
NEVER = (1 << 64) - 1


def shared(machine: Machine) -> Machine:
    """Return a clone that shares, however small the machine is."""
    clone = machine.clone()
    clone._core = machine._core.clone(0)
    return clone


def go(machine: Machine, operations: int = NEVER) -> None:
    """Run on; a failed system call is noted, and the program goes on."""
    machine._core.run(NEVER, NEVER, operations, NEVER, False, True)


@pytest.mark.sanitize
@QUIET
@given(programs(operations=12, forks=True), st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=8))
def test_generations_of_clones_end_as_the_machine_itself(program, generations):
    config = MachineConfig(memory=64 * MIB, nr_cpus=2)
    expected, machine, left = Machine(program, config), Machine(program, config), []
    for operations, go_on_with_the_clone in generations:
        go(machine, operations)
        machine.validate()
        clone = shared(machine)
        assert clone.save() == machine.save()
        machine, other = (clone, machine) if go_on_with_the_clone else (machine, clone)
        left.append(other)
    go(expected)
    end = expected.save()
    for one in [machine, *left]:
        go(one)
        one.validate()
        assert one.save() == end


def two_halves(size: int) -> ProgramBuilder:
    """Return a program that writes to one half of what it maps, and then to the other."""
    b = ProgramBuilder("halves")
    b.mmap("a", size)
    b.touch("a", 0, size // 2)
    b.touch("a", size // 2, size // 2)
    return b


@pytest.mark.sanitize
def test_neither_sees_what_the_other_does_afterwards():
    machine = Machine(two_halves(4 * MIB).build(), MachineConfig(memory=64 * MIB))
    machine.run(ops=2)
    before = machine.save()
    first, second = shared(machine), shared(machine)
    machine.run()
    after = machine.save()
    assert first.save() == before != after
    first.run()
    assert (first.save(), second.save()) == (after, before)
    del machine, first
    gc.collect()
    third = shared(second)
    second.run()
    assert (second.save(), third.save()) == (after, before)
    third.load(after)
    assert (third.save(), second.save()) == (after, after)


@contextmanager
def no_more_files():
    """Let the process open no file."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("ready", [False, True])
def test_without_a_file_everything_is_copied(ready):
    machine = Machine(two_halves(4 * MIB).build(), MachineConfig(memory=64 * MIB))
    machine.run(ops=2)
    images = [shared(machine)] if ready else []
    machine.run(accesses=100)
    with no_more_files():
        clone = shared(machine)
    assert clone.save() == machine.save()
    machine.run()
    clone.run()
    assert clone.save() == machine.save()
    assert len(images) == ready


def anonymous_mib() -> int:
    """Return the anonymous memory of this process."""
    return int(re.search(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def test_clones_of_a_large_machine_take_what_they_change():
    b = ProgramBuilder("large")
    b.mmap("a", 5 * GIB, at="auto")
    b.touch("a", 0, 5 * GIB)
    b.touch("a", 0, 100 * PAGE, "read")
    machine = Machine(b.build(), MachineConfig(memory=6 * GIB))
    machine.run(ops=2)
    assert machine.state_bytes > 80 * MIB
    clones = [machine.clone()]
    before = anonymous_mib()
    for _ in range(8):
        clones.append(machine.clone())
        clones[-1].run()
    assert anonymous_mib() - before < 40  # a copy of each would take 640
    assert all(clone == clones[1] != machine for clone in clones[2:])
