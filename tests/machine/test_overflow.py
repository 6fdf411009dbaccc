"""The clock and the counters come to an end instead of wrapping."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.machines import SMALL_TLB, free_clock, machine_of

from thp_env.machine import MachineError, Status
from thp_env.machine.batch import Batch, Window
from thp_env.machine.cores import Tlb
from thp_env.machine.operations import ACCESS_DTYPE
from thp_env.traces import ProgramBuilder, ProgramError

pytestmark = pytest.mark.sanitize

CLOCK_MAX = (1 << 63) - 1
TIME_IS_OVER = "simulated time is over: the clock holds 2\\^63 ps, 106 days"
MOST = (1 << 32) - 1


@pytest.mark.parametrize(
    "program",
    [
        "compute 9300000s\ncompute 9300000s\n",
        "compute 18446744s\n",
        "mmap a 4M\ncompute 9200000s\naccess a 0 4M uniform count=1000000 ns=100000000 weight=4294967295\n",
        "mmap a 4M\naccess a 0 4M uniform count=1000000000 ns=1000000000 weight=4294967295\n",
    ],
)
def test_time_does_not_wrap(program):
    machine = machine_of(program)
    for _ in range(2):
        with pytest.raises(MachineError, match=TIME_IS_OVER):
            machine.run(go_on=True)
    assert machine.clock_ps == CLOCK_MAX
    assert int(machine.counters.times.sum()) == CLOCK_MAX
    machine.validate()
    with pytest.raises(MachineError, match=f"machine 1: {TIME_IS_OVER}"):
        Batch([machine_of("compute 1s\n"), machine]).run(Window())


def test_time_that_is_left_is_used():
    machine = machine_of("compute 9223372s\n")
    assert machine.run() == Status.DONE
    machine.khugepaged(sleep_ms=1e12)
    machine.clone().validate()


def test_counters_do_not_wrap():
    b = ProgramBuilder("many")
    b.mmap("a", 4 << 20)
    b.replay(np.array([(i % 2, 0, 1, MOST, 0) for i in range(4)], ACCESS_DTYPE), ns=0, weight=MOST)
    machine = machine_of(b.build(), clock=free_clock())
    with pytest.raises(MachineError, match="a counter has reached its end, 2\\^62"):
        machine.run()
    assert machine.counters["accesses"] == 1 << 62
    assert (machine.counters.vm >= 0).all()


def test_walks_and_memory_over_time_do_not_wrap():
    machine = machine_of("mmap a 4M\naccess a 0 4M uniform count=1000 ns=1 weight=4294967295\ncompute 9000000s\n")
    machine.run()
    assert (machine.counters.vm >= 0).all()
    machine = machine_of("mmap a 2048M\nwrite a 0 2048M\ncompute 9000000s\n", "2048", memory=4 << 30)
    with pytest.raises(MachineError, match="a counter has reached its end"):
        machine.run()
    assert (machine.counters.vm >= 0).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("access a 0 4M uniform count=18446744073709551615", "line 2: unknown count of accesses"),
        ("access a 0 4M uniform count=1 ns=1000000001", "line 2: an access takes more than 1 s"),
    ],
)
def test_operations_beyond_what_can_be_counted_are_refused(line, message):
    with pytest.raises(ProgramError, match=message):
        machine_of(f"mmap a 4M\n{line}\n")


def test_a_tlb_beyond_what_can_be_counted_is_refused():
    largest = (1 << 16, 4096)
    core = Tlb("largest", largest, largest, largest, pwc=(largest,) * 3)
    with pytest.raises(MachineError, match="the arrays of the TLB together are too large"):
        machine_of("mmap a 4M\n", core=core, shadow_tlb=True)
    with pytest.raises(MachineError, match="a reference takes at most 1048576 cycles"):
        machine_of("mmap a 4M\n", core=replace(SMALL_TLB, l2_hit_cycles=1 << 30))


def test_a_stride_beyond_the_range_is_one_step():
    machine = machine_of("mmap a 4M\nwrite a 0 4M stride=16777216G\n")
    assert machine.program.steps.tolist() == [1, 1]
    machine.run()
    assert machine.counters["accesses"] == 1
