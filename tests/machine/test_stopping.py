"""Whatever runs can be stopped: by the limits of the run, and by a signal whose handler raises."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from support.machines import machine_of

from thp_env.machine import MachineConfig, MachineError, Status
from thp_env.machine.batch import Batch, Question, Window
from thp_env.traces import ProgramBuilder

FOREVER = (1 << 64) - 1
HUGE = 65536 << 30
SPARSE = """
mmap a 8M
write a 0 4K
write a 2M 4K
write a 4M 4K
write a 6M 4K
set khugepaged/max_ptes_none 0
thp 2048 always
set enabled always
advise a 0 8M hugepage
"""
"""Blocks that khugepaged looks at in every round, and never collapses: each round takes time."""


class LateError(Exception):
    pass


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    def late(*_):
        raise LateError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


ENDLESS = {
    "rounds of khugepaged": SPARSE + f"khugepaged {FOREVER}\n",
    "accesses": f"mmap a 8M\naccess a 0 8M uniform count={1 << 61} ns=1\n",
    "faults": "mmap a 65536G at=auto\nread a 0 65536G\n",
}


@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS)
def test_a_signal_stops_a_run_which_can_go_on(program):
    machine = machine_of(program, memory=1 << 30, max_page_tables=1 << 17)
    with pytest.raises(LateError), stopped_after(0.2):
        machine.run()
    machine.validate()
    before = machine.clock_ps
    assert machine.run(until_ps=before + 1_000_000) in (Status.WINDOW, Status.OOM)


@pytest.mark.parametrize("program", ENDLESS.values(), ids=ENDLESS)
def test_a_signal_stops_a_batch(program):
    batch = Batch([machine_of(program, memory=1 << 30, max_page_tables=1 << 17) for _ in range(2)])
    with pytest.raises(LateError), stopped_after(0.2):
        batch.run(Window(question=Question.VMA))
    for machine in (batch[0], batch[1]):
        machine.validate()


def test_a_call_that_does_not_end_is_left_in_the_middle():
    text = "mmap a 1024G at=auto\nadvise a 0 1024G guard_install\n"
    machine = machine_of(text, memory=512 << 20, max_page_tables=1 << 17)
    before = machine.save()
    with pytest.raises(LateError), stopped_after(0.05):
        machine.run()
    for method in (machine.run, machine.save, machine.clone, machine.vmas, lambda: machine.counters):
        with pytest.raises(MachineError, match="stopped in the middle of an operation and cannot go on"):
            method()
    machine.load(before)
    machine.validate()
    assert machine.run(ops=1) == Status.WINDOW


LARGE = {
    "populate": "mmap a 8G at=auto\nadvise a 0 8G populate_read\n",
    "mlock": "mmap a 6G at=auto\nmlock a 0 6G\n",
    "exit": "mmap a 6G at=auto\nfork B\nin B write a 0 6G\nexit B\n",
    "munmap": "mmap a 6G at=auto\nwrite a 0 6G\nmunmap a 0 6G\n",
}


@pytest.mark.parametrize("program", LARGE.values(), ids=LARGE)
def test_calls_about_many_pages_go_on_where_they_were_stopped(program):
    """A signal comes again and again; the state in the end is that of a run that nobody disturbed."""
    whole, stopped = (machine_of(program, memory=8 << 30, max_page_tables=1 << 17) for _ in range(2))
    assert whole.run() == Status.DONE
    last = len(stopped.program) - 1
    stopped.run(ops=last)
    stops, seconds = 0, 0.002
    status = Status.WINDOW
    while status == Status.WINDOW:
        try:
            with stopped_after(seconds):
                status = stopped.run()
        except LateError:
            seconds *= 1.5  # so that it comes to an end on a busy machine, too
            stops += stopped.position == (last, 0)
            if stops == 1:
                stopped.validate()
                again = machine_of(program, memory=8 << 30, max_page_tables=1 << 17)
                again.load(stopped.save())
                assert again == stopped == stopped.clone()
    assert stops, "in the middle of the call"
    assert status == Status.DONE
    assert stopped == whole


def test_a_copy_that_takes_long_is_given_up_and_nothing_is_lost():
    text = "mmap a 4G at=auto\nwrite a 0 4G\n"
    machine, other = (machine_of(text, memory=5 << 30, max_page_tables=1 << 17) for _ in range(2))
    machine.run()
    saved = machine.save()
    fresh = other.save()
    for copy in (machine.clone, machine.save, lambda: other.load(saved)):
        with pytest.raises(LateError), stopped_after(0.01):
            copy()
    machine.validate()
    assert other.save() == fresh
    other.load(saved)
    assert other == machine


def test_a_limit_in_time_stops_rounds_of_khugepaged_and_cuts_change_nothing():
    program = SPARSE + "khugepaged 1000\nmmap b 4K\n"
    whole = machine_of(program)
    assert whole.run() == Status.DONE
    cut, pauses = machine_of(program), 0
    while cut.run(until_ps=cut.clock_ps + 50_000_000) == Status.WINDOW:
        pauses += cut.position[1] > 0
    assert pauses > 10
    assert cut == whole
    endless = machine_of(SPARSE + f"khugepaged {FOREVER}\n")
    assert endless.run(until_ps=10**12) == Status.WINDOW
    status, _, snapshot = Batch([endless]).run(Window(ps=10**12))
    assert status[0] == Status.WINDOW
    assert snapshot["clock"][0] >= 2 * 10**12


def test_rounds_of_khugepaged_without_work_are_no_work():
    machine = machine_of(f"mmap a 8M\nwrite a 0 8M\nkhugepaged {FOREVER}\n")
    assert machine.run() == Status.DONE
    machine = machine_of(f"thp 2048 always\nset enabled always\nmmap a 8M\nwrite a 0 8M\nkhugepaged {FOREVER}\n")
    assert machine.run() == Status.DONE


def test_khugepaged_without_sleep_lets_the_program_run():
    program = SPARSE + "access a 0 8M uniform count=200000 ns=100 write=0\ncompute 1s\n"
    alone = machine_of(program)
    alone.run()
    machine = machine_of(program)
    machine.khugepaged(pages=4096, sleep_ms=0)
    assert machine.run() == Status.DONE
    share = machine.counters.time_ps("monitoring") / (machine.clock_ps - 10**12)
    assert 0 < share < 0.05  # nice 19 beside nice 0: 1.4 %
    machine = machine_of("mmap a 8M\nwrite a 0 8M\ncompute 1s\n")
    machine.khugepaged(pages=10, sleep_ms=0, alloc_sleep_ms=0)
    assert machine.run() == Status.DONE


CALLS = ("free", "cold", "pageout", "dontneed", "willneed", "collapse", "populate_read", "guard_install",
         "guard_remove", "hugepage", "dontfork", "wipeonfork")  # fmt: skip


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_calls_for_half_of_the_address_space_end(arch):
    """Each would take minutes if it looked at every page, mapped or not."""
    b = ProgramBuilder("huge", checked=False)
    b.mmap("a", HUGE, at="auto")
    for offset in (0, HUGE // 2, HUGE - (4 << 20)):
        b.touch("a", offset, 4 << 20)
    b.swap(256 << 30)
    b.thp(2048, "always")
    b.set("enabled", "always")
    for advice in CALLS:
        b.advise("a", 0, HUGE, advice)
    b.mprotect("a", 0, HUGE, "r")
    b.mprotect("a", 0, HUGE, "rw")
    b.orders("a", 0, HUGE, 1 << 4)
    b.split("a", 0, HUGE)
    b.khugepaged(3)
    b.pollute(0.5)
    b.fragment(9, 0.5)
    b.compact()
    b.reclaim()
    b.fork("C")
    b.swapoff()
    b.munmap("a", 0, HUGE)
    machine = machine_of(b.build(), arch=arch)
    with stopped_after(60):
        assert machine.run(go_on=True) == Status.DONE
    machine.validate()


def test_decisions_about_half_of_the_address_space_end():
    machine = machine_of(f"mmap a {HUGE >> 30}G at=auto\nwrite a 0 8M\ncompute 1ms\n", "64")
    with stopped_after(60):
        machine.khugepaged(pages=FOREVER, sleep_ms=0.1)
        machine.run()
        vma = machine.vmas()[0]
        for advice in ("collapse", "guard_remove", "willneed", "cold"):
            machine.madvise(vma.id, advice)
        machine.split(vma.id)
        machine.set_orders(vma.id, 1 << 4)
        machine.count_zero_pages(vma.mm, vma.start, vma.end)
        assert int(machine.smaps(vma.id, clear_refs=True)["by_order"].sum()) > 0
        decisions = np.array([[[vma.id, 3, 25]]], np.uint32)
        Batch([machine]).run(Window(question=Question.VMA, every=2, idle=True), decisions=decisions)
    machine.validate()


def test_a_zipf_distribution_over_huge_ranges():
    assert machine_of("mmap a 8192G at=auto\naccess a 0 8192G zipf count=10\n").run() == Status.DONE
    with pytest.raises(ValueError, match="line 2: a zipf distribution covers less than 16 TiB"):
        machine_of("mmap a 65536G at=auto\naccess a 0 65536G zipf count=10\n")


def test_a_configuration_that_could_wrap_is_refused():
    from thp_env.machine.clock import clock_table

    for clock, message in (({"fault": 10**11}, "fault takes more than 10 ms"), ({"cycle": 2 * 10**9}, "a cycle takes")):
        with pytest.raises(MachineError, match=message):
            machine_of("mmap a 4K\n", clock=clock_table(**clock))
    assert MachineConfig().clock == clock_table()
