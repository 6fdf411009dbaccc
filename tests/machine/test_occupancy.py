"""How full address ranges are: counted in C++, and once more here from what each page maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from support.machines import machine_of, run
from support.programs import QUIET, programs

from thp_env.machine import (
    KIND_FOLIO,
    KIND_HUGE_ZERO,
    KIND_ZERO,
    MAPS_NOTHING,
    MAPS_ZEROS,
    Machine,
    MachineError,
    Vma,
    layout,
)

PAGE, PMD, ORDERS = layout.PAGE_SIZE, layout.PMD_SIZE, range(layout.PMD_ORDER + 1)


def expected_orders(machine: Machine, vma: Vma) -> np.ndarray:
    pages = machine.pagemap(vma.mm, vma.start, vma.end - vma.start)
    orders = pages["order"].astype(np.int8)
    orders[pages["kind"] != KIND_FOLIO] = MAPS_NOTHING
    orders[(pages["kind"] == KIND_ZERO) | (pages["kind"] == KIND_HUGE_ZERO)] = MAPS_ZEROS
    return orders


def blocks(orders: np.ndarray, first: int, order: int) -> list[tuple[int, np.ndarray]]:
    """Return (first page, orders of the pages) of each aligned block of a size."""
    nr = 1 << order
    starts = range(-(-first // nr) * nr, first + len(orders) - nr + 1, nr)
    return [(at, orders[at - first : at - first + nr]) for at in starts]


def check(machine: Machine) -> None:
    for vma in machine.vmas():
        orders, first = expected_orders(machine, vma), vma.start // PAGE
        where = (vma.mm, vma.start, vma.end)
        assert machine.mapped_orders(*where).tolist() == orders.tolist()
        huge = [(at * PAGE, int((b >= 0).sum()), int((b == 9).sum())) for at, b in blocks(orders, first, 9)]
        assert machine.occupied_blocks(*where).tolist() == [block for block in huge if block[1]]
        holes = []
        for order, size in zip(ORDERS, machine.occupancy_by_size(*where), strict=True):
            of_size = blocks(orders, first, order)
            begun = [b for _, b in of_size if (b >= 0).any()]
            partial = [b for b in begun if (b < order).any()]
            assert size.tolist() == (len(begun), len(partial), sum(int((b >= 0).sum()) for b in partial))
            if order >= 2:
                counts = [(at, int((b == order).sum()), int((b == MAPS_NOTHING).sum())) for at, b in of_size]
                holes += [(at * PAGE, order, held, none, 0) for at, held, none in counts if held and none]
        assert machine.blocks_with_holes(*where).tolist() == holes


@given(program=programs(forks=True))
@settings(QUIET, max_examples=60)
def test_it_is_what_the_pages_map(program) -> None:
    machine = machine_of(program)
    machine.run(go_on=True)
    check(machine)


def test_a_folio_with_a_hole() -> None:
    machine = run("mmap a 4M\nwrite a 0 64K\nadvise a 16K 8K dontneed\n", "64", core="zen4")
    (vma,) = machine.vmas()
    assert machine.blocks_with_holes(0, vma.start, vma.end).tolist() == [(vma.start, 4, 14, 2, 0)]
    assert machine.occupancy_by_size(0, vma.start, vma.end)[4].tolist() == (1, 1, 14)
    assert machine.occupied_blocks(0, vma.start, vma.end).tolist() == [(vma.start, 14, 0)]


@pytest.mark.parametrize("read", ["mapped_orders", "occupied_blocks", "occupancy_by_size", "blocks_with_holes"])
def test_it_costs_no_time_and_refuses_what_is_no_range(read: str) -> None:
    machine = run("mmap a 4M\nwrite a 0 1M\n")
    (vma,) = machine.vmas()
    state = machine.save()
    getattr(machine, read)(0, vma.start, vma.end)
    assert machine.save() == state
    for mm, start, end, message in ((9, 0, PAGE, "no such mm"), (0, 1, PAGE, "begin and end"), (0, PAGE, 0, "begin")):
        with pytest.raises(MachineError, match=message):
            getattr(machine, read)(mm, start, end)
