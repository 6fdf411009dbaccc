"""Collapse to a size below 2M as an operation, and reading use below the size of a folio."""

from __future__ import annotations

import errno

import numpy as np
import pytest
from support.machines import free_clock, machine_of, orders_of

from thp_env.machine import (
    YOUNG_ACCESSED,
    YOUNG_CONT,
    YOUNG_DIRTY,
    YOUNG_MAPPED,
    YOUNG_PMD,
    YOUNG_ZERO_PAGE,
    Machine,
    MachineError,
)

pytestmark = pytest.mark.sanitize

BLOCK = 65536


def run(text: str, sizes: str = "", **config) -> Machine:
    machine = machine_of(text, sizes, **config)
    machine.run(go_on=True)
    machine.validate()
    return machine


# -- collapse ------------------------------------------------------------------------------------


def test_blocks_that_are_not_empty_become_folios():
    text = "mmap a 256K\nwrite a 0 4K\nwrite a 64K 64K\ncollapse a 0 256K 64\n"
    machine = run(text)
    assert machine.error == 0
    assert orders_of(machine, "a") == [4] * 32 + [None] * 32
    assert machine.counters.stat("collapse_alloc", 4) == machine.counters.stat("nr_anon", 4) == 2


@pytest.mark.parametrize("kilobytes", [16, 32, 128, 512, 1024, 2048])
def test_every_size(kilobytes):
    machine = run(f"mmap a 2M\nwrite a 0 2M\ncollapse a 0 2M {kilobytes}\n")
    assert set(orders_of(machine, "a")) == {(kilobytes // 4).bit_length() - 1}


def test_whatever_settings_say():
    text = "set khugepaged/max_ptes_none 0\nmmap a 64K\nwrite a 0 4K\nadvise a 0 64K cold\ncollapse a 0 64K 64\n"
    assert orders_of(run(text), "a") == [4] * 16


def test_only_whole_blocks_of_the_range():
    text = "mmap a 256K\nwrite a 0 256K\ncollapse a 4K 188K 64\n"
    assert orders_of(run(text), "a") == [0] * 16 + [4] * 32 + [0] * 16
    assert run("mmap a 256K\nwrite a 0 256K\ncollapse a 4K 60K 64\n").counters["nr_anon"] == 0


@pytest.mark.parametrize(
    ("before", "error"),
    [
        ("advise a 0 64K nohugepage", errno.EINVAL),
        ("fork C", errno.EBUSY),  # shared: MTHP_collapse_exceed_shared_pte
        ("pin a 0 4K", errno.EAGAIN),
        ("advise a 0 4K pageout", errno.EBUSY),
    ],
)
def test_what_cannot_be_collapsed(before, error):
    machine = run(f"swap 8M\nmmap a 128K\nfill a 0 128K\n{before}\ncollapse a 0 128K 64\n")
    assert machine.error == error
    assert orders_of(machine, "a")[1] == 0


def test_what_is_as_large_already_stays():
    machine = run("mmap a 2M\nwrite a 0 2M\ncollapse a 0 2M 128\ncollapse a 0 2M 64\n")
    assert machine.error == 0
    assert set(orders_of(machine, "a")) == {5}
    assert set(orders_of(run("mmap a 2M\nwrite a 0 4K\ncollapse a 0 2M 64\n", "2048"), "a")) == {9}


def test_the_method():
    machine = run("mmap a 256K\nwrite a 0 4K\n")
    vma = machine.vmas()[0].id
    assert machine.collapse(vma, 3) == 0
    assert orders_of(machine, "a") == [3] * 8 + [None] * 56
    assert machine.collapse(vma) == errno.EINVAL  # holds no 2M
    with pytest.raises(KeyError, match="no VMA with id 99"):
        machine.collapse(99)
    with pytest.raises(MachineError, match="order is a whole number from 2 to 9, not 1"):
        machine.collapse(vma, 1)


# -- use by block ------------------------------------------------------------------------------


def blocks(machine: Machine, clear: bool = True) -> list[int]:
    start, length = machine.region("a")
    return machine.read_blocks(0, start, start + length, clear=clear).tolist()


@pytest.mark.parametrize("arch", ["x86_64", "arm64"])
def test_use_below_the_size_of_a_folio(arch):
    """A folio of 512K: one block read, one written, the rest idle."""
    text = "mmap a 512K\nwrite a 0 4K\nmmap b 48M\nread b 0 48M\n"
    machine = run(text, "512", arch=arch)
    folded = YOUNG_CONT if arch == "arm64" else 0
    new = YOUNG_MAPPED | YOUNG_ACCESSED | YOUNG_DIRTY | folded
    assert blocks(machine) == [new] * 8  # a fault marks all of its folio
    assert blocks(machine) == [new & ~YOUNG_ACCESSED] * 8
    text += "advise a 0 512K free\nmmap c 48M\nread c 0 48M\nread a 64K 4K\nwrite a 132K 4K\n"
    again = run(text, "512", arch=arch)
    idle = YOUNG_MAPPED | folded
    assert blocks(again)[:4] == [idle, idle | YOUNG_ACCESSED, new, idle]


@pytest.mark.parametrize(("arch", "entries"), [("x86_64", 16 * 8), ("arm64", 8)])
def test_it_costs_by_the_entry(arch, entries):
    """A folded block has one bit, and costs one reading; sixteen entries cost sixteen."""
    machine = run("mmap a 512K\nwrite a 0 4K\n", "512", arch=arch, clock=free_clock(scan_pte=1000))
    blocks(machine)
    assert machine.clock_ps == 1000 * entries


def test_a_pmd_is_one_entry():
    machine = run("mmap a 4M\nwrite a 0 4K\n", "2048", clock=free_clock(scan_pte=1000))
    flags = np.array(blocks(machine))
    assert (flags[:32] == YOUNG_MAPPED | YOUNG_ACCESSED | YOUNG_DIRTY | YOUNG_PMD).all()
    assert not flags[32:].any()
    assert machine.clock_ps == 1000


def test_looking_without_clearing_and_zero_pages():
    machine = run("mmap a 128K\nread a 4K 4K\n")
    assert blocks(machine, clear=False) == blocks(machine) == [YOUNG_MAPPED | YOUNG_ACCESSED | YOUNG_ZERO_PAGE, 0]
    assert blocks(machine) == [YOUNG_MAPPED | YOUNG_ZERO_PAGE, 0]
    with pytest.raises(MachineError, match="cannot read"):
        machine.read_blocks(0, 5, 4096)
    with pytest.raises(MachineError, match="no such mm"):
        machine.read_blocks(9, 0, 4096)
