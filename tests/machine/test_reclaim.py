"""Reclaim: under a memory limit, when memory runs out, and what each chooses to keep (R34-R39, mm/vmscan.c)."""

from __future__ import annotations

import pytest
from support.machines import machine_of, orders_of, pages_of

from thp_env.conformance import FLUSH_TIME
from thp_env.machine import KIND_FOLIO, KIND_SWAP, LAYOUT_DIRTY, LAYOUT_SWAPCACHE, Machine, Status
from thp_env.traces import parse_program

MIB = 1 << 20


def run(text: str) -> Machine:
    """Run a program whose system calls may fail."""
    machine = machine_of(text, flush_time=FLUSH_TIME)
    assert machine.run(go_on=True) == Status.DONE
    machine.validate()
    return machine


def resident(machine: Machine) -> int:
    return machine.counters["nr_resident"] * 4096


def test_without_swap_a_limit_that_is_too_low_is_refused_and_nothing_changes():
    machine = run("mmap a 1M\nwrite a 0 1M\nlimit 512K\n")
    assert machine.error == 16  # EBUSY
    assert resident(machine) == MIB
    machine = run("mmap a 1M\nwrite a 0 1M\nlimit 512K\nwrite a 0 4K\nmmap b 1M\nwrite b 0 1M\n")
    assert resident(machine) == 2 * MIB  # the old limit, none, is still in force


def test_a_fault_at_the_limit_without_swap_ends_in_an_oom_kill():
    program = parse_program("mmap a 4M\nlimit 1M\nwrite a 0 4M\nwrite a 0 4K\n")
    machine = machine_of(program)
    assert machine.run() == Status.OOM
    assert machine.counters["oom_kill"] == 1
    assert resident(machine) == MIB
    machine.validate()


def test_memory_that_runs_out_is_reclaimed_before_anybody_is_killed():
    machine = machine_of(parse_program("swap 64M\nmmap a 24M\nwrite a 0 24M\nread a 0 24M\n"), memory=16 * MIB)
    assert machine.run() == Status.DONE
    counters = machine.counters
    assert counters["allocstall"] > 0
    assert counters["pswpout"] >= 2 * (8 * MIB // 4096)  # once on the way up, once when the start is read again
    assert counters["oom_kill"] == 0
    machine.validate()


def test_what_is_used_again_gets_a_second_chance():
    """Two halves of 8M, written alike; one is read again and again while a third region asks for memory."""
    touch = "read hot 0 4M\nread new 0 4K\n"
    text = "swap 64M\nmmap hot 4M\nmmap cold 4M\nmmap new 4M\nwrite hot 0 4M\nwrite cold 0 4M\nlimit 9M\n"
    for offset in range(0, 4 * MIB, 256 * 1024):
        text += touch + f"write new {offset} 256K\n"
    machine = run(text)
    kinds = {name: machine.pagemap(0, *machine.region(name))["kind"] for name in ("hot", "cold")}
    swapped = {name: int((kind == KIND_SWAP).sum()) for name, kind in kinds.items()}
    assert swapped["cold"] > 4 * swapped["hot"], swapped


@pytest.mark.parametrize(
    ("advice", "defrag", "large"),
    [("hugepage", "madvise", True), ("normal", "madvise", False), ("normal", "always", True),
     ("hugepage", "never", False)],
)  # fmt: skip
def test_who_waits_for_reclaim_to_make_room_for_a_large_folio(advice, defrag, large):
    """vma_thp_gfp_mask: without direct reclaim the charge fails at the limit, and single pages are used."""
    text = f"swap 64M\nset defrag {defrag}\nthp 64 always\nmmap a 4M\nadvise a 0 4M {advice}\nlimit 1M\nwrite a 0 4M\n"
    machine = run(text)
    counters = machine.counters
    failed = counters.stat("anon_fault_fallback_charge", 4)
    assert (failed == 0) == large
    assert counters.stat("anon_fault_fallback", 4) == failed
    assert (counters.stat("anon_fault_alloc", 4) == 64) == large
    machine.validate()


def test_reclaim_splits_partially_mapped_folios_even_without_swap():
    """R19, R39: their unmapped pages are all that can be had; the shrinker's do not count as reclaimed, so the first
    attempt to set the limit fails, and the next finds what it needs."""
    text = "thp 64 always\nmmap a 4M\nfill a 0 4M\n"
    text += "".join(f"advise a {offset} 32K dontneed\n" for offset in range(0, 4 * MIB, 64 * 1024))
    before, after = run(text), run(text + "limit 2M\nlimit 2M\n")
    assert resident(before) == 4 * MIB
    assert resident(after) <= 2 * MIB
    assert after.error == 0
    assert after.counters.stat("split", 4) > 0
    assert after.counters["pswpout"] == 0


def test_swappiness_zero_keeps_anonymous_memory_under_a_limit():
    text = "swap 64M\nmmap a 1M\nwrite a 0 1M\nswappiness {}\nlimit 512K\n"
    assert run(text.format(0)).error == 16
    assert run(text.format(60)).error == 0


def test_swapoff_brings_everything_back_as_single_pages():
    """R43, s20"""
    text = "swap 64M\nthp 64 always\nmmap a 1M\nwrite a 0 1M\nadvise a 0 1M pageout\nfork C\nswapoff\n"
    machine = run(text)
    pages = machine.pagemap(0, *machine.region("a"))
    assert (pages["kind"] == KIND_FOLIO).all()
    assert (pages["order"] == 0).all()
    assert (pages["mapcount"] == 2).all()
    assert machine.counters["pswpin"] == 256
    machine.validate()
    assert run(text + "in C swapoff\n").error == 22  # there is none any more
    assert run(text + "swap 1M\n").error == 0


def test_swapoff_fails_when_memory_does_not_suffice():
    program = parse_program("swap 64M\nmmap a 24M\nwrite a 0 24M\nswapoff\n")
    machine = machine_of(program, memory=16 * MIB)
    machine.run(go_on=True)
    assert machine.error == 12
    machine.validate()


def test_a_page_that_returns_within_the_working_set_is_active_at_once():
    """mm/workingset.c: MADV_PAGEOUT is measured against the whole system."""
    text = "swap 64M\nmmap a 64K\nwrite a 0 64K\nadvise a 0 64K pageout\nread a 0 64K\n"
    counters = run(text).counters
    assert counters["workingset_refault_anon"] == 16
    assert counters["workingset_activate_anon"] == 16


def held_by(machine: Machine, *processes: str, region: str = "a") -> list[bool]:
    """Whether each process still maps the first page of a region."""
    pages = [machine.pagemap(machine.process(name)[0], *machine.region(region)) for name in processes]
    return [page["kind"][0] == KIND_FOLIO for page in pages]


@pytest.mark.parametrize("size", [4, 64])
def test_r32_reclaim_that_finds_a_lazily_freed_page_written_to_makes_it_dirty(size):
    """The parent's entry is dirty, so the page stays, dirty: while two processes map it MADV_FREE lets it be then."""
    text = f"swap 64M\nthp 64 always\nmmap a 64K\nfill a 0 {size}K\nfork C\nin C advise a 0 {size}K free\nreclaim\n"
    text = text if size == 64 else text.replace("thp 64 always\n", "")
    once, again = run(text), run(text + f"in C advise a 0 {size}K free\n")
    assert once.counters["pglazyfree"] == again.counters["pglazyfree"] == size // 4
    assert once.counters["pglazyfreed"] == once.counters["pswpout"] == 0
    assert held_by(again, "P", "C") == [True, True]
    assert run(text.replace("reclaim\n", "in C advise a 0 4K free\n")).counters["pglazyfree"] == size // 4


@pytest.mark.parametrize(
    ("between", "left"),
    [
        ("advise a 0 4K free", [False, True, True]),  # the parent's, then comes the first child's, which is dirty
        ("in D advise a 0 4K free", [True, True, True]),  # the parent's is dirty and comes first
        ("advise a 0 4K free\nin D advise a 0 4K free", [False, True, True]),
        ("advise a 0 4K free\nin C advise a 0 4K free", [False, False, True]),
        # A VMA that was cut comes last, also when it is whole again.
        ("mprotect a 8K 4K r\nin C advise a 0 4K free\nin D advise a 0 4K free", [True, False, False]),
        ("mprotect a 8K 4K r\nmprotect a 8K 4K rw\nin C advise a 0 4K free", [True, False, True]),
        # A VMA that starts elsewhere comes by its first page.
        ("in C munmap a 4K 4K\nin C advise a 0 4K free\nadvise a 0 4K free", [False, True, True]),
    ],
)
def test_r32_lazily_freed_mappings_go_in_the_order_of_the_vmas_up_to_one_that_was_written_to(between, left):
    machine = run(f"swap 64M\nmmap a 64K\nfill a 0 4K\nfork C\nfork D\n{between}\nreclaim\n")
    assert held_by(machine, "P", "C", "D") == left
    assert machine.counters["pglazyfreed"] == 0


def test_r32_a_lazily_freed_folio_with_a_hole_loses_what_lies_before_the_first_page_written_to():
    """Two batches of entries, before and behind the hole; the second holds page 12. What is left is split (R19)."""
    text = "swap 64M\nthp 64 always\nmmap a 64K\nfill a 0 64K\nadvise a 0 64K free\nadvise a 16K 16K dontneed\n"
    machine = run(text + "write a 48K 4K\nreclaim\n")
    assert orders_of(machine, "a") == [None] * 8 + [0] * 8
    assert machine.counters.stat("split_deferred", 4) == machine.counters.stat("split", 4) == 1
    machine = run(text + "write a 4K 4K\nreclaim\n")  # now the first does, so both stay
    assert orders_of(machine, "a") == [0] * 4 + [None] * 4 + [0] * 8


def test_a_page_in_the_swap_cache_that_was_written_to_is_written_again():
    """pageout: MADV_WILLNEED reads 16 pages into the cache, reading maps them, writing makes three dirty."""
    text = "swap 64M\nmmap a 64K\nfill a 0 64K\nadvise a 0 64K pageout\nadvise a 0 64K willneed\nread a 0 64K\n"
    clean, dirty = run(text), run(text + "write a 16K 12K\n")
    assert clean.counters["pswpout"] == dirty.counters["pswpout"] == 16
    assert run(text + "advise a 0 64K pageout\n").counters["pswpout"] == 16
    assert run(text + "write a 16K 12K\nadvise a 0 64K pageout\n").counters["pswpout"] == 16 + 3


@pytest.mark.parametrize(("slots", "cached"), [(63, True), (31, False)])
def test_where_more_than_half_of_the_swap_is_used_a_page_that_is_read_leaves_the_cache(slots, cached):
    """vm_swap_full: 16 pages are more than half of 31 slots, and less than half of 63."""
    text = f"swap {4 * (slots + 1)}K\nmmap a 64K\nfill a 0 64K\nadvise a 0 64K pageout\nadvise a 0 64K willneed\n"
    page = pages_of(run(text + "read a 0 4K\n"), "a")
    assert bool(page["flags"][0] & LAYOUT_SWAPCACHE) == cached


@pytest.mark.parametrize(("protection", "dirty"), [("0 64K", [True] * 16), ("0 16K", [True] * 4 + [False] * 12)])
def test_mprotect_makes_all_entries_of_a_folio_that_it_changes_dirty_when_one_is(protection, dirty):
    """modify_prot_start_ptes: a lazily freed folio, of which one page was written to."""
    text = "thp 64 always\nmmap a 64K\nfill a 0 64K\nadvise a 0 64K free\nwrite a 8K 4K\n"
    pages = pages_of(run(text), "a")
    assert [bool(f & LAYOUT_DIRTY) for f in pages["flags"]] == [i == 2 for i in range(16)]
    pages = pages_of(run(text + f"mprotect a {protection} r\n"), "a")
    assert [bool(f & LAYOUT_DIRTY) for f in pages["flags"]] == dirty


def test_a_page_leaves_the_swap_cache_with_its_last_mapping():
    """free_swap_cache: both processes have read the page back, so that no entry refers to its slot any more."""
    text = "swap 8M\nmmap a 64K\nfill a 0 64K\nfork C\nreclaim\nread a 0 4K\nin C read a 0 4K\n"
    machine = run(text)
    assert pages_of(machine, "a")["flags"][0] & LAYOUT_SWAPCACHE
    held = machine.counters["nr_resident"]
    assert run(text + "in P munmap a 0 4K\n").counters["nr_resident"] == held
    gone = run(text + "in P munmap a 0 4K\nin C munmap a 0 4K\n").counters["nr_resident"]
    assert gone == held - 2  # the page, and the one that zRAM kept of it


@pytest.mark.parametrize("advice", ["", "advise a 0 64K free\n"])
def test_pinned_pages_that_nobody_maps_stay(advice):
    """Nothing leads from such a page to VMAs (folio_lock_anon_vma_read), and who pinned it still holds it."""
    text = f"swap 8M\nmmap a 64K\nfill a 0 64K\npin a 0 64K\n{advice}munmap a 0 64K\nreclaim\n"
    machine = run(text)
    assert machine.counters["nr_resident"] == 16
    assert machine.counters["pglazyfreed"] == machine.counters["pswpout"] == 0
    assert run(text + "unpin\n").counters["nr_resident"] == 0


@pytest.mark.parametrize("free", [12, 16, 22])
def test_reclaim_goes_on_while_it_makes_progress(free):
    """Switching 2M on lifts the min watermark to 22 MiB: what is missing takes more than 16 rounds of 32 pages."""
    full = f"{512 - free}M"
    text = f"swap 512M\nmmap o {full}\nwrite o 0 {full} content=50\n"
    machine = machine_of(text + "thp 2048 madvise\nmmap a 4K\nwrite a 0 4K\n", memory=512 * MIB)
    assert machine.run() == Status.DONE
    assert machine.free_pages > machine.watermarks[0]
    assert machine.counters["oom_kill"] == 0
    machine.validate()


def test_memory_that_nothing_could_be_reclaimed_of_ends_in_an_oom_at_once():
    """Random data takes as much memory in zRAM as it did before."""
    machine = machine_of("swap 64M\nmmap a 24M\nfill a 0 24M\n", memory=16 * MIB)
    assert machine.run() == Status.OOM
    machine.validate()
