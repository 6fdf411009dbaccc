"""What a policy reads entry by entry, samples of page walks, and khugepaged as a daemon: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from thp_env.machine import (
    YOUNG_ACCESSED,
    YOUNG_MAPPED,
    YOUNG_PMD,
    YOUNG_ZERO_PAGE,
    Machine,
    MachineConfig,
    MachineError,
    Verb,
    layout,
)
from thp_env.machine.clock import COSTS
from thp_env.traces import parse_program

MIB, PAGE = 1 << 20, layout.PAGE_SIZE
SCAN, SAMPLE = COSTS["scan_pte"].ps, COSTS["pmu_sample"].ps


def run(text: str, orders: int = 1, **config) -> Machine:
    machine = Machine(parse_program(text), MachineConfig(memory=64 * MIB, **config))
    for order in layout.ORDERS:
        machine.set_thp(order, "always")
    machine.set_default_orders(orders)
    machine.run()
    return machine


def pages(machine: Machine, name: str) -> np.ndarray:
    start, length = machine.region(name)
    return np.arange(start, start + length, PAGE, np.uint64)


def monitoring(machine: Machine) -> int:
    return machine.counters.time_ps("monitoring")


def test_each_entry_is_read_and_cleared_once() -> None:
    machine = run("mmap a 32K\nwrite a 0 8K\nread a 16K 4K")
    seen = machine.test_and_clear_young(0, pages(machine, "a"))
    young = YOUNG_MAPPED | YOUNG_ACCESSED
    assert seen.tolist() == [young, young, 0, 0, young | YOUNG_ZERO_PAGE, 0, 0, 0]
    assert monitoring(machine) == 3 * SCAN, "what is not there costs nothing"
    again = machine.test_and_clear_young(0, pages(machine, "a"))
    assert again.tolist() == [1, 1, 0, 0, 9, 0, 0, 0]


def test_a_huge_mapping_is_one_entry() -> None:
    machine = run("mmap a 4M 2M\nwrite a 0 4K", orders=1 << 9)
    seen = machine.test_and_clear_young(0, pages(machine, "a"))
    assert (seen[:512] == YOUNG_MAPPED | YOUNG_ACCESSED | YOUNG_PMD).all()
    assert not seen[512:].any()
    assert monitoring(machine) == SCAN


def test_a_contpte_block_is_one_entry() -> None:
    machine = run("mmap a 128K 64K\nwrite a 64K 4K\nwrite a 0 4K", orders=1 << 4, arch="arm64")
    assert (machine.test_and_clear_young(0, pages(machine, "a")) == 3).all()
    assert monitoring(machine) == 2 * SCAN
    assert (machine.test_and_clear_young(0, pages(machine, "a")) == 1).all()


def test_zero_pages_of_large_folios_are_counted() -> None:
    machine = run("mmap a 64K 64K\nfill a 0 16K\nmmap b 16K\nwritez b 0 4K", orders=1 << 4)
    start, length = machine.region("a")
    assert machine.count_zero_pages(0, start, start + length) == 12
    assert monitoring(machine) == 12 * COSTS["zero_page"].ps + 4 * SCAN


def test_every_nth_walk_is_sampled() -> None:
    """Without a TLB hit in between, 8 pages are 8 walks; one access stands for 5."""
    machine = Machine(parse_program("mmap a 32K\nwrite a 0 32K"), MachineConfig(memory=64 * MIB))
    machine.sample_walks(3)
    machine.run()
    samples = machine.take_walk_samples()
    start, _ = machine.region("a")
    assert ((samples["address"] - start) // PAGE).tolist() == [2, 5]
    assert samples["count"].tolist() == [1, 1]
    assert monitoring(machine) == 2 * SAMPLE
    assert len(machine.take_walk_samples()) == 0
    assert sum(machine.counters.times) == machine.clock_ps


def test_sampling_is_off_by_default_and_survives_a_clone() -> None:
    text = "mmap a 32K\nwrite a 0 32K"
    machine = run(text)
    assert len(machine.take_walk_samples()) == 0
    machine = Machine(parse_program(text), MachineConfig(memory=64 * MIB))
    machine.sample_walks(1)
    machine.run(accesses=4)
    other = machine.clone()
    machine.run()
    other.run()
    assert machine == other
    assert len(other.take_walk_samples()) == 8


def test_decisions_about_a_range() -> None:
    machine = run("mmap a 4M 2M")
    start, _ = machine.region("a")
    assert machine.decide_range(0, start + 2 * MIB, start + 4 * MIB, Verb.ORDERS, 1 << 4) == 0
    assert [(v.pages, v.orders) for v in machine.vmas()] == [(512, 0), (512, 16)]
    for mm, first, last in ((5, start, start), (0, start + 1, start + PAGE), (0, start, start - PAGE)):
        with pytest.raises(MachineError, match="cannot decide"):
            machine.decide_range(mm, first, last, Verb.SPLIT)


def test_settings_are_written() -> None:
    machine = run("mmap a 4K")
    machine.set("khugepaged/max_ptes_none", 409)
    with pytest.raises(MachineError, match="0 to 511"):
        machine.set("khugepaged/max_ptes_none", 512)
    with pytest.raises(MachineError, match="setting is 'max_ptes': one of enabled"):
        machine.set("max_ptes", 1)


DENSE = (
    "mmap a 8M 2M\nwrite a 0 8M\nadvise a 0 8M hugepage\n" + "access a 0 8M uniform count=2000 ns=10000 weight=1000\n"
)


def daemon(pages: int, cut_ms: float = 0, sleep_ms: float = 1000) -> Machine:
    """Run 20 s of accesses to four whole 2M blocks of 4K pages, khugepaged awake."""
    machine = Machine(parse_program(DENSE), MachineConfig(memory=64 * MIB))
    machine.set_thp(9, "always")
    for order in layout.ORDERS[:-1]:
        machine.set_thp(order, "always")
    machine.set_default_orders(1)
    machine.run(ops=2)
    machine.set_default_orders(1 << 9)
    machine.khugepaged(pages, sleep_ms)
    while cut_ms and machine.run(until_ps=machine.clock_ps + int(cut_ms * 1e9)):
        pass
    machine.run()
    return machine


def test_khugepaged_sleeps_between_passes() -> None:
    assert daemon(0).counters["thp_collapse_alloc"] == 0
    assert daemon(4096).counters["thp_collapse_alloc"] == 4
    assert daemon(512, sleep_ms=7000).counters["thp_collapse_alloc"] == 2, "one block a pass, at 7 and 14 s"


def test_cutting_a_run_does_not_move_khugepaged() -> None:
    assert daemon(512, cut_ms=130) == daemon(512)
