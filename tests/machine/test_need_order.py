"""Faults that wait for an order: what is asked, what an answer does, and that waiting changes nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import PAGE, PMD, machine_of, orders_of, program_of
from support.programs import QUIET, programs

from thp_env.machine import Machine, MachineError, OrderQuestion, Status, layout

pytestmark = pytest.mark.sanitize

ALL = " ".join(str(kilobytes) for kilobytes in layout.THP_KILOBYTES)
PMD_ORDER = layout.PMD_ORDER
Answer = Callable[[OrderQuestion], int]


def asking(program, hook: str, sizes: str = ALL, **config) -> Machine:
    machine = machine_of(program, sizes, **config)
    machine.ask_orders(hook)
    return machine


def play(machine: Machine, answer: Answer, **budget) -> tuple[Status, list[OrderQuestion]]:
    """Run to the end, answering every question."""
    asked = []
    while (status := machine.run(go_on=True, **budget)) == Status.NEED_ORDER:
        asked.append(machine.question)
        machine.resolve(answer(asked[-1]))
    return status, asked


def always(order: int) -> Answer:
    return lambda q: order if q.orders >> order & 1 else 0


def largest(q: OrderQuestion) -> int:
    return q.orders.bit_length() - 1 if q.orders else 0


def anything(q: OrderQuestion) -> int:
    """An arbitrary choice that depends on the question alone."""
    offered = [0, *(o for o in layout.ORDERS if q.orders >> o & 1)]
    return offered[(q.vma * 31 + q.address // PMD * 7 + layout.TVA_TYPES.index(q.type)) % len(offered)]


def seen(machine: Machine) -> tuple:
    """What a program and /proc can see."""
    maps = [(v.mm, v.start, v.end, machine.pagemap(v.mm, v.start, v.end - v.start).tobytes()) for v in machine.vmas()]
    return machine.counters.vm.tobytes(), machine.counters.mthp.tobytes(), machine.clock_ps, maps


WORK = """
seed 3
mmap a 5M offset=16K
mmap b 2M at=auto
write a 0 1M
access a 0 5M zipf count=4000 ns=3 write=0.5
advise a 0 1M dontneed
access b 0 2M uniform count=3000 ns=1 write=1 weight=7
access a 2M 2M chase count=2000 ns=2
advise a 0 4M populate_write
munmap a 1M 4K
shrink
compute 5us
"""


def test_a_machine_that_asks_nobody_is_the_machine_it_was():
    machine = machine_of(WORK, ALL)
    assert machine.run() == Status.DONE
    assert machine.question is None


@pytest.mark.parametrize("order", [2, 4, 7, 9])
def test_one_order_by_bpf_is_the_kernel_with_that_size_alone(order):
    machine = asking(WORK, "bpf")
    _, asked = play(machine, always(order))
    alone = machine_of(WORK, str(4 << order))
    assert alone.run() == Status.DONE
    assert machine.counters["fault_with_choice"] >= len(asked) > 2
    assert pages(machine) == pages(alone)
    stats = lambda m: [m.counters.stat("anon_fault_alloc", o) for o in layout.ORDERS]  # noqa: E731
    assert stats(machine) == stats(alone)
    assert machine.clock_ps == alone.clock_ps


def pages(machine: Machine) -> list:
    return [(v.start, v.end, orders_of(machine, name)) for name in "ab" for v in machine.vmas()]


def test_order_0_by_bpf_is_the_kernel_without_large_folios():
    machine, none = asking(WORK, "bpf"), machine_of(WORK)
    play(machine, lambda q: 0)
    assert none.run() == Status.DONE
    assert pages(machine) == pages(none)
    assert machine.clock_ps == none.clock_ps


def test_the_largest_by_address_is_the_kernel_with_all_sizes():
    machine, kernel = asking(WORK, "address"), machine_of(WORK, ALL)
    _, asked = play(machine, largest)
    assert asked
    assert kernel.run() == Status.DONE
    assert seen(machine) == seen(kernel)


def test_by_address_a_fault_falls_back_to_smaller_and_by_bpf_to_4k():
    text = "mmap a 2M\nmmap b 2M\nwrite a 256K 4K\nwrite a 0 4K\n"
    machine = asking(text, "address")
    play(machine, lambda q: 4)
    assert orders_of(machine, "a")[0] == 4
    machine = asking("mmap a 2M\nwrite a 12K 4K\nwrite a 0 4K\n", "bpf", "16 32")
    play(machine, lambda q: 3)
    assert orders_of(machine, "a")[:8] == [3] * 8
    for hook, expected in (("bpf", 0), ("address", 3)):  # a hole of 32K in a block of 64K
        text = "mmap a 2M\nwrite a 0 64K\nadvise a 32K 32K dontneed\nwrite a 32K 4K\n"
        machine = asking(text, hook)
        play(machine, lambda q: 4)
        assert orders_of(machine, "a")[8] == expected


def test_what_a_question_says():
    text = "mmap a 4M\nmmap n 2M\nadvise n 0 2M nohugepage\nwrite n 0 4K\nwrite a 2052K 4K\n"
    machine, before = asking(text, "bpf", "64 2048"), machine_of(text, "64 2048")
    before.run(ops=4)
    assert machine.run() == Status.NEED_ORDER
    (vma,) = (v for v in machine.vmas() if v.start == machine.region("a")[0])
    q = machine.question
    assert (q.vma, q.mm, q.type) == (vma.id, vma.mm, "fault")
    assert q.address == vma.start + 2052 * 1024
    assert q.orders == 1 << 4 | 1 << 9
    assert seen(machine) == seen(before), "nothing of the fault has happened"
    assert machine.run() == Status.NEED_ORDER, "as often as it is run"
    assert machine.question == q


@pytest.mark.parametrize("order", [3, 1, 10, -1, 99])
def test_what_was_not_offered_is_refused(order):
    machine = asking("mmap a 4M\nwrite a 0 4K\n", "bpf", "64")
    machine.run()
    before = machine.save()
    with pytest.raises(MachineError, match=r"not offered.*\[0, 4\]"):
        machine.resolve(order)
    assert machine.save() == before
    machine.resolve(4)
    with pytest.raises(MachineError, match="nothing was asked"):
        machine.resolve(4)


def test_an_unknown_hook_is_refused():
    with pytest.raises(ValueError, match=r"'ebpf'.*none, bpf, address"):
        machine_of("mmap a 4M\n").ask_orders("ebpf")


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("mmap a 4M\nwrite a 0 4M\n", [0, 1]),
        ("mmap a 4M\nwrite a 0 4M\nadvise a 0 2M dontneed\nwrite a 0 4M\n", [0, 1, 0]),
        ("mmap a 4M\nwrite a 0 4M\nadvise a 0 1M dontneed\nwrite a 0 4M\n", [0, 1]),
        ("mmap a 4M offset=1M\nwrite a 0 4M\nadvise a 0 1M dontneed\nwrite a 0 1M\n", [0, 1, 2, 0]),
        ("mmap a 4M\nwrite a 0 4M\nmprotect a 0 1M r\nwrite a 1M 1M\nadvise a 1M 4K dontneed\nwrite a 1M 1M\n", [0, 1]),
        ("mmap a 4M\nwrite a 0 64K\nadvise a 0 4M nohugepage\nwrite a 0 4M\n", [0]),
        ("mmap a 8K\nwrite a 0 8K\n", []),
        ("mmap a 2M\nread a 0 4K\nread a 64K 4K\nwrite a 0 2M\n", [0]),
        ("mmap a 4M\nwrite a 0 4M\nfork C\nin C write a 0 4M\n", [0, 1]),
    ],
    ids=["once", "again after a zap", "not after a part", "the VMA's part of a block", "a cut VMA keeps its answers",
         "no choice", "too small", "read first", "copies are no choice"],
)  # fmt: skip
def test_each_block_is_asked_about_once_until_it_is_zapped(text, blocks):
    machine = asking(text, "bpf")
    status, asked = play(machine, always(4))
    assert status == Status.DONE
    start = machine.region("a")[0] // PMD
    assert [q.address // PMD - start for q in asked] == blocks
    machine.validate()


def test_a_heap_that_shrinks_and_grows_is_asked_about_what_came_back():
    text = "brk h 4M\nwrite h 0 4M\nbrk h 2M\nbrk h 4M\nwrite h 0 4M\n"
    machine = asking(text, "bpf")
    _, asked = play(machine, always(4))
    start = machine.region("h")[0] // PMD
    blocks = [q.address // PMD - start for q in asked]
    assert blocks[:2] == [0, 1]
    assert 0 not in blocks[2:], "what stayed was answered"
    assert 1 in blocks[2:]


def test_two_vmas_in_a_block_are_asked_about_apart():
    text = "mmap a 2M\nmprotect a 1M 4K none\nwrite a 0 1M\nwrite a 1028K 64K\nwrite a 256K 64K\n"
    machine = asking(text, "bpf")
    _, asked = play(machine, always(4))
    assert len(asked) == 2
    assert asked[0].vma != asked[1].vma


def test_swapping_in_is_asked_about_apart():
    text = "swap 64M\nmmap a 2M\nwritez a 0 2M\nfill a 0 2M\nadvise a 0 2M pageout\nread a 0 2M\n"
    machine = asking(text, "bpf", "16 64")
    _, asked = play(machine, lambda q: 2 if q.type == "swapin" else 4)
    assert [q.type for q in asked] == ["fault", "swapin"]
    assert asked[1].orders == 1 << 2 | 1 << 4
    assert set(orders_of(machine, "a")) == {2}
    assert machine.counters.stat("swpin", 2) == 128


@pytest.mark.parametrize("order", [0, 9])
def test_khugepaged_asks_before_it_scans(order):
    text = "set enabled always\nmmap a 4M\nwrite a 0 4M\nadvise a 0 4M hugepage\nkhugepaged 2\n"
    machine = asking(text, "bpf", "64 2048")
    _, asked = play(machine, lambda q: order if q.type == "khugepaged" else 4)
    assert [q.type for q in asked] == ["fault", "fault", "khugepaged", "khugepaged"]
    assert all(q.orders == 1 << 9 for q in asked[2:])
    assert machine.counters["thp_collapse_alloc"] == (2 if order else 0)


def test_populating_and_pinning_wait_too():
    for line in ("advise a 0 6M populate_write", "pin a 0 6M", "mlock a 0 6M"):
        text = f"mmap a 6M\n{line}\n"
        machine, alone = asking(text, "bpf"), machine_of(text, "64")
        _, asked = play(machine, always(4))
        assert len(asked) == 3
        assert alone.run() == Status.DONE
        assert orders_of(machine, "a") == orders_of(alone, "a")
        assert machine.clock_ps == alone.clock_ps, line
        machine.validate()


def test_a_waiting_machine_is_cloned_and_saved_like_any_other():
    machine = asking(WORK, "bpf")
    machine.run()
    machine.resolve(largest(machine.question))
    assert machine.run() == Status.NEED_ORDER
    copy, other = machine.clone(), machine_of(WORK, ALL)
    other.load(machine.save())
    ends = []
    for m in (machine, copy, other):
        assert m.question == machine.question or m is not machine
        play(m, anything)
        ends.append(m.save())
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("hook", ["bpf", "address"])
@pytest.mark.parametrize("step_ps", [1000, 333_333])
def test_cuts_between_question_and_answer_change_nothing(hook, step_ps):
    whole = asking(WORK, hook)
    _, asked = play(whole, anything)
    machine = asking(WORK, hook)
    again = []
    while (status := machine.run(until_ps=machine.clock_ps + step_ps, go_on=True)) != Status.DONE:
        if status == Status.NEED_ORDER:
            again.append(machine.question)
            machine.resolve(anything(machine.question))
            machine.run(until_ps=machine.clock_ps, go_on=True)  # no time to go on
    assert again == asked
    assert machine.save() == whole.save()


@QUIET
@given(
    programs(operations=12, forks=True), st.sampled_from(["bpf", "address"]), st.lists(st.integers(1, 40), max_size=40)
)  # fmt: skip
def test_random_programs_end_the_same_wherever_they_are_cut(program, hook, cuts):
    config = {"memory": 64 << 20, "max_mms": 8}
    whole = asking(program, hook, **config)
    _, asked = play(whole, anything)
    machine = asking(program, hook, **config)
    again = []
    budgets = iter([{"choices": n} if n % 2 else {"until_ps": n * 50_000} for n in cuts])
    while True:
        budget = dict(next(budgets, {}))
        if "until_ps" in budget:
            budget["until_ps"] += machine.clock_ps
        status = machine.run(go_on=True, **budget)
        if status == Status.NEED_ORDER:
            machine.validate()
            again.append(machine.question)
            machine.resolve(anything(machine.question))
        elif status != Status.WINDOW:
            break
    machine.validate()
    assert again == asked
    assert machine.save() == whole.save()


@QUIET
@given(programs(operations=12))
def test_random_programs_with_the_largest_order_by_address_are_the_kernel(program):
    """Asking about each block and answering with what R4 would take first is not asking at all."""
    kernel, machine = machine_of(program, ALL), asking(program, "address")
    status = kernel.run(go_on=True)
    assert play(machine, largest)[0] == status
    assert seen(machine) == seen(kernel)


def test_many_answers_are_found_again():
    """More blocks than the table of answers first has room for, taken away in another order."""
    text = "mmap a 400M\n" + "write a 0 400M\n" + "".join(f"advise a {2 * i}M 2M dontneed\n" for i in range(0, 200, 3))
    machine = asking(text + "write a 0 400M\n", "bpf", memory=1 << 30)
    _, asked = play(machine, always(9))
    start = machine.region("a")[0] // PMD
    assert [q.address // PMD - start for q in asked] == [*range(200), *range(0, 200, 3)]
    machine.validate()
    assert np.unique(orders_of(machine, "a")).tolist() == [9]
    assert PAGE << PMD_ORDER == PMD
    assert program_of(text)
