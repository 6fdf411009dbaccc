"""Rules R1 to R21 by hand, where the recordings show only one case or none."""

from __future__ import annotations

import pytest
from support.machines import KIND_FOLIO, PAGE, machine_of, orders_of, pages_of, rss, run

from thp_env.machine import KIND_GUARD, KIND_HUGE_ZERO, KIND_ZERO, LAYOUT_PMD, Machine, MachineConfig, Status, layout
from thp_env.traces import ProgramBuilder, parse_program
from thp_env.traces.text import add_line

pytestmark = pytest.mark.sanitize

KB = {order: 4 << order for order in layout.ORDERS}


def kinds_of(machine, region="a"):
    return [int(k) for k in pages_of(machine, region)["kind"]]


def as_booted(text):
    """A machine with the settings that Linux boots with."""
    machine = Machine(parse_program(text), MachineConfig(memory=64 << 20))
    machine.run()
    return machine


# -- R1 to R7: which order a fault gets ----------------------------------------------------------


@pytest.mark.parametrize("mode", layout.THP_MODES)
@pytest.mark.parametrize("advice", ["normal", "hugepage", "nohugepage"])
@pytest.mark.parametrize("enabled", ["always", "madvise", "never"])
@pytest.mark.parametrize("disable", ["prctl 0", "prctl 1", "prctl 1 2"])
def test_r1_modes_flags_and_prctl(mode, advice, enabled, disable):
    machine = run(
        f"set enabled {enabled}\nthp 64 {mode}\n{disable}\nmmap a 64K\nadvise a 0 64K {advice}\nwrite a 0 4K\n"
    )
    effective = enabled if mode == "inherit" else mode
    allowed = advice != "nohugepage" and (effective == "always" or (effective == "madvise" and advice == "hugepage"))
    if disable == "prctl 1" or (disable == "prctl 1 2" and advice != "hugepage"):
        allowed = False
    assert orders_of(machine, "a")[0] == (4 if allowed else 0)


def test_r1_linux_boots_with_2m_by_madvise_only():
    text = "mmap a 2M\n{}write a 0 4K\n"
    assert orders_of(as_booted(text.format("")), "a")[0] == 0
    assert orders_of(as_booted(text.format("advise a 0 2M hugepage\n")), "a")[0] == 9


@pytest.mark.parametrize("order", layout.ORDERS)
def test_r5_each_order_by_itself(order):
    machine = run("mmap a 2M\nwrite a 68K 4K\n", str(KB[order]))
    size = 1 << order
    start = 17 // size * size
    expected = [order if start <= i < start + size else None for i in range(512)]
    assert orders_of(machine, "a") == expected
    counters = machine.counters
    for other in layout.ORDERS:
        assert counters.stat("anon_fault_alloc", other) == counters.stat("nr_anon", other) == (other == order)
    assert counters["pgfault"] == machine.process("P")[2] == 1
    assert rss(machine) == size
    assert counters["thp_fault_alloc"] == (order == 9)


def test_r2_the_pmd_path_needs_the_whole_block():
    machine = run("mmap a 4M offset=4K\nwrite a 0 4M\n", "2048")
    assert [orders_of(machine, "a")[i] for i in (0, 510, 511, 1022, 1023)] == [0, 0, 9, 9, 0]


def test_r2_a_table_never_goes_back_to_the_pmd_path():
    machine = run("mmap a 2M\nwrite a 0 4K\nadvise a 0 4K dontneed\nthp 2048 always\nwrite a 0 4K\n")
    assert orders_of(machine, "a")[0] == 0


@pytest.mark.parametrize(("part", "order"), [("0 2M", 9), ("0 2044K", 0), ("4K 2044K", 0)])
def test_r3_dontneed_of_the_whole_block_frees_the_table(part, order):
    machine = run(f"mmap a 2M\nwrite a 0 4K\nadvise a {part} dontneed\nthp 2048 always\nwrite a 1M 4K\n")
    assert orders_of(machine, "a")[256] == order


def test_r3_only_the_blocks_inside_are_freed():
    text = "mmap a 6M\nwrite a 0 6M 2M\nadvise a 1M 4M dontneed\nthp 2048 always\n"
    machine = run(text + "write a 1M 4K\nwrite a 2M 4K\nwrite a 5M 4K\n")
    assert [orders_of(machine, "a")[i] for i in (256, 512, 1280)] == [0, 9, 0]


def test_r4_descends_to_the_first_empty_block():
    machine = run("mmap a 1M\nwrite a 0 4K\nthp 16 always\nthp 64 always\nthp 256 always\nwrite a 252K 4K\n")
    # 256K holds page 0; the 64K block of page 63 is empty.
    assert orders_of(machine, "a")[:64] == [0] + [None] * 47 + [4] * 16


@pytest.mark.parametrize("blocker", ["read a 32K 4K", "advise a 32K 4K guard_install", "write a 32K 4K"])
def test_r4_anything_in_the_block_blocks_it(blocker):
    machine = run(f"mmap a 64K\n{blocker}\nthp 16 always\nthp 64 always\nwrite a 0 4K\n")
    assert orders_of(machine, "a")[:4] == [2] * 4
    assert orders_of(machine, "a")[4:8] == [None] * 4


def test_r4_no_shifted_block_is_searched():
    machine = run("mmap a 64K\nwrite a 4K 4K\nthp 16 always\nwrite a 8K 4K\n")
    assert orders_of(machine, "a")[:4] == [None, 0, 0, None]


def test_r6_a_failed_allocation_counts_and_falls_back():
    """Every other page of a full machine is given back: no block above order 0 is free."""
    start = "mmap b 4M\nread b 0 4K\nmmap a 16M\n"
    full = machine_of(start + "write a 0 16M\n", memory=16 << 20, min_free_kbytes=0)
    assert full.run() == Status.OOM
    pages = rss(full)
    holes = "".join(f"advise a {4 * i}K 4K dontneed\n" for i in range(0, pages, 2))
    text = start + f"write a 0 {4 * pages}K\n{holes}thp 16 always\nthp 64 always\nthp 2048 always\n"
    machine = run(text + "write b 1M 4K\nwrite b 2M 4K\n", memory=16 << 20, min_free_kbytes=0)
    assert machine.buddyinfo()[1:] == [0] * 10
    assert machine.buddyinfo()[0] > 0
    assert orders_of(machine, "b")[256] == orders_of(machine, "b")[512] == 0
    counters = machine.counters
    # The first block has a table: 64K, 16K. The second starts with 2M.
    assert [counters.stat("anon_fault_fallback", o) for o in layout.ORDERS] == [2, 0, 2, 0, 0, 0, 0, 1]
    assert counters["thp_fault_fallback"] == 1
    assert counters["anon_fault_fallback_charge"] == counters["anon_fault_alloc"] == 0


def test_r6_what_does_not_fit_is_silent():
    machine = run("mmap a 60K\nwrite a 0 60K\n", "64 2048")
    assert machine.counters["anon_fault_fallback"] == machine.counters["thp_fault_fallback"] == 0


def test_r7_settings_never_touch_existing_folios():
    machine = run("mmap a 128K\nwrite a 0 4K\nthp 64 never\nwrite a 64K 4K\n", "64")
    assert orders_of(machine, "a") == [4] * 16 + [0] + [None] * 15


# -- R8 to R12: read faults and the zero page ----------------------------------------------------


def test_r8_a_read_maps_one_zero_page():
    machine = run("mmap a 64K\nread a 0 8K\n", "64")
    assert kinds_of(machine) == [KIND_ZERO] * 2 + [0] * 14
    assert rss(machine) == 0
    assert machine.process("P")[2] == 2
    assert machine.counters["nr_resident"] == 0


@pytest.mark.parametrize(("use", "kind"), [(1, KIND_HUGE_ZERO), (0, KIND_FOLIO)])
def test_r9_a_read_of_a_whole_block(use, kind):
    machine = run(f"set use_zero_page {use}\nmmap a 2M\nread a 0 2M\n", "2048")
    assert set(kinds_of(machine)) == {kind}
    assert machine.process("P")[2] == 1
    assert rss(machine) == (0 if use else 512)
    assert set(pages_of(machine, "a")["flags"] & LAYOUT_PMD) == {LAYOUT_PMD}


def test_r10_a_write_to_a_zero_page_copies_one_page_and_it_blocks_its_blocks():
    machine = run("mmap a 64K\nread a 0 4K\nwrite a 0 8K\n", "64")
    assert orders_of(machine, "a") == [0, 0] + [None] * 14
    machine = run("mmap a 64K\nread a 0 4K\nadvise a 0 4K dontneed\nwrite a 0 8K\n", "64")
    assert orders_of(machine, "a") == [4] * 16


def test_r11_a_write_to_the_huge_zero_page_ignores_settings():
    machine = run("mmap a 2M\nread a 0 4K\nthp 2048 never\nadvise a 0 2M nohugepage\nwrite a 0 4K\n", "2048")
    assert orders_of(machine, "a") == [9] * 512
    assert machine.process("P")[2] == 2


def test_r11_the_translation_of_the_huge_zero_page_goes():
    """A read leaves one in the TLB; populate replaces the page behind it."""
    machine = run("mmap a 2M\nread a 0 4K\nadvise a 0 4K populate_write\nread a 0 4K\n", "2048")
    assert machine.counters["dtlb_l2_miss"] == 2
    assert machine.counters["nr_untouched"] == 511


@pytest.mark.parametrize("cut", ["advise a 1M 4K dontneed", "mprotect a 1M 4K r", "munmap a 1M 4K"])
def test_r11_a_cut_makes_512_zero_pages(cut):
    machine = run(f"mmap a 2M\nread a 0 4K\n{cut}\n", "2048")
    gone = 0 if not cut.startswith("mprotect") else KIND_ZERO
    assert kinds_of(machine) == [KIND_ZERO] * 256 + [gone] + [KIND_ZERO] * 255
    assert machine.counters["thp_split_pmd"] == 1


# -- R13 to R18: unmapping -----------------------------------------------------------------------


@pytest.mark.parametrize("order", layout.ORDERS)
@pytest.mark.parametrize("how", ["munmap", "dontneed"])
def test_r14_the_first_hole_flags_the_folio_once(order, how):
    size = KB[order]
    cut = [f"munmap a {i * 4}K 4K" if how == "munmap" else f"advise a {i * 4}K 4K dontneed" for i in (0, 2)]
    text = "mmap a 2M\nwrite a 0 4K\n"
    pages = size // 4
    for n in (1, 2):
        machine = run(text + "\n".join(cut[:n]) + "\n", str(size))
        counters = machine.counters
        assert counters.stat("split_deferred", order) == 1
        assert counters.stat("nr_anon_partially_mapped", order) == counters.stat("nr_anon", order) == 1
        assert counters["thp_deferred_split_page"] == (order == 9)
        assert rss(machine) == pages - n
        assert counters["nr_resident"] == pages  # R18
        assert counters["nr_unmapped"] == n


def test_r15_a_whole_folio_in_one_batch_is_never_queued():
    counters = run("mmap a 64K\nwrite a 0 4K\nmunmap a 0 64K\n", "64").counters
    assert counters["split_deferred"] == counters["nr_anon"] == counters["nr_resident"] == 0


def test_r15_in_several_batches_it_is_queued_first():
    """mprotect cuts the VMA, so one munmap zaps the folio in two batches."""
    counters = run("mmap a 64K\nwrite a 0 4K\nmprotect a 0 32K r\nmunmap a 0 64K\n", "64").counters
    assert counters.stat("split_deferred", 4) == 1
    assert counters["nr_anon"] == counters["nr_anon_partially_mapped"] == counters["split"] == 0


@pytest.mark.parametrize(
    "cut", ["mprotect a 1M 4K r", "mlock a 1M 4K", "orders a 1M 4K 1", "advise a 1M 4K nohugepage"]
)
def test_r17_a_change_of_a_part_splits_the_pmd_not_the_folio(cut):
    machine = run(f"mmap a 2M\nwrite a 0 4K\n{cut}\n", "2048")
    assert orders_of(machine, "a") == [9] * 512
    assert not (pages_of(machine, "a")["flags"] & LAYOUT_PMD).any()
    counters = machine.counters
    assert counters["thp_split_pmd"] == 1
    assert counters["split_deferred"] == counters["split"] == 0


def test_r17_a_remap_of_a_part_keeps_the_folio():
    machine = run("mmap a 2M\nwrite a 0 4K\nmremap a 1M 4K b\n", "2048")
    assert machine.counters["split_deferred"] == 0
    assert int(pages_of(machine, "b")["index"][0]) == 256


def test_a_whole_block_moves_as_a_whole():
    machine = run("mmap a 2M\nwrite a 0 4K\nmremap a 0 2M b\nmremap b 0 2M c 2M 4K\n", "2048")
    assert machine.counters["thp_split_pmd"] == 1  # the second target is out of line
    assert orders_of(machine, "c") == [9] * 512


def test_r18_a_fault_into_the_hole_takes_smaller_blocks():
    machine = run("mmap a 64K\nwrite a 0 4K\nadvise a 16K 16K dontneed\nthp 16 always\nwrite a 16K 4K\n", "64")
    assert orders_of(machine, "a") == [4] * 4 + [2] * 4 + [4] * 8
    assert machine.counters["nr_resident"] == 20


# -- R19 to R21: splitting -----------------------------------------------------------------------


def test_r19_the_shrinker_splits_only_what_is_partially_mapped():
    text = "mmap a 128K\nfill a 0 128K\nadvise a 0 4K dontneed\nshrink\n"
    machine = run(text, "64")
    assert orders_of(machine, "a") == [None] + [0] * 15 + [4] * 16
    counters = machine.counters
    assert counters.stat("split", 4) == counters.stat("nr_anon", 4) == 1
    assert counters["nr_anon_partially_mapped"] == counters["nr_unmapped"] == 0
    assert counters["nr_resident"] == 31


def test_r20_zero_pages_of_a_split_folio_become_the_zero_page():
    text = "mmap a 64K\nwrite a 0 4K\nadvise a 60K 4K dontneed\n{}shrink\n"
    machine = run(text.format(""), "64")
    assert kinds_of(machine) == [KIND_FOLIO] + [KIND_ZERO] * 14 + [0]
    assert rss(machine) == machine.counters["nr_resident"] == 1
    machine = run(text.format("set use_zero_page 0\n"), "64")
    assert kinds_of(machine)[1] == KIND_ZERO
    machine = run(text.format("mlock a 0 60K\n"), "64")
    assert kinds_of(machine) == [KIND_FOLIO] * 15 + [0]


@pytest.mark.parametrize(
    ("cut", "locks", "kept"), [("PCD", "P", "PCD"), ("PCD", "C", "CD"), ("PCD", "D", "D"), ("DCP", "C", "PC")]
)
def test_r20_a_locked_vma_keeps_a_zero_page_for_itself_and_the_vmas_after_it(cut, locks, kept):
    """remove_migration_ptes goes from the VMA that was cut first to the last; one that is locked locks the page."""
    text = "set khugepaged/max_ptes_none 100\nmmap a 2M\nwrite a 0 4K\nfork C\nfork D\n"
    text += "".join(f"in {p} mprotect a 64K 256K r\n" for p in cut) + f"in {locks} mlock a 64K 256K\nshrink\n"
    machine = run(text, "2048")
    assert "".join(p for p in "PCD" if pages_of(machine, "a", p)["kind"][20] == KIND_FOLIO) == kept
    assert all(pages_of(machine, "a", p)["kind"][100] == KIND_ZERO for p in "PCD")


def test_r20_a_page_written_back_to_zero_counts_as_zero():
    text = "mmap a 64K\nfill a 0 64K\nwritez a 8K 8K\nwrite a 8K 4K\nwritez a 8K 4K\nadvise a 0 4K dontneed\nshrink\n"
    machine = run(text, "64")
    # One zero byte does not clear a page full of data.
    assert kinds_of(machine) == [0] + [KIND_FOLIO] * 15
    machine = run(text.replace("fill a 0 64K", "write a 0 64K"), "64")
    assert kinds_of(machine) == [0, KIND_FOLIO] + [KIND_ZERO] * 2 + [KIND_FOLIO] * 12


def test_e2_split_of_whole_folios_counts_as_r21_says():
    """PTE mapped: split_deferred, too; PMD mapped: only the split of the PMD and of the folio."""
    counters = run("mmap a 64K\nfill a 0 64K\nsplit a 0 4K\n", "64").counters
    assert counters.stat("split", 4) == counters.stat("split_deferred", 4) == 1
    machine = run("mmap a 2M\nfill a 0 2M\nsplit a 0 4K\n", "2048")
    counters = machine.counters
    assert counters.stat("split", 9) == counters["thp_split_page"] == counters["thp_split_pmd"] == 1
    assert counters.stat("split_deferred", 9) == counters["thp_deferred_split_page"] == 0
    assert orders_of(machine, "a") == [0] * 512


def test_e2_split_covers_the_named_range_only():
    machine = run("mmap a 256K\nfill a 0 256K\nsplit a 64K 68K\n", "64")
    assert orders_of(machine, "a") == [4] * 16 + [0] * 32 + [4] * 16


def test_e1_a_mask_is_intersected_with_the_settings():
    text = "mmap a 2M\norders a 0 2M {}\nwrite a 0 4K\n"
    sizes = "16 64"
    assert orders_of(run(text.format(1 << 2), sizes), "a")[0] == 2
    assert orders_of(run(text.format(1 << 5), sizes), "a")[0] == 0
    assert orders_of(run(text.format(1), sizes), "a")[0] == 0
    assert orders_of(run(text.format(0), sizes), "a")[0] == 4


def test_e1_masks_keep_vmas_apart_and_survive_a_cut():
    machine = run("mmap a 192K\norders a 0 64K 4\norders a 64K 64K 16\nmunmap a 16K 4K\n")
    masks = [(v.pages, v.orders) for v in machine.vmas()]
    assert masks == [(4, 4), (11, 4), (16, 16), (16, 0)]


def test_e1_what_makes_a_vma_longer_takes_its_mask():
    machine = run("brk heap 64K\norders heap 0 64K 4\nbrk heap 128K\n")
    assert [(v.pages, v.orders) for v in machine.vmas()] == [(32, 4)]


def test_guards_stop_accesses_and_can_be_removed():
    machine = run("mmap a 64K\nadvise a 4K 4K guard_install\nread a 0 8K\n", status=Status.ERROR)
    assert machine.error == 14
    assert kinds_of(machine)[:2] == [KIND_ZERO, KIND_GUARD]
    machine = run("mmap a 64K\nadvise a 4K 4K guard_install\nadvise a 4K 4K guard_remove\nwrite a 0 8K\n")
    assert rss(machine) == 2


@pytest.mark.parametrize(
    ("line", "errno"),
    [
        ("write a 64K 4K", 14),
        ("munmap a 64K 4K", 0),
        ("mprotect a 60K 8K r", 12),
        ("advise a 60K 8K dontneed", 12),
        ("mlock a 60K 8K", 12),
        ("advise a 0 4K normal", 0),
    ],
)
def test_errors_are_those_of_linux(line, errno):
    b = ProgramBuilder(checked=False)
    add_line(b, "mmap a 64K")
    add_line(b, line)
    machine = machine_of(b.build())
    machine.run(go_on=True, ops=1)
    machine.run(go_on=True, ops=1)
    assert machine.error == errno
    machine.validate()


def test_a_protection_fault_is_an_error_and_memory_returns_with_the_protection():
    machine = run("mmap a 8K\nwrite a 0 8K\nmprotect a 0 4K r\nwrite a 0 4K\n", status=Status.ERROR)
    assert machine.error == 14
    machine = run("mmap a 8K\nwrite a 0 8K\nmprotect a 0 4K none\nmprotect a 0 4K rw\nwrite a 0 8K\n")
    assert machine.process("P")[2] == 2  # R29: no fault


def test_memory_that_runs_out_is_reported():
    machine = machine_of("mmap a 32M\nwrite a 0 32M\n", memory=16 << 20)
    assert machine.run() == Status.OOM
    machine.validate()
    assert machine.free_pages == machine.watermarks[0]
    assert machine.position == (1, rss(machine))
    assert rss(machine) * PAGE < 16 << 20
