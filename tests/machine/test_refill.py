"""Where an access stands for several, what the kernel flushes meanwhile is missed once, not as often as that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.machines import PAGE, free_clock, machine_of, pages_of

from thp_env.machine import KIND_FOLIO, LAYOUT_TOUCHED, YOUNG_ACCESSED, Machine
from thp_env.machine.layout import ADVICE
from thp_env.machine.records import Verb

pytestmark = pytest.mark.sanitize

PAGES = 512
"""Of one block, which every second level here holds."""
TURNS = 8000
"""Uniform accesses after which all of its pages were accessed."""
WEIGHT = 1000
CORES = ["skylake", "zen4", "neoverse-n1"]


def begun(weight: int, core: str, sizes: str = "", write: int = 0, **config: bool) -> Machine:
    """Return a machine in the middle of accesses to one block that stand for `weight` each.

    Half of another block was used before, and is in no walk cache's entry of its own.
    """
    text = "mmap b 1M\nadvise b 0 1M nohugepage\nwrite b 0 1M\nmmap a 2M\nwrite a 0 2M\n"
    text += f"access a 0 2M uniform count={2 * TURNS} weight={weight} write={write}\n"
    machine = machine_of(text, sizes, core=core, clock=free_clock(), **config)
    machine.run(ops=5)
    machine.run(accesses=TURNS)
    return machine


def ends_of(machine: Machine, region: str) -> tuple[int, int]:
    """Return where a region starts and ends."""
    start, length = machine.region(region)
    return start, start + length


def vma_of(machine: Machine, region: str) -> int:
    """Return the id of a region's VMA."""
    return next(vma.id for vma in machine.vmas() if vma.start == machine.region(region)[0])


def nothing(machine: Machine) -> None:
    """Change nothing."""


def flush(machine: Machine) -> None:
    """Flush the address space: more pages are unmapped than Linux invalidates one by one."""
    assert machine.madvise(vma_of(machine, "b"), "dontneed") == 0


def collapse(machine: Machine) -> None:
    """Replace the pages by one of 2M, after a flush of everything."""
    flush(machine)
    assert machine.madvise(vma_of(machine, "a"), "collapse") == 0


def split(machine: Machine) -> None:
    """Replace the page of 2M by 512."""
    assert machine.decide_range(machine.process("P")[0], *ends_of(machine, "a"), Verb.SPLIT) == 0


def missed(machine: Machine, event: Callable[[Machine], None], name: str = "dtlb_l2_miss") -> int:
    """Return what is missed from an event to the end of the program."""
    before = machine.counters[name]
    event(machine)
    machine.validate()
    machine.run()
    return machine.counters[name] - before


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("event", [flush, collapse])
def test_what_a_flush_takes_is_missed_once(core: str, event: Callable[[Machine], None]) -> None:
    entries = missed(begun(1, core), event)
    assert 0 < entries <= PAGES
    assert missed(begun(WEIGHT, core), event) == entries


@pytest.mark.parametrize("core", CORES)
def test_a_page_of_2m_that_is_split_comes_back_in_parts(core: str) -> None:
    assert missed(begun(1, core, "2048"), split) == missed(begun(WEIGHT, core, "2048"), split) > 1


@pytest.mark.parametrize("core", CORES)
def test_what_is_missed_without_a_flush_is_weighted(core: str) -> None:
    """The first accesses of an operation, whose pages no access before has brought."""
    machines = [machine_of("mmap a 64M\nwrite a 0 64M\naccess a 0 64M uniform count=2000 weight=" + str(weight),
                           core=core, memory=256 << 20, clock=free_clock()) for weight in (1, WEIGHT)]  # fmt: skip
    small, large = (missed(machine, nothing) for machine in machines)
    assert large == WEIGHT * small - (WEIGHT - 1) * 16384


@pytest.mark.parametrize("event", [flush, collapse])
def test_first_level_and_walk_caches_come_back_too(event: Callable[[Machine], None]) -> None:
    for name in ("dtlb_l1_miss", "walk_ref_pgd", "walk_ref_pmd"):
        small, calm = (missed(begun(1, "skylake"), of, name) for of in (event, nothing))
        large, calm_large = (missed(begun(WEIGHT, "skylake"), of, name) for of in (event, nothing))
        assert calm_large == WEIGHT * calm
        assert large <= WEIGHT * small
        if event is flush:  # the same pages are accessed from the same entries
            assert large - calm_large <= PAGES + small


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize(("event", "sizes"), [(flush, ""), (flush, "2048"), (collapse, ""), (split, "2048")])
def test_a_shadow_tlb_changes_nothing(core: str, event: Callable[[Machine], None], sizes: str) -> None:
    machines = [begun(WEIGHT, core, sizes, shadow_tlb=shadow) for shadow in (False, True)]
    for machine in machines:
        event(machine)
        machine.run()
    for name in ("dtlb_l1_miss", "dtlb_l2_miss", "walk_ref_pgd", "walk_ref_pmd", "walk_cycles"):
        assert machines[0].counters[name] == machines[1].counters[name]


def test_with_small_pages_the_shadow_tlb_is_the_tlb() -> None:
    machine = begun(WEIGHT, "skylake", shadow_tlb=True)
    flush(machine)
    machine.run()
    for name, shadow in (("dtlb_l2_miss", "shadow_l2_miss"), ("walk_cycles", "shadow_walk_cycles")):
        assert machine.counters[name] == machine.counters[shadow]


def test_what_comes_back_is_young() -> None:
    machine = begun(WEIGHT, "skylake")
    mm, addresses = machine.process("P")[0], np.arange(*ends_of(machine, "a"), PAGE, dtype=np.uint64)
    machine.test_and_clear_young(mm, addresses)
    flush(machine)
    machine.run(accesses=1)
    assert (machine.test_and_clear_young(mm, addresses) & YOUNG_ACCESSED).astype(bool).all()


def test_a_new_page_in_the_place_of_a_lost_one_is_not_accessed() -> None:
    """A fault brings a folio of 64K in the place of 16 lost pages; an access is of one of them."""
    machine = begun(WEIGHT, "skylake", write=1)
    start, _ = ends_of(machine, "a")
    assert machine.decide_range(machine.process("P")[0], start, start + 65536, Verb.ADVISE, ADVICE["dontneed"]) == 0
    machine.set_thp(4, "always")
    for _ in range(TURNS):
        machine.run(accesses=1)
        if pages_of(machine, "a")[0]["kind"] == KIND_FOLIO:
            break
    pages = pages_of(machine, "a")[:16]
    assert (pages["order"] == 4).all()
    assert int(((pages["flags"] & LAYOUT_TOUCHED) != 0).sum()) == 1


def test_a_run_that_is_cut_and_saved_is_the_same() -> None:
    whole, cut = begun(WEIGHT, "zen4"), begun(WEIGHT, "zen4")
    for machine in (whole, cut):
        flush(machine)
    cut.load(cut.save())
    whole.run()
    while cut.position[0] < len(cut.program.ops):
        cut.run(accesses=97)
    assert cut.save() == whole.save()


def test_accesses_do_not_count_twice() -> None:
    machine = begun(WEIGHT, "skylake")
    assert missed(machine, flush, "accesses") == WEIGHT * TURNS
