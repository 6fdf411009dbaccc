"""khugepaged and collapse, beyond the recordings: who is registered, and what a collapse costs (R44, R45)."""

from __future__ import annotations

import pytest
from support.machines import free_clock, machine_of, orders_of

from thp_env.machine import Machine
from thp_env.machine.clock import COSTS

pytestmark = pytest.mark.sanitize

ONE = "mmap a 2M at=1M\nadvise a 0 2M hugepage\nwrite a 1M 4K\nthp 2048 madvise\n"
"""Half a block at its start and half of one at its end: no aligned 2M fits."""


def run(text: str, **config) -> Machine:
    machine = machine_of(text, **config)
    machine.run()
    machine.validate()
    return machine


def test_growing_a_vma_registers_its_process():
    grown = ONE + "mremap a 0 2M b new_length=4M at=auto\nkhugepaged 1\n"
    assert orders_of(run(ONE + "khugepaged 1\n"), "a")[256] == 0
    assert orders_of(run(grown), "b")[256] == 9


@pytest.mark.parametrize("how", ["advise a 0 2M collapse", "thp 2048 madvise\nadvise a 0 2M hugepage\nkhugepaged 1"])
@pytest.mark.parametrize("present", [1, 128, 512])
def test_collapse_pays_for_what_was_not_there(how, present):
    text = f"mmap a 2M\nwrite a 0 {present}p\n"
    clock = free_clock(zero_page=1000, copy_page=1)
    before = run(text, clock=clock).counters
    after = run(text + how + "\n", clock=clock).counters
    assert after.time_ps("zeroing") - before.time_ps("zeroing") == 1000 * (512 - present)
    assert after.time_ps("copying") == present


def test_a_small_collapse_pays_for_what_was_not_there():
    text = "thp 64 madvise\nmmap a 2M\nwrite a 0 12K\nadvise a 0 2M hugepage\nkhugepaged 1\n"
    counters = run(text, clock=free_clock(zero_page=1000), features={"fork_batch", "collapse_mthp"}).counters
    assert counters.stat("nr_anon", 4) == 1
    assert counters.time_ps("zeroing") == 1000 * (3 + 13)


def test_a_collapse_costs_no_less_than_the_fault_of_2m():
    """A block with one page, which a policy would otherwise get huge for nothing."""
    text = "mmap a 2M\nwrite a 0 4K\n"
    collapse = run(text + "advise a 0 2M collapse\n").clock_ps - run(text).clock_ps
    assert collapse > COSTS["zero_page"].ps * 511
